"""Write docs/measurements/cedar_confirmation.md and its picture: which axes other rows confirm.

    python bench/python/cedar_confirmation.py [--quick] [--fashion-mnist FOLDER] [--words FILE]

This takes about five processor minutes on one thread. --quick uses small sizes, takes two minutes,
and writes into build/cedar. Fashion-MNIST comes from the Debian package dataset-fashion-mnist;
without it that line is left out. The word embeddings come from the packaged all-MiniLM-L6-v2 and
from wordfreq, unless a .npy file of them is given.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from laplex._support.image_datasets import load_images
from laplex.cedar import CEDAR, stability
from laplex.cedar.baselines import null_controls
from laplex.cedar.encoders import SentenceEncoder
from machine import processor

ROOT = Path(__file__).parents[2]
Array = Any


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    draws: int
    rows: int
    dim: int
    planted: int
    per_column: tuple[int, ...]
    words: int


FULL = Sizes(draws=20, rows=800, dim=40, planted=2, per_column=(5, 10, 20, 40), words=5000)
QUICK = Sizes(draws=2, rows=400, dim=20, planted=1, per_column=(10, 20), words=600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use small sizes")
    parser.add_argument("--fashion-mnist", default="fashion-mnist", help="folder of the files")
    parser.add_argument("--words", help="embeddings of frequent words, a .npy file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # few rows, and fits that need more passes, are the subject
    sizes = QUICK if options.quick else FULL
    folder = ROOT / "build" / "cedar" if options.quick else ROOT / "docs" / "measurements"
    folder.mkdir(parents=True, exist_ok=True)
    embeddings = np.load(options.words)[: sizes.words] if options.words else words(sizes)
    null_lines, bars = nulls(sizes, embeddings)
    power_lines, curves = power(sizes)
    parts = [
        HEAD.format(draws=sizes.draws, rows=sizes.rows, dim=sizes.dim),
        null_lines,
        POWER.format(planted=sizes.planted),
        power_lines,
        MIXED,
        mixed(sizes),
        OBLIQUE,
        oblique(sizes),
        REAL,
        real(sizes, embeddings, options.fashion_mnist),
        FOOT.format(processor=processor(), minutes=time.process_time() / 60),
    ]
    draw(bars, curves).savefig(folder / "cedar_confirmation.png", dpi=110)
    (folder / "cedar_confirmation.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"{time.process_time() / 60:.1f} processor minutes")


# --- rows without structure -----------------------------------------------------------------------


def families(sizes: Sizes, embeddings: Array) -> dict[str, Any]:
    """Functions that draw rows of elliptical distributions."""
    n, d = sizes.rows, sizes.dim
    few = embeddings[:, :d].astype(np.float64)
    root = np.linalg.cholesky(np.cov(few.T)).T

    def normal(random: Any) -> Array:
        return random.standard_normal((n, d))

    def sphere(random: Any) -> Array:
        rows = normal(random)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def log_normal(random: Any) -> Array:
        return np.exp(random.standard_normal((n, 1)))

    def student(random: Any) -> Array:
        return 1 / np.sqrt(random.chisquare(2, (n, 1)) / 2)

    return {
        "Gaussian": normal,
        "uniform on the sphere": sphere,
        "sphere, log-normal norms": lambda random: sphere(random) * log_normal(random),
        "Student t, 2 degrees of freedom": lambda random: normal(random) * student(random),
        "Gaussian, variances 1 / i": lambda random: normal(random) * np.arange(1, d + 1) ** -0.5,
        "Gaussian, covariance of words": lambda random: normal(random) @ root,
        "that covariance, log-normal norms": lambda random: (
            sphere(random) * log_normal(random) @ root
        ),
        "Gaussian, each row four times": lambda random: random.permutation(
            np.repeat(normal(random)[: n // 4], 4, axis=0)
        ),
    }


def same_rows(rows: Array, k: int, seed: int) -> Array:
    """Which axes recurred in three starts on the same rows, as an earlier version counted them."""
    starts = [CEDAR(k, random_state=1000 * seed + start).fit(rows).atoms_ for start in range(3)]
    return stability(starts).recurring(3)


def nulls(sizes: Sizes, embeddings: Array) -> tuple[str, dict[str, tuple[float, float]]]:
    body, bars = [], {}
    for name, draw_rows in families(sizes, embeddings).items():
        former, halves, confirmed = [], [], []
        for seed in range(sizes.draws):
            rows = draw_rows(np.random.default_rng(seed))
            former.append(int(same_rows(rows, 4, seed).sum()))
            model = CEDAR(4, n_init=3, random_state=seed).fit(rows)
            halves.append(int(stability(model.restarts_).recurring(3).sum()))
            confirmed.append(int(model.confirmed_.sum()))
        print(name, former, halves, confirmed, flush=True)
        bars[name] = (float(np.mean(former)), float(np.mean(confirmed)))
        body.append(
            [name, *(f"{np.mean(one):.1f} ({max(one)})" for one in (former, halves)),
             f"{sum(confirmed)}"]
        )  # fmt: skip
    head = [
        "rows", "recur in three starts on the same rows", "found in both halves",
        "confirmed, all draws together",
    ]  # fmt: skip
    return table(head, body), bars


# --- planted rows ---------------------------------------------------------------------------------


def planted(
    seed: tuple[int, int], rows: int, dim: int, k: int, noise: float, kind: str = ""
) -> tuple[Array, Array]:
    """Rows of k normal causes of dim, and noise of that share of their variance; the true axes."""
    random = np.random.default_rng(seed)
    mask = random.random((rows, dim)).argsort(axis=1) < k
    codes = random.standard_normal((rows, dim)) * mask
    true = np.ones(dim, bool)
    if kind == "a quarter of the directions Gaussian":
        true[: dim // 4] = False
        codes[:, ~true] = random.standard_normal((rows, dim // 4)) * np.sqrt(k / dim)
    elif kind == "causes in pairs that always act together":
        groups = random.random((rows, dim // 2)).argsort(axis=1) < k // 2
        codes, true[:] = random.standard_normal((rows, dim)) * np.repeat(groups, 2, axis=1), False
    elif kind == "causes never below 0":
        codes = np.abs(codes)
    elif kind == "norms log-normal too":
        codes *= np.exp(random.standard_normal((rows, 1)))
    turn = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    z = codes @ turn
    return z + random.standard_normal(z.shape) * np.sqrt(noise * z.var()), turn[true]


def judged(rows: Array, true: Array, k: int, seed: int) -> tuple[float, float, int]:
    """Share of the true axes that the model found and that were confirmed; false ones confirmed."""
    model = CEDAR(k, n_init=3, random_state=seed).fit(rows)
    if not len(true):
        return np.nan, np.nan, int(model.confirmed_.sum())
    near = np.abs(model.atoms_ @ true.T) > 0.9
    found, confirmed = near.any(axis=0), near[model.confirmed_].any(axis=0)
    false = model.confirmed_ & ~(np.abs(model.atoms_ @ true.T) > 0.7).any(axis=1)
    return float(found.mean()), float(confirmed.mean()), int(false.sum())


def power(sizes: Sizes) -> tuple[str, dict[str, list[float]]]:
    dim = 64 if sizes is FULL else 20
    body, curves = [], {}
    for k in (4, 8, 16) if sizes is FULL else (2, 4):
        for noise in (0.0, 0.3):
            cells, curve = [], []
            for ratio in sizes.per_column:
                found = np.array(
                    [
                        judged(
                            *planted(np.random.default_rng((seed, k)), ratio * dim, dim, k, noise),
                            k,
                            seed,
                        )
                        for seed in range(sizes.planted)
                    ]
                )
                mean = found.mean(axis=0)
                cells.append(f"{mean[1]:.0%} of {mean[0]:.0%}; {int(found[:, 2].sum())}")
                curve.append(mean[1])
            print(k, noise, cells, flush=True)
            curves[f"k = {k}, noise {noise:.0%}"] = curve
            body.append([str(k), f"{noise:.0%}", *cells])
    head = ["k", "noise", *(f"{ratio} rows a column" for ratio in sizes.per_column)]
    return table(head, body), curves


def mixed(sizes: Sizes) -> str:
    dim, k = (64, 4) if sizes is FULL else (20, 2)
    body = []
    for kind in (
        "a quarter of the directions Gaussian",
        "causes in pairs that always act together",
        "causes never below 0",
        "norms log-normal too",
    ):
        found = np.array(
            [
                judged(
                    *planted(np.random.default_rng((seed, 99)), 40 * dim, dim, k, 0.1, kind),
                    k,
                    seed,
                )
                for seed in range(sizes.planted)
            ]
        )
        shares = ["-" if np.isnan(one) else f"{one:.0%}" for one in found[:, :2].mean(axis=0)]
        print(kind, found.tolist(), flush=True)
        body.append([kind, *shares, str(int(found[:, 2].sum()))])
    return table(["rows", "true axes found", "confirmed", "false ones confirmed"], body)


def oblique(sizes: Sizes) -> str:
    """Causes that no rotation has as its axes: oblique ones, and more of them than columns."""
    dim, rows, k = 16, 4000 if sizes is FULL else 1000, 3
    body = []
    for name, condition, causes in (
        ("16 orthogonal causes", 1, dim),
        ("16 causes, mixing of condition 5", 5, dim),
        ("16 causes, mixing of condition 20", 20, dim),
        ("32 causes in superposition", None, 2 * dim),
    ):
        random = np.random.default_rng(7)
        active = random.random((rows, causes)).argsort(axis=1) < k
        codes = random.standard_normal((rows, causes)) * active
        if condition is None:
            atoms = random.standard_normal((causes, dim))
        else:
            left, right = (np.linalg.qr(random.standard_normal((dim, dim)))[0] for _ in range(2))
            atoms = left * np.geomspace(1, condition, dim) @ right
        true = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        for basis in ("orthogonal", "invertible"):
            model = CEDAR(k, basis=basis, n_init=3, random_state=0).fit(codes @ atoms)
            axes = model.atoms_ / np.linalg.norm(model.atoms_, axis=1, keepdims=True)
            near = np.abs(axes @ true.T).max(axis=1)
            confirmed = model.confirmed_
            body.append(
                [name, basis, f"{confirmed.sum()} of {dim}", str((near[confirmed] > 0.9).sum()),
                 f"{near.mean():.2f}"]
            )  # fmt: skip
            print(body[-1], flush=True)
    head = [
        "rows", "basis", "confirmed axes", "of these, within .9 of a true cause",
        "mean cosine of all axes with the nearest cause",
    ]  # fmt: skip
    return table(head, body)


# --- real rows ------------------------------------------------------------------------------------


def words(sizes: Sizes) -> Array:
    import wordfreq

    found = [word for word in wordfreq.top_n_list("en", 2 * sizes.words) if word.isalpha()]
    encoder = SentenceEncoder.mini_lm(normalize=False)
    cache = ROOT / "build" / "cedar" / "words"
    return np.array(encoder.encode_texts(found[: sizes.words], batch_size=256, cache=cache))


def real(sizes: Sizes, embeddings: Array, fashion: str) -> str:
    generator = torch.Generator().manual_seed(0)
    gaussian = null_controls.covariance_gaussian(
        len(embeddings), torch.from_numpy(embeddings), generator
    ).numpy()
    cases = {
        f"all-MiniLM, {len(embeddings):,} words": (embeddings, 32),
        "Gaussian with their covariance": (gaussian, 32),
    }
    try:
        images = load_images(fashion).train_images[:1500].reshape(1500, -1).astype(np.float32)
    except FileNotFoundError as error:
        print(error)
    else:
        cases["Fashion-MNIST, 1,500 images"] = images, 32
    body = []
    for name, (rows, k) in cases.items():
        k = min(k, rows.shape[1] // 4)
        former = same_rows(rows, k, 0)
        model = CEDAR(k, n_init=3, random_state=0).fit(rows)
        halves = stability(model.restarts_).recurring(3)
        body.append(
            [name, f"{len(rows) / rows.shape[1]:.1f}", str(int(former.sum())),
             str(int(halves.sum())), str(int(model.confirmed_.sum()))]
        )  # fmt: skip
        print(name, body[-1], flush=True)
    head = [
        "rows", "rows a column", "recur in three starts on the same rows", "found in both halves",
        "confirmed",
    ]  # fmt: skip
    return table(head, body)


# --- the page -------------------------------------------------------------------------------------


def draw(bars: dict[str, tuple[float, float]], curves: dict[str, list[float]]) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(bars))[::-1]
    former, confirmed = np.array(list(bars.values())).T
    left.barh(places + 0.2, former, 0.4, color="#bbbbbb", label="recur on the same rows")
    left.barh(places - 0.2, confirmed, 0.4, color="#c0392b", label="confirmed (0 in all)")
    left.set_yticks(places, list(bars))
    left.set_xlabel("axes, mean of all draws")
    left.set_title("Rows without structure: no axis is right")
    left.legend(frameon=False)
    ratios = (
        FULL if len(next(iter(curves.values()))) == len(FULL.per_column) else QUICK
    ).per_column
    colors = ("#1f77b4", "#2ca02c", "#9467bd")
    for place, (name, curve) in enumerate(curves.items()):
        style = ("-", "--")[place % 2]
        right.plot(ratios, curve, style, color=colors[place // 2], marker=".", label=name)
    right.set_xscale("log")
    right.set_xticks(ratios, [str(ratio) for ratio in ratios])
    right.minorticks_off()
    right.set_xlabel("rows for each column")
    right.set_title("Planted rows: share of the true axes confirmed")
    right.legend(frameon=False, fontsize="small")
    return figure


def table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


HEAD = """# Which axes other rows confirm

An axis is [confirmed](../explanation/cedar.md#confirming-an-axis) if the fits to two disjoint
halves of the rows found it and the rows outside of each half show that it cannot be turned. This
page asks how often that happens where no axis is there, and how many rows it takes where axes are.

![Axes without structure, and the share of planted axes confirmed](cedar_confirmation.png)

## Rows without structure

{draws} draws of {rows:,} rows and {dim} columns from each of eight elliptical distributions, k = 4.
No direction of such rows is special once they are whitened, so the right number of axes is 0. Mean
over the draws, with the largest number in brackets:
"""
POWER = """
Starts on the same rows find single rows of a large norm again, and principal axes. Halves do not
share rows, but they do share principal axes: these are a property of the data, and still no more
than its covariance. Only the test tells them from axes.

## Planted rows

Rows of k normal causes out of 64 orthogonal ones, with Gaussian noise of a share of their variance;
means of {planted} draws. Each cell holds the share of the true axes that were confirmed, the share
that the model found (|cosine| > 0.9), and the number of false axes confirmed (no true one above
0.7) in all draws together:
"""
MIXED = """
Where causes are many (k = 16) it takes more rows for a half to find an axis than for the test to
believe it, and some fits end with two axes turned by 45 degrees: then one half misses both.

Other rows, at 40 rows a column and 10 % noise. A Gaussian direction amid sparse ones is not an
axis, and two causes that always act together determine a plane only:
"""
OBLIQUE = """
## Causes that are not orthogonal

**A confirmed axis of a rotation need not be a cause.** Where causes are oblique, or more than the
columns, no rotation has them as its axes. The best rotation is still a property of the data: both
halves find it, and its axes cannot be turned. 3 causes a row, no noise, 16 columns:
"""
REAL = """
Confirmation says that a direction is special, not which basis suits the data. Compare `score` on
held-out rows of `basis="orthogonal"`, `"invertible"` and `"frame"` first. A clearly better score of
an invertible basis means that the axes of the rotation are mixtures of causes; a clearly better
one of a frame means the same for both.

## Real rows
"""
FOOT = """
Most axes of words that starts on the same rows find again are not confirmed: these words are too
few for 384 columns, as a warning says, or the axes are no more than their covariance. The halves of
the images have fewer rows than columns. There, starts on the same rows agree on single images, and
halves on nothing.

Measured by [bench/python/cedar_confirmation.py](../../bench/python/cedar_confirmation.py) on one
thread of an {processor}, in {minutes:.1f} processor minutes.
"""

if __name__ == "__main__":
    main()
