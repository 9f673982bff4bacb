"""The CUDA backend of `laplex.gram.factor`: factorised covariances on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core
from .._support.core import Covariance, Place
from ..torch import cuda as cuda_execution

#: The largest number of columns of H on a GPU: sums of 8 real terms, or of 4 cosines or SHO terms.
MOST_COLUMNS = 8


class CudaBackend:
    """A `laplex::cuda::Gram` on the device's current stream, in memory from torch.

    It has the interface of `CpuBackend`. Only the constructor waits for the device, because it has
    to report singular matrices.
    """

    def __init__(self, covariance: Covariance, device: torch.device) -> None:
        self.device = device
        with cuda_execution.on(device):
            self._stream = cuda_execution.current_stream(device)
            self.storage = cuda_execution.memory(_core.CudaGram.storage_bytes(covariance), device)
            scratch = cuda_execution.memory(_core.CudaGram.scratch_bytes(covariance), device)
            spans = (cuda_execution.span(self.storage), cuda_execution.span(scratch))
            self.core = _core.CudaGram(covariance, self._stream, *spans)
            self._event = cuda_execution.event(device)

    def call(self, method: str, *arguments: Any, rows: int = 0, derivatives: int = 0) -> None:
        """Do what `CpuBackend.call` does, on the current stream and with a workspace."""
        with cuda_execution.on(self.device):
            stream = cuda_execution.current_stream(self.device)
            if stream != self._stream:
                cuda_execution.wait(self._event, self.storage)
            if derivatives:
                nbytes = self.core.gradient_workspace_bytes(rows, derivatives == 2)
            else:
                nbytes = self.core.workspace_bytes(rows)
            workspace = cuda_execution.memory(nbytes, self.device)
            place = Place(stream, *cuda_execution.span(workspace))
            getattr(self.core, method)(*arguments, place)
