"""Models of open_clip."""

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
    """Embeds images and texts in one space, by a model of open_clip.

    Parameters
    ----------
    model : Module
        A model with ``encode_image`` and ``encode_text``. It is put into evaluation mode and stays
        on its device.
    preprocess : callable
        Turns a Pillow image into a Tensor [3, h, w]: the preprocessing of open_clip for inference.
    tokenizer : callable
        Turns a list of texts into a Tensor of tokens [b, context]; cuts longer texts.
    normalize : bool
        Whether to divide each row by its length, as for cosine similarities.

    Notes
    -----
    No extra of Laplex installs open_clip, because its torchvision must match the installed torch.
    Install it yourself with ``pip install open_clip_torch``.
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
        name : str
            Name of the model, for instance "ViT-B-32", or "hf-hub:..." for one of the Hugging Face
            hub.
        pretrained : str, optional
            Tag of its weights, for instance "laion2b_s34b_b79k" (``open_clip.list_pretrained()``
            lists them), or the path of a file. Leave it out for a name with "hf-hub:".
        normalize : bool
            Whether to divide each row by its length.
        device : str or torch.device
            Device to run the model on.

        Raises
        ------
        ImportError
            If open_clip is missing: ``pip install open_clip_torch``.
        ValueError
            If no weights are named.
        """
        if pretrained is None and not name.startswith("hf-hub:"):
            # open_clip would load the model with random weights.
            raise ValueError(
                f"pretrained must name the weights of {name!r}: see open_clip.list_pretrained()"
            )
        open_clip = _open_clip()
        # Not create_model_and_transforms, which uses random weights if it finds none. The device
        # is not passed on, because some versions hand it to the constructor of the model.
        model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=pretrained)
        tokenizer = open_clip.get_tokenizer(name)
        return cls(model.to(device), preprocess, tokenizer, normalize=normalize)

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights, architecture and preprocessing, and versions."""
        tokens = self.tokenizer(["a photo of a cat", "Zwölf (12) naïve façades, 3.5 €!"])
        return {
            "weights": fingerprint.of_weights(self.model),
            "architecture": repr(self.model),
            "preprocess": repr(self.preprocess),
            # Tokenizers have no common description, so the tokens of two texts stand for one.
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
