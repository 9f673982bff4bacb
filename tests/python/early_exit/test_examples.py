"""The studies of early exits, in small, on digits in Fashion-MNIST's files."""

from __future__ import annotations

import importlib
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from laplex._support.image_datasets import load_images

pytestmark = pytest.mark.usefixtures("importable_examples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of 8 x 8, each pixel repeated, in 28 x 28."""
    where = tmp_path_factory.mktemp("digits")
    digits = load_images("digits")
    for part, images, labels in (
        ("train", digits.train_images, digits.train_labels),
        ("t10k", digits.test_images, digits.test_labels),
    ):
        large = np.kron((255 * images).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
        large = np.pad(large, ((0, 0), (2, 2), (2, 2)))
        for name, array in (("images-idx3", large), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (where / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return where


def run(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", [name, *options])
    threads = torch.get_num_threads()
    try:
        importlib.import_module(name).main()
    finally:
        torch.set_num_threads(threads)


def test_study(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--data", str(folder), "--out", str(tmp_path)]
    run("exits_study", monkeypatch, "--quick", "--tasks", "resnet", "table", *options)
    tables = (tmp_path / "quick/tables.md").read_text()
    assert tables in capsys.readouterr().out
    for head, strategy in product(("pooled", "grid"), ("disjoint", "joint", "mixed")):
        assert re.search(rf"^\| {head} \| [2+]+ \| {strategy} \|", tables, re.MULTILINE)
    assert len(re.findall(r"^\| table .* \| score heads \|", tables, re.MULTILINE)) == 3
    for name in ("curves", "gaps", "correlations"):
        assert (tmp_path / f"quick/exits_{name}.png").stat().st_size > 10_000
    # What is there is not run again; a lost line is.
    file = tmp_path / "quick/resnet.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    run("exits_study", monkeypatch, "--quick", "--tasks", "resnet", *options)
    again = [json.loads(line) for line in (*lines, *file.read_text().splitlines())]
    for line in again:
        del line["seconds"]
    assert again[: len(lines)] == again[len(lines) :]


def test_heads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("exits_heads", monkeypatch, "--quick", "--data", str(folder))
    out = capsys.readouterr().out
    rows = dict(
        re.findall(r"^(linear|LaplexHead, 1 kernel) +\S+ +\S+ +([\d,]+) ", out, re.MULTILINE)
    )
    # The last table: every place of 16 x 14 x 14 maps.
    assert rows == {"linear": "31,370", "LaplexHead, 1 kernel": "9,439"}
