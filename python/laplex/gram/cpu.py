"""Factorised covariances on the CPU: the backend of `laplex.gram.factor` for its tensors."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core
from .._support.core import Covariance


class CpuBackend:
    """`laplex::Gram` of a covariance."""

    def __init__(self, covariance: Covariance, device: torch.device) -> None:
        self.core = _core.Gram(covariance, torch.get_num_threads())

    def call(self, method: str, *arguments: Any, rows: int = 0, derivatives: int = 0) -> None:
        """Call a method of the core with all but its last argument: where to run.

        `derivatives`: 1 for a method that takes the first, 2 the second.
        """
        getattr(self.core, method)(*arguments, torch.get_num_threads())
