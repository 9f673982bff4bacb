"""Changes of basis with trainable parameters: modules that return a ``Basis`` when called.

Each file but ``base`` holds one. Register a transform of your own with the decorator
``TRANSFORMS.register("name")``; ``CEDAR(basis="name")`` then uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from .base import Start as Start
    from .base import Transform as Transform
    from .frame import Frame as Frame
    from .invertible import Invertible as Invertible
    from .laplex import Laplace as Laplace
    from .orthogonal import Orthogonal as Orthogonal

TRANSFORMS: Registry[type[Transform]] = Registry(
    "basis", __name__, default="orthogonal", by_file=True
)
__getattr__ = TRANSFORMS.attribute
