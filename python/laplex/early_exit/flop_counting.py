"""Count flops as they are dispatched: PyTorch's counter, and the operations it would miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# Registers laplex::matvec, for which there is a count below.
import laplex.nn  # noqa: F401


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Count the flops of what runs inside; yields a function that returns the number so far."""
    counter = FlopCounterMode(display=False, custom_mapping=_EXTRA)
    # Counts by module are not needed, and to track modules fails for expanded parameters.
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with unfused(), sdpa_kernel(SDPBackend.MATH), counter:
        yield counter.get_total_flops


class _NoModules:
    """A tracker of modules that tracks none."""

    parents = ("Global",)

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


@contextmanager
def unfused() -> Iterator[None]:
    """Make PyTorch's layers run as plain products.

    The counter sees the operators that are dispatched. The fused layers of nn.Transformer, the
    recurrent layers of MKL-DNN and cuDNN, and fused attention on the CPU are single operators that
    it has no formula for, and would count as nothing.
    """
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    enabled = [backend.enabled for backend in backends]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for backend, was in zip(backends, enabled, strict=True):
            backend.enabled = was


def _matvec_flops(values: Tensor, targets: Tensor, *others: Any, out_val: Tensor, **_: Any) -> int:
    """Flops of ``laplex::matvec``; see the notes of `count_costs`."""
    frequency, target_phase, source_phase = others[2:5]
    turned = any(one is not None for one in (frequency, target_phase, source_phase))
    planes = 2 if turned or values.is_complex() else 1
    anchors = values.shape[-1] + targets.shape[-1]
    rows = out_val.numel() // max(out_val.shape[-1], 1)
    return 2 * rows * anchors * (2 * planes + (2 if turned else 0))


_matvec_flops._get_raw = True  # type: ignore[attr-defined]  # the counter's mark: tensors, not shapes


def _vector_flops(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
    """Flops of a product with a vector: 2 for each entry of the matrix, its largest argument."""
    return 2 * max(prod(shape) for shape in shapes if isinstance(shape, torch.Size))


_EXTRA: dict[Any, Any] = {
    torch.ops.laplex.matvec: _matvec_flops,
    torch.ops.aten.mv: _vector_flops,
    torch.ops.aten.addmv: _vector_flops,
    torch.ops.aten.dot: _vector_flops,
}
