"""Writes docs/measurements/layer_times.md: the time of a training step beside nn.Linear.

    python bench/python/layers.py [--quick] [--rounds N] [--out docs/measurements/layer_times.md]

A step is a forward pass of 256 rows and the backward pass to all parameters, with the optimiser's
step measured by itself. Both layers run in the same rounds, and the minimum counts: process CPU
time on one thread, elapsed time on two. Takes three minutes, or half a minute with --quick.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import laplex
from laplex import _core
from laplex.nn import LaplexLinear
from machine import processor
from measure import measure

ROOT = Path(__file__).parents[2]
BATCH = 256
#: in, out, heads, phased
SHAPES = (
    (64, 64, 1, True),
    (64, 64, 1, False),
    (784, 256, 1, True),
    (784, 256, 1, False),
    (784, 256, 4, True),
    (4096, 4096, 1, True),
    (4096, 4096, 4, True),
)
HEADER = """\
# Times of layers

A training step of `LaplexLinear` beside one of `nn.Linear` with the same inputs and outputs, for
{batch} rows in float32. "Step" is the forward pass and the backward pass to all parameters, with
anchors that an optimiser has just moved, so that each step sorts them. "Same anchors" is the same
without moving them. "Forward" is the forward pass alone, without gradients. All times are in
microseconds, and every ratio is that of a row's own round.

`python bench/python/layers.py` wrote this page: {processor}, `{level}`, laplex {laplex}, torch
{torch}, {date}.
"""

Task = Callable[[], object]


def tasks_of(layer: nn.Module) -> dict[str, Task]:
    """Return what is measured of a layer."""
    rows = torch.randn(BATCH, layer.in_features)
    ones = torch.ones(BATCH, layer.out_features)
    leaves = list(layer.parameters())
    adam = torch.optim.Adam(leaves, lr=0.0, fused=True)
    anchors = [layer.targets, layer.sources] if isinstance(layer, LaplexLinear) else []

    def step() -> None:
        layer(rows).backward(ones)
        for leaf in leaves:
            leaf.grad = None

    def moved_step() -> None:
        with torch.no_grad():
            for each in anchors:
                each.mul_(1 + 1e-6)
        step()

    def forward() -> Any:
        with torch.no_grad():
            return layer(rows)

    gradients = [torch.randn_like(leaf) for leaf in leaves]

    def optimise() -> None:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        adam.step()
        for leaf in leaves:
            leaf.grad = None

    return {"step": moved_step, "same anchors": step, "forward": forward, "Adam": optimise}


def table(threads: int, shapes: tuple[tuple[int, int, int, bool], ...], rounds: int) -> str:
    """Measure all shapes with so many threads."""
    torch.set_num_threads(threads)
    whats = ("step", "same anchors", "forward", "Adam")
    lines = ["| layer | " + " | ".join(f"{what} | of nn.Linear's" for what in whats) + " |"]
    lines.append("|---|" + "--:|" * (2 * len(whats)))
    for ins, outs, heads, phased in shapes:
        torch.manual_seed(0)
        layers = {
            "own": LaplexLinear(ins, outs, heads=heads, phased=phased),
            "dense": nn.Linear(ins, outs),
        }
        tasks = {
            (who, what): task
            for who, layer in layers.items()
            for what, task in tasks_of(layer).items()
        }
        best = measure(tasks, rounds, wall=threads > 1)
        name = f"{ins} to {outs}, {heads} head{'s' if heads > 1 else ''}"
        name += "" if phased else ", no phases"
        cells = [name]
        for what in whats:
            own, dense = best["own", what], best["dense", what]
            cells += [f"{own * 1e6:,.0f}", f"{own / dense:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out layers with more than 1,000 inputs"
    )
    parser.add_argument(
        "--rounds", type=int, default=40, help="rounds of measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "measurements" / "layer_times.md",
        help="file to write (default: %(default)s)",
    )
    options = parser.parse_args()
    shapes = tuple(shape for shape in SHAPES if not options.quick or shape[0] <= 1000)
    page = HEADER.format(
        batch=BATCH,
        processor=processor(),
        level=_core.info()["isa"],
        laplex=laplex.__version__,
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
    )
    for threads, title in ((1, "One thread, process CPU time"), (2, "Two threads, elapsed time")):
        page += f"\n## {title}\n\n{table(threads, shapes, options.rounds)}\n"
    options.out.write_text(page)


if __name__ == "__main__":
    main()
