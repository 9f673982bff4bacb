"""Heads with many classes: some of the logits, the losses by parts, and places from data."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from laplex.nn import (
    LaplexHead,
    blockwise_cross_entropy,
    blockwise_topk,
    many_classes,
    routing_plot,
    sampled_cross_entropy,
)
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")
DOUBLE = torch.float64


class Table(nn.Module):
    """A head of another kind, which has only what the functions ask for."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features, dtype=DOUBLE))

    def forward(self, features):
        return features @ self.weight.T

    def logits(self, input, classes):  # noqa: A002
        return input @ self.weight[classes].T


KINDS = {
    "Laplex": lambda m, n: LaplexHead(m, n, heads=3, dtype=DOUBLE),
    "Laplex, real": lambda m, n: LaplexHead(m, n, phased=False, bias=False, dtype=DOUBLE),
    "dense": lambda m, n: nn.Linear(m, n, dtype=DOUBLE),
    "dense, no bias": lambda m, n: nn.Linear(m, n, bias=False, dtype=DOUBLE),
    "other": Table,
}


@st.composite
def tasks(draw):
    """A head with moved parameters, its input, labels, and the size of a block."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    m, n, batch = (draw(st.integers(1, most)) for most in (9, 30, 5))
    head = KINDS[draw(st.sampled_from(list(KINDS)))](m, n)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    features = torch.randn(batch, m, dtype=DOUBLE, requires_grad=True)
    return head, features, torch.randint(n, (batch,)), draw(st.integers(1, n + 3))


def all_sampled(head, features, labels, **arguments):
    return sampled_cross_entropy(head, features, labels, num_sampled=head.out_features, **arguments)


def gradients(loss, head, features):
    return torch.autograd.grad(loss, [features, *head.parameters()])


def close(one, other, scale=1.0):
    """Equal up to the rounding of sums of at most 100 terms, in units of the largest number."""
    size = max(float(other.detach().abs().max()), scale)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * size)


# --- some of the logits ---------------------------------------------------------------------------


@quick
@given(tasks(), st.data())
def test_some_logits_are_those_of_the_whole_head(task, data):
    head, features, _, _ = task
    if not isinstance(head, LaplexHead):
        return
    some = st.lists(st.integers(0, head.num_classes - 1), min_size=1, max_size=12)
    classes = torch.tensor(data.draw(some), dtype=torch.int64)
    cotangent = torch.randn(len(features), len(classes), dtype=DOUBLE)
    one, whole = head.logits(features, classes), head(features)[:, classes]
    close(one, whole)
    pairs = [gradients((each * cotangent).sum(), head, features) for each in (one, whole)]
    # The anchors of a single class tell nothing apart, and their derivatives are rounding alone.
    scale = max(float(each.abs().max()) for each in pairs[1])
    for a, b in zip(*pairs, strict=True):
        close(a, b, scale)


# --- losses ---------------------------------------------------------------------------------------


@quick
@given(tasks(), st.sampled_from(["mean", "sum", "none"]))
def test_blocks_give_the_cross_entropy(task, reduction):
    head, features, labels, size = task
    whole = nn.functional.cross_entropy(head(features), labels, reduction=reduction)
    blocks = blockwise_cross_entropy(head, features, labels, block_size=size, reduction=reduction)
    close(blocks, whole)
    pairs = [gradients(each.sum(), head, features) for each in (blocks, whole)]
    scale = max(float(each.abs().max()) for each in pairs[1])
    for a, b in zip(*pairs, strict=True):
        close(a, b, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_blocks(kind):
    torch.manual_seed(1)
    head, labels = KINDS[kind](3, 7), torch.tensor([0, 6])
    features = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, *_: blockwise_cross_entropy(head, v, labels, block_size=3),
        (features, *head.parameters()),
    )


def test_no_more_than_a_block_exists_at_a_time():
    widths = []

    class Watched(Table):
        def logits(self, input, classes):  # noqa: A002
            widths.append(len(classes))
            return super().logits(input, classes)

    torch.manual_seed(0)
    head, features = Watched(4, 50), torch.randn(3, 4, dtype=DOUBLE)
    blockwise_cross_entropy(head, features, torch.tensor([1, 2, 3]), block_size=8).backward()
    assert sorted(widths) == [2, 2] + [8] * 12  # once for the loss, once for its gradients


@quick
@given(tasks())
def test_a_sample_of_all_classes_gives_the_cross_entropy(task):
    head, features, labels, _ = task
    sampled = sampled_cross_entropy(head, features, labels, num_sampled=head.out_features)
    exact = nn.functional.cross_entropy(head(features), labels)
    close(sampled, exact)
    pairs = [gradients(each, head, features) for each in (sampled, exact)]
    scale = max(float(each.abs().max()) for each in pairs[1])
    for a, b in zip(*pairs, strict=True):
        close(a, b, scale)


@pytest.mark.parametrize("loss", [blockwise_cross_entropy, all_sampled])
def test_losses_of_half_precision_logits_have_the_digits_of_float32(loss):
    torch.manual_seed(0)
    head, features = nn.Linear(16, 300), torch.randn(20, 16)
    with torch.no_grad():
        head.weight.normal_()
        labels = head(features).argmax(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(head, features, labels, reduction="none")
            exact = nn.functional.cross_entropy(head(features), labels, reduction="none")
    assert found.dtype is torch.float32
    # Differences of logits of some tens, and logarithms of at most 301 terms.
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


def test_labels_may_change_before_the_backward_pass():
    torch.manual_seed(0)
    head, features, labels = LaplexHead(7, 23), torch.randn(5, 7), torch.arange(5)
    found = []
    for again in (labels, labels.clone()):
        loss = blockwise_cross_entropy(head, features, again, block_size=4)
        again.fill_(0) if again is not labels else None
        found.append(torch.autograd.grad(loss, head.source_gain)[0])
    assert torch.equal(*found)


def test_a_block_without_possible_classes_has_no_gradient():
    torch.manual_seed(0)
    head, features, labels = nn.Linear(7, 23), torch.randn(5, 7), torch.tensor([0, 1, 2, 3, 22])
    with torch.no_grad():
        head.bias[4:12] = -torch.inf
    losses = [
        blockwise_cross_entropy(head, features, labels, block_size=4),
        nn.functional.cross_entropy(head(features), labels),
    ]
    torch.testing.assert_close(*[torch.autograd.grad(each, head.weight)[0] for each in losses])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_estimated_sum_is_right_on_average(size, monkeypatch):
    torch.manual_seed(2)
    head, features = KINDS["Laplex"](3, 5), torch.randn(4, 3, dtype=DOUBLE)
    labels = torch.tensor([0, 1, 4, 4])
    logits = head(features)
    sums = []
    for drawn in itertools.combinations(range(5), size):
        monkeypatch.setattr(
            many_classes, "_without_replacement", lambda *_, drawn=drawn: torch.tensor(drawn)
        )
        loss = sampled_cross_entropy(head, features, labels, num_sampled=size, reduction="none")
        sums.append((loss + logits.gather(1, labels[:, None]).squeeze(1)).exp())
    torch.testing.assert_close(torch.stack(sums).mean(0), logits.exp().sum(1))


def test_the_estimated_sum_is_right_on_average_with_weights(monkeypatch):
    torch.manual_seed(3)
    head, features = nn.Linear(3, 5, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    labels, weights = torch.tensor([0, 1, 4, 4]), torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    logits, total = head(features), 0.0
    for drawn in itertools.product(range(5), repeat=2):
        monkeypatch.setattr(
            many_classes, "_with_replacement", lambda *_, drawn=drawn: torch.tensor(drawn)
        )
        loss = sampled_cross_entropy(
            head, features, labels, num_sampled=2, weights=weights, reduction="none"
        )
        chance = math.prod(float(weights[each]) / 20 for each in drawn)
        total += chance * (loss + logits.gather(1, labels[:, None]).squeeze(1)).exp()
    torch.testing.assert_close(total, logits.exp().sum(1))


@pytest.mark.parametrize("weights", [None, torch.arange(1.0, 31.0)])
def test_a_generator_decides_the_sample(weights):
    torch.manual_seed(4)
    head, features, labels = nn.Linear(4, 30), torch.randn(2, 4), torch.tensor([1, 2])

    def loss(seed):
        generator = torch.Generator().manual_seed(seed)
        return sampled_cross_entropy(
            head, features, labels, num_sampled=5, weights=weights, generator=generator
        ).item()

    assert loss(0) == loss(0)
    assert len({loss(seed) for seed in range(8)}) > 1


# --- the best classes -----------------------------------------------------------------------------


@quick
@given(tasks(), st.data())
def test_the_best_classes_of_the_blocks_are_those_of_all(task, data):
    head, features, _, size = task
    k = data.draw(st.integers(1, head.out_features))
    values, classes = blockwise_topk(head, features, k, block_size=size)
    logits = head(features)
    close(values, logits.topk(k).values)
    close(logits.gather(1, classes), values)
    assert all(len(set(row)) == k for row in classes.tolist())
    assert not values.requires_grad


# --- places from data -----------------------------------------------------------------------------


@quick
@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(2, 40),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_placed_classes_have_the_promised_logits(seed, heads, classes, features, phased, random):
    torch.manual_seed(seed)
    init = "random" if random else "interlaced"
    head = LaplexHead(features, classes, heads=heads, phased=phased, init=init, dtype=DOUBLE)
    head.requires_grad_(False)
    kept = [head.sources.clone(), head.log_lengthscale.clone()]
    means = torch.randn(classes, features, dtype=DOUBLE)
    error = head.place_classes(means)
    assert 0 <= error <= 1 + 1e-12
    assert torch.equal(head.sources, kept[0])
    assert torch.equal(head.log_lengthscale, kept[1])
    centre = means.mean(0)
    own = (head.weight * (means - centre)).sum(1)
    wanted = 2 * math.log(classes)
    if error**2 < 0.99:
        assert float(own.mean()) == pytest.approx(wanted, rel=1e-8)
    bias = -(head.weight * (means + centre)).sum(1) / 2
    scale = max(1.0, float(bias.detach().abs().max()))
    torch.testing.assert_close(head.bias, bias, rtol=0, atol=1e-9 * scale)
    # No factor of the weight can miss less than the best one does.
    weight, centred = head.weight.flatten(), (means - centre).flatten()
    best = centred - weight * (weight @ centred) / weight.square().sum().clamp(min=1e-30)
    assert float(best.norm() / centred.norm()) <= error + 1e-9


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e20])
def test_the_unit_of_the_means_does_not_matter(unit):
    torch.manual_seed(0)
    head, means = LaplexHead(9, 30, heads=2), torch.randn(30, 9)
    other = copy.deepcopy(head)
    assert other.place_classes(unit * means) == pytest.approx(head.place_classes(means), abs=1e-4)
    # The best of places that are nearly as good may be another one for means that are rounded.
    same = (other(unit * means) - head(means)).abs() < 1e-2 * head(means).abs().max()
    assert same.float().mean() > 0.9


def test_a_short_reach_and_gains_that_overflow():
    torch.manual_seed(0)
    head = LaplexHead(9, 30)
    with torch.no_grad():
        head.log_lengthscale.fill_(-10)
    head.place_classes(torch.randn(30, 9))
    assert head(torch.randn(4, 9)).isfinite().all()
    half = LaplexHead(9, 30, dtype=torch.float16)
    before = copy.deepcopy(half.state_dict())
    with pytest.raises(ValueError, match=r"the gains overflow torch\.float16"):
        half.place_classes(1e-4 * torch.randn(30, 9))
    for name, value in half.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("phased", [True, False])
def test_classes_with_a_feature_each_are_placed_there(phased):
    torch.manual_seed(0)
    head = LaplexHead(20, 40, heads=6, phased=phased)
    with torch.no_grad():
        head.log_lengthscale.fill_(math.log(0.01))
    means = torch.eye(20).repeat(2, 1)
    assert head.place_classes(means) < 0.5
    assert torch.equal(head(means[:20]).argmax(1) % 20, torch.arange(20))


def test_more_classes_than_features_start_with_a_longer_reach():
    assert LaplexHead(64, 10).lengthscale.item() == pytest.approx(2 / 9)
    assert LaplexHead(64, 10_000).lengthscale.item() == pytest.approx(2 / 63)


# --- bad input ------------------------------------------------------------------------------------

HEAD, FEATURES, LABELS = LaplexHead(4, 6), torch.zeros(2, 4), torch.tensor([0, 5])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: blockwise_cross_entropy(nn.ReLU(), FEATURES, LABELS),
            TypeError,
            "head must be a LaplexHead or a torch.nn.Linear, .* got ReLU: pass the last",
        ),
        (
            lambda: blockwise_cross_entropy(HEAD, FEATURES[:, :3], LABELS),
            ValueError,
            r"features must have the shape \[batch, 4\], got \[2, 3\]",
        ),
        (
            lambda: blockwise_cross_entropy(HEAD, FEATURES, LABELS.int()),
            TypeError,
            r"labels must be int64, got torch.int32: use labels.long\(\)",
        ),
        (
            lambda: sampled_cross_entropy(HEAD, FEATURES, LABELS[:1], num_sampled=2),
            ValueError,
            r"labels must have the shape \[2\], one class for each row of features, got \[1\]",
        ),
        (
            lambda: sampled_cross_entropy(HEAD, FEATURES, LABELS + 1, num_sampled=2),
            ValueError,
            "labels must be between 0 and 5, got 1 to 6",
        ),
        (
            lambda: sampled_cross_entropy(HEAD, FEATURES, LABELS, num_sampled=7),
            ValueError,
            "num_sampled must be at most 6, the number of classes, got 7",
        ),
        (
            lambda: sampled_cross_entropy(
                HEAD, FEATURES, LABELS, num_sampled=7, weights=torch.ones(5)
            ),
            ValueError,
            r"weights must have the shape \[6\], one number for each class, got \[5\]",
        ),
        (
            lambda: sampled_cross_entropy(
                HEAD, FEATURES, LABELS, num_sampled=7, weights=torch.zeros(6)
            ),
            ValueError,
            "weights must be positive and finite",
        ),
        (
            lambda: blockwise_cross_entropy(HEAD, FEATURES, LABELS, reduction="max"),
            ValueError,
            r"reduction must be one of \('mean', 'sum', 'none'\), got 'max'",
        ),
        (
            lambda: blockwise_topk(HEAD, FEATURES, 7),
            ValueError,
            "k must be at most 6, the number of classes, got 7",
        ),
        (
            lambda: HEAD.place_classes(torch.zeros(6, 4)),
            ValueError,
            "class_means must differ from each other, but all rows are equal",
        ),
        (
            lambda: HEAD.place_classes(torch.zeros(4, 6)),
            ValueError,
            r"class_means must have the shape \[6, 4\], one row for each class, got \[4, 6\]",
        ),
        (
            lambda: HEAD.place_classes(torch.full((6, 4), math.nan)),
            ValueError,
            "class_means must be finite",
        ),
        (
            lambda: HEAD.place_classes([[0.0]]),
            TypeError,
            "class_means must be a torch tensor, got list",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the picture ----------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.mark.parametrize("phased", [True, False])
def test_many_classes_are_drawn_as_a_density_with_some_names(phased, pyplot):
    torch.manual_seed(0)
    head = LaplexHead(10, 500, heads=2, phased=phased)
    ax = head.plot_routing([f"class {each}" for each in range(500)])
    assert len(ax.texts) == 24
    outermost = {f"class {int(head.targets[0].argmin())}", f"class {int(head.targets[0].argmax())}"}
    assert outermost <= {text.get_text() for text in ax.texts}
    ax.figure.canvas.draw()


@quick
@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(1, 20), st.data())
def test_a_picture_around_a_class_has_the_class_in_its_middle(seed, classes, features, data):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("matplotlib").use("Agg")
    torch.manual_seed(seed)
    head = LaplexHead(features, classes, init="random")
    around = data.draw(st.integers(0, classes - 1))
    ax = head.plot_routing(around=around)
    assert sum(ax.get_xlim()) / 2 == pytest.approx(head.targets[0, around].item(), abs=1e-6)
    assert str(around) in {text.get_text() for text in ax.texts}
    pyplot.close(ax.figure)


@pytest.mark.parametrize("phased", [True, False])
def test_the_routes_of_a_picture_are_those_of_the_head(phased):
    torch.manual_seed(0)
    head = LaplexHead(5, 8, phased=phased, bias=False)
    classes, features = np.array([6, 2]), np.array([4, 0, 1])
    line = routing_plot._line(head, 0, classes, features)
    flow = head.weight[classes][:, features].detach()
    np.testing.assert_allclose(line.flow, flow, rtol=1e-4, atol=1e-5 * float(flow.abs().max()))


@quick
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=39))
def test_labels_are_moved_apart(places):
    columns = routing_plot._apart(np.sort(places), -1.0, 1.0)
    assert (np.diff(columns) >= 2 / 40 - 1e-9).all()
    assert -1 <= columns[0] <= columns[-1] <= 1


def test_labels_with_enough_room_stay():
    places = np.array([-0.5, 0.0, 0.3])
    np.testing.assert_allclose(routing_plot._apart(places, -1.0, 1.0), places, atol=1e-12)


def test_bad_class_in_the_middle(pyplot):
    head = LaplexHead(4, 3)
    with pytest.raises(ValueError, match="around must be between 0 and 2, got 3"):
        head.plot_routing(around=3)
    with pytest.raises(ValueError, match="around must be one of class_names or a number, got 'x'"):
        head.plot_routing(around="x")
