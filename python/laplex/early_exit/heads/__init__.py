"""Heads of exits, which map the output of a module to logits.

A head gets feature maps ``[batch, channels, height, width]``, tokens ``[batch, tokens, dim]`` or
features ``[batch, features]``: `MultiExitModel.attach` finds out how the module orders them. Each
module of this package except ``base`` defines one head.

A head of your own is a Module class whose constructor takes the number of features and the number
of classes. Decorate it with ``HEADS.register`` to give it a name, or make it a subclass of
``base.Head`` to define only its pooling or its classifier. These attributes of the class are read:

* ``dimensions`` lists the numbers of dimensions that its activations may have, by default 2 to 5.
* With ``reads_mask = True`` it is called with ``mask=``, a Tensor ``[batch, tokens]`` of bool that
  tells real tokens from padding, or None.
* With ``carries = True`` it sees what the carrying heads before it have made of the same samples:
  it is called as ``head(activation, carried)``, where ``carried`` is what the one before it
  returned (None at first), and returns ``(logits, carried)``. What is carried is a Tensor, or a
  nested structure of them, with the batch first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from .base import Head as Head
    from .base import make_head as make_head
    from .conv import ConvHead as ConvHead
    from .grid import GridHead as GridHead
    from .laplex import LaplexExit as LaplexExit
    from .last_token import LastTokenHead as LastTokenHead
    from .linear import LinearHead as LinearHead
    from .mlp import MLPHead as MLPHead
    from .pooled import PooledHead as PooledHead
    from .token import TokenHead as TokenHead

HEADS: Registry[type[nn.Module]] = Registry("head", __name__, default="pooled", by_file=True)
__getattr__ = HEADS.attribute
