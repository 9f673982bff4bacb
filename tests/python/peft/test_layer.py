"""One adapted layer: its value, its dense update, its gradients, and layers that it refuses."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from exactness_cases import PROMISE
from strategies import KERNELS, quick

pytest.importorskip("peft")
from transformers.pytorch_utils import Conv1D

from laplex.peft import LaplexConfig, LaplexLayer

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")


def moved(layer, amplitude=0.7):
    """Move the adapters away from their initial values, as training does."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "laplex_kernels" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "laplex_amplitude" in name:
                parameter.fill_(amplitude)
    return layer


@torch.no_grad()
def formula(layer, name):
    """The update in float64, from its definition."""
    kernels = layer.laplex_kernels[name]
    total = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for h in range(kernels.heads):
        x, y = kernels.targets[h].double(), kernels.sources[h].double()
        matrix = kernels._shape.matrix(x, y, kernels.log_lengthscale[h].double().exp())
        if kernels.phased:
            theta, phi = kernels.target_phase[h].double(), kernels.source_phase[h].double()
            matrix = matrix * torch.cos(theta[:, None] - phi)
        total += matrix * kernels.source_gain[h].double()
    return layer.scaling[name] * layer.laplex_amplitude[name].double() * total


def bound(layer, x, count=1):
    """The largest error of a product, for |K_ij| <= 1: a promise for each term, and its sum.

    exp of the lengthscale, cos and the factors round a dozen times more, phases of some units by
    their own rounding, and a sum of m terms at most m times.
    """
    dtype = layer.get_base_layer().weight.dtype
    eps = torch.finfo(dtype).eps
    size = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for name, kernels in layer.laplex_kernels.items():
        factor = abs(layer.scaling[name] * float(layer.laplex_amplitude[name].detach()))
        size = size + factor * kernels.source_gain.detach().double().abs().sum(0)
    frozen = layer.get_base_layer().weight.detach().double().abs()
    frozen = frozen.T if isinstance(layer.get_base_layer(), Conv1D) else frozen
    whole = size + frozen.reshape(size.shape)
    # The distance over the lengthscale is at most (2 + 8 x 0.3) / 0.05, and its error as many eps.
    relative = PROMISE[str(dtype).removeprefix("torch.")] + (layer.in_features + 200) * eps
    return count * relative * (1 + x.double().abs() @ whole.T)


@quick
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(KERNELS),
    st.sampled_from(["both", "left", "right"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1.0, -0.5, 3.0]),
    st.integers(0, 2**31),
)
def test_forward_merge_and_dense_update_are_the_formula(
    n, m, heads, phased, kernel, side, dtype, scaling, seed
):
    assume(n * m > 1)  # with one anchor of each, a one-sided kernel may be zero
    torch.manual_seed(seed)
    config = LaplexConfig(heads=heads, phased=phased, kernel=kernel, side=side, scaling=scaling)
    layer = moved(LaplexLayer(nn.Linear(m, n, dtype=dtype), "default", config, heads))
    x = torch.randn(4, m, dtype=dtype)
    delta = formula(layer, "default")
    weight = layer.get_base_layer().weight.detach().clone()
    expected = x.double() @ (weight.double() + delta).T + layer.bias.double()
    limit = bound(layer, x)
    assert ((layer(x) - expected).abs() <= limit).all()
    unit = torch.eye(m, dtype=dtype)
    assert ((layer.get_delta_weight("default") - delta).abs() <= bound(layer, unit).T).all()
    layer.merge()
    assert ((layer(x) - expected).abs() <= 2 * limit).all()
    layer.unmerge()
    size = weight.abs() + delta.abs()  # two roundings of a sum no larger than this
    assert ((layer.weight - weight).abs() <= 4 * torch.finfo(dtype).eps * size).all()


def test_a_new_adapter_changes_nothing_and_its_amplitude_has_a_gradient():
    base = nn.Linear(7, 5)
    layer = LaplexLayer(base, "default", LaplexConfig(), 2)
    x = torch.randn(3, 7)
    assert torch.equal(layer(x), base(x))
    layer(x).square().sum().backward()
    assert layer.laplex_amplitude["default"].grad != 0


@pytest.mark.parametrize("phased", [True, False])
def test_first_and_second_derivatives(phased):
    config = LaplexConfig(phased=phased)
    layer = moved(LaplexLayer(nn.Linear(4, 3, dtype=torch.float64), "default", config, 2))
    names = [name for name, _ in layer.named_parameters() if "laplex" in name]
    given_ = [layer.get_parameter(name).detach().requires_grad_() for name in names]

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *given_))
    assert torch.autograd.gradgradcheck(output, (x, *given_))


@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
def test_a_convolution_of_one_pixel(stride):
    base = nn.Conv2d(6, 4, 1, stride=stride)
    layer = moved(LaplexLayer(base, "default", LaplexConfig(), 2))
    x = torch.randn(2, 6, 5, 7)
    weight = base.weight + formula(layer, "default").float().reshape(base.weight.shape)
    expected = nn.functional.conv2d(x, weight, base.bias, stride=stride)
    limit = bound(layer, torch.full((6,), float(x.abs().max()))).max()
    assert layer.get_delta_weight("default").shape == base.weight.shape
    assert (layer(x) - expected).abs().max() <= 2 * limit
    layer.merge()
    assert (layer(x) - expected).abs().max() <= 3 * limit


def test_the_transposed_layer_of_gpt2():
    layer = moved(LaplexLayer(Conv1D(5, 7), "default", LaplexConfig(), 1))
    x = torch.randn(2, 3, 7)
    expected = layer.base_layer(x) + x @ formula(layer, "default").float().T
    limit = bound(layer, x)
    assert ((layer(x) - expected).abs() <= 2 * limit).all()
    assert layer.get_delta_weight("default").shape == (7, 5)
    layer.merge()
    assert ((layer(x) - expected).abs() <= 3 * limit).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_anchors_and_the_dtype(dtype):
    base = nn.Linear(6, 4, dtype=dtype)
    layer = moved(LaplexLayer(base, "default", LaplexConfig(), 2))
    x = torch.randn(3, 6, dtype=dtype)
    for half in (True, False):  # PEFT makes the gains float32 unless told not to
        if not half:
            layer.laplex_kernels["default"].float()
            layer.laplex_amplitude["default"].data = layer.laplex_amplitude["default"].data.float()
        assert layer.laplex_kernels["default"].targets.dtype == torch.float32
        assert layer(x).dtype == dtype
    before = base.weight.detach().clone()
    layer.merge()
    assert base.weight.dtype == dtype
    layer.unmerge()
    size = before.float().abs() + layer.get_delta_weight("default").abs()
    assert ((base.weight.float() - before.float()).abs() <= 2 * torch.finfo(dtype).eps * size).all()


def test_dropout_is_for_training():
    layer = moved(LaplexLayer(nn.Linear(64, 8), "default", LaplexConfig(dropout=0.5), 1))
    x = torch.ones(2, 64)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_diverged_adapter_is_not_merged():
    layer = moved(LaplexLayer(nn.Linear(4, 3), "default", LaplexConfig(), 1), float("nan"))
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="'default' would have NaN or infinite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.weight, before)
    assert not layer.merged


def test_unmerging_nothing_warns_and_an_unknown_adapter_is_refused():
    layer = LaplexLayer(nn.Linear(4, 3), "default", LaplexConfig(), 1)
    with pytest.warns(UserWarning, match="nothing to unmerge"):
        layer.unmerge()
    with pytest.raises(ValueError, match=r"no adapter 'x'.*\['default'\]"):
        layer.get_delta_weight("x")


@pytest.mark.parametrize(
    ("base", "error", "match"),
    [
        (nn.Embedding(4, 3), TypeError, "cannot adapt a Embedding: target_modules must name"),
        (nn.Conv2d(4, 3, 3), ValueError, "kernels of one pixel.*exclude_modules"),
        (nn.Conv2d(4, 4, 1, groups=2), ValueError, "one group"),
        (nn.Conv2d(4, 4, 1, padding=1), ValueError, "no padding"),
    ],
)
def test_other_layers_are_refused(base, error, match):
    with pytest.raises(error, match=match):
        LaplexLayer(base, "default", LaplexConfig(), 1)


def test_an_update_is_not_merged_into_a_parametrized_weight():
    layer = moved(LaplexLayer(weight_norm(nn.Linear(4, 3)), "default", LaplexConfig(), 1))
    before = layer(torch.eye(4))
    with pytest.raises(ValueError, match="the frozen weight is parametrized"):
        layer.merge()
    assert not layer.merged
    assert torch.equal(layer(torch.eye(4)), before)


@pytest.mark.parametrize("padding", [0, "same", "valid"])
def test_convolutions_whose_padding_adds_nothing_are_adapted(padding):
    layer = LaplexLayer(nn.Conv2d(4, 3, 1, padding=padding), "default", LaplexConfig(), 1)
    assert layer(torch.randn(2, 4, 5, 6)).shape == (2, 3, 5, 6)


def test_a_quantized_weight_is_refused():
    base = nn.Linear(4, 3)
    base.weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"torch\.int8: load the model without quantization"):
        LaplexLayer(base, "default", LaplexConfig(), 1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"heads": 0}, ValueError, "heads must be at least 1"),
        ({"heads": 1.5}, TypeError, "heads must be an integer"),
        ({"heads_pattern": {"q": 0}}, ValueError, r"heads_pattern\['q'\] must be at least 1"),
        ({"phased": 1}, TypeError, "phased must be True or False"),
        ({"kernel": "rbf"}, ValueError, "kernel must be"),
        ({"side": "up"}, ValueError, "side must be"),
        ({"init": "zero"}, ValueError, "init must be one of"),
        ({"bias": "some"}, ValueError, "bias must be one of"),
        ({"dropout": 1.0}, ValueError, "dropout must be below 1"),
        ({"dropout": -0.1}, ValueError, "dropout must be between"),
        ({"scaling": 0}, ValueError, "scaling must be finite and not 0"),
        ({"scaling": float("inf")}, ValueError, "scaling must be finite"),
        ({"scaling": "big"}, TypeError, "scaling must be a number"),
        ({"layers_pattern": "h"}, ValueError, "layers_pattern needs layers_to_transform"),
        ({"heads_pattern": ["q"]}, TypeError, "heads_pattern must be a dict"),
        (
            {"target_modules": "all-linear", "layers_to_transform": 1},
            ValueError,
            "layers_to_transform cannot be used",
        ),
        (
            {"target_modules": ".*query", "layers_to_transform": 1},
            ValueError,
            "layers_to_transform cannot be used",
        ),
    ],
)
def test_bad_configurations(arguments, error, match):
    with pytest.raises(error, match=match):
        LaplexConfig(**arguments)
