"""CLIP and SigLIP, by transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laplex._support.optional import require

from . import fingerprint
from .encoder import ImageEncoder, TextEncoder, explained

if TYPE_CHECKING:
    from PIL.Image import Image


class ClipEncoder(ImageEncoder, TextEncoder):
    """Images and texts in one space, by a CLIP or SigLIP model of transformers.

    Parameters
    ----------
    model : CLIPModel, SiglipModel or alike
        With ``get_image_features`` and ``get_text_features``; put into evaluation mode, and used
        on the device where it is.
    processor : CLIPProcessor, SiglipProcessor or alike
    normalize : bool
        Divide each row by its length, as for cosine similarities. Rows of the projection are not
        of unit length by themselves.

    Notes
    -----
    Texts are padded as the models were trained: SigLIP's to its whole context, CLIP's to the
    longest of the batch, which makes no difference behind the end of a text.
    """

    def __init__(self, model: Any, processor: Any, *, normalize: bool) -> None:
        super().__init__(normalize=normalize)
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, name: str, *, normalize: bool, device: str | torch.device = "cpu"
    ) -> ClipEncoder:
        """Load a model by its name on the Hugging Face hub, or from a folder, in float32.

        Parameters
        ----------
        name
            For instance "openai/clip-vit-base-patch32" or "google/siglip-base-patch16-224".
        normalize
            Divide each row by its length.
        device
            Where to run it.

        Raises
        ------
        ImportError
            Without transformers: ``pip install "laplex[encoders]"``.
        OSError
            A model that is not found, with what to do offline.
        """
        transformers = require("transformers", extra="encoders", feature="ClipEncoder")
        require("PIL.Image", extra="encoders", feature="ClipEncoder")
        with explained(name):
            # Half precision, which transformers would take from the file, is slow on a CPU.
            model = transformers.AutoModel.from_pretrained(name, dtype=torch.float32)
            processor = transformers.AutoProcessor.from_pretrained(name)
        return cls(model.to(device), processor, normalize=normalize)

    def identity(self) -> dict[str, Any]:
        """Weights, configuration, preprocessing, versions."""
        image_processor, tokenizer = self.processor.image_processor, self.processor.tokenizer
        return {
            "weights": fingerprint.of_weights(self.model),
            "config": _without_paths(self.model.config.to_dict()),
            "image_processor": _without_paths(json.loads(image_processor.to_json_string())),
            "image_processor_class": type(image_processor).__name__,
            "tokenizer": fingerprint.of_tokenizer(tokenizer),
            "packages": fingerprint.of_packages("pillow", "tokenizers", "transformers"),
        }

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        inputs = self.processor.image_processor(images=pictures, return_tensors="pt")
        return self._pooled(self.model.get_image_features(**self._moved(inputs)))

    def _embed_texts(self, texts: list[str]) -> Tensor:
        whole_context = "siglip" in self.model.config.model_type
        inputs = self.processor.tokenizer(
            texts,
            padding="max_length" if whole_context else True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return self._pooled(self.model.get_text_features(**self._moved(inputs)))

    def _moved(self, inputs: Any) -> dict[str, Tensor]:
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }

    @staticmethod
    def _pooled(output: Any) -> Tensor:
        pooled: Tensor = output.pooler_output  # of shape [b, d], after the projection
        return pooled


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out where a model was loaded from: a copy of it elsewhere is the same."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
