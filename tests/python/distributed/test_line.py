"""`laplex.distributed.line`: orders by the compiled core, and how many anchors it can number."""

from __future__ import annotations

import numpy as np
import pytest

from laplex.distributed import ShardedPlan, line

#: From so many entries on, the core permutes in two passes.
TWO_PASSES = 1 << 21


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("count", "run"),
    [(0, None), (1, None), (1000, None), (TWO_PASSES + 5, None), (1000, 300), (1000, 0)],
)
def test_order_is_numpys_stable_one(count: int, run: int | None, dtype: type) -> None:
    rng = np.random.default_rng(count)
    anchors = rng.integers(-count // 2, count // 2 + 1, count).astype(dtype)
    anchors[anchors == 0] *= rng.choice([-1, 1], np.count_nonzero(anchors == 0))  # 0.0 and -0.0
    if run is not None:
        anchors[:run].sort()
        anchors[run:-200].sort()
        anchors[-200:].sort()
    expected = np.argsort(anchors, kind="stable")
    order = line.Sorted(anchors, 2, run)
    for kind in ("?", "f2", "f4", "f8", "c16", np.clongdouble):
        if count > 1000 and np.dtype(kind).itemsize not in (4, 16):
            continue
        entries = rng.integers(0, 1 << 15, (2, count)).astype(kind)
        arrived = order.sort(entries)
        np.testing.assert_array_equal(arrived, entries[:, expected])
        np.testing.assert_array_equal(order.unsort(arrived), entries)
    bits = rng.integers(0, 1 << 32, count, np.uint32)  # signalling NaNs among them, as floats
    np.testing.assert_array_equal(order.sort(bits.view("f4")).view("u4"), bits[expected])
    assert order.nbytes >= (0 if np.array_equal(expected, np.arange(count)) else 4 * count)


def test_two_runs_are_merged_and_an_order_as_given_costs_nothing() -> None:
    anchors = np.array([1.0, 2, 2, 5, -1, 2, 7], np.float32)
    order = line.Sorted(anchors, 1, run=4)
    np.testing.assert_array_equal(order.sort(np.arange(7)), [4, 0, 1, 2, 5, 3, 6])
    for given, run in ((np.sort(anchors), None), (np.sort(anchors), 4)):
        order = line.Sorted(given, 1, run)
        assert order.sort(anchors) is anchors
        assert order.unsort(anchors) is anchors
        assert order.nbytes == 0


def test_results_on_one_process_do_not_share_memory_with_arguments() -> None:
    plan, v = ShardedPlan([0.0, 1.0, 2.0]), np.ones(3)
    assert not np.shares_memory(plan.to_line(v), v)
    assert not np.shares_memory(plan.from_line(v), v)


def test_more_anchors_than_the_core_can_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_ANCHORS", 5)
    with pytest.raises(ValueError, match=r"^rank 0 passes 6 anchors, targets and sources together"):
        ShardedPlan(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match=r"^rank 1 owns 7 anchors, .* only 5: spread them"):
        line._check_counts(np.array([2, 7]), "owns")
