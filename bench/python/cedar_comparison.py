"""Measure CEDAR beside sparse autoencoders, dictionaries and linear bases, in one budget.

    python bench/python/cedar_comparison.py [--data words images] [--minutes 30]
    python bench/python/cedar_comparison_page.py

The first command appends one line for each fit to docs/measurements/cedar_comparison.jsonl, and
continues where an earlier run stopped. In all it takes about an hour of one core. The second writes
docs/measurements/cedar_comparison.md and its pictures from that file. A run needs
``pip install -c constraints.txt -c bench/constraints.txt sae-lens "laplex[examples]"``, and
``apt-get install dataset-fashion-mnist wordnet-base``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA as PrincipalComponents

from laplex.cedar.baselines import orthomax
from laplex.cedar.baselines.equal_bits import bits_of, k_within
from laplex.cedar.metrics import (
    Reconstruction,
    concept_auroc,
    fve,
    match,
    mcc,
    neighbour_recall,
    sparse_probing,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "measurements" / "cedar_comparison.jsonl"
BUILD = ROOT / "build" / "cedar_comparison"
SEEDS = range(5)
#: The seed of the draw and the split that rates are tuned on; it is in no table.
TUNING = 100

#: The data sets, cheapest first, and the values of k that methods are fitted for.
K = {"planted": (4,), "overcomplete": (4,), "gaussian": (4,), "norms": (4,)}
K |= {"images null": (16,), "images": (4, 16), "words": (8, 32, 64)}
#: The null controls, and the data that they take their rates from.
NULLS = {"gaussian": "planted", "norms": "planted", "images null": "images"}

Record = dict[str, Any]


# --- data -----------------------------------------------------------------------------------------


@dataclass
class Data:
    """Rows for training and for the test, centred by the mean of the first."""

    train: np.ndarray
    test: np.ndarray
    k: tuple[int, ...]
    latents: int
    steps: int
    batch: int
    truth: np.ndarray | None = None  # true atoms
    concepts: tuple[np.ndarray, np.ndarray] | None = None  # "" where a row has none
    lift: np.ndarray | None = None  # from reduced columns to the first ones


def synthetic(name: str, seed: int) -> Data:
    """Draw 20,000 rows of 64 columns: four normal causes each, or nothing to find."""
    random, count, dim, k = np.random.default_rng((seed, 26)), 20_000, 64, K[name][0]
    causes = 128 if name == "overcomplete" else dim
    truth = random.standard_normal((causes, dim))
    if name == "overcomplete":
        truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    else:
        truth = np.linalg.qr(truth)[0]
    codes = np.zeros((count, causes))
    where = random.random(codes.shape).argsort(axis=1)[:, :k]
    np.put_along_axis(codes, where, random.standard_normal((count, k)), axis=1)
    rows = codes @ truth
    planted = name in ("planted", "overcomplete")
    if not planted:
        directions = random.standard_normal((count, dim))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        rows = norms * unit if name == "norms" else directions
    cut = count * 4 // 5
    train, test = _centred(rows[:cut], rows[cut:])
    return Data(train, test, (k,), 4 * dim, 600, 512, truth if planted else None)


def words(seed: int, options: argparse.Namespace) -> Data:
    """MiniLM embeddings of frequent words; the concepts are WordNet's kinds of nouns."""
    rows, concepts = _words(options.wordnet)
    train, test = _split(len(rows), seed)
    return Data(
        *_centred(rows[train], rows[test]), K["words"], 1536, 300, 256,
        concepts=(concepts[train], concepts[test]),
    )  # fmt: skip


@lru_cache
def _words(wordnet: Path) -> tuple[np.ndarray, np.ndarray]:
    import wordfreq

    from laplex.cedar.encoders import SentenceEncoder

    sys.path.insert(0, str(ROOT / "examples"))
    from concept_vocabulary import load_vocabulary

    found = [word for word in wordfreq.top_n_list("en", 20_000) if word.isalpha()][:10_000]
    encoder = SentenceEncoder.mini_lm(normalize=False)
    rows = np.array(encoder.encode_texts(found, batch_size=256, cache=ROOT / "build/embeddings"))
    kinds = {word.word: word.lexname for word in load_vocabulary(wordnet=wordnet)}
    concepts = np.array([kinds.get(word, "") for word in found])
    names, counts = np.unique(concepts, return_counts=True)
    concepts[np.isin(concepts, names[counts < 100])] = ""
    return rows, concepts


def images(seed: int, options: argparse.Namespace) -> Data:
    """EfficientNet-Lite0's features of pictures, reduced to 128 principal components."""
    rows, labels = _images(options.fashion)
    train, test = _split(len(rows), seed)
    reduced = PrincipalComponents(128, svd_solver="full").fit(rows[train])
    halves = (reduced.transform(rows[part]) for part in (train, test))
    return Data(
        *_centred(*halves), K["images"], 512, 400, 256,
        concepts=(labels[train], labels[test]), lift=reduced.components_,
    )  # fmt: skip


def without_axes(data: Data, seed: int) -> Data:
    """Return rows with the same covariance and whitened norms, in directions drawn at random.

    Their distribution is elliptical, so beyond the covariance there is nothing to find.
    """
    random = np.random.default_rng((seed, 27))
    variances, axes = np.linalg.eigh(np.cov(data.train, rowvar=False))
    halves = []
    for rows in (data.train, data.test):
        norms = np.linalg.norm(rows @ (axes / np.sqrt(variances)), axis=1, keepdims=True)
        drawn = random.standard_normal(rows.shape)
        unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        halves.append((norms * unit) @ (axes * np.sqrt(variances)).T)
    return Data(*_centred(*halves), K["images null"], data.latents, data.steps, data.batch)


@lru_cache
def _images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    from laplex._support.image_datasets import load_images
    from laplex.cedar.encoders import EfficientNetEncoder

    data = load_images(folder)
    pictures = (data.test_images[:3000] * 255).astype(np.uint8)
    encoder = EfficientNetEncoder(normalize=False)
    rows = np.array(encoder.encode_images(pictures, cache=ROOT / "build/embeddings"))
    return rows, np.array(data.class_names)[data.test_labels[:3000]]


def _split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng((seed, 26)).permutation(count)
    return order[: count * 4 // 5], order[count * 4 // 5 :]


def _centred(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = train.mean(axis=0)
    return (train - mean).astype(np.float32), (test - mean).astype(np.float32)


#: Numbers of seeds of what would otherwise take most of the time of the whole run.
FEWER_SEEDS = {
    **{("words", name, k): 0 for name in ("CEDAR, invertible", "dictionary + OMP 4x")
       for k in K["words"]},
    **{("words", name, 64): 0 for name in ("AbsTopK 1x, tied", "TopK 4x, random decoder",
       "BatchTopK 4x", "Matryoshka 4x", "JumpReLU 4x", "matching pursuit 4x")},
    ("words", "CEDAR, frame 2x", 32): 2,
    ("words", "CEDAR, frame 2x", 64): 1,
    **{("words", name, k): 2 for name in ("TopK 4x, random decoder", "Matryoshka 4x",
       "JumpReLU 4x", "matching pursuit 4x") for k in (8, 32)},
}  # fmt: skip
#: Methods that are also trained for other times.
TIMED = ("AbsTopK 1x", "AbsTopK 4x", "TopK 4x")
#: Methods that the nulls and the ideal model do without, because others of their kind are there.
LEFT_OUT = {"BatchTopK 4x", "Matryoshka 4x", "JumpReLU 4x", "TopK 4x, random decoder"}


# --- measurements ---------------------------------------------------------------------------------


def measured(fitted: Any, data: Data, k: int) -> Record:
    """Measure the codes of held-out rows."""
    axes, dim = len(fitted.atoms), data.test.shape[1]
    fitted.encode(data.test[:1], k)  # finds the threshold where there is one
    start = time.process_time()
    codes = fitted.encode(data.test, k)
    coding = 1000 * (time.process_time() - start) / len(data.test)
    restored = fitted.decode(codes)
    one = Reconstruction(np.zeros(dim))
    one.update(data.test, restored, codes)
    report = one.compute()
    density = report.density
    budget = bits_of(dim, k)
    affordable = k_within(budget, axes, fitted.indexed)
    cheaper = fitted.encode(data.test, affordable) if affordable else None
    found: Record = {
        "axes": axes,
        "fve": report.fve,
        "l0": report.l0,
        "dead": report.dead,
        "coding": coding,  # milliseconds a row
        "density": [float(np.quantile(density, q)) for q in (0.1, 0.5, 0.9, 1.0)],
        "k_bits": affordable,
        "fve_bits": None if cheaper is None else fve(data.test, fitted.decode(cheaper)),
        "recall": neighbour_recall(data.test[:2000], restored[:2000]),
    }
    if data.truth is not None:
        found["mcc"] = mcc(fitted.atoms, data.truth)
        cosines = np.abs(match(data.truth, fitted.atoms)[1])
        found["matched"] = float(np.sort(cosines)[::-1][: min(axes, len(cosines))].mean())
    if data.concepts is not None:
        train, test = (part != "" for part in data.concepts)
        known = data.train[train]
        arguments = (
            fitted.encode(known, k), data.concepts[0][train], codes[test], data.concepts[1][test]
        )  # fmt: skip
        found["probe1"] = sparse_probing(*arguments, axes=1).mean
        found["probe5"] = sparse_probing(*arguments, axes=5).mean
        found["auroc"] = concept_auroc(*arguments).mean
    return found


def rotation_sensitivity(data: Data, seed: int, draws: int = 39) -> Record:
    """Test whether the rows have axes at all, of whatever method.

    Our reading of Zhao et al., arXiv 2506.13831: the varimax criterion of the scores of the 20
    largest whitened principal components, beside its values for rows of the same norms and
    uniformly random directions, for which every rotation is as good as any other.
    """
    random = np.random.default_rng((seed, 7))
    rows = data.train[:2000]
    scores = PrincipalComponents(20, whiten=True, svd_solver="full").fit_transform(rows)

    def criterion(values: np.ndarray) -> float:
        turned = values @ orthomax(values, 1.0, max_iter=50).rotation
        return float((turned**4).mean(axis=0).sum() - ((turned**2).mean(axis=0) ** 2).sum())

    norms = np.linalg.norm(scores, axis=1, keepdims=True)
    nulls = []
    for _ in range(draws):
        drawn = random.standard_normal(scores.shape)
        nulls.append(criterion(norms * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)))
    ours = criterion(scores)
    p = (1 + sum(null >= ours for null in nulls)) / (1 + draws)
    return {"criterion": ours, "null": float(np.mean(nulls)), "null_max": max(nulls), "p": p}


# --- the run --------------------------------------------------------------------------------------


def records() -> list[Record]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


class Run:
    """Fits what the results file lacks, and appends to it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.until = time.monotonic() + 60 * options.minutes

    def load(self, name: str, seed: int) -> Data:
        if name == "words":
            return words(seed, self.options)
        if name == "images":
            return images(seed, self.options)
        if name == "images null":
            return without_axes(images(seed, self.options), seed)
        return synthetic(name, seed)

    def methods(self, name: str) -> Iterator[Any]:
        from cedar_peers import METHODS

        for method in METHODS:
            left_out = set(LEFT_OUT) if name in ("planted", *NULLS) else set()
            if len(K[name]) == 1:
                left_out |= {"CEDAR, all k at once"}
            never = not any(FEWER_SEEDS.get((name, method.name, k), 1) for k in K[name])
            if not never and method.name not in left_out:
                yield method

    def append(self, **record: Any) -> None:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(_rounded(record)) + "\n")
        if time.monotonic() > self.until:
            raise TimeoutError

    def tune(self, name: str) -> dict[str, float]:
        """Return the best rate of each method, on a seed of its own and for one k.

        This is the second k of the data set, or the first where the second is too slow.
        """
        source = NULLS.get(name, name)  # a null has nothing to tune to
        data = None
        for method in self.methods(source):
            done = {
                one["rate"]
                for one in records()
                if one["what"] == "tuning" and (one["data"], one["method"]) == (source, method.name)
            }
            for rate in method.rates:
                if rate in done:
                    continue
                data = data or self.load(source, TUNING)
                k = data.k[min(1, len(data.k) - 1)]
                k = data.k[0] if (source, method.name, k) in FEWER_SEEDS else k
                fitted, seconds = self.fit(method, data, k, rate, TUNING)
                value = fve(data.test, fitted.decode(fitted.encode(data.test, k)))
                self.append(what="tuning", data=source, method=method.name, rate=rate, fve=value,
                            seconds=seconds)  # fmt: skip
        best: dict[str, tuple[float, float]] = {}
        for one in records():
            if one["what"] == "tuning" and one["data"] == source:
                best[one["method"]] = max(
                    best.get(one["method"], (-np.inf, 0.0)), (one["fve"], one["rate"])
                )
        return {method: rate for method, (_, rate) in best.items()}

    def fit(
        self, method: Any, data: Data, k: int, rate: float, seed: int, steps: int | None = None
    ) -> tuple[Any, float]:
        from cedar_peers import Task

        task = Task(
            data.train, k, data.latents, steps or data.steps, data.batch, rate, seed, data.k
        )
        start = time.process_time()
        fitted = method.fit(task)
        return fitted, time.process_time() - start

    def measure(self, name: str, seed: int, rates: dict[str, float], slow: bool) -> None:
        done = {
            (one["method"], one["k"])
            for one in records()
            if one["what"] == "fit" and (one["data"], one["seed"]) == (name, seed)
        }
        data = None
        for method in self.methods(name):
            missing = [
                k
                for k in K[name]
                if (method.name, k) not in done
                and slow == ((name, method.name, k) in FEWER_SEEDS)
                and seed < FEWER_SEEDS.get((name, method.name, k), 2 if name in NULLS else 5)
            ]
            if not missing:
                continue
            data = data or self.load(name, seed)
            fitted, seconds = None, 0.0
            for k in missing:
                if fitted is None or method.fits_k:
                    rate = rates.get(method.name, 0.0)
                    fitted, seconds = self.fit(method, data, k, rate, seed)
                found = measured(fitted, data, k)
                found["agreement"] = self.agreement(name, method.name, k, seed, fitted, data)
                print(name, seed, method.name, k, f"{found['fve']:.4f} {seconds:.1f} s", flush=True)
                self.append(what="fit", data=name, method=method.name, k=k, seed=seed,
                            rate=rates.get(method.name), seconds=seconds, **found)  # fmt: skip
        if seed == 0 and not any(
            one["what"] == "rotation" and one["data"] == name for one in records()
        ):
            data = data or self.load(name, seed)
            self.append(what="rotation", data=name, seed=seed, **rotation_sensitivity(data, seed))

    def other_budgets(self, name: str, seed: int, rates: dict[str, float]) -> None:
        """Train again for as long as CEDAR took, and for the first seed four times as long."""
        if name in NULLS or seed > 1:
            return
        mine = [one for one in records() if (one["data"], one.get("seed")) == (name, seed)]
        seconds = {
            (one["method"], one["k"]): one["seconds"] for one in mine if one["what"] == "fit"
        }
        done = {(one["method"], one["k"], one["budget"]) for one in mine if one["what"] == "budget"}
        methods = {method.name: method for method in self.methods(name)}
        for method_name, k in ((a, b) for a in TIMED for b in K[name]):
            for budget in ("CEDAR's time", "4x the steps"):
                longer = budget == "4x the steps"
                if (method_name, k, budget) in done or (longer and (seed or k != K[name][-1])):
                    continue
                if (method_name, k) not in seconds:
                    continue
                data = self.load(name, seed)
                share = 4.0 if longer else seconds["CEDAR", k] / seconds[method_name, k]
                steps = max(10, round(share * data.steps))
                fitted, took = self.fit(
                    methods[method_name], data, k, rates[method_name], seed, steps
                )
                value = fve(data.test, fitted.decode(fitted.encode(data.test, k)))
                self.append(what="budget", data=name, method=method_name, k=k, seed=seed,
                            budget=budget, steps=steps, seconds=took, fve=value)  # fmt: skip

    def agreement(
        self, name: str, method: str, k: int, seed: int, fitted: Any, data: Data
    ) -> float | None:
        """Return the mean cosine of the atoms in use with those of the seed before, matched."""
        if data.concepts is None:
            return None  # every seed draws its own truth
        BUILD.mkdir(parents=True, exist_ok=True)

        def path(seed: int) -> Path:
            slug = "".join(c if c.isalnum() else "_" for c in method)
            return BUILD / f"{name}-{slug}-{k}-{seed}.npy"

        alive = (fitted.encode(data.train[:4000], k) != 0).any(axis=0)
        atoms = np.asarray(fitted.atoms, np.float32)[alive]
        if data.lift is not None:
            atoms = (atoms @ data.lift).astype(np.float32)
        np.save(path(seed), atoms)
        before = path(seed - 1)
        if not before.exists():
            return None
        other = np.load(before)
        return mcc(atoms, other) if len(other) <= len(atoms) else mcc(other, atoms)


def _rounded(record: Record) -> Record:
    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}")
        return [short(one) for one in value] if isinstance(value, list) else value

    return {name: short(value) for name, value in record.items()}


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    job = Run(options)
    try:
        rates = {name: job.tune(name) for name in options.data}
        for seed in SEEDS:
            for name in options.data:
                job.measure(name, seed, rates[name], slow=False)
        for seed in SEEDS:
            for name in options.data:
                job.measure(name, seed, rates[name], slow=True)
                job.other_budgets(name, seed, rates[name])
    except TimeoutError:
        print("the time is over; run again to continue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", choices=tuple(K), default=tuple(K), help="data sets to run"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after this time")
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of WordNet"
    )
    parser.add_argument(
        "--fashion", default="fashion-mnist", help="folder of Fashion-MNIST; by default Debian's"
    )
    run(parser.parse_args())


if __name__ == "__main__":
    main()
