"""What the torch operators on a GPU are given: numbers from the host, and half-precision values.

Runs where test_cuda.py runs: on a GPU, or on the kernels' emulation with LAPLEX_EMULATED_CUDA=1.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import laplex
from laplex import _core
from laplex.torch import cuda as cuda_execution

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()
DEVICE = "cpu" if EMULATED else "cuda"
HALF = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)

pytestmark = pytest.mark.skipif(
    not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
    reason="no GPU, or a build without CUDA",
)


# --- numbers from the host ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["matern12", "matern52"])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"lengthscale": -0.5}, "lengthscale must be positive and finite, got -0.5"),
        ({"lengthscale": -1}, "lengthscale must be positive and finite, got -1"),
        ({"lengthscale": 0.0}, "lengthscale must be positive and finite, got 0"),
        ({"lengthscale": np.float32("nan")}, "lengthscale must be positive and finite, got nan"),
        ({"lengthscale": float("inf")}, "lengthscale must be positive and finite, got inf"),
        ({"lengthscale": 1e-310}, "lengthscale must be at least 2.23e-308, .* got 1e-310"),
        ({"frequency": float("nan")}, "frequency must be finite, got nan"),
        ({"frequency": -np.inf}, "frequency must be finite, got -inf"),
    ],
)
def test_numbers_are_checked_before_any_work(numbers, message, kernel, monkeypatch):
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)
    laplex.matvec(values, x, lengthscale=0.5, kernel=kernel)  # the order of the anchors is known
    monkeypatch.setattr(cuda_execution, "plan_of", None)
    with pytest.raises(ValueError, match=message):
        laplex.matvec(values, x, kernel=kernel, **numbers)
    with pytest.raises(ValueError, match=message):
        laplex.LaplaceOperator(x, kernel=kernel, **numbers)
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(lambda v: laplex.matvec(v, x, kernel=kernel, **numbers))(values[None])


def test_a_compiled_function_checks_numbers():
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)

    @torch.compile(backend="aot_eager")
    def product(lengthscale):
        return laplex.matvec(values, x, lengthscale=lengthscale)

    for lengthscale in (0.5, 0.25, 0.125):  # the third is a symbol
        assert torch.equal(product(lengthscale), laplex.matvec(values, x, lengthscale=lengthscale))
    with pytest.raises(ValueError, match=r"lengthscale must be positive and finite, got -0.5"):
        product(-0.5)
    torch._dynamo.reset()


# --- half precision -------------------------------------------------------------------------------


@pytest.fixture
def handed(monkeypatch):
    """What the core is handed: addresses of values and result, and how their entries are stored.

    For gradients, that of the cotangent in place of the result's.
    """
    seen = []
    product, vjp = cuda_execution.DevicePlan.sum, cuda_execution.DevicePlan.vjp

    def spy(self, values, rows, out, *rest):
        seen.append((values.address, out.address, self._storage))
        product(self, values, rows, out, *rest)

    def spy_of_gradients(self, values, grad, rows, *rest):
        seen.append((values.address, grad.address, self._storage))
        vjp(self, values, grad, rows, *rest)

    monkeypatch.setattr(cuda_execution.DevicePlan, "sum", spy)
    monkeypatch.setattr(cuda_execution.DevicePlan, "vjp", spy_of_gradients)
    return seen


@HALF
@pytest.mark.parametrize("kernel", ["matern12", "matern32"])
@pytest.mark.parametrize("form", ["real", "cosine"])
@pytest.mark.parametrize("shape", [(50,), (3, 50), (2, 3, 50)], ids=str)
def test_half_values_are_read_and_written_as_they_are(half, kernel, form, shape, handed):
    x = torch.linspace(0, 1, 50).to(DEVICE)
    values = torch.randn(shape).to(DEVICE).to(half)
    phases = {"target_phase": 3 * x, "source_phase": 2 * x, "real_part": True}
    options = {"lengthscale": 0.3, "kernel": kernel, **(phases if form == "cosine" else {})}
    result = laplex.matvec(values, x, **options)
    storage = {torch.float16: 1, torch.bfloat16: 2}[half]
    assert handed == [(values.data_ptr(), result.data_ptr(), storage)]
    assert result.dtype is half
    assert torch.equal(result, laplex.matvec(values.float(), x, **options).to(half))


@HALF
def test_half_values_of_a_complex_result(half, handed):
    x = torch.linspace(0, 1, 50).to(DEVICE)
    values = torch.randn(3, 50).to(DEVICE).to(half)
    result = laplex.matvec(values, x, lengthscale=0.3, frequency=2.0)
    assert handed[0][:2] == (values.data_ptr(), result.data_ptr())
    assert result.dtype is torch.complex64
    assert torch.equal(result, laplex.matvec(values.float(), x, lengthscale=0.3, frequency=2.0))


def rounded_by_hand(values, *arguments, **options):
    """The same product and derivatives, with the conversions recorded by PyTorch."""
    result = laplex.matvec(values.float(), *arguments, **options)
    return result if result.is_complex() else result.to(values.dtype)


@HALF
@pytest.mark.parametrize(("n", "kernel"), [(50, "matern12"), (6000, "matern12"), (50, "matern32")])
def test_half_cotangents_are_read_as_they_are(half, n, kernel, handed):
    x = torch.rand(n).to(DEVICE).requires_grad_()
    values = torch.randn(3, n).to(DEVICE).to(half).requires_grad_()
    grad = torch.randn(3, n).to(DEVICE).to(half)
    result = laplex.matvec(values, x, lengthscale=0.003, kernel=kernel)
    found = torch.autograd.grad(result, [values, x], grad)
    assert handed[1:] == [(values.data_ptr(), grad.data_ptr(), {torch.float16: 1}.get(half, 2))]
    wanted = rounded_by_hand(values, x, lengthscale=0.003, kernel=kernel)
    assert torch.equal(result, wanted)
    for got, want in zip(found, torch.autograd.grad(wanted, [values, x], grad), strict=True):
        assert torch.equal(got, want)


def inputs_of(half):
    torch.manual_seed(0)
    values = torch.randn(3, 2, 20).to(DEVICE).to(half).requires_grad_()
    x = torch.rand(2, 30).to(DEVICE).requires_grad_()
    y = torch.rand(2, 20).to(DEVICE).requires_grad_()
    ell = torch.tensor(0.2, dtype=torch.float64, device=DEVICE, requires_grad=True)
    return values, x, y, ell


@HALF
@pytest.mark.parametrize("frequency", [0.0, 2.0])
def test_gradients_by_half_values(half, frequency):
    inputs = inputs_of(half)
    firsts, seconds = [], []
    for product in (laplex.matvec, rounded_by_hand):
        values, x, y, ell = inputs
        result = product(values, x, y, lengthscale=ell, frequency=frequency)
        loss = result.abs().float().square().mean()
        fused = torch.autograd.grad(loss, inputs, retain_graph=True)
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        firsts.append([result, *fused, *first])
        total = sum(each.float().square().sum() for each in first)
        seconds.append(torch.autograd.grad(total, inputs))
    for got, want in zip(*firsts, strict=True):
        assert got.dtype is want.dtype
        assert torch.equal(got, want)
    # The two ways to the values, through the result and the first gradients, are rounded before
    # they are added.
    tolerance = 4 * torch.finfo(half).eps
    for got, want in zip(*seconds, strict=True):
        assert got.dtype is want.dtype
        bound = tolerance * want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=bound)


@HALF
def test_transforms_of_half_values(half):
    values, x, y, _ = (each.detach() for each in inputs_of(half))
    tangent = torch.ones_like(values)
    for function in (
        lambda product: torch.func.jvp(
            lambda v, z: product(v, z, y, lengthscale=0.2),
            (values, x),
            (tangent, y.new_ones(2, 30)),
        ),
        lambda product: torch.func.grad(
            lambda v: product(v, x, y, lengthscale=0.2).float().square().sum()
        )(values),
        lambda product: torch.func.vmap(lambda v: product(v, x, y, lengthscale=0.2))(values),
        lambda product: torch.compile(
            lambda v: product(v, x, y, lengthscale=0.2) * 2, backend="aot_eager", fullgraph=True
        )(values),
    ):
        torch.testing.assert_close(
            function(laplex.matvec), function(rounded_by_hand), rtol=0, atol=0
        )
    torch._dynamo.reset()


@HALF
def test_a_layer_in_half_precision_makes_no_wide_copy(half, handed):
    layer = laplex.nn.LaplexLinear(20, 10, heads=2, dtype=half).to(DEVICE)
    handed.clear()
    output = layer(torch.randn(4, 20).to(DEVICE).to(half))
    assert output.dtype is half
    assert [storage for *_, storage in handed] == [{torch.float16: 1, torch.bfloat16: 2}[half]]
    output.float().square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in layer.parameters())


def test_autocast():
    layer = laplex.nn.LaplexLinear(20, 10).to(DEVICE)
    dense = torch.nn.Linear(20, 20).to(DEVICE)
    x = torch.rand(20).to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        hidden = dense(torch.randn(4, 20).to(DEVICE))
        assert hidden.dtype is torch.bfloat16
        assert laplex.matvec(hidden, x).dtype is torch.bfloat16
        # The gains are float32, and so is their product with the input, in which rounding matters.
        assert layer(hidden).dtype is torch.float32
        assert torch.equal(layer(hidden), layer(hidden.float()))
