"""Count flops as they are dispatched: PyTorch's counter, and the operations it would miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from threading import Lock
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
    with unfused(), _plain_attention(), counter:
        yield counter.get_total_flops


class _NoModules:
    """A tracker of modules that tracks none."""

    parents = ("Global",)

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


class _Switch:
    """Settings of the whole process, which are changed while any thread is inside.

    Threads come and leave in any order: the first makes the change, and the last undoes it.
    """

    def __init__(self, change: Callable[[ExitStack], object]) -> None:
        self._change = change
        self._lock = Lock()
        self._inside = 0
        self._undo = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._change(self._undo)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._undo.close()


def _unfuse(undo: ExitStack) -> None:
    fused = torch.backends.mha
    undo.callback(fused.set_fastpath_enabled, fused.get_fastpath_enabled())
    fused.set_fastpath_enabled(False)
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    for backend in backends:
        undo.callback(setattr, backend, "enabled", backend.enabled)
        backend.enabled = False


#: Make PyTorch's layers run as plain products. The counter sees the operators that are dispatched.
#: The fused layers of nn.Transformer, the recurrent layers of MKL-DNN and cuDNN, and fused
#: attention on the CPU are single operators that it has no formula for, and would count as nothing.
unfused = _Switch(_unfuse)
_plain_attention = _Switch(lambda undo: undo.enter_context(sdpa_kernel(SDPBackend.MATH)))


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
