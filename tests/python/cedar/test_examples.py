"""The examples of CEDAR: their pieces on drawn data, and, slowly, on pretrained models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cedar_cases import planted, rotation_error

EXAMPLES = Path(__file__).parents[3] / "examples"
pytestmark = pytest.mark.usefixtures("importable_examples")


def test_words_on_planted_axes() -> None:
    pytest.importorskip("wordfreq")
    import cedar_words

    case = planted(1500, 16, 2, seed=0)
    words = [f"word {i}" for i in range(len(case.data))]
    found = cedar_words.study(case.data, words, k=2, starts=3)
    assert found.held_out["CEDAR"] > 0.99 > found.held_out["random rotation"] + 0.2
    assert rotation_error(found.model.restarts_) < 1e-10
    assert sum(axis.named for axis in found.names) > 12
    assert found.chance < 0.9
    assert cedar_words.neighbours(case.data, words, case.data[7])[0] == "word 7"


def test_images_on_planted_axes() -> None:
    import cedar_images

    from laplex.cedar import CEDAR
    from laplex.cedar.baselines import RandomRotation

    case = planted(1200, 12, 2, seed=1, positive=True)
    labels = np.argmax(case.causes, axis=1)  # the class of a row is its strongest cause
    rows = case.data
    train, test = (rows[:900], labels[:900]), (rows[900:], labels[900:])
    results = {
        method.__class__.__name__: cedar_images.judge("", method, train, test, rows[900:], 2)
        for method in (CEDAR(2, center="learned", random_state=0), RandomRotation(random_state=0))
    }
    assert results["CEDAR"].auroc > 0.95 > results["RandomRotation"].auroc + 0.05
    assert results["CEDAR"].explained > 0.99
    model = CEDAR(2, center="learned", n_init=3, random_state=0).fit(rows)
    names = cedar_images.names_by_class(model, rows, labels, tuple(map(str, range(12))))
    given = {end.word for axis in names for end in (axis.positive, axis.negative) if end}
    assert len(given) > 8


def test_words_of_an_axis_and_how_they_are_spelled() -> None:
    pytest.importorskip("wordfreq")
    import cedar_words

    from laplex.cedar import CEDAR, name_axes

    case = planted(600, 6, 1, seed=3)
    model = CEDAR(1, center="none", n_init=3, random_state=0).fit(case.data)
    cause = np.abs(case.causes).argmax(axis=1)
    # The words of one cause begin alike at both its ends; all others begin differently.
    words = [f"st{i}" if cause[i] == 0 else f"{chr(97 + i % 26)}{i}" for i in range(600)]
    axis = int(np.abs(model.atoms_ @ case.atoms[0]).argmax())
    every = np.arange(6)
    assert cedar_words.spelled_alike(model, case.data, words, np.array([axis])) == (2, 2)
    assert cedar_words.spelled_alike(model, case.data, words, every[every != axis]) == (0, 10)
    names = name_axes(model, case.data, words, text_mean=np.zeros(6), threshold=0.5)
    lines = cedar_words.both_ends(model, case.data, words, names)
    assert len(lines) == 12
    assert sum(line.count(" st") == 7 for line in lines) == 2  # the name, and six examples
    assert cedar_words.rotation_error(model.restarts_) < 1e-10
    assert cedar_words.rotation_error(2 * model.restarts_) == pytest.approx(3)


def test_fewer_rows_than_freedom_overfit() -> None:
    import cedar_images

    random = np.random.default_rng(0)
    train, test = random.standard_normal((4000, 24)), random.standard_normal((4000, 24))
    fits = cedar_images.rows_and_columns(train, test, [40, 4000], k=4, passes=30)
    assert [(fit.rows, fit.name) for fit in fits] == [
        (40, "PCA, per-row top k"),
        (40, "procrustes"),
        (4000, "PCA, per-row top k"),
        (4000, "procrustes"),
        (4000, "adam"),
    ]
    # All bases explain the same of isotropic rows: what 4 of 24 normal coordinates hold. Of rows
    # that were fitted they explain more, the fewer the more. The mean of n rows costs 1 / n.
    squares = np.sort(random.standard_normal((4000, 24)) ** 2, axis=1)
    expected = squares[:, -4:].sum() / squares.sum()
    for fit in fits:
        assert fit.explained == pytest.approx(expected - (1 - expected) / fit.rows, abs=0.015)
        assert fit.seconds >= 0
    few, many = (fit.train_explained - fit.explained for fit in (fits[1], fits[3]))
    assert few > 0.15
    assert 0 < many < few / 3


def test_steering_where_axes_are_classes() -> None:
    import cedar_steering as example

    from laplex.cedar import CEDAR

    # Class c has coordinate c, and the network says the class with the largest coordinate.
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((4, 4)))[0]
    labels = np.arange(600) % 4
    vectors = (np.eye(4)[labels] * (1 + random.random((600, 1)))) @ turn
    outputs = torch.from_numpy(vectors).reshape(600, 1, 4).float()
    head = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(turn).float())
    rest = nn.Sequential(nn.Identity(), nn.Flatten(), head).requires_grad_(False)
    parts = outputs[:500], labels[:500], outputs[500:], labels[500:]
    case = example.Case("planted", rest, *parts, k=1, dim=-1, positions=-1)
    model = CEDAR(1, center="none", random_state=0).fit(case.vectors(case.train).flatten(0, 1))
    found = example.directions(case, model)
    assert [claim.label for claim in found["CEDAR"]] == [0, 1, 2, 3]
    assert len({claim.axis for claim in found["CEDAR"]}) == 4
    (small, large) = example.steer_by(found["CEDAR"], case, 1.5, (0.5, 2.0))
    assert small.first == large.first == 1
    assert large.decided == 1 > small.decided
    assert large.gained > small.gained > 0
    effects = example.attribute_inputs(case, model.torch_module(), 5)
    assert effects.measured.shape == (5, 4)
    assert np.allclose(effects.once, effects.measured, atol=1e-5)  # the metric is linear
    assert np.allclose(effects.once.sum(1) + effects.error, effects.total, atol=1e-5)


def test_questions_and_their_answers() -> None:
    import cedar_steering as example

    tokens, answer = example.questions(50, torch.Generator().manual_seed(0))
    of = {10: lambda d: d[0], 11: lambda d: d[3], 12: max, 13: min}
    for (kind, *digits, equals), found in zip(tokens.tolist(), answer.tolist(), strict=True):
        assert equals == 14
        assert of[kind](digits) == found


@pytest.mark.slow
def test_steering_a_trained_transformer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "cedar_steering.py", "--quick", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cedar_steering.png").exists()
    assert (tmp_path / "cedar_attribution.png").exists()
    right = re.findall(r": ([\d.]+) of \d+ held-out inputs are right", done.stdout)
    assert float(right[1]) > 0.9
    means = re.findall(r"^differences of class means +1.00 +([\d.]+)", done.stdout, re.MULTILINE)
    assert float(means[1]) > 0.9  # these know the classes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cedar_words", "cedar_images"])
def test_examples_on_pretrained_models(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--quick", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "report.html").read_text()[:200].lower()
    about = re.search(r"(\d+) of (\d+) axes have a name .*; (\d+) are confirmed", done.stdout)
    assert about is not None
    named, axes, confirmed = map(int, about.groups())
    assert named <= confirmed < axes / 2  # a thousand words are few for 384 columns
    if name == "cedar_words":
        lines = re.findall(r"^ +(\S+) of the variance of held-out words: (.*)$", done.stdout, re.M)
        explained = {method: float(value) for value, method in lines}
        # 800 words for 384 columns overfit: .426 for CEDAR, .438 for PCA, .239 for a random basis.
        # From all words CEDAR is ahead by .07.
        assert explained["CEDAR"] > explained["random rotation"] + 0.1
        error = re.search(r"(\S+): the largest entry of U U\^T - I", done.stdout)
        assert error is not None
        assert float(error[1]) < 1e-5
    else:
        lines = re.findall(r"^(\w.*?)  +([\d.]+) +([\d.]+) +([\d.]+) +[\d.]+$", done.stdout, re.M)
        held_out = {method: (float(other), float(auroc)) for method, _, other, auroc in lines}
        assert held_out["CEDAR"][0] > held_out["random rotation"][0] + 0.1
        assert held_out["CEDAR"][1] > held_out["random rotation"][1]
