"""The warm start: a layer near a dense one, by least squares on the weight."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from laplex.nn import LaplexHead, LaplexLinear
from laplex.nn.least_squares import LEAST_AMPLITUDE

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")

CLASSES = [LaplexLinear, LaplexHead]


def linear_of(weight, **options):
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, **options)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return linear


def low_rank_error(weight, rank):
    """Relative error of the truncated singular value decomposition: the least of that rank."""
    values = torch.linalg.svdvals(weight)
    return float(torch.linalg.norm(values[rank:]) / torch.linalg.norm(values))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("heads", [1, 3])
def test_it_starts_at_the_truncated_decomposition(cls, heads):
    weight = torch.randn(12, 20, dtype=torch.float64)
    start = cls.from_linear(linear_of(weight), heads=heads, rounds=0)
    least = low_rank_error(weight, 2 * heads)
    # A row of smaller amplitude is given the least one: of 12 rows of a head each may be off by
    # that, in units of the head's two singular values.
    assert least - 1e-9 < start.fit_error < least + LEAST_AMPLITUDE * math.sqrt(12) * heads


@pytest.mark.parametrize("phased", [True, False])
@pytest.mark.parametrize("cls", CLASSES)
def test_rounds_lower_the_error(cls, phased):
    linear = linear_of(torch.randn(12, 20, dtype=torch.float64))
    errors = [
        cls.from_linear(linear, heads=2, phased=phased, rounds=rounds).fit_error
        for rounds in (0, 1, 3)
    ]
    # Ridges of a few epsilons keep the optimum from being exact.
    assert errors[0] > errors[1] * (1 - 1e-9)
    assert errors[1] >= errors[2] * (1 - 1e-9)
    assert errors[1] < 0.95 * errors[0]


def test_it_ends_below_low_rank_of_equal_size():
    # docs/measurements/layers.md has trained weights; white noise of this size leaves more room.
    weight = torch.randn(48, 48)
    layer = LaplexLinear.from_linear(linear_of(weight, bias=False), heads=4)
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    rank = math.ceil(parameters / (48 + 48))
    assert layer.fit_error < 0.95 * low_rank_error(weight, rank)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_matrix_of_rank_two_is_one_head(cls):
    # Rows of amplitude 0.5 to 1 and columns of any: nothing is cut off at the start.
    angle, amplitude = 6 * torch.rand(9).double(), 0.5 + 0.5 * torch.rand(9).double()
    rows = torch.stack([angle.cos(), angle.sin()], 1) * amplitude[:, None]
    weight = torch.linalg.qr(rows).Q @ torch.diag(torch.tensor([2.0, 1.9]).double())
    weight = weight @ torch.randn(2, 7, dtype=torch.float64)
    amplitudes = torch.linalg.norm(torch.linalg.svd(weight).U[:, :2], dim=1)
    assert amplitudes.min() > LEAST_AMPLITUDE * amplitudes.max()
    for rounds in (0, 1):
        # Ridges of eight epsilons of the columns' squares.
        assert cls.from_linear(linear_of(weight), rounds=rounds).fit_error < 1e-10


@pytest.mark.parametrize("cls", CLASSES)
def test_a_matrix_of_the_class_is_found_in_part(cls):
    # The minimum is a local one: docs/measurements/layers.md says how far off it is.
    layer = cls(32, 32, heads=1, bias=False)
    again = cls.from_linear(layer.to_linear())
    assert again.fit_error < 0.75 * low_rank_error(layer.weight.detach(), 3)


@settings(max_examples=15, deadline=None)
@given(
    cls=st.sampled_from(CLASSES),
    n=st.integers(1, 7),
    m=st.integers(1, 7),
    heads=st.integers(1, 3),
    phased=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    exponent=st.sampled_from([-100, 0, 100]),
    seed=st.integers(0, 2**31),
)
def test_any_linear(cls, n, m, heads, phased, bias, dtype, exponent, seed):
    torch.manual_seed(seed)
    weight = torch.randn(n, m).to(dtype) * 2.0**exponent
    linear = linear_of(weight, bias=bias).train(seed % 2 == 0)
    state = torch.random.get_rng_state()
    layer = cls.from_linear(linear, heads=heads, phased=phased, rounds=1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn
    assert isinstance(layer, cls)
    assert (layer.heads, layer.phased, layer.training) == (heads, phased, linear.training)
    assert all(p.isfinite().all() and p.is_leaf for p in layer.parameters())
    assert layer.source_gain.dtype is dtype
    assert (layer.bias is None) == (linear.bias is None)
    if bias:
        assert torch.equal(layer.bias, linear.bias)
    exact = weight.double()
    difference = layer.to_linear().weight.detach().double() - exact
    error = torch.linalg.norm(difference) / torch.linalg.norm(exact)
    # to_linear rounds every entry once more, to the layer's dtype.
    assert float(error) == pytest.approx(layer.fit_error, abs=2 * torch.finfo(dtype).eps)
    assert layer.fit_error < 1.0


def test_units_do_not_matter():
    linear = linear_of(torch.randn(6, 9))
    first = LaplexLinear.from_linear(linear, heads=2, rounds=1)
    with torch.no_grad():
        linear.weight.mul_(2.0**-120)  # squares of entries underflow
    second = LaplexLinear.from_linear(linear, heads=2, rounds=1)
    assert second.fit_error == pytest.approx(first.fit_error, rel=1e-3)


def test_a_weight_of_zeros():
    layer = LaplexLinear.from_linear(linear_of(torch.zeros(4, 3)), heads=2, rounds=1)
    assert layer.fit_error == 0.0
    assert not layer.weight.any()


def test_gains_beyond_half_precision_are_refused():
    linear = nn.Linear(6, 5).half()
    with torch.no_grad():
        linear.weight.fill_(6e4).mul_(torch.eye(5, 6) * 2 - 1)
    with pytest.raises(ValueError, match=r"overflow torch.float16.*pass linear.float\(\)"):
        LaplexHead.from_linear(linear)
    assert LaplexHead.from_linear(linear.float()).fit_error < 1


def test_it_can_be_trained_on():
    layer = LaplexHead.from_linear(linear_of(torch.randn(5, 9)), heads=2, rounds=1)
    torch.testing.assert_close(layer.routing().sum(1), torch.ones(2, 9))
    layer(torch.randn(4, 9)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.targets.grad.any()


def test_in_inference_mode():
    with torch.inference_mode():
        layer = LaplexLinear.from_linear(nn.Linear(4, 3), rounds=1)
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.targets.grad.any()


def test_the_error_goes_along_but_is_no_state():
    layer = LaplexLinear.from_linear(linear_of(torch.randn(5, 9)), rounds=0)
    assert 0 < layer.fit_error < 1
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.fit_error == layer.fit_error
    assert set(layer.state_dict()) == set(LaplexLinear(9, 5).state_dict())
    assert LaplexLinear(9, 5).fit_error is None


def test_progress(capsys):
    pytest.importorskip("rich")
    LaplexLinear.from_linear(nn.Linear(3, 2), rounds=2, progress=True)
    assert "fit" in capsys.readouterr().out


def not_finite():
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight[1, 2] = math.nan
    return linear


@pytest.mark.parametrize(
    ("linear", "options", "error", "message"),
    [
        (lambda: torch.zeros(2, 4), {}, TypeError, r"linear must be a torch\.nn\.Linear, got Ten"),
        (lambda: LaplexLinear(4, 2), {}, TypeError, r"linear must be .* got LaplexLinear"),
        (not_finite, {}, ValueError, r"linear\.weight must be finite"),
        (lambda: nn.Linear(4, 2, device="meta"), {}, ValueError, "linear is on the meta device"),
        (lambda: nn.Linear(4, 2), {"heads": 0}, ValueError, "heads must be at least 1, got 0"),
        (lambda: nn.Linear(4, 2), {"rounds": -1}, ValueError, "rounds must be at least 0, got -1"),
        (lambda: nn.Linear(4, 2), {"rounds": 0.5}, TypeError, "rounds must be an integer"),
        (lambda: nn.Linear(4, 2), {"phased": 1}, TypeError, "phased must be True or False"),
    ],
)
def test_bad_arguments(linear, options, error, message):
    with pytest.raises(error, match=message):
        LaplexLinear.from_linear(linear(), **options)
