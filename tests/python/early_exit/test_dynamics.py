"""Looking inside networks with exits: closed forms, definitions, and models left as they were."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynamics_cases import labels, normal
from exits_cases import MODELS, images
from laplex.early_exit import MultiExitModel
from laplex.early_exit.dynamics import (
    activation_rank,
    analyze,
    filter_directions,
    gradient_share,
    loss_landscape,
    mode_connectivity,
    mutual_information,
)
from laplex.early_exit.dynamics.restoring import unchanged


def image_batches(count=12, size=6):
    x, y = images(count), labels(count, 10)
    return list(zip(x.split(size), y.split(size), strict=True))


def with_weights(model, seed, step=10):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + step * number))
    return model


def linear_net(seed=0):
    """Two exits, no nonlinearity: h = A x, exits H h and B h; all in float64."""
    backbone = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
    return with_weights(MultiExitModel(backbone, {"0": nn.Linear(4, 3, bias=False)}).double(), seed)


def normed_net(seed=0):
    """BatchNorm at the start, in the middle and in the exit; float64."""
    backbone = nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    )
    head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    return with_weights(MultiExitModel(backbone, {"3": head}).double(), seed)


def direct_losses(model, x, y):
    with torch.no_grad():
        return [float(nn.functional.cross_entropy(logits, y)) for logits in model(x)]


# --- the model is as it was -----------------------------------------------------------------------


class Snapshot:
    """Everything that must not change, to the bit and to the object."""

    def __init__(self, model):
        self.model = model
        self.tensors = dict(self._slots())
        self.bits = {name: self._bits(one) for name, one in self.tensors.items()}
        self.gradients = {name: one.grad for name, one in model.named_parameters()}
        self.gradient_bits = {name: self._bits(one) for name, one in self.gradients.items()}
        self.frozen = {name: one.requires_grad for name, one in model.named_parameters()}
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.momenta = [getattr(module, "momentum", None) for module in model.modules()]
        self.hooks = [len(module._forward_hooks) for module in model.modules()]
        self.random = torch.get_rng_state().clone()

    def _slots(self):
        for name, module in self.model.named_modules():
            for table in (module._parameters, module._buffers):
                yield from ((f"{name}/{key}", one) for key, one in table.items())

    @staticmethod
    def _bits(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    def check(self):
        now = Snapshot(self.model)
        for name in ("bits", "gradient_bits", "frozen", "modes", "momenta", "hooks"):
            assert getattr(now, name) == getattr(self, name), name
        assert now.tensors.keys() == self.tensors.keys()
        assert all(now.tensors[name] is one for name, one in self.tensors.items())
        assert all(now.gradients[name] is one for name, one in self.gradients.items())
        assert torch.equal(now.random, self.random)


def in_use(model):
    """A model amid training: modes of all kinds, gradients, frozen parameters."""
    model.train()
    for number, module in enumerate(model.modules()):
        module.training = number % 3 > 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 4 > 0)
        parameter.grad = None if number % 3 else torch.full_like(parameter, float(number))
    return model


def test_unchanged_puts_everything_back():
    model = in_use(MODELS["resnet"]())
    before = Snapshot(model)
    stem = model.backbone.stem

    def mayhem():
        model.train()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            with torch.no_grad():
                parameter.mul_(2)
        sum(logits.sum() for logits in model(images(3))).backward()
        stem[0].weight.data.fill_(math.nan)
        stem[0].weight = nn.Parameter(torch.zeros(1))
        stem[1].running_mean = torch.ones(4)
        stem.register_buffer("new", torch.ones(1))
        torch.manual_seed(5)
        raise KeyError

    with pytest.raises(KeyError), unchanged(model):
        mayhem()
    before.check()


def test_unchanged_does_not_write_where_nothing_was_written():
    model = linear_net()
    x = normal(2, 5)
    loss = model(x)[1].sum()
    with unchanged(model):
        model(x)
    loss.backward()  # fails if a parameter of the graph had been written to
    assert model.backbone[0].weight.grad.abs().sum() > 0


MEASUREMENTS = {
    "gradient share": gradient_share,
    "gradient share, training": lambda model, data: gradient_share(model, data, training=True),
    "rank": activation_rank,
    "connectivity": lambda model, data: mode_connectivity(model, model, data, points=2),
    "information": lambda model, data: mutual_information(model, data, dims=1),
    "landscape": lambda model, data: loss_landscape(model, data, points=(2, 2)),
    "all": lambda model, data: analyze(
        model, data, other=model.state_dict(), options={"loss_landscape": {"points": (2, 2)}}
    ),
}


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_no_measurement_changes_a_model(name, measurement):
    model = in_use(MODELS[name]())
    before = Snapshot(model)
    shuffled = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images(12), labels(12, 10)), batch_size=6, shuffle=True
    )
    MEASUREMENTS[measurement](model, shuffled)
    before.check()


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_no_measurement_that_fails_changes_a_model(measurement):
    model = in_use(MODELS["resnet"]())
    before = Snapshot(model)
    x, y = images(12), labels(12, 10)

    def breaks():
        yield x[:6], y[:6]
        raise KeyError("no more")

    class Breaks:
        def __iter__(self):
            return breaks()

    with pytest.raises(KeyError, match="no more"):
        MEASUREMENTS[measurement](model, Breaks())
    before.check()


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_a_model_in_half_precision(measurement):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.ReLU(), nn.Linear(6, 10))
    model = MultiExitModel(backbone, {"2": nn.Linear(6, 10)}).bfloat16()
    MEASUREMENTS[measurement](model, [(images(8).bfloat16(), labels(8, 10))])


# --- gradient share -------------------------------------------------------------------------------


def gradients_by_hand(model, x, y):
    """Of the mean cross-entropy of both exits, with respect to A and B."""
    (a, b), h = (layer.weight.detach() for layer in model.backbone), model.heads[0].weight.detach()
    hidden = x @ a.T
    onehot = nn.functional.one_hot(y, 3).double()
    errors = [(torch.softmax(hidden @ w.T, 1) - onehot) / len(x) for w in (h, b)]
    return [
        [(error @ w).T @ x, error.T @ hidden if w is b else torch.zeros_like(b)]
        for error, w in zip(errors, (h, b), strict=True)
    ]


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_share_by_hand(power):
    model, x, y = linear_net(), normal(7, 5), labels(7, 3)
    norms = np.array(
        [[float(one.norm()) for one in pull] for pull in gradients_by_hand(model, x, y)]
    )
    found = gradient_share(model, [(x, y)], squared=power == 2)
    assert found.blocks == ("0", "1")
    assert found.exit_names == ("0", "output")
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    np.testing.assert_allclose(found.shares, norms**power / (norms**power).sum(0), rtol=1e-12)
    assert found.shares[:, 1].tolist() == [0, 1]
    assert 0 < found.shares[0, 0] < 1


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_share_averages_norms_of_batches(power):
    model, x, y = linear_net(), normal(7, 5), labels(7, 3)
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]
    norms = [
        np.array([[float(one.norm()) for one in pull] for pull in gradients_by_hand(model, *part)])
        for part in parts
    ]
    expected = (5 * norms[0] ** power + 2 * norms[1] ** power) / 7
    found = gradient_share(model, parts, squared=power == 2, average="norms")
    np.testing.assert_allclose(found.norms, expected ** (1 / power), rtol=1e-12)
    np.testing.assert_allclose(found.shares, expected / expected.sum(0), rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("squared", [False, True])
def test_shares_sum_to_one_and_do_not_depend_on_batches(name, squared):
    model, x, y = MODELS[name]().double(), images(9).double(), labels(9, 10)
    found = gradient_share(model, [(x, y)], squared=squared)
    np.testing.assert_allclose(found.shares.sum(0), 1, rtol=1e-12)
    assert (found.shares[-1] > 0).all()  # the last exit reaches every block
    behind = found.blocks.index(model.exit_names[0]) + 1
    assert (found.shares[0, :behind] > 0).all()
    assert (found.shares[0, behind:] == 0).all()
    split = gradient_share(model, [(x[:2], y[:2]), (x[2:], y[2:])], squared=squared)
    np.testing.assert_allclose(split.shares, found.shares, atol=1e-9)


def test_norms_and_embeddings_do_not_count_and_frozen_parameters_do():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.mixed = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), RMSNormOfSomeone())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.mixed(self.embed(x).mean(1)))

    class RMSNormOfSomeone(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = SomeonesRMSNorm()

        def forward(self, x):
            return self.norm(x)

    class SomeonesRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.scale

    model = MultiExitModel(Tokens(), {"mixed": nn.Linear(4, 3)})
    x, y = labels(12, 7).reshape(6, 2), labels(6, 3)
    found = gradient_share(model, [(x, y)])
    assert found.blocks == ("mixed", "head")
    linear = model.backbone.mixed[0]
    loss = nn.functional.cross_entropy(model(x)[0], y)
    loss.backward()
    expected = math.hypot(float(linear.weight.grad.norm()), float(linear.bias.grad.norm()))
    assert found.norms[0, 0] == pytest.approx(expected, rel=1e-5)
    linear.requires_grad_(False)
    np.testing.assert_array_equal(gradient_share(model, [(x, y)]).norms, found.norms)
    with pytest.raises(ValueError, match="'embed' has no parameters other than"):
        gradient_share(model, [(x, y)], blocks=["embed", "head"])


def test_a_block_without_gradient_has_nan():
    model, x, y = linear_net(), normal(4, 5), labels(4, 3)
    found = gradient_share(model, [(x, y)], loss=lambda logits, y: 0 * logits.sum())
    assert np.isnan(found.shares).all()
    assert (found.norms == 0).all()
    assert found.to_dict()["shares"] == [[None, None], [None, None]]
    assert "-" in found.table().splitlines()[-1]
    found.plot()


def test_named_blocks_the_loss_and_the_number_of_batches():
    model, x, y = linear_net(), normal(6, 5), labels(6, 3)
    found = gradient_share(
        model,
        iter([(x, y), (100 * x, y), None]),
        blocks={"first": "0"},
        loss=lambda logits, y: logits[:, 0].mean(),
        batches=1,
    )
    weights = (model.heads[0].weight, model.backbone[1].weight)
    # d mean(w_0 . A x) / dA = w_0 outer mean(x)
    expected = [float(w[0].detach().norm() * x.mean(0).norm()) for w in weights]
    assert (found.blocks, found.samples) == (("first",), 6)
    np.testing.assert_allclose(found.norms[:, 0], expected, rtol=1e-12)


def test_gradient_share_in_training_mode_uses_the_batch_and_in_evaluation_does_not():
    model, x, y = normed_net(), normal(6, 5), labels(6, 3)
    for training in (True, False):
        model.train(training)
        with unchanged(model):
            losses = [nn.functional.cross_entropy(logits, y) for logits in model(x)]
            weights = [model.backbone[1].weight, model.backbone[1].bias]
            expected = [
                math.sqrt(sum(float(g.square().sum()) for g in gradient))
                for gradient in (
                    torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses
                )
            ]
        model.train(not training)
        found = gradient_share(model, [(x, y)], training=training)
        np.testing.assert_allclose(found.norms[:, 0], expected, rtol=1e-10)


# --- rank -----------------------------------------------------------------------------------------


def passing(shape, exit_at=nn.Identity):
    """A backbone whose layer "0" puts out what it is given."""
    tail = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 2))
    head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 2))
    return MultiExitModel(nn.Sequential(exit_at(), tail), {"0": head}).double()


def with_spectrum(rows, columns, spectrum, seed=0, *, centred=True):
    """A matrix [rows, columns] with these singular values, with columns of mean 0 if `centred`."""
    left = normal(rows, len(spectrum), seed=seed)
    left = left - left.mean(0) if centred else left
    left, right = torch.linalg.qr(left)[0], torch.linalg.qr(normal(columns, len(spectrum)))[0]
    return left * torch.tensor(spectrum, dtype=torch.float64) @ right.T


def rank_of(values, **options):
    model = passing(values.shape[1:])
    data = [(values, torch.zeros(len(values), dtype=torch.int64))]
    found = activation_rank(model, data, layers=["0"], **options)
    return int(found.ranks[0]), found


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_of_low_rank_activations_is_exact(rank):
    values = with_spectrum(40, 8, [1.0] * rank)
    assert rank_of(values)[0] == rank
    # In float32, rounding makes every other singular value some 1e-8: not above tol.
    model = passing((8,)).float()
    data = [(values.float(), labels(40, 2))]
    assert activation_rank(model, data, layers=["0"], tol=1e-6).ranks.tolist() == [rank]


def test_rank_counts_singular_values_above_tol_of_the_first():
    values = with_spectrum(30, 6, [5.0, 1.0, 0.051, 0.049, 0.0051])
    assert [rank_of(values, tol=tol)[0] for tol in (0.3, 1e-2, 1e-3, 1e-4)] == [1, 3, 5, 5]
    found = rank_of(values)[1]
    expected = [5.0, 1.0, 0.051, 0.049, 0.0051, 0]
    np.testing.assert_allclose(found.singular_values[0], expected, atol=1e-12)
    assert found.relative.tolist() == [5 / 6]
    assert (found.rows[0], found.features[0], found.samples) == (30, 6, 30)


def test_centring_takes_one_direction_off():
    values = with_spectrum(30, 6, [1.0, 1.0]) + 3.0
    assert rank_of(values)[0] == 2
    assert rank_of(values, center=False)[0] == 3


def test_what_does_not_vary_has_rank_zero():
    assert rank_of(torch.full((20, 4), 0.1, dtype=torch.float64))[0] == 0
    found = rank_of(torch.zeros(20, 4, dtype=torch.float64), center=False)[1]
    assert found.ranks.tolist() == [0]
    found.plot()


def test_what_varies_by_rounding_alone_has_rank_zero():
    """Equal rows in several batches, whose products are summed in several orders."""

    class InAnyOrder(nn.Module):
        """Sums 64 parts of 16 numbers: the orders of a matrix product differ by machine."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            order = torch.randperm(64, generator=torch.Generator().manual_seed(self.calls))
            parts = x.unflatten(1, (64, 16))
            return sum(parts[:, i] for i in order.tolist())

    model = MultiExitModel(nn.Sequential(InAnyOrder(), nn.Linear(16, 2)), {"0": nn.Linear(16, 2)})
    row = normal(1, 1024, seed=1).float()
    data = [(row.repeat(count, 1), labels(count, 2)) for count in (1, 2, 7, 33, 100)]
    found = activation_rank(model, data, layers=["0"])
    assert found.singular_values[0][0] > 0  # or there would be nothing to see through
    assert found.ranks.tolist() == [0]


def maps():
    """Maps [16, 3, 2, 2] whose pooled, flattened and per-position ranks are 1, 2 and 3.

    A direction that all positions share in their mean, one that cancels in it, and a constant
    pattern over positions that only rows of positions see.
    """
    first, second = with_spectrum(16, 2, [4.0, 4.0]).T
    channel = torch.eye(3, dtype=torch.float64)
    signs = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64)
    values = (
        first[:, None, None] * channel[0][:, None] * torch.ones(4, dtype=torch.float64)
        + second[:, None, None] * channel[1][:, None] * signs
        + channel[2][:, None] * signs
    )
    return values.reshape(16, 3, 2, 2)


@pytest.mark.parametrize(
    ("spatial", "rank", "rows", "features"),
    [("pool", 1, 16, 3), ("flatten", 2, 16, 12), ("positions", 3, 64, 3)],
)
def test_rank_of_maps(spatial, rank, rows, features):
    found = rank_of(maps(), spatial=spatial)[1]
    assert (found.ranks[0], found.rows[0], found.features[0]) == (rank, rows, features)
    # Channels last, as tokens have them; and named where they are.
    last = maps().movedim(1, -1)
    assert rank_of(last.flatten(1, 2), spatial=spatial)[0] == rank
    assert rank_of(last, spatial=spatial, channel_axis=3)[0] == rank


def test_positions_are_drawn_by_the_seed_without_replacement():
    values = normal(10, 1, 3, 5)
    found = rank_of(values, spatial="positions", positions=4, center=False)[1]
    assert found.rows.tolist() == [40]
    again = rank_of(values, spatial="positions", positions=4, center=False)[1]
    other = rank_of(values, spatial="positions", positions=4, center=False, seed=1)[1]
    every = rank_of(values, spatial="positions", positions=15, center=False)[1]
    size = [float(one.singular_values[0][0]) for one in (found, again, other, every)]
    assert size[0] == size[1]
    assert size[0] != size[2]
    assert size[3] == pytest.approx(float(values.norm()))  # of one channel: the norm
    almost = rank_of(values, spatial="positions", positions=14, center=False)[1]
    left_out = size[3] ** 2 - float(almost.singular_values[0][0]) ** 2
    assert 0 < left_out <= float(values.flatten(1).square().amax(1).sum())


def test_layers_by_default_are_children_that_run_once():
    found = activation_rank(MODELS["msdnet"](), image_batches())
    assert found.layers == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")
    found = activation_rank(MODELS["vit"](), image_batches(), layers={"mine": "blocks.1"})
    assert found.layers == ("mine",)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.act(self.act(self.first(x))))

    model = MultiExitModel(Twice(), {"first": nn.Linear(4, 2)})
    data = [(torch.randn(6, 4), labels(6, 2))]
    assert activation_rank(model, data).layers == ("first", "last")
    with pytest.raises(ValueError, match="'act' ran 2 times in 1 forwards"):
        activation_rank(model, data, layers=["act"])


def test_only_the_first_samples_are_used():
    values = torch.cat((with_spectrum(20, 6, [1.0, 1.0]), normal(20, 6)))
    data = list(zip(values.split(8), torch.zeros(40, dtype=torch.int64).split(8), strict=True))
    found = activation_rank(passing((6,)), data, layers=["0"], max_samples=20)
    assert (found.samples, found.ranks.tolist()) == (20, [2])


# --- straight lines -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_no_barrier_to_itself(name):
    model = MODELS[name]()
    found = mode_connectivity(model, model, image_batches(), points=4)
    assert (found.barriers == 0).all()
    assert (found.losses == found.losses[:, :1]).all()


def softmax_regression(seed):
    model = MultiExitModel(nn.Sequential(nn.Identity(), nn.Linear(4, 3)), {"0": nn.Linear(4, 3)})
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(3 * normal(*parameter.shape, seed=100 * seed + number))
    return model.double()


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_convex_losses_have_no_barrier(seed):
    a, b = softmax_regression(2 * seed), softmax_regression(2 * seed + 1)
    found = mode_connectivity(a, b, [(normal(30, 4, seed=seed), labels(30, 3, seed=seed))])
    assert found.statistics == "none"
    assert (found.barriers == 0).all()
    assert (found.excess[:, 1:-1] < 0).all()


def test_permuted_hidden_units_are_a_barrier_that_is_known():
    """Units relu(2x), relu(-2x) vote for classes 0, 1; the copy has them the other way round.

    Half way all weights of the first layer are 0, and so are the logits: log 2.
    """

    def net(sign):
        first, last = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
        head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            first.weight.copy_(torch.tensor([[2.0], [-2.0]]) * sign)
            last.weight.copy_(torch.eye(2) if sign > 0 else torch.eye(2).flip(0))
            head.weight.copy_(last.weight)
        return MultiExitModel(nn.Sequential(first, nn.ReLU(), last), {"1": head}).double()

    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    found = mode_connectivity(net(1), net(-1), [(x, torch.tensor([0, 1]))], points=5)
    end = math.log1p(math.exp(-2))
    np.testing.assert_allclose(found.losses[:, [0, 2, 4]], [[end, math.log(2), end]] * 2)
    np.testing.assert_allclose(found.barriers, math.log(2) - end)
    np.testing.assert_allclose(found.accuracies[:, [0, 2, 4]], [[1, 0.5, 1]] * 2)
    # At a quarter: hidden (1, 0) or (0, 1), last layer 3/4 I + 1/4 of the swap.
    quarter = math.log1p(math.exp(-0.5))
    np.testing.assert_allclose(found.losses[:, [1, 3]], [[quarter, quarter]] * 2)


def test_statistics_are_those_of_the_points_own_activations():
    a, b = normed_net(0), normed_net(1)
    train = [(normal(8, 5, seed=s), labels(8, 3, seed=s)) for s in (1, 2, 3)]
    test = (2 * normal(20, 5, seed=4), labels(20, 3, seed=4))
    found = mode_connectivity(a, b, [test], points=3, train_loader=train)
    assert found.statistics == "recomputed"

    middle = normed_net()
    with torch.no_grad():
        for mine, *ends in zip(*(one.parameters() for one in (middle, a, b)), strict=True):
            mine.copy_(sum(ends) / 2)
    # From the definition: means over batches of each batch's mean and unbiased variance.
    collected = {}

    def note(name):
        def hook(module, inputs):
            collected.setdefault(name, []).append(inputs[0].detach())

        return hook

    layers = [(n, m) for n, m in middle.named_modules() if isinstance(m, nn.BatchNorm1d)]
    handles = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    middle.train()
    for x, _ in train:
        middle(x)
    for handle in handles:
        handle.remove()
    for name, module in layers:
        module.running_mean = torch.stack([one.mean(0) for one in collected[name]]).mean(0)
        module.running_var = torch.stack([one.var(0) for one in collected[name]]).mean(0)
    expected = direct_losses(middle.eval(), *test)
    np.testing.assert_allclose(found.losses[:, 1], expected, rtol=1e-10)

    torch.optim.swa_utils.update_bn(train, a)
    np.testing.assert_allclose(found.losses[:, 0], direct_losses(a.eval(), *test), rtol=1e-10)


def test_statistics_as_they_are_and_from_the_one_loader():
    a, b = normed_net(0), normed_net(1)
    data = [(normal(8, 5, seed=s), labels(8, 3, seed=s)) for s in (1, 2)]
    whole = tuple(torch.cat(part) for part in zip(*data, strict=True))
    kept = mode_connectivity(a, b, data, points=2, statistics="interpolated")
    np.testing.assert_allclose(kept.losses[:, 0], direct_losses(a.eval(), *whole), rtol=1e-12)
    both = mode_connectivity(a, b, data, points=2, train_loader=iter(data)).losses
    np.testing.assert_array_equal(mode_connectivity(a, b, data, points=2).losses, both)
    assert not np.allclose(both, kept.losses)
    with pytest.raises(ValueError, match="loader can be read only once"):
        mode_connectivity(a, b, iter(data))
    with pytest.raises(ValueError, match="a batch of one sample"):
        mode_connectivity(a, b, data, train_loader=[(data[0][0][:1], data[0][1][:1])])


def test_ends_are_the_checkpoints_and_a_state_dict_will_do():
    a, b = linear_net(0), linear_net(1)
    data = [(normal(8, 5), labels(8, 3))]
    found = mode_connectivity(a, b.state_dict(), data, points=3)
    assert found.losses[:, 0].tolist() == direct_losses(a, *data[0])
    assert found.losses[:, -1].tolist() == direct_losses(b, *data[0])
    other = MultiExitModel(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), {"0": nn.Linear(4, 3)})
    with pytest.raises(ValueError, match=r"model_a has no backbone.0.bias, model_b has .* \[4\]"):
        mode_connectivity(a, other, data)
    with pytest.raises(TypeError, match="model_b must be"):
        mode_connectivity(a, 3, data)


# --- landscape ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_directions_are_as_long_as_filters(name):
    model = MODELS[name]()
    first, second = filter_directions(model, seed=3)
    parameters = dict(model.named_parameters())
    still = {key for key, one in parameters.items() if one.ndim < 2}
    assert first.keys() == second.keys() == parameters.keys() - still
    for direction in (first, second):
        for key, values in direction.items():
            lengths, expected = (
                np.linalg.norm(np.asarray(one).reshape(len(one), -1), axis=1)
                for one in (values, parameters[key].detach())
            )
            np.testing.assert_allclose(lengths, expected, rtol=1e-5)
    key = max(first, key=lambda one: first[one].size)
    assert not np.allclose(first[key], second[key])
    np.testing.assert_array_equal(first[key], filter_directions(model, seed=3)[0][key])
    assert not np.allclose(first[key], filter_directions(model, seed=4)[0][key])


def test_norms_of_two_dimensions_and_embeddings_stand_still():
    backbone = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm((2, 4)), nn.Flatten())
    backbone.append(nn.Linear(8, 2))
    model = MultiExitModel(backbone, {"2": nn.Linear(8, 2)})
    assert set(filter_directions(model)[0]) == {"backbone.3.weight", "heads.0.weight"}


@pytest.mark.parametrize("name", MODELS)
def test_the_middle_is_the_model(name):
    model, x, y = MODELS[name](), images(8), labels(8, 10)
    found = loss_landscape(model, [(x, y)], points=(3, 5), span=0.7)
    assert found.losses.shape == (model.num_exits, 3, 5)
    assert found.losses[:, 1, 2].tolist() == direct_losses(model, x, y)
    assert found.x.tolist() == [-0.7, 0, 0.7]
    assert found.y.tolist() == [-0.7, -0.35, 0, 0.35, 0.7]
    split = loss_landscape(model, iter([(x[:3], y[:3]), (x[3:], y[3:])]), points=(3, 5), span=0.7)
    np.testing.assert_allclose(split.losses, found.losses, rtol=1e-4)


def test_a_corner_is_the_model_moved_by_both_directions():
    model, x, y = MODELS["resnet"]().double(), images(8).double(), labels(8, 10)
    found = loss_landscape(model, [(x, y)], points=(2, 2), span=0.5, seed=7)
    first, second = filter_directions(model, seed=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in first:
                parameter += torch.tensor(0.5 * first[name] - 0.5 * second[name])
    np.testing.assert_allclose(found.losses[:, 1, 0], direct_losses(model, x, y), rtol=1e-9)


def test_a_linear_loss_has_a_plane_for_a_landscape():
    model, x = softmax_regression(0), normal(6, 4)
    weight = "backbone.1.weight"
    first, second = ({weight: normal(3, 4, seed=s).numpy()} for s in (1, 2))
    found = loss_landscape(
        model,
        [(x, labels(6, 3))],
        points=(4, 3),
        span=2.0,
        directions=(first, second),
        loss=lambda logits, y: logits[:, 0].mean(),
    )
    slopes = [float((x.mean(0).numpy() * one[weight][0]).sum()) for one in (first, second)]
    start = float(model(x)[1].detach()[:, 0].mean())
    expected = start + slopes[0] * found.x[:, None] + slopes[1] * found.y
    np.testing.assert_allclose(found.losses[1], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.losses[0], found.losses[0, 0, 0])  # the head stands still
    assert found.seed is None


# --- everything at once ---------------------------------------------------------------------------


def test_analyze_is_its_parts():
    model, data = MODELS["resnet"](), image_batches(48, 12)
    found = analyze(
        model,
        iter(data),
        other=nearby(model),
        options={"loss_landscape": {"points": (3, 3)}, "mutual_information": {"dims": 2}},
    )
    assert found.failures == {}
    np.testing.assert_array_equal(found.gradient_share.shares, gradient_share(model, data).shares)
    np.testing.assert_array_equal(
        found.mutual_information.label_information,
        mutual_information(model, data, dims=2).label_information,
    )
    np.testing.assert_array_equal(found.activation_rank.ranks, activation_rank(model, data).ranks)
    np.testing.assert_array_equal(
        found.mode_connectivity.losses, mode_connectivity(model, nearby(model), data).losses
    )
    np.testing.assert_array_equal(
        found.loss_landscape.losses, loss_landscape(model, data, points=(3, 3)).losses
    )
    written = json.loads(found.to_json())
    for name, part in found.parts().items():
        assert written[name] == part.to_dict()
        assert part.table() in found.table()
        assert str(part) == part.table()
        assert len(repr(part)) < 250
    assert list(found.parts()) == [key for key in written if key not in ("kind", "failures")]
    assert {panel.get_suptitle() for panel in panels(found.plot())} == {
        part.plot().get_suptitle() for part in found.parts().values()
    }


def nearby(model):
    """Another checkpoint: parameters moved a little."""
    return {
        name: one + 0.05 if one.is_floating_point() and "running" not in name else one
        for name, one in model.state_dict().items()
    }


def panels(figure):
    return [panel for band in figure.subfigs for panel in band.subfigs]


def test_a_part_that_fails_says_so_and_the_others_are_made():
    model, data = MODELS["vit"](), image_batches(8)  # too few for information in 4 dimensions
    found = analyze(
        model,
        data,
        parts=["mutual_information", "activation_rank"],
        options={"mutual_information": {"estimator": "gaussian"}},
    )
    assert found.mutual_information is None
    assert "too few" in found.failures["mutual_information"]
    assert found.activation_rank is not None
    assert "mutual_information failed: " in found.table()
    assert "failed: mutual_information" in repr(found)
    assert json.loads(found.to_json())["failures"] == found.failures
    found.plot()
    with pytest.raises(ValueError, match="too few"):
        analyze(
            model,
            data,
            parts=["mutual_information"],
            options={"mutual_information": {"estimator": "gaussian"}},
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["rank"]}, "parts has 'rank', which is not one of gradient_share"),
        ({"parts": "activation_rank"}, "parts must be a list"),
        ({"parts": []}, "parts is empty"),
        ({"parts": ["mode_connectivity"]}, "needs a second checkpoint: pass other"),
        ({"other": 3}, "other must be a MultiExitModel or its state_dict"),
        ({"options": {"rank": {}}}, "options has 'rank'"),
        (
            {"options": {"activation_rank": {"tolerance": 1}}},
            "'tolerance', which is not one of layers",
        ),
        ({"options": {"activation_rank": {"loader": 1}}}, "'loader', which is not one of layers"),
        ({"max_samples": 1}, "max_samples must be at least 2"),
    ],
)
def test_analyze_refuses(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        analyze(linear_net(), [(normal(8, 5), labels(8, 3))], **options)


# --- arguments, pictures, bars --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: gradient_share(m.backbone, d), "model must be a MultiExitModel, got Sequent"),
        (lambda m, d: gradient_share(m, d[0][0]), "loader must yield batches"),
        (lambda m, d: gradient_share(m, [d[0][0]]), "a batch of loader must be .x, labels."),
        (lambda m, d: gradient_share(m, []), "loader yielded no samples"),
        (lambda m, d: gradient_share(m, [(d[0][0], d[0][1] + 9)]), r"must be in \[0, 3\)"),
        (lambda m, d: gradient_share(m, [(d[0][0], d[0][1] - 9)]), r"must be in \[0, 3\)"),
        (lambda m, d: gradient_share(m, [(d[0][0], d[0][1] / 2)]), "must be whole numbers"),
        (lambda m, d: gradient_share(m, [(d[0][0], d[0][1][1:])]), r"must have shape \(8,\)"),
        (lambda m, d: gradient_share(m, d, average="mean"), "average must be one of"),
        (lambda m, d: gradient_share(m, d, batches=0), "batches must be at least 1"),
        (lambda m, d: gradient_share(m, d, blocks="0"), "must be a list or a mapping, got str"),
        (lambda m, d: gradient_share(m, d, blocks=[]), "no modules are named"),
        (lambda m, d: gradient_share(m, d, blocks=["2"]), "'2' is not a module of the backbone"),
        (
            lambda m, d: gradient_share(
                m,
                d,
                loss=lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"),
            ),
            r"loss must return the mean .* got \[8\]",
        ),
        (
            lambda m, d: gradient_share(m, [(math.inf * d[0][0], d[0][1])]),
            "the gradient of exit 0 in block '0' is not finite",
        ),
        (lambda m, d: activation_rank(m, d, tol=1.0), "tol must be between 0 and 1"),
        (lambda m, d: activation_rank(m, d, spatial="mean"), "spatial must be one of"),
        (lambda m, d: activation_rank(m, d, positions=0), "positions must be at least 1"),
        (lambda m, d: activation_rank(m, d, max_samples=1), "max_samples must be at least 2"),
        (lambda m, d: activation_rank(m, [(math.inf * d[0][0], d[0][1])]), "'0' returns numbers"),
        (lambda m, d: mode_connectivity(m, m, d, points=1), "points must be at least 2"),
        (lambda m, d: mode_connectivity(m, m, d, statistics="a"), "statistics must be one of"),
        (lambda m, d: mutual_information(m, d, estimator="mine"), "estimator must be one of"),
        (lambda m, d: mutual_information(m, d, reduction="umap"), "reduction must be one of"),
        (lambda m, d: mutual_information(m, d, spatial="positions"), "spatial must be one of"),
        (lambda m, d: mutual_information(m, d, noise=-1), "noise must be 0 or a positive"),
        (lambda m, d: mutual_information(m, d, dims=0), "dims must be at least 1"),
        (lambda m, d: loss_landscape(m, d, points=5), "points must be two whole numbers"),
        (lambda m, d: loss_landscape(m, d, points=(5, 1)), r"points\[1\] must be at least 2"),
        (lambda m, d: loss_landscape(m, d, span=0), "span must be a positive number"),
        (
            lambda m, d: loss_landscape(m, d, directions=({}, {"a": 1})),
            "'a', which is not a parameter",
        ),
        (
            lambda m, d: loss_landscape(m, d, directions=({"heads.0.weight": [1.0]}, {})),
            r"of shape \[3, 4\], got \[1\]",
        ),
    ],
)
def test_bad_arguments_say_what_to_do(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(linear_net(), [(normal(8, 5), labels(8, 3))])


def test_maps_of_several_scales_have_no_common_positions():
    with pytest.raises(ValueError, match="returns 3 maps, and their positions differ"):
        activation_rank(MODELS["msdnet"](), image_batches(), spatial="positions")
    with pytest.raises(ValueError, match="channel_axis must be a dimension of the output of layer"):
        activation_rank(MODELS["resnet"](), image_batches(), channel_axis=4, layers=["layer1"])


def deep_net(depth):
    names = [f"a layer with a long name {i}" for i in range(depth)]
    backbone = nn.Sequential()
    for name in names:
        backbone.add_module(name, nn.Linear(3, 3))
    model = MultiExitModel(backbone, {name: nn.Linear(3, 3) for name in names[:-1]})
    return with_weights(model, 0, step=1)


@pytest.mark.parametrize("depth", [2, 9])
def test_pictures_keep_their_words_inside_and_apart(depth):
    model = deep_net(depth)
    data = [(normal(64, 3).float(), labels(64, 3))]
    found = analyze(
        model,
        data,
        other=nearby(model),
        options={"loss_landscape": {"points": (3, 3)}, "mutual_information": {"dims": 1}},
    )
    assert found.failures == {}
    for picture in (found, *found.parts().values()):
        figure = picture.plot()
        figure.draw_without_rendering()
        frame = figure.bbox
        axes = [ax for ax in figure.get_axes() if ax.get_visible()]
        boxes = [ax.get_tightbbox() for ax in axes]  # which takes as long as drawing
        for ax, tight in zip(axes, boxes, strict=True):
            box = ax.get_window_extent()
            assert box.height > 60
            assert box.width > 60 or ax.get_label() == "<colorbar>"
            assert min(tight.x0 - frame.x0, frame.x1 - tight.x1) > -1
            assert min(tight.y0 - frame.y0, frame.y1 - tight.y1) > -1
        for number, box in enumerate(boxes):
            for other in boxes[:number]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                along = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert across <= 1 or along <= 1


def test_a_landscape_that_overflows_is_drawn():
    model = linear_net()
    data = [(normal(8, 5), labels(8, 3))]
    found = loss_landscape(model, data, points=(3, 3), span=1e200)
    assert not np.isfinite(found.losses).all()
    found.plot().draw_without_rendering()
    json.dumps(found.to_dict(), allow_nan=False)
    found.table()


def test_bars_are_shown_when_asked_for(capsys):
    model, data = MODELS["resnet"](), image_batches(8)
    gradient_share(model, data)
    loss_landscape(model, data, points=(2, 2))
    assert capsys.readouterr().out == ""
    analyze(model, data, other=model, progress=True, options={"mutual_information": {"dims": 1}})
    shown = capsys.readouterr().out
    for stage in (
        "gradient share",
        "activations",
        "mutual information",
        "singular values",
        "statistics on the line",
        "losses on the line",
        "loss landscape",
    ):
        assert stage in shown
