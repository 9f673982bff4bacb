"""Restore a model after a measurement, even if the measurement fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore, at the end or on an exception, everything that running a model may change.

    This covers the parameters and buffers, bit for bit and as the same objects; their
    ``requires_grad`` and ``.grad``; the training mode of every module; and torch's random state (of
    the CPU, and of the GPUs that the model is on).

    Parameters
    ----------
    model : Module

    Notes
    -----
    Until then, a copy of all parameters, gradients and buffers is kept. A tensor that was not
    written to is not written to here either, so graphs that hold it stay valid.
    """
    modes = [(module, module.training) for module in model.modules()]
    tables: list[Any] = [
        table for module in model.modules() for table in (module._parameters, module._buffers)
    ]
    slots = [(table, dict(table)) for table in tables]
    contents = {
        id(tensor): _Content.of(tensor)
        for _, table in slots
        for tensor in table.values()
        if tensor is not None
    }
    devices = {one.tensor.device for one in contents.values() if one.tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            yield
        finally:
            for table, before in slots:
                table.clear()
                table.update(before)
            for content in contents.values():
                content.put_back()
            for module, mode in modes:
                module.training = mode


@dataclass(frozen=True)
class _Copy:
    """A tensor, its contents, and its version: how often it had been written to."""

    tensor: Tensor
    values: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Copy:
        return cls(tensor, tensor.detach().clone(), tensor._version)

    def put_back(self) -> None:
        # The version shows writes that torch knows of, the comparison those through .data.
        if self.tensor._version != self.version or not torch.equal(self.tensor, self.values):
            with torch.no_grad():
                self.tensor.copy_(self.values)


@dataclass(frozen=True)
class _Content:
    tensor: Tensor
    values: _Copy
    gradient: _Copy | None
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Content:
        # On a tensor that is not a leaf (a buffer may be one), .grad is None and warns.
        gradient = tensor.grad if tensor.is_leaf else None
        return cls(
            tensor,
            _Copy.of(tensor),
            None if gradient is None else _Copy.of(gradient),
            tensor.requires_grad,
        )

    def put_back(self) -> None:
        self.values.put_back()
        if not self.tensor.is_leaf:
            return
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        self.tensor.grad = None if self.gradient is None else self.gradient.tensor
        if self.gradient is not None:
            self.gradient.put_back()
