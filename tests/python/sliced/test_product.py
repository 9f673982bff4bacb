"""`laplex.sliced.matvec`: dense sums over the same directions, limits, derivatives, transforms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from laplex.sliced import matvec
from laplex.sliced.directions import KINDS, draw_rules, product_rule
from sliced_cases import DIMENSIONS, KERNELS, D, dense, distances, draw, kernel_at, unit_vectors
from strategies import quick

close = torch.testing.assert_close
pytestmark = pytest.mark.usefixtures("one_thread")


@quick
@given(
    kind=st.sampled_from(KERNELS),
    d=st.sampled_from(DIMENSIONS),
    n=st.integers(0, 9),
    m=st.none() | st.integers(1, 9),
    rows=st.sampled_from([(), (3,), (2, 1)]),
    lengthscale=st.sampled_from([0.1, 1.0, 25.0]),
    ties=st.booleans(),
    is_complex=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_are_those_of_dense_sums(kind, d, n, m, rows, lengthscale, ties, is_complex, seed):
    x, y = draw(n, d, seed=seed), None if m is None else draw(m, d, seed=seed + 1)
    if ties:
        x, y = x.round(), None if y is None else y.round()
    directions = unit_vectors(5, kind, d, seed)
    sources = x if y is None else y
    v = draw(*rows, len(sources), seed=seed + 2)
    if is_complex:
        v = torch.complex(v, draw(*v.shape, seed=seed + 3))
    options = {"lengthscale": lengthscale, "kernel": kind, "directions": directions}
    found = matvec(v, x, y, **options)
    matrix = dense(kind, x, sources, directions, lengthscale)
    assert found.shape == (*rows, n)
    assert found.dtype == v.dtype
    # Amplitudes of fitted kernels add up to at most 150 in these dimensions. Distances in
    # lengthscales, of which "energy" is a sum with both signs, are at most 100.
    scale = (
        (matrix.abs().max().item() if matrix.numel() else 0) + 1 + 150 * (d > 9) + 1 / lengthscale
    )
    close(found, v @ matrix.mT.to(v.dtype), rtol=0, atol=1e-12 * scale * (1 + float(v.abs().sum())))
    value, error = matvec(v, x, y, **options, return_error=True)
    close(value, found, rtol=1e-12, atol=1e-13 * scale * (1 + float(v.abs().sum())))
    assert error.shape == found.shape
    assert not error.is_complex()


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_mean_over_many_directions_approaches_the_kernel(kind, d, dtype):
    x, y, v = draw(20, d), draw(15, d, seed=1), draw(15, seed=2).abs()
    exact = kernel_at(kind, distances(x, y) / 2) @ v
    given = [each.to(dtype) for each in (v, x, y)]
    found = matvec(*given, lengthscale=2.0, kernel=kind, projections=2000)
    # 1/sqrt(P) is 0.022; a kernel on a line has a standard deviation below 1 (energy: below r).
    assert (found - exact).abs().max() < 0.1 * v.sum()
    if d in (2, 3):
        assert (found - exact).abs().max() < 2e-3 * v.sum()
    if d == 1:
        close(found, exact.to(dtype), rtol=1e-5 if dtype is torch.float32 else 1e-13, atol=0)


def test_the_error_falls_with_the_number_of_directions():
    x, v = draw(100, 5), torch.ones(100, dtype=D)
    exact = kernel_at("laplace", distances(x, x) / 2) @ v
    few, many = (
        (matvec(v, x, lengthscale=2.0, projections=p) - exact).square().mean().sqrt()
        for p in (20, 2000)
    )
    assert many < few / 4  # the law of 1/sqrt(P) says a tenth


@pytest.mark.parametrize("kind", ["laplace", "matern32", "energy"])
@pytest.mark.parametrize("d", [2, 3, 6, 20])
def test_two_standard_errors_cover_most_errors(kind, d):
    """About 0.92 of the errors, by Student's distribution of 7 degrees of freedom."""
    x, y, v = draw(12, d), draw(30, d, seed=1), torch.ones(30, dtype=D)
    exact = kernel_at(kind, distances(x, y) / 2) @ v
    covered, generator = [], torch.Generator().manual_seed(0)
    for _ in range(60):
        found, error = matvec(
            v, x, y, lengthscale=2.0, kernel=kind, generator=generator, return_error=True
        )
        covered.append(((found - exact).abs() <= 2 * error).double().mean())
    assert torch.stack(covered).mean() > 0.8


@pytest.mark.parametrize("kind", KERNELS)
def test_limits_of_the_lengthscale(kind):
    x, v = draw(8, 3), draw(8, seed=1)
    far = matvec(v, x, lengthscale=1e12, kernel=kind)
    near = matvec(v, x, lengthscale=1e-12, kernel=kind)
    if kind == "energy":
        close(far, torch.zeros_like(v), rtol=0, atol=1e-10)
    else:
        close(far, v.sum().expand(8), rtol=1e-10, atol=1e-10)
        close(near, v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3, 12])
def test_derivatives(kind, d):
    if d == 12:  # with dozens of coordinates, differences take long
        tensors = [draw(2), draw(2, d, seed=1), draw(2, d, seed=2), torch.tensor(1.3, dtype=D)]
    else:
        tensors = [draw(2, 3), draw(4, d, seed=1), draw(3, d, seed=2), torch.tensor(1.3, dtype=D)]
    if d == 2:
        tensors[3] = torch.tensor([0.7, 1.4], dtype=D)
    tensors = [each.requires_grad_() for each in tensors]

    def product(v, x, y, lengthscale):
        return matvec(v, x, y, lengthscale=lengthscale, kernel=kind, projections=2)

    assert gradcheck(product, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(product, tensors)

    def own(v, x, lengthscale):
        return matvec(v, x, lengthscale=lengthscale, kernel=kind, projections=2)

    itself = (draw(len(tensors[1])).requires_grad_(), tensors[1], tensors[3])
    assert gradcheck(own, itself)
    assert gradgradcheck(own, itself)


def test_derivatives_are_those_of_a_loop_that_keeps_everything(monkeypatch):
    """One direction a chunk, computed again in the backward pass, or all in one graph."""
    monkeypatch.setattr("laplex.sliced.chunks.ANCHORS", {"cpu": 1, "cuda": 1})
    x, v = draw(20, 4).requires_grad_(), draw(20).requires_grad_()
    u = matvec(v, x, projections=7)
    found = torch.autograd.grad(u.square().sum(), (v, x))

    def loss(v, x):
        return matvec(v, x, projections=7).square().sum()

    expected = torch.func.grad(loss, (0, 1))(v.detach(), x.detach())
    for one, other in zip(found, expected, strict=True):
        close(one, other, rtol=1e-13, atol=1e-13)


def test_a_graph_keeps_no_projections():
    x, v = draw(1000, 3).requires_grad_(), draw(1000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        matvec(v, x, projections=256)
    assert sum(tensor.numel() for tensor in kept) < 256 * 1000 / 4


def test_transforms():
    x, y, v = draw(6, 3), draw(5, 3, seed=1), draw(4, 5, seed=2)
    together = matvec(v, x, y)
    close(torch.vmap(lambda one: matvec(one, x, y))(v), together, rtol=0, atol=1e-13)
    moved = torch.stack((x, x + 1))
    mapped = torch.vmap(lambda points: matvec(v, points, y))(moved)
    close(mapped[1], matvec(v, x + 1, y), rtol=1e-12, atol=1e-13)

    def value(x):
        return matvec(v, x, y).sum()

    hessian = torch.func.hessian(value)(x)
    close(hessian, torch.autograd.functional.hessian(value, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KERNELS)
def test_compiles(kind):
    x, v = draw(6, 3), draw(6, seed=2)

    def product(v, x):
        return matvec(v, x, kernel=kind, projections=4)

    torch._dynamo.reset()  # the limit of compilations is that of all parameters of this test
    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    close(compiled(v, x), product(v, x), rtol=1e-13, atol=1e-13)
    for d in (2, 10):  # another function f each, fitted in the last one
        x = draw(6, d)
        close(compiled(v, x), product(v, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("d", [2, 3, 12])
def test_products_are_symmetric_and_do_not_move(kind, d):
    x, v, w = draw(30, d), draw(30, seed=1), draw(30, seed=2)
    close(w @ matvec(v, x, kernel=kind), v @ matvec(w, x, kernel=kind), rtol=1e-9, atol=1e-9)
    close(matvec(v, x + 100, kernel=kind), matvec(v, x, kernel=kind), rtol=1e-9, atol=1e-9)
    close(matvec(v, x, kernel=kind), matvec(v, x, x.clone(), kernel=kind), rtol=1e-10, atol=1e-10)


def test_the_same_call_has_the_same_directions_and_a_generator_others():
    x, v = draw(10, 4), draw(10, seed=1)
    assert torch.equal(matvec(v, x), matvec(v, x))
    generator = torch.Generator().manual_seed(3)
    first, second = (matvec(v, x, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, matvec(v, x, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_rules(kind, dimension, count):
    (rule,) = draw_rules(kind, count, dimension, None, 1)
    found, weights = rule
    assert found.shape == (1 if dimension == 1 else count, dimension)
    assert weights.min() > 0
    close(weights.sum(), torch.ones((), dtype=D))
    close(found.norm(dim=-1), torch.ones(len(found), dtype=D))
    if kind == "orthogonal" and dimension > 1:
        block = found[:dimension]
        close(block @ block.T, torch.eye(len(block), dtype=D), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_uniform(kind, dimension):
    """E xi xi^T = 1 / d, over many rotations of few directions."""
    generator = torch.Generator().manual_seed(0)
    rules = draw_rules(kind, 8000, dimension, generator, 2000)
    covariance = torch.stack([x.T @ (w[:, None] * x) for x, w in rules]).mean(0)
    # An entry of xi xi^T has a standard deviation below 1/2; 0.03 is five of the mean of 8000.
    close(covariance, torch.eye(dimension, dtype=D) / dimension, rtol=0, atol=0.03)


def test_the_product_rule_is_exact_for_even_polynomials():
    """E z^(2a) (x^2)^b over the sphere, by the formula of moments of Gaussian vectors."""
    directions, weights = product_rule(49)
    x, _, z = directions.unbind(-1)
    for a, b in ((0, 1), (1, 0), (1, 1), (2, 1), (3, 3), (0, 6), (6, 0)):
        exact = math.gamma(a + 0.5) * math.gamma(b + 0.5) / math.sqrt(math.pi)
        exact /= 2 * math.gamma(a + b + 1.5)
        found = (weights * z ** (2 * a) * x ** (2 * b)).sum()
        assert float(found) == pytest.approx(exact, rel=1e-13), (a, b)


def test_float32_keeps_its_digits_far_from_the_origin():
    x, v = draw(50, 3), draw(50, seed=1)
    x = (x * 1024).round() / 1024 + 4096  # exact in float32
    found = matvec(v.float(), x.float())
    close(found.double(), matvec(v.float().double(), x), rtol=0, atol=2e-5 * float(v.abs().sum()))


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-100, 2.0**100, 2.0**600, 2.0**1000])
def test_the_distance_has_no_unit(scale):
    x, v = draw(6, 3), draw(6, seed=1)
    expected = matvec(v, x, kernel="energy")
    close(matvec(v, x * scale, kernel="energy") / scale, expected, rtol=1e-13, atol=1e-13)
    close(matvec(v, x, kernel="energy", lengthscale=1 / scale) / scale, expected)
    if abs(math.log2(scale)) <= 100:
        found = matvec(v.float(), x.float() * scale, kernel="energy") / scale
        close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
@pytest.mark.parametrize("d", [2, 12])
def test_error_bars_contain_the_error_of_fits(kind, d):
    """At equal points all directions agree, so the error is that of f(0)."""
    x = draw(1, d).repeat(2, 1)
    found, error = matvec(torch.ones(2, dtype=D), x, kernel=kind, return_error=True)
    assert ((found - 2).abs() <= error + 1e-12).all()


def test_second_derivatives_of_a_smooth_kernel_are_those_in_space():
    """In contrast to those of kernels on a line with a kink, whose second derivatives are not."""
    x, origin = torch.tensor([[0.7, 0.0]], dtype=D), torch.zeros(1, 2, dtype=D)

    def product(x):
        return matvec(x.new_ones(1), x, origin, kernel="matern32", projections=256).sum()

    def exact(x):
        return kernel_at("matern32", x.norm())

    found = torch.autograd.functional.hessian(product, x).reshape(2, 2)
    expected = torch.autograd.functional.hessian(exact, x).reshape(2, 2)
    close(found, expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,)])
def test_shapes_of_lengthscales(shape):
    x, v = draw(6, 3), draw(6, seed=1)
    lengthscale = torch.full(shape, 1.5, dtype=D, requires_grad=True)
    found = matvec(v, x, lengthscale=lengthscale)
    close(found, matvec(v, x, lengthscale=1.5))
    (gradient,) = torch.autograd.grad(found.sum(), lengthscale)
    assert gradient.shape == shape


def test_fixed_directions_are_drawn_once_and_serve_autograd():
    x, v = draw(6, 5), draw(6, seed=1)
    with torch.inference_mode():
        expected = matvec(v, x, projections=23)
    x.requires_grad_()
    found = matvec(v, x, projections=23)
    found.sum().backward()
    assert torch.equal(found.detach(), expected)


def test_autocast_does_not_round_projections():
    x, v = draw(50, 3).float(), draw(50, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(matvec(v, x), matvec(v, x))
        inside = matvec(v, x)
    assert torch.equal(inside, matvec(v, x))


def test_a_kernel_on_a_line_has_no_error():
    x, v = draw(10, 1), draw(10, seed=1)
    found, error = matvec(v, x, return_error=True)
    close(found, torch.exp(-distances(x, x)) @ v)
    assert error.max() < 1e-15


X = torch.zeros(3, 2)
V = torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: matvec([1.0], X), TypeError, "values must be a torch tensor"),
        (lambda: matvec(V, [[1.0]]), TypeError, "targets must be a torch tensor"),
        (lambda: matvec(V, V), ValueError, r"targets must have shape \[n, d\]"),
        (lambda: matvec(V, torch.zeros(3, 0)), ValueError, r"targets must have shape \[n, d\]"),
        (lambda: matvec(V, X.half()), TypeError, "targets must be float32 or float64"),
        (lambda: matvec(V, X.long()), TypeError, "targets must be float32 or float64"),
        (lambda: matvec(V, X, X.double()), TypeError, "sources has dtype"),
        (lambda: matvec(V, X, torch.zeros(3, 3)), ValueError, "3 coordinates, but targets of 2"),
        (lambda: matvec(V, X, torch.zeros(4, 2)), ValueError, r"\[\*b, m\] with m = 4"),
        (lambda: matvec(V.double(), X), TypeError, "values has dtype torch.float64"),
        (lambda: matvec(V, X, kernel="rbf"), ValueError, "kernel must be one of"),
        (lambda: matvec(V, X, projections=0), ValueError, "projections must be at least 1"),
        (lambda: matvec(V, X, projections=2.5), TypeError, "projections must be an integer"),
        (lambda: matvec(V, X, directions="sphere"), ValueError, "directions must be one of"),
        (
            lambda: matvec(V, X, directions=X[:, :1]),
            ValueError,
            r"directions must have shape \[P, 2\]",
        ),
        (
            lambda: matvec(V, X, directions=torch.ones(4, 2)),
            ValueError,
            "directions must have length 1",
        ),
        (lambda: matvec(V, X, generator=3), TypeError, "generator must be a torch.Generator"),
        (lambda: matvec(V, X, return_error=1), TypeError, "return_error must be True or False"),
        (
            lambda: matvec(V, X, return_error=True, projections=1),
            ValueError,
            "at least 2 directions",
        ),
        (lambda: matvec(V, X, lengthscale=0.0), ValueError, "lengthscale must be positive"),
        (lambda: matvec(V, X, lengthscale="1"), TypeError, "lengthscale must be a number"),
        (
            lambda: matvec(V, X, lengthscale=-torch.ones(2)),
            ValueError,
            "lengthscale must be positive",
        ),
        (lambda: matvec(V, X, lengthscale=torch.ones(3)), ValueError, r"have shape \[2\]"),
        (lambda: matvec(V, X / 0), ValueError, "targets must be finite, but point 0 is"),
        (
            lambda: matvec(V, X, torch.tensor([[0.0, 0.0], [1.0, math.inf], [0.0, 0.0]])),
            ValueError,
            "sources must be finite, but point 1 is",
        ),
        (
            lambda: matvec(V, X, lengthscale=torch.tensor(math.inf)),
            ValueError,
            "lengthscale must be positive and finite",
        ),
        (
            lambda: matvec(V, X, lengthscale=torch.tensor(1e-50, dtype=D)),
            ValueError,
            "positive and finite in torch.float32",
        ),
        (
            lambda: matvec(V, torch.eye(3) * 1e30, lengthscale=1e-30),
            ValueError,
            "points divided by the lengthscale exceed the range of torch.float32",
        ),
        (lambda: matvec(V, X, projections=True), TypeError, "projections must be an integer"),
        (lambda: matvec(V, torch.zeros(3, 513)), NotImplementedError, "at most 512"),
    ],
)
def test_bad_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_energy_has_no_largest_dimension():
    x = draw(5, 1000)
    found = matvec(torch.ones(5, dtype=D), x, kernel="energy", projections=4000)
    # |xi_1| has a standard deviation of 0.76 of its mean; five of the mean of 4000 are 6 %.
    close(found, -distances(x, x).sum(-1), rtol=0.06, atol=0)
