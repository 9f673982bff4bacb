"""The examples of CEDAR: their pieces on drawn data, and, slowly, on pretrained models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cedar_cases import planted, rotation_error

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


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
    assert "CEDAR" in done.stdout
    assert "<html" in (tmp_path / "report.html").read_text()[:200].lower()
