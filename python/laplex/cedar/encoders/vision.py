"""Vision models of transformers, such as DINOv2: their patches, at any layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laplex._support.arguments import one_of, whole

from .images import ImageLike, Images, as_rgb, check_images
from .transformers_models import TransformersEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

Tokens = Literal["patches", "cls", "mean"]


class VisionEncoder(TransformersEncoder):
    """Embeds images, or each of their patches, by a vision model of transformers.

    Parameters
    ----------
    model : PreTrainedModel
        Any model that takes ``pixel_values`` and returns hidden states: DINOv2, DINOv3, ViT, Swin,
        ResNet, ConvNeXt and others. Of a model with several parts, such as CLIP, SigLIP or BLIP,
        its ``vision_model`` is used.
    processor : image processor, or a processor that has one
        The preprocessing that belongs to the model.
    normalize : bool
        Whether to divide each row by its length.
    tokens : {"patches", "cls", "mean"}
        "patches" gives a row for each patch, "cls" the class token of each image, and "mean" the
        mean of the patches of each image.
    layer : int, optional
        Number of the hidden states: 0 is the input of the first layer, 1 its output, and -1 the
        output of the last layer, which a ViT then normalises. By default, the output of the model.

    Notes
    -----
    With ``tokens="patches"``, ``encode_images`` returns ``[n * patches, d]``: image after image,
    and the patches of each from left to right and from top to bottom. Codes of them become maps of
    an axis by ``codes[:, axis].reshape(n, *encoder.grid(images[0]))``, to be laid over
    ``encoder.seen(images)``. Registers and class tokens are left out.

    SigLIP 2 models of variable resolution (NaFlex) cut each image into a grid of its own, so of
    them only ``tokens="mean"`` is available.
    """

    _auto_processor: ClassVar[str] = "AutoImageProcessor"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        normalize: bool,
        tokens: Tokens,
        layer: int | None = None,
    ) -> None:
        super().__init__(getattr(model, "vision_model", model), processor, normalize=normalize)
        self.tokens = one_of("tokens", tokens, Tokens)
        self.layer = None if layer is None else whole("layer", layer, -(10**6))

    def identity(self) -> dict[str, Any]:
        """Return what the base class does, the tokens and the layer."""
        return {**super().identity(), "tokens": self.tokens, "layer": self.layer}

    def grid(self, image: ImageLike) -> tuple[int, int]:
        """Return the numbers of rows and columns of patches of an image.

        Parameters
        ----------
        image : path, Pillow image or uint8 array
            An image. Where the processor makes all images one size, any will do.

        Returns
        -------
        tuple of int
            Rows and columns.
        """
        (checked,) = check_images([image])
        with torch.inference_mode():
            return self._states([as_rgb("image", checked)])[1]

    def seen(self, images: Images) -> npt.NDArray[np.uint8]:
        """Return images as the model sees them: resized and cropped, not normalised.

        Parameters
        ----------
        images : sequence or ndarray
            As in ``encode_images``.

        Returns
        -------
        ndarray of uint8 [n, height, width, 3]
        """
        pictures = [as_rgb(f"images[{i}]", one) for i, one in enumerate(check_images(images))]
        inputs = self._image_processor(
            images=pictures, return_tensors="pt", do_rescale=False, do_normalize=False
        )
        pixels: Tensor = inputs["pixel_values"]
        seen: npt.NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return seen

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        states, (height, width), mask = self._states(pictures)
        before = states.shape[1] - height * width  # the class token and registers
        if self.tokens == "cls":
            if before < 1:
                raise ValueError(
                    f"tokens='cls' needs a class token, which {type(self.model).__name__} does "
                    "not have: pass tokens='mean'"
                )
            return states[:, 0]
        patches = states[:, before:]
        if mask is not None:
            if self.tokens == "patches":
                raise ValueError(
                    "tokens='patches' needs the same patches in all images, but "
                    f"{type(self.model).__name__} has a grid for each: pass tokens='mean'"
                )
            weights = mask.to(patches.dtype)[:, :, None]
            return (patches * weights).sum(1) / weights.sum(1)
        return patches if self.tokens == "patches" else patches.mean(1)

    def _states(self, pictures: list[Image]) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        """Return hidden states [b, t, d], the grid of the patches, and which of them count."""
        inputs = self._inputs(pictures)
        output = self.model(**inputs, output_hidden_states=self.layer is not None)
        states: Tensor = output.last_hidden_state
        if self.layer is not None:
            layers = output.hidden_states
            if not -len(layers) <= self.layer < len(layers):
                raise ValueError(
                    f"layer must be in {-len(layers)}..{len(layers) - 1} for this model, got "
                    f"{self.layer}"
                )
            states = layers[self.layer]
        if states.ndim == 4:  # a convolutional network
            return states.flatten(2).mT, (states.shape[2], states.shape[3]), None
        mask = inputs.get("pixel_attention_mask")
        if mask is not None:
            return states, (1, states.shape[1]), mask
        sizes = inputs["pixel_values"].shape[-2:]
        patch = np.broadcast_to(self.model.config.patch_size, 2)
        height, width = (int(size) // int(one) for size, one in zip(sizes, patch, strict=True))
        while height * width > states.shape[1]:  # layers of Swin merge two by two
            height, width = height // 2, width // 2
        return states, (height, width), None
