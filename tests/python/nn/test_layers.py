"""The layers: values against their dense weight, initial scale and rank, moves, bad input."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from laplex.nn import LaplexHead, LaplexLinear, recorded_product
from laplex.nn.anchors import interlaced_places

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")

LAYERS = [
    pytest.param(cls, heads, phased, id=f"{cls.__name__}-{heads}-{'phased' if phased else 'real'}")
    for cls in (LaplexLinear, LaplexHead)
    for heads in (1, 3)
    for phased in (True, False)
]
GEOMETRY = ("targets", "sources", "log_lengthscale", "target_phase", "source_phase")


def moved(layer):
    """Move the layer away from its regular initial values, as training does."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64).to(parameter))
    return layer


# --- the map --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(17,), (2, 17), (9, 17), (2, 3, 17)])
@pytest.mark.parametrize("in_order", [True, False])
def test_one_node_computes_what_the_operations_do(
    cls, heads, phased, bias, shape, in_order, monkeypatch
):
    layer = moved(cls(17, 11, heads=heads, phased=phased, bias=bias))
    with torch.no_grad():
        for anchors in (layer.targets, layer.sources) if in_order else ():
            anchors.copy_(anchors.sort().values)
    given = [torch.randn(shape, requires_grad=True), *layer.parameters()]
    weight = torch.randn(*shape[:-1], 11)

    def results():
        output = layer(given[0])
        node = type(output.grad_fn).__name__
        return node, [output, *torch.autograd.grad((output * weight).sum(), given)]

    node, one = results()
    monkeypatch.setattr(recorded_product, "applies", lambda *_: False)
    other, many = results()
    assert (node, other != node) == ("RecordedProductBackward", True)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
def test_second_derivatives_through_one_node(cls):
    layer = moved(cls(5, 4, heads=2, dtype=torch.float64))
    given = [torch.randn(3, 5, dtype=torch.float64, requires_grad=True), *layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def output(v, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (v,))

    assert torch.autograd.gradcheck(output, given)
    assert torch.autograd.gradgradcheck(output, given)


def test_a_recorded_backward_pass_leaves_other_paths_to_autograd():
    layer = LaplexLinear(3, 3, dtype=torch.float64)
    loss = layer(2 * layer.sources).square().sum()  # the sources are anchors and make the input
    recorded = torch.autograd.grad(loss, layer.sources, create_graph=True)[0]
    assert torch.allclose(recorded, torch.autograd.grad(loss, layer.sources)[0], rtol=1e-12)


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
@pytest.mark.parametrize("shape", [(17,), (5, 17), (2, 3, 17), (0, 17)])
def test_forward_is_multiplication_by_weight(cls, heads, phased, shape):
    layer = moved(cls(17, 11, heads=heads, phased=phased, dtype=torch.float64))
    v = torch.randn(shape, dtype=torch.float64)
    expected = nn.functional.linear(v, layer.weight, layer.bias)
    torch.testing.assert_close(layer(v), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
def test_gradients_are_those_of_the_dense_weight(cls, heads, phased):
    layer = moved(cls(9, 6, heads=heads, phased=phased, dtype=torch.float64))
    v = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, 6, dtype=torch.float64)
    inputs = [v, *layer.parameters()]
    ours = torch.autograd.grad((layer(v) * g).sum(), inputs)
    dense = torch.autograd.grad(
        (nn.functional.linear(v, layer.weight, layer.bias) * g).sum(), inputs
    )
    names = ["input", *(name for name, _ in layer.named_parameters())]
    for name, a, b in zip(names, ours, dense, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_weight_is_the_documented_formula():
    layer = moved(LaplexLinear(3, 2, heads=2, dtype=torch.float64))
    layer.requires_grad_(False)
    weight = layer.weight
    for i in range(2):
        for j in range(3):
            entry = sum(
                math.exp(-abs(layer.targets[h, i] - layer.sources[h, j]) / layer.lengthscale[h])
                * math.cos(layer.target_phase[h, i] - layer.source_phase[h, j])
                * float(layer.source_gain[h, j])
                for h in range(2)
            )
            assert float(weight[i, j]) == pytest.approx(entry, abs=1e-14)


def test_routing_is_a_softmax_over_classes():
    head = moved(LaplexHead(13, 5, heads=2, phased=False, bias=False, dtype=torch.float64))
    routing = head.routing()
    assert routing.shape == (2, 5, 13)
    torch.testing.assert_close(routing.sum(1), torch.ones(2, 13, dtype=torch.float64))
    weight = (routing * head.source_gain[:, None, :]).sum(0)
    torch.testing.assert_close(head.weight, weight, rtol=1e-12, atol=1e-12)


def test_features_far_outside_keep_their_route():
    head = LaplexHead(6, 3).requires_grad_(False)
    with torch.no_grad():
        head.sources[0, :2] = torch.tensor([1e6, -1e6])
    assert torch.isfinite(head(torch.randn(4, 6))).all()
    kernel = head.routing()[0] * torch.cos(head.target_phase[0, :, None] - head.source_phase[0])
    torch.testing.assert_close(head.weight, kernel * head.source_gain[0], rtol=1e-5, atol=1e-6)
    near = copy.deepcopy(head)
    near.sources[0, :2] = torch.stack([head.targets[0].max() + 1, head.targets[0].min() - 1])
    torch.testing.assert_close(near.routing(), head.routing())


def test_features_in_a_gap_have_no_route_and_no_overflow():
    head = LaplexHead(2, 3, phased=False)
    for place, logit in ((500.0, 0.0), (87.2, 0.0), (30.0, 2e4), (-30.0, 2e4)):
        with torch.no_grad():
            head.targets.copy_(torch.tensor([[-1000.0, 0.0, 1000.0]]))
            head.sources.fill_(place)
            head.log_lengthscale.zero_()
            head.source_gain.fill_(100.0)
        output = head(torch.full((2,), 100.0))
        torch.testing.assert_close(output, torch.tensor([0.0, logit, 0.0]))
        assert head.weight.isfinite().all()
        head.zero_grad()
        output.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_an_empty_complex_batch_goes_backward():
    inputs = torch.zeros(0, 4, dtype=torch.complex64, requires_grad=True)
    LaplexLinear(4, 2)(inputs).abs().sum().backward()
    assert inputs.grad.shape == (0, 4)


@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
def test_learns_a_small_linear_map(cls):
    truth = torch.randn(4, 8) / math.sqrt(8)
    v = torch.randn(64, 8)
    layer = cls(8, 4, heads=2)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(layer(v), v @ truth.T)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3  # of a variance of about 1


# --- initial values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 64), (64, 40), (40, 64), (1, 5), (5, 1), (1, 1)]
)
@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
def test_interlaced_anchors_have_full_rank(cls, inputs, outputs):
    layer = cls(inputs, outputs, heads=2)
    assert layer.rank() == [min(inputs, outputs)] * 2


def test_random_anchors_lose_rank():
    # 0.665 n is the mean for n = m; 20 heads of 200 put it within 0.02 or so.
    ranks = LaplexLinear(200, 200, heads=20, init="random").rank()
    assert 0.62 < sum(ranks) / len(ranks) / 200 < 0.71


def test_rank_is_that_of_the_matrix():
    layer = LaplexLinear(30, 30, phased=False, init="random", dtype=torch.float64)
    with torch.no_grad():  # a short lengthscale keeps the small singular values from looking like 0
        layer.log_lengthscale.fill_(math.log(0.01))
    assert layer.rank() == [int(torch.linalg.matrix_rank(layer.weight, rtol=1e-13))]


@pytest.mark.parametrize("at_ends", [False, True])
@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 9), (9, 1), (5, 5), (10, 256), (10, 11), (10, 10), (7, 3)]
)
def test_interlaced_places(n, m, at_ends):
    targets, sources = interlaced_places(n, m, at_ends)
    assert (len(targets), len(sources)) == (n, m)
    assert sorted([*targets.tolist(), *sources.tolist()]) == list(range(n + m))
    if at_ends and 1 < n <= m:
        assert targets[0] == 0
        assert targets[-1] == n + m - 1


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
@pytest.mark.parametrize("init", ["interlaced", "random"])
def test_outputs_start_with_unit_variance(cls, heads, phased, init):
    # |W|_F^2 / out is the outputs' mean variance for white inputs. One head: exact. Several: cross
    # terms are zero on average only, so average over layers.
    wide = cls(200, 30, heads=heads, phased=phased, init=init, dtype=torch.float64)
    norms = torch.stack([wide.weight.square().sum() / 30])
    if heads == 1:
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-12, atol=0)
    else:
        more = [
            cls(200, 30, heads=heads, phased=phased, init=init).weight.square().sum() / 30
            for _ in range(60)
        ]
        assert 0.9 < sum(value.item() for value in more) / len(more) < 1.1


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
def test_head_norms_are_frobenius_norms(cls, heads, phased):
    layer = moved(cls(20, 7, heads=heads, phased=phased, dtype=torch.float64))
    for head, norm in enumerate(layer.head_norms()):
        alone = copy.deepcopy(layer)
        with torch.no_grad():
            alone.source_gain.mul_(torch.arange(heads)[:, None] == head)
        torch.testing.assert_close(norm, torch.linalg.norm(alone.weight), rtol=1e-12, atol=0)


def test_same_seed_same_layer_and_heads_differ():
    first, second = (
        torch.random.manual_seed(3) and LaplexLinear(20, 10, heads=2) for _ in range(2)
    )
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.targets[0], first.targets[1])
    before = first.targets.clone()
    first.reset_parameters()
    assert not torch.equal(before, first.targets)


def test_parameter_count():
    assert sum(p.numel() for p in LaplexLinear(784, 256, heads=2).parameters()) == 2 * 2865 + 256
    assert sum(p.numel() for p in LaplexHead(64, 10, phased=False, bias=False).parameters()) == 139


# --- a module like any other ----------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "heads", "phased"), LAYERS)
@pytest.mark.parametrize("way", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_compute_the_same(cls, heads, phased, way):
    layer = moved(cls(8, 4, heads=heads, phased=phased))
    v = torch.randn(3, 8)
    assert torch.equal(way(layer)(v), layer(v))


def test_state_dict_round_trip():
    first, second = LaplexLinear(8, 4, heads=2), LaplexLinear(8, 4, heads=2)
    assert set(first.state_dict()) == {*GEOMETRY, "source_gain", "bias"}
    second.load_state_dict(first.state_dict())
    v = torch.randn(3, 8)
    assert torch.equal(first(v), second(v))
    plain = LaplexHead(8, 4, phased=False, bias=False)
    assert set(plain.state_dict()) == {"targets", "sources", "log_lengthscale", "source_gain"}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
def test_half_precision_moves_leave_the_geometry_unrounded(cls, half):
    layer = cls(40, 12, heads=2)
    geometry = {name: getattr(layer, name).detach().clone() for name in GEOMETRY}
    v = torch.randn(5, 40)
    expected = layer(v).detach()
    layer(v).sum().backward()
    layer.to(half)
    for name, value in geometry.items():
        assert torch.equal(getattr(layer, name), value), name
        assert getattr(layer, name).grad.dtype == torch.float32, name
    assert layer.source_gain.dtype == layer.bias.dtype == layer.source_gain.grad.dtype == half
    output = layer(v.to(half))
    assert output.dtype == half
    # Inputs and gains rounded to half: a few of its epsilons of outputs of size about 1.
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=16 * torch.finfo(half).eps)
    layer.to(torch.float32)
    for name, value in geometry.items():
        assert torch.equal(getattr(layer, name), value), name


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_made_in_half_precision(half):
    layer = LaplexLinear(40, 12, dtype=half)
    assert {getattr(layer, name).dtype for name in GEOMETRY} == {torch.float32}
    assert layer.source_gain.dtype == layer.weight.dtype == half
    layer(torch.randn(3, 40, dtype=half)).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_a_half_move_inside_a_network():
    network = nn.Sequential(LaplexLinear(8, 8), nn.ReLU(), LaplexHead(8, 3)).half()
    assert network[0].targets.dtype == network[2].sources.dtype == torch.float32
    assert network(torch.randn(2, 8).half()).dtype == torch.float16


def test_double_and_default_dtype():
    assert {p.dtype for p in LaplexLinear(8, 4).double().parameters()} == {torch.float64}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        layer = LaplexHead(8, 4)
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}


def test_meta_device_then_real():
    layer = LaplexLinear(8, 4, heads=2, device="meta")
    assert layer.targets.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.isfinite(layer(torch.randn(2, 8))).all()


def test_autocast():
    layer = LaplexLinear(40, 12, heads=2)
    v = torch.randn(5, 40)
    expected = layer(v)
    half = v.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(v), expected)
        assert torch.equal(layer(half), layer(half.float()))


def test_compiles_into_one_graph():
    network = nn.Sequential(LaplexLinear(8, 6, heads=2), nn.ReLU(), LaplexHead(6, 3))
    v = torch.randn(4, 8)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v), network(v))
    torch._dynamo.reset()


def test_repr():
    assert repr(LaplexLinear(8, 4, heads=2)) == (
        "LaplexLinear(in_features=8, out_features=4, "
        "heads=2, phased=True, bias=True, init='interlaced')"
    )
    assert "num_classes=4" in repr(LaplexHead(8, 4))


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 4), {}, ValueError, "in_features must be at least 1, got 0"),
        ((4, -1), {}, ValueError, "out_features must be at least 1, got -1"),
        ((4, 4), {"heads": 0}, ValueError, "heads must be at least 1, got 0"),
        ((4.0, 4), {}, TypeError, "in_features must be an integer, got 4.0"),
        (
            (4, 4),
            {"init": "sorted"},
            ValueError,
            r"init must be one of .*'interlaced'.*got 'sorted'",
        ),
        ((4, 4), {"dtype": torch.int64}, ValueError, "float16 or bfloat16, got"),
        ((4, 4), {"dtype": torch.float8_e4m3fn}, ValueError, "dtype must be torch.float64, "),
        ((4, 4), {"dtype": torch.complex64}, ValueError, "float16 or bfloat16, got"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        LaplexLinear(*arguments, **options)


def test_bad_arguments_of_the_head():
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        LaplexHead(4, 0)


@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
@pytest.mark.parametrize("shape", [(), (5,), (8, 5), (0,)])
def test_bad_inputs(cls, shape):
    with pytest.raises(ValueError, match=r"input must have 8 features in its last dimension"):
        cls(8, 4)(torch.zeros(shape))


@pytest.mark.parametrize("name", GEOMETRY)
def test_diverged_parameters_are_named(name):
    layer = LaplexLinear(8, 4)
    with torch.no_grad():
        getattr(layer, name)[0] = math.nan
    with pytest.raises(ValueError, match=name.removeprefix("log_")):
        layer(torch.zeros(2, 8))


# --- the picture ----------------------------------------------------------------------------------


def test_plot_routing():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    head = LaplexHead(6, 3, heads=2)
    ax = head.plot_routing(class_names=["cat", "dog", "eel"], feature_names="abcdef", head=1)
    texts = {text.get_text() for text in ax.texts}
    assert {"cat", "dog", "eel", "a", "f"} <= texts
    places = ax.collections[-1].get_offsets()[:, 0]
    torch.testing.assert_close(torch.as_tensor(places), head.targets[1].detach().double())
    ax.figure.canvas.draw()
    matplotlib.pyplot.close(ax.figure)


def test_plot_routing_bad_input():
    head = LaplexHead(6, 3)
    with pytest.raises(ValueError, match="class_names must have 3 entries, got 1"):
        head.plot_routing(class_names=["cat"])
    with pytest.raises(ValueError, match=r"head must be between 0 and 0, got 1"):
        head.plot_routing(head=1)


def test_plot_routing_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "laplex\[demo\]"'):
        LaplexHead(6, 3).plot_routing()
