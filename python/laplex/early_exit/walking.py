"""Runs of a backbone that are watched at the modules of its exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

AtExit = Callable[[int, Any], Any]


class StopWalk(Exception):
    """Raised by the function passed to `MultiExitModel.walk` to skip the rest of the backbone."""


class Mark:
    """What a model and its hooks share, so that a hook knows the runs of its own model."""


class Walk:
    """One run of a backbone.

    Parameters
    ----------
    mark : Mark
        That of the model.
    places : mapping of (str, int) to int
        Index of the exit by name of its module and by run of that module, counted from 0.
    names : sequence of str
        Names of the exits, for messages.
    at_exit : callable
        As in `MultiExitModel.walk`.
    start : int
        Exits before this one are passed silently.
    """

    def __init__(
        self,
        mark: Mark,
        places: Mapping[tuple[str, int], int],
        names: tuple[str, ...],
        at_exit: AtExit,
        start: int = 0,
    ) -> None:
        self.mark, self.places, self.names, self.at_exit = mark, places, names, at_exit
        self.start, self.reached = start, start
        self.runs: dict[str, int] = {}
        self.learns = torch.is_grad_enabled()
        self.outer: Walk | None = None

    def arrive(self, name: str, output: Any) -> Any:
        """A module with an exit has run; returns what the backbone continues with."""
        run = self.runs.get(name, 0)
        self.runs[name] = run + 1
        k = self.places.get((name, run))
        if k is None:
            if run == 1 and (name, 0) in self.places and self.names[self.places[name, 0]] == name:
                raise ValueError(
                    f"exit {name!r} ran twice in one forward of the backbone: name its runs as "
                    f"'{name}@0', '{name}@1', ..., or attach at a module that runs once"
                )
            return output
        if k < self.start:
            return output
        if k != self.reached:
            raise ValueError(
                f"exits are out of order: {self.names[k]!r} ran before "
                f"{self.names[self.reached]!r}, which is listed before it: list exits in the order "
                "in which their modules run"
            )
        if self.learns and not torch.is_grad_enabled() and self._learns(name):
            raise ValueError(
                f"exit {self.names[k]!r} runs without gradients inside a forward that has them, so "
                "the backbone would not learn from it: pass use_reentrant=False to "
                "torch.utils.checkpoint, or freeze the modules that run under torch.no_grad"
            )
        self.reached += 1
        return self.at_exit(k, output)

    def _learns(self, name: str) -> bool:
        """Whether a module, or the smallest one around it that has parameters, learns."""
        while True:
            found = [one.requires_grad for one in self.backbone.get_submodule(name).parameters()]
            if found or not name:
                return any(found)
            name = name.rpartition(".")[0]

    def run(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the backbone and return its output."""
        self.backbone = backbone
        if torch.compiler.is_dynamo_compiling():  # it cannot trace the setting of a ContextVar
            _TRACED.append(self)
            output = backbone(*args, **kwargs)
            _TRACED.pop()
        else:
            self.outer = _RUNNING.get()
            token = _RUNNING.set(self)
            try:
                output = backbone(*args, **kwargs)
            finally:
                _RUNNING.reset(token)
        if self.reached < len(self.names):
            raise ValueError(
                f"exit {self.names[self.reached]!r} did not run in the backbone's forward: attach "
                "at a module that does"
            )
        return output


#: The innermost walk of this thread or asyncio task.
_RUNNING: ContextVar[Walk | None] = ContextVar("laplex_early_exit_walk", default=None)
#: The walks that torch.compile is tracing.
_TRACED: list[Walk] = []


class ExitHook:
    """The forward hook of a module with exits, which does nothing outside a walk of its model.

    Parameters
    ----------
    mark : Mark
        That of the model.
    name : str
        Name of the module.
    """

    def __init__(self, mark: Mark, name: str) -> None:
        self.mark, self.name = mark, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Tell the walk that the module has run."""
        if not torch.compiler.is_dynamo_compiling():
            return self._arrive(output)
        for walk in _TRACED:
            if walk.mark is self.mark:
                return walk.arrive(self.name, output)
        if _TRACED:  # another model on the same backbone is traced
            return output
        return self._uncompiled(output)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _uncompiled(self, output: Any) -> Any:
        """In a backbone that was compiled alone, the graph is interrupted at each exit."""
        return self._arrive(output)

    def _arrive(self, output: Any) -> Any:
        walk = _RUNNING.get()
        while walk is not None and walk.mark is not self.mark:
            walk = walk.outer
        return output if walk is None else walk.arrive(self.name, output)
