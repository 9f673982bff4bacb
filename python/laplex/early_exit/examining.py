"""Run an example through a backbone, to learn what heads must know of its activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .activations import batch_of, main_tensor, rows_of
from .layouts import Layout, Witness, channel_axis_of, twice_as_large
from .probing import axes_of
from .replaying import UNKNOWN

if TYPE_CHECKING:
    from .model import MultiExitModel


def examined(
    model: MultiExitModel,
    example: Any,
    num_classes: int,
    axes: Mapping[str, int],
    *,
    as_it_is: bool,
) -> tuple[list[Any], list[Layout | None], Tensor]:
    """Run an example through the backbone of a model, whose heads are not run.

    Parameters
    ----------
    model : MultiExitModel
        Must be in evaluation mode.
    example
        The inputs.
    num_classes : int
    axes : mapping
        The dimension of the channels by name of the exit, where it is known.
    as_it_is : bool
        Whether heads take activations as they are, without a layout.

    Returns
    -------
    activations : list
        The output of the module of each exit.
    layouts : list of Layout or None
    logits : Tensor
        Those of the backbone.

    Raises
    ------
    ValueError
        If logits do not fit the number of classes and samples, or it cannot be found out which
        dimension of an activation is the batch or the channels.
    """
    batch = batch_of(example, "example")
    if not batch:
        raise ValueError("example has no samples: pass a batch of at least one")
    witness = Witness(model.backbone)
    seen: list[Any] = []
    evidence = []

    def look(k: int, activation: Any) -> Any:
        seen.append(activation)
        evidence.append(witness.evidence(_module(model, k)))
        return activation

    with witness.watching():
        logits = model.walk(example, look)
    _check_example(logits, num_classes, batch, as_it_is)
    if as_it_is:
        return seen, [None] * len(seen), logits
    now = [main_tensor(one).shape for one in seen]
    other = batch + 1 if batch < 3 else batch - 1
    then = _shapes(model, rows_of(example, torch.arange(other) % batch, batch))
    layouts: list[Layout | None] = []
    growth = _Growth(model, rows_of(example, slice(2), batch))
    for k, name in enumerate(model.exit_names):
        (batch_axis,) = axes_of([now[k]], [then[k]], batch, other)
        if batch_axis is None or batch_axis == UNKNOWN:
            raise ValueError(
                f"the activation of exit {name!r} is {list(now[k])} for {batch} samples and "
                f"{list(then[k])} for {other}, so no dimension of it is the batch: attach at "
                "another module, or pass a function for head"
            )
        if name in axes:
            channels = _axis(axes[name], now[k], batch_axis, name)
        else:
            channels = channel_axis_of(
                now[k],
                batch_axis,
                evidence[k],
                declared=_declared(_module(model, k)) or _declared(model.backbone),
                grown=lambda k=k: growth.shape(k),  # type: ignore[misc]
                where=name,
            )
        layouts.append(Layout(channels, batch_axis))
    return seen, layouts, logits


class _Growth:
    """Shapes of the activations for inputs of twice the size."""

    def __init__(self, model: MultiExitModel, example: Any) -> None:
        self.model, self.example = model, example
        self._runs: list[dict[int, torch.Size]] | None = None

    def shape(self, k: int) -> torch.Size | None:
        if self._runs is None:
            self._runs = [self._run(tokens) for tokens in (False, True)]
        return next((run[k] for run in self._runs if k in run), None)

    def _run(self, tokens: bool) -> dict[int, torch.Size]:
        larger = twice_as_large(self.example, tokens)
        if larger is None:
            return {}
        witness = Witness(self.model.backbone)
        found: dict[int, torch.Size] = {}
        sure: set[int] = set()

        def note(k: int, activation: Any) -> Any:
            found[k] = main_tensor(activation).shape
            if witness.evidence(_module(self.model, k)).before:
                sure.add(k)
            return activation

        try:
            with witness.watching():
                self.model.walk(larger, note)
        except Exception:  # the backbone is for one size, or what has grown are its channels,
            # which the first layer with weights would have refused
            return {k: shape for k, shape in found.items() if k in sure}
        return found


def _shapes(model: MultiExitModel, x: Any) -> list[torch.Size]:
    found: list[torch.Size] = []

    def note(k: int, activation: Any) -> Any:
        found.append(main_tensor(activation).shape)
        return activation

    model.walk(x, note)
    return found


def _module(model: MultiExitModel, k: int) -> nn.Module:
    return model.backbone.get_submodule(model.module_names[k])


def _declared(module: nn.Module) -> str | None:
    """The layout of its activations that a model of timm declares, such as ``"NHWC"``."""
    found = getattr(module, "output_fmt", None)
    return str(getattr(found, "value", found)) if found is not None else None


def _axis(axis: int, shape: Sequence[int], batch_axis: int, name: str) -> int:
    found = axis + len(shape) if axis < 0 else axis
    if not 0 <= found < len(shape) or found == batch_axis:
        raise ValueError(
            f"channel_axis is {axis} for exit {name!r}, whose activation is {list(shape)} with the "
            f"batch as dimension {batch_axis}: pass the number of another dimension"
        )
    return found


def _check_example(logits: Tensor, num_classes: int, batch: int, as_it_is: bool) -> None:
    if logits.ndim != 2 and not as_it_is:
        raise ValueError(
            f"the backbone gives logits {list(logits.shape)}, but heads by name give one row of "
            "classes for each sample: pass a function for head that makes a module with such logits"
        )
    if len(logits) != batch:
        raise ValueError(
            f"the backbone gives {len(logits)} rows of logits for {batch} samples: the batch must "
            "be the first dimension of its inputs and outputs"
        )
    if logits.ndim == 2 and logits.shape[1] != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the backbone has {logits.shape[1]} classes: "
            f"replace its last layer, or pass num_classes={logits.shape[1]}"
        )
