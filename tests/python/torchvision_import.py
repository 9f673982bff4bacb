"""Imports torchvision, also where it does not fit torch.

Its wheel on PyPI is a CUDA build. Beside a CPU build of torch its operators do not load, and the
import fails because two of them have no names then. The networks do without them.
"""

from __future__ import annotations

import torch

try:
    import torchvision
except RuntimeError:
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import torchvision  # noqa: F401
