"""Heads of exits: from what a module puts out to logits.

Each takes feature maps ``[batch, channels, height, width]``, tokens ``[batch, tokens, dim]`` or
features ``[batch, features]`` as said; of a list or tuple (one entry a scale) the last entry. Each
module but `base` is a head. One of your own is any Module that is made of the number of features
and the number of classes, named by `HEADS.register`, a decorator; ``dimensions`` says how many its
activations may have, where not 2 to 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from .base import make_head as make_head
    from .conv import ConvHead as ConvHead
    from .laplex import LaplexExit as LaplexExit
    from .linear import LinearHead as LinearHead
    from .mlp import MLPHead as MLPHead
    from .pooled import PooledHead as PooledHead
    from .token import TokenHead as TokenHead

HEADS: Registry[type[nn.Module]] = Registry("head", __name__, default="pooled", by_file=True)
__getattr__ = HEADS.attribute
