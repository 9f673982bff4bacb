#!/usr/bin/env python3
"""Compare the results of many seeded calls, bit for bit, with those of another version of Laplex.

    PYTHONPATH=BEFORE tools/same_bits.py --save FILE
    tools/same_bits.py --compare FILE [--only AREA ...]

For a change that may change no number. The calls are in `same_bits_calls`, an area for each part of
the package, through its public names alone. FILE holds a digest (SHA-256 of dtype, shape and bytes)
of every result, and is good for one machine and one set of libraries: others round differently.
Exit status 1 if anything differs.
"""

from __future__ import annotations

import os

# One thread, and sums whose order does not depend on where an array happens to lie.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ["MKL_CBWR"] = "COMPATIBLE"

import argparse
import dataclasses
import hashlib
import json
import logging
import platform
import random
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from same_bits_calls import AREAS

import laplex

torch.set_num_threads(1)


def bits(value: Any) -> Iterator[bytes]:
    """What a result consists of: its numbers' bytes, and the shape of what holds them."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        yield f"tensor {value.dtype} {list(value.shape)}".encode()
        yield value.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (np.ndarray, np.generic)):
        yield f"array {value.dtype.str} {list(value.shape)}".encode()
        yield from [value.tobytes()] if value.dtype != object else bits(value.tolist())
    elif value is None or isinstance(value, (bool, int, float, complex, str)):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield f"key {key}".encode()
            yield from bits(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f"field {field.name}".encode()
            yield from bits(getattr(value, field.name))
    elif isinstance(value, Sequence):
        yield f"sequence {len(value)}".encode()
        for each in value:
            yield from bits(each)
    else:
        raise TypeError(f"no bits of a {type(value).__name__}")


def digest(value: Any) -> str:
    found = hashlib.sha256()
    for piece in bits(value):
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()


def digests(areas: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and digest of every result; of a dictionary's entries one by one."""
    for area in areas:
        start, count = time.process_time(), 0
        for name, call in AREAS[area]():
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002  (for what draws from it)
            torch.manual_seed(0)
            try:
                result = call()
            except Exception as error:
                yield f"{area}: {name}", f"{type(error).__name__}: {error}"
                continue
            for key, value in (result if isinstance(result, dict) else {"": result}).items():
                yield f"{area}: {name}{key and f', {key}'}", digest(value)
            count += 1
        print(f"{area}: {count} calls, {time.process_time() - start:.0f} s", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(AREAS), default=list(AREAS))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--save", type=Path, metavar="FILE")
    what.add_argument("--compare", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(laplex.__file__, file=sys.stderr)
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "torch's instructions": torch.backends.cpu.get_cpu_capability(),
    }
    found: dict[str, str] = {}
    for name, value in digests(options.only):
        if name in found:
            raise ValueError(f"two results are named {name!r}")
        found[name] = value
    raised = [f"{name}: {value}" for name, value in found.items() if ": " in value]
    if options.save:
        options.save.write_text(json.dumps({"machine": machine, "digests": found}, indent=1))
        print(f"{len(found)} results saved, {len(raised)} of them errors", *raised, sep="\n")
        return 0
    saved = json.loads(options.compare.read_text())
    if saved["machine"] != machine:
        print(f"made on another machine: {saved['machine']}, and this is {machine}")
    before = {
        name: value
        for name, value in saved["digests"].items()
        if name.partition(":")[0] in options.only
    }
    names = sorted(before.keys() | found.keys())
    differ = [name for name in names if before.get(name) != found.get(name)]
    for name in differ:
        error = f": {found[name]}" if ": " in found.get(name, "") else ""
        absent = " (not in the file)" * (name not in before) + " (not made)" * (name not in found)
        print(f"differs: {name}{absent}{error}")
    print(f"{len(names) - len(differ)} of {len(names)} results are the same")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
