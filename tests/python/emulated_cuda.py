"""The CUDA path of the torch operators on CPU tensors, for machines without a GPU.

The module that CMake calls _core_emulated runs the CUDA kernels on the host. `install` sends CPU
tensors there, so that tests exercise what CUDA tensors take: see `make test-emulated`.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

from laplex import _core
from laplex.torch import call
from laplex.torch import cuda as cuda_execution

_STREAM = 7  # any number but that of no stream


def install() -> None:
    assert _core.has_cuda, "this is not the module _core_emulated: use `make test-emulated`"

    def takes(tensor: torch.Tensor) -> bool:
        return tensor.is_cpu

    def on(device: torch.device) -> Any:
        return contextlib.nullcontext()

    call.DIRECT = SimpleNamespace(signature=lambda tensors: None)  # those of the host
    call.takes_half = takes
    cuda_execution.takes = takes
    cuda_execution.on = on
    cuda_execution.current_stream = lambda device: _STREAM
    cuda_execution.event = lambda device: None
    cuda_execution.wait = lambda event, storage: None
    cuda_execution.shared_word = lambda: torch.zeros(1, dtype=torch.int64)
    cuda_execution.synchronize = lambda device: None
