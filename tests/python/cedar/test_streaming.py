"""Memory that does not grow with the rows: fits, codes in batches and in files, samples."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from cedar_cases import planted
from laplex.cedar import CEDAR, DriftWarning, read_codes, write_codes
from laplex.cedar.coding import entries_of, joined, sparse_matrix
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = planted(500, 12, 3, seed=31).data.astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laplex.cedar.rows._BATCH_BYTES", 64 * 12 * 8)


@pytest.fixture(scope="module")
def model() -> CEDAR:
    return CEDAR(k=3, random_state=0).fit(DATA)


# --- memory ---------------------------------------------------------------------------------------

_MEASURE = """
import sys
from pathlib import Path
import numpy as np
import torch
from laplex.cedar import CEDAR, fitting, rows, shards, write_codes

torch.set_num_threads(1)
rows._BATCH_BYTES = 2**20
fitting._SAMPLE_ROWS, fitting._LEAST_ROWS = 2**12, 1
shards._BUFFER_ROWS = 2**12

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(what + ":")]
    return int(line.split()[1]) * 1024

def run(call, source):
    model = CEDAR(k=2, max_iter=2, random_state=0, sparse_output=True)
    if call == "adam":
        return model.set_params(solver="adam", max_iter=20).fit(source)
    if call == "fit":
        return model.fit(source)
    if call == "partial_fit":
        return fitted.partial_fit(source)
    if call == "write":
        return write_codes(fitted, source, folder / "codes.npy")
    if call == "iter_transform":
        return [None for _ in fitted.iter_transform(source)]
    return fitted.transform(source)

folder = Path(sys.argv[1])
small = np.random.default_rng(0).standard_normal((20000, 64)).astype(np.float16)
fitted = CEDAR(k=2, max_iter=2, random_state=0, sparse_output=True).fit(small)
calls = "fit adam partial_fit transform iter_transform write".split()
sources = {
    "file": folder / "rows.npy",
    "one batch": lambda: iter([np.load(folder / "rows.npy", mmap_mode="r")]),
}
for call in calls:
    run(call, small)
for name, source in sources.items():
    for call in calls if name == "file" else calls[:3]:  # the others take batches in the same way
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        run(call, source)
        print(f"{name}, {call}:", (resident("VmHWM") - before) >> 20)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc of Linux")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows, dim = 3 * 2**17, 64
    block = np.random.default_rng(0).standard_normal((2**12, dim)).astype(np.float16)
    with (tmp_path / "rows.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
        )
        for _ in range(rows // len(block)):
            block.tofile(file)
    found = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    # Some dozen blocks of 1 MiB, a sample and a buffer of 1 MiB, and 6 MiB of sparse codes, once
    # more as they become a matrix; the file has 48 MiB, 96 as float32.
    grown = [line for line in found.stdout.splitlines() if int(line.split()[-1]) >= 36]
    assert not grown, found.stdout


def test_partial_fit_lets_go_of_the_batches() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def batches() -> Iterator[np.ndarray]:
        for part in np.split(DATA, 50):
            batch = part.copy()
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            # The first may be held until two rows differ; the generator's caller holds the last.
            assert sum(one() is not None for one in alive) <= 3

    model = CEDAR(k=3, random_state=0).partial_fit(batches())
    assert model.n_samples_seen_ == 500
    model.partial_fit(batches)
    assert model.n_samples_seen_ == 1000


def test_an_error_late_in_a_stream_leaves_no_trace() -> None:
    def batches() -> Iterator[np.ndarray]:
        yield from np.split(DATA, 5)
        yield np.full((3, 12), np.nan)

    one, other = (CEDAR(k=3, random_state=0).partial_fit(DATA[:250]) for _ in range(2))
    with pytest.raises(ValueError, match="NaN or infinity in row 500 and 2 more"):
        one.partial_fit(batches())
    assert one.n_samples_seen_ == 250
    one.partial_fit(DATA[250:])
    other.partial_fit(DATA[250:])
    assert np.array_equal(one.components_, other.components_)
    new = CEDAR(k=3)
    for source in (batches, [DATA[:1], DATA[:1]], lambda: iter([DATA[:0], DATA[:1]])):
        with pytest.raises(ValueError, match=r"NaN|2 different rows|sample\(s\)"):
            new.partial_fit(source)
        assert vars(new).keys() == vars(CEDAR()).keys()
    late = CEDAR(k=3, random_state=0).partial_fit([DATA[:1], DATA[:1], DATA[1:]])
    assert late.n_samples_seen_ == 501


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [None, 1, 12])
def test_codes_in_batches_are_the_codes(model: CEDAR, k: int | None) -> None:
    expected = model.transform(DATA, k)
    batches = list(model.iter_transform(DATA, k))
    assert max(map(len, batches)) == 64
    assert np.array_equal(np.concatenate(batches), expected)
    parts = list(model.iter_transform((part for part in np.split(DATA, 2)), k, format="indices"))
    for indices, values in parts:
        assert indices.dtype == np.int32
        assert values.dtype == np.float32
        assert indices.shape == values.shape == (len(values), k or 3)
        assert all(len(set(row)) == len(row) for row in indices)
    matrix = sparse_matrix([np.concatenate(one) for one in zip(*parts, strict=True)], 12)
    # Batches begin elsewhere in memory, and products may round for that.
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=0, atol=1e-5)


@quick
@given(data=st.data(), rows=st.integers(1, 5), axes=st.integers(1, 7))
def test_entries_are_the_nonzero_ones(data: Any, rows: int, axes: int) -> None:
    k = data.draw(st.integers(1, axes))
    codes = np.zeros((rows, axes))
    for row in range(rows):
        chosen = data.draw(st.lists(st.integers(0, axes - 1), max_size=k, unique=True))
        codes[row, chosen] = data.draw(st.integers(1, 3))
    indices, values = entries_of(codes, k)
    dense = np.zeros_like(codes)
    np.put_along_axis(dense, indices.astype(np.int64), values, axis=1)
    assert np.array_equal(dense, codes)
    matrix = sparse_matrix((indices, values), axes)
    assert np.array_equal(matrix.toarray(), codes)
    assert matrix.nnz == (codes != 0).sum()
    assert matrix.has_canonical_format


@quick
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9), known=st.booleans())
def test_joined_blocks_are_their_concatenation(sizes: list[int], known: bool) -> None:
    blocks = [(np.full((size, 2), i), np.full(size, float(i))) for i, size in enumerate(sizes)]
    found = joined(iter(blocks), sum(sizes) if known else None)
    for one, parts in zip(found, zip(*blocks, strict=True), strict=True):
        assert np.array_equal(one, np.concatenate(parts))
        assert one.dtype == parts[0].dtype


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".npy"])
@pytest.mark.parametrize("stream", [False, True])
def test_written_codes_are_read_back(
    suffix: str, stream: bool, model: CEDAR, tmp_path: Path
) -> None:
    path = tmp_path / f"codes{suffix}"
    rows = DATA.copy()
    rows[7] = model.mean_  # a code without entries
    source = (part for part in np.split(rows, 5)) if stream else rows
    assert write_codes(model, source, path, k=2) == 500
    found = read_codes(path)
    assert found.shape == (500, 12)
    assert found.dtype == np.float32
    dense = found.toarray() if scipy.sparse.issparse(found) else found
    expected = model.transform(rows, 2)
    np.testing.assert_allclose(dense, expected, rtol=0, atol=1e-5)
    assert np.array_equal(dense[7] != 0, expected[7] != 0)
    np.testing.assert_allclose(
        model.inverse_transform(found), model.inverse_transform(expected), rtol=0, atol=1e-5
    )
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".parquet":
        assert pyarrow.parquet.ParquetFile(path).num_row_groups > 1


def test_codes_that_cannot_be_written_or_read_say_why(model: CEDAR, tmp_path: Path) -> None:
    for call in (lambda path: write_codes(model, DATA, path), read_codes):
        with pytest.raises(ValueError, match=r"must end in \.parquet, \.npz, \.npy, got"):
            call(tmp_path / "codes.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_codes(tmp_path / "codes.npy")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="does not hold codes of CEDAR"):
        read_codes(tmp_path / "a.parquet")
    broken = DATA.copy()
    broken[-1, 0] = np.inf
    with pytest.raises(ValueError, match="infinity in row 499"):
        write_codes(model, broken, tmp_path / "codes.parquet")
    assert not (tmp_path / "codes.parquet").exists()
    with pytest.raises(ValueError, match="format must be 'dense' or 'indices', got 'csr'"):
        model.iter_transform(DATA, format="csr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expecting 12 features"):
        model.iter_transform(DATA[:, :5])  # at once, not at the first batch


def test_other_data_are_told_to_the_caller(model: CEDAR, tmp_path: Path) -> None:
    for call in (
        model.transform,
        lambda rows: list(model.iter_transform(rows)),
        lambda rows: list(model.iter_transform(rows, format="indices")),
        lambda rows: write_codes(model, rows, tmp_path / "codes.npy"),
        lambda rows: write_codes(model, rows, tmp_path / "codes.npz"),
    ):
        with pytest.warns(DriftWarning, match="the mean of X is") as caught:
            call(DATA + 100)
        assert [one.filename for one in caught] == [__file__]


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_a_fit_to_some_rows_is_the_fit_to_a_uniform_sample(tmp_path: Path) -> None:
    numbered = np.concatenate([np.arange(500.0)[:, None], DATA], axis=1)
    counts = np.zeros(500)
    for seed in range(200):
        from laplex._support.communicator import OneProcess
        from laplex.cedar.rows import as_rows
        from laplex.cedar.statistics import drawn

        (sample,) = drawn(as_rows(numbered), 50, seed, OneProcess(), 0).batches(50)
        assert np.array_equal(sample[:, 0], np.unique(sample[:, 0]))  # in order, none twice
        counts[sample[:, 0].int()] += 1
    assert counts.sum() == 200 * 50
    # Each count is binomial (200, 1/10) of deviation 4.2; the seeds are fixed.
    assert np.abs(counts - 20).max() < 6 * 4.25
    np.save(tmp_path / "rows.npy", DATA)
    models = [
        CEDAR(k=3, random_state=5).fit(source, max_rows=80)
        for source in (DATA, tmp_path / "rows.npy", lambda: iter(np.split(DATA, 5)))
    ]
    for one in models:
        assert one.n_samples_seen_ == 80
        assert np.array_equal(one.components_, models[0].components_)
    whole = CEDAR(k=3, random_state=5).fit(DATA, max_rows=1000)
    assert np.array_equal(whole.components_, CEDAR(k=3, random_state=5).fit(DATA).components_)
    with pytest.raises(ValueError, match="max_rows must be at least 1, got 0"):
        CEDAR(k=3).fit(DATA, max_rows=0)
    broken = torch.from_numpy(DATA).clone()
    broken[499, 3] = torch.inf
    with pytest.raises(ValueError, match="infinity in row 499"):
        CEDAR(k=3).fit(broken, max_rows=10)
