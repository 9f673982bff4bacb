"""Factorised covariances on a GPU: what the CPU gives.

Skipped without a device, unless LAPLEX_REQUIRE_GPU=1. With LAPLEX_EMULATED_CUDA=1 and a core built
for it, the same tests run on the kernels' emulation; see emulated_cuda.py.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from laplex import _core
from laplex.gram.cpu import CpuBackend
from laplex.gram.cuda import MOST_COLUMNS, CudaBackend
from laplex.gram.factor import Covariance, Factor, Gram, log_variances, product
from laplex.torch import cuda as cuda_execution

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()
DEVICE = "cpu" if EMULATED else "cuda"

pytestmark = [
    pytest.mark.skipif(
        not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
        reason="no GPU, or a build without CUDA",
    ),
    pytest.mark.usefixtures("one_thread"),  # small matrices; see conftest.py
]

#: Of derivatives and products with noise of 0.1, whose sums the CPU forms in another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def cpu_gram(covariance, **options) -> Gram:
    return Gram(Covariance(*covariance), backend=CpuBackend, **options)


def cuda_gram(covariance, **options) -> Gram:
    return Gram(Covariance(*covariance), backend=CudaBackend, **options)


def draw(batch: int, n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + n + width)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    return (
        5 * random(batch, n),
        random(batch, width) + 0.1,
        random(batch, n, width),
        random(batch, n) + 0.1,
    )


def on_device(tensors):
    return tuple(tensor.to(DEVICE) if isinstance(tensor, Tensor) else tensor for tensor in tensors)


def draw_blocks(batch: int, n: int, blocks: tuple[int, ...]) -> Covariance:
    """Processes of states of several numbers, with weights."""
    parameters = draw(batch, n, sum(blocks))
    return Covariance(*parameters, parameters[1].flip(-1) + 0.2, blocks)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.device.type == DEVICE
    torch.testing.assert_close(got.cpu(), want, **CLOSE)


@pytest.mark.parametrize("ties_backwards", [False, True])
@pytest.mark.parametrize(
    ("batch", "n", "width", "rows"), [(1, 1, 1, 1), (2, 50, 3, 4), (1, 3000, 2, 1), (3, 130, 8, 2)]
)
def test_everything_is_as_on_the_cpu(batch, n, width, rows, ties_backwards):
    parameters = draw(batch, n, width)
    parameters[0][:, : n // 2] = parameters[0][:, : n // 2].mul(4).floor()
    want = cpu_gram(parameters, ties_backwards=ties_backwards)
    got = cuda_gram(on_device(parameters), ties_backwards=ties_backwards)
    values = normal(batch, rows, n)
    assert torch.equal(got.order().cpu(), want.order())
    assert got.has_ties == want.has_ties
    for factor in Factor:
        for scaled in (False, True):
            assert_close(
                got.apply(factor, values.to(DEVICE), scaled=scaled),
                want.apply(factor, values, scaled=scaled),
            )
    assert_close(got.solve(values.to(DEVICE)), want.solve(values))
    assert_close(got.log_prob(values.to(DEVICE)), want.log_prob(values))
    assert_close(got.log_variances(), want.log_variances())
    assert_close(got.logdet(), want.logdet())


@pytest.mark.parametrize("blocks", [(1,), (2,), (2, 1), (1, 2, 2), (3,), (2, 3), (3, 1, 1)])
def test_blocks_are_as_on_the_cpu(blocks):
    covariance = draw_blocks(2, 150, blocks)
    values, a, w = (normal(2, 2, 150, seed=k) for k in range(3))
    want, got = cpu_gram(covariance), cuda_gram(on_device(covariance))
    for factor in Factor:
        assert_close(got.apply(factor, values.to(DEVICE)), want.apply(factor, values))
    assert_close(got.solve(values.to(DEVICE)), want.solve(values))
    assert_close(got.log_prob(values.to(DEVICE)), want.log_prob(values))
    assert_close(got.log_variances(), want.log_variances())
    arguments = (a, values, w[:, 0].contiguous())
    firsts = zip(got.vjp(*on_device(arguments)), want.vjp(*arguments), strict=True)
    along = Covariance(*(torch.cos(each) for each in covariance.tensors), blocks)
    seconds = zip(
        got.vjp_tangent(*on_device(arguments), Covariance(*on_device(along))),
        want.vjp_tangent(*arguments, along),
        strict=True,
    )
    for ours, theirs in (*firsts, *seconds):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-10 * (1 + scale))


@pytest.mark.parametrize(("batch", "n", "width", "rows"), [(2, 50, 3, 4), (1, 1000, 1, 2)])
def test_derivatives_are_as_on_the_cpu(batch, n, width, rows):
    parameters = draw(batch, n, width)
    host, device = cpu_gram(parameters), cuda_gram(on_device(parameters))
    a, b, w = (normal(batch, rows, n, seed=k) for k in (1, 2, 3))
    w = w[:, 0].contiguous()
    for arguments in [(a, b, w), (a, b, None), (None, None, w)]:
        *want, by_weights = host.vjp(*arguments)
        *got, on_gpu_by_weights = device.vjp(*on_device(arguments))
        assert by_weights is None  # there are none
        assert on_gpu_by_weights is None
        for ours, theirs in zip(got, want, strict=True):
            assert_close(ours, theirs)


def test_second_derivatives_are_those_of_the_first():
    batch, n, width, rows = 2, 80, 2, 2
    parameters = draw(batch, n, width)
    a, b, w = (normal(batch, rows, n, seed=k) for k in (1, 2, 3))
    w = w[:, 0].contiguous()
    tangents = tuple(normal(*each.shape, seed=4 + k) for k, each in enumerate(parameters))
    step = 1e-6

    def moved(sign: float):
        return tuple(p + sign * step * t for p, t in zip(parameters, tangents, strict=True))

    gram = cuda_gram(on_device(parameters))
    along = Covariance(*on_device(tangents))
    d_a, d_b, d_w, *d_parameters, _ = gram.vjp_tangent(*on_device((a, b, w)), along)
    above, below = (cuda_gram(on_device(moved(sign))) for sign in (1.0, -1.0))
    ups, downs = (each.vjp(*on_device((a, b, w)))[:4] for each in (above, below))
    for got, up, down in zip(d_parameters, ups, downs, strict=True):
        want = (up - down) / (2 * step)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())

    def slope(f):
        return (f(above) - f(below)) / (2 * step)

    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(d_a, slope(lambda f: f.apply(Factor.LOWER, b.to(DEVICE))), **close)
    torch.testing.assert_close(d_b, slope(lambda f: f.apply(Factor.UPPER, a.to(DEVICE))), **close)
    torch.testing.assert_close(d_w, slope(lambda f: f.log_variances()), **close)


@pytest.mark.parametrize("factor", Factor)
def test_gradcheck_and_gradgradcheck(factor):
    parameters = tuple(each.requires_grad_() for each in on_device(draw(2, 5, 2)))
    values = normal(2, 2, 5).to(DEVICE).requires_grad_()

    def function(values: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        gram, covariance = cuda_gram(parameters), Covariance(*parameters)
        return product(gram, factor, values, covariance), log_variances(gram, covariance)

    assert torch.autograd.gradcheck(function, (values, *parameters))
    assert torch.autograd.gradgradcheck(function, (values, *parameters))


def test_gradcheck_of_blocks():
    covariance = draw_blocks(1, 5, (2, 1))
    leaves = tuple(each.to(DEVICE).requires_grad_() for each in covariance.tensors)
    values = normal(1, 1, 5).to(DEVICE).requires_grad_()

    def function(values: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        parameters = Covariance(*tensors, covariance.blocks)
        gram = cuda_gram(parameters)
        return product(gram, Factor.LOWER, values, parameters), log_variances(gram, parameters)

    assert torch.autograd.gradcheck(function, (values, *leaves))
    assert torch.autograd.gradgradcheck(function, (values, *leaves))


def test_no_points():
    gram = cuda_gram(on_device(draw(2, 0, 1)))
    assert gram.logdet().tolist() == [0.0, 0.0]
    nothing = torch.empty(2, 3, 0, dtype=torch.float64).to(DEVICE)
    assert gram.apply(Factor.LOWER, nothing).shape == (2, 3, 0)
    assert gram.vjp(None, None, None)[1].tolist() == [[0.0], [0.0]]


def test_errors_are_the_cpus():
    anchors, lengthscale, loadings, noise = draw(1, 10, 1)
    anchors[0, 4] = anchors[0, 3]
    singular = (anchors, lengthscale, loadings, torch.zeros_like(noise))
    negative = (anchors, lengthscale, loadings, -noise)
    for parameters, error in [(singular, np.linalg.LinAlgError), (negative, ValueError)]:
        with pytest.raises(error) as want:
            cpu_gram(parameters)
        with pytest.raises(error) as got:
            cuda_gram(on_device(parameters))
        assert str(got.value) == str(want.value)
    with pytest.raises(ValueError, match=f"has 1 to {MOST_COLUMNS} columns, got 9"):
        cuda_gram(on_device(draw(1, 10, 9)))
    with pytest.raises(ValueError, match="these blocks need 3 groups"):
        cuda_gram(on_device(draw_blocks(1, 10, (3, 3, 1))))


def test_another_stream_waits_for_the_factor(monkeypatch):
    gram = cuda_gram(on_device(draw(1, 10, 1)))
    waited = []
    monkeypatch.setattr(cuda_execution, "wait", lambda event, storage: waited.append(storage))
    gram.logdet()
    assert not waited
    monkeypatch.setattr(cuda_execution, "current_stream", lambda device: 0)
    gram.logdet()
    gram.log_variances()
    assert waited == [gram.backend.storage, gram.backend.storage]
