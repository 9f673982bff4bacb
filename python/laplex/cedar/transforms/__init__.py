"""Trainable parameters of a change of basis: modules that give a `Basis` when called.

Each module but `base` is a transform; one of your own is named by `TRANSFORMS.register`, a
decorator, and is then a `basis` of `CEDAR`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from .base import Start as Start
    from .base import Transform as Transform
    from .invertible import Invertible as Invertible
    from .laplex import Laplace as Laplace
    from .orthogonal import Orthogonal as Orthogonal

TRANSFORMS: Registry[type[Transform]] = Registry(
    "basis", __name__, default="orthogonal", by_file=True
)
__getattr__ = TRANSFORMS.attribute
