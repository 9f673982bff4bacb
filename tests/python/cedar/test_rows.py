"""Embeddings as people have them: files, folders, tables, data sets and loaders give one matrix."""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from laplex.cedar import CEDAR, Embeddings, write_codes, zero_shot
from laplex.cedar.metrics import concept_auroc, fve
from laplex.cedar.rows import as_rows
from strategies import quick

N, D = 60, 6
#: Short floats, which every container keeps; their values are exact in float32.
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laplex.cedar.rows._BATCH_BYTES", 7 * D * 8)  # 7 rows at a time


def check(source: Any, expected: np.ndarray = ROWS, *, once: bool = False) -> None:
    """The source has these rows, in this order and precision, in one pass and in another."""
    rows = as_rows(source, once=once)
    assert (rows.dim, rows.dtype) == (D, torch.float32)
    for _ in range(1 if once else 2):
        batches = list(rows.batches())
        assert max(map(len, batches)) <= 7
        assert np.array_equal(torch.cat(batches).numpy(), expected.astype(np.float32))
    assert sum(rows.lengths()) == len(expected)
    if rows.count is not None:
        for index in (torch.tensor([41, 3, 58, 3]), torch.arange(5, 50), torch.arange(0)):
            assert np.array_equal(rows.take(index).numpy(), expected[index].astype(np.float32))


# --- files ----------------------------------------------------------------------------------------


def lists(rows: np.ndarray, kind: str = "free") -> pa.Array:
    flat = pa.array(rows.ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, D)
    return pa.ListArray.from_arrays(np.arange(0, rows.size + 1, D, dtype=np.int32), flat)


def write_npz(path: Path, rows: np.ndarray) -> None:
    np.savez_compressed(path, emb=rows, id=np.arange(len(rows)))


def write_parquet(path: Path, rows: np.ndarray) -> None:
    table = pa.table({"emb": lists(rows), "fixed": lists(rows, "fixed"), "id": range(len(rows))})
    pa.parquet.write_table(table, path, row_group_size=17)


def write_h5(path: Path, rows: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("a/emb", data=rows, chunks=(4, D))
        file.create_dataset("id", data=np.arange(len(rows)))


def write_zarr(path: Path, rows: np.ndarray) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.save_group(str(path), emb=rows, other=rows[:4])


def write_tar(path: Path, rows: np.ndarray, per_member: int | None = None) -> None:
    parts = (
        list(rows) if per_member is None else np.array_split(rows, max(1, len(rows) // per_member))
    )
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for number, part in enumerate(parts):
            content = io.BytesIO()
            np.save(content, part)
            for kind, data in (("emb.npy", content.getvalue()), ("json", b"{}")):
                member = tarfile.TarInfo(f"folder.1/{number:06}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


WRITERS: dict[str, tuple[Callable[[Path, np.ndarray], None], str | None]] = {
    ".npy": (np.save, None),
    ".npz": (write_npz, "emb"),
    ".safetensors": (
        lambda path, rows: save_file(
            {"emb": torch.from_numpy(rows), "id": torch.arange(len(rows))}, path
        ),
        "emb",
    ),
    ".parquet": (write_parquet, "emb"),
    ".h5": (write_h5, "a/emb"),
    ".hdf5": (write_h5, None),
    ".zarr": (write_zarr, "emb"),
    ".tar": (write_tar, None),
    ".tar.gz": (functools.partial(write_tar, per_member=9), "emb"),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_a_folder_a_pattern_and_a_list_have_the_same_rows(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, key = WRITERS[suffix]
    whole, shards = tmp_path / f"whole{suffix}", tmp_path / "shards"
    write(whole, ROWS)
    check(Embeddings(whole, key))
    shards.mkdir()
    for number, part in enumerate(np.split(ROWS, [20, 31, 52])):
        write(shards / f"{number:02}{suffix}", part)
    (shards / "notes.txt").write_text("no embeddings")
    monkeypatch.chdir(tmp_path)
    check(Embeddings("shards", key))
    check(Embeddings(f"**/0?{suffix}", key))
    paths = sorted(str(path) for path in shards.glob(f"*{suffix}"))
    check(Embeddings(paths, key))
    check(Embeddings([Path(paths[3]), *paths[:3]], key), np.roll(ROWS, N - 52, axis=0))
    assert repr(as_rows(Embeddings("shards", key)).dtype) == "torch.float32"


def test_columns_of_numbers_and_of_fixed_lists_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    check(Embeddings(tmp_path / "a.parquet", "fixed"))
    columns = {f"c{i}": ROWS[:, i] for i in range(D)}
    table = pa.table({**columns, "__index_level_0__": np.arange(N), "text": ["x"] * N})
    pa.parquet.write_table(table, tmp_path / "b.parquet", row_group_size=17)
    with pytest.warns(UserWarning, match=r"left out \(__index_level_0__, text\)"):
        check(as_rows(tmp_path / "b.parquet"))
    pa.parquet.write_table(pa.table({**columns, "label": range(N)}), tmp_path / "c.parquet")
    with pytest.warns(UserWarning, match=r"taken as parts of the embeddings \(label\)"):
        assert as_rows(tmp_path / "c.parquet").dim == D + 1


def test_a_saved_dataset_is_a_file(tmp_path: Path) -> None:
    Dataset.from_dict({"emb": list(ROWS)}).save_to_disk(tmp_path / "set")
    check(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1,2", r"must end in \.npy, .* or \.tgz"),
        ("a.npy", b"", r"not a readable \.npy file"),
        ("a.npy", b"nonsense", r"not a readable \.npy file"),
        ("a.npy", np.array(["a", "b"]), r"\[n, d\], one in each row, got shape \[2\]"),
        ("a.npy", np.array([["a", "b"]]), "real numbers, got <U1"),
        ("a.npy", np.array([[1j]]), "real numbers, got complex128"),
        ("a.npy", np.array([[{}]]), r"not a readable \.npy file of numbers"),
        ("a.npy", np.zeros(3), r"\[n, d\], one in each row, got shape \[3\]"),
        ("a.npy", np.zeros((0, 3)), r"got shape \[0, 3\]"),
        ("a.npz", b"nonsense", r"not a \.npz file"),
        ("a.safetensors", b"nonsense", r"not a \.safetensors file"),
        ("a.safetensors", {}, "has 0 tensors"),
        ("a.safetensors", {"p": torch.ones(2), "q": torch.ones(3)}, "'p', 'q'; choose one by its"),
        ("a.safetensors", {"p": torch.ones(2)}, r"got shape \[2\]"),
        ("a.parquet", b"nonsense", r"not a \.parquet file"),
        ("a.parquet", {"x": ["a"]}, "no columns of numbers"),
        ("a.parquet", {"x": [1.0, None]}, "missing values in 'x'"),
        ("a.parquet", {"x": [[1.0], [1.0, 2.0]]}, "lists of 1 to 2 numbers"),
        ("a.parquet", {"x": [[1.0], None]}, "missing values in 'x'"),
        ("a.parquet", {"x": [[1.0], [None]]}, "missing values in 'x'"),
        ("a.h5", b"nonsense", "not an HDF5 file"),
        ("a.tar", b"nonsense", r"not a \.tar file"),
        ("a.tar", np.zeros((2, 0)), r"got shape \[2, 0\]"),
    ],
)
def test_bad_files(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.h5":
        pytest.importorskip("h5py")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name == "a.tar":
        write_tar(path, content, per_member=2)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif name.endswith("parquet"):
        pa.parquet.write_table(pa.table(content), path)
    else:
        save_file(content, path)
    model = CEDAR(k=1)
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(path)
    assert str(path) in str(caught.value)
    assert vars(model).keys() == vars(CEDAR()).keys()  # nothing half done


def test_files_that_are_not_there_and_keys_that_are_not_theirs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    save_file({"emb": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    write_tar(tmp_path / "a.tar", ROWS)
    np.save(tmp_path / "b.npy", ROWS[:, :4])
    for source, key, message in (
        ("a.safetensors", "other", r"no tensor 'other' \(it has 'emb'\): change the key"),
        ("a.npy", "emb", "holds one array: leave out the key 'emb'"),
        ("a.tar", "other", r"no \.npy files of the kind 'other'"),
        (".", None, r"files of several kinds \(\.npy, \.safetensors, \.tar\): pass a pattern"),
        ("*.npy", None, r"b\.npy has 4 columns and the files before it have 6"),
    ):
        with pytest.raises(ValueError, match=message):
            as_rows(Embeddings(tmp_path / source, key))
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("c.npy", "there is no file .*c.npy"),
        ("*.parquet", r"no file of embeddings at .*\*\.parquet"),
        ("empty", "no file of embeddings at .*empty"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            as_rows(tmp_path / source)


# --- arrays, tables and data sets -----------------------------------------------------------------


def test_arrays_elsewhere_are_read_in_slices() -> None:
    class Slices:
        shape, dtype, largest = ROWS.shape, ROWS.dtype, 0

        def __getitem__(self, rows: slice) -> np.ndarray:
            found = ROWS[rows]
            self.largest = max(self.largest, len(found))
            return found

    source = Slices()
    check(source)
    assert source.largest <= 7


@pytest.mark.parametrize("package", ["h5py", "zarr"])
def test_open_files_are_read(package: str, tmp_path: Path) -> None:
    library = pytest.importorskip(package)
    {"h5py": write_h5, "zarr": write_zarr}[package](tmp_path / "a", ROWS)
    opened = library.File(tmp_path / "a") if package == "h5py" else library.open(tmp_path / "a")
    key = {"h5py": "a/emb", "zarr": "emb"}[package]
    check(Embeddings(opened, key))
    check(opened[key])


def test_mappings_of_arrays_are_read(tmp_path: Path) -> None:
    check(Embeddings({"a": ROWS, "b": ROWS[::-1]}, "a"))
    check({"emb": torch.from_numpy(ROWS), "id": np.arange(N)})
    write_npz(tmp_path / "a.npz", ROWS)
    check(np.load(tmp_path / "a.npz"))


TABLES: dict[str, Callable[[], Any]] = {
    "dataset": lambda: dataset(),
    "dataset with a key": lambda: Embeddings(dataset().with_format("torch"), "emb"),
    "column": lambda: dataset()["emb"],
    "column of numpy": lambda: dataset().with_format("numpy")["emb"],
    "chosen rows": lambda: Dataset.from_dict({"emb": list(ROWS[::-1])}).select(range(N)[::-1]),
    "stream": lambda: dataset().to_iterable_dataset(),
    "stream with a key": lambda: Embeddings(dataset().to_iterable_dataset(2), "emb"),
    "column of a stream": lambda: dataset().to_iterable_dataset()["emb"],
    "own format": lambda: Embeddings(
        dataset().with_transform(lambda rows: {"emb": np.array(rows["emb"], np.float16)}), "emb"
    ),
    "arrow": lambda: pa.table({"emb": lists(ROWS), "id": range(N)}),
    "arrow of numbers": lambda: pa.table({f"c{i}": ROWS[:, i] for i in range(D)}),
    "arrow batches": lambda: pa.table({"emb": lists(ROWS)}).to_batches(11),
    "pandas": lambda: pd.DataFrame({"emb": list(ROWS), "id": range(N)}),
    "pandas with a key": lambda: Embeddings(pd.DataFrame({"a": list(ROWS)}), "a"),
    "pandas series": lambda: pd.DataFrame({"emb": list(ROWS)})["emb"],
    "pandas of numbers": lambda: pd.DataFrame(ROWS),
    "list of vectors": lambda: list(ROWS),
}


def dataset() -> Dataset:
    return Dataset.from_dict({"emb": list(ROWS), "id": range(N)})


@pytest.mark.parametrize("kind", TABLES)
def test_tables_have_the_same_rows(kind: str) -> None:
    check(TABLES[kind]())


def test_tables_of_polars_have_the_same_rows() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"emb": ROWS.astype(np.float32).tolist(), "id": list(range(N))})
    frame = frame.with_columns(polars.col("emb").cast(polars.List(polars.Float32)))
    for form in (frame, Embeddings(frame, "emb"), frame["emb"]):
        check(form)
    check(frame.with_columns(polars.col("emb").cast(polars.Array(polars.Float32, D))))


def test_bfloat16_stays_short() -> None:
    import ml_dtypes

    tensor = torch.from_numpy(ROWS).bfloat16()
    exact = tensor.float().numpy()
    check(tensor, exact)
    check(exact.astype(ml_dtypes.bfloat16), exact)


def test_names_of_columns_are_kept_where_they_name_the_columns() -> None:
    frame = pd.DataFrame(ROWS, columns=[f"c{i}" for i in range(D)])
    assert list(CEDAR(k=1, random_state=0).fit(frame).feature_names_in_) == list(frame.columns)
    column = pd.DataFrame({"emb": list(ROWS)})
    model = CEDAR(k=1, random_state=0).fit(column)
    assert not hasattr(model, "feature_names_in_")
    assert np.array_equal(model.transform(column), model.transform(ROWS))


def test_columns_are_taken_by_their_names_in_every_table(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(D)]
    frame = pd.DataFrame(ROWS, columns=names)
    turned = frame[names[::-1]]
    pa.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "a.parquet")
    pa.parquet.write_table(pa.Table.from_pandas(turned), tmp_path / "b.parquet")
    model = CEDAR(k=1, random_state=0).fit(tmp_path / "a.parquet")
    for form in (frame, pa.Table.from_pandas(frame), [frame[:9], frame[9:]], Embeddings(frame)):
        assert list(CEDAR(k=1, random_state=0).fit(form).feature_names_in_) == names
        model.transform(form)
    for form in (tmp_path / "b.parquet", turned, pa.Table.from_pandas(turned), [turned]):
        with pytest.raises(ValueError, match="order"):
            model.transform(form)
    with pytest.raises(ValueError, match="embeddings has the columns of the fit in another order"):
        write_codes(model, tmp_path / "b.parquet", tmp_path / "codes.npz")
    with pytest.raises(ValueError, match="z has the columns of the fit in another order"):
        model.intervene(turned, {0: 1.0})
    with pytest.raises(ValueError, match="in another order, than the files before it"):
        as_rows(tmp_path)
    with pytest.raises(ValueError, match="batches whose columns differ"):
        model.transform([frame, turned])
    assert not hasattr(model.fit(ROWS), "feature_names_in_")


def test_integers_among_floats_are_warned_of_in_frames() -> None:
    with pytest.warns(UserWarning, match=r"columns of integers among columns of floats.*\(id\)"):
        as_rows(pd.DataFrame({"id": range(N), "a": ROWS[:, 0]}))


def test_shards_come_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deep" / "shards"
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(ROWS, 12)):
        np.save(folder / f"p{number}.npy", part)
    np.save(folder / "p12.npy", ROWS[:0])  # a shard that was left over
    (folder / "p11.npy").rename(folder / "p11.NPY")
    check(folder)
    check(folder / "p*")
    monkeypatch.setenv("HOME", str(tmp_path))
    check("~/deep/shards")
    with pytest.raises(FileNotFoundError, match=r"pass .*\*\*/\*\.npy for those in its folders"):
        as_rows(tmp_path)


# --- batches --------------------------------------------------------------------------------------


class Mapped(IterableDataset):
    """Rows one by one, as a pipeline of torch or of WebDataset gives them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __iter__(self) -> Iterator[Any]:
        for number, row in enumerate(ROWS):
            if self.kind == "rows":
                yield torch.from_numpy(row)
            elif self.kind == "pairs":
                yield torch.from_numpy(row), number
            elif self.kind == "bytes":
                content = io.BytesIO()
                np.save(content, row)
                yield {"__key__": str(number), "npy": content.getvalue()}
            else:
                yield {"emb": row, "id": number, "text": "x"}


def generator() -> Iterator[np.ndarray]:
    yield from np.array_split(ROWS, 4)


def loader(keys: bool) -> DataLoader[Any]:
    pairs = TensorDataset(torch.from_numpy(ROWS), torch.arange(N))
    named = [{"emb": row, "id": number} for row, number in pairs]
    return DataLoader(named if keys else pairs, batch_size=25, num_workers=2)


BATCHES: dict[str, Callable[[], Any]] = {
    "generator function": lambda: generator,
    "partial": lambda: functools.partial(np.array_split, ROWS, 3),
    "loader": lambda: loader(keys=False),
    "loader of mappings": lambda: loader(keys=True),
    "loader with a key": lambda: Embeddings(loader(keys=True), "emb"),
    "second of tuples": lambda: Embeddings([(np.arange(N), torch.from_numpy(ROWS))], 1),
    "list of mappings": lambda: [{"emb": ROWS, "id": np.arange(N)}],
    "rows": lambda: Mapped("rows"),
    "pairs": lambda: Mapped("pairs"),
    "mappings": lambda: Mapped("mappings"),
    "bytes": lambda: Embeddings(Mapped("bytes"), "npy"),
    "frames": lambda: [pd.DataFrame(part) for part in np.array_split(ROWS, 4)],
    "lists of vectors": lambda: [list(map(torch.from_numpy, ROWS[:9])), torch.from_numpy(ROWS[9:])],
    "memory of batches": lambda: [ROWS[:50], ROWS[:0], ROWS[50:]],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_have_the_same_rows(kind: str) -> None:
    check(BATCHES[kind]())


def test_map_style_data_sets_are_read_by_number() -> None:
    check(TensorDataset(torch.from_numpy(ROWS), torch.arange(N)))
    check(Numbered())
    check(Embeddings(Embeddings(Numbered(), "emb")))


class Numbered:
    """Rows by number, as a map-style data set of torch has them."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"emb": ROWS[number], "id": number}


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"device must be one that torch can use here.*'gpu0'"):
        CEDAR(k=1, device="gpu0").fit(ROWS)


def test_an_iterator_serves_once() -> None:
    check(generator(), once=True)
    with pytest.raises(TypeError, match="iterated only once: pass a generator function"):
        as_rows(generator())


@quick
@given(
    cuts=st.lists(st.integers(0, N), max_size=5),
    size=st.integers(1, 2 * N),
    index=st.lists(st.integers(0, N - 1), max_size=9),
    batches=st.booleans(),
)
def test_any_cut_of_the_rows_is_the_same_rows(
    cuts: list[int], size: int, index: list[int], batches: bool
) -> None:
    ends = sorted({*cuts} - {0, N})
    parts = np.split(ROWS, ends)
    rows = as_rows(parts if batches else ROWS)
    found = list(rows.batches(size))
    assert max(map(len, found)) <= size
    assert np.array_equal(torch.cat(found).numpy(), ROWS.astype(np.float32))
    if batches:
        from laplex.cedar.rows import Rows

        rows = Rows([part.view(Unowned) for part in parts], None, name="X", device=rows.device)
        rows.in_memory = False
    assert np.array_equal(rows.take(torch.tensor(index, dtype=torch.int64)), ROWS[index])


class Unowned(np.ndarray):
    """An array that is read in slices like a file."""


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Embeddings([{"emb": ROWS}], "other"), ValueError, "no entry 'other', but 'emb'"),
        (Embeddings([(ROWS, ROWS)], 2), ValueError, "tuples of 2, so key must be an integer below"),
        ([{"a": ROWS, "b": ROWS}], TypeError, r"with a, b: pass Embeddings\(X, key=\.\.\.\)"),
        ({"a": ROWS, "b": ROWS}, ValueError, "X has 2 arrays: 'a', 'b'; choose one by its key"),
        (Embeddings(ROWS, "emb"), ValueError, "X holds one array: leave out the key 'emb'"),
        (lambda: 3, TypeError, r"X\(\) returned int: it must return an iterator of batches"),
        ([ROWS[None]], ValueError, "Found array with dim 4|batch of shape|must be"),
        (list, ValueError, "X has no batches"),
        (lambda: iter([ROWS[0], ROWS[1][:3]]), ValueError, r"\[\*, 6\] and \[1, 3\]"),
        (lambda: iter([[["a"]]]), TypeError, "batches must be real numbers, got <U1"),
        (Embeddings(dataset(), "text"), ValueError, "no column of lists 'text'"),
        (pd.DataFrame({"a": [[1.0], [1.0, 2.0]]}), ValueError, "lists of 1 to 2 numbers in 'a'"),
        (pd.DataFrame({"a": [[1.0], None]}), ValueError, "missing values in 'a'"),
        (pd.DataFrame({"a": [1.0], "b": ["x"]}), ValueError, r"columns of text \(b\)"),
        (ROWS.reshape(2, -1, D), ValueError, r"X\.reshape\(-1, 6\) has the last dimension"),
        (ROWS + 1j, ValueError, "Complex data not supported"),
        (torch.from_numpy(ROWS).to_sparse(), TypeError, r"pass X\.to_dense\(\)"),
        (["a.npy", ROWS], TypeError, "list of paths and other things"),
        ([ROWS[0], None], ValueError, r"X must be rows of numbers \[n, d\], got a list"),
        (None, ValueError, r"X must be rows of numbers \[n, d\], got a NoneType"),
        (b"x.npy", TypeError, r"pass a path as a str, as in os\.fsdecode\(X\)"),
    ],
)
def test_what_cannot_be_read_says_why(source: Any, error: type[Exception], message: str) -> None:
    model = CEDAR(k=1)
    with pytest.raises(error, match=message):
        model.fit(source)
    assert vars(model).keys() == vars(CEDAR()).keys()


def test_masked_values_are_refused_and_empty_masks_are_not() -> None:
    mask = np.zeros(ROWS.shape, bool)
    check(np.ma.array(ROWS, mask=mask))
    mask[3, 2] = True
    masked = np.ma.array(ROWS, mask=mask)
    fitted = CEDAR(k=1, random_state=0).fit(ROWS)
    with pytest.raises(ValueError, match="z has masked values"):
        fitted.intervene(masked, {0: 1.0})
    with pytest.raises(ValueError, match=r"values\[0\] has masked values"):
        fitted.intervene(ROWS, {0: masked[:, 2]})
    with pytest.raises(ValueError, match="masked values"):
        fve(masked, ROWS)
    labels = np.ma.array(np.arange(N) % 2, mask=mask[:, 2])
    with pytest.raises(ValueError, match="labels has masked values"):
        concept_auroc(ROWS, labels, ROWS, labels)
    with pytest.raises(ValueError, match="labels has masked values"):
        zero_shot(fitted, ROWS, ROWS[:2], labels)
    for form in (masked, [ROWS, masked], list(masked), [list(masked)], lambda: iter([masked])):
        for call in (CEDAR(k=1).fit, fitted.transform, fitted.partial_fit, fitted.score):
            with pytest.raises(ValueError, match=r"masked values: .*np\.ma\.compress_rows\(X\)"):
                call(form)
    assert fitted.n_samples_seen_ == N


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zarr").mkdir()
    for name, package, extra in (
        ("a.parquet", "pyarrow", "parquet"),
        ("a.h5", "h5py", "hdf5"),
        ("a.zarr", "zarr", "zarr"),
    ):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(b"")
        for module in (package, f"{package}.parquet"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=rf'needs {package}: pip install "laplex\[{extra}\]"'):
            as_rows(tmp_path / name)
