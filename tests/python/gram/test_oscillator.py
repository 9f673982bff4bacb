"""The log density of one damped oscillator in one call, beside that by the factor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from laplex import _core
from laplex.gram import SHO, Celerite, LaplaceGram, Matern32, gaussian, process
from laplex.gram.terms import BaseTerm

D = torch.float64
LEVELS = _core.info()["isa_available"]

Leaf = Callable[[float, float], torch.Tensor]

#: Each pair of alternatives of SHO, underdamped and overdamped, and the other terms.
TERMS: dict[str, Callable[[Leaf], BaseTerm]] = {
    "SHO": lambda leaf: SHO(sigma=leaf(1, 2), w0=leaf(1, 3), Q=leaf(2, 9)),
    "SHO, powers and periods": lambda leaf: SHO(S0=leaf(1, 2), rho=leaf(2, 3), Q=leaf(0.2, 0.4)),
    "SHO, damping times": lambda leaf: SHO(S0=leaf(1, 2), w0=leaf(1, 3), tau=leaf(0.1, 3)),
    "SHO, one number": lambda leaf: SHO(sigma=1.5, rho=leaf(2, 3), tau=0.5),
    "Matern32": lambda leaf: Matern32(leaf(1, 2), leaf(1, 3)),
    "Celerite": lambda leaf: Celerite(leaf(1, 2), leaf(0.1, 0.2), leaf(1, 2), leaf(2, 3)),
}


def draw(
    name: str,
    n: int,
    *,
    batch: tuple[int, ...] = (),
    noise: float = 0.1,
    noise_each: bool = True,
    dtype: torch.dtype = D,
) -> tuple[BaseTerm, list[torch.Tensor]]:
    """A term, and leaves: its parameters, anchors in random order, values and noise."""
    rng = np.random.default_rng(n)
    leaves: list[torch.Tensor] = []

    def leaf(low: float, high: float, shape: tuple[int, ...] = batch, kind: torch.dtype = dtype):  # type: ignore[no-untyped-def]
        leaves.append(torch.tensor(rng.uniform(low, high, shape), dtype=kind, requires_grad=True))
        return leaves[-1]

    term = TERMS[name](leaf)
    leaf(0, n / 10, (*batch, n), D)
    leaf(-2, 2, (*batch, n), D)
    leaf(0.5 * noise, 1.5 * noise, (*batch, n if noise_each else 1), D)
    return term, leaves


def density(term: BaseTerm, leaves: list[torch.Tensor], by_factor: bool = False) -> torch.Tensor:
    anchors, values, noise = leaves[-3:]
    gram = LaplaceGram(anchors, terms=term, noise=noise)
    if by_factor:
        return gaussian._log_prob_by_factor(gram.parameters, values)
    value = gram.log_prob(values)
    assert isinstance(value.grad_fn, process._LogDensity._backward_cls)  # not by the factor
    return value


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("n", [1, 2, 50, 700])
def test_against_the_factor(name: str, n: int) -> None:
    term, leaves = draw(name, n)
    found, expected = density(term, leaves), density(term, leaves, by_factor=True)
    assert close(found, expected, 1e-13)
    gradients = torch.autograd.grad(found, leaves)
    others = torch.autograd.grad(expected, leaves)
    # Derivatives are sums of terms that may cancel.
    size = max(float(each.abs().max()) for each in others)
    for a, b in zip(gradients, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12 * size)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("noise_each", [True, False])
def test_a_batch_is_that_of_its_processes(name: str, noise_each: bool) -> None:
    term, leaves = draw(name, 40, batch=(3, 2), noise_each=noise_each)
    found = density(term, leaves)
    gradients = torch.autograd.grad(found.sum(), leaves)
    for b in ((0, 0), (2, 1)):
        one = [each[b].detach().requires_grad_() for each in leaves]
        names = [key for key, each in vars(term).items() if isinstance(each, torch.Tensor)]
        value = density(term.replaced(**dict(zip(names, one, strict=False))), one)
        torch.testing.assert_close(value, found[b], rtol=1e-14, atol=0)
        for a, g in zip(torch.autograd.grad(value, one), gradients, strict=True):
            torch.testing.assert_close(a, g[b], rtol=1e-12, atol=1e-12)


def test_leading_dimensions_are_broadcast_and_summed() -> None:
    term, leaves = draw("SHO", 30)
    leaves[-3] = leaves[-3].detach().repeat(4, 1)
    found = density(term, leaves)
    assert found.shape == (4,)
    parameters = leaves[:3]
    gradients = torch.autograd.grad(found.sum(), parameters)
    once = torch.autograd.grad(
        density(term, [*parameters, leaves[-3][0], *leaves[-2:]]), parameters
    )
    for a, b in zip(gradients, once, strict=True):
        torch.testing.assert_close(a, 4 * b)


def test_parameters_of_single_precision() -> None:
    term, leaves = draw("Celerite", 30, dtype=torch.float32)
    gradients = torch.autograd.grad(density(term, leaves), leaves)
    others = torch.autograd.grad(density(term, leaves, by_factor=True), leaves)
    for leaf, a, b in zip(leaves, gradients, others, strict=True):
        assert a.dtype is leaf.dtype
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", TERMS)
def test_second_derivatives(name: str) -> None:
    term, leaves = draw(name, 5)
    names = [key for key, each in vars(term).items() if isinstance(each, torch.Tensor)]

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        changed = term.replaced(**dict(zip(names, tensors, strict=False)))
        return density(changed, list(tensors))

    assert torch.autograd.gradcheck(function, tuple(leaves))
    assert torch.autograd.gradgradcheck(function, tuple(leaves))


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1.0, 1e4])
def test_derivatives_keep_their_digits(noise: float) -> None:
    term, leaves = draw("SHO", 400, noise=noise, noise_each=False)
    found = torch.autograd.grad(density(term, leaves), leaves)
    expected = torch.autograd.grad(density(term, leaves, by_factor=True), leaves)
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 1e-9)


def test_gradients_are_scaled_and_may_be_taken_again() -> None:
    term, leaves = draw("Matern32", 50)
    value = density(term, leaves)
    for each in torch.autograd.grad(value, leaves, retain_graph=True):
        each.zero_()  # the caller's own
    twice = torch.autograd.grad(-3.0 * value, leaves)
    for a, b in zip(twice, torch.autograd.grad(density(term, leaves), leaves), strict=True):
        assert torch.equal(a, -3.0 * b)


def test_what_needs_the_factor_is_left_to_it() -> None:
    x, y = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=D), torch.randn(4, dtype=D)
    tied = LaplaceGram(x.clone().requires_grad_(), terms=Matern32(), noise=0.1)
    (by_x,) = torch.autograd.grad(tied.log_prob(y), tied.anchors)
    assert by_x.isfinite().all()
    with pytest.raises(np.linalg.LinAlgError):
        LaplaceGram(x, terms=Matern32()).log_prob(y)
    # Not positive semidefinite by itself
    mixed = LaplaceGram(x, terms=Celerite(1.0, 2.0, 1.0, 3.0), noise=5.0)
    dense = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=D), mixed.to_dense())
    torch.testing.assert_close(mixed.log_prob(y), dense.log_prob(y))


#: Prints a digest of densities and gradients.
DIGEST = """
import hashlib
import torch
from test_oscillator import TERMS, density, draw

digest = hashlib.sha256()
for n in (1, 33, 700):
    for name in TERMS:
        term, leaves = draw(name, n)
        value = density(term, leaves)
        for each in (value, *torch.autograd.grad(value, leaves)):
            digest.update(each.detach().numpy().tobytes())
print(digest.hexdigest())
"""


def test_all_levels_of_vector_instructions_give_the_same_bits() -> None:
    found = set()
    for level in LEVELS:
        path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
        environment = {**os.environ, "LAPLEX_ISA": level, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
