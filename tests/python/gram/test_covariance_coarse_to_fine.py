"""Covariance models that start from images and grow with them, against dense linear algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from laplex.gram import LaplaceCovariance, fit_coarse_to_fine
from laplex.gram.covariance import matching, starting, training
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")  # small matrices; see conftest.py

seeds = st.integers(0, 2**31)
forms = st.booleans()  # phased
sides = st.integers(1, 6)


def images_of(count: int, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def random_model(dim: int, heads: int, phased: bool, seed: int) -> LaplaceCovariance:
    torch.manual_seed(seed)
    model = LaplaceCovariance(dim, heads, phased, dtype=torch.float64)
    with torch.no_grad():
        model.anchors.copy_(2 * torch.rand_like(model.anchors))
        model.scales.copy_(torch.randn_like(model.scales))
        model.log_noise.uniform_(-2, 0)
        model.mean.uniform_(-1, 1)
        model.deviation.uniform_(0.5, 2)
    return model


def shared(model: LaplaceCovariance) -> Tensor:
    return model.parts().rows(torch.arange(model.dim)).detach()


# --- the start ---------------------------------------------------------------------------------


@quick
@given(bits=st.integers(0, 5))
def test_a_hilbert_curve_visits_every_pixel_in_steps_of_one(bits: int) -> None:
    rows, columns = torch.meshgrid(*2 * [torch.arange(2**bits)], indexing="ij")
    index = starting.hilbert_index(rows, columns, bits).flatten()
    order = index.argsort()
    assert torch.equal(index[order], torch.arange(4**bits))
    steps = rows.flatten()[order].diff().abs() + columns.flatten()[order].diff().abs()
    assert bool((steps == 1).all())


@quick
@given(height=sides, width=sides, channels=st.integers(1, 3), heads=st.integers(1, 3))
def test_curves_of_any_shape_visit_every_number_once(
    height: int, width: int, channels: int, heads: int
) -> None:
    for head in range(heads):
        order = starting.curve((height, width, channels), head, heads)
        assert torch.equal(order.sort().values, torch.arange(height * width * channels))
        pixels = (order // channels).reshape(-1, channels)
        assert torch.equal(pixels, pixels[:, :1].expand_as(pixels))


@quick
@given(count=st.integers(2, 40), heads=st.integers(1, 2), phased=forms, seed=seeds)
def test_at_one_place_the_start_is_the_principal_components(
    count: int, heads: int, phased: bool, seed: int
) -> None:
    images = images_of(count, 4, 5, seed=seed)
    model = LaplaceCovariance(20, heads, phased, dtype=torch.float64)
    model.initialise(images, length=1e-12)  # the kernel is 1 up to 1e-12
    rows = model.standardise(images.reshape(count, 20))
    values, vectors = torch.linalg.eigh(rows.T @ rows / count)
    rank = (2 if phased else 1) * heads
    if rank > min(count - 1, 20):
        return  # the rest is random
    expected = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    # Eigenvalues nearly equal at the cut give other vectors, but then of the same square.
    error = (shared(model) - expected).square().sum()
    gap = float(values[-rank] - values[-rank - 1]) if rank < 20 else 1.0
    assert float(error) < 1e-18 * float(values[-1] / max(gap, 1e-9)) ** 2 * 20
    noise = rows.square().mean(0) - shared(model).diagonal()
    torch.testing.assert_close(model.noise.detach(), noise.clamp_min(matching.NOISE_FLOOR))


def test_the_start_needs_no_shape_and_no_more_components_than_there_are() -> None:
    images = images_of(3, 8, seed=0)
    model = LaplaceCovariance(8, heads=4)
    torch.manual_seed(0)
    model.initialise(images, length=2.0)
    assert float(model.anchors.detach().abs().max()) <= 1
    assert bool((model.scales.norm(dim=1) > 0).all())


# --- amplitudes --------------------------------------------------------------------------------


@quick
@given(heads=st.integers(1, 2), phased=forms, seed=seeds)
def test_best_amplitudes_solve_the_normal_equations_of_each_pixel(
    heads: int, phased: bool, seed: int
) -> None:
    dim = 12
    model = random_model(dim, heads, phased, seed)
    rows = matching.square_root(images_of(40, dim, seed=seed), 1 / 40)  # they span everything
    best = matching.best_amplitudes(model.parts(), 0, rows, 1.0)
    old = model.parts().amplitudes().detach()
    left_over = rows.T @ rows
    for other in range(1, heads):
        parts = old[other].T @ old[other]
        gaps = (model.anchors[other, :, None] - model.anchors[other]).abs().detach()
        left_over = left_over - torch.exp(-gaps) * parts
    kernel = torch.exp(-(model.anchors[0, :, None] - model.anchors[0]).abs()).detach()
    for pixel in range(dim):
        others = torch.arange(dim) != pixel
        design = (kernel[pixel] * old[0])[:, others].T
        normal = design.T @ design
        normal = normal + matching._RIDGE * normal.trace() * torch.eye(len(normal))
        expected = torch.linalg.solve(normal, design.T @ left_over[pixel, others])
        # The ridge bounds the condition number by 1e4, and products are exact to 1e-13.
        scale = float(expected.abs().max()) + float(design.T.abs().sum(1).max())
        torch.testing.assert_close(best[:, pixel], expected, rtol=1e-7, atol=1e-8 * scale)


def test_sweeps_lower_the_error_for_one_head_and_for_two() -> None:
    waves = torch.linspace(0, 6, 64) + 6 * torch.rand(
        30, 1, generator=torch.Generator().manual_seed(0)
    )
    images = (waves.sin() + 0.3 * (2 * waves).cos()).reshape(30, 8, 8)
    for heads in (1, 2):
        torch.manual_seed(0)
        model = LaplaceCovariance(64, heads)
        model.initialise(images)
        before = model.relative_error(images)
        model.refit_amplitudes(images)
        assert model.relative_error(images) < before


# --- cross terms -------------------------------------------------------------------------------


@torch.no_grad()
def test_exact_cross_terms_in_the_span_of_rows_leave_an_unbiased_estimate() -> None:
    dim, count = 40, 10
    model = random_model(dim, 3, True, seed=0)
    rows = images_of(count, dim, seed=1)
    moments, heads = training.moments_of(rows), model.parts()
    exact = matching.squared_distance(
        heads, moments, rows, 1 / count, matching.probe_vectors(dim, None, None).double()
    )
    roots = matching.square_root(rows, 1 / count)
    generator = torch.Generator().manual_seed(3)
    draws: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(400):
        vectors = matching.probe_vectors(dim, 4, generator).double()
        for orthogonal, drawn in draws.items():
            distance = matching.squared_distance(heads, moments, roots, 1.0, vectors, orthogonal)
            drawn.append(float(distance))
    for drawn in draws.values():
        error = np.std(drawn) / 400**0.5
        assert abs(np.mean(drawn) - float(exact)) < 4 * error  # 4 standard errors, a fixed seed


@torch.no_grad()
def test_cross_terms_are_exact_where_the_heads_lie_in_the_span_of_the_images() -> None:
    images = images_of(9, 30, seed=2)
    model = LaplaceCovariance(30, heads=2, dtype=torch.float64)
    model.initialise(images, length=1e-12)
    rows = model.standardise(images)
    moments, roots = training.moments_of(rows), matching.square_root(rows, 1 / 9)
    every = matching.probe_vectors(30, None, None).double()
    one = matching.probe_vectors(30, 1, torch.Generator().manual_seed(0)).double()
    exact = matching.squared_distance(model.parts(), moments, roots, 1.0, every)
    estimated = matching.squared_distance(model.parts(), moments, roots, 1.0, one, True)
    torch.testing.assert_close(estimated, exact, rtol=1e-9, atol=0)


# --- finer images ------------------------------------------------------------------------------


@quick
@given(
    height=sides, width=sides, more=st.tuples(sides, sides), colours=st.booleans(),
    heads=st.integers(1, 2), phased=forms, seed=seeds,
)  # fmt: skip
def test_a_refined_model_has_the_covariances_of_its_parents(
    height: int,
    width: int,
    more: tuple[int, int],
    colours: bool,
    heads: int,
    phased: bool,
    seed: int,
) -> None:
    channels = (3,) if colours else ()
    shape = (height, width, *channels)
    new_shape = (height + more[0] - 1, width + more[1] - 1, *channels)
    assume(math.prod(shape) > 1)  # the only pixel has no gap to share out
    model = random_model(math.prod(shape), heads, phased, seed)
    with torch.no_grad():
        model.anchors.mul_(1e-12)  # at one place, so that shifts do not matter
    fine = model.refined(shape, new_shape)
    parent = torch.arange(model.dim).reshape(shape)
    for axis in (0, 1):
        chosen = torch.arange(new_shape[axis]) * shape[axis] // new_shape[axis]
        parent = parent.index_select(axis, chosen)
    parent = parent.flatten()
    expected = shared(model)[parent][:, parent]
    torch.testing.assert_close(shared(fine), expected, rtol=0, atol=1e-10)
    assert torch.equal(fine.mean, model.mean[parent])
    assert torch.equal(fine.deviation, model.deviation[parent])


@quick
@given(side=st.integers(2, 5), colours=st.booleans(), seed=seeds)
def test_refined_anchors_differ_and_stay_near_their_parents(
    side: int, colours: bool, seed: int
) -> None:
    channels = (3,) if colours else ()
    shape, new_shape = (side, side, *channels), (2 * side, 2 * side, *channels)
    model = random_model(math.prod(shape), 1, True, seed)
    fine = model.refined(shape, new_shape)
    assert len(fine.anchors.unique()) == fine.dim
    line = model.anchors[0].detach().sort().values
    room = 3 if colours else 1
    beyond = torch.arange(1, room + 1)  # the gaps at the ends go on
    longer = torch.cat(
        [
            line[0] - beyond.flip(0) * (line[1] - line[0]),
            line,
            line[-1] + beyond * (line[-1] - line[-2]),
        ]
    )
    parent = torch.arange(model.dim).reshape(shape)
    parent = parent.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
    rank = torch.searchsorted(line, model.anchors[0].detach())[parent]
    assert bool((fine.anchors[0] >= longer[rank]).all())
    assert bool((fine.anchors[0] <= longer[rank + 2 * room]).all())


def test_a_single_pixel_is_refined_to_different_places() -> None:
    fine = LaplaceCovariance(1, 1).refined((1, 1), (4, 5))
    assert len(fine.anchors.unique()) == 20


@quick
@given(side=st.integers(1, 5), seed=seeds)
def test_a_model_of_the_same_size_is_the_same(side: int, seed: int) -> None:
    model = random_model(side**2, 1, True, seed)
    anchors = model.refined((side, side), (side, side)).anchors
    torch.testing.assert_close(anchors, model.anchors, rtol=0, atol=0)


def test_coarse_to_fine_is_near_the_covariance_and_ends_at_the_size_of_the_images() -> None:
    grid = torch.linspace(0, 1, 40)
    generator = torch.Generator().manual_seed(0)
    centres = 0.5 + 0.1 * torch.randn(30, 2, generator=generator)
    images = torch.exp(
        -20 * (grid[:, None] - centres[:, :1, None]) ** 2 - 20 * (grid - centres[:, 1:, None]) ** 2
    )
    for heads in (1, 2):
        torch.manual_seed(0)
        model, history = fit_coarse_to_fine(images, heads=heads, smallest=10, steps=30)
        assert (model.dim, model.heads, len(history.losses)) == (1600, heads, 30)
        rows = model.standardise(images.flatten(1)).double()
        values = torch.linalg.eigvalsh(rows @ rows.T / 30)
        # At least as near as the components that it starts with.
        rest = float(values[: -2 * heads].square().sum() / values.square().sum())
        assert model.relative_error(images) < 2 * rest
    colours = images[..., None].expand(-1, -1, -1, 3)
    model, _ = fit_coarse_to_fine(colours.double(), smallest=20, steps=2, sweeps=1)
    assert model.dim == 4800


def test_likelihood_steps_start_where_the_noise_makes_images_likely() -> None:
    images = images_of(20, 6, 6, seed=3).float().cumsum(1).cumsum(2)
    torch.manual_seed(0)
    model = LaplaceCovariance(36, heads=1)
    model.fit(images, steps=100)
    with torch.no_grad():
        matched = float(model.log_prob(images).mean())
    history = model.fit(images, steps=0, likelihood_steps=1)
    assert history.log_likelihoods[0] >= matched - 1e-3 * abs(matched)


# --- errors ------------------------------------------------------------------------------------

GOOD = torch.rand(3, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.initialise(GOOD[:1]), ValueError, "images must contain at least 2"),
        (lambda m: m.initialise(GOOD, length=0), ValueError, "length must be positive"),
        (lambda m: m.initialise(GOOD.numpy()), TypeError, "use torch.as_tensor$"),
        (lambda m: m.refit_amplitudes(GOOD * torch.nan), ValueError, "images must be finite"),
        (lambda m: m.refit_amplitudes(GOOD, sweeps=0), ValueError, "sweeps must be at least 1"),
        (lambda m: m.refined((4, 5), (8, 8)), ValueError, "shape must be .* of 16 numbers"),
        (lambda m: m.refined((4, 4), (3, 8)), ValueError, "new_shape must be at least"),
        (lambda m: m.refined((4, 4), (8, 8, 3)), ValueError, "new_shape must be at least"),
        (lambda m: m.refined((4, 4), 8), TypeError, "new_shape must be"),
        (lambda m: fit_coarse_to_fine(GOOD.flatten(1)), ValueError, "images must be"),
        (lambda m: fit_coarse_to_fine(GOOD[:1]), ValueError, "images must contain at least 2"),
        (lambda m: fit_coarse_to_fine(GOOD, sweeps=0), ValueError, "sweeps must be at least 1"),
        (lambda m: fit_coarse_to_fine(GOOD, heads=0), ValueError, "heads must be at least 1"),
        (lambda m: fit_coarse_to_fine(GOOD, steps=-1), ValueError, "steps must be at least 0"),
    ],
)
def test_errors_name_argument_and_remedy(call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call(LaplaceCovariance(16, heads=2))
