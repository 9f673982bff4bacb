"""`laplex.distributed.matvec`: derivatives of a line over processes."""

from __future__ import annotations

import pytest

import line_gradient_cases
from rank_cases import run_ranks


@pytest.mark.parametrize("size", [2, 3])
def test_derivatives_are_those_of_one_process(size: int) -> None:
    run_ranks(line_gradient_cases.check, size, list(line_gradient_cases.CASES)[size - 2 :: 2])


@pytest.mark.parametrize("real", [True, False])
def test_derivatives_are_those_of_differences(real: bool) -> None:
    run_ranks(line_gradient_cases.check_numerically, 2, real)


def test_what_single_ranks_do_differently() -> None:
    run_ranks(line_gradient_cases.check_habits, 4)


def test_bad_input_on_one_rank_is_the_same_error_on_all() -> None:
    seen = run_ranks(line_gradient_cases.check_errors, 2)
    assert seen[0] == seen[1]
