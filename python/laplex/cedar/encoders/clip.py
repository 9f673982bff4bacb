"""CLIP and SigLIP models of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import fingerprint
from .encoder import TextEncoder
from .transformers_models import TransformersEncoder

if TYPE_CHECKING:
    from PIL.Image import Image


class ClipEncoder(TransformersEncoder, TextEncoder):
    """Embeds images and texts in one space, by a CLIP, SigLIP or SigLIP 2 model of transformers.

    Parameters
    ----------
    model : CLIPModel, SiglipModel, Siglip2Model or similar
        A model with ``get_image_features`` and ``get_text_features``. It is put into evaluation
        mode and stays on its device.
    processor : CLIPProcessor, SiglipProcessor, Siglip2Processor or similar
        The preprocessing of images and texts that belongs to the model.
    normalize : bool
        Whether to divide each row by its length, as for cosine similarities. The model itself does
        not return rows of unit length.

    Notes
    -----
    Texts are padded as in the training of the models: for SigLIP to the whole context, for CLIP to
    the longest text of the batch. For CLIP the padding after the end of a text has no effect.

    Images and texts lie in separate cones of the space, so code each around its own mean: see
    `laplex.cedar.CEDAR.add_modality`.
    """

    def identity(self) -> dict[str, Any]:
        """Return what the base class does, and a hash of the tokenizer."""
        return {
            **super().identity(),
            "tokenizer": fingerprint.of_tokenizer(self.processor.tokenizer),
        }

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        return self._pooled(self.model.get_image_features(**self._inputs(pictures)))

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

    @staticmethod
    def _pooled(output: Any) -> Tensor:
        pooled: Tensor = output.pooler_output  # of shape [b, d], after the projection
        return pooled
