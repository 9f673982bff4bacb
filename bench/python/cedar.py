"""Write docs/measurements/cedar.md and its pictures: CEDAR beside linear baselines.

    python bench/python/cedar.py [--quick] [--seeds 3]

This takes about twenty minutes on one core. --quick uses small sizes, takes two minutes, and writes
into build/cedar. The word embeddings come from the packaged all-MiniLM-L6-v2 and from wordfreq.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from laplex.cedar import CEDAR, compare, stability
from laplex.cedar.baselines import PCA, FastICA, Quartimax, RandomRotation, Varimax
from laplex.cedar.basis import nearest_rotation, random_rotation
from laplex.cedar.encoders import SentenceEncoder
from laplex.cedar.metrics import fve, mcc
from laplex.cedar.moments import sweep
from laplex.cedar.procrustes import Search
from machine import processor

ROOT = Path(__file__).parents[2]
K = (4, 16, 32, 64)


@dataclass
class Sizes:
    """How much is measured."""

    rows: int
    dim: int
    words: int
    seeds: int
    adam_steps: int


FULL = Sizes(rows=20_000, dim=64, words=20_000, seeds=3, adam_steps=1000)
QUICK = Sizes(rows=4_000, dim=24, words=2_000, seeds=2, adam_steps=200)


# --- planted data ---------------------------------------------------------------------------------


@dataclass
class Planted:
    """Rows ``causes @ mixing``, split; atoms are the rows of the mixing matrix, of norm 1."""

    train: np.ndarray
    test: np.ndarray
    atoms: np.ndarray


def planted(
    sizes: Sizes, k: int, seed: int, *, condition: float = 1.0, pairs: bool = False
) -> Planted:
    """K normal causes a row; with `pairs`, causes 2i and 2i + 1 are always there together."""
    random, dim = np.random.default_rng((seed, k)), sizes.dim
    left, right = (np.linalg.qr(random.standard_normal((dim, dim)))[0] for _ in range(2))
    mixing = left @ np.diag(np.geomspace(1, 1 / condition, dim)) @ right
    groups = dim // 2 if pairs else dim
    chosen = np.argsort(random.random((sizes.rows, groups)), axis=1)[:, : k // 2 if pairs else k]
    mask = np.zeros((sizes.rows, groups), bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    if pairs:
        mask = np.repeat(mask, 2, axis=1)
    data = ((random.standard_normal(mask.shape) * mask) @ mixing).astype(np.float32)
    cut = sizes.rows * 4 // 5
    return Planted(data[:cut], data[cut:], mixing / np.linalg.norm(mixing, axis=1, keepdims=True))


def explained(model: Any, rows: np.ndarray, k: int) -> float:
    return fve(rows, model.inverse_transform(model.transform(rows, k)))


Result = dict[str, list[tuple[float, float]]]  # method -> (MCC, FVE) of each seed


def judged(methods: dict[str, Callable[[int], Any]], cases: Sequence[Planted], k: int) -> Result:
    found: Result = {}
    for name, make in methods.items():
        for seed, case in enumerate(cases):
            model = make(seed).fit(case.train)
            score = mcc(model.atoms_, case.atoms), explained(model, case.test, k)
            found.setdefault(name, []).append(score)
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def baselines_of(sizes: Sizes) -> dict[str, Callable[[int], Any]]:
    return {
        "random rotation": lambda seed: RandomRotation(random_state=seed),
        "PCA, per-row top k": lambda seed: PCA(),
        "quartimax": lambda seed: Quartimax(),
        "varimax": lambda seed: Varimax(),
        "FastICA": lambda seed: FastICA(random_state=seed),
    }


def recovery(sizes: Sizes) -> str:
    columns: dict[str, list[str]] = {}
    for k in (4, 8, 16):
        cases = [planted(sizes, k, seed) for seed in range(sizes.seeds)]
        methods = {
            **baselines_of(sizes),
            "CEDAR": lambda seed, k=k: CEDAR(k, random_state=seed),
            "CEDAR, adam": lambda seed, k=k: CEDAR(
                k, solver="adam", max_iter=sizes.adam_steps, random_state=seed
            ),
        }
        for name, scores in judged(methods, cases, k).items():
            cell = " / ".join(spread([score[part] for score in scores]) for part in (0, 1))
            columns.setdefault(name, []).append(cell)
    return table(["MCC / held-out FVE", "k = 4", "k = 8", "k = 16"], [
        [name, *cells] for name, cells in columns.items()
    ])  # fmt: skip


def wrong_k(sizes: Sizes) -> str:
    cases = [planted(sizes, 4, seed) for seed in range(sizes.seeds)]
    fits = (2, 3, 4, 6, 8, 16)
    row = []
    for k in fits:
        scores = judged({"": lambda seed, k=k: CEDAR(k, random_state=seed)}, cases, 4)[""]
        row.append(spread([score[0] for score in scores]))
    return table(["k of the fit", *map(str, fits)], [["MCC", *row]])


def mixing(sizes: Sizes) -> str:
    rows = []
    makers: dict[str, Callable[[int], Any]] = {
        "CEDAR, orthogonal": lambda seed: CEDAR(4, random_state=seed),
        "CEDAR, invertible": lambda seed: CEDAR(
            4, basis="invertible", max_iter=sizes.adam_steps, random_state=seed
        ),
        "FastICA": lambda seed: FastICA(random_state=seed),
        "PCA, per-row top k": lambda seed: PCA(),
    }
    cells: dict[str, list[str]] = {name: [] for name in makers}
    for condition in (1.0, 5.0, 20.0):
        cases = [planted(sizes, 4, seed, condition=condition) for seed in range(sizes.seeds)]
        for name, scores in judged(makers, cases, 4).items():
            cells[name].append(
                " / ".join(spread([score[part] for score in scores]) for part in (0, 1))
            )
    rows = [[name, *line] for name, line in cells.items()]
    return table(["MCC / held-out FVE", "condition 1", "condition 5", "condition 20"], rows)


def pairs(sizes: Sizes) -> str:
    cases = [planted(sizes, 4, seed, pairs=True) for seed in range(sizes.seeds)]
    makers: dict[str, Callable[[int], Any]] = {
        "CEDAR": lambda seed: CEDAR(4, random_state=seed),
        "FastICA": lambda seed: FastICA(random_state=seed),
        "random rotation": lambda seed: RandomRotation(random_state=seed),
    }
    rows = [
        [name, *(spread([score[part] for score in scores]) for part in (0, 1))]
        for name, scores in judged(makers, cases, 4).items()
    ]
    return table(["", "MCC", "held-out FVE"], rows)


def solvers(sizes: Sizes) -> str:
    """Passes and seconds until the loss is within 0.001 of the best that any of them found."""
    rows = []
    for k in (4, 16):
        case = planted(sizes, k, 0)
        data = torch.from_numpy(case.train)
        centre = data.double().mean(0)
        scale = float((data - centre.float()).double().square().sum(1).mean().sqrt())
        start = random_rotation(sizes.dim, torch.Generator().manual_seed(0)).float()
        plain, begin, rotation = [], time.process_time(), start
        for _ in range(300):
            found = sweep([data], rotation, centre, [k], scale)
            rotation = nearest_rotation(found.correlation).float()
            plain.append((found.loss, time.process_time() - begin))
        search, fast = Search(start, centre), []
        begin = time.process_time()
        for _ in range(100):
            search.advance(sweep([data], search.rotation, centre, [k], scale))
            fast.append((search.losses[-1], time.process_time() - begin))
        goal = min(plain[-1][0], fast[-1][0]) + 1e-3
        for name, path in (("with momentum", fast), ("plain", plain)):
            reached = next((i for i, (loss, _) in enumerate(path) if loss <= goal), None)
            took = "never" if reached is None else f"{reached + 1} | {path[reached][1]:.1f} s"
            rows.append([f"k = {k}", name, *took.split(" | ")])
    return table(["", "procrustes", "passes", "processor time"], rows)


# --- embeddings of words --------------------------------------------------------------------------


def words(sizes: Sizes, cache: Path) -> np.ndarray:
    import wordfreq

    found = [word for word in wordfreq.top_n_list("en", 2 * sizes.words) if word.isalpha()]
    encoder = SentenceEncoder.mini_lm(normalize=False)
    return np.array(encoder.encode_texts(found[: sizes.words], batch_size=256, cache=cache))


def text(sizes: Sizes, rows: np.ndarray, folder: Path) -> str:
    fit = 32
    steps = sizes.adam_steps // 2
    models = {
        "CEDAR, k = 4, 16, 32, 64 at once": CEDAR(list(K)),
        "CEDAR, invertible": CEDAR(fit, basis="invertible", max_iter=steps),
    }
    found = compare(rows, K, fit_k=fit, seeds=sizes.seeds, models=models, nulls=True, progress=True)
    figure = found.plot()
    figure.savefig(folder / "cedar_fve.png", dpi=110, bbox_inches="tight")
    return "```text\n" + found.table() + "\n```"


def starts(sizes: Sizes, rows: np.ndarray, folder: Path) -> str:
    case = planted(sizes, 4, 0)
    lines = []
    matrices = {}
    for name, data, k in (("planted, k = 4", case.train, 4), ("words, k = 32", rows, 32)):
        models = [CEDAR(k, random_state=seed).fit(data) for seed in range(5)]
        found = stability(np.stack([model.atoms_ for model in models]))
        random = stability(
            np.stack([RandomRotation(random_state=s).fit(data).atoms_ for s in range(5)])
        )
        losses = [explained(model, data, k) for model in models]
        lines.append([
            name, f"{min(losses):.4f} to {max(losses):.4f}",
            f"{found.mean:.3f}", f"{found.min:.3f}",
            f"{int(found.recurring(3).sum())} of {data.shape[1]}", f"{random.mean:.3f}",
        ])  # fmt: skip
        matrices[name] = found.recurrence
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for axis, (name, recurrence) in zip(figure.subplots(1, 2), matrices.items(), strict=True):
        axis.bar(range(1, 6), np.bincount(recurrence, minlength=5)[:5])
        axis.set(title=name, xlabel="starts that found the axis, of 5", ylabel="axes")
    figure.savefig(folder / "cedar_stability.png", dpi=110)
    head = ["5 starts", "FVE of the starts on training rows", "mean MCC", "minimum MCC",
            "axes in 3 or more starts", "MCC of random rotations"]  # fmt: skip
    return table(head, lines)


# --- the page -------------------------------------------------------------------------------------


def page(sizes: Sizes, folder: Path, cache: Path) -> str:
    def timed(name: str, measure: Callable[[], str]) -> str:
        start = time.process_time()
        found = measure()
        print(f"{name}, {time.process_time() - start:.0f} s\n{found}\n", flush=True)
        return found

    embeddings = words(sizes, cache)
    planted_size = f"d = {sizes.dim}, {sizes.rows:,} rows, four\nfifths of which are for training"
    return f"""\
# CEDAR: measurements

[bench/python/cedar.py](../../bench/python/cedar.py) writes this page. It ran on one thread of an
{processor()}. Each number is the mean ± the standard deviation of
{sizes.seeds} seeds; every seed has its own data, split and start. CEDAR is our reading of the
abstract of arXiv 2605.22679: no number here is the paper's. The guide lists the
[metrics](../guides/cedar.md#measuring-the-codes).

## Recovery of planted axes

Each row mixes k of d normal causes by a random rotation: {planted_size}.

{timed("recovery", lambda: recovery(sizes))}

CEDAR finds every axis. So do FastICA and the two rotations of factor analysis. This model is ideal
for all of them, so the result is a tie and by itself no reason to prefer CEDAR. PCA finds almost
nothing, because all directions have about the same variance.

## Choosing k

The true k is 4. A k that is too large costs accuracy; one that is too small does not.

{timed("wrong k", lambda: wrong_k(sizes))}

## Non-orthogonal atoms

The true k is 4. A matrix with the given condition number mixes normal causes.

{timed("mixing", lambda: mixing(sizes))}

A rotation cannot follow such a mixture; `basis="invertible"` can. FastICA can too, because it
whitens the data.

## Indistinguishable axes

Causes 2i and 2i + 1 always fire together, with independent values. Any rotation within their plane
explains the data equally well, so failing to find the axes is the correct result here.

{timed("pairs", lambda: pairs(sizes))}

## Momentum

The table counts the passes until the loss is within 0.001 of the best. "Plain" alternates between
codes and rotation without momentum.

{timed("solvers", lambda: solvers(sizes))}

## Word embeddings

all-MiniLM-L6-v2 of the {len(embeddings):,} most frequent English words, {embeddings.shape[1]}
columns, with a fifth of the rows held out. Methods that need a k are fitted for k = 32. "Equal
bits" gives each code as many entries as fit into the bits of CEDAR's code: an entry chosen among
more axes costs more bits, and leading components need no choice. The null controls repeat the fits
on Gaussian rows, both isotropic and with the covariance of the words. A gain there would be a gain
from noise.

{timed("text", lambda: text(sizes, embeddings, folder))}

![Variance explained against k](cedar_fve.png)

Our reading, among bases with as many axes as columns: at k = 32 the invertible CEDAR is best, a
little ahead of the rotation, but takes twenty times as long to fit (500 steps here). At k = 4
FastICA is best; at k = 64 the rotation is. A CEDAR fitted for several k at once loses nothing at
k = 32 and gains at small k. Quartimax and varimax stopped at 100 iterations, their default. No
method gains from noise. [CEDAR beside its peers](cedar_comparison.md) compares it with
autoencoders and dictionaries that have more axes than columns.

## Recurrence of axes across starts

{timed("starts", lambda: starts(sizes, embeddings, folder))}

![How many starts find each axis](cedar_stability.png)

Five starts on the same rows explain the variance of the words equally well but share only some of
their axes. The axes of one start are not "the concepts" of a model.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="use small sizes, write into build/cedar"
    )
    parser.add_argument("--seeds", type=int, help="number of repetitions with different seeds")
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / "build" / "embeddings",
        help="folder that keeps the word embeddings between runs",
    )
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.seeds:
        sizes.seeds = options.seeds
    folder = ROOT / "build" / "cedar" if options.quick else ROOT / "docs" / "measurements"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    text = page(sizes, folder, options.cache)
    (folder / "cedar.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
