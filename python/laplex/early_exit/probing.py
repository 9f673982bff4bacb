"""Find out, on a few samples, what the batch is to a backbone: where it lies, and what bypasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .activations import batch_of, rows_of, tensors_of
from .reading import check_alike
from .replaying import UNKNOWN, Axis, Call, Replica, cut_at

if TYPE_CHECKING:
    from .model import MultiExitModel

#: Number of samples that are tried.
_PROBED = 8


@dataclass
class Plan:
    """How a backbone goes on for fewer samples, for inputs of one structure.

    Attributes
    ----------
    replays : bool or None
        Whether the backbone has to run again after an exit, because its activation is not all that
        the rest needs. None if the samples were too similar to tell.
    exits : list of tuple
        For each exit, the dimension of each Tensor of its activation that is the batch.
    calls : dict
        The same for the modules whose outputs a `Replica` stores.
    """

    replays: bool | None
    exits: list[tuple[Axis, ...]]
    calls: dict[Call, tuple[Axis, ...]]


def structure_of(value: Any) -> Any:
    """What inputs must have in common to share a `Plan`."""
    if isinstance(value, Tensor):
        return value.ndim, value.dtype
    if isinstance(value, Mapping):
        return tuple((key, structure_of(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(structure_of(one) for one in value)
    return type(value), value if isinstance(value, (bool, int, float, str)) else None


def probe(model: MultiExitModel, x: Any) -> Plan:
    """Try a model on a few samples of a batch, on half of them, and with half leaving at each exit.

    The logits of those that stay must equal the logits that they have in the full batch.

    Parameters
    ----------
    model : MultiExitModel
        Must be in evaluation mode.
    x : Tensor [batch, ...], or nested
        At least 2 samples.

    Raises
    ------
    ValueError
        If the logits of a sample depend on the other samples of its batch, so that none may leave.
    """
    batch = batch_of(x, "x")
    count = min(_PROBED, batch)
    chosen = torch.arange(count) * batch // count  # from all of the batch
    some = rows_of(x, chosen, batch)
    stays = torch.arange(count) % 2 == 1
    together, exits, calls = _observed(model, some)
    for name, one in zip(model.output_names, together, strict=True):
        check_logits(one, count, name)
    check_alike(together, model.output_names)
    wanted = [one[stays.to(one.device)] for one in together]
    apart, fewer_exits, fewer_calls = _observed(model, rows_of(some, stays, count))
    alike = all(_close(one, one.roll(1, 0)) for one in together)
    whole = [one[chosen.to(one.device)] for one in model(x)] if batch > count else together
    for left, right in (*zip(apart, wanted, strict=True), *zip(whole, together, strict=True)):
        if left.shape != right.shape or not _close(left, right):
            raise ValueError(
                "the logits of a sample depend on the other samples of its batch (a BatchNorm "
                "without running statistics?) or change from call to call (dropout in evaluation "
                "mode?), so predictions would change when some leave: early exits need a backbone "
                "that treats samples independently in evaluation mode"
            )
    sizes = count, int(stays.sum())
    plan = Plan(
        None if alike else True,
        [axes_of(*pair, *sizes) for pair in zip(exits, fewer_exits, strict=True)],
        {
            call: axes_of(shapes, fewer_calls[call], *sizes)
            for call, shapes in calls.items()
            if call in fewer_calls
        },
    )
    if not alike:
        exits_before_last = range(model.num_exits - 1)
        plan.replays = not all(
            _passes_on(model, some, k, stays, wanted, plan) for k in exits_before_last
        )
    return plan


def check_logits(logits: Tensor, samples: int, name: str) -> None:
    """Check that the logits of an exit are those of some number of samples.

    Raises
    ------
    ValueError
        If they are not.
    """
    if logits.ndim != 2:
        raise ValueError(
            f"predict needs logits [batch, classes], but those of {name!r} are "
            f"{list(logits.shape)}: use forward for outputs of other shapes"
        )
    if len(logits) != samples:
        raise ValueError(
            f"{name!r} gives {len(logits)} rows of logits for {samples} samples: attach at a "
            "module whose output keeps samples apart, and use a backbone that can run with fewer"
        )


def axes_of(
    more: Sequence[Sequence[int]], fewer: Sequence[Sequence[int]], many: int, few: int
) -> tuple[Axis, ...]:
    """The batch dimension of each Tensor, from its shapes for `many` and for `few` samples."""
    if len(more) != len(fewer):
        return (UNKNOWN,) * len(more)
    found: list[Axis] = []
    for one, other in zip(more, fewer, strict=True):
        pairs = list(zip(one, other, strict=False))
        differ = [axis for axis, (a, b) in enumerate(pairs) if a != b]
        if len(one) == len(other) and not differ:
            found.append(None)
        elif len(one) == len(other) and len(differ) == 1 and pairs[differ[0]] == (many, few):
            found.append(differ[0])
        else:
            found.append(UNKNOWN)
    return tuple(found)


def _observed(
    model: MultiExitModel, x: Any
) -> tuple[list[Tensor], list[list[torch.Size]], dict[Call, list[torch.Size]]]:
    """Logits of all exits, and the shapes of activations and of what a `Replica` stores."""
    replica = Replica(model.backbone, model.module_names)
    replica.shapes = {}
    reader = model.reader(x)
    logits: list[Tensor] = []
    shapes: list[list[torch.Size]] = []

    def at_exit(k: int, activation: Any) -> Any:
        shapes.append([one.shape for one in tensors_of(activation)])
        logits.append(reader.logits(k, activation))
        return activation

    logits.append(reader.output(model.walk(x, at_exit, replica=replica)))
    return logits, shapes, replica.shapes


def _passes_on(
    model: MultiExitModel, x: Any, k: int, stays: Tensor, wanted: Sequence[Tensor], plan: Plan
) -> bool:
    """Whether the activation of exit k is all that the backbone needs to continue."""
    found: list[Tensor] = []
    reader = model.reader(x)

    def at_exit(place: int, activation: Any) -> Any:
        found.append(reader.logits(place, activation))
        if place == k:
            activation = cut_at(activation, stays, plan.exits[k])
            if activation is None:
                raise ValueError("its rows are not known")
            reader.keep(stays)
        return activation

    try:
        found.append(reader.output(model.walk(x, at_exit)))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # torch and libraries raise many kinds for shapes that do not fit
        return False  # the shapes no longer fit
    return all(
        one.shape == other.shape and _close(one, other)
        for one, other in zip(found[k + 1 :], wanted[k + 1 :], strict=True)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding that depends on the batch size."""
    rounding = 1e-8 if one.dtype == torch.float64 else 1e-3
    if one.dtype in (torch.float16, torch.bfloat16):
        rounding = 0.1
    scale = float(other.abs().nan_to_num(0, 0, 0).amax()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)
