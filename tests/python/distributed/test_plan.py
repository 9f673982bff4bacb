"""`laplex.distributed.ShardedPlan`: one process' bits, agreement on errors, traffic, death, MPI."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from shutil import which

import numpy as np
import pytest

import laplex.distributed
import line_cases
from laplex.distributed import ShardedPlan
from rank_cases import RankError, run_ranks

MOST = ("float64", "8 rows, ties", "self", "64 rows", "one segment")


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_bits_are_those_of_one_process(size: int) -> None:
    run_ranks(line_cases.check_all, size, MOST)


@pytest.mark.parametrize("part", range(2))
def test_every_form_has_the_bits_of_one_process(part: int) -> None:
    others = [name for name in line_cases.CASES if name not in MOST]
    run_ranks(line_cases.check_all, 3, others[part::2])


def test_the_promise_holds_across_a_boundary() -> None:
    run_ranks(line_cases.check_exactness, 2)


def test_bad_input_on_one_rank_is_the_same_error_on_all() -> None:
    seen = run_ranks(line_cases.check_errors, 3)
    assert seen[0] == seen[1] == seen[2]


def test_traffic() -> None:
    """In user order each value and each result travels once; in line order only carries do."""
    size, rows, per_rank = 4, 16, 2 * 4 * line_cases.SEGMENT // 4
    for seen in run_ranks(line_cases.traffic, size, per_rank, rows):
        n = m = size * per_rank
        bound = rows * 4 * (n + m) * (size - 1) / size**2
        assert seen["vectors in user order"] <= bound
        assert seen["vectors in line order"] == 0
        assert 0 < seen["carries"] < 0.05 * bound
        # Anchors travel once, in float32, with a number for each pair of ranks.
        assert seen["anchors"] <= bound / rows + 64 * size


def test_many_equal_anchors_are_a_warning_on_the_first_rank() -> None:
    first, *others = run_ranks(line_cases.warnings_of_ties, 3)
    assert others == [[], []]
    (message,) = first
    assert "rank 0 gets 90000 of the 90000 anchors, whose fair share is 30000" in message


def test_a_dead_rank_is_named_by_all_others() -> None:
    with pytest.raises(RankError) as raised:
        run_ranks(line_cases.die, 3, limit=60, timeout=600)
    errors = raised.value.errors
    assert errors[1][0] == "Died"
    for rank in (0, 2):
        kind, message, _ = errors[rank]
        assert kind == "RankDiedError"
        assert message.startswith("rank 1 died or left the process group: ")


def test_mpi() -> None:
    """The same cases without PyTorch, by mpi4py."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed", exc_type=ImportError)
    here = Path(sys.executable).parent
    mpirun = which("mpirun", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpirun is None:
        pytest.skip("there is no mpirun next to Python or on the PATH")
    command = f"{mpirun} --allow-run-as-root --oversubscribe -n 3"
    cases = ("float64", "8 rows, ties", "all together", "one segment", "without sources")
    done = subprocess.run(
        [*command.split(), sys.executable, line_cases.__file__, *cases],
        env={**os.environ, "LAPLEX_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("is done") == 3


def test_one_process() -> None:
    x, v = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0], np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = ShardedPlan(x.astype(np.float32), lengthscale=2)
    assert plan.shape == plan.line_shape == (3, 3)
    assert plan.nbytes > 0
    assert repr(plan) == (
        "ShardedPlan(rank 0 of 1, shape=(3, 3), line_shape=(3, 3), dtype=float32, "
        "kernel='matern12', self, lengthscale=2.0)"
    )
    whole = laplex.Plan(x.astype(np.float32), lengthscale=2)
    np.testing.assert_array_equal(plan.apply(v), whole.apply(v))
    assert plan.apply(v).dtype == np.float16
    np.testing.assert_array_equal(plan.to_line(v), [2, 3, 1])
    with pytest.raises(TypeError, match="save the anchors, and build the plan again"):
        pickle.dumps(plan)
    with pytest.raises(TypeError, match="not both"):
        ShardedPlan(x, group=object(), comm=object())  # type: ignore[arg-type]
