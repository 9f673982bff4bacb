"""Interventions, steering inside networks, and attribution."""

from __future__ import annotations

import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cedar_cases import planted
from laplex.cedar import (
    CEDAR,
    CedarModule,
    NotSteeredWarning,
    attribute,
    measure_effects,
    name_axes,
    split_at,
    steer,
)

D = 8
CASE = planted(400, D, 2, seed=5, condition=2.0)
MODEL = CEDAR(2, basis="invertible", max_iter=200, random_state=0).fit(CASE.data)
MODULE = MODEL.torch_module()


def coordinates(z: Any) -> np.ndarray:
    return (np.asarray(z) - MODEL.mean_) @ MODEL.components_.T


def rows(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, D, generator=generator, dtype=torch.float64)


# --- interventions --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 3, 1)])
def test_any_value_in_any_shape_and_the_module_alike(shape: tuple[int, ...]) -> None:
    z = rows(*shape)
    by_row = torch.linspace(-1, 1, 3, dtype=torch.float64)[: shape[1] if len(shape) > 1 else 1]
    by_row = by_row.reshape([1] * (len(shape) > 1) + [-1] + [1] * (len(shape) > 2))
    by_row = by_row[0] if not shape else by_row
    values = {1: 4.0, np.int64(3): by_row.numpy(), 5: lambda c: 2 * c + 1, 6: np.float32(0)}
    moved = MODEL.intervene(z.numpy(), values)
    expected = coordinates(z.numpy())
    expected[..., 1], expected[..., 3], expected[..., 6] = 4, by_row.numpy(), 0
    expected[..., 5] = 2 * expected[..., 5] + 1
    assert isinstance(moved, np.ndarray)
    assert moved.shape == z.shape
    assert np.allclose(coordinates(moved), expected, atol=1e-9)
    assert np.allclose(MODULE.intervene(z, values), moved, atol=1e-12)
    assert np.allclose(MODEL.intervene(z, values), moved, atol=1e-12)


def test_values_are_those_of_the_leading_dimensions() -> None:
    z, value = rows(3, 3), torch.tensor([1.0, 2.0, 3.0])  # as many tokens as items
    for values, expected in ((value, value[:, None]), (value[None], value[None])):
        moved = MODULE.intervene(z, {2: values})
        assert np.allclose(coordinates(moved)[..., 2], expected.expand(3, 3), atol=1e-6)
    with pytest.raises(ValueError, match=r"\[2, 3\], got shape \[3\]: dimensions are matched from"):
        MODEL.intervene(rows(2, 3), {2: value})
    maps = rows(3, 4, 5).movedim(-1, 1)  # [batch, d, h, w]
    layer = nn.Identity()
    with steer(layer, MODULE, {2: value}, dim=1):
        found = coordinates(layer(maps).movedim(1, -1))[..., 2]
    assert np.allclose(found, value[:, None, None].expand(3, 4, 5), atol=1e-6)


@pytest.mark.parametrize("value", [torch.tensor(np.nan), lambda c: c / 0, lambda c: np.inf])
def test_values_that_are_not_finite_are_refused_where_numbers_are_looked_at(value: Any) -> None:
    with pytest.raises(ValueError, match="values must give finite coordinates"):
        MODEL.intervene(rows(3), {0: value})


def test_gradients_reach_embeddings_and_values() -> None:
    z, value = rows(3).requires_grad_(), rows()[:3].requires_grad_()
    MODEL.intervene(z, {2: value}).sum().backward()
    # z' = z - (u . z) a + t a, and the sum over columns of a is its gradient by t.
    atom, readout = MODEL.atoms_[2], MODEL.components_[2]
    assert z.grad is not None
    assert value.grad is not None
    assert np.allclose(value.grad, atom.sum())
    assert np.allclose(z.grad, 1 - atom.sum() * readout)


def test_coordinates_of_another_modality_are_those_around_its_mean() -> None:
    texts = CASE.data + 3.0
    model = CEDAR(2, max_iter=50, random_state=0).fit(CASE.data).add_modality("text", texts)
    moved = model.intervene(texts, {1: 2.5}, modality="text")
    assert np.allclose((moved - 3.0 - model.mean_) @ model.components_.T[:, 1], 2.5)
    with pytest.raises(ValueError, match="modality must be 'text', got 'sound'"):
        model.intervene(texts, {1: 2.5}, modality="sound")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_of_the_embeddings_stays(dtype: torch.dtype) -> None:
    z = rows(4).to(dtype)
    assert MODEL.intervene(z, {0: 1.0}).dtype == dtype
    assert MODEL.intervene(z.float().numpy(), {0: 1.0}).dtype == np.float32
    assert MODEL.intervene(np.ones((2, D), int), {}).dtype == np.float64
    assert MODEL.intervene(z, {}) is not z


def test_axes_by_name_count_towards_the_end_that_is_named() -> None:
    texts = np.concatenate([MODEL.atoms_[:3], -MODEL.atoms_[3:5]])
    words = ["Red", "green", "blue", "old", "cold"]
    names = name_axes(MODEL, texts, words, text_mean=np.zeros(D), threshold=0.95, confirmed=None)
    z = rows(6)
    moved = MODEL.intervene(z, {"red": 2.0, "cold": 3.0, "old": lambda c: c + 1, 7: 0.0}, names)
    expected = coordinates(z)
    expected[:, 0], expected[:, 4], expected[:, 7] = 2.0, -3.0, 0.0
    expected[:, 3] -= 1
    assert np.allclose(coordinates(moved), expected)
    mapped = MODULE.intervene(z, {"mood": 1.5}, names={"mood": 6})
    assert np.allclose(coordinates(mapped)[:, 6], 1.5)
    with pytest.raises(ValueError, match="no axis is named 'pink': the names are 'Red'"):
        MODEL.intervene(z, {"pink": 1.0}, {"Red": 0})
    with pytest.raises(ValueError, match="names is missing"):
        MODEL.intervene(z, {"red": 1.0})
    with pytest.raises(ValueError, match="'red' names the axes 0 and 2"):
        MODEL.intervene(z, {"red": 1.0}, {"red": 0, "RED": 2})
    with pytest.raises(ValueError, match="each axis once, got axis 0"):
        MODEL.intervene(z, {"red": 1.0, 0: 2.0}, names)
    with pytest.raises(TypeError, match="names must be the result of name_axes"):
        MODEL.intervene(z, {"red": 1.0}, ["red"])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], TypeError, "values must map axes"),
        ({8: 1.0}, IndexError, r"axis 8 is not one of 0\.\.7"),
        ({-1: 1.0}, IndexError, "axis -1"),
        ({True: 1.0}, TypeError, "axes must be integers or names"),
        ({0: "high"}, TypeError, r"values\[0\] must be a number"),
        ({0: True}, TypeError, r"values\[0\] must be a number"),
        ({0: [1.0, np.inf, 0.0]}, ValueError, r"values\[0\] must be finite"),
        ({0: np.ones(4)}, ValueError, r"fit the rows of z, \[3\], got shape \[4\]"),
        ({0: lambda c: c[:, None]}, ValueError, r"fit the rows of z, \[3\], got shape \[3, 1\]"),
        ({0: lambda c: None}, TypeError, r"function values\[0\] must return a Tensor or a number"),
        ({0: lambda c: "x"}, TypeError, r"function values\[0\] must return a .*, got 'x'"),
    ],
)
def test_bad_interventions_have_their_message(
    values: Any, error: type[Exception], message: str
) -> None:
    for intervene in (MODEL.intervene, MODULE.intervene):
        with pytest.raises(error, match=message):
            intervene(rows(3), values)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (np.ones((3, 5)), ValueError, r"z must have 8 columns, as in the fit, got shape \[3, 5\]"),
        (np.full((3, D), np.nan), ValueError, "z contains NaN or infinity"),
        (np.ones((3, D), complex), TypeError, "z must hold real numbers"),
        (torch.ones(3, D, dtype=torch.bool), TypeError, "z must hold real numbers"),
        ([["a"] * D], TypeError, "z must hold real numbers"),
    ],
)
def test_bad_embeddings_have_their_message(z: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODEL.intervene(z, {0: 1.0})


# --- steering -------------------------------------------------------------------------------------


Two = namedtuple("Two", ["hidden", "other"])


class Block(nn.Module):
    """A layer that returns its result alone or as the first of several."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z: Tensor) -> Any:
        return z if self.kind is None else self.kind(z)


KINDS = {
    "tensor": None,
    "tuple": lambda z: (z, "other"),
    "list": lambda z: [z, "other"],
    "namedtuple": lambda z: Two(z, "other"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_steered_as_its_output_would_be(kind: str) -> None:
    layer, z = Block(KINDS[kind]), rows(2, 3)
    before = layer(z)
    with steer(layer, MODEL, {4: 2.5}):
        steered = layer(z)
    assert type(steered) is type(before)
    first = steered if kind == "tensor" else steered[0]
    assert torch.equal(first, MODULE.intervene(z, {4: 2.5}))
    if kind != "tensor":
        assert steered[1] == "other"
    again = layer(z)
    assert torch.equal(again if kind == "tensor" else again[0], z)


def test_channels_first() -> None:
    maps = rows(2, 3, 4).movedim(-1, 1)  # [2, 8, 3, 4]
    layer = nn.Identity()
    with steer(layer, MODULE, {0: 1.0}, dim=1):
        steered = layer(maps)
    assert torch.equal(steered.movedim(1, -1), MODULE.intervene(maps.movedim(1, -1), {0: 1.0}))


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        (slice(-1, None), [False, False, True]),
        (0, [True, False, False]),
        (torch.tensor([True, False, True]), [True, False, True]),
        ([False, True, True], [False, True, True]),
    ],
)
def test_only_the_chosen_positions_move(positions: Any, chosen: list[bool]) -> None:
    z, layer = rows(2, 3), nn.Identity()
    with steer(layer, MODULE, {0: 1.0}, positions=positions):
        steered = layer(z)
    moved = MODULE.intervene(z, {0: 1.0})
    assert torch.equal(steered, torch.where(torch.tensor(chosen)[:, None], moved, z))


def test_contexts_nest_and_leave_no_hook_behind() -> None:
    layer, z = nn.Identity(), rows(3)
    with steer(layer, MODULE, {0: 1.0}):
        with steer(layer, MODULE, {0: lambda c: c + 1, 1: 2.0}):
            assert np.allclose(coordinates(layer(z))[:, :2], [2.0, 2.0])
        assert np.allclose(coordinates(layer(z))[:, 0], 1.0)
    assert torch.equal(layer(z), z)
    with pytest.raises(ValueError, match="has 5 numbers"), steer(layer, MODULE, {0: 1.0}):
        layer(torch.ones(2, 5))
    assert not layer._forward_hooks


def test_steering_differs_by_thread_only_in_its_hooks() -> None:
    # Hooks belong to the layer: threads that steer layers of their own do not meet.
    results: dict[int, Tensor] = {}

    def work(axis: int) -> None:
        layer = nn.Identity()
        for _ in range(20):
            with steer(layer, MODULE, {axis: 1.0}):
                results[axis] = layer(rows(3))

    threads = [threading.Thread(target=work, args=(axis,)) for axis in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for axis, found in results.items():
        assert torch.equal(found, MODULE.intervene(rows(3), {axis: 1.0}))


def test_gradients_flow_through_a_steered_network() -> None:
    network = nn.Sequential(nn.Linear(3, D), nn.Linear(D, 2)).double()
    inputs = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    value = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with steer(network[0], MODEL, {1: value}):
        network(inputs).sum().backward()
    assert value.grad is not None
    expected = 4 * (network[1].weight.detach().numpy() @ MODEL.atoms_[1]).sum()
    assert float(value.grad) == pytest.approx(expected)
    assert inputs.grad is not None


def test_a_network_compiled_before_is_told_and_one_compiled_inside_is_steered() -> None:
    torch.compiler.reset()
    network, z = nn.Sequential(nn.Identity(), nn.ReLU()), rows(3)
    expected = MODULE.intervene(z, {0: 1.0}).relu()
    with steer(network[0], MODULE, {0: 1.0}):
        inside = torch.compile(network, backend="eager", fullgraph=True)
        assert torch.allclose(inside(z), expected)
    torch.compiler.reset()
    before = torch.compile(network, backend="eager")
    assert torch.equal(before(z), z.relu())
    with (
        pytest.warns(NotSteeredWarning, match="Identity did not run") as seen,
        steer(network[0], MODULE, {0: 1.0}),
    ):
        before(z)
    assert seen[0].filename == __file__


def test_what_cannot_be_steered_has_its_message() -> None:
    network = nn.Sequential(nn.Linear(D, 5), nn.Identity())
    with (
        steer(network[0], MODEL, {0: 1.0}),
        pytest.raises(ValueError, match="output of Linear has 5 numbers in dimension -1, but"),
    ):
        network(torch.ones(2, D))
    with (
        steer(network[1], MODEL, {0: 1.0}, positions=torch.ones(5, dtype=torch.bool)),
        pytest.raises(ValueError, match=r"positions must fit \[2, 3\]"),
    ):
        network[1](rows(2, 3))
    with (
        steer(network[1], MODEL, {0: 1.0}, positions=[0, 2]),
        pytest.raises(TypeError, match="a mask of bool"),
    ):
        network[1](rows(2, 3))
    with (
        pytest.raises(TypeError, match="output of Identity must be a Tensor or a tuple"),
        steer(network[1], MODEL, {0: 1.0}),
    ):
        network[1]({"hidden": rows(2)})
    with pytest.raises(IndexError, match="axis 9"), steer(network[1], MODEL, {9: 1.0}):
        pass
    with pytest.raises(TypeError, match="layer must be a torch module"), steer("1", MODEL, {}):  # type: ignore[arg-type]
        pass
    with pytest.raises(TypeError, match="cedar must be a fitted CEDAR"), steer(network, 3, {}):  # type: ignore[arg-type]
        pass


# --- attribution ----------------------------------------------------------------------------------


def test_effects_of_a_linear_metric_add_up_and_are_those_measured() -> None:
    z, patch, weights = rows(2, 3), rows(2, 3).flip(0) + 0.3, rows(2, 3).flip(1)

    def metric(vectors: Tensor) -> Tensor:
        return (vectors * weights).sum()

    for other in (None, patch):
        found = attribute(MODEL, z, metric, patch=other)
        end = MODULE.mean.expand(z.shape) if other is None else other
        assert found.after - found.before == pytest.approx(float(metric(end) - metric(z)))
        assert abs(found.unexplained) < 1e-12 * float(z.abs().sum())
        measured = measure_effects(MODEL, z, metric, range(D), patch=other)
        assert torch.allclose(found.by_axis, measured, atol=1e-12)
        # The definition, for one vector.
        codes = MODULE.encode(z), MODULE.encode(end)
        slope = weights[1, 2].numpy() @ MODEL.atoms_[4]
        expected = slope * float(codes[1][1, 2, 4] - codes[0][1, 2, 4])
        assert float(found.effects[1, 2, 4]) == pytest.approx(expected, abs=1e-12)
        errors = end - MODULE.decode(codes[1]), z - MODULE.decode(codes[0])
        assert torch.allclose(found.error, ((errors[0] - errors[1]) * weights).sum(-1))


def test_integrated_gradients_are_complete_where_one_gradient_is_not() -> None:
    z, patch = rows(4), rows(4).flip(0)

    def metric(vectors: Tensor) -> Tensor:
        return vectors.square().sum()

    once = attribute(MODULE, z, metric, patch=patch + 1)
    assert abs(once.unexplained) > 1
    # The gradient of a square is linear, so its mean over the line is its value in the middle.
    assert abs(attribute(MODULE, z, metric, patch=patch + 1, steps=2).unexplained) < 1e-10
    assert "not linear" in repr(once)
    assert once.table(3).count("\n") == 5


def test_attribution_at_a_layer_of_a_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, D), nn.ReLU(inplace=True), nn.Linear(D, 2)).double()
    clean, corrupt = torch.randn(2, 5, 3, dtype=torch.float64)
    z, metric = split_at(network[0], lambda: network(clean)[:, 0].sum())
    patch, _ = split_at(network[0], lambda: network(corrupt)[:, 0].sum())
    assert torch.equal(z, network[0](clean))
    assert torch.equal(metric(z), network(clean)[:, 0].sum())
    found = attribute(MODEL, z, metric, patch=patch, steps=64)
    assert found.after == pytest.approx(float(network(corrupt)[:, 0].sum().detach()))
    # Each ReLU bends the line once, so a step is wrong by at most 1/64 of one slope's change.
    assert abs(found.unexplained) < 0.05 * abs(found.after - found.before)
    assert not network[0]._forward_hooks


def test_bad_attributions_have_their_message() -> None:
    z = rows(3)
    with pytest.raises(ValueError, match=r"one number, got \[3\]: sum it"):
        attribute(MODULE, z, lambda v: v.sum(-1))
    with pytest.raises(ValueError, match="one number, got float"):
        attribute(MODULE, z, lambda v: 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="metric must depend on its argument"):
        attribute(MODULE, z, lambda v: v.detach().sum())
    with pytest.raises(ValueError, match=r"patch must have the shape of z, \[3, 8\], got \[2, 8\]"):
        attribute(MODULE, z, lambda v: v.sum(), patch=rows(2))
    with pytest.raises(ValueError, match="metric must return a finite number, got nan"):
        attribute(MODULE, z, lambda v: v.sum() * torch.nan)
    with pytest.raises(TypeError, match="z must be a Tensor of a floating type, got ndarray"):
        attribute(MODULE, z.numpy(), lambda v: v.sum())
    for axes, error, message in (
        (3, TypeError, r"list of numbers of axes, got 3: pass \[3\]"),
        ([99], IndexError, r"axis 99 is not one of 0\.\.7"),
        ([-1], IndexError, "axis -1 is not one of"),
        (["a"], TypeError, "axes must be integers, got 'a'"),
    ):
        with pytest.raises(error, match=message):
            measure_effects(MODULE, z, lambda v: v.sum(), axes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="z must be a Tensor, got ndarray"):
        MODULE(z.numpy())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        attribute(MODULE, z, lambda v: v.sum(), steps=0)
    twice = nn.Identity()
    with pytest.raises(ValueError, match="Identity must run once in run"):
        split_at(twice, lambda: twice(twice(z)).sum())


# --- a module of one's own ------------------------------------------------------------------------


def test_a_module_without_a_fit_knows_no_drift() -> None:
    from laplex.cedar.basis import DenseBasis

    module = CedarModule(DenseBasis(torch.eye(D)), torch.zeros(D), 2)
    with pytest.raises(ValueError, match=r"CEDAR\.torch_module"):
        module.check_drift(rows(3))
