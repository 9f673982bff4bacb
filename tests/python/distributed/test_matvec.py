"""`laplex.distributed.matvec`: derivatives of a line over processes."""

from __future__ import annotations

import pytest
import torch

import laplex
import line_gradient_cases
from laplex.distributed import matvec
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


def test_a_group_of_some_processes() -> None:
    run_ranks(line_gradient_cases.check_subgroup, 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled() -> None:
    x, v = torch.rand(20), torch.rand(20, requires_grad=True)
    compiled = torch.compile(lambda v: 3 * matvec(2 * v, x), backend="eager")
    torch.testing.assert_close(compiled(v), 6 * laplex.matvec(v, x))
    compiled(v).sum().backward()
    torch.testing.assert_close(v.grad, 6 * laplex.matvec(torch.ones(20), x))
