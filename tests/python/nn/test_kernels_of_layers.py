"""Layers with Matern kernels and with one-sided sums."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from laplex.nn import LaplexLinear

pytestmark = pytest.mark.usefixtures("seeded")

every_kernel = pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
every_side = pytest.mark.parametrize("side", ["both", "left", "right"])


def gradients(layer, output):
    return torch.autograd.grad(output.square().sum(), list(layer.parameters()))


@every_kernel
@every_side
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("phased", [True, False])
def test_a_layer_is_its_dense_weight(kernel, side, heads, phased):
    layer = LaplexLinear(
        7, 5, heads=heads, phased=phased, kernel=kernel, side=side, dtype=torch.float64
    )
    given = torch.randn(4, 7, dtype=torch.float64)
    dense = torch.nn.functional.linear(given, layer.weight, layer.bias)
    torch.testing.assert_close(layer(given), dense)
    for got, want in zip(gradients(layer, layer(given)), gradients(layer, dense), strict=True):
        torch.testing.assert_close(got, want)
    norms = layer.head_norms()
    torch.testing.assert_close(norms.square().mean(), torch.tensor(5 / heads).double())
    if heads == 1:
        torch.testing.assert_close(norms[0], layer.weight.norm())
    torch.testing.assert_close(layer.to_linear()(given), dense)
    again = copy.deepcopy(layer)
    torch.testing.assert_close(again(given), dense, rtol=0, atol=1e-14)
    if kernel != "matern12" or side != "both":
        with pytest.raises(ValueError, match="rank is known"):
            layer.rank()


@every_kernel
@every_side
def test_second_derivatives_and_half_precision(kernel, side):
    layer = LaplexLinear(4, 3, kernel=kernel, side=side, dtype=torch.float64)
    given = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, given)
    half = LaplexLinear(4, 3, kernel=kernel, side=side, dtype=torch.bfloat16)
    assert half(given.bfloat16()).dtype is torch.bfloat16


def test_a_layer_is_described_and_kept_with_its_kernel():
    layer = LaplexLinear(6, 4, kernel="matern32", side="left")
    assert repr(layer).endswith("init='interlaced', kernel='matern32', side='left')")
    assert "kernel" not in repr(LaplexLinear(6, 4))
    given = torch.randn(3, 6)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(given), layer(given))
    torch.testing.assert_close(torch.compile(layer)(given), layer(given))
    traced = torch.fx.symbolic_trace(layer)
    torch.testing.assert_close(traced(given), layer(given))


def test_refuses_other_names():
    with pytest.raises(ValueError, match="kernel must be 'matern12', 'matern32' or 'matern52'"):
        LaplexLinear(3, 3, kernel="nonsense")
    with pytest.raises(ValueError, match="side must be 'both', 'left' or 'right'"):
        LaplexLinear(3, 3, side="up")
