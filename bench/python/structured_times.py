"""Times of a `LaplexLinear` by its call and by its formed weight, beside a dense layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from laplex.nn import LaplexLinear
from measure import measure
from studies import Record, Records, Results, Settings


def runs(_: Records, quick: bool) -> Iterator[Settings]:
    """Square layers, with rows from fewer than the inputs to many more."""
    for kernel in ("matern12", "matern32"):
        for side, rows in [(64, 16)] if quick else SHAPES:
            yield {"kernel": kernel, "side": side, "rows": rows, "heads": 2}


SHAPES = tuple((side, rows) for side in (64, 128, 512) for rows in (64, 256, 1024))


def time_steps(settings: Settings) -> Results:
    """The milliseconds of a forward and backward pass, on moved anchors as in training."""
    side, rows = settings["side"], settings["rows"]
    torch.manual_seed(0)
    inputs, ones = torch.randn(rows, side, requires_grad=True), torch.ones(rows, side)
    layer = LaplexLinear(side, side, heads=settings["heads"], kernel=settings["kernel"])
    dense = nn.Linear(side, side)

    def step(product: Callable[[], Tensor]) -> Callable[[], None]:
        def once() -> None:
            with torch.no_grad():
                layer.targets.mul_(1 + 1e-6)
            product().backward(ones)
            layer.zero_grad()
            dense.zero_grad()

        return once

    tasks = {
        "call": step(lambda: layer(inputs)),
        "weight": step(lambda: linear(inputs, layer.weight, layer.bias)),
        "dense": step(lambda: dense(inputs)),
    }
    return {f"{name}_ms": 1e3 * spent for name, spent in measure(tasks, 12, budget=3.0).items()}


def table(records: list[Record], _: Path) -> str:
    """Write the times, a shape a row."""
    lines = [
        "| kernel | inputs and outputs | rows | `layer(x)`, ms | `linear(x, layer.weight)`, ms "
        "| `nn.Linear`, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for each in records:
        times = [each[f"{name}_ms"] for name in ("call", "weight", "dense")]
        cells = [each["kernel"], f"{each['side']}", f"{each['rows']:,}"]
        lines.append(f"| {' | '.join(cells + [f'{spent:.3g}' for spent in times])} |")
    return "\n".join(lines) + "\n"
