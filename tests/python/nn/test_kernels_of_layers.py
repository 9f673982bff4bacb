"""Layers with Matern kernels and with one-sided sums."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from laplex.nn import LaplexHead, LaplexLinear
from laplex.nn.least_squares import LEAST_AMPLITUDE

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


@every_kernel
@every_side
@pytest.mark.parametrize("phased", [True, False])
def test_a_fit_starts_at_the_truncated_decomposition_and_descends(kernel, side, phased):
    dense = torch.nn.Linear(10, 7, dtype=torch.float64)
    weight = dense.weight.detach()
    if not phased:
        weight.abs_()  # so that the first pair of singular vectors has one sign each
    options = {"phased": phased, "kernel": kernel, "side": side}
    start, fitted = (LaplexLinear.from_linear(dense, rounds=k, **options) for k in (0, 1))
    assert repr(start) == repr(LaplexLinear(10, 7, phased=phased, kernel=kernel, side=side))
    values = torch.linalg.svdvals(weight)
    least = float(values[2 if phased else 1 :].norm() / values.norm())
    # Of 7 rows, each may be off by the least amplitude, in units of the two singular values.
    assert least - 1e-9 < start.fit_error < least + LEAST_AMPLITUDE * 7**0.5
    assert fitted.fit_error < start.fit_error
    difference = fitted.to_linear().weight.detach() - weight
    assert float(difference.norm() / weight.norm()) == pytest.approx(fitted.fit_error, rel=1e-12)
    given = torch.randn(3, 10, dtype=torch.float64)
    torch.testing.assert_close(fitted(given), fitted.to_linear()(given))


def test_a_fit_to_the_right_mirrors_that_to_the_left():
    dense = torch.nn.Linear(8, 6, dtype=torch.float64)
    left, right = (
        LaplexLinear.from_linear(dense, kernel="matern32", side=side) for side in ("left", "right")
    )
    assert torch.equal(left.targets, -right.targets)
    assert torch.equal(left.sources, -right.sources)
    assert left.fit_error == pytest.approx(right.fit_error, rel=1e-12)


def test_a_head_has_no_other_kernel():
    dense = torch.nn.Linear(4, 3)
    with pytest.raises(ValueError, match="LaplexHead has the Laplace kernel of both sides"):
        LaplexHead.from_linear(dense, kernel="matern32")
    with pytest.raises(ValueError, match="kernel must be 'matern12'"):
        LaplexLinear.from_linear(dense, kernel="matern")


def saved(state):
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_knows_its_kernel(strict):
    def model(**options):
        return torch.nn.Sequential(torch.nn.Linear(4, 4), LaplexLinear(4, 4, **options))

    smooth, given = model(kernel="matern52", side="left"), torch.randn(3, 4)
    state, expected = saved(smooth.state_dict()), smooth(given)
    assert all(isinstance(each, torch.Tensor) for each in state.values())
    with pytest.raises(RuntimeError, match="the parameters of 1 are those of a layer") as raised:
        model().load_state_dict(state, strict=strict)
    message = str(raised.value)
    assert "with kernel='matern52', but this LaplexLinear has kernel='matern12'" in message
    assert "with side='left', but this LaplexLinear has side='both'" in message
    with pytest.raises(RuntimeError, match="layer with kernel='matern12'"):
        smooth.load_state_dict(saved(model().state_dict()), strict=strict)
    with pytest.raises(RuntimeError, match="the parameters are those of a layer with side='left'"):
        LaplexLinear(4, 4, kernel="matern52").load_state_dict(smooth[1].state_dict(), strict=strict)
    again = model(kernel="matern52", side="left")
    again.load_state_dict(state, strict=strict)
    assert torch.equal(again(given), expected)
    model().load_state_dict(dict(state), strict=strict)  # of an older version, without metadata
    state._metadata["1"] = {"version": 1}
    model().load_state_dict(state, strict=strict)


def test_refuses_other_names():
    with pytest.raises(ValueError, match="kernel must be 'matern12', 'matern32' or 'matern52'"):
        LaplexLinear(3, 3, kernel="nonsense")
    with pytest.raises(ValueError, match="side must be 'both', 'left' or 'right'"):
        LaplexLinear(3, 3, side="up")


def test_a_head_whose_sources_reach_no_target_starts_with_finite_gains():
    layer = LaplexLinear(1, 1, side="right")  # its target is above its source
    assert not layer.weight.any()
    assert layer.source_gain.isfinite().all()
