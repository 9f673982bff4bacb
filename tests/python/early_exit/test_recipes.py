"""The methods of the field: what defines each of them, and that its exits are real ones."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exits_training_cases import CLASSES, FEATURES, data
from laplex.early_exit import (
    LearnedScore,
    MaxSoftmax,
    MultiExitModel,
    Objective,
    Patience,
    count_costs,
    recipes,
    train,
)
from laplex.early_exit.recipes import RECIPES, Recipe
from laplex.early_exit.recipes.joint_gates import leaving
from laplex.early_exit.recipes.sample_weights import LeavingWeights

X, Y = data(64, torch.float64).tensors
EXITS = ["0", "2", "4"]


def attached(recipe: Recipe, at: list[str] = EXITS) -> MultiExitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width = 8
        backbone = nn.Sequential(
            *(nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()),
            *(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, CLASSES)),
        ).double()
        return recipe.attach(backbone, at, num_classes=CLASSES, example=X[:4])


def trained(
    recipe: Recipe, epochs: int = 10, rate: float = 0.05, labels: Tensor = Y
) -> MultiExitModel:
    model = attached(recipe)
    batches = [(X[i::4], labels[i::4]) for i in range(4)]
    train(model, batches, epochs=epochs, learning_rate=rate, **recipe.options)
    return model


def losses(recipe: Recipe, model: MultiExitModel, part: Any = "all", **more: Any) -> Any:
    options = {name: one for name, one in recipe.options.items() if name != "strategy"}
    return Objective(**options)(model, X, Y, part, **more)


def entropies(model: MultiExitModel) -> Tensor:
    return torch.stack([nn.functional.cross_entropy(one, Y) for one in model(X)])


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.fixture(scope="module", params=sorted(RECIPES))
def case(request: pytest.FixtureRequest) -> tuple[str, Recipe, MultiExitModel]:
    recipe = RECIPES[request.param]()
    return request.param, recipe, trained(recipe)


# --- every recipe ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_real_exits_are_those_of_the_logits(case: Any, batch: int) -> None:
    _, recipe, model = case
    policy = recipe.policy(model)
    x = X[:batch]
    with torch.no_grad():
        logits = model.eval()(X)
        scores = policy.scores(logits)
        # Thresholds off the scores, so that rounding moves no sample, and some leave anywhere; at
        # the first exit patience has one score for all.
        cuts = [
            float(torch.quantile(one, share)) - 1e-9 if one.std() > 0 else math.inf
            for one, share in zip(scores[:-1], (0.6, 0.5, 0.4), strict=True)
        ]
    for one in (policy, policy.with_cuts(cuts)):
        expected = one.exit_index([each[:batch] for each in logits])
        found = model.predict(x, one)
        assert torch.equal(found.exit_index, expected)
        chosen = torch.stack(logits)[expected, torch.arange(batch)]
        torch.testing.assert_close(found.logits, chosen, rtol=1e-10, atol=1e-10)
    if batch == 64:
        assert len(expected.unique()) > 1


def test_every_recipe_learns_and_its_options_can_be_sent(case: Any) -> None:
    name, recipe, model = case
    accuracy = [float((one.argmax(-1) == Y).double().mean()) for one in model(X)]
    # Three classes with the shares 1/4, 1/2 and 1/4.
    assert min(accuracy) > 0.6, name
    assert repr(pickle.loads(pickle.dumps(recipe))) == repr(recipe)
    assert count_costs(model, X[:1]).heads.min() > 0


def test_recipes_take_tokens_with_a_mask_in_single_precision() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(9, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            real = attention_mask[:, :, None]
            return self.head((self.mix(self.embed(ids)) * real).sum(1) / real.sum(1))

    ids = torch.arange(24).reshape(4, 6) % 9
    mask = (torch.arange(6) < torch.tensor([[6], [4], [5], [3]])).long()
    batch = {"ids": ids, "attention_mask": mask}
    longer = {
        "ids": torch.cat((ids, ids[:, :2]), 1),
        "attention_mask": torch.cat((mask, mask[:, :2] * 0), 1),
    }
    for make in RECIPES.values():
        recipe = make()
        model = recipe.attach(Tokens(), ["embed", "mix"], num_classes=CLASSES, example=batch)
        train(model, [{**batch, "labels": torch.arange(4) % 3}], epochs=2, **recipe.options)
        with torch.no_grad():
            for one, other in zip(model.eval()(batch), model(longer), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # padding is not seen


# --- shallow-deep networks, PABEE ------------------------------------------------------------


def test_sdn_ramps_from_little_to_the_cost_of_each_exit() -> None:
    recipe = recipes.sdn(threshold=0.99)
    model = attached(recipe)
    costs = [float(one) for one in count_costs(model, X[:1]).relative]
    each = entropies(model)
    for progress in (0.0, 0.5, 1.0):
        weights = torch.tensor([*(min(0.01 + progress * c, c) for c in costs[:3]), 1.0]).double()
        found = losses(recipe, model, progress=progress, costs=costs).total
        torch.testing.assert_close(found, (weights * each).sum() / weights.sum(), rtol=1e-7, atol=0)
    policy = recipe.policy(model)
    assert isinstance(policy, MaxSoftmax)
    logits = torch.tensor([[[2.0, 0.0]], [[3.0, 0.0]], [[1.0, 0.0]]])
    assert policy.exit_index(logits).tolist() == [1]  # none is sure: the most confident answers


def test_pabee_weighs_by_depth_and_waits_for_agreement() -> None:
    recipe = recipes.pabee(n=2)
    model = attached(recipe)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    same(losses(recipe, model).total, (weights * entropies(model)).sum() / 10)
    policy = recipe.policy(model)
    assert isinstance(policy, Patience)
    for labels, exit_index in (([1, 1, 1, 0], 2), ([0, 1, 1, 1], 3), ([0, 1, 0, 1], 3)):
        logits = nn.functional.one_hot(torch.tensor(labels), 2).double()[:, None]
        assert policy.exit_index(logits).tolist() == [exit_index]


# --- zero time waste -------------------------------------------------------------------------


def test_ztw_cascades_and_answers_with_geometric_ensembles() -> None:
    model = trained(recipes.ztw()).eval()
    hidden, own, x = [], [], X
    for name, module in model.backbone.named_children():
        x = module(x)
        if name in EXITS:
            hidden.append(x)
    heads: list[Any] = [*model.heads, model.output_head]
    assert [heads[k].cascade is None for k in range(4)] == [True, False, False, True]
    for k, head in enumerate(heads):
        logits = x if k == 3 else hidden[k] @ head.head.linear.weight.T + head.head.linear.bias
        if head.cascade is not None:
            assert head.cascade.weight.abs().max() > 1e-3  # it has learnt something
            logits = logits + own[-1] @ head.cascade.weight.T
        own.append(logits.softmax(1))
        weights = head.log_weights.exp()
        assert weights.shape == (k + 1,)
        q = head.log_bias.exp() * torch.stack(
            [p**w for p, w in zip(own, weights, strict=True)]
        ).prod(0)
        same(model(X)[k].softmax(1), q / q.sum(1, keepdim=True))


def test_ztw_sends_no_gradient_to_earlier_exits_and_starts_at_the_geometric_mean() -> None:
    model = attached(recipes.ztw())
    logits = model(X)
    for k in range(4):
        loss = nn.functional.cross_entropy(logits[k], Y)
        of = torch.autograd.grad(
            loss, list(model.heads.parameters()), retain_graph=True, allow_unused=True
        )
        names = [name for name, _ in model.heads.named_parameters()]
        reached = {
            name.split(".")[0] for name, one in zip(names, of, strict=True) if one is not None
        }
        assert reached == ({str(k)} if k < 3 else set())
    first, second = (
        one.log_softmax(1) for one in (logits[0], model.heads[1].head(model.backbone[:3](X)))
    )
    ensemble = ((first + second) / 2).log_softmax(1)
    # The exponents are made in single precision.
    torch.testing.assert_close(logits[1].log_softmax(1), ensemble, rtol=1e-6, atol=1e-6)


# --- global past-future ----------------------------------------------------------------------


def test_gpf_imitates_later_states_and_sees_earlier_ones() -> None:
    recipe = recipes.gpf(width=5, imitation=0.7)
    model = attached(recipe)
    states = []
    x = X
    for name, module in model.backbone.named_children():
        x = module(x)
        if name in EXITS:
            states.append(model.heads[len(states)].state(x).tanh())
    errors = []
    for k, head in enumerate(model.heads):
        past = torch.stack(states[: k + 1]).mean(0)
        parts = [past]
        if k < 2:
            futures = head.future(past).tanh().reshape(len(X), 2 - k, 5)
            errors += [(futures[:, i] - states[k + 1 + i].detach()) ** 2 for i in range(2 - k)]
            parts.append(futures.mean(1))
        same(model(X)[k], head.classifier(torch.cat(parts, 1)))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = (weights * entropies(model)).sum() / 10 + 0.7 * torch.stack(errors).mean()
    found = losses(recipe, model).total
    same(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
        strict=True,
    ):
        same(one, other)
    # The third exit depends on the first one's state.
    (gradient,) = torch.autograd.grad(model(X)[2].sum(), model.heads[0].state.weight)
    assert gradient.abs().max() > 0


def test_gpf_learns_to_imitate() -> None:
    def error(model: MultiExitModel) -> float:
        combined = Objective(combine=recipes.gpf().options["combine"])
        with torch.no_grad():
            return float(combined(model, X, Y).total - Objective()(model, X, Y).total)

    assert error(trained(recipes.gpf())) < 0.5 * error(trained(recipes.gpf(imitation=0.0)))
    alone = attached(recipes.gpf(), ["2"])  # one exit: no future to imitate
    assert error(alone) == 0.0


# --- L2W -------------------------------------------------------------------------------------


def test_l2w_weighs_each_sample_for_the_exit_that_takes_it() -> None:
    recipe = recipes.l2w(strength=0.6, ratio=0.5)
    model = attached(recipe)
    weigh = recipe.options["combine"]
    logits = model(X)
    taken = weigh.taken(logits)
    assert taken.sum(0).eq(1).all()
    # 64 samples in shares of 8, 4, 2 and 1 of 15.
    assert taken.sum(1).tolist() == [34, 17, 9, 4]
    sure = torch.stack([one.softmax(1).amax(1) for one in logits])
    left = torch.ones(64, dtype=torch.bool)
    for k in range(3):
        assert sure[k][taken[k]].min() >= sure[k][left & ~taken[k]].max()
        left &= ~taken[k]
    weights = weigh.weights(logits)
    same(weights.mean(1), torch.ones(4, dtype=torch.float64))
    assert weights.min() >= 0.4
    assert weights.max() <= 1.6
    each = torch.stack([nn.functional.cross_entropy(one, Y, reduction="none") for one in logits])
    same(losses(recipe, model).total, (weights * each).mean())
    same(losses(recipes.l2w(strength=0.0), model).total, entropies(model).mean())
    # A phase of the heads leaves the last exit out.
    same(losses(recipe, model, "heads").total, (weights * each)[:3].mean())


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_l2w_takes_each_sample_of_a_small_batch_once(batch: int) -> None:
    logits = tuple(
        torch.randn(batch, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)
    )
    assert LeavingWeights(0.8, 2.0).taken(logits).sum(0).eq(1).all()


# --- joint gates -----------------------------------------------------------------------------


def test_jei_adds_the_expected_loss_and_cost_of_its_gates() -> None:
    recipe = recipes.jei(cost=0.3)
    model = attached(recipe)
    costs = [0.3, 0.6, 0.9, 1.1]
    policy = recipe.policy(model)
    assert isinstance(policy, LearnedScore)
    logits = model(X)
    gates = policy.scores(logits)
    same(gates[3], torch.ones(64, dtype=torch.float64))
    arrives = torch.cat((torch.ones(1, 64).double(), (1 - gates[:3]).cumprod(0)))
    chances = gates * arrives
    same(chances.sum(0), torch.ones(64, dtype=torch.float64))
    each = torch.stack([nn.functional.cross_entropy(one, Y, reduction="none") for one in logits])
    paid = (chances * (each + 0.3 * torch.tensor(costs).double()[:, None])).sum(0).mean()
    found = losses(recipe, model, costs=costs).total
    torch.testing.assert_close(found, entropies(model).mean() + paid, rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="gates need the costs of the exits: pass costs"):
        losses(recipe, model)


def test_jei_leaves_earlier_where_cost_is_dearer() -> None:
    hard = (X[:, 0] * X[:, 1] > 0).long()  # the first exit, which is linear, cannot tell
    stops = []
    for cost in (0.0, 5.0):
        recipe = recipes.jei(cost=cost)
        model = trained(recipe, epochs=30, labels=hard)
        stops.append(model.predict(X, recipe.policy(model)).exit_index.double().mean())
    assert stops[0] > stops[1] + 0.5
    same(leaving(torch.zeros(1, 2).double())[:, 0], torch.tensor([0.5, 0.25, 0.25]).double())


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: recipes.l2w(strength=2), "strength must be between 0 and 1, got 2"),
        (lambda: recipes.l2w(ratio=0), "ratio must be positive and finite, got 0"),
        (lambda: recipes.gpf(width=0), "width must be at least 1, got 0"),
        (lambda: recipes.gpf(imitation=-1), "imitation must be at least 0 and finite, got -1"),
        (lambda: recipes.jei(threshold=2), "threshold must be between 0 and 1, got 2"),
        (lambda: recipes.sdn(threshold=math.nan), "threshold must be finite, got nan"),
        (lambda: recipes.pabee(n=-1), "n must be a whole number of at least 0, got -1"),
        (lambda: recipes.jei(cost=-1), "cost must be at least 0 and finite, got -1"),
    ],
)
def test_bad_arguments(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
