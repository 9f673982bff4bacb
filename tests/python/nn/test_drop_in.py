"""A layer in the place of an nn.Linear: in every module of torch.nn, under torch.nn.utils."""

import copy
import inspect
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion, parametrizations, parametrize, prune

from drop_in_cases import (
    CLOSE,
    assert_gradients_reach_the_anchors,
    kernel_layers,
    made_dense,
    with_kernels,
)
from laplex.nn import LaplexHead, LaplexLinear, kernel_layer
from laplex.nn.kernel_layer import GEOMETRY

pytestmark = pytest.mark.usefixtures("seeded")

CLASSES = [LaplexLinear, LaplexHead]
DOUBLE = torch.float64


# --- every module of torch.nn that holds a Linear -------------------------------------------------

SIZES = {"dropout": 0.0, "batch_first": True, "dtype": DOUBLE}


def tokens(length=5):
    return torch.randn(2, length, 16, dtype=DOUBLE)


def encoder_layer():
    return nn.TransformerEncoderLayer(16, 4, 24, **SIZES)


def decoder_layer():
    return nn.TransformerDecoderLayer(16, 4, 24, **SIZES)


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5, dtype=DOUBLE)

# name -> (the module, what it is called with)
MODULES = {
    "Sequential": (lambda: nn.Sequential(nn.Linear(16, 4, dtype=DOUBLE)), lambda: (tokens(),)),
    "TransformerEncoderLayer": (encoder_layer, lambda: (tokens(),)),
    "TransformerEncoderLayer, masked": (encoder_layer, lambda: (tokens(), CAUSAL)),
    "TransformerEncoderLayer, padded": (encoder_layer, lambda: (tokens(), None, PADDED)),
    "TransformerEncoderLayer, norm first": (
        lambda: nn.TransformerEncoderLayer(16, 4, 24, norm_first=True, activation="gelu", **SIZES),
        lambda: (tokens(),),
    ),
    "TransformerEncoderLayer, no bias": (
        lambda: nn.TransformerEncoderLayer(16, 4, 24, bias=False, **SIZES),
        lambda: (tokens(),),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False),
        lambda: (tokens(),),
    ),
    "TransformerEncoder, nested tensors": (
        lambda: nn.TransformerEncoder(encoder_layer(), 2),
        lambda: (tokens(), None, PADDED),
    ),
    "TransformerDecoderLayer": (decoder_layer, lambda: (tokens(), tokens(3))),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(decoder_layer(), 2),
        lambda: (tokens(), tokens(3), CAUSAL),
    ),
    "Transformer": (
        lambda: nn.Transformer(16, 4, 1, 1, 24, **SIZES),
        lambda: (tokens(), tokens(3)),
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(16, 4, batch_first=True, dtype=DOUBLE),
        lambda: (tokens(),) * 3,
    ),
    "MultiheadAttention, other keys": (
        lambda: nn.MultiheadAttention(16, 4, kdim=6, vdim=7, batch_first=True, dtype=DOUBLE),
        lambda: (tokens(), tokens()[..., :6], tokens()[..., :7]),
    ),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, cutoffs=[5, 10], dtype=DOUBLE),
        lambda: (torch.randn(20, 16, dtype=DOUBLE), torch.arange(20)),
    ),
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # from torch 2.12 on
    MODULES["LinearCrossEntropyLoss"] = (
        lambda: nn.LinearCrossEntropyLoss(16, 6, dtype=DOUBLE),
        lambda: (torch.randn(7, 16, dtype=DOUBLE), torch.arange(7) % 6),
    )


def test_all_modules_that_hold_a_linear_are_here():
    holders = {"Linear", "NonDynamicallyQuantizableLinear"}
    modules = {
        name: re.sub(r'r?""".*?"""', "", inspect.getsource(cls), flags=re.DOTALL)
        for name, cls in vars(nn).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module)
    }
    before = 0
    while len(holders) > before:  # those that make one, and those that make one of those
        before = len(holders)
        for name, source in modules.items():
            if any(re.search(rf"\b{holder}\(", source) for holder in holders):
                holders.add(name)
    found = {name for name in holders if name in modules and name not in {"Linear", "LazyLinear"}}
    assert {"Transformer", "MultiheadAttention", "AdaptiveLogSoftmaxWithLoss"} <= found
    assert found <= set(MODULES)


def first(output):
    """The tensor, or the first of a tuple of them."""
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", MODULES)
def test_modules_compute_what_they_do_with_the_dense_layers(name, cls):
    build, call = MODULES[name]
    module = with_kernels(build(), cls=cls)
    assert kernel_layers(module)
    dense = made_dense(module)
    arguments = call()
    for training in (True, False):
        module.train(training)
        dense.train(training)
        output = first(module(*arguments))
        torch.testing.assert_close(output, first(dense(*arguments)), **CLOSE)
        module.zero_grad()
        (output * torch.randn_like(output)).sum().backward()
        assert_gradients_reach_the_anchors(module)
        with torch.no_grad():  # the encoder's fast path, in eval mode
            output = first(module(*arguments))
            torch.testing.assert_close(output, first(dense(*arguments)), **CLOSE)


def test_the_encoder_takes_its_fast_path(monkeypatch):
    e = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    e.linear1 = LaplexLinear(32, 64)
    e.linear2 = LaplexLinear(64, 32)
    e.self_attn.out_proj = LaplexLinear(32, 32)
    calls = []
    fast = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(
        torch, "_transformer_encoder_layer_fwd", lambda *args: calls.append(1) or fast(*args)
    )
    x = torch.randn(2, 5, 32)
    slow = e.eval()(x)
    assert not calls  # gradients are wanted
    with torch.no_grad():
        quick = e(x)
    assert calls
    # Float32 outputs of a layer norm, of size about 1, through some hundred roundings.
    torch.testing.assert_close(quick, slow, rtol=0, atol=1e-5)


def test_without_the_fast_path_the_encoder_calls_the_layers(monkeypatch):
    encoder = with_kernels(encoder_layer()).eval()
    encoder.self_attn.out_proj = encoder.self_attn.out_proj.to_linear()
    monkeypatch.setattr(kernel_layer, "MAX_DENSE_ENTRIES", 1)  # so that reading a weight raises
    with torch.no_grad(), pytest.raises(MemoryError, match="dense weight"):
        encoder(tokens())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            assert encoder(tokens()).isfinite().all()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_adaptive_softmax_predicts_the_same():
    build, call = MODULES["AdaptiveLogSoftmaxWithLoss"]
    module = with_kernels(build())
    dense = made_dense(module)
    inputs, _ = call()
    torch.testing.assert_close(module.log_prob(inputs), dense.log_prob(inputs), **CLOSE)


def test_a_custom_encoder_has_to_draw_its_anchors_again():
    # nn.Transformer draws every parameter of two dimensions anew, anchors and phases among them.
    encoder = with_kernels(nn.TransformerEncoder(encoder_layer(), 1, enable_nested_tensor=False))
    before = kernel_layers(encoder)[0].targets.detach().clone()
    model = nn.Transformer(16, 4, custom_encoder=encoder, **SIZES)
    layer = kernel_layers(model)[0]
    assert not torch.equal(layer.targets, before)
    for layer in kernel_layers(model):
        layer.reset_parameters()
        assert layer.rank() == [min(layer.in_features, layer.out_features)] * 2


# --- the weight -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_weight_is_read_like_a_linears(cls):
    layer = cls(9, 6, heads=2)
    linear = nn.Linear(9, 6)
    assert layer.weight.shape == linear.weight.shape
    assert (layer.weight.dtype, layer.weight.device) == (linear.weight.dtype, linear.weight.device)
    assert layer.weight.requires_grad
    assert not layer.requires_grad_(False).weight.requires_grad
    assert cls(9, 6, device="meta").weight.is_meta
    assert (layer.in_features, layer.out_features) == (9, 6)


@pytest.mark.parametrize("phased", [True, False])
@pytest.mark.parametrize("cls", CLASSES)
def test_to_linear_is_the_layer(cls, phased):
    layer = cls(9, 6, heads=3, phased=phased, dtype=DOUBLE).eval()
    state = torch.random.get_rng_state()
    linear = layer.to_linear()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(linear) is nn.Linear
    assert not linear.training
    assert linear.weight.is_leaf
    assert linear.weight.requires_grad
    v = torch.randn(4, 9, dtype=DOUBLE)
    torch.testing.assert_close(linear(v), layer(v), rtol=1e-12, atol=1e-12)
    assert cls(9, 6, bias=False).to_linear().bias is None
    assert cls(9, 6, dtype=torch.bfloat16).to_linear().weight.dtype is torch.bfloat16


@pytest.mark.parametrize("cls", CLASSES)
def test_weights_too_large_to_write_down_are_refused(cls):
    layer = cls(2**15, 2**14, device="meta")
    for read in (lambda: layer.weight, layer.to_linear):
        with pytest.raises(
            MemoryError, match=r"dense weight would have 16384 x 32768 entries.*call"
        ):
            read()


def test_an_error_inside_the_weight_is_not_hidden():
    layer = LaplexLinear(4, 2)
    del layer.targets
    with pytest.raises(RuntimeError, match=r"dense weight cannot be computed: .*'targets'"):
        _ = layer.weight


COMPUTED = r"weight of a Laplex\w+ is computed from its anchors .* layer\.to_linear\(\)"
NO_PARAMETER = r"does not have a parameter, .* with name 'weight'"
# What would replace the weight: by our sentence, or by torch's that comes first.
COMPUTED_WEIGHT = {
    "a parameter": lambda layer: setattr(layer, "weight", nn.Embedding(6, 8).weight),
    "a tensor": lambda layer: setattr(layer, "weight", torch.zeros(6, 8)),
    "register_parameter": lambda layer: layer.register_parameter("weight", None),
    "functional_call": lambda layer: torch.func.functional_call(
        layer, {"weight": torch.zeros(6, 8)}, torch.zeros(8)
    ),
    "l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "random_structured": lambda layer: prune.random_structured(layer, "weight", 0.5, dim=0),
    "global_unstructured": lambda layer: prune.global_unstructured(
        [(layer, "weight")], prune.L1Unstructured, amount=0.5
    ),
    "fuse_linear_bn_eval": lambda layer: fusion.fuse_linear_bn_eval(
        layer.eval(), nn.BatchNorm1d(6).eval()
    ),
}
REFUSED = {
    **{name: (act, AttributeError, COMPUTED) for name, act in COMPUTED_WEIGHT.items()},
    "register_buffer": (
        lambda layer: layer.register_buffer("weight", torch.zeros(6, 8)),
        KeyError,
        "attribute 'weight' already exists",
    ),
    "register_parametrization": (
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
        ValueError,
        NO_PARAMETER,
    ),
    "spectral_norm": (parametrizations.spectral_norm, ValueError, NO_PARAMETER),
    "weight_norm": (parametrizations.weight_norm, ValueError, NO_PARAMETER),
    "orthogonal": (parametrizations.orthogonal, ValueError, NO_PARAMETER),
    # These two older forms look it up among the parameters.
    "old spectral_norm": (nn.utils.spectral_norm, KeyError, "^'weight'$"),
    "old weight_norm": (nn.utils.weight_norm, KeyError, "^'weight'$"),
    "script": (
        torch.jit.script,
        NotImplementedError,
        r"torch\.jit\.script cannot compile a Laplex\w+: .*layer\.to_linear\(\)",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("way", REFUSED)
def test_what_would_replace_the_weight_is_refused(way, cls):
    act, error, message = REFUSED[way]
    layer = cls(8, 6)
    v = torch.randn(3, 8)
    state, output = set(layer.state_dict()), layer(v)
    with pytest.raises(error, match=message):
        act(layer)
    assert set(layer.state_dict()) == state
    torch.testing.assert_close(layer(v), output)


def test_an_embedding_may_not_share_its_weight_but_read_it():
    embedding, head = nn.Embedding(10, 8), LaplexLinear(8, 10, bias=False)
    with pytest.raises(AttributeError, match=COMPUTED):
        head.weight = embedding.weight
    # The other way round is a computation like any other.
    rows = nn.functional.embedding(torch.tensor([1, 2]), head.weight)
    rows.sum().backward()
    assert head.targets.grad.any()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_dense_checkpoint_is_refused_with_the_way_to_convert_it(cls):
    model = nn.Sequential(cls(8, 6))
    dense = nn.Sequential(nn.Linear(8, 6)).state_dict()
    message = rf"(?s)0\.weight is a dense matrix.*{cls.__name__}\.from_linear.* remove the key"
    for strict in (True, False):  # as for a wrong shape
        with pytest.raises(RuntimeError, match=message):
            model.load_state_dict(dense, strict=strict)
    del dense["0.weight"]
    model.load_state_dict(dense, strict=False)


# --- pruning and parametrizing what the weight is made of -----------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_gains_can_be_pruned(cls):
    layer = cls(8, 6, heads=2, dtype=DOUBLE)
    prune.l1_unstructured(layer, "source_gain", amount=0.5)
    v = torch.randn(3, 8, dtype=DOUBLE)
    torch.testing.assert_close(layer(v), layer.to_linear()(v), rtol=1e-12, atol=1e-12)
    layer(v).sum().backward()
    assert int((layer.source_gain_orig.grad != 0).sum()) == 8
    other = cls(8, 6, heads=2, dtype=DOUBLE)
    prune.identity(other, "source_gain")
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(v), layer(v))
    layer.half()
    assert layer(v.half()).dtype is torch.float16
    assert layer.source_gain_orig.dtype is torch.float16
    prune.remove(layer, "source_gain")
    assert int((layer.source_gain != 0).sum()) == 8


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, tensor):
        return self.factor * tensor


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", [*GEOMETRY, "source_gain", "bias"])
def test_every_parameter_can_be_parametrized(cls, name):
    layer = cls(8, 6, heads=2)
    original = getattr(layer, name).detach().clone()
    parametrize.register_parametrization(layer, name, Scaled())
    v = torch.randn(3, 8)
    # Float32 outputs of size about 1: a few epsilons.
    torch.testing.assert_close(layer(v), layer.to_linear()(v), rtol=0, atol=1e-5)
    layer(v).square().sum().backward()
    chain = layer.parametrizations[name]
    assert chain.original.grad.isfinite().all()
    assert chain[0].factor.grad.isfinite()
    state = copy.deepcopy(layer.state_dict())
    layer.half()
    exact = name in GEOMETRY
    assert chain.original.dtype is (torch.float32 if exact else torch.float16)
    assert chain[0].factor.dtype is chain.original.dtype
    if exact:
        assert torch.equal(chain.original, original)
    assert layer(v.half()).dtype is torch.float16
    layer.float().load_state_dict(state)
    parametrize.remove_parametrizations(layer, name)
    torch.testing.assert_close(getattr(layer, name).detach(), 1.5 * original)


@pytest.mark.parametrize("name", ["targets", "target_phase"])
def test_pruned_geometry_stays_in_single_precision(name):
    layer = LaplexLinear(8, 6, heads=2)
    original = getattr(layer, name).detach().clone()
    prune.random_unstructured(layer, name, amount=0.25)
    layer.half()
    assert torch.equal(getattr(layer, f"{name}_orig"), original)
    assert layer(torch.randn(3, 8).half()).dtype is torch.float16


# --- torch.nn.utils and the rest of what torch does with modules ----------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_utilities(cls):
    layer = nn.utils.skip_init(cls, 8, 6, heads=2)
    layer.reset_parameters()
    v = torch.randn(3, 8)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    assert len(vector) == sum(p.numel() for p in layer.parameters())
    other = cls(8, 6, heads=2)
    nn.utils.vector_to_parameters(vector, other.parameters())
    torch.testing.assert_close(other(v), layer(v))
    layer(v).square().sum().backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    norm = nn.utils.get_total_norm([p.grad for p in layer.parameters()])
    torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)
    nn.utils.clip_grad_value_(layer.parameters(), 0.01)
    assert max(float(p.grad.abs().max()) for p in layer.parameters()) <= 0.01
    assert all(p.is_shared() for p in layer.share_memory().parameters())


@pytest.mark.parametrize("cls", CLASSES)
def test_functional_transforms(cls):
    layers = [cls(8, 6, heads=2, dtype=DOUBLE) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    v = torch.randn(4, 8, dtype=DOUBLE)

    def call(parameters, buffers, v):
        return torch.func.functional_call(layers[0], (parameters, buffers), (v,))

    outputs = torch.func.vmap(call, (0, 0, None))(parameters, buffers, v)
    expected = torch.stack([layer(v) for layer in layers])
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    swapped = call(dict(layers[1].named_parameters()), {}, v)
    torch.testing.assert_close(swapped, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", CLASSES)
def test_traces_by_fx(cls):
    model = nn.Sequential(cls(8, 6, heads=2), nn.ReLU(), LaplexLinear(6, 3, phased=False))
    graph = torch.fx.symbolic_trace(model)
    v = torch.randn(4, 8)
    torch.testing.assert_close(graph(v), model(v))
    graph(v).sum().backward()
    assert model[0].targets.grad.isfinite().all()
    with pytest.raises(ValueError, match="input must have 8 features"):
        graph(torch.randn(4, 7))
    again = torch.fx.symbolic_trace(copy.deepcopy(graph))
    torch.testing.assert_close(again(v), model(v))


def test_a_trace_by_jit_needs_frozen_parameters():
    layer = LaplexLinear(8, 6).requires_grad_(False)
    v = torch.randn(4, 8)
    with warnings.catch_warnings():  # torch deprecates torch.jit, and checks read sizes
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(layer, v)
    torch.testing.assert_close(traced(v), layer(v))


def test_replaced_in_a_model_by_from_linear():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    kernels = copy.deepcopy(model)
    for name, child in list(kernels.named_children()):
        if isinstance(child, nn.Linear):
            kernels.set_submodule(name, LaplexLinear.from_linear(child, heads=2, rounds=1))
    v = torch.randn(5, 8, dtype=DOUBLE)
    torch.testing.assert_close(kernels(v), made_dense(kernels)(v), **CLOSE)


@pytest.mark.parametrize("cls", CLASSES)
def test_arguments_have_the_places_that_they_have_in_linear(cls: type) -> None:
    assert list(inspect.signature(cls).parameters)[2:5] == ["bias", "device", "dtype"]
    layer = cls(4, 2, False, "cpu", DOUBLE)
    assert layer.bias is None
    assert layer.source_gain.dtype is DOUBLE


@pytest.mark.parametrize("cls", CLASSES)
def test_a_module_that_reads_the_weight_traces_by_fx(cls: type) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = cls(6, 5, dtype=DOUBLE)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.layer.weight, self.layer.bias)

    model, x = Reads(), torch.randn(3, 6, dtype=DOUBLE)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model.layer(x), **CLOSE)


def test_layers_are_made_of_fake_tensors() -> None:
    with torch._subclasses.FakeTensorMode():
        layer = LaplexLinear(6, 5)
        assert layer(torch.randn(3, 6)).shape == (3, 5)
