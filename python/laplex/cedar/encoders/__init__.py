"""Encoders that turn images or texts into embeddings, with an optional cache on disk.

Each encoder wraps a frozen model of another package. Install them with
``pip install "laplex[encoders]"``.

========================  ==================================================  ==================
Class                     Model                                               Encodes
========================  ==================================================  ==================
`ClipEncoder`             CLIP, SigLIP or SigLIP 2 of transformers            images, texts
`OpenClipEncoder`         any model of open_clip                              images, texts
`VisionEncoder`           DINOv2 or another vision model of transformers      images, patches
`BlipEncoder`             what BLIP and BLIP-2 of transformers caption from   images, patches
`SentenceEncoder`         any model of sentence-transformers                  texts
`EfficientNetEncoder`     EfficientNet-Lite0, from a bundled file             images
========================  ==================================================  ==================

``normalize`` has no default, because rows of unit length and rows as the model gives them are
different data with different axes.
"""

from .blip import BlipEncoder
from .clip import ClipEncoder
from .efficientnet import EfficientNetEncoder
from .encoder import ImageEncoder, TextEncoder
from .openclip import OpenClipEncoder
from .sentences import SentenceEncoder
from .vision import VisionEncoder

__all__ = [
    "BlipEncoder",
    "ClipEncoder",
    "EfficientNetEncoder",
    "ImageEncoder",
    "OpenClipEncoder",
    "SentenceEncoder",
    "TextEncoder",
    "VisionEncoder",
]
