"""Files that somebody made to run code, to fill the memory or to crash: each is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from laplex._support.settings_files import read_yaml
from laplex.cedar import CEDAR, fitting, read_codes, write_codes
from laplex.cedar.confirmation import Confirmation
from laplex.cedar.containers import Stream, open_files
from laplex.early_exit import ExportedModel
from laplex.early_exit.runs.settings import RunSettings
from laplex.early_exit.training.checkpoints import load_checkpoint
from laplex.early_exit.training.result import TrainingResult
from laplex.gram.covariance import training
from strategies import quick

#: Each example is a file. Mutations of files are drawn anew, whatever was found before.
few = settings(quick, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Attack:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def rows_of(path: Path, key: str | None = None) -> np.ndarray:
    (part,) = open_files(path, key)
    blocks = part.read(4) if isinstance(part, Stream) else [part[: part.shape[0]]]
    return np.concatenate([np.asarray(block) for block in blocks])


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    form = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, form)
    return file.getvalue()


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def named(name: str, **members) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in members.items():
        setattr(info, key, value)
    return info


# --- code ------------------------------------------------------------------------------------


def test_no_loader_runs_a_pickle(tmp_path):
    mark = tmp_path / "mark"
    attack = np.array([Attack(mark)], dtype=object)
    (tmp_path / "a.npy").write_bytes(npy(attack))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(attack))
    content = npy(attack)
    tar_of(tmp_path / "a.tar", (named("0.npy", size=len(content)), content))
    for name in ("a.npy", "a.npz", "a.tar"):
        with pytest.raises(ValueError, match=str(tmp_path)):
            rows_of(tmp_path / name)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="does not hold codes"):
            read_codes(tmp_path / name)
    torch.save({"state_dict": Attack(mark)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Attack(mark)))
    for name in ("a.pt", "b.pt"):
        path = tmp_path / name
        with pytest.raises(ValueError, match="is not a checkpoint"):
            fitting._read(path)
        with pytest.raises(ValueError, match="was not written by fit"):
            training._read(path, {}, SimpleNamespace())
        with pytest.raises(ValueError, match="is not a checkpoint"):
            load_checkpoint(path, {})
    assert not mark.exists()


def test_yaml_makes_plain_values_alone(tmp_path):
    path = tmp_path / "c.yaml"
    aliases = "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9))
    for text in (
        f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']",
        "a0: &a0 [x]\n" + aliases,  # 9^9 texts
        "seed: " + "[" * 5000,
        "seed: 2001-99-99",
        "seed: !!timestamp x",
        "seed: " + "9" * 5000,
        "? {a: 1}\n: 2",
        "\0",
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not valid YAML"):
            read_yaml(path, RunSettings())
    path.write_text("#" * 2**20 + "\n")
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        read_yaml(path, RunSettings())
    assert not (tmp_path / "mark").exists()


def test_exported_files_of_torch_are_opened_only_if_trusted(tmp_path):
    manifest = {
        "kind": "laplex.early_exit.export",
        "format": 3,
        "file_format": "torch",
        "imports": ["antigravity"],
        "segments": [{"file": "segment0.pt2"}],
    }
    (tmp_path / "segment0.pt2").write_bytes(b"")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="which can run any code when they are opened"):
        ExportedModel.load(tmp_path)
    with pytest.raises(ValueError, match="'antigravity', which is not of Laplex"):
        ExportedModel.load(tmp_path, trusted=True)
    manifest["segments"][0]["file"] = "../segment0.pt2"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="which is not in its folder"):
        ExportedModel.load(tmp_path / "a", trusted=True)
    (tmp_path / "manifest.json").write_text("[" * 100000)
    with pytest.raises(ValueError, match="does not describe an exported model"):
        ExportedModel.load(tmp_path)


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2**50, 4), (4, 2**50), (2**62, 2**62), (-4, -4), (4, 4, 4)])
def test_a_header_of_more_numbers_than_there_are(tmp_path, shape):
    content = header(shape) + bytes(64)
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    tar_of(tmp_path / "a.tar", (named("0.npy", size=len(content)), content))
    for name in ("a.npy", "a.npz", "a.tar"):
        with pytest.raises(ValueError, match=str(tmp_path)):
            rows_of(tmp_path / name)
    for name in ("a.npz",):
        with pytest.raises(ValueError, match="does not hold codes"):
            read_codes(tmp_path / name)


def test_archives_that_say_more_than_they_hold(tmp_path):
    row = npy(np.ones(4, np.float32))
    huge = named("0.npy", size=2**50)
    path = tmp_path / "a.tar"
    path.write_bytes(huge.tobuf() + row)
    with pytest.raises(ValueError, match=r"says that it has 1125899906842624 bytes: put at most"):
        rows_of(path)
    path.write_bytes(named("0.npy", size=2**29).tobuf() + row)
    with pytest.raises(ValueError, match="it is damaged"):
        rows_of(path)
    link = named("1.npy", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    tar_of(path, (named("0.npy", size=len(row)), row), (link, b""))
    with pytest.raises(ValueError, match=r"1.npy is a link or a folder"):
        rows_of(path)
    outside = named("../../../../0.npy", size=len(row))  # read, and never written
    assert rows_of(tar_of(path, (outside, row))).shape == (1, 4)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.ones((4, 4))))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size in the directory
    content[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="which do not fit"):
        rows_of(tmp_path / "a.npz")


def test_shapes_that_no_file_has(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:  # no byte of it is in the file
        file.create_dataset("a", (2**50, 4), "f4", chunks=(1024, 4))
    with pytest.raises(ValueError, match="says that it holds 1125899906842624 rows"):
        rows_of(path)


def test_json_that_is_nested_too_deeply(tmp_path):
    deep = '{"a": ' + "[" * 100_000
    for read in (Confirmation.from_json, TrainingResult.from_json):
        with pytest.raises(ValueError, match="nested too deeply"):
            read(deep)


# --- codes whose indices lie ------------------------------------------------------------------


def test_codes_that_point_out_of_bounds(tmp_path):
    codes = scipy.sparse.csr_array(np.eye(4, dtype=np.float32))
    scipy.sparse.save_npz(tmp_path / "csc.npz", codes.tocsc())
    codes.indices[2] = 10**9
    scipy.sparse.save_npz(tmp_path / "a.npz", codes)
    codes.indices[2], codes.indptr[2] = 2, 10**9
    scipy.sparse.save_npz(tmp_path / "b.npz", codes)
    for axis in (-1, 4, 2**31 - 1):
        lists = pa.table({"indices": [[0], [axis]], "values": [[1.0], [2.0]]})
        noted = lists.replace_schema_metadata({b"laplex.cedar.axes": b"4"})
        pq.write_table(noted, tmp_path / f"{axis}.parquet")
    pq.write_table(
        lists.replace_schema_metadata({b"laplex.cedar.axes": b"x"}), tmp_path / "x.parquet"
    )
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match="does not hold codes"):
            read_codes(path)


# --- changed bytes ----------------------------------------------------------------------------


class Files(dict):
    """Contents by name, which hypothesis need not print."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    """One small file of each kind that is read."""
    folder = tmp_path_factory.mktemp("files")
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.save(folder / "a.npy", rows)
    np.savez(folder / "a.npz", a=rows)
    np.savez_compressed(folder / "b.npz", a=rows)
    save_file({"a": rows}, folder / "a.safetensors")
    each = [(named(f"{k}.npy", size=len(npy(row))), npy(row)) for k, row in enumerate(rows)]
    tar_of(folder / "a.tar", *each)
    pq.write_table(pa.table({"a": rows.tolist()}), folder / "a.parquet")
    cedar = CEDAR(k=1, random_state=0).fit(np.repeat(rows, 20, 0) + np.tile(rows, (20, 1)))
    for name in ("codes.npz", "codes.parquet"):
        write_codes(cedar, rows, folder / name)
    cedar.save(folder / "model")
    for name in ("config.json", "model.safetensors"):
        (folder / "model" / name).rename(folder / name)
    (folder / "model").rmdir()
    return Files({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


@st.composite
def changes(draw, most: int = 4):
    """A function that changes bytes: flips, overwrites, cuts, repeats."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "write", "cut", "drop", "repeat"]),
                st.floats(0, 1),
                st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"["]),
            ),
            min_size=1,
            max_size=most,
        )
    )

    def change(content: bytes) -> bytes:
        found = bytearray(content)
        for what, where, more in steps:
            at = int(where * len(found))
            if what == "flip" and found:
                found[min(at, len(found) - 1)] ^= more[0] or 1
            elif what == "write":
                found[at : at + len(more)] = more
            elif what == "cut":
                del found[at:]
            elif what == "drop":
                del found[at : at + len(more)]
            elif what == "repeat":
                found[at:at] = found[at : at + 64]
        return bytes(found)

    return change


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz", "a.safetensors", "a.tar", "a.parquet"])
@given(change=changes())
@few
def test_changed_embeddings_are_read_or_refused(name, files, tmp_path, change):
    path = tmp_path / name
    path.write_bytes(change(files[name]))
    with contextlib.suppress(ValueError):
        assert rows_of(path).ndim == 2


@pytest.mark.parametrize("name", ["codes.npz", "codes.parquet"])
@given(change=changes())
@few
def test_changed_codes_are_read_or_refused(name, files, tmp_path, change):
    path = tmp_path / name
    path.write_bytes(change(files[name]))
    try:
        codes = read_codes(path)
    except ValueError as error:
        assert "does not hold codes" in str(error)  # noqa: PT017
    else:
        codes.toarray() if codes.shape[0] * codes.shape[1] < 10**6 else codes.sum()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@given(change=changes())
@few
def test_changed_models_are_read_or_refused(name, files, tmp_path, change):
    content = {one: files[one] for one in ("config.json", "model.safetensors")}
    content[name] = change(content[name])
    config = content["config.json"]
    if name == "model.safetensors":  # as if whoever changed it had written its hash, too
        config = json.dumps({**json.loads(config), "tensors": ""}).encode()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(content["model.safetensors"])
    try:
        CEDAR.load(tmp_path)
    except ValueError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017
