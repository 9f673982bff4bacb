"""Cases of a line over processes, each checked on every rank: by the tests on torch.distributed,
and as a program on MPI."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import mpmath
import numpy as np

import exactness_cases
import laplex
from laplex._support.communicator import Communicator, agree, communicator
from laplex.distributed import ShardedPlan
from laplex.distributed.line import SEGMENT as SEGMENT
from strategies import assert_same_bits

PHASED = exactness_cases.PHASED


class Case(NamedTuple):
    """A kernel and how it is spread; the sizes are of the whole line."""

    n: int
    m: int | None = None
    rows: int = 1
    dtype: str = "float64"
    form: str = "real"
    shape: str = "matern12"
    anchors: str = "uniform"
    shards: str = "uneven"
    complex_values: bool = False


# Seven segments, so that all of seven ranks have a part.
CASES = {
    "float64": Case(60_000, 54_000),
    "float32": Case(54_000, 60_000, dtype="float32", shards="empty"),
    "self": Case(114_000, shards="reversed"),
    "8 rows, ties": Case(
        60_000, 54_000, rows=8, dtype="float32", anchors="coarse grid", shards="skewed"
    ),
    "64 rows": Case(16_000, 17_000, rows=64),
    "64 rows, float32": Case(33_000, rows=64, dtype="float32"),
    "all equal": Case(20_000, 40_000, rows=2, anchors="all equal"),
    "without sources": Case(70_000, 0, rows=2),
    "without targets": Case(0, 70_000, rows=2, dtype="float32"),
    "without anchors": Case(0, 0),
    "one segment": Case(5, 4, shards="skewed"),
    "huge range": Case(50_000, 40_000, anchors="1e-30..1e30"),
    "complex values": Case(40_000, 40_000, rows=2, complex_values=True),
    "carrier": Case(40_000, rows=2, dtype="float32", form="carrier"),
    "oscillating": Case(40_000, 40_000, form="oscillating", shards="empty"),
    "cosine": Case(40_000, 40_000, form="cosine", complex_values=True),
    "all together": Case(40_000, 40_000, rows=8, form=PHASED, complex_values=True),
    "matern32": Case(40_000, 40_000, shape="matern32", anchors="coarse grid"),
    "matern52": Case(60_000, dtype="float32", shape="matern52", form="oscillating"),
}


def shard(count: int, size: int, how: str) -> list[slice]:
    """Where the shards of each rank begin and end in the whole."""
    rng = np.random.default_rng(7)
    ends = {
        "uneven": np.sort(rng.integers(0, count + 1, size - 1)),
        "reversed": np.sort(count - rng.integers(0, count + 1, size - 1)),
        "empty": np.repeat(np.arange(size // 2) * count // max(1, size // 2), 2)[: size - 1],
        "skewed": np.full(size - 1, count),
    }[how]
    ends = np.concatenate([[0], np.resize(ends, size - 1) if size > 1 else [], [count]])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def check_all(rank: int, size: int, names: Sequence[str], comm: Any = None) -> None:
    """Check some of the cases."""
    for name in names:
        try:
            check(CASES[name], rank, size, comm)
        except Exception as error:
            raise AssertionError(f"case {name!r}") from error


def check(case: Case, rank: int, size: int, comm: Any = None) -> None:
    """Everything that this rank gets has the bits of a plan over the whole line."""
    rng = np.random.default_rng(3)
    n, is_self = case.n, case.m is None
    m = n if is_self else case.m
    k = exactness_cases.kernel(
        case.form, case.anchors, n, m, 1e-3, case.dtype, rng, is_self, case.shape
    )
    dtype = np.result_type(case.dtype, np.complex64) if case.complex_values else case.dtype
    v, g = (
        (rng.standard_normal((case.rows, s)) + 1j * rng.standard_normal((case.rows, s)))
        for s in (m, n)
    )
    v = (v if case.complex_values else v.real).astype(dtype)
    whole = laplex.Plan(k.targets, None if is_self else k.sources, **k.options())
    u = whole.apply(v)
    g = (g if u.dtype.kind == "c" else g.real).astype(u.dtype)
    exact = whole.vjp(v, g)

    x_at, y_at = (shard(s, size, case.shards)[rank] for s in (n, m))
    at = {"targets": x_at, "sources": y_at}
    options = k.options()
    assert options.pop("side") == "both"  # a shared line has no other sums
    for name, side in (("target_phase", x_at), ("source_phase", y_at)):
        if options[name] is not None:
            options[name] = options[name][side]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if case.anchors == "all equal" else "error")
        plan = ShardedPlan(
            k.targets[x_at], None if is_self else k.sources[y_at], **options, comm=comm
        )
    mine = v[:, y_at]
    assert_same_bits(plan.apply(mine), u[:, x_at])
    assert_same_bits(plan.transpose(g[:, x_at]), whole.transpose(g)[:, y_at])
    assert_same_bits(plan.adjoint(g[:, x_at]), whole.adjoint(g)[:, y_at])
    for got, half in zip(plan.half_sums(mine), whole.half_sums(v), strict=True):
        assert_same_bits(got, half[:, x_at])
    found = plan.vjp(mine, g[:, x_at])
    sides = ("sources", "targets", "sources", None, None, "targets", "sources")
    for side, got, wanted in zip(sides, found, exact, strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            assert_same_bits(got, wanted if side is None else wanted[..., at[side]])

    in_line = plan.to_line(mine)
    assert in_line.shape == (case.rows, plan.line_shape[1])
    assert_same_bits(plan.from_line(in_line, side="sources"), mine)
    u_line = plan.apply(in_line, order="line")
    assert_same_bits(plan.from_line(u_line), plan.apply(mine))
    g_line = plan.to_line(g[:, x_at], side="targets")
    line = plan.vjp(in_line, g_line, order="line")
    assert_same_bits(plan.from_line(line.targets), found.targets)


def check_collectives(rank: int, size: int, comm: Any = None) -> None:
    """The collectives, for all types of numbers, empty parts and arrays of other shapes."""
    group = communicator(comm=comm)
    assert (group.rank, group.size) == (rank, size)
    for dtype in ("?", "i1", "u2", "f2", "f4", "i8", "f8", "c8", "c16"):
        mine = [
            np.full((rank + other) % 3, 10 * rank + other).astype(dtype) for other in range(size)
        ]
        counts = [(rank + other) % 3 for other in range(size)]
        for given in (None, counts):
            for other, got in enumerate(group.all_to_all(mine, given)):
                assert_same_bits(got, np.full(counts[other], 10 * other + rank).astype(dtype))
        for given in (None, list(range(size))):
            for other, got in enumerate(group.all_gather(np.full(rank, rank).astype(dtype), given)):
                assert_same_bits(got, np.full(other, other).astype(dtype))
    numbers = np.arange(1.0, 7.0).reshape(2, 3) * (1 if rank else -1)
    total = group.all_reduce(numbers)
    assert_same_bits(total, np.arange(1.0, 7.0).reshape(2, 3) * (size - 2))
    assert_same_bits(group.all_reduce(numbers, "min"), -np.arange(1.0, 7.0).reshape(2, 3))
    assert_same_bits(group.all_reduce(np.array(rank), "max"), np.array(size - 1))
    assert group.all_gather_object({"rank": rank}) == [{"rank": each} for each in range(size)]
    assert agree(group, None, {"a": 1}, [rank == 1, False]) == [True, False]


def check_exactness(rank: int, size: int, comm: Any = None) -> None:
    """The promise holds across a boundary at exponents to 745 and angles to 1e12."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.random(40_000))
    y = np.concatenate([x[:2] / 3, 1 - x[:2] / 3])  # what arrives comes from the ends
    at = shard(len(x), size, "uneven")[rank]
    mine = slice(0, 4) if rank == size - 1 else slice(0, 0)
    mpmath.mp.dps = 50
    for reach, frequency in ((745.0, 0.0), (40.0, 1e12), (700.0, 1e9)):
        theta = rng.uniform(-6, 6, len(x)) if frequency else None
        v = rng.standard_normal(4) * (1 + 1j if frequency else 1)
        plan = ShardedPlan(
            x[at],
            y[mine],
            lengthscale=1 / reach,
            frequency=frequency,
            target_phase=None if theta is None else theta[at],
            comm=comm,
        )
        u = plan.apply(v[mine])
        entries = np.linspace(at.start, at.stop - 1, 20).astype(int) if len(u) else ()
        for entry in entries:
            total, scale = mpmath.mpc(0), mpmath.mpf(0)
            for each, value in zip(y, v, strict=True):
                distance = abs(mpmath.mpf(x[entry]) - mpmath.mpf(each))
                angle = mpmath.mpf(frequency) * distance + (0 if theta is None else theta[entry])
                modulus = mpmath.exp(-distance / mpmath.mpf(1 / reach))
                total += modulus * mpmath.expj(angle) * mpmath.mpmathify(value)
                scale += modulus * abs(value)
            error = abs(mpmath.mpmathify(u[entry - at.start]) - total)
            assert error <= 1e-14 * scale + np.finfo(float).tiny, (reach, frequency, entry)


def bad_inputs(size: int) -> dict[str, tuple[Callable[[int, Any], Any], str]]:
    """Calls that rank 1 of all ranks makes differently, and how their message begins."""
    x = np.linspace(0, 1, 10)
    wrong = np.array([0.0, np.nan])

    def plan(comm: Any) -> ShardedPlan:
        return ShardedPlan(x, comm=comm)

    def pick(rank: int, bad: Any, good: Any) -> Any:
        return bad if rank == 1 else good

    return {
        "NaN": (
            lambda r, c: ShardedPlan(pick(r, wrong, x), comm=c),
            "ValueError: rank 1: targets must be finite, but entry 1 is NaN",
        ),
        "infinite source": (
            lambda r, c: ShardedPlan(x, pick(r, [-np.inf], x), comm=c),
            "ValueError: rank 1: sources must be finite, but entry 0 is -inf",
        ),
        "dtype": (
            lambda r, c: ShardedPlan(pick(r, x.astype(np.float32), x), comm=c),
            "ValueError: the dtype of targets is 'float64' on rank 0 but 'float32' on rank 1: "
            "pass the same on all ranks",
        ),
        "dimensions": (
            lambda r, c: ShardedPlan(pick(r, x[None], x), comm=c),
            "ValueError: rank 1: targets has shape [1, 10], but a line over processes has one "
            "head: pass one dimension, and a plan for each head",
        ),
        "lengthscale": (
            lambda r, c: ShardedPlan(x, lengthscale=pick(r, 2, 1), comm=c),
            "ValueError: lengthscale is 1.0 on rank 0 but 2.0 on rank 1: pass the same",
        ),
        "no lengthscale": (
            lambda r, c: ShardedPlan(x, lengthscale=pick(r, 0, 1), comm=c),
            "ValueError: rank 1: lengthscale must be positive and finite, got 0",
        ),
        "self": (
            lambda r, c: ShardedPlan(x, pick(r, x, None), comm=c),
            "ValueError: whether sources is given is False on rank 0 but True on rank 1",
        ),
        "kernel": (
            lambda r, c: ShardedPlan(x, kernel=pick(r, "matern32", "matern12"), comm=c),
            "ValueError: kernel is 'matern12' on rank 0 but 'matern32' on rank 1",
        ),
        "rows": (
            lambda r, c: plan(c).apply(np.ones((pick(r, 2, 3), 10))),
            "ValueError: the leading shape of v is (3,) on rank 0 but (2,) on rank 1",
        ),
        "length": (
            lambda r, c: plan(c).apply(np.ones(pick(r, 9, 10))),
            "ValueError: rank 1: v has shape [9] but the last dimension must be 10, the number of "
            "sources on this rank",
        ),
        "values": (
            lambda r, c: plan(c).apply(x.astype(pick(r, np.complex128, float))),
            "ValueError: the dtype of v is 'float64' on rank 0 but 'complex128' on rank 1",
        ),
        "cotangent": (
            lambda r, c: plan(c).vjp(x, x.astype(pick(r, np.complex128, float))),
            "TypeError: rank 1: grad is complex128 but apply(v) is float64: pass a real cotangent",
        ),
        "order": (
            lambda r, c: plan(c).apply(x, order=pick(r, "sorted", "user")),
            "ValueError: rank 1: order must be 'user' or 'line', got 'sorted'",
        ),
        "side": (
            lambda r, c: plan(c).to_line(x, side=pick(r, "left", "sources")),
            "ValueError: rank 1: side must be 'targets' or 'sources', got 'left'",
        ),
    }


def check_errors(rank: int, size: int, comm: Any = None) -> list[str]:
    """All ranks get the same error of what is wrong on one of them; returns the messages."""
    messages = []
    for name, (call, expected) in bad_inputs(size).items():
        try:
            call(rank, comm)
            message = "no error"
        except (TypeError, ValueError) as error:
            message = f"{type(error).__name__}: {error}"
        assert message.startswith(expected), (name, message)
        messages.append(message)
    return messages


class Counting:
    """A communicator that counts the bytes that it sends to other ranks."""

    def __init__(self, comm: Communicator) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.sent = dict.fromkeys(("exchange", "all_gather", "all_reduce"), 0)

    def exchange(self, array: np.ndarray, sizes: Any, counts: Any) -> np.ndarray:
        self.sent["exchange"] += array.itemsize * (sum(sizes) - sizes[self.rank])
        return self.comm.exchange(array, sizes, counts)

    def all_to_all(self, parts: Sequence[np.ndarray], counts: Any = None) -> list[np.ndarray]:
        self.sent["exchange"] += sum(p.nbytes for r, p in enumerate(parts) if r != self.rank)
        return self.comm.all_to_all(parts, counts)

    def all_gather(self, array: np.ndarray, counts: Any = None) -> list[np.ndarray]:
        self.sent["all_gather"] += array.nbytes * (self.size - 1)
        return self.comm.all_gather(array, counts)

    def all_reduce(self, array: np.ndarray, operation: str = "sum") -> np.ndarray:
        self.sent["all_reduce"] += 2 * array.nbytes
        return self.comm.all_reduce(array, operation)


def traffic(rank: int, size: int, per_rank: int, rows: int) -> dict[str, int]:
    """The bytes that this rank sends; each has every size-th anchor of each side."""
    import laplex.distributed.plan as module

    counting = Counting(communicator())
    module.communicator = lambda *_: counting

    def sent(kind: str) -> int:
        found = counting.sent[kind]
        counting.sent[kind] = 0
        return found

    x = np.arange(rank, size * per_rank, size, dtype=np.float32)
    plan = ShardedPlan(x, x + np.float32(0.5), lengthscale=3.0)
    seen = {"anchors": sent("exchange")}
    v = np.ones((rows, per_rank), np.float32)
    w = plan.to_line(v)
    assert w.shape == v.shape
    sent("exchange"), sent("all_gather")
    plan.apply(v)
    seen |= {"vectors in user order": sent("exchange"), "carries": sent("all_gather")}
    plan.apply(w, order="line")
    return seen | {"vectors in line order": sent("exchange")}


def warnings_of_ties(rank: int, size: int) -> list[str]:
    """What is warned of when all anchors are equal."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = ShardedPlan(np.full(30_000, 0.5))
        plan.apply(np.ones(30_000))
    return [str(each.message) for each in caught if each.category is UserWarning]


def die(rank: int, size: int) -> None:
    """Rank 1 dies between two collectives."""
    plan = ShardedPlan(np.linspace(0, 1, 50_000))
    if rank == 1:
        os._exit(1)
    plan.apply(np.ones(50_000))


if __name__ == "__main__":
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    check_collectives(world.rank, world.size, world)
    check_all(world.rank, world.size, sys.argv[1:], world)
    check_exactness(world.rank, world.size, world)
    seen = world.allgather(check_errors(world.rank, world.size, world))
    assert all(messages == seen[0] for messages in seen)
    assert "torch" not in sys.modules
    print(f"rank {world.rank} of {world.size} is done")
