"""A small model of each class that folders and the hub hold."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cedar_cases import planted
from exits_cases import MODELS as NETWORKS
from exits_cases import images
from laplex.cedar import CEDAR
from laplex.early_exit import LearnedScore, MaxSoftmax, MultiExitModel, ScoreHeads, networks
from laplex.early_exit import TemperatureScaling as Temperatures
from laplex.nn import LaplexHead, LaplexLinear

ROWS = planted(200, 6, 2, seed=30).data


def cedar(basis: str = "orthogonal", dtype: Any = np.float32, **options: Any) -> CEDAR:
    few = {"frame": {}, "laplex": {"heads": 2}}.get(basis, {})
    model = CEDAR(k=2, basis=basis, max_iter=5, random_state=0, **few, **options)
    return model.fit(ROWS.astype(dtype)).add_modality("text", ROWS[:50] + 1)


def tiny_exits() -> MultiExitModel:
    """Two exits of a perceptron with 30 parameters a layer, and a policy with fitted scores."""
    backbone = networks.small_mlp(4, 3, widths=(5, 5), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = torch.randn(40, 4)
        at = networks.EXITS["small_mlp"]
        model = MultiExitModel.attach(backbone, at, head="laplex", num_classes=3, example=x).eval()
    with torch.no_grad():
        logits = torch.stack(model(x))
    heads = ScoreHeads().fit(logits, logits[-1].argmax(-1) * (torch.arange(40) % 3 > 0))
    model.policy = LearnedScore(heads, (0.6, 0.7)).with_cuts((0.6, float("-inf")))
    model.class_names = ("cat", "dog", "owl")
    return model


def scaled_exits() -> MultiExitModel:
    model = NETWORKS["resnet"]()
    with torch.no_grad():
        logits = torch.stack(model(images(20)))
    scaling = Temperatures().fit(logits, torch.arange(20) % 10)
    model.policy = LearnedScore(scaling, 0.5, strict=True, fallback="most_confident")
    return model


def layer(kind: Any, *sizes: int, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made: nn.Module = kind(*sizes, **options)
    return made


#: Models by name; each call makes the same one.
MODELS: dict[str, Callable[[], Any]] = {
    "linear": functools.partial(layer, LaplexLinear, 5, 3, heads=2, kernel="matern32", side="left"),
    "half linear": functools.partial(
        layer, LaplexLinear, 5, 3, bias=False, phased=False, dtype=torch.bfloat16
    ),
    "head": functools.partial(layer, LaplexHead, 6, 4, heads=2, dtype=torch.float64),
    "exits": tiny_exits,
    "resnet": scaled_exits,
    "msdnet": NETWORKS["msdnet"],
    "vit": NETWORKS["vit"],
    "cedar": functools.partial(cedar, n_init=3),
    "invertible cedar": functools.partial(cedar, "invertible", np.float64),
    "cedar's frame": functools.partial(cedar, "frame"),
    "cedar's rotations": functools.partial(cedar, "laplex"),
}


@functools.cache
def _pickled(name: str) -> bytes:
    return pickle.dumps(MODELS[name]())


def made(name: str) -> Any:
    """A model that may be changed, and is made only once."""
    return pickle.loads(_pickled(name))


def results(model: Any) -> list[Any]:
    """Everything that a model computes of some inputs, as arrays."""
    if isinstance(model, CEDAR):
        codes = model.transform(ROWS)
        found = [
            codes,
            model.inverse_transform(codes),
            model.transform(ROWS[:50] + 1, modality="text"),
        ]
        found += [model.atoms_, np.array(model.loss_curve_), *model.fitted_.modalities]
        if model.confirmation_ is not None:
            found.append(model.confirmation_.q)
        return found
    model.eval()
    with torch.no_grad():
        if isinstance(model, MultiExitModel):
            wide = next(model.backbone.parameters()).ndim > 2
            x = images(6) if wide else torch.randn(6, 4, generator=_seed())
            found = [*model(x)]
            answer = model.predict(x, model.policy or MaxSoftmax(0.2))
            return [one.numpy() for one in (*found, answer.logits, answer.exit_index)]
        x = torch.randn(7, model.in_features, generator=_seed(), dtype=torch.float64)
        return [model(x.to(model.source_gain.dtype)).double().numpy()]


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def assert_same(model: Any, other: Any) -> None:
    assert type(other) is type(model)
    assert repr(other) == repr(model)
    for one, two in zip(results(model), results(other), strict=True):
        np.testing.assert_array_equal(one, two)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
