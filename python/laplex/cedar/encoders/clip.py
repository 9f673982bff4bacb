"""CLIP and SigLIP models of transformers."""

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
    """Embeds images and texts in one space, by a CLIP or SigLIP model of transformers.

    Parameters
    ----------
    model : CLIPModel, SiglipModel or similar
        A model with ``get_image_features`` and ``get_text_features``. It is put into evaluation
        mode and stays on its device.
    processor : CLIPProcessor, SiglipProcessor or similar
        The preprocessing of images and texts that belongs to the model.
    normalize : bool
        Whether to divide each row by its length, as for cosine similarities. The model itself does
        not return rows of unit length.

    Notes
    -----
    Texts are padded as in the training of the models: for SigLIP to the whole context, for CLIP to
    the longest text of the batch. For CLIP the padding after the end of a text has no effect.
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
        name : str
            Name of the model, for instance "openai/clip-vit-base-patch32" or
            "google/siglip-base-patch16-224".
        normalize : bool
            Whether to divide each row by its length.
        device : str or torch.device
            Device to run the model on.

        Raises
        ------
        ImportError
            If transformers is missing: ``pip install "laplex[encoders]"``.
        OSError
            If the model is not found; the message says what to do offline.
        """
        transformers = require("transformers", extra="encoders", feature="ClipEncoder")
        require("PIL.Image", extra="encoders", feature="ClipEncoder")
        with explained(name):
            # Half precision, which transformers would take from the file, is slow on a CPU.
            model = transformers.AutoModel.from_pretrained(name, dtype=torch.float32)
            processor = transformers.AutoProcessor.from_pretrained(name)
        return cls(model.to(device), processor, normalize=normalize)

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights, configuration and preprocessing, and package versions."""
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
    """Leave out the folder a model was loaded from: a copy elsewhere is the same model."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
