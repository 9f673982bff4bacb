"""Embeddings that differ from those of the fit, and those that do not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cedar_cases import planted
from laplex.cedar import CEDAR, DriftWarning

D = 24


def rotation(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]


def rotated(model: CEDAR, rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows of the same norms and the same distance to the mean, in another basis."""
    centre: np.ndarray = model.data_mean_
    turned: np.ndarray = (rows - centre) @ rotation(seed) + centre
    return turned


def calls(model: CEDAR, rows: np.ndarray) -> dict[str, Callable[[], Any]]:
    return {
        "transform": lambda: model.transform(rows),
        "score": lambda: model.score(rows),
        "intervene": lambda: model.intervene(rows, {0: 1.0}),
        "module": lambda: model.torch_module().check_drift(torch.from_numpy(rows)),
    }


@pytest.mark.parametrize("kind", ["orthogonal", "invertible"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rotated_space_is_told_by_every_method(kind: str, dtype: Any) -> None:
    case = planted(3000, D, 3, seed=1)
    data = (case.data + 0.5).astype(dtype)
    model = CEDAR(3, basis=kind, max_iter=100, random_state=0).fit(data[:2000])
    drifted = rotated(model, data[2000:], seed=2).astype(dtype)
    for call in calls(model, data[2000:]).values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
    told = r"^3 axes explain 0\.\d\d of [Xz], but (0\.9\d|1\.00) of the rows of the fit: the codes"
    for call in calls(model, drifted).values():
        with pytest.warns(DriftWarning, match=told) as seen:
            call()
        assert [one.filename for one in seen] == [__file__]
    # Columns in another order are a rotation too.
    shuffled = (data[2000:] - model.data_mean_)[:, ::-1] + model.data_mean_
    with pytest.warns(DriftWarning, match="axes explain"):
        model.transform(shuffled)


def test_one_warning_says_all_that_differs() -> None:
    data = planted(2000, D, 3, seed=1).data
    model = CEDAR(3, random_state=0).fit(data)
    pattern = "the mean of X is .*; the centred rows of X are 3.* times .*; 3 axes explain"
    with pytest.warns(DriftWarning, match=pattern) as seen:
        model.transform(3 * data @ rotation(1) + 2)
    assert len(seen) == 1


def families(random: np.random.Generator, turn: np.ndarray) -> dict[str, Any]:
    """Draw rows of several kinds, with and without axes, with thin and thick tails."""

    def gauss(n: int) -> np.ndarray:
        return random.standard_normal((n, D))

    def lengths(z: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = z * np.exp(random.standard_normal((len(z), 1)))
        return scaled / np.linalg.norm(z, axis=1, keepdims=True)

    return {
        "isotropic": gauss,
        "covariance": lambda n: gauss(n) * np.arange(1, D + 1) ** -0.7 @ turn,
        "log-normal lengths": lambda n: lengths(gauss(n)),
        "laplace": lambda n: random.laplace(size=(n, D)) @ turn,
        "planted": lambda n: (gauss(n) * (random.random((n, D)) < 0.1)) @ turn,
        "one sign": lambda n: np.abs(gauss(n)) * (random.random((n, D)) < 0.1) + gauss(n) / 20,
    }


@pytest.mark.parametrize("rows", [2 * D, 20 * D, 100 * D])
def test_other_rows_of_the_same_data_are_no_drift(rows: int) -> None:
    # A fit to few rows explains them better than others; that is no property of the others.
    random = np.random.default_rng(rows)
    for seed, draw in enumerate(families(random, rotation(0)).values()):
        model = CEDAR(3, max_iter=40, random_state=seed).fit(draw(rows))
        for count in (100, 128, 400, 2000):
            for _ in range(3):
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    model.transform(draw(count))
                assert not [one for one in seen if "axes explain" in str(one.message)]


def test_what_cannot_be_told_is_not_told() -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal((2000, D))  # of which every rotation explains the same
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = CEDAR(3, random_state=0).fit(noise)
        model.transform(rotated(model, noise, seed=1))
        data = planted(2000, D, 3, seed=1).data
        model = CEDAR(3, random_state=0).fit(data)
        model.transform(rotated(model, data, seed=1)[:30])  # too few rows
        with pytest.warns(UserWarning, match="nothing to learn"):
            full = CEDAR(D, random_state=0).fit(data)  # keeps everything of anything
        full.transform(rotated(full, data, seed=1))


def heavy(random: np.random.Generator) -> list[Callable[[int], np.ndarray]]:
    """Draw rows whose norms, or coordinates, have thick tails."""

    def gauss(n: int) -> np.ndarray:
        return random.standard_normal((n, D))

    def lengths(n: int, width: float) -> np.ndarray:
        scaled: np.ndarray = np.exp(width * random.standard_normal((n, 1)))
        return scaled

    return [
        lambda n: gauss(n) * lengths(n, 1.0),
        lambda n: gauss(n) * lengths(n, 1.5),
        lambda n: gauss(n) / np.sqrt(random.chisquare(2.1, (n, 1)) / 2.1),
        lambda n: random.standard_t(2.1, (n, D)),
        lambda n: np.exp(1.5 * gauss(n)),
        lambda n: gauss(n) * (random.random((n, 1)) > 0.1),  # rows of padding
    ]


def test_heavy_tails_are_no_drift_and_do_not_hide_one() -> None:
    random = np.random.default_rng(0)
    for draw in heavy(random):
        model = CEDAR(3, max_iter=20, tol=0, random_state=0).fit(draw(2000))
        parts = CEDAR(3, random_state=0)
        for batch in np.array_split(draw(2000), 4):
            parts.partial_fit(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for count in (50, 100) * 15:
                model.transform(draw(count))
            # The loss that partial_fit knows is that of its last batch.
            warnings.filterwarnings("ignore", "3 axes explain")
            for count in (50, 100) * 15:
                parts.transform(draw(count))
        for one in (model, parts):
            with pytest.warns(DriftWarning, match=r"rows of X are (1\.[5-9]|2\.[0-6])\d times"):
                one.transform(2 * draw(1500))
            with pytest.warns(DriftWarning, match="the mean of X"):
                one.transform(draw(1500) + np.eye(D)[0] * one.scale_)


def test_a_model_that_knows_no_logarithms_compares_mean_squares(tmp_path: Any) -> None:
    data = planted(2000, D, 3, seed=1).data
    model = CEDAR(3, random_state=0).fit(data).add_modality("other", data)
    model.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["fitted"].pop("log_norms") == list(model.fitted_.log_norms or ())
    del config["modalities"]["other"]["log_norms"]
    path.write_text(json.dumps(config))
    old = CEDAR.load(tmp_path)
    for modality in (None, "other"):
        old.transform(data[:40], modality=modality)
        with pytest.warns(DriftWarning, match=r"are (1\.9|2\.0)\d times as long"):
            old.transform(2 * (data[:400] - data.mean(0)) + data.mean(0), modality=modality)
