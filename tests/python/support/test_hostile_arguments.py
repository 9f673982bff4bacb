"""Arguments of any kind: a call gives a result, or raises one of the documented exceptions.

A crash or a lack of memory would end the process that runs all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import laplex
from strategies import quick

#: What a call may raise; LinAlgError, of singular matrices, is a ValueError.
DOCUMENTED = (TypeError, ValueError, MemoryError)


class Odd:
    """Looks like an array, an integer or a tensor, and is none."""

    shape = (2**62, 2**62)
    dtype = "float64"
    ndim = 2

    def __array__(self, dtype=None, copy=None):
        raise ValueError("no array")

    def __len__(self):
        return 2**40

    def __getitem__(self, key):
        raise IndexError(key)

    def __index__(self):
        return 2**80

    def __float__(self):
        return float("nan")

    def __dlpack__(self, **_):
        raise TypeError("no tensor")

    def __dlpack_device__(self):
        return (-1, 2**40)


class Subclass(np.ndarray):
    """Changes what it is while it is looked at."""

    @property
    def shape(self):
        return (2**40,)


good = np.linspace(0.0, 1.0, 6)
locked = np.zeros(6)
locked.flags.writeable = False
fields = np.zeros(6, [("a", float), ("b", int)])
odd_arguments = [
    None, Ellipsis, "abc", b"abc", "", {}, set(), object, Odd(), [Odd()], [[]], [[1.0], [2.0, 3.0]],
    [None], [10**400],
    10**400, -(2**63), 2**62, True, float("nan"), float("inf"), 5e-324, 1e308,
    np.float64(0.5), np.nan, np.datetime64("2026-01-01"), np.array(["a"]), np.array([object()]),
    fields,
    np.zeros((2**40, 0)), np.zeros((0, 2**40)), np.zeros(0), np.zeros((6, 0)), np.zeros((3,) * 8),
    np.broadcast_to(0.5, (6,)), np.broadcast_to(0.5, (2**20, 6)), good[::-1], good[::2],
    good.astype(np.float16), good.astype(np.longdouble), good.astype(">f8"), good.astype("<i8"),
    good.astype(complex), good.astype(bool), good.view(Subclass),
    np.ma.masked_array(good, good > 0.5),
    np.full(6, np.nan), np.full(6, np.inf), np.full(6, 1e308), np.full(6, 5e-324), good, locked,
    np.frombuffer(bytes(49), np.uint8)[1:].view(np.float64), torch.zeros(6).to_sparse(),
    torch.zeros(6, device="meta"), torch.zeros(6, requires_grad=True),
    torch.zeros(6, dtype=torch.bfloat16),
    torch.zeros(1).expand(6), torch.zeros(6, dtype=torch.complex64),
    torch.linspace(0, 1, 6), (6,), range(6),
]  # fmt: skip
arguments = st.integers(0, len(odd_arguments) - 1).map(odd_arguments.__getitem__)
mostly_good = st.one_of(st.just(good), arguments)


def numpy_calls(a, b, c, d):
    plan = laplex.Plan(a, b, lengthscale=c, frequency=d)
    for call in (plan.apply, plan.adjoint, plan.half_sums):
        for values in (b, c, d):
            try:
                call(values)
            except DOCUMENTED:
                continue
    plan.update(b)


CALLS = {
    "Plan": numpy_calls,
    "apply": lambda a, b, c, d: laplex.Plan(good).apply(a, out=b),
    "vjp": lambda a, b, c, d: laplex.Plan(good).vjp(a, b),
    "update": lambda a, b, c, d: laplex.Plan(good, good).update(a, b, lengthscale=c),
    "quantiles": lambda a, b, c, d: laplex.Plan(good).quantiles(a),
    "options": lambda a, b, c, d: laplex.Plan(good, kernel=a, side=b, num_threads=c),
    "matvec": lambda a, b, c, d: laplex.matvec(a, b, c, lengthscale=d),
    "gram": lambda a, b, c, d: laplex.gram.LaplaceGram(a, lengthscale=b, noise=c).solve(d),
    "order": lambda a, b, c, d: laplex.order.soft_rank(a, b),
    "sliced": lambda a, b, c, d: laplex.sliced.matvec(a, b, lengthscale=c),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CALLS))
@given(given_arguments=st.tuples(*[mostly_good] * 4))
@settings(quick, max_examples=max(25, quick.max_examples // 2))
def test_a_call_works_or_raises_what_is_documented(name, given_arguments):
    try:
        CALLS[name](*given_arguments)
    except DOCUMENTED as error:
        assert str(error)  # noqa: PT017


def test_what_is_too_large_for_the_memory():
    """In a process of its own, whose memory is limited."""
    code = f"""
import resource, numpy as np
import laplex
resource.setrlimit(resource.RLIMIT_AS, ({2**32}, {2**32}))
for shape in ((2**40, 0), (2**33, 0), (0, 2**60)):
    try:
        laplex.Plan(np.zeros(shape)).apply(np.zeros(shape))
    except (MemoryError, ValueError):
        print("refused")
"""
    found = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True, text=True, cwd=Path.home(), check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "refused" in found.stdout
