"""Factorised covariances on a GPU: the backend of `laplex.gram.factor` for CUDA tensors."""

from __future__ import annotations

import torch

from .. import _core
from ..torch import cuda as cuda_execution

#: The most columns of H that a GPU takes: sums of 8 real terms or 4 cosines.
MOST_COLUMNS = 8


class CudaBackend:
    """`laplex::cuda::Gram`, as `CpuBackend`: on the device's current stream, in torch's memory.

    The constructor waits for the device, as it has to say what is singular; nothing else does.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        addresses: tuple[int, int, int, int],
        ties_backwards: bool,
        device: torch.device,
    ) -> None:
        self.device = device
        with cuda_execution.on(device):
            self._stream = cuda_execution.current_stream(device)
            self.storage = cuda_execution.memory(_core.CudaGram.storage_bytes(*sizes), device)
            scratch = cuda_execution.memory(_core.CudaGram.scratch_bytes(*sizes), device)
            self.core = _core.CudaGram(
                *sizes,
                *addresses,
                ties_backwards,
                self._stream,
                self.storage.data_ptr(),
                self.storage.numel(),
                scratch.data_ptr(),
                scratch.numel(),
            )
            self._event = cuda_execution.event(device)

    def call(self, name: str, *arguments: int, rows: int | None = None) -> None:
        """Call a method of the core: one of vectors, of which there are `rows`, or of none."""
        with cuda_execution.on(self.device):
            stream = cuda_execution.current_stream(self.device)
            if stream != self._stream:
                cuda_execution.wait(self._event, self.storage)
            if name in ("order", "log_variances"):  # which need no workspace
                getattr(self.core, name)(*arguments, stream)
                return
            if name in ("vjp", "vjp_tangent"):
                nbytes = self.core.gradient_workspace_bytes(rows or 0, name == "vjp_tangent")
            else:
                nbytes = self.core.workspace_bytes(rows or 0)
            workspace = cuda_execution.memory(nbytes, self.device)
            getattr(self.core, name)(*arguments, stream, workspace.data_ptr(), nbytes)
