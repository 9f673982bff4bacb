"""The models of open_clip."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import fingerprint
from .encoder import ImageEncoder, TextEncoder

if TYPE_CHECKING:
    from PIL.Image import Image


class OpenClipEncoder(ImageEncoder, TextEncoder):
    """Images and texts in one space, by a model of open_clip.

    Parameters
    ----------
    model : Module
        With ``encode_image`` and ``encode_text``; put into evaluation mode, and used on the device
        where it is.
    preprocess : callable
        Turns a Pillow image into a Tensor [3, h, w]; open_clip's for inference.
    tokenizer : callable
        Turns a list of texts into a Tensor of tokens [b, context]; cuts longer texts.
    normalize : bool
        Divide each row by its length, as for cosine similarities.

    Notes
    -----
    open_clip is no dependency of any extra: its torchvision must fit the torch that is installed.
    ``pip install open_clip_torch`` where it does.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Any], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        normalize: bool,
    ) -> None:
        super().__init__(normalize=normalize)
        self.model = model.eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        pretrained: str | None = None,
        *,
        normalize: bool,
        device: str | torch.device = "cpu",
    ) -> OpenClipEncoder:
        """Load a model with its weights.

        Parameters
        ----------
        name
            For instance "ViT-B-32", or "hf-hub:..." for one of the Hugging Face hub.
        pretrained
            The tag of its weights, "laion2b_s34b_b79k" for instance (``open_clip.list_pretrained``
            names them), or the path of a file. None for a name with "hf-hub:".
        normalize
            Divide each row by its length.
        device
            Where to run it.

        Raises
        ------
        ImportError
            Without open_clip: ``pip install open_clip_torch``.
        ValueError
            A name without weights.
        """
        if pretrained is None and not name.startswith("hf-hub:"):
            # There is a way to load it all the same: with random weights.
            raise ValueError(
                f"pretrained must name the weights of {name!r}: see open_clip.list_pretrained()"
            )
        open_clip = _open_clip()
        # Not create_model_and_transforms, which makes random weights where it finds none. The
        # device is not passed on: some versions hand it to the model's constructor.
        model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=pretrained)
        tokenizer = open_clip.get_tokenizer(name)
        return cls(model.to(device), preprocess, tokenizer, normalize=normalize)

    def identity(self) -> dict[str, Any]:
        """Weights, architecture, preprocessing, versions."""
        tokens = self.tokenizer(["a photo of a cat", "Zwölf (12) naïve façades, 3.5 €!"])
        return {
            "weights": fingerprint.of_weights(self.model),
            "architecture": repr(self.model),
            "preprocess": repr(self.preprocess),
            # Tokenizers have no common description; what they make of a text has to do.
            "tokenizer": [type(self.tokenizer).__name__, tokens.tolist()],
            "packages": fingerprint.of_packages("open_clip_torch", "pillow", "torchvision"),
        }

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        weight = next(self.model.parameters())
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        rows: Tensor = self.model.encode_image(pixels.to(weight))
        return rows

    def _embed_texts(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts).to(next(self.model.parameters()).device)
        rows: Tensor = self.model.encode_text(tokens)
        return rows


def _open_clip() -> Any:
    try:
        return import_module("open_clip")
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise
        raise ImportError(
            "OpenClipEncoder needs open_clip: pip install open_clip_torch", name="open_clip"
        ) from error
