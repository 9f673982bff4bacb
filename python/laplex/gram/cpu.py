"""Factorised covariances on the CPU: the backend of `laplex.gram.factor` for its tensors."""

from __future__ import annotations

import torch

from .. import _core


class CpuBackend:
    """`laplex::Gram` at the `addresses` of a `Covariance` of `sizes` B, n, J."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        addresses: tuple[int, int, int, int],
        ties_backwards: bool,
        device: torch.device,
    ) -> None:
        threads = torch.get_num_threads()
        self.core = _core.Gram(*sizes, *addresses, ties_backwards, threads)

    def call(self, name: str, *arguments: int, rows: int | None = None) -> None:
        """Call a method of the core: one of vectors, of which there are `rows`, or of none."""
        threads = () if rows is None else (torch.get_num_threads(),)
        getattr(self.core, name)(*arguments, *threads)
