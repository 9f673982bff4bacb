"""Covariance models of whole photographs, up to 1024 x 1024 x 3, and how they should start.

    python bench/python/covariance_large.py [--quick] [--only start sizes small whole]

The photographs are one photograph of a retina from scikit-image under random shifts, light and
noise. The part `start` also needs Fashion-MNIST, Debian's package dataset-fashion-mnist. With
--quick it takes scikit-learn's digits instead, and 64 x 64 pixels stand for the whole photograph,
which takes about 5 GiB of memory.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import covariance_pictures as pictures
from covariance_rivals import (
    Factors,
    Independent,
    Model,
    Stationary,
    low_rank_error,
    neighbour_means,
    photographs,
    sample_error,
)
from laplex._support.image_datasets import load_images
from laplex.gram import LaplaceCovariance
from laplex.gram.covariance.coarse_to_fine import averaged
from laplex.gram.covariance.matching import square_root
from studies import Part, Record, Records, Results, Settings, best, main, spread

TUNING = 100  # the seed of the photographs on which settings are chosen
RATES = (0.03, 0.1, 0.3)
STARTS = ("random", "components", "components, curve")
SMALLEST = 16


# --- images -------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def scene(side: int, seed: int, quick: bool) -> tuple[Tensor, Tensor]:
    """Photographs for training and held out; for tuning, both are from those for training."""
    count = 12 if quick else 32 if side == 1024 else 48
    train = photographs(count, side, 2 * seed)
    if seed == TUNING:
        return train[: 3 * count // 4], train[3 * count // 4 :]
    return train, photographs(6 if quick else 8 if side == 1024 else 24, side, 2 * seed + 1)


@lru_cache(maxsize=4)
def clothes(seed: int, quick: bool) -> tuple[Tensor, Tensor]:
    """Images of Fashion-MNIST at 14 x 14, or digits: for training, and held out."""
    data = load_images("digits" if quick else "fashion-mnist")
    train, test = (
        torch.tensor(part) if quick else functional.avg_pool2d(torch.tensor(part)[:, None], 2)[:, 0]
        for part in (data.train_images, data.test_images)
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = train[torch.randperm(len(train), generator=generator)[: 400 if quick else 5000]]
    return (drawn[::2], drawn[1::2]) if seed == TUNING else (drawn, test)


# --- how a fit starts ---------------------------------------------------------------------------


def start_runs(records: Records, quick: bool) -> Iterator[Settings]:
    """A search for the learning rate, then the seeds, for each kind of start."""
    for images in ("photographs", "clothes"):
        for heads in (1, 2):
            for start in STARTS:
                one = {"images": images, "heads": heads, "start": start, "quick": quick}
                for rate in RATES[:1] if quick else RATES:
                    load(images, TUNING, quick)
                    yield one | {"rate": rate, "seed": TUNING}
                rate = best(records.where(**one, seed=TUNING), "rate", "score")
                for seed in range(1 if quick else 3):
                    load(images, seed, quick)
                    yield one | {"rate": rate, "seed": seed}


def load(images: str, seed: int, quick: bool) -> tuple[Tensor, Tensor]:
    """Images for training and others; what this process has loaded, its children need not load."""
    if images == "clothes":
        return clothes(seed, quick)
    return scene(16 if quick else 32, seed, quick)


def start_training(settings: Settings) -> Results:
    """A short fit from one start."""
    quick, seed = settings["quick"], settings["seed"]
    train, test = load(settings["images"], seed, quick)
    steps = 4 if quick else 50
    results: Results = {}
    torch.manual_seed(seed)
    model = LaplaceCovariance(train[0].numel(), settings["heads"])
    if settings["start"] != "random":
        model.initialise(train if "curve" in settings["start"] else train.flatten(1))
        results["before"] = model.relative_error(train)
    model.fit(train, steps=steps, learning_rate=settings["rate"])
    results["train"] = model.relative_error(train)
    held_out = model.relative_error(test)
    rows, others = (model.standardise(part.flatten(1)) for part in (train, test))
    factors = square_root(rows, 1 / len(rows))[: 3 * model.heads]
    return {
        **results,
        "held_out": held_out,
        "score": -held_out,
        "pca": [low_rank_error(rows, factors), low_rank_error(others, factors)],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def start_table(records: list[Record], folder: Path) -> str:
    lines = [
        "| images | heads | start | parameters | learning rate | error² at the start "
        "| after 50 steps | held out | CPU s | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {
        "photographs": "photographs, 32 x 32 x 3",
        "clothes": "Fashion-MNIST, 14 x 14",
    }
    for images, name in names.items():
        for heads in (1, 2):
            for start in STARTS:
                some = chosen(records, images=images, heads=heads, start=start)
                if not some:
                    continue
                cost = f"{of(some, 'cpu_s', 1)} | {of(some, 'peak_mib', 0)}"
                lines.append(
                    f"| {name} | {heads} | {start} | {some[0]['parameters']:,} | {some[0]['rate']} "
                    f"| {of(some, 'before', 3)} | {of(some, 'train', 3)} "
                    f"| {of(some, 'held_out', 3)} | {cost} |"
                )
            if not some:
                continue
            train, held_out = (spread([each["pca"][k] for each in some], 3) for k in (0, 1))
            lines.append(
                f"| {name} | | PCA, rank {3 * heads}, + diagonal | {some[0]['parameters']:,} | | "
                f"| {train} | {held_out} | | |"
            )
    return "\n".join(lines) + "\n"


# --- from size to size --------------------------------------------------------------------------


def coarse_to_fine(
    train: Tensor, test: Tensor, heads: int, steps: int, sweeps: int, seed: int
) -> tuple[LaplaceCovariance, list[list[float]]]:
    """`fit_coarse_to_fine` with a curve: side, sweeps, errors on both kinds of images, CPU s."""
    side = SMALLEST
    torch.manual_seed(seed)
    model = LaplaceCovariance(side * side * 3, heads)
    curve: list[list[float]] = []

    def note(count: int, start: float) -> None:
        seconds = time.process_time() - start
        parts = (averaged(part, torch.Size((side, side, 3))) for part in (train, test))
        probes = None if heads == 1 or side < 256 else 16
        errors = (model.relative_error(part, probes=probes) for part in parts)
        curve.append([side, count, *errors, seconds])

    start = time.process_time()
    small = averaged(train, torch.Size((side, side, 3)))
    model.initialise(small)
    model.fit(small, steps=steps)
    note(0, start)
    while side < train.shape[1]:
        model = model.refined((side, side, 3), (2 * side, 2 * side, 3))
        side *= 2
        rows = averaged(train, torch.Size((side, side, 3)))
        done = 0
        most = min(sweeps, 2) if heads > 1 and side == 1024 else sweeps
        for count in (1, 2, 4, 8):
            if count <= most:
                start = time.process_time()
                model.refit_amplitudes(rows, sweeps=count - done)
                if side < 512 or count == most:
                    note(count, start)
                done = count
    return model, curve


def size_runs(records: Records, quick: bool) -> Iterator[Settings]:
    for heads in (1, 2):
        for seed in range(1 if quick else 3):
            scene(32 if quick else 64, seed, quick)
            yield {"heads": heads, "side": 32 if quick else 64, "seed": seed, "quick": quick}


def size_training(settings: Settings) -> Results:
    side, heads, quick = settings["side"], settings["heads"], settings["quick"]
    train, test = scene(side, settings["seed"], quick)
    steps = 5 if quick else 100
    model, curve = coarse_to_fine(train, test, heads, steps, 8, settings["seed"])
    direct = LaplaceCovariance(model.dim, heads)
    direct.initialise(train)
    direct.refit_amplitudes(train, sweeps=8)
    model.fit(train, steps=20, learning_rate=0.03)
    rows, others = (model.standardise(part.flatten(1)) for part in (train, test))
    factors = square_root(rows, 1 / len(rows))[: 3 * heads]
    return {
        "curve": curve,
        "direct": [direct.relative_error(part) for part in (train, test)],
        "further": [model.relative_error(part) for part in (train, test)],
        "pca": [low_rank_error(part, factors) for part in (rows, others)],
        "sample": [0.0, sample_error(rows, others)],
    }


def size_table(records: list[Record], folder: Path) -> str:
    side = records[0]["side"]
    lines = [
        f"| at {side} x {side} x 3 | 1 head: error², train | held out | 2 heads: error², train "
        "| held out |",
        "|---|---|---|---|---|",
    ]

    def cells(find: Callable[[Record], list[float]]) -> str:
        values = [[find(each) for each in records if each["heads"] == heads] for heads in (1, 2)]
        return " | ".join(spread([v[k] for v in some], 3) for some in values for k in (0, 1))

    def at(count: int) -> Callable[[Record], list[float]]:
        return lambda each: next(c[2:4] for c in each["curve"] if c[:2] == [side, count])

    for count in (1, 2, 4, 8):
        lines.append(f"| coarse to fine, {count} sweeps | {cells(at(count))} |")
    lines.append(f"| the same, then 20 steps of `fit` | {cells(lambda each: each['further'])} |")
    lines.append(
        f"| components and a curve at this size, 8 sweeps | {cells(lambda each: each['direct'])} |"
    )
    lines.append(f"| PCA, rank 3 or 6, + diagonal | {cells(lambda each: each['pca'])} |")
    lines.append(f"| the training covariance itself | {cells(lambda each: each['sample'])} |")
    return "\n".join(lines) + "\n"


# --- models of photographs ----------------------------------------------------------------------

LEAST = (0.3, 0.1, 0.03, 0.001)  # the least noise variance of a standardised pixel
ONE_TILE = tuple(f"1 tile, noise {noise}" for noise in LEAST)
TILES = tuple(f"{tiles} tiles a side, noise {noise}" for tiles in (4, 8, 16, 32) for noise in LEAST)
#: For each model: numbers per pixel and channel, and the values of a setting to choose among.
MODELS: dict[str, tuple[int, tuple[float | str, ...]]] = {
    "Laplace, 1 head, matched": (4, ()),
    "Laplace, 1 head, likelihood": (4, (0.01, 0.03, 0.1, 0.3)),
    "PCA, rank 3, + diagonal": (4, ()),
    "factor analysis in tiles, rank 2": (3, TILES),
    "factor analysis in tiles, rank 3": (4, TILES),
    "factor analysis, rank 3": (4, ONE_TILE),
    "stationary kernel": (0, ()),
    "mean of known neighbours": (0, ()),
    "independent pixels": (1, ()),
    "Laplace, 2 heads, matched": (7, ()),
    "PCA, rank 6, + diagonal": (7, ()),
    "factor analysis, rank 6": (7, ONE_TILE),
}


#: The models of whole photographs, the first of which matter most.
WHOLE = (
    "Laplace, 1 head, matched",
    "Laplace, 1 head, likelihood",
    "PCA, rank 3, + diagonal",
    "factor analysis in tiles, rank 3",
    "stationary kernel",
    "mean of known neighbours",
    "independent pixels",
)


class Ours:
    """A `LaplaceCovariance` of standardised pixels, as the rivals are."""

    def __init__(self, model: LaplaceCovariance) -> None:
        self.model = model
        model.mean.zero_()
        model.deviation.fill_(1.0)

    def error(self, rows: Tensor) -> float:
        return self.model.relative_error(rows)

    @torch.no_grad()
    def log_prob(self, rows: Tensor) -> Tensor:
        return torch.cat([self.model.log_prob(row) for row in rows.split(4)])

    def inpaint(self, rows: Tensor, missing: Tensor) -> Tensor:
        return torch.cat([self.model.inpaint(row, missing) for row in rows.split(4)])

    def sample(self, count: int, seed: int) -> Tensor:
        return self.model.sample(count, generator=torch.Generator().manual_seed(seed))


def model_runs(side: int) -> Callable[[Records, bool], Iterator[Settings]]:
    """The trainings of all models at a size; the largest takes what smaller ones have chosen."""

    def runs(records: Records, quick: bool) -> Iterator[Settings]:
        size = 64 if quick and side == 1024 else 16 if quick else side
        tuned = 16 if quick else 64
        shared = records if tuned == size else Records(records.path, "small")
        for name in WHOLE if side == 1024 else MODELS:
            values = MODELS[name][1]
            one = {"model": name, "side": size, "quick": quick}
            if tuned == size:
                for value in values[1:2] if quick else values:
                    scene(size, TUNING, quick)
                    yield one | {"value": value, "seed": TUNING}
            found = shared.where(model=name, side=tuned, seed=TUNING)
            value = best(found, "value", "density") if values else 0
            for seed in range(1 if quick or side == 1024 else 3):
                scene(size, seed, quick)
                yield one | {"value": value, "seed": seed}

    return runs


def model_training(settings: Settings) -> Results:
    name, side, quick = settings["model"], settings["side"], settings["quick"]
    train, test = scene(side, settings["seed"], quick)
    results: Results = {}
    start = time.process_time()
    scale = LaplaceCovariance(side * side * 3, 1)
    deviation, mean = torch.std_mean(train.flatten(1), dim=0, correction=0)
    scale.set_pixels(mean, deviation)
    rows, others = (scale.standardise(part.flatten(1)) for part in (train, test))
    model: Model
    if name.endswith("matched"):
        heads = 2 if "2 heads" in name else 1
        steps, sweeps = (5, 2) if quick else (300, 4)
        seed = settings["seed"]
        fitted, results["curve"] = coarse_to_fine(train, test, heads, steps, sweeps, seed)
        model = Ours(fitted)
    elif name.endswith("likelihood"):
        steps, batch = (3, 4) if quick else (20, 4) if side == 1024 else (200, 16)
        model = Ours(likely(train, steps, batch, settings["value"], settings["seed"]))
    elif "stationary" in name:
        model = Stationary(rows, side)
    elif name in ("mean of known neighbours", "independent pixels"):
        model = Independent()
    else:
        tiles, least = (float(n) for n in re.findall(r"[\d.]+", settings["value"] or "1 0.001"))
        rank = int(name.split("rank ")[1][0])
        iterations = 0 if "PCA" in name else 5 if quick else 10
        model = Factors(rows, rank, side, side // int(tiles), least, iterations)
    results["fit_s"] = time.process_time() - start
    if "curve" in results:
        results["train"], results["held_out"] = results["curve"][-1][2:4]
    else:
        results["train"], results["held_out"] = model.error(rows), model.error(others)
    jacobian = float(scale.deviation.double().log().sum())
    if name == "Laplace, 2 heads, matched":
        results["density"] = None  # only an estimate: a sum of kernels has no exact determinant
    else:
        results["density"] = (float(model.log_prob(others).mean()) - jacobian) / others.shape[1]
    few = others[: 2 if side == 1024 or quick else 8]
    panels: dict[str, Tensor] = {}
    for kind, missing in masks(side).items():
        if side == 1024 and name in ("Laplace, 2 heads, matched", "stationary kernel"):
            continue  # conjugate gradients would take minutes
        if name == "mean of known neighbours":
            images = scale.mean + scale.deviation * few
            shape = (-1, side, side, 3)
            filled = neighbour_means(images.reshape(shape), missing.reshape(shape[1:])).flatten(1)
        else:
            filled = scale.mean + scale.deviation * model.inpaint(few, missing)
        error = (filled - test[: len(few)].flatten(1))[:, missing].square().mean(1)
        results[kind] = float((10 * (255**2 / error).log10()).mean())
        panels[kind] = filled[0]
    if name not in ("mean of known neighbours", "independent pixels"):
        panels["sample"] = scale.mean + scale.deviation * model.sample(1, 0)[0]
    if settings["seed"] == 0:
        heads_of = model.model if isinstance(model, Ours) else None
        pictures.keep(settings, {k: v.reshape(side, side, 3) for k, v in panels.items()}, heads_of)
        mean = scale.mean.reshape(side, side, 3)
        pictures.keep({**settings, "model": "photograph"}, {"sample": test[0], "mean": mean}, None)
    return results


def likely(train: Tensor, steps: int, batch: int, rate: float, seed: int) -> LaplaceCovariance:
    """One head along a curve, by likelihood alone."""
    torch.manual_seed(seed)
    side = train.shape[1]
    model = LaplaceCovariance(side * side * 3, 1)
    model.initialise(train, length=0.1 * side * side)
    # fit takes a tenth of its learning rate for the steps on the likelihood
    model.fit(train, steps=0, likelihood_steps=steps, learning_rate=10 * rate, batch_size=batch)
    return model


def masks(side: int) -> dict[str, Tensor]:
    """Missing pixels [numbers]: half of all at random, and a block of a quarter of the side."""
    half = torch.rand(side, side, generator=torch.Generator().manual_seed(4)) < 0.5
    block = torch.zeros(side, side, dtype=torch.bool)
    first = side // 4  # where there are vessels
    block[first : first + side // 4, first : first + side // 4] = True
    return {
        kind: m[..., None].expand(-1, -1, 3).flatten()
        for kind, m in (("half", half), ("block", block))
    }


def model_table(records: list[Record], folder: Path) -> str:
    side = records[0]["side"]
    lines = [
        "| model | numbers per value | error², train | held out | log density, nats per value "
        "| PSNR half, dB | PSNR block, dB | CPU s of the fit | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (numbers, values) in MODELS.items():
        some = chosen(records, model=name)
        if not some:
            continue
        kind = "rate " if "Laplace" in name else ""
        told = f" ({kind}{some[0]['value']})" if values else ""
        only = name == "mean of known neighbours"
        lines.append(
            f"| {name}{told} | {numbers if numbers else 'none'} "
            f"| {'' if only else of(some, 'train', 3)} | {'' if only else of(some, 'held_out', 3)} "
            f"| {'' if only else of(some, 'density', 3)} | {of(some, 'half', 2)} "
            f"| {of(some, 'block', 2)} | {of(some, 'fit_s', 1)} | {of(some, 'peak_mib', 0)} |"
        )
    if side in (1024, 64):
        pictures.draw(side, records[0]["quick"], list(MODELS), records, folder)
    return "\n".join(lines) + "\n"


# --- tables -------------------------------------------------------------------------------------


def chosen(records: list[Record], **wanted: object) -> list[Record]:
    """The reported records, without those that chose a setting."""
    return [
        each
        for each in records
        if each["seed"] != TUNING and all(each[k] == value for k, value in wanted.items())
    ]


def of(records: list[Record], name: str, digits: int) -> str:
    """Mean and spread of a result, or nothing where it was not measured."""
    values = [each.get(name) for each in records]
    if any(value is None or not math.isfinite(value) for value in values):
        return ""
    return spread([float(value) for value in values if value is not None], digits)


PARTS = {
    "start": Part(start_runs, start_training, start_table),
    "sizes": Part(size_runs, size_training, size_table),
    "small": Part(model_runs(64), model_training, model_table),
    "whole": Part(model_runs(1024), model_training, model_table),
}


def warm() -> None:
    """Import what a first fit imports, so that no training is charged with it."""
    model = LaplaceCovariance(4, 2)
    model.fit(torch.rand(3, 4), steps=1)
    model.inpaint(torch.rand(1, 4), torch.arange(4) == 0)


if __name__ == "__main__":
    warm()
    main("covariance_large", __doc__ or "", PARTS)
