"""Heads of exits, which map the output of a module to logits.

A head accepts feature maps ``[batch, channels, height, width]``, tokens ``[batch, tokens, dim]`` or
features ``[batch, features]``, unless its documentation says otherwise. Of a list or tuple (one
entry for each scale) it takes the last entry. Each module of this package except ``base`` defines
one head.

A head of your own is a Module class whose constructor takes the number of features and the number
of classes. Decorate it with ``HEADS.register`` to give it a name. Its attribute ``dimensions``
lists the numbers of dimensions that its activations may have; the default is 2, 3 and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from .base import make_head as make_head
    from .conv import ConvHead as ConvHead
    from .grid import GridHead as GridHead
    from .laplex import LaplexExit as LaplexExit
    from .linear import LinearHead as LinearHead
    from .mlp import MLPHead as MLPHead
    from .pooled import PooledHead as PooledHead
    from .token import TokenHead as TokenHead

HEADS: Registry[type[nn.Module]] = Registry("head", __name__, default="pooled", by_file=True)
__getattr__ = HEADS.attribute
