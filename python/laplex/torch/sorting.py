"""The stable order of lines of numbers, and what belongs to them brought into it.

``torch.sort`` serves short lines, batches, GPUs, transforms and tracers. One long line in the
host's memory is sorted by the core, in an eighth of the time (a million float32 numbers: 8.5 ms
instead of 78).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _core
from . import cuda
from .autograd import is_concrete
from .call import in_memory

LONG = 2048
"""The length from which a single line is sorted by the core."""


class Order(Protocol):
    """The order of lines ``[*b, n]``."""

    def sort(self, entries: Tensor) -> Tensor:
        """Bring entries ``[*c, n]``, whose leading dimensions broadcast, into the order."""


def order_of(numbers: Tensor) -> Order:
    """Find the order that sorts the last dimension; equal numbers keep their order.

    Parameters
    ----------
    numbers : Tensor, shape ``[*b, n]``
        Float32 or float64, without NaN.
    """
    if (
        numbers.shape[-1] >= LONG
        and numbers.numel() == numbers.shape[-1]
        and is_concrete(numbers)
        and not cuda.takes(numbers)
    ):
        return _CoreOrder(numbers)
    return _TorchOrder(numbers)


class _TorchOrder:
    def __init__(self, numbers: Tensor) -> None:
        self._index = torch.sort(numbers.detach(), dim=-1, stable=True).indices

    def sort(self, entries: Tensor) -> Tensor:
        return _taken(entries, self._index)


class _CoreOrder:
    def __init__(self, numbers: Tensor) -> None:
        self.size = numbers.shape[-1]
        held = in_memory(numbers.detach().resolve_neg().contiguous())
        is_double = held.dtype is torch.float64
        threads = torch.get_num_threads()
        self._order = _core.Order(held.data_ptr(), is_double, self.size, None, threads)

    def sort(self, entries: Tensor) -> Tensor:
        if self._order.as_given:
            return entries
        sorted_: Tensor = _Moved.apply(entries, self, True)  # type: ignore[no-untyped-call]
        return sorted_

    def moved(self, entries: Tensor, to_sorted: bool) -> Tensor:
        """Bring entries into the order, or back."""
        if not is_concrete(entries):
            index = self.moved(torch.arange(self.size), to_sorted)
            return _taken(entries, index)
        entries = in_memory(entries.resolve_neg().contiguous())
        out = torch.empty_like(entries)
        move = self._order.to_sorted if to_sorted else self._order.to_given
        rows = entries.numel() // self.size
        if rows:
            threads = torch.get_num_threads()
            move(entries.data_ptr(), out.data_ptr(), rows, entries.element_size(), threads)
        return out


class _Moved(torch.autograd.Function):
    """Entries brought into an order, or back: each is the other's derivative."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, order: _CoreOrder, to_sorted: bool) -> Tensor:
        ctx.order, ctx.to_sorted = order, to_sorted
        return order.moved(entries, to_sorted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Moved.apply(grad, ctx.order, not ctx.to_sorted), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        moved: Tensor = _Moved.apply(tangent, ctx.order, ctx.to_sorted)  # type: ignore[no-untyped-call]
        return moved


def _taken(entries: Tensor, index: Tensor) -> Tensor:
    missing = index.dim() - entries.dim()
    entries = entries.reshape((1,) * missing + entries.shape)
    index = index.reshape((1,) * -missing + index.shape)
    return torch.take_along_dim(entries, index, -1)
