"""Heads that share their anchors, in torch: one plan with one order, and every derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import laplex
from laplex.nn.kernel_product import kernel_product
from laplex.nn.kernel_shape import KernelShape
from strategies import Case, assert_same_bits, cases, quick
from torch_cases import FORMS

pytestmark = pytest.mark.usefixtures("seeded")

HEADS = 3


def arguments(form: str, own: bool, n: int = 6, m: int = 5) -> tuple[list[Tensor], dict[str, Any]]:
    """Values, anchors without heads, and parameters with them; ties among the anchors."""
    oscillates, phased, real_part = FORMS[form]
    targets = torch.randperm(2 * n)[:n].double() / 3
    sources = torch.randperm(2 * m)[:m].double() / 3
    m = n if own else m
    options: dict[str, Any] = {"lengthscale": torch.rand(HEADS, dtype=torch.float64) + 0.3}
    if oscillates:
        options["frequency"] = torch.randn(HEADS, dtype=torch.float64)
    if phased:
        options["target_phase"] = torch.randn(HEADS, n, dtype=torch.float64)
        options["source_phase"] = torch.randn(m, dtype=torch.float64)
    values = torch.randn(2, HEADS, m, dtype=torch.float64)
    return [values, targets, *([] if own else [sources])], {**options, "real_part": real_part}


def leaves(tensors: list[Tensor], options: dict[str, Any]) -> list[Tensor]:
    every = [*tensors, *(each for each in options.values() if isinstance(each, Tensor))]
    return [each.requires_grad_() for each in every]


@pytest.mark.parametrize("own", [False, True], ids=["two sides", "self"])
@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
@pytest.mark.parametrize("form", FORMS)
def test_products_and_gradients_have_the_bits_of_repeated_anchors(form, kernel, own):
    tensors, options = arguments(form, own)
    inputs = leaves(tensors, options)
    results = []
    for way in ("one set", "expanded", "repeated"):
        anchors = tensors[1:]
        if way != "one set":
            anchors = [each.expand(HEADS, -1) for each in anchors]
        if way == "repeated":
            anchors = [each.clone() for each in anchors]
        result = laplex.matvec(tensors[0], *anchors, **options, kernel=kernel)
        grad = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)
        results.append([result, *torch.autograd.grad(result, inputs, grad)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_same_bits(one.detach().numpy(), two.detach().numpy())


@quick
@given(cases(oscillating=False, kernels=("matern12",)))
def test_any_anchors(case: Case) -> None:
    """The plans of NumPy and of torch are one, whichever way anchors are shared."""
    options = dict(case.options)
    ell = options.pop("lengthscale") * np.array([0.1, 1.0, 7.0])
    v = case.values(len(case.y), rows=(2, 1))
    expected = laplex.Plan(case.targets, case.sources, lengthscale=ell, **options).apply(v)
    phases = {k: torch.tensor(p) for k, p in options.items() if isinstance(p, np.ndarray)}
    if options["real_part"]:
        phases["real_part"] = True
    sides = [torch.tensor(side) for side in (case.targets, case.sources) if side is not None]
    for anchors in (sides, [side.expand(3, -1) for side in sides]):
        result = laplex.matvec(
            torch.tensor(v), *anchors, lengthscale=torch.tensor(ell), **phases
        ).numpy()
        assert_same_bits(result, expected)


@pytest.mark.parametrize("own", [False, True], ids=["two sides", "self"])
@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
@pytest.mark.parametrize("form", ["real", "carrier", "cosine"])
def test_first_and_second_derivatives(form, kernel, own):
    tensors, options = arguments(form, own, n=4, m=3)
    # Without ties, at which finite differences know nothing of the convention.
    tensors[1:] = [each + 0.05 * k for k, each in enumerate(tensors[1:])]
    inputs = leaves(tensors, options)
    names = [name for name, each in options.items() if isinstance(each, Tensor)]
    rest = {name: each for name, each in options.items() if name not in names}

    def product(*given: Tensor) -> Tensor:
        named = dict(zip(names, given[len(tensors) :], strict=True))
        return laplex.matvec(*given[: len(tensors)], **named, **rest, kernel=kernel)

    assert gradcheck(product, inputs, fast_mode=True)
    assert gradgradcheck(product, inputs, fast_mode=True)


def test_the_plan_is_kept_once_and_follows_training() -> None:
    laplex.plan_cache.clear()
    x = torch.rand(2000, dtype=torch.float64, requires_grad=True)
    log_ell = torch.linspace(-5, 0, 8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(8, 2000, dtype=torch.float64)
    for _ in range(4):
        result = laplex.matvec(v, x, lengthscale=log_ell.exp())
        plan = laplex.Plan(x.detach().numpy(), lengthscale=log_ell.detach().exp().numpy())
        assert_same_bits(result.detach().numpy(), plan.apply(v.numpy()))
        result.square().sum().backward()
        with torch.no_grad():
            x += 1e-5 * torch.randn_like(x)
            log_ell += 0.01
    assert laplex.plan_cache.info().plans == 1
    given = x.detach(), log_ell.detach().exp()
    laplex.plan_cache.clear()
    sizes: list[int] = []
    for anchors in (given[0].repeat(8, 1), given[0]):  # which are not taken for each other
        laplex.matvec(v, anchors, lengthscale=given[1])
        sizes.append(laplex.plan_cache.info().bytes)
    assert laplex.plan_cache.info().plans == 2
    assert sizes[1] - sizes[0] < 0.8 * sizes[0]
    laplex.plan_cache.clear()


def test_vmap_and_operators() -> None:
    x, y = torch.rand(7, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    v = torch.randn(HEADS, 5, dtype=torch.float64)
    ell = torch.rand(HEADS, dtype=torch.float64) + 0.1
    expected = laplex.matvec(v, x.repeat(HEADS, 1), y.repeat(HEADS, 1), lengthscale=ell)
    mapped = torch.vmap(lambda v, ell: laplex.matvec(v, x, y, lengthscale=ell))(v, ell)
    assert torch.equal(mapped, expected)
    for anchors in ((x, y), (x.expand(HEADS, -1), y.expand(HEADS, -1))):
        operator = laplex.LaplaceOperator(*anchors, lengthscale=ell)
        assert operator.shape == (HEADS, 7, 5)
        assert torch.equal(operator.matvec(v), expected)
        assert torch.equal((operator @ v[..., None])[..., 0], expected)
        assert torch.equal(operator.T.matvec(expected), operator.mT.matvec(expected))
        assert operator.rank().shape == (HEADS,)
        assert len(set(operator.rank().tolist())) == 1
        assert_same_bits(operator.to_plan().apply(v.numpy()), expected.numpy())
        assert torch.allclose(operator.to_dense() @ v[..., None], expected[..., None])


def test_layers_that_share_anchors() -> None:
    """A layer's product takes expanded anchors, also in a recorded backward pass."""
    x, y = torch.rand(7, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    rest = [torch.rand(HEADS, dtype=torch.float64) + 0.1, torch.randn(HEADS, 5).double()]
    rest += [torch.randn(HEADS, size, dtype=torch.float64) for size in (7, 5)]
    rest += [torch.randn(7, dtype=torch.float64)]
    given = [each.requires_grad_() for each in (torch.randn(4, 5).double(), x, y, *rest)]
    results = []
    for copies in (False, True):
        anchors = [each.expand(HEADS, -1) for each in (x, y)]
        anchors = [each.clone() for each in anchors] if copies else anchors
        output = kernel_product(given[0], *anchors, *rest, False, KernelShape())
        first = torch.autograd.grad(output.square().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), given)
        results.append([output, *first, *second])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert torch.equal(results[0][0], results[1][0])
