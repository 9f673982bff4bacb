"""Model of the operator on many GPUs: bytes over bandwidths, plus latencies. It measures nothing.

    python bench/python/distributed_model.py [--nic 25] [--device 3.35e3] ... [--write]

Prints tables in Markdown, for n = m anchors in float32: times of a product, a plan and the
gradients; strong and weak scaling; and a batch shared by rows against one shared along the line.
The operator does not run on several GPUs yet. Every constant is an option; the defaults are an
H100 with the bytes counted in docs/explanation/gpu.md. `--write` puts the tables between the marks
of docs/guides/distributed.md.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "distributed.md"


def _of(default: float, what: str) -> float:
    made: float = field(default=default, metadata={"help": what})
    return made


@dataclass(frozen=True)
class Model:
    """The constants, and the times in seconds that follow from them."""

    device: float = _of(2680, "GB/s of a GPU's memory: 0.8 of 3350")
    nvlink: float = _of(370, "GB/s of a GPU to those of its node, as NCCL measures")
    nic: float = _of(40, "GB/s of a GPU to other nodes: 0.8 of 400 Gbit/s")
    node: float = _of(8, "GPUs of a node")
    latency: float = _of(12, "microseconds of a step of a small collective")
    exchange: float = _of(15, "microseconds of an all_to_all")
    message: float = _of(1.5, "microseconds of an all_to_all for each further node")
    half: float = _of(128, "KB of a message that goes to a node at half the speed")
    product: float = _of(94, "bytes of device memory for each n of a product, random order")
    gradients: float = _of(212, "the same for the gradients")
    further: float = _of(0.5, "gradients of a further row, as a part of those of the first")
    plan: float = _of(165, "the same for a plan")
    partition: float = _of(12, "the same for dealing out one array of values by rank")
    memory: float = _of(65, "bytes held for each n: plan, update, forward and backward pass")
    copies: float = _of(32, "bytes held for each n besides on several GPUs, in line order")
    segments: float = _of(8192, "largest number of segments, of 16,384 anchors or more")
    arrays: float = _of(5, "arrays of n parameters whose gradients a shared batch adds up")

    def work(self, what: float, n: float) -> float:
        return what * n / (self.device * 1e9)

    def all_to_all(self, size: float, ranks: int) -> float:
        """Every rank sends `size` bytes, to each the same part."""
        if ranks == 1:
            return 0.0
        inside = min(ranks, self.node)
        seconds = self.exchange * 1e-6 + size * (inside - 1) / ranks / (self.nvlink * 1e9)
        if ranks <= self.node:
            return seconds
        together = size / ranks * self.node  # what a GPU sends to a node is one message
        speed = self.nic * 1e9 * together / (together + self.half * 1e3)
        start = self.exchange + self.message * ranks / self.node
        return max(seconds, start * 1e-6 + size * (ranks - self.node) / ranks / speed)

    def all_gather(self, size: float, ranks: int) -> float:
        """Every rank receives `size` bytes of each."""
        if ranks == 1:
            return 0.0
        speed = self.nvlink if ranks <= self.node else self.nic
        return self.latency * 1e-6 * math.ceil(math.log2(ranks)) + size * ranks / (speed * 1e9)

    def carries(self, n: float, ranks: int, rows: float) -> float:
        """Two doubles a row of each segment."""
        segments = min(self.segments, max(1, 2 * n / 16384))
        return self.all_gather(16 * segments / ranks * rows, ranks)

    def moved(self, n: float, ranks: int, rows: float = 1) -> float:
        """One array from the owners of its entries to their places on the line, or back."""
        if ranks == 1:
            return 0.0
        mine = n / ranks * rows
        return self.work(self.partition, mine) + self.all_to_all(4 * mine, ranks)

    def forward(self, n: float, ranks: int, rows: float = 1) -> float:
        product = self.work(self.product, n / ranks * rows)
        return 2 * self.moved(n, ranks, rows) + product + self.carries(n, ranks, rows)

    def planning(self, n: float, ranks: int) -> float:
        seconds = self.work(self.plan, n / ranks)
        if ranks == 1:
            return seconds
        cuts = 4 * (self.all_gather(8 * 256, ranks) + self.work(self.partition, n / ranks))
        return seconds + cuts + 2 * self.moved(n, ranks)

    def backward(self, n: float, ranks: int, rows: float = 1) -> float:
        """Cotangents go to the line; gradients by values and by both anchors come back."""
        work = self.work(self.gradients, n / ranks) * (1 + (rows - 1) * self.further)
        moved = 2 * self.moved(n, ranks, rows) + 2 * self.moved(n, ranks)
        return work + moved + 2 * self.carries(n, ranks, rows)

    def step(self, n: float, ranks: int, rows: float = 1) -> float:
        return (
            self.planning(n, ranks) + self.forward(n, ranks, rows) + self.backward(n, ranks, rows)
        )

    def in_line_order(self, n: float, ranks: int) -> float:
        """A forward pass of values that stay in line order; a product in order takes 26 bytes."""
        return self.work(26, n / ranks) + self.carries(n, ranks, 1)

    def shared_batch(self, n: float, ranks: int, rows: float) -> float:
        """A training step with `rows` on each rank, all anchors on all, gradients all-reduced."""
        reduced = 0.0 if ranks == 1 else 2 * self.arrays * 4 * n / (self.nic * 1e9)
        return self.step(n, 1, rows) + reduced

    def held(self, n: float, ranks: int) -> float:
        """Bytes a GPU."""
        return (self.memory + (self.copies if ranks > 1 else 0)) * n / ranks


def power(n: float) -> str:
    exponent = math.floor(math.log10(n))
    first = "" if n == 10**exponent else f"{n / 10**exponent:.2g} x "
    return f"{first}10^{exponent}"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["--:"] * len(head), *rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def costs(model: Model) -> list[str]:
    found = []
    for n, ranks in [(1e9, 1), (1e9, 8), (1e9, 64), (1e10, 64), (1e12, 1024)]:
        times = model.forward(n, ranks), model.planning(n, ranks), model.backward(n, ranks)
        found.append([power(n), f"{ranks:,}", *map(ms, times), f"{model.held(n, ranks) / 1e9:.3g}"])
    head = ["n = m", "GPUs", "product", "plan", "gradients", "GB a GPU"]
    return ["Milliseconds for one row, modelled:", *table(head, found)]


def strong(model: Model) -> list[str]:
    counts = (32, 64, 128, 256, 512, 1024)

    def spent(n: float, ranks: int) -> float:
        return model.forward(n, ranks) * ranks

    found = [
        [power(n), *(f"{spent(n, 16) / spent(n, ranks):.0%}" for ranks in counts)]
        for n in (1e8, 1e9, 1e10, 1e11)
    ]
    return [
        "Strong scaling, modelled: efficiency of a product against 16 GPUs:",
        *table(["n = m", *(f"{ranks:,} GPUs" for ranks in counts)], found),
    ]


def weak(model: Model) -> list[str]:
    n = 5e8
    kinds = {
        "product": model.forward,
        "training step": model.step,
        "product in line order": model.in_line_order,
    }
    counts = (2, 8, 16, 64, 256, 1024)
    found = [
        [name, *(f"{time(n, 1) / time(n * ranks, ranks):.0%}" for ranks in counts)]
        for name, time in kinds.items()
    ]
    return [
        f"Weak scaling, modelled: efficiency against one GPU, n = {power(n)} a GPU:",
        *table(["", *(f"{ranks:,} GPUs" for ranks in counts)], found),
    ]


def rows_or_line(model: Model) -> list[str]:
    n, ranks = 1e8, 64
    found = []
    for rows in (1, 2, 3, 4, 8, 16, 64):
        batch, line = model.shared_batch(n, ranks, rows), model.step(n, ranks, rows * ranks)
        found.append([str(rows), ms(batch), ms(line), f"{batch / line:.2f}"])
    head = ["rows a GPU", "batch shared", "line shared", "batch / line"]
    return [
        f"Milliseconds of a training step on {ranks} GPUs, n = {power(n)}, modelled:",
        *table(head, found),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for one in fields(Model):
        text = f"{one.metadata['help']} (default: %(default)g)"
        parser.add_argument(f"--{one.name}", type=float, default=one.default, help=text)
    parser.add_argument("--write", action="store_true", help=f"write the tables to {PAGE.name}")
    options = vars(parser.parse_args())
    write = options.pop("write")
    model = Model(**options)
    text = "\n".join(line for make in (costs, rows_or_line, weak, strong) for line in make(model))
    print(text)
    if write:
        marked = r"(<!-- model -->\n).*?(<!-- end -->)"
        page = PAGE.read_text()
        PAGE.write_text(re.sub(marked, lambda m: m[1] + text + m[2], page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
