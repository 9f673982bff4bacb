"""The vectors that the language models of BLIP and BLIP-2 read in place of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from laplex._support.arguments import one_of

from .transformers_models import TransformersEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

Tokens = Literal["all", "mean"]


class BlipEncoder(TransformersEncoder):
    """Embeds images as the vectors from which BLIP or BLIP-2 makes a caption.

    For BLIP these are the outputs of its vision model: the class token and the patches. For BLIP-2
    they are the outputs of its Q-Former, one for each query. A model that is fitted to them can be
    passed to `laplex.cedar.decode_captions`.

    Parameters
    ----------
    model : BlipForConditionalGeneration or Blip2ForConditionalGeneration
        The model. It is put into evaluation mode and stays on its device.
    processor : BlipProcessor or Blip2Processor
        The preprocessing of images that belongs to the model.
    tokens : {"all", "mean"}
        "all" gives a row for each vector, ``[n * t, d]``, and "mean" their mean for each image.

    Notes
    -----
    Rows are not divided by their lengths, because the language model would not know them then.
    """

    _auto: ClassVar[str] = "AutoModelForImageTextToText"

    def __init__(self, model: Any, processor: Any, *, tokens: Tokens = "all") -> None:
        super().__init__(model, processor, normalize=False)
        self.tokens = one_of("tokens", tokens, Tokens)

    def identity(self) -> dict[str, Any]:
        """Return what the base class does, and the tokens."""
        return {**super().identity(), "tokens": self.tokens}

    def states(self, pictures: list[Image]) -> Tensor:
        """Return the vectors of RGB pictures.

        Parameters
        ----------
        pictures : list of PIL.Image.Image
            The pictures.

        Returns
        -------
        Tensor [b, t, d]
            All vectors of each picture, whatever ``tokens`` says.
        """
        pixels = self._inputs(pictures)["pixel_values"]
        if hasattr(self.model, "qformer"):
            features = self.model.get_image_features(pixel_values=pixels)
            states: Tensor = features.qformer_outputs.last_hidden_state
        else:
            states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return states

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        states = self.states(pictures)
        return states if self.tokens == "all" else states.mean(1)
