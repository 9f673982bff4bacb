"""Structured layers at equal parameters and at equal time, in a small ViT and an MLP-Mixer.

The networks learn Fashion-MNIST (with --quick: the digits of scikit-learn). The layers differ;
the embedding of patches and the head are dense in all. Every method gets a learning rate for its
layers by the same search on held-out training images, and one rate serves the dense rest of all.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import structured_layers as layers
import structured_times
from laplex._support.image_datasets import load_images
from structured_networks import Make, MixerBlock, Network, TransformerBlock, patches
from structured_page import ONE_SIZE, equal_parameters, equal_time, listing, ranks
from studies import Part, Records, Results, Settings, best, main

#: The ladder of learning rates of the layers. A search starts at 3e-3 and 1e-2, and climbs.
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
REST_RATE = 2e-3
BATCH = 64
#: Images that training samples are drawn from, and test images.
POOL, TEST = 20_000, 5_000
TUNING_SEED, TUNING_STEPS = 100, 90


@dataclass(frozen=True)
class Shape:
    """A network: its blocks, the side of its patches, its width and its depth."""

    block: type[TransformerBlock | MixerBlock]
    patch: int
    width: int
    depth: int


VIT, MIXER = Shape(TransformerBlock, 7, 64, 2), Shape(MixerBlock, 4, 64, 1)
NETWORKS = {"vit": VIT, "mixer": MIXER}
#: The heads of `LaplexLinear` that set the budgets; rates are searched at the first.
BUDGETS = {"vit": (2, 1), "mixer": (2,)}
SEEDS, TIME_SEEDS = {"vit": 5, "mixer": 5}, 3


def budget(n: int, m: int, heads: int) -> int:
    """The parameters of the weight of a phased `LaplexLinear`."""
    return heads * (2 * m + 3 * n + 1)


def sized(kind: type[layers.Structured], heads: int) -> Make:
    """Make layers of a kind whose number of parameters is nearest to that of so many heads."""

    def make(n: int, m: int) -> nn.Module:
        target = budget(n, m, heads)
        sizes = range(1, 1 + kind.most(n, m, target))
        return kind(n, m, min(sizes, key=lambda size: abs(kind.count(n, m, size) - target)))

    return make


def heads_of(heads: int, kind: type[layers.Laplex] = layers.Laplex, **options: object) -> Make:
    return lambda n, m: kind(n, m, heads=heads, **options)


#: From the number of heads that sets the budget to the maker of layers.
METHODS: dict[str, Callable[[int], Make]] = {
    "Laplex": heads_of,
    "Laplex, no phases": lambda heads: heads_of(math.ceil(5 * heads / 3 - 0.5), phased=False),
    "Laplex, Matern 3/2": lambda heads: heads_of(heads, kernel="matern32"),
    "Laplex, short start": lambda heads: heads_of(heads, layers.ShortLaplex),
    "low rank": functools.partial(sized, layers.LowRank),
    "Monarch": functools.partial(sized, layers.Monarch),
    "butterfly": functools.partial(sized, layers.Butterfly),
    "block circulant": functools.partial(sized, layers.BlockCirculant),
    "Toeplitz-like": functools.partial(sized, layers.ToeplitzLike),
    "circulant-diagonal": functools.partial(sized, layers.CirculantDiagonal),
    "Kronecker": functools.partial(sized, layers.Kronecker),
    "block diagonal": functools.partial(sized, layers.BlockDiagonal),
    "VeRA-like": functools.partial(sized, layers.Vera),
    "dense, narrow": functools.partial(sized, layers.Dense),
    "dense": functools.partial(sized, layers.Dense),
}
#: What the Mixer leaves out: variants of ours, and two of the slowest.
LEFT_OUT = {
    "vit": (),
    "mixer": ("Laplex, no phases", "Laplex, Matern 3/2", "butterfly", "circulant-diagonal"),
}
#: The methods that also train four times as long, on more images.
LONG = ("Laplex", "block circulant", "dense, narrow", "dense")
QUICK = ("Laplex", "low rank", "block circulant", "dense, narrow", "dense")


def narrow(shape: Shape, tokens: int, heads: int) -> tuple[int, float]:
    """The width and the ratio of MLPs whose dense layers have about as many parameters as ours.

    The ViT gets a smaller width. The Mixer keeps it, as it cannot have fewer tokens, and gets
    fewer hidden values.
    """
    target = weights(shape, tokens, (shape.width, 2), lambda n, m: budget(n, m, heads))
    forms: list[tuple[int, float]] = [(width, 2) for width in range(4, shape.width, 4)]
    if shape.block is MixerBlock:
        forms = [(shape.width, k / shape.width) for k in range(1, shape.width)]
    dense = {form: weights(shape, tokens, form, lambda n, m: n * m) for form in forms}
    return min(forms, key=lambda form: abs(dense[form] - target))


def weights(
    shape: Shape, tokens: int, form: tuple[int, float], count: Callable[[int, int], int]
) -> int:
    """Sum a count over the layers of a block."""
    width, ratio = form
    total = 4 * count(width, width) if shape.block is TransformerBlock else 0
    for side in (width, tokens) if shape.block is MixerBlock else (width,):
        hidden = round(ratio * side)
        total += count(side, hidden) + count(hidden, side)
    return total


@functools.cache
def images(name: str) -> tuple[torch.Tensor, ...]:
    """Training images and labels, test images and labels; the images standardised."""
    found = load_images(name)
    learn, labels = found.train_images[:POOL], found.train_labels[:POOL]
    mean, deviation = learn.mean(), learn.std()
    learn, test = (learn - mean) / deviation, (found.test_images[:TEST] - mean) / deviation
    arrays = (learn, labels, test, found.test_labels[:TEST])
    return tuple(torch.from_numpy(each) for each in arrays)


def split(settings: Settings) -> tuple[torch.Tensor, ...]:
    """The images to learn from and to score, drawn by the seed."""
    learn, labels, test, test_labels = images(settings["data"])
    count = settings["images"]
    order = torch.randperm(len(learn), generator=torch.Generator().manual_seed(settings["seed"]))
    used = order[:count]
    if settings["score"] == "held out":
        return learn[used], labels[used], learn[order[-2000:]], labels[order[-2000:]]
    return learn[used], labels[used], test, test_labels


def network(settings: Settings, tokens: int, values: int) -> Network:
    """The network of a training, with its initial values."""
    shape, heads = NETWORKS[settings["network"]], settings["heads"]
    make = METHODS[settings["method"]](heads)
    width, ratio = shape.width, 2.0
    if settings["method"] == "dense, narrow":
        width, ratio = narrow(shape, tokens, heads)
    return Network(shape.block, (tokens, values), width, shape.depth, make, ratio)


def train(settings: Settings) -> Results:
    """Train a network by Adam on a one-cycle schedule, and count its right answers."""
    learn, labels, test, test_labels = split(settings)
    side = NETWORKS[settings["network"]].patch if settings["data"] == "fashion-mnist" else 2
    learn, test = patches(learn, side), patches(test, side)
    torch.manual_seed(settings["seed"])
    model = network(settings, *learn.shape[1:])
    own = [
        parameter
        for module in model.blocks.modules()
        if isinstance(module, (layers.Structured, layers.Laplex))
        for parameter in module.parameters(recurse=False)
    ]
    ids = {id(each) for each in own}
    rest = [each for each in model.parameters() if id(each) not in ids]
    optimiser = torch.optim.Adam([{"params": own}, {"params": rest}], fused=True)
    steps = settings["steps"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [settings["rate"], REST_RATE], total_steps=steps, pct_start=0.15
    )
    start = time.process_time()
    for rows in batches(len(learn), steps):
        optimiser.zero_grad()
        cross_entropy(model(learn[rows]), labels[rows]).backward()
        optimiser.step()
        schedule.step()
    spent = time.process_time() - start
    with torch.no_grad():
        model.eval()
        answers = torch.cat([model(part).argmax(1) for part in test.split(500)])
    return {
        "accuracy": 100 * float((answers == test_labels).double().mean()),
        "layer_parameters": sum(each.numel() for each in own),
        "parameters": sum(each.numel() for each in model.parameters()),
        "cpu_s": spent,
    }


def batches(count: int, steps: int) -> Iterator[torch.Tensor]:
    """Rows of every step, epoch by epoch in new orders."""
    while True:
        for rows in torch.randperm(count)[: count - count % BATCH].split(BATCH):
            if steps == 0:
                return
            steps -= 1
            yield rows


def common(network: str, quick: bool) -> Settings:
    """What all trainings of a network share."""
    sizes = {"data": "digits", "images": 256, "steps": 4}
    if not quick:
        sizes = {"data": "fashion-mnist", "images": 4800, "steps": 240}
    return {"network": network, **sizes}


def tuned(records: Records, given: Settings, quick: bool) -> Iterator[Settings]:
    """The trainings of a search for the best rate, uphill on the ladder."""
    given = {**given, "seed": TUNING_SEED, "score": "held out"}
    if not quick:
        given["steps"] = TUNING_STEPS
    if quick:
        yield {**given, "rate": 1e-2}
        return
    low, high = RATES.index(3e-3), RATES.index(1e-2)
    tried = [low, high]
    yield from ({**given, "rate": RATES[each]} for each in tried)
    while True:
        top = RATES.index(chosen(records, given))
        following = [each for each in (top - 1, top + 1) if each not in tried]
        following = [each for each in following if 0 <= each < len(RATES)]
        if not following:
            return
        tried += following
        yield from ({**given, "rate": RATES[each]} for each in following)


def chosen(records: Records, given: Settings) -> float:
    """The rate that did best on held-out images."""
    found = records.where(score="held out", method=given["method"])
    rate: float = best(found, "rate", "accuracy")
    return rate


def equal_parameter_runs(
    name: str, budgets: Sequence[int], seeds: int, records: Records, quick: bool
) -> Iterator[Settings]:
    """Search every method's rate at the first budget, and then train with all seeds."""
    given = common(name, quick)
    images(given["data"])  # here, for all trainings
    tasks = [
        {**given, "method": method, "heads": heads}
        for heads in budgets
        for method in (QUICK if quick else METHODS)
        if method not in LEFT_OUT[name] and (heads == budgets[0] or method not in ONE_SIZE)
    ]
    for task in tasks:
        if task["heads"] == budgets[0]:
            yield from tuned(records, task, quick)
    for seed in range(1 if quick else seeds):
        for task in tasks:
            rate = chosen(records, task)
            yield {**task, "seed": seed, "score": "test", "rate": rate}


def equal_time_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """Train each method of the ViT for as many steps as take the time of the dense one."""
    done = Records(records.path, "vit")
    seconds: dict[str, list[float]] = {}
    for each in done.where(score="test", heads=BUDGETS["vit"][0]):
        if each["seed"] < TIME_SEEDS:  # more seeds of that part leave the steps of this as they are
            seconds.setdefault(each["method"], []).append(each["cpu_s"])
    means = {method: statistics.fmean(spent) for method, spent in seconds.items()}
    first = common("vit", quick) | {"heads": BUDGETS["vit"][0], "score": "test"}
    images(first["data"])
    for seed in range(1 if quick else TIME_SEEDS):
        for method, spent in means.items():
            task = {**first, "method": method, "seed": seed}
            steps = max(2, round(first["steps"] * means["dense"] / spent))
            yield {**task, "rate": chosen(done, task), "steps": steps}


def long_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """Train some methods of the ViT for four times as many steps."""
    done = Records(records.path, "vit")
    given = common("vit", quick) | {"heads": BUDGETS["vit"][0], "score": "test"}
    images(given["data"])
    longer = {"steps": 4 * given["steps"], "images": given["images"] if quick else 15_360}
    for seed in range(1 if quick else TIME_SEEDS):
        for method in QUICK if quick else LONG:
            task = given | longer | {"method": method, "seed": seed}
            yield {**task, "rate": chosen(done, task)}


def rank_runs(_: Records, quick: bool) -> Iterator[Settings]:
    """Every method of the ViT, at every budget."""
    for heads in BUDGETS["vit"]:
        for method in QUICK if quick else METHODS:
            if method != "dense, narrow":  # which is dense
                yield {"method": method, "heads": heads}


def effective_rank(settings: Settings) -> Results:
    """The exponential of the entropy of the squared singular values, in the mean of ten draws."""
    torch.manual_seed(0)
    ranks = []
    for _ in range(10):
        layer = METHODS[settings["method"]](settings["heads"])(VIT.width, VIT.width)
        weight = layer.formed() if isinstance(layer, layers.Structured) else layer.weight
        energy = torch.linalg.svdvals(weight.detach()).square()
        share = energy / energy.sum()
        ranks.append(float(torch.special.entr(share).sum().exp()))
    return {"effective_rank": statistics.fmean(ranks)}


PARTS = {
    name: Part(
        functools.partial(equal_parameter_runs, name, BUDGETS[name], SEEDS[name]),
        train,
        functools.partial(equal_parameters, name),
    )
    for name in NETWORKS
} | {
    "time": Part(equal_time_runs, train, equal_time),
    "long": Part(long_runs, train, listing),
    "ranks": Part(rank_runs, effective_rank, ranks),
    "calls": Part(structured_times.runs, structured_times.time_steps, structured_times.table),
}

if __name__ == "__main__":
    main("structured", __doc__ or "", PARTS)
