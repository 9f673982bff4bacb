#!/usr/bin/env python3
"""Compare the results of many seeded calls, bit for bit, with those of another version of Laplex.

    PYTHONPATH=OTHER tools/same_bits.py --save FILE
    tools/same_bits.py --compare FILE [--only AREA ...]

Use it for a change that should not change any number: save before the change, and compare after it.
The calls are in `same_bits_calls`, with an area for each part of the package, and use only public
names. FILE contains a digest of each result (SHA-256 of dtypes, shapes and bytes), or the text of
the exception that was raised instead. Digests are valid for one machine and one set of libraries,
because others round differently. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import os

# One thread, and sums whose order does not depend on the address of an array.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ["MKL_CBWR"] = "COMPATIBLE"

import argparse
import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import same_bits_calls as calls
import torch

import laplex

AREAS = {area.__name__: area for area in calls.AREAS}


def digest(value: Any) -> str:
    """Return the SHA-256 of the numbers in a result, and of its dtypes, shapes and names."""
    if isinstance(value, torch.Tensor):
        whole = value.detach().resolve_conj().resolve_neg().contiguous()
        value = (str(value.dtype), list(value.shape), whole.flatten().view(torch.uint8).numpy())
    elif hasattr(value, "to_dict"):
        value = value.to_dict()
    if hasattr(value, "__array__"):
        value = np.asarray(value)
        content = f"{value.dtype.str} {value.shape}".encode() + value.tobytes()
    elif value is None or isinstance(value, (bool, int, float, complex, str)):
        content = repr(value).encode()
    elif isinstance(value, Sequence):
        content = f"{len(value)} {' '.join(digest(each) for each in value)}".encode()
    else:
        items = (value if isinstance(value, Mapping) else vars(value)).items()
        content = digest(list(items)).encode()
    return hashlib.sha256(content).hexdigest()


def evaluated(make: str, use: str, orders: int, names: dict[str, Any]) -> dict[str, Any]:
    """Return the value of the expression `use`, in which `A` is that of `make`, and derivatives.

    Derivatives are by the tensors in `names` and in `given`, and by the parameters of A: gradients
    of the value, of the sum of their squares, and so on. Without derivatives, A is made only once.
    """
    leaves: dict[str, torch.Tensor] = {}
    if orders:
        given = names["given"]
        tensors = {k: v for k, v in (given | names).items() if isinstance(v, torch.Tensor)}
        leaves = {k: v.detach().requires_grad_() for k, v in tensors.items()}
        names = names | leaves | {"given": {k: leaves.get(k, v) for k, v in given.items()}}
    if orders or "A" not in names:
        names["A"] = eval(make, names)
    value = eval(use, names)
    if isinstance(names["A"], torch.nn.Module):
        leaves |= dict(names["A"].named_parameters())
    found = {"": value}
    for order in range(orders):
        if not (isinstance(value, torch.Tensor) and value.requires_grad):
            break
        options: Any = {"allow_unused": True, "materialize_grads": True}
        options |= {"create_graph": order + 1 < orders, "grad_outputs": calls.weights(value)}
        gradients = torch.autograd.grad(value, [*leaves.values()], **options)
        found |= {f", {order * 'again '}by {k}": v for k, v in zip(leaves, gradients, strict=True)}
        value = sum(each.abs().square().sum() for each in gradients)
    return found


def results(area: str) -> Iterator[tuple[str, str]]:
    """Yield names of results, with their digests or the text of an exception."""
    common = {"given": {}} | vars(calls)
    for name, make, uses, orders, names in AREAS[area]():
        names = common | names
        for use, order in product(calls.expressions(uses), {0, orders}):
            np.random.seed(0)  # noqa: NPY002  (for what draws from it)
            torch.manual_seed(0)
            full = f"{area}: {name}; {use}{', recorded' * (order > 0)}"
            try:
                for key, value in evaluated(make, use, order, names).items():
                    yield full + key, digest(value)
            except (NameError, SyntaxError):
                raise  # a mistake in the expressions
            except Exception as error:
                yield full, f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare results, bit for bit, between versions.")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(AREAS),
        default=list(AREAS),
        help="evaluate only the calls of these areas (default: all)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--save", type=Path, metavar="FILE", help="write the results to FILE")
    what.add_argument(
        "--compare", type=Path, metavar="FILE", help="compare with the results in FILE"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(laplex.__file__, file=sys.stderr)
    found: dict[str, str] = {}
    for area in options.only:
        start, count = time.process_time(), len(found)
        found |= results(area)
        seconds = time.process_time() - start
        print(f"{area}: {len(found) - count} results, {seconds:.1f} s", file=sys.stderr)
    machine = [sys.version, np.__version__, torch.__version__, torch.__config__.show()]
    if options.save:
        options.save.write_text(json.dumps({"machine": machine, "results": found}, indent=1))
        exceptions = sum(": " in value for value in found.values())
        print(f"{len(found)} results saved, {exceptions} of them exceptions")
        return 0
    saved = json.loads(options.compare.read_text())
    if saved["machine"] != machine:
        print(
            f"warning: {options.compare} comes from another machine or other library versions",
            file=sys.stderr,
        )
    before = {k: v for k, v in saved["results"].items() if k.partition(":")[0] in options.only}
    names = sorted(before.keys() | found.keys())
    differ = [name for name in names if before.get(name) != found.get(name)]
    for name in differ:
        print(f"{name}: was {before.get(name, 'absent')}, is {found.get(name, 'absent')}")
    print(f"{len(names) - len(differ)} of {len(names)} results are the same")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
