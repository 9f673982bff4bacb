"""Run a backbone again for some of its samples, without repeating the work of its modules.

This is for backbones in which the computation after an exit uses more than the activation of the
exit: other data bypass it, or the batch size was read at the start of the forward. The whole
forward then runs again for the smaller batch, but the modules that had already run return the
remaining rows of their stored outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .activations import map_tensors


class Replay:
    """Stores the outputs of modules of a backbone, and makes them return these again.

    For a module inside another module that has finished, nothing is stored: the outer one answers.
    Operations between modules, in the forward of the backbone itself, are computed again.

    Parameters
    ----------
    backbone : Module
    exit_names : sequence of str
        The modules after which the backbone may be run again.
    """

    def __init__(self, backbone: nn.Module, exit_names: Sequence[str]) -> None:
        self.listened = _outermost(backbone, exit_names)
        self.calls: list[tuple[nn.Module, Any]] = []
        self.answers: dict[nn.Module, deque[Any]] = {}

    def keep(self, stays: Tensor) -> None:
        """Keep the stored rows of some samples for the next run.

        Parameters
        ----------
        stays : Tensor [batch] of bool
        """
        self.answers = {}
        for module, output in self.calls:
            self.answers.setdefault(module, deque()).append(rows_of(output, stays))

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the backbone runs inside: return stored outputs and store new ones."""
        self.calls = []
        begun: list[int] = []

        def before(module: nn.Module, inputs: Any) -> None:
            begun.append(len(self.calls))

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            del self.calls[begun.pop() :]
            # A copy, because the next module may write into it.
            self.calls.append((module, map_tensors(Tensor.clone, output)))

        handles = []
        replaced = []
        try:
            for module in self.listened:
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after))
            for module, answers in self.answers.items():
                replaced.append((module, module.__dict__.get("forward")))
                module.forward = _answering(answers, module.forward)
            yield
        finally:
            for module, forward in replaced:
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward
            for handle in handles:
                handle.remove()


def _outermost(backbone: nn.Module, exit_names: Sequence[str]) -> list[nn.Module]:
    """The outermost modules that may have finished when an exit is reached.

    These are the children of every module that contains an exit.
    """
    around = {""}
    for name in exit_names:
        parts = name.split(".")
        around.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
    found = {
        id(child): child
        for name in sorted(around)
        for child in backbone.get_submodule(name).children()
    }
    return list(found.values())


def rows_of(value: Any, stays: Tensor) -> Any:
    """Select the rows of some samples in all Tensors with one row a sample; keep the others."""

    def cut(tensor: Tensor) -> Tensor:
        mine = tensor.ndim > 0 and len(tensor) == len(stays)
        return tensor[stays.to(tensor.device)] if mine else tensor

    return map_tensors(cut, value)


def _answering(answers: deque[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*inputs: Any, **named: Any) -> Any:
        return answers.popleft() if answers else forward(*inputs, **named)

    return answer
