"""The studies of early exits, in small, on digits in Fashion-MNIST's files."""

from __future__ import annotations

import importlib
import json
import re
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


def test_strategies(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--quick", "--data", str(folder), "--networks", "resnet", "--out", str(tmp_path)]
    run("exits_fashion_mnist", monkeypatch, *options)
    first = capsys.readouterr().out
    tables = first[first.index("\n===") :]
    for strategy in ("disjoint", "joint", "mixed"):
        assert f"resnet-{strategy}-0: " in first
        for way in ("softmax", "temperature", "score heads"):
            assert re.search(rf"^{strategy}, {way} +1 ", tables, re.MULTILINE)
    assert "mean EEFP" in tables
    assert (tmp_path / "resnet_strategies.png").stat().st_size > 10_000
    json.loads((tmp_path / "resnet.json").read_text())
    run("exits_fashion_mnist", monkeypatch, *options)  # what is there is not made again
    again = capsys.readouterr().out
    cut = "\nTime of real exits"
    assert again[: again.index(cut)] == tables[: tables.index(cut)]


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


@pytest.mark.slow
def test_pretrained(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    options = ["--quick", "--data", str(folder), "--out", str(tmp_path)]
    run("exits_efficientnet", monkeypatch, *options)
    out = capsys.readouterr().out
    for strategy in ("frozen", "disjoint", "joint", "mixed"):
        assert f"efficientnet-{strategy}-0: " in out
    frozen, base = (
        torch.load(tmp_path / f"efficientnet-{name}-0.pt", weights_only=True)
        for name in ("frozen", "joint")
    )
    weights = [name for name in frozen if name.endswith("_conv_stem.weight")]
    assert not torch.equal(frozen[weights[0]], base[weights[0]])
