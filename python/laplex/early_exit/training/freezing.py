"""Freeze a part of a model, bit for bit, during a phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..model import MultiExitModel
from .strategies import Part


def check_parts(model: MultiExitModel) -> None:
    """Check that the backbone and the heads can be frozen separately.

    Raises
    ------
    ValueError
        If a head shares a parameter or a buffer with the backbone.
    """
    owned = {id(one): name for name, one in model.backbone.named_parameters()}
    owned.update({id(one): name for name, one in model.backbone.named_buffers()})
    for exit_name, head in zip(model.output_names, [*model.heads, model.output_head], strict=True):
        if head is None:
            continue
        for name, one in [*head.named_parameters(), *head.named_buffers()]:
            if id(one) in owned:
                raise ValueError(
                    f"the head of exit {exit_name!r} shares {name!r} with {owned[id(one)]!r} of "
                    "the backbone, so neither can be frozen alone: give the head a copy"
                )


def trained_parts(model: MultiExitModel, part: Part) -> list[nn.Module]:
    """The modules that a phase trains."""
    parts: list[nn.Module] = [model.backbone, model.heads]
    if model.output_head is not None:
        parts.append(model.output_head)
    return {"backbone": parts[:1], "heads": parts[1:], "all": parts}[part]


def set_modes(model: MultiExitModel, part: Part) -> None:
    """Set training mode for the part that a phase trains, and evaluation mode for the rest.

    Modules whose parameters were all frozen by the caller, and modules without parameters inside
    them, are set to evaluation mode as well, so that their statistics do not change.
    """
    model.eval()
    for trained in trained_parts(model, part):
        _set_mode(trained, frozen=False)


def _set_mode(module: nn.Module, *, frozen: bool) -> None:
    flags = [one.requires_grad for one in module.parameters()]
    if flags:
        frozen = not any(flags)
    module.training = not frozen
    for child in module.children():
        _set_mode(child, frozen=frozen)


@contextmanager
def training_only(model: MultiExitModel, part: Part) -> Iterator[None]:
    """Enable gradients for one part only; afterwards drop them, and restore all flags and modes.

    Raises
    ------
    ValueError
        If there is nothing to train, because the caller has frozen the whole part.
    """
    flags = [(one, one.requires_grad) for one in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    learning: list[nn.Parameter] = []
    try:
        trained = {id(one) for one in trained_parts(model, part)}
        for child in trained_parts(model, "all"):
            if id(child) not in trained:
                child.requires_grad_(False)
        learning = [one for one in model.parameters() if one.requires_grad]
        if not learning:
            what = {"backbone": "the backbone", "heads": "the heads", "all": "the model"}[part]
            raise ValueError(
                f"a phase trains {part!r}, but no parameter of {what} requires a gradient: call "
                "requires_grad_(True) on the modules to train, or omit the phase"
            )
        set_modes(model, part)
        yield
    finally:
        for one in learning:
            one.grad = None
        for one, flag in flags:
            one.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
