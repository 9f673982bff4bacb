"""Layers whose weight matrix is a sum of Laplace kernels between learnable anchors.

`LaplexLinear` is a drop-in replacement for ``torch.nn.Linear`` with O(heads * (in + out))
parameters. `LaplexHead` is a classification head that can be read as a soft routing of features to
classes. `param_groups` keeps an optimiser's weight decay off the anchors.
"""

from __future__ import annotations

from laplex._support.optional import require

require("torch", extra="torch", feature="laplex.nn")

from laplex.nn.head import LaplexHead  # noqa: E402  (after the check for torch)
from laplex.nn.linear import LaplexLinear  # noqa: E402
from laplex.nn.parameter_groups import param_groups  # noqa: E402

__all__ = ["LaplexHead", "LaplexLinear", "param_groups"]
