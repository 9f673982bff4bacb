"""Run a backbone again for some of its samples, without repeating the work of its modules.

This is for backbones in which the computation after an exit uses more than the activation of the
exit: other data bypass it, or the batch size was read at the start of the forward. The whole
forward then runs again for the smaller batch, but the modules that had already run return the
remaining rows of their stored outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .activations import map_tensors, tensors_of
from .walking import Walk

#: Number of the dimension that is the batch; None for a Tensor that all samples share; UNKNOWN.
Axis = int | None
UNKNOWN = -1
#: Name of a module and number of its call.
Call = tuple[str, int]


class _Record(NamedTuple):
    call: Call
    output: Any  # None if it cannot be kept
    inside: tuple[dict[str, int], dict[str, int]]  # calls of modules and runs of exits within it


class Replica:
    """A private copy of the modules of a backbone around its exits, with memory.

    Only the modules themselves are copied, not their parameters. The copy records the outputs of
    the outermost modules that may have finished when an exit is reached: the children of every
    module that contains an exit. For a module inside another that has finished, nothing is kept:
    the outer one answers. Operations between modules, in the forward of a module that contains an
    exit, are computed again.

    Parameters
    ----------
    backbone : Module
    exits : iterable of str
        Names of the modules after which the backbone may be run again.
    """

    def __init__(self, backbone: nn.Module, exits: Iterable[str]) -> None:
        self._around = {""}
        for name in exits:
            parts = name.split(".")
            self._around.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
        self._copies: dict[int, nn.Module] = {}
        self._records: list[_Record] = []
        self._answers: dict[Call, _Record] = {}
        self._calls: dict[str, int] = {}
        self.walk: Walk | None = None
        #: Shapes of the Tensors of each output, by call, if they are to be noted.
        self.shapes: dict[Call, list[torch.Size]] | None = None
        self.backbone = self._copy(backbone, "")

    def start(self, walk: Walk) -> None:
        """Begin a run of the backbone."""
        self.walk, self._records, self._calls = walk, [], {}

    def keep(self, stays: Tensor, axes: dict[Call, tuple[Axis, ...]]) -> None:
        """Keep the stored rows of some samples for the next run.

        Parameters
        ----------
        stays : Tensor [batch] of bool
            The samples.
        axes : dict
            Which dimension of each Tensor of each output is the batch. What is not there, or does
            not fit, is computed again.
        """
        self._answers = {
            one.call: one._replace(output=cut_at(one.output, stays, axes.get(one.call)))
            for one in self._records
        }

    def _copy(self, module: nn.Module, path: str) -> nn.Module:
        """Copy a module that contains an exit, with its children."""
        inner = getattr(module, "_orig_mod", None)
        if isinstance(inner, nn.Module):  # torch.compile: what runs again runs uncompiled
            name = f"{path}._orig_mod" if path else "_orig_mod"
            return self._copy(inner, name if name in self._around else path)
        if id(module) in self._copies:
            return self._copies[id(module)]
        copied = self._copies[id(module)] = _shallow(module)
        for name, child in module._modules.items():
            if child is None or isinstance(child, torch.jit.ScriptModule):
                continue
            inside = f"{path}.{name}" if path else name
            known = self._copies.get(id(child))
            if known is None:
                known = self._copy(child, inside) if inside in self._around else _shallow(child)
                self._copies[id(child)] = known
                self._listen(known, inside)
            copied._modules[name] = known
        return copied

    def _listen(self, module: nn.Module, name: str) -> None:
        forward: Callable[..., Any] = module.__dict__.get("forward") or MethodType(
            type(module).forward, module
        )

        def run(*args: Any, **kwargs: Any) -> Any:
            call = name, self._calls.get(name, 0)
            self._calls[name] = call[1] + 1
            assert self.walk is not None
            known = self._answers.get(call)
            counters = self._calls, self.walk.runs
            if known is not None and known.output is not None:
                for counter, more in zip(counters, known.inside, strict=True):
                    for one, count in more.items():
                        counter[one] = counter.get(one, 0) + count
                self._store(known)
                return known.output
            before, start = [dict(one) for one in counters], len(self._records)
            output = forward(*args, **kwargs)
            del self._records[start:]
            inside = [
                {
                    one: count - old.get(one, 0)
                    for one, count in now.items()
                    if count > old.get(one, 0)
                }
                for now, old in zip(counters, before, strict=True)
            ]
            self._store(_Record(call, output, (inside[0], inside[1])))
            return output

        module.__dict__["forward"] = run

    def _store(self, record: _Record) -> None:
        try:
            # A copy, because the next module may write into it.
            kept = map_tensors(Tensor.clone, record.output)
        except TypeError:
            kept = None
        self._records.append(record._replace(output=kept))
        if self.shapes is not None:
            self.shapes[record.call] = [one.shape for one in tensors_of(kept)]


def cut_at(output: Any, stays: Tensor, axes: tuple[Axis, ...] | None) -> Any:
    """The rows of some samples of an output; None if it is not known what they are."""
    tensors = tensors_of(output)
    if axes is None or len(axes) != len(tensors) or UNKNOWN in axes:
        return None
    for tensor, axis in zip(tensors, axes, strict=True):
        if axis is not None and (axis >= tensor.ndim or tensor.shape[axis] != len(stays)):
            return None
    rows = stays.nonzero().flatten()
    each = deque(axes)

    def cut(tensor: Tensor) -> Tensor:
        axis = each.popleft()
        return tensor if axis is None else tensor.index_select(axis, rows.to(tensor.device))

    return map_tensors(cut, output)


def _shallow(module: nn.Module) -> nn.Module:
    copied = object.__new__(type(module))  # torch.fx has a __new__ that makes another class
    copied.__dict__.update(module.__dict__)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied
