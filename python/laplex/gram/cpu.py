"""The CPU backend of `laplex.gram.factor`: factorised covariances."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core
from .._support.core import Covariance


class CpuBackend:
    """A `laplex::Gram` of a covariance."""

    def __init__(self, covariance: Covariance, device: torch.device) -> None:
        self.core = _core.Gram(covariance, torch.get_num_threads())

    def call(self, method: str, *arguments: Any, rows: int = 0, derivatives: int = 0) -> None:
        """Call a method of the core; its last argument, which says where to run, is added.

        `derivatives` is 1 for a method that takes first derivatives and 2 for second ones.
        """
        getattr(self.core, method)(*arguments, torch.get_num_threads())
