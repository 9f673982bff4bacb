"""Measure by how much memory grows when CEDAR reads 2 GB from each kind of file.

    python bench/python/cedar_memory.py [--rows 2097152] [--dim 256] [--kinds npy parquet ...]

Each kind of file is written to --folder, read in a process of its own, and deleted. What is printed
is the growth of resident memory to its peak, pages of files included, over that before the call
(VmHWM and VmRSS of Linux), after the same calls on a small array have loaded all libraries. Needs
h5py, zarr, datasets and pyarrow for the files of these names.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laplex.cedar import CEDAR, Embeddings, write_codes
from machine import processor

_BLOCK = 2**15
_K = 8


def blocks(rows: int, dim: int, dtype: Any) -> Iterator[np.ndarray]:
    """Yield the rows: a few causes each, and noise. Blocks repeat, as only memory matters."""
    random = np.random.default_rng(0)
    causes = random.standard_normal((_BLOCK, dim)) * (random.random((_BLOCK, dim)) < _K / dim)
    turn = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    block = (causes @ turn + 0.1 * random.standard_normal((_BLOCK, dim))).astype(dtype)
    for start in range(0, rows, _BLOCK):
        yield block[: rows - start]


def write_npy(path: Path, rows: int, dim: int, dtype: Any = np.float32) -> None:
    form = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, form)
        for block in blocks(rows, dim, dtype):
            block.tofile(file)


def write_shards(path: Path, rows: int, dim: int) -> None:
    path.mkdir()
    for number in range(4):
        write_npy(path / f"{number}.npy", rows // 4, dim, np.float16)


def write_safetensors(path: Path, rows: int, dim: int) -> None:
    import json

    header = {"emb": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, rows * dim * 4]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks(rows, dim, np.float32):
            block.tofile(file)


def tables(rows: int, dim: int) -> Iterator[Any]:
    import pyarrow as pa

    for block in blocks(rows, dim, np.float32):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dim)
        yield pa.table({"emb": lists})


def write_parquet(path: Path, rows: int, dim: int) -> None:
    import pyarrow.parquet as pq

    writer = None
    for table in tables(rows, dim):
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def write_arrow(path: Path, rows: int, dim: int) -> None:
    import pyarrow as pa

    writer = None
    for table in tables(rows, dim):
        writer = writer or pa.ipc.new_stream(str(path), table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def write_h5(path: Path, rows: int, dim: int) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        found = file.create_dataset("emb", (rows, dim), np.float32, chunks=(1024, dim))
        for start, block in zip(range(0, rows, _BLOCK), blocks(rows, dim, "f4"), strict=True):
            found[start : start + len(block)] = block


def write_zarr(path: Path, rows: int, dim: int) -> None:
    import zarr

    found = zarr.open(str(path), mode="w", shape=(rows, dim), chunks=(8192, dim), dtype="f4")
    for start, block in zip(range(0, rows, _BLOCK), blocks(rows, dim, "f4"), strict=True):
        found[start : start + len(block)] = block


def open_arrow(path: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(path))


def one_batch(path: Path) -> Any:
    """A generator function whose only batch is the whole file."""
    return lambda: iter([np.load(path, mmap_mode="r")])


KINDS: dict[str, tuple[str, Callable[..., None], Callable[[Path], Any]]] = {
    ".npy, float32": ("a.npy", write_npy, lambda path: path),
    "4 x .npy, float16": ("shards", write_shards, lambda path: path),
    ".safetensors": ("a.safetensors", write_safetensors, lambda path: Embeddings(path, "emb")),
    ".parquet, lists": ("a.parquet", write_parquet, lambda path: path),
    ".h5": ("a.h5", write_h5, lambda path: path),
    ".zarr": ("a.zarr", write_zarr, lambda path: path),
    "datasets.Dataset": ("a.arrow", write_arrow, open_arrow),
    "one batch of a generator": ("a.npy", write_npy, one_batch),
}


def resident(what: str) -> float:
    """Return VmRSS or VmHWM in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(what + ":")]
    return int(line.split()[1]) * 1024 / 1e6


def measure(kind: str, path: Path, dim: int, calls: list[str]) -> None:
    """Print the growth of memory of each call, in this process."""
    torch.set_num_threads(1)
    libc = ctypes.CDLL("libc.so.6")
    small = next(blocks(_BLOCK, dim, np.float32))
    fitted = CEDAR(k=_K, max_iter=1, random_state=0).fit(small)

    def run(call: str, source: Any) -> None:
        if call == "fit":  # the statistics, some passes over the sample, one over the file
            CEDAR(k=_K, max_iter=1, tol=0.5, random_state=0).fit(source)
        elif call == "partial_fit":
            CEDAR(k=_K, random_state=0).partial_fit(source)
        elif call == "transform":
            fitted.transform(source)
        elif call == "sparse transform":
            fitted.set_params(sparse_output=True).transform(source)
            fitted.set_params(sparse_output=False)
        elif call == "iter_transform":
            for _ in fitted.iter_transform(source, format="indices"):
                pass
        elif call == "write_codes":
            write_codes(fitted, source, path.parent / "codes.parquet")
        elif call == "score":
            fitted.score(source)

    for call in calls:
        run(call, small)
    source = KINDS[kind][2](path)
    for call in calls:
        libc.malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start = time.process_time()
        run(call, source)
        seconds = time.process_time() - start
        print(
            f"| {kind} | `{call}` | {resident('VmHWM') - before:.0f} | {seconds:.0f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2**21, help="rows (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=256, help="columns (default: %(default)s)")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--calls", nargs="*", default=["fit", "partial_fit", "iter_transform"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, path = options.measure
        measure(kind, Path(path), options.dim, options.calls)
        return
    print(f"{processor()}, 1 thread; {options.rows:,} x {options.dim} numbers, k = {_K}\n")
    print("| rows from | call | growth, MB | CPU seconds |\n|---|---|---|---|", flush=True)
    for kind in options.kinds:
        name, write, _ = KINDS[kind]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / name
            write(path, options.rows, options.dim)
            arguments = ["--dim", str(options.dim), "--calls", *options.calls]
            command = [sys.executable, __file__, *arguments, "--measure", kind, str(path)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
