"""The log density of one stationary term in one call, beside that by the factor."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from laplex import _core
from laplex.gram import LaplaceGram, gaussian, process

D = torch.float64
LEVELS = _core.info()["isa_available"]

#: Around the sizes of a chunk, and from which on a line is cut into 8 and into 64 strands.
SIZES = (1, 2, 31, 32, 33, 511, 512, 700, 5000, 2**14, 2**14 + 5000)


def draw(
    n: int,
    frequency: float | None,
    *,
    batch: tuple[int, ...] = (),
    noise: float = 0.1,
    density: float = 30.0,
    noise_each: bool = True,
) -> dict[str, torch.Tensor]:
    """Leaves: anchors in random order, values, and parameters that differ within a batch."""
    rng = np.random.default_rng(n)

    def leaf(numbers: object) -> torch.Tensor:
        return torch.tensor(numbers, dtype=D, requires_grad=True)

    found = {
        "anchors": leaf(rng.uniform(0, n / density, (*batch, n))),
        "values": leaf(rng.standard_normal((*batch, n))),
        "lengthscale": leaf(rng.uniform(0.7, 1.3, batch)),
        "variance": leaf(rng.uniform(1, 2, batch)),
        "noise": leaf(noise * rng.uniform(0.5, 1.5, (*batch, n if noise_each else 1))),
    }
    if frequency is not None:
        found["frequency"] = leaf(np.asarray(rng.uniform(0.9, 1.1, batch)) * frequency)
    return found


def density(leaves: dict[str, torch.Tensor], by_factor: bool = False) -> torch.Tensor:
    values = leaves["values"]
    gram = LaplaceGram(**{name: each for name, each in leaves.items() if name != "values"})
    if by_factor:
        return gaussian._log_prob_by_factor(gram.parameters, values)
    value = gram.log_prob(values)
    if value.requires_grad:
        assert isinstance(value.grad_fn, process._LogDensity._backward_cls)  # not by the factor
    return value


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("frequency", [None, 3.0, 90.0])
@pytest.mark.parametrize("n", SIZES)
def test_against_the_factor(n: int, frequency: float | None) -> None:
    leaves = draw(n, frequency)
    found, expected = density(leaves), density(leaves, by_factor=True)
    assert close(found, expected, 1e-14)
    gradients = torch.autograd.grad(found, list(leaves.values()))
    # The factor's own derivative by the frequency loses digits at n = 10^4.
    for name, a, b in zip(
        leaves,
        gradients,
        torch.autograd.grad(expected, list(leaves.values())),
        strict=True,
    ):
        assert close(a, b, 1e-9 if name == "frequency" else 3e-12), name


@pytest.mark.parametrize("frequency", [None, 3.0])
@pytest.mark.parametrize("noise_each", [True, False])
@pytest.mark.parametrize("n", [40, 700])
def test_a_batch_has_the_bits_of_its_processes(
    n: int, noise_each: bool, frequency: float | None
) -> None:
    leaves = draw(n, frequency, batch=(3, 4), noise_each=noise_each)
    found = density(leaves)
    gradients = torch.autograd.grad(found.sum(), list(leaves.values()))
    for b in ((0, 0), (1, 3), (2, 1)):
        one = {k: each[b].detach().requires_grad_() for k, each in leaves.items()}
        value = density(one)
        assert torch.equal(value, found[b])
        for a, g in zip(torch.autograd.grad(value, list(one.values())), gradients, strict=True):
            assert torch.equal(a, g[b])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("noise", [1e-10, 1e-4, 1.0, 1e4])
def test_the_derivative_by_the_variance_keeps_its_digits(noise: float, scale: float) -> None:
    leaves = draw(400, None, noise=noise, density=1.0)
    leaves["values"] = (scale * leaves["values"]).detach().requires_grad_()
    names = ("variance", "lengthscale", "noise")
    wanted = [leaves[name] for name in names]
    found = torch.autograd.grad(density(leaves), wanted)
    expected = torch.autograd.grad(density(leaves, by_factor=True), wanted)
    for name, a, b in zip(names, found, expected, strict=True):
        assert close(a, b, 1e-11), name


def test_second_derivatives() -> None:
    leaves = draw(6, 2.0)
    names = list(leaves)

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return density(dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))
    assert torch.autograd.gradgradcheck(function, tuple(leaves.values()))


def test_gradients_are_scaled_and_may_be_taken_again() -> None:
    leaves = draw(50, 2.0)
    inputs = list(leaves.values())
    value = density(leaves)
    once = torch.autograd.grad(value, inputs, retain_graph=True)
    for each in once:
        each.zero_()  # the caller's own
    twice = torch.autograd.grad(-3.0 * value, inputs)
    for a, b in zip(twice, torch.autograd.grad(density(leaves), inputs), strict=True):
        assert torch.equal(a, -3.0 * b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, inputs)


def test_numbers_and_single_precision() -> None:
    x, y = torch.rand(60), torch.randn(60)
    found = LaplaceGram(x, lengthscale=0.5, variance=2.0, frequency=3.0, noise=0.1).log_prob(y)
    assert found.dtype is torch.float32
    double = LaplaceGram(x.double(), lengthscale=0.5, variance=2.0, frequency=3.0, noise=0.1)
    assert torch.equal(found, double.log_prob(y.double()).float())


def test_what_needs_the_factor_is_left_to_it() -> None:
    x, y = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=D), torch.randn(4, dtype=D)
    tied = LaplaceGram(x.clone().requires_grad_(), noise=0.1)
    (by_x,) = torch.autograd.grad(tied.log_prob(y), tied.anchors)
    assert by_x.isfinite().all()
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        LaplaceGram(x).log_prob(y)
    far = LaplaceGram(torch.tensor([-1e308, 0.0, 1e308], dtype=D), noise=0.1)
    independent = torch.distributions.Normal(0.0, torch.tensor(1.1, dtype=D).sqrt())
    torch.testing.assert_close(far.log_prob(y[:3]), independent.log_prob(y[:3]).sum())


@pytest.mark.parametrize("frequency", [None, 3.0])
def test_the_number_of_threads_changes_no_bit(frequency: float | None) -> None:
    leaves = draw(200_000, frequency)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            value = density(leaves)
            found.append((value, *torch.autograd.grad(value, list(leaves.values()))))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


#: Prints a digest of densities and gradients.
DIGEST = """
import hashlib
import torch
from test_process import density, draw

digest = hashlib.sha256()
for n in (1, 33, 700, 20000):
    for frequency in (None, 3.0, 2000.0):
        leaves = draw(n, frequency)
        value = density(leaves)
        for each in (value, *torch.autograd.grad(value, list(leaves.values()))):
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
