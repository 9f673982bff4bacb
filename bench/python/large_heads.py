"""Write docs/measurements/large_heads.md: heads with 10^4 to 10^6 classes.

    python bench/python/large_heads.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

A network finds the word that a misspelt word was. The study compares its heads: Laplex, dense, low
rank, hashed and hierarchical ones. Each training is a line of docs/measurements/large_heads.jsonl;
what is there is not run again. A full run takes half an hour, and --quick some seconds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laplex
import large_heads_words as task
from laplex.nn import LaplexHead, blockwise_cross_entropy, blockwise_topk, sampled_cross_entropy
from large_heads_methods import METHODS, TUNED, best_classes, groups, loss_of
from large_heads_methods import parameters as count_of
from large_heads_plots import draw_accuracy, draw_routing
from sections import ROOT
from studies import Part, Record, Records, Results, Settings, best, main, spread

WIDTH, BATCH, STEPS, SAMPLED = 256, 256, 160, 512
FEW = 500  # spellings of the accuracy before and in the middle of a training
RATES = (1e-3, 4e-3, 1.6e-2)
TUNING, SEEDS = 100, (0, 1, 2)  # the seed of the search for a rate, and those of the tables

#: The methods with 100,000 words, which take half of the steps.
MANY = ("dense", "low rank, 16", "low rank, 32", "Laplex, 8 heads", "Laplex, 16 real heads")


class Training:
    """A network, its data and the time that its training takes, evaluation left out."""

    def __init__(self, words: int, method: str, seed: int, width: int, share: str) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.words = words
        self.encoder = task.Encoder(width)
        self.head: Any = METHODS[method].make(width, words)
        drawn = np.random.default_rng(10_000 + seed)
        self.held_out = task.samples(drawn.integers(words, size=1000), words, drawn, share)
        self.cpu_s = 0.0
        self.curve: list[tuple[float, float]] = []

    @torch.no_grad()
    def place(self) -> None:
        """Start the head at the features of the correct words."""
        start = time.process_time()
        every = task.grams(task.letters(self.words)).split(10_000)
        self.head.place_classes(torch.cat([self.encoder(each) for each in every]))
        self.cpu_s += time.process_time() - start

    def train(self, steps: int, rate: float, sampled: int, by_length: bool = True) -> None:
        """Train with Adam; `sampled` is 0 for the full loss, in blocks."""
        own = [{"params": list(self.encoder.parameters()), "lr": rate}]
        own += groups(self.head, rate, by_length)
        optimiser = torch.optim.Adam(own, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, [each["lr"] for each in own], total_steps=max(steps, 2), pct_start=0.1
        )
        start = time.process_time()
        for step in range(steps):
            if step == steps // 2:
                self.cpu_s += time.process_time() - start
                self.evaluate(FEW)
                start = time.process_time()
            labels = self.rng.integers(self.words, size=BATCH)
            given, target = task.samples(labels, self.words, self.rng, "training")
            features = self.encoder(given)
            if sampled:
                loss = loss_of(self.head, features, target, min(sampled, self.words))
            else:
                loss = blockwise_cross_entropy(self.head, features, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        self.cpu_s += time.process_time() - start

    @torch.no_grad()
    def evaluate(self, count: int = 1000) -> tuple[float, float]:
        """The percentage of held-out spellings whose word is the best, and among ten."""
        given, target = (each[:count] for each in self.held_out)
        found = best_classes(self.head, self.encoder(given), 10) == target[:, None]
        top1, top10 = (100 * float(each.float().mean()) for each in (found[:, 0], found.any(1)))
        self.curve.append((self.cpu_s, top1))
        return top1, top10


# --------------------------------------------------------------------------------- words, by method


def _settings(words: int, method: str, rate: float, seed: int, steps: int) -> Settings:
    steps *= METHODS[method].longer
    return {"words": words, "method": method, "rate": rate, "seed": seed, "steps": steps}


def word_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """A search for the rate of each family, then every method at its family's rate."""
    few, many, steps = (300, 400, 2) if quick else (10_000, 100_000, STEPS)
    for method in TUNED:
        for rate in RATES[:1] if quick else RATES:
            yield _settings(few, method, rate, TUNING, steps)
        rate = chosen(records.all())[METHODS[method].family]
        if rate in (RATES[0], RATES[-1]) and not quick:  # one more beyond the edge
            beyond = rate / 4 if rate == RATES[0] else 4 * rate
            yield _settings(few, method, beyond, TUNING, steps)
    rates = chosen(records.all())
    plan = ((few, METHODS, steps), (many, MANY, steps // 2))
    if quick:
        plan = ((few, TUNED[::5], steps), (many, MANY[:2], steps // 2))
    for words, methods, own_steps in plan:
        for seed in SEEDS[:1] if quick else SEEDS:
            for method in methods:
                yield _settings(words, method, rates[METHODS[method].family], seed, own_steps)


def chosen(records: Iterable[Record]) -> dict[str, float]:
    """The learning rate of each family that was best on the validation spellings."""
    searched = [each for each in records if each["seed"] == TUNING]
    own = {method: [e for e in searched if e["method"] == method] for method in TUNED}
    return {METHODS[method].family: best(e, "rate", "top1") for method, e in own.items() if e}


def word_train(settings: Settings) -> Results:
    """Train one method."""
    seed = settings["seed"]
    share = "validation" if seed == TUNING else "test"
    training = Training(settings["words"], settings["method"], seed, WIDTH, share)
    training.place()
    training.evaluate(FEW)
    training.train(settings["steps"], settings["rate"], SAMPLED)
    top1, top10 = training.evaluate()
    return {
        "top1": top1,
        "top10": top10,
        "curve": training.curve,
        "parameters": count_of(training.head),
        "cpu_s": training.cpu_s,
    }


def word_table(records: list[Record], folder: Path) -> str:
    """A table for each number of words, the rates, and the picture."""
    lines = []
    tested = [each for each in records if each["seed"] != TUNING]
    sizes = sorted({each["words"] for each in tested})
    for words in sizes:
        lines += [
            f"{words:,} words:",
            "",
            "| head | parameters of the head | top 1, % | top 10, % | top 1 before training, % | "
            "CPU s | peak MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            own = [e for e in tested if (e["words"], e["method"]) == (words, method)]
            if own:
                lines.append(
                    f"| {method} | {own[0]['parameters']:,} | "
                    f"{spread([e['top1'] for e in own], 1)} | "
                    f"{spread([e['top10'] for e in own], 1)} | "
                    f"{statistics.fmean(e['curve'][0][1] for e in own):.1f} | "
                    f"{spread([e['cpu_s'] for e in own], 1)} | "
                    f"{spread([e['peak_mib'] for e in own], 0)} |"
                )
        lines.append("")
    lines += ["Validation accuracy (top 1, %) of the learning rates:", ""]
    rates = sorted({each["rate"] for each in records if each["seed"] == TUNING})
    lines += ["| head | " + " | ".join(f"{rate:g}" for rate in rates) + " |"]
    lines += ["|---|" + "---|" * len(rates)]
    for method in TUNED:
        found = {e["rate"]: e["top1"] for e in records if (e["seed"], e["method"]) == (100, method)}
        cells = (f"{found[rate]:.1f}" if rate in found else "" for rate in rates)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    draw_accuracy(tested, folder / "large_heads_accuracy.png")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------- how well heads fit class means

MEANS = tuple(
    method for method in METHODS if method not in ("hierarchical",) and "long" not in method
)


def means_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """Every head at its start."""
    for method in MEANS[:2] if quick else MEANS:
        yield {"words": 300 if quick else 10_000, "method": method}


@torch.no_grad()
def means_train(settings: Settings) -> Results:
    """The part of the class means that the weight misses at its best scale."""
    training = Training(settings["words"], settings["method"], 0, WIDTH, "test")
    means = training.encoder(task.grams(task.letters(settings["words"])))
    training.place()
    zero, unit = torch.zeros(1, WIDTH), torch.eye(WIDTH)
    every = torch.arange(settings["words"])
    logits = training.head.logits if hasattr(training.head, "logits") else None
    weight = logits(unit, every) - logits(zero, every) if logits else training.head.weight.T
    centred = (means - means.mean(dim=0)).T
    left = centred - weight * ((weight * centred).sum() / weight.square().sum())
    return {"missed": float(left.norm() / centred.norm()), "parameters": count_of(training.head)}


def means_table(records: list[Record], folder: Path) -> str:
    """The relative errors."""
    lines = ["| head | parameters | part of the means that is missed |", "|---|---|---|"]
    for method in MEANS:
        for e in records:
            if e["method"] == method:
                lines.append(f"| {method} | {e['parameters']:,} | {e['missed']:.2f} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------ what makes training work

STARTS = {
    "random places, reach of one gap between classes": ("classes", False, False),
    "random places, reach of one gap between features": ("features", False, False),
    "the same, rates in units of the lengthscale": ("features", False, True),
    "from class means": ("features", True, False),
    "from class means, rates in units of the lengthscale": ("features", True, True),
}


class ClassGap(LaplexHead):
    """A head with the initial lengthscale that all had before: one gap between classes."""

    def _initial_lengthscale(self) -> float:
        return 2 / (self.targets.shape[-1] - 1)


def start_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """Every start with the rates of the grid, and with the best rate on three seeds."""
    words, steps = (300, 2) if quick else (1000, STEPS // 2)
    for start in STARTS:
        for rate in RATES[:1] if quick else RATES[1:]:
            yield {"start": start, "rate": rate, "seed": TUNING, "steps": steps, "words": words}
        own = [each for each in records.all() if each["start"] == start]
        rate = best([each for each in own if each["seed"] == TUNING], "rate", "top1")
        for seed in SEEDS[:1] if quick else SEEDS:
            yield {"start": start, "rate": rate, "seed": seed, "steps": steps, "words": words}


def start_train(settings: Settings) -> Results:
    """Train four heads from one start, on the full loss."""
    reach, placed, by_length = STARTS[settings["start"]]
    seed, words = settings["seed"], settings["words"]
    share = "validation" if seed == TUNING else "test"
    training = Training(words, "Laplex, 4 heads", seed, WIDTH, share)
    if reach == "classes":
        training.head = ClassGap(WIDTH, words, heads=4)
    if placed:
        training.place()
    training.train(settings["steps"], settings["rate"], 0, by_length)
    top1, top10 = training.evaluate()
    return {"top1": top1, "top10": top10, "cpu_s": training.cpu_s}


def start_table(records: list[Record], folder: Path) -> str:
    """The accuracy of each start."""
    lines = ["| start of 4 heads | rate | top 1, % | top 10, % | CPU s |", "|---|---|---|---|---|"]
    for start in STARTS:
        own = [e for e in records if e["start"] == start and e["seed"] != TUNING]
        lines.append(
            f"| {start} | {own[0]['rate']:g} | {spread([e['top1'] for e in own], 1)} | "
            f"{spread([e['top10'] for e in own], 1)} | {spread([e['cpu_s'] for e in own], 1)} |"
        )
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------- full or sampled loss


def loss_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """The full loss, and samples of several sizes."""
    words, steps = (300, 2) if quick else (10_000, STEPS // 4)
    for seed in SEEDS[:1] if quick else SEEDS:
        for sampled in (64, 0) if quick else (64, 512, 0):
            yield {"words": words, "sampled": sampled, "seed": seed, "steps": steps}


def loss_train(settings: Settings) -> Results:
    """Train two heads with one loss."""
    training = Training(settings["words"], "Laplex, 2 heads", settings["seed"], WIDTH, "test")
    training.place()
    training.train(settings["steps"], 4e-3, settings["sampled"])
    top1, top10 = training.evaluate()
    return {"top1": top1, "top10": top10, "cpu_s": training.cpu_s}


def loss_table(records: list[Record], folder: Path) -> str:
    """Accuracy and time of each loss."""
    lines = ["| loss | top 1, % | top 10, % | CPU s | peak MiB |", "|---|---|---|---|---|"]
    for sampled in sorted({each["sampled"] for each in records}, key=lambda k: k or math.inf):
        own = [each for each in records if each["sampled"] == sampled]
        name = f"{sampled} sampled classes" if sampled else "all classes, in blocks"
        cells = (spread([e[key] for e in own], 1) for key in ("top1", "top10", "cpu_s"))
        peak = spread([e["peak_mib"] for e in own], 0)
        lines.append(f"| {name} | {' | '.join(cells)} | {peak} |")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------- a step at 10^6 classes

STEP_METHODS = ("dense", "low rank, 16", "Laplex, 4 heads", "Laplex, 16 real heads")
STEP_LOSSES = ("sampled", "in blocks", "torch's cross entropy")


def step_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """A step of training at sizes up to 10^6; all logits at once only where they fit."""
    for classes in (1000,) if quick else (100_000, 1_000_000):
        # A dense head of 10^6 classes takes 4 GiB: its weight, the gradient and Adam's two means.
        for method in STEP_METHODS[classes > 100_000 :]:
            for loss in STEP_LOSSES[: 1 if method != "Laplex, 4 heads" else 3]:
                if loss != "torch's cross entropy" or classes <= 100_000:
                    yield {"classes": classes, "method": method, "loss": loss}


def step_train(settings: Settings) -> Results:
    """Take three steps of 64 samples with Adam, and find the ten best classes of them."""
    laplex.plan_cache.set_max_bytes(0)  # a new plan each step is of no use later
    classes, rows = settings["classes"], 64
    torch.manual_seed(0)
    head: Any = METHODS[settings["method"]].make(WIDTH, classes)
    optimiser = torch.optim.Adam(groups(head, 1e-3), fused=True)
    given, labels = torch.randn(rows, WIDTH), torch.randint(classes, (rows,))
    times = []
    for _ in range(3 if settings["loss"] == "sampled" else 1):
        start = time.process_time()
        optimiser.zero_grad()
        _step_loss(head, given, labels, settings["loss"]).backward()
        optimiser.step()
        times.append(time.process_time() - start)
    start = time.process_time()
    blockwise_topk(head, given, 10)
    return {
        "step_ms": 1000 * min(times),
        "predict_ms": 1000 * (time.process_time() - start),
        "parameters": count_of(head),
    }


def _step_loss(head: Any, given: Tensor, labels: Tensor, loss: str) -> Tensor:
    if loss == "sampled":
        return sampled_cross_entropy(head, given, labels, num_sampled=SAMPLED)
    if loss == "in blocks":
        return blockwise_cross_entropy(head, given, labels)
    return nn.functional.cross_entropy(head(given), labels)


def step_table(records: list[Record], folder: Path) -> str:
    """Time and memory of a step."""
    lines = [
        "| classes | head | loss | parameters | ms a step of 64 samples | ms for their ten best "
        "classes | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in sorted(records, key=lambda e: e["classes"]):
        lines.append(
            f"| {e['classes']:,} | {e['method']} | {e['loss']} | {e['parameters']:,} | "
            f"{e['step_ms']:,.0f} | {e['predict_ms']:,.0f} | {e['peak_mib']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------- all words, and their routing


def picture_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """One training with as many words as there are."""
    words, steps = (400, 2) if quick else (250_000, STEPS)
    yield {"words": words, "method": "Laplex, 8 real heads", "seed": 0, "steps": steps}


def picture_train(settings: Settings) -> Results:
    """Train one head on all words, and keep what the picture shows."""
    training = Training(settings["words"], settings["method"], settings["seed"], WIDTH, "test")
    training.place()
    training.evaluate(FEW)
    training.train(settings["steps"], 4e-3, SAMPLED)
    top1, top10 = training.evaluate()
    kept = _kept(settings["words"])
    kept.parent.mkdir(parents=True, exist_ok=True)
    names = task.names_of_features(training.encoder, settings["words"])
    torch.save({"head": training.head.state_dict(), "features": names}, kept)
    return {
        "top1": top1,
        "top10": top10,
        "before": training.curve[0][1],
        "parameters": count_of(training.head),
        "cpu_s": training.cpu_s,
        "ms_a_step": 1000 * (training.cpu_s - training.curve[0][0]) / settings["steps"],
    }


def _kept(words: int) -> Path:
    """Where the trained head is kept for the picture; without it, the picture stays as it is."""
    return ROOT / "build" / "large_heads" / f"{words}_words.pt"


def picture_table(records: list[Record], folder: Path) -> str:
    """The accuracy with all words, and the picture of one head."""
    lines = [
        "| words | head | parameters of the head | top 1 before training, % | top 1, % | "
        "top 10, % | CPU s | ms a step | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in records:
        lines.append(
            f"| {e['words']:,} | {e['method']} | {e['parameters']:,} | {e['before']:.1f} | "
            f"{e['top1']:.1f} | {e['top10']:.1f} | {e['cpu_s']:.0f} | {e['ms_a_step']:.0f} | "
            f"{e['peak_mib']:,.0f} |"
        )
        if _kept(e["words"]).exists():
            kept = torch.load(_kept(e["words"]))
            head: Any = METHODS[e["method"]].make(WIDTH, e["words"])
            head.load_state_dict(kept["head"])
            draw_routing(head, task.words(e["words"]), kept["features"], folder)
    return "\n".join(lines) + "\n"


PARTS = {
    "words": Part(word_runs, word_train, word_table),
    "all": Part(picture_runs, picture_train, picture_table),
    "means": Part(means_runs, means_train, means_table),
    "start": Part(start_runs, start_train, start_table),
    "losses": Part(loss_runs, loss_train, loss_table),
    "steps": Part(step_runs, step_train, step_table),
}

if __name__ == "__main__":
    assert __doc__
    main("large_heads", __doc__, PARTS)
