"""``laplex exits publish``: a run becomes a model that anybody can load."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import command_cases
from fake_hub import instead_of_the_real_one
from laplex.cli.exits import app
from laplex.early_exit import MultiExitModel
from laplex.early_exit.runs.run import Run

run = functools.partial(command_cases.run, app)
fails = functools.partial(command_cases.fails, app)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has been evaluated."""
    path = tmp_path_factory.mktemp("exits") / "run"
    small = ("--images", 100, "--backbone", "small_mlp", "--epochs", 1, "--quiet")
    run("train", "--out", path, *small, "--strategy", "joint")
    run("evaluate", path, "--threshold", 0.2, "--quiet")
    return path


def test_a_folder_has_the_model_its_policy_and_its_numbers(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    to = ("publish", folder, "--out", out, "--license", "mit", "--calibration", "temperature")
    text, _ = run(*to, "--budget", 0.8)
    assert text.endswith(f"The model and its card are in {out}\n")
    again, trained = MultiExitModel.from_pretrained(out), Run.open(folder).model
    x = Run.open(folder).splits.example(20)
    with torch.no_grad():
        assert all(map(torch.equal, again(x), trained(x)))
    assert text.startswith(f"Policy: {again.policy!r}\n")
    assert again.class_names == tuple(map(str, range(10)))
    assert again.predict(x).samples_per_segment[0] == 20
    card = (out / "README.md").read_text()
    for part in ("license: mit", "- digits", "type: accuracy", "| small_mlp, ", "AUROC", "budget"):
        assert part in card
    assert str(folder) not in card + (out / "config.json").read_text()


def test_a_repository_has_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instead_of_the_real_one(monkeypatch, tmp_path) as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        to = ("publish", folder, "--repo", "me/digits", "--private", "--threshold", 0.3)
        text, _ = run(*to)
        assert f"The model and its card are in {hub.endpoint}/me/digits/commit/" in text
        assert "me/digits" in hub.private
        again = MultiExitModel.from_pretrained("me/digits")
    assert repr(again.policy) == "MaxSoftmax(0.3)"


def test_failures(folder: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "model")
    assert "pass either --out, a folder, or --repo" in fails("publish", folder)
    assert "exclude each other" in fails("publish", folder, *out, "--threshold", 1, "--budget", 1)
    assert "does not hold a run" in fails("publish", tmp_path, *out)
    assert list(tmp_path.iterdir()) == []
