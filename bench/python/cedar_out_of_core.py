"""Fit CEDAR to a file that is larger than the memory allowed, and measure time and memory.

    python bench/python/cedar_out_of_core.py [--rows 1000000] [--dim 512] [--file build/rows.npy]

The rows are planted so that the result can be judged: each mixes k columns of a rotation. The fit
runs in its own process. --limit limits the memory of that process, not counting pages of the file;
the printed peak includes those pages. The script compares a pass with its floor: one read of the
file and products with as many operations, measured in the same process. Times are processor times
on --threads threads, so other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from laplex.cedar import CEDAR
from laplex.cedar.metrics import mcc
from machine import processor

_BLOCK = 2**14


def rotation(dim: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0].astype(np.float32)


def write(path: Path, rows: int, dim: int, k: int) -> None:
    """Planted rows, a block at a time."""
    atoms = torch.from_numpy(rotation(dim))
    random = torch.Generator().manual_seed(1)
    part = path.with_name(path.name + ".part")
    file = open_memmap(part, mode="w+", dtype=np.float32, shape=(rows, dim))
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        chosen = torch.rand(count, dim, generator=random).topk(k, dim=1).indices
        causes = torch.zeros(count, dim).scatter_(
            1, chosen, torch.randn(count, k, generator=random)
        )
        noise = 0.05 * torch.randn(count, dim, generator=random)
        file[start : start + count] = (causes @ atoms + noise).numpy()
    file.flush()
    part.rename(path)


def read_seconds(path: Path) -> float:
    """One read of the file, in blocks."""
    start = time.process_time()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_BLOCK * 2048)
        while file.readinto(buffer):
            pass
    return time.process_time() - start


def product_seconds(path: Path, dim: int) -> float:
    """The two products of a pass, U z and S^T Z, of as many rows, all of one block."""
    file = np.load(path, mmap_mode="r")
    block, matrix = torch.from_numpy(np.array(file[:_BLOCK])), torch.from_numpy(rotation(dim))
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        codes = block @ matrix
        codes.T @ block
        best = min(best, time.process_time() - start)
    return best * len(file) / len(block)


def fit(path: Path, k: int, passes: int) -> None:
    """The measured process."""
    rows = np.load(path, mmap_mode="r")
    dim = rows.shape[1]
    seconds: list[float] = []
    from laplex.cedar import procrustes

    advance = procrustes.Search.advance

    def timed(self: procrustes.Search, *args: object, **options: object) -> None:
        start = time.process_time()
        advance(self, *args, **options)  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)

    procrustes.Search.advance = timed  # type: ignore[method-assign]
    start = time.process_time()
    begin = time.monotonic()
    model = CEDAR(k=k, random_state=0, max_iter=passes).fit(rows, progress=True)
    total, wall = time.process_time() - start, time.monotonic() - begin
    last = seconds[-model.n_iter_ :]
    read, product = read_seconds(path), product_seconds(path, dim)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    floor = read + product
    print(f"machine: {processor()}, {torch.get_num_threads()} threads")
    print(f"{rows.shape[0]:,} x {dim} float32, {rows.nbytes / 1e9:.2f} GB, k = {k}")
    print(
        f"fit {total:.0f} s ({wall:.0f} s by the clock): {len(seconds) - len(last)} passes over a "
        "sample of 65,536 rows, then "
        f"{len(last)} over the file of {min(last):.1f} to {max(last):.1f} s"
    )
    print(
        f"floor: one read {read:.1f} s + two products {product:.1f} s = {floor:.1f} s; a pass "
        f"takes {min(last) / floor:.2f} of it"
    )
    print(f"peak resident memory {peak:.2f} GiB")
    print(
        f"MCC with the true atoms {mcc(model.atoms_, rotation(dim)):.4f}, "
        f"FVE {model.score(rows[:_BLOCK]):.4f}"
    )
    error = np.abs(model.components_.astype(float) @ model.components_.T - np.eye(dim)).max()
    print(f"|U U^T - I| at most {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of memory for the fit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("build/cedar_rows.npy"))
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        limit = int(options.limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        torch.set_num_threads(options.threads)
        fit(options.file, options.k, options.passes)
        return
    options.file.parent.mkdir(parents=True, exist_ok=True)
    if not options.file.exists():
        write(options.file, options.rows, options.dim, options.k)
    subprocess.run([sys.executable, __file__, "--fit", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
