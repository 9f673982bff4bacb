"""What the encoders of models of transformers share: loading, inputs, and what they depend on."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from laplex._support.optional import require

from . import fingerprint
from .encoder import ImageEncoder, explained

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self


class TransformersEncoder(ImageEncoder):
    """Base class of the encoders of images by models of transformers.

    Parameters
    ----------
    model : PreTrainedModel
        The model. It is put into evaluation mode and stays on its device.
    processor : processor or image processor
        The preprocessing that belongs to the model.
    normalize : bool
        Whether to divide each row by its length.
    """

    #: The class of transformers that loads the model.
    _auto: ClassVar[str] = "AutoModel"
    _auto_processor: ClassVar[str] = "AutoProcessor"

    def __init__(self, model: Any, processor: Any, *, normalize: bool) -> None:
        super().__init__(normalize=normalize)
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """Load a model by its name on the Hugging Face hub, or from a folder.

        Parameters
        ----------
        name : str
            Name of the model, for instance "openai/clip-vit-base-patch32" or
            "google/siglip2-base-patch16-naflex" of `ClipEncoder`.
        device : str or torch.device
            Device to run the model on.
        dtype : torch.dtype
            Precision to run the model in. Half precision is slow on a CPU; the embeddings then are
            float16.
        **options
            The other arguments of the constructor, such as ``normalize``.

        Returns
        -------
        TransformersEncoder
            The encoder, of the class that the method was called on.

        Raises
        ------
        ImportError
            If transformers is missing: ``pip install "laplex[encoders]"``.
        TypeError
            If an argument of the constructor is missing or unknown.
        OSError
            If the model is not found; the message says what to do offline.
        """
        transformers = require("transformers", extra="encoders", feature=cls.__name__)
        require("PIL.Image", extra="encoders", feature=cls.__name__)
        inspect.signature(cls).bind(None, None, **options)  # before a model is loaded in vain
        with explained(name):
            model = getattr(transformers, cls._auto).from_pretrained(name, dtype=dtype)
            processor = getattr(transformers, cls._auto_processor).from_pretrained(name)
        return cls(model.to(device), processor, **options)

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights, configuration and preprocessing, and package versions."""
        image_processor = self._image_processor
        return {
            "weights": fingerprint.of_weights(self.model),
            "config": _without_paths(self.model.config.to_dict()),
            "image_processor": _without_paths(json.loads(image_processor.to_json_string())),
            "image_processor_class": type(image_processor).__name__,
            "packages": fingerprint.of_packages("pillow", "tokenizers", "transformers"),
        }

    @property
    def _image_processor(self) -> Any:
        return getattr(self.processor, "image_processor", self.processor)

    def _inputs(self, pictures: list[Image]) -> dict[str, Tensor]:
        return self._moved(self._image_processor(images=pictures, return_tensors="pt"))

    def _moved(self, inputs: Any) -> dict[str, Tensor]:
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out the folder a model was loaded from: a copy elsewhere is the same model."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
