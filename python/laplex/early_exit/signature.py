"""How a backbone takes its arguments, and what its modules are called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .activations import Inputs

#: What wrappers put into the names of modules: torch.compile, FSDP, activation checkpointing.
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")
#: Keys of a mapping that are for the loss.
LABELS = ("labels", "label")


class Signature:
    """How a backbone takes its arguments.

    Parameters
    ----------
    names : tuple of str
        Names of the arguments.
    required : tuple of str
        Those without a default.
    any_name : bool
        Whether it takes keywords of other names.
    cached : bool
        Whether it would return a cache of keys and values, which nobody needs here and which fewer
        samples do not fit.
    """

    def __init__(
        self,
        names: tuple[str, ...] = (),
        required: tuple[str, ...] = (),
        any_name: bool = False,
        cached: bool = False,
    ) -> None:
        self.names, self.required, self.any_name, self.cached = names, required, any_name, cached

    @classmethod
    def of(cls, backbone: nn.Module) -> Signature:
        """The signature of the forward of a backbone, or of what it wraps."""
        inner = backbone
        while True:
            peft = getattr(inner, "get_base_model", None)
            wrapped = getattr(inner, "_orig_mod", None)
            if _is_parallel(inner):
                wrapped = inner.module
            if callable(peft):
                wrapped = peft()
            if not isinstance(wrapped, nn.Module) or wrapped is inner:
                break
            inner = wrapped
        try:
            parameters = inspect.signature(inner.forward).parameters.values()
        except (TypeError, ValueError):  # some functions written in C have none
            return cls()
        kind = inspect.Parameter
        named = [
            one for one in parameters if one.kind in (kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY)
        ]
        names = tuple(one.name for one in named)
        required = tuple(one.name for one in named if one.default is kind.empty)
        any_name = any(one.kind is kind.VAR_KEYWORD for one in parameters)
        config = getattr(inner, "config", None)
        cached = "use_cache" in names or (any_name and bool(getattr(config, "use_cache", False)))
        return cls(names, required, any_name, cached)

    def arguments(self, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments of a call.

        `Inputs` are what they say. A mapping is passed by keywords if the forward has such
        arguments, without labels that it does not need; a tuple is spread if the forward needs
        several arguments. Anything else is the one argument.

        Raises
        ------
        ValueError
            If some keys of a mapping are arguments and others are not.
        """
        args: tuple[Any, ...] = (x,)
        kwargs: dict[str, Any] = {}
        if isinstance(x, Inputs):
            args, kwargs = x.args, dict(x.kwargs)
        elif isinstance(x, Mapping):
            given = {
                key: one for key, one in x.items() if key not in LABELS or key in self.required
            }
            if self._takes(given):
                args, kwargs = (), given
        elif isinstance(x, tuple) and not hasattr(x, "_fields") and len(self.required) > 1:
            args = x
        if self.cached and "use_cache" not in kwargs:
            kwargs["use_cache"] = False
        return args, kwargs

    def named(self, x: Any) -> dict[str, Any]:
        """Arguments of a call by name."""
        args, kwargs = self.arguments(x)
        return {**dict(zip(self.names, args, strict=False)), **kwargs}

    def _takes(self, given: Mapping[Any, Any]) -> bool:
        """Whether a mapping holds arguments by name, rather than being the argument."""
        known = [key for key in given if key in self.names]
        if not known and (self.names or not self.any_name):
            return False
        if not self.any_name and len(known) < len(given):
            other = next(key for key in given if key not in self.names)
            raise ValueError(
                f"x has {other!r}, which the backbone's forward does not take (it takes "
                f"{', '.join(self.names)}): remove it"
            )
        return True


def found_modules(backbone: nn.Module, names: Sequence[str]) -> list[tuple[str, int]]:
    """Look up the modules of exits.

    Parameters
    ----------
    backbone : Module
    names : sequence of str
        Names of exits: of modules, with or without those of wrappers, and perhaps ``@`` and the
        number of a run.

    Returns
    -------
    list of (str, int)
        The name of each module as the backbone has it, and the run.

    Raises
    ------
    TypeError, ValueError
        If there are no names, or one is not that of a module.
    """
    if isinstance(backbone, torch.jit.ScriptModule):
        raise TypeError(
            "backbone is a ScriptModule, whose modules cannot be watched: pass the module that it "
            "was made from"
        )
    known: dict[str, str] = {}
    for name, _ in backbone.named_modules():
        plain = _WRAPPED.sub("", name).removeprefix(".")
        if _is_parallel(backbone):
            plain = re.sub(r"^module(\.|$)", "", plain)
        if callable(getattr(backbone, "get_base_model", None)):  # PEFT
            plain = re.sub(r"^base_model(\.model)?(\.|$)", "", plain)
        for one in (plain, name):
            if one:
                known.setdefault(one, name)
    if not names:
        raise ValueError(
            f"exits is empty: name modules of the backbone, such as {', '.join(list(known)[:5])}"
        )
    found: list[tuple[str, int]] = []
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of exits must be str, got {name!r}")
        module, at, run = name.rpartition("@")
        if not (at and run.isdigit()):
            module, run = name, "0"
        if module not in known:
            first = _first_name(backbone, module)
            if first is not None:
                raise ValueError(
                    f"exit {name!r} is the same module as {first!r}: name its runs '{first}@0', "
                    f"'{first}@1', ..."
                )
            near = [one for one in known if module and (module in one or one in module)]
            listed = ", ".join((near or list(known))[:8])
            listed += ", ..." if len(near or known) > 8 else ""
            raise ValueError(
                f"exit {name!r} is not a module of the backbone: it has {listed}"
                if known
                else f"exit {name!r} is not a module of the backbone, which has no modules"
            )
        place = known[module], int(run)
        if place in found:
            raise ValueError(
                f"exits {names[found.index(place)]!r} and {name!r} are the same run of a module: "
                "name it once"
            )
        found.append(place)
    return found


def _first_name(backbone: nn.Module, other: str) -> str | None:
    """The name in `named_modules` of a module that is there under another name as well."""
    try:
        module = backbone.get_submodule(other)
    except (AttributeError, RuntimeError):
        return None
    return next((name for name, one in backbone.named_modules() if name and one is module), None)


def _is_parallel(module: nn.Module) -> bool:
    return isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel))
