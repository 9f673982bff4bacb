"""`laplex.cedar`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laplex.cedar import (
    CEDAR,
    baselines,
    chance_scores,
    metrics,
    name_axes,
    stability,
    top_examples,
)

Calls = Iterator[tuple[str, Callable[[], Any]]]
D = 12


def planted(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, the causes and the directions that they mix."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    causes = rng.standard_normal((rows, D)) * (rng.random((rows, D)) < 2 / D)
    return causes @ turn + 0.1, causes, turn


def estimators() -> Calls:
    data, _, _ = planted(600)
    few = {"max_iter": 12, "random_state": 0}
    settings: dict[str, dict[str, Any]] = {
        "orthogonal": {"k": 2},
        "k = 1": {"k": 1},
        "several k": {"k": [2, 4]},
        "three starts": {"k": 2, "n_init": 3},
        "learned centre": {"k": 2, "center": "learned"},
        "no centre": {"k": 2, "center": "none"},
        "adam": {"k": 2, "solver": "adam", "batch_size": 100},
        "Cayley": {"k": 2, "solver": "adam", "parametrization": "cayley", "batch_size": 100},
        "invertible": {"k": 2, "transform": "invertible", "batch_size": 100},
        "laplex": {"k": 2, "transform": "laplex", "heads": 2, "batch_size": 100},
        "laplex, learned centre": {"k": 2, "transform": "laplex", "center": "learned"},
        "sparse": {"k": 2, "sparse_output": True},
    }
    for name, options in settings.items():
        for kind in (np.float32, np.float64):
            rows = data.astype(kind)
            yield (
                f"{name}, {kind.__name__}",
                lambda rows=rows, options=options: of_model(CEDAR(**few | options).fit(rows), rows),
            )
        yield f"{name}, online", lambda options=options: online(CEDAR(**few | options), data)
    rows = data.astype(np.float32)
    for solver in ("procrustes", "adam"):
        model = CEDAR(k=2, solver=solver, batch_size=100, **few)
        yield (
            f"{solver}, batches",
            lambda model=model: model.fit(np.array_split(rows, 5)).components_,
        )
        yield f"{solver}, a file", partial(from_file, model, rows)
        yield (
            f"{solver}, tensors",
            lambda model=model: model.fit(torch.from_numpy(rows)).components_,
        )
        yield (
            f"{solver}, fitted and online",
            lambda model=model: copy.deepcopy(model.fit(rows)).partial_fit(rows[:100]).components_,
        )


def of_model(model: CEDAR, rows: np.ndarray) -> Any:
    module = model.torch_module()
    z = torch.from_numpy(rows[:20]).requires_grad_()
    codes = module.encode(z)
    module.decode(codes).square().sum().backward()
    kept = model.transform(rows)
    found = {
        "readouts": model.components_,
        "atoms": model.atoms_,
        "starts": model.restarts_,
        "mean": model.mean_,
        "losses": model.loss_curve_,
        "codes": kept.toarray() if model.sparse_output else kept,
        "reconstructions": model.inverse_transform(kept),
        "score": model.score(rows),
        "steered": model.intervene(rows[:5], {3: 2.0}),
        "module": codes,
        "gradient": z.grad,
        "examples": top_examples(model, rows, n=3),
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        loaded = CEDAR.load(folder).transform(rows[:50])
    return found | {"loaded": loaded.toarray() if model.sparse_output else loaded}


def online(model: CEDAR, rows: np.ndarray) -> Any:
    for batch in np.array_split(rows, 4):
        model.partial_fit(batch)
    return model.components_, model.mean_, model.score(rows), model.loss_curve_


def from_file(model: CEDAR, rows: np.ndarray) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, rows)
        model.fit(np.load(path, mmap_mode="r"), checkpoint=Path(folder) / "fit")
        return model.components_


def rivals() -> Calls:
    data, _, _ = planted(400)
    made = {
        "PCA": baselines.PCA(random_state=0),
        "leading PCA": baselines.PCA("leading", random_state=0),
        "FastICA": baselines.FastICA(random_state=0, max_iter=30),
        "Quartimax": baselines.Quartimax(random_state=0),
        "Varimax": baselines.Varimax(random_state=0),
        "RandomRotation": baselines.RandomRotation(random_state=0),
        "TopKSAE": baselines.TopKSAE(k=2, steps=40, random_state=0),
    }
    for name, each in made.items():
        yield name, lambda each=each: of_rival(each.fit(data), data)
    yield "all baselines", lambda: [each.name for each in baselines.all_baselines()]
    for gamma in (0.0, 0.5, 1.0):
        yield f"orthomax, {gamma}", lambda gamma=gamma: baselines.orthomax(data, gamma)
    some = [baselines.PCA(), baselines.Varimax(), baselines.TopKSAE(steps=20)]
    yield "compare", lambda: compared(data, some)


def of_rival(model: Any, rows: np.ndarray) -> Any:
    codes = model.transform(rows, 2)
    back = model.inverse_transform(codes)
    return {"codes": codes, "back": back, "atoms": model.atoms_, "mean": model.mean_}


def compared(rows: np.ndarray, some: list[Any]) -> Any:
    found = baselines.compare(
        rows, (2, 4), baselines=some, cedar=CEDAR(max_iter=8, random_state=0), seeds=2
    )
    return [
        [value for name, value in vars(row).items() if name != "fit_seconds"] for row in found.rows
    ]


def judges() -> Calls:
    data, causes, turn = planted(600)
    rng = np.random.default_rng(30)
    noisy = data + 0.1 * rng.standard_normal(data.shape)
    other = np.linalg.qr(rng.standard_normal((D, D)))[0]
    labels = (causes[:, 0] > 0).astype(int) + (causes[:, 1] > 0)
    texts = np.concatenate([turn, -turn, rng.standard_normal((10, D))])
    words = [f"word {i}" for i in range(len(texts))]
    fitted = CEDAR(k=2, n_init=3, max_iter=20, random_state=0).fit(data)
    halves = [metrics.Reconstruction(mean=data.mean(0)) for _ in range(2)]
    for half, part in zip(halves, (slice(300), slice(300, 600)), strict=True):
        half.update(data[part], noisy[part], causes[part])
    yield "fve", lambda: metrics.fve(data, noisy)
    yield "fve, float32", lambda: metrics.fve(data.astype(np.float32), torch.from_numpy(noisy))
    yield "reconstruction", lambda: halves[0].merge(halves[1]).compute()
    yield "match", lambda: metrics.match(turn, other)
    yield "match, signed", lambda: metrics.match(turn, other, signed=True)
    yield "mcc", lambda: metrics.mcc(turn, other)
    yield "mcc of codes", lambda: metrics.mcc_of_codes(fitted.transform(data), causes)
    yield "Amari distance", lambda: metrics.amari_distance(other, turn.T)
    yield "code bits", lambda: metrics.code_bits(512, 16)
    yield "monosemanticity", lambda: metrics.monosemanticity(causes, data)
    yield "zero-shot agreement", lambda: metrics.zero_shot_agreement(data, noisy, turn[:3], labels)
    yield "linear probe", lambda: metrics.linear_probe_agreement(data, noisy, labels)
    yield "stability", lambda: stability(fitted.restarts_)
    yield "recurring", lambda: stability(fitted.restarts_).recurring(2)
    yield "names", lambda: name_axes(fitted, texts, words).to_json()
    yield "all names", lambda: name_axes(fitted, texts, words, threshold=-1.0).table(None)
    yield "chance", lambda: chance_scores(texts, axes=20)


AREAS = {"cedar": estimators, "cedar baselines": rivals, "cedar metrics": judges}
