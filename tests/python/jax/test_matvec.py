"""`laplex.jax.matvec`: the numbers of `laplex.matvec`, with JAX's transformations."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import laplex
import laplex.jax
from laplex import plan_cache
from strategies import assert_same_bits, awkward_anchor, draw_values, quick

matvec = laplex.jax.matvec
#: Which of them depends on the version of JAX, and on whether it waits for the result.
FROM_XLA = (jax.errors.JaxRuntimeError, ValueError)
compiled = jax.jit(matvec, static_argnames=("real_part", "kernel"))
FORMS = (
    ("real", "matern12"),
    ("real", "matern52"),
    ("carrier", "matern12"),
    ("oscillating", "matern32"),
    ("cosine", "matern12"),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and options of a call, of few shapes: XLA compiles each."""
    dtype = draw(st.sampled_from(("float64", "float32")))
    form, kernel = draw(st.sampled_from(FORMS))
    n, m = 7, draw(st.sampled_from((None, 5)))
    seed = draw(st.integers(0, 2**31))

    def anchors(count):
        numbers = draw(st.lists(awkward_anchor, min_size=count, max_size=count))
        return np.array(numbers, dtype)

    rng = np.random.default_rng(seed)
    arrays = {
        "values": draw_values(dtype, (2, m or n), seed, form == "oscillating"),
        "targets": anchors(n),
        "lengthscale": np.array(draw(st.sampled_from((1e-3, 0.25, 37.5)))),
    }
    if m is not None:
        arrays["sources"] = anchors(m)
    if form in ("oscillating", "cosine"):
        arrays["frequency"] = np.array(3 / arrays["lengthscale"])
    if form in ("carrier", "cosine"):
        arrays["target_phase"] = rng.uniform(-6, 6, n).astype(dtype)
        arrays["source_phase"] = rng.uniform(-6, 6, m or n).astype(dtype)
    return arrays, {"kernel": kernel, "real_part": form == "cosine"}


# --- numbers --------------------------------------------------------------------------------------


@quick
@given(calls())
def test_bits_are_those_of_torch(call):
    """Of products and of gradients by all arguments: both are the same calls of the core."""
    arrays, options = call
    tensors = {name: torch.from_numpy(a).requires_grad_() for name, a in arrays.items()}
    expected = laplex.matvec(**tensors, **options)
    ours = compiled(**arrays, **options)
    assert_same_bits(np.asarray(ours), expected.detach().numpy())

    grad = draw_values(str(arrays["targets"].dtype), expected.shape, 1, expected.is_complex())
    expected.backward(torch.from_numpy(grad))
    # JAX's cotangents are the conjugates of torch's gradients.
    found = gradients(jnp.asarray(grad.conj()), arrays, **options)
    for name, tensor in tensors.items():
        assert_same_bits(np.asarray(found[name].conj()), tensor.grad.resolve_conj().numpy())


@partial(jax.jit, static_argnames=("real_part", "kernel"))
def gradients(grad, arrays, **options):
    return jax.vjp(lambda arrays: matvec(**arrays, **options), arrays)[1](grad)[0]


def dense(form, kernel, side, v, x, y, ell, omega=None, theta=None, phi=None):
    """The product by its formula, of torch tensors."""
    distance = x[:, None] - y
    s = distance.abs() / ell * {"matern12": 1, "matern32": 3**0.5, "matern52": 5**0.5}[kernel]
    k = torch.exp(-s) * {"matern12": 1, "matern32": 1 + s, "matern52": 1 + s + s**2 / 3}[kernel]
    if side != "both":
        k = k * (distance >= 0 if side == "left" else distance <= 0)
    if omega is not None:
        angle = omega * distance.abs() + theta[:, None] - phi
        k = k * (torch.cos(angle) if form == "cosine" else torch.exp(1j * angle))
    return k.to(v.dtype) @ v if v.is_complex() else k @ v.to(k.dtype)


@pytest.mark.parametrize(
    ("form", "kernel", "side", "is_complex"),
    [
        ("real", "matern12", "both", False),
        ("complex", "matern12", "left", True),
        ("cosine", "matern52", "right", False),
    ],
)
def test_derivatives_are_those_of_the_formula(form, kernel, side, is_complex):
    """First and second ones, by all arguments at once, and in both modes."""
    rng = np.random.default_rng(3)
    n, m = 4, 3
    own = [rng.random(m), rng.random(m), rng.random(n), rng.random(m), np.array(0.7)]
    if form != "real":
        own += [np.array(2.0), rng.random(n), rng.random(m)]
    along = [rng.standard_normal(each.shape) for each in own]
    weights = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    names = ("lengthscale", "frequency", "target_phase", "source_phase")

    def ours(real, imaginary, x, y, *rest):
        v = real + 1j * imaginary if is_complex else real
        options = dict(zip(names, rest, strict=False))
        options |= {"kernel": kernel, "side": side, "real_part": form == "cosine"}
        return jnp.sum((weights * jnp.exp(0.3 * matvec(v, x, y, **options))).real)

    def theirs(real, imaginary, *rest):
        v = real + 1j * imaginary if is_complex else real + 0 * imaginary
        u = dense(form, kernel, side, v, *rest)
        return (torch.from_numpy(weights) * torch.exp(0.3 * u)).real.sum()

    gradient = jax.grad(ours, tuple(range(len(own))))

    @jax.jit
    def everything(own, along):
        def along_gradient(*own):
            return sum(jnp.vdot(g, t) for g, t in zip(gradient(*own), along, strict=True))

        return (
            gradient(*own),
            jax.jvp(ours, own, along)[1],
            jax.jvp(gradient, own, along)[1],
            jax.grad(along_gradient, tuple(range(len(own))))(*own),
        )

    first, slope, forward, reverse = everything(tuple(map(jnp.asarray, own)), tuple(along))
    tensors = tuple(torch.from_numpy(each) for each in own)
    tangents = tuple(torch.from_numpy(each) for each in along)
    expected = torch.autograd.functional.jacobian(theirs, tensors)
    _, second = torch.autograd.functional.vhp(theirs, tensors, tangents)
    # Sums of some hundred terms of size 1 to 100, from divisions by 0.7 and factors of 2.
    close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
    close(slope, sum((g * t).sum() for g, t in zip(expected, tangents, strict=True)))
    for k in range(len(own)):
        close(first[k], expected[k])
        close(forward[k], second[k])
        close(reverse[k], second[k])


def test_lengthscale_has_four_derivatives():
    x, v = np.array([0.0, 0.4, 1.0]), np.array([1.0, -0.5, 2.0])

    def ours(ell):
        return matvec(v, x, lengthscale=ell).sum()

    ell = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    tensors = torch.from_numpy(v), torch.from_numpy(x)
    theirs = dense("real", "matern12", "both", *tensors, tensors[1], ell).sum()
    for _ in range(4):
        ours = jax.grad(ours)
        (theirs,) = torch.autograd.grad(theirs, ell, create_graph=True)
        np.testing.assert_allclose(jax.jit(ours)(0.7), theirs.item(), rtol=1e-11)
    with pytest.raises(NotImplementedError, match="at most 4 times"):
        jax.jit(jax.grad(ours)).lower(0.7)


def test_ties_follow_the_convention_that_the_sign_of_0_is_0():
    x, v = np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0])
    gradient = jax.jit(jax.grad(lambda x: jnp.sin(matvec(v, x)).sum()))(x)
    anchors = torch.from_numpy(x).requires_grad_()
    args = torch.from_numpy(v), anchors, anchors, 1.0
    torch.sin(dense("real", "matern12", "both", *args)).sum().backward()
    np.testing.assert_allclose(gradient, anchors.grad, rtol=1e-13)


def test_single_precision_without_x64():
    jax.config.update("jax_enable_x64", False)
    rng = np.random.default_rng(0)
    x, v = (rng.random(50).astype(np.float32) for _ in range(2))
    u = matvec(v, x, lengthscale=0.25)
    assert u.dtype == np.float32
    assert_same_bits(np.asarray(u), laplex.Plan(x, lengthscale=0.25).apply(v))
    k = np.exp(-np.abs(x[:, None].astype(float) - x) / np.float32(0.3))
    by_lengthscale = jax.grad(lambda ell: matvec(v, x, lengthscale=ell).sum())(0.3)
    assert by_lengthscale.dtype == np.float32
    exact = (k * np.abs(x[:, None].astype(float) - x) / np.float32(0.3) ** 2 @ v).sum()
    np.testing.assert_allclose(by_lengthscale, exact, rtol=1e-5)  # 2500 terms, all positive


# --- transformations ------------------------------------------------------------------------------

RNG = np.random.default_rng(11)
B, N, M = 3, 6, 5
#: Arguments without a batch, and with one.
ONE = [RNG.standard_normal(M), RNG.random(N), RNG.random(M), np.array(0.5)]
MANY = [RNG.standard_normal((B, M)), RNG.random((B, N)), RNG.random((B, M)), RNG.random(B) + 0.2]


def plain(v, x, y, ell):
    return matvec(v, x, y, lengthscale=ell)


@pytest.mark.parametrize(
    "mapped", [(0,), (1,), (3,), (0, 3), (1, 2), (0, 1, 2, 3)], ids=lambda m: "".join(map(str, m))
)
def test_vmap_is_a_loop(mapped):
    """Of products, of gradients by all arguments, and of derivatives along tangents."""
    args = [MANY[k] if k in mapped else ONE[k] for k in range(4)]
    axes = tuple(0 if k in mapped else None for k in range(4))

    def all_of(*args):
        gradients = jax.grad(lambda *a: jnp.sin(plain(*a)).sum(), (0, 1, 2, 3))(*args)
        along = jax.jvp(plain, args, tuple(map(jnp.ones_like, args)))[1]
        return plain(*args), gradients, along

    compiled = jax.jit(all_of)
    each = [compiled(*(a[b] if k in mapped else a for k, a in enumerate(args))) for b in range(B)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    ours = jax.jit(jax.vmap(all_of, axes))(*args)
    assert_same_bits(np.asarray(ours[0]), expected[0])
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        # The sine's last bit may depend on the shape, and a sum of XLA on the layout.
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


def test_gradient_of_nested_vmap():
    rows = RNG.standard_normal((2, B, M))

    def nested(v, x, y, ell):
        inner = jax.vmap(plain, (0, None, None, None))
        return jnp.sin(jax.vmap(inner, (0, None, None, None))(v, x, y, ell)).sum()

    def direct(v, x, y, ell):
        return jnp.sin(plain(v, x, y, ell)).sum()

    ours, theirs = (jax.jit(jax.grad(f, (0, 1, 2, 3)))(rows, *ONE[1:]) for f in (nested, direct))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("v", "x", "ell"),
    [
        ((4, 1), (3,), (3,)),  # rows and heads
        ((4, 3), (), (3,)),  # heads that share their anchors
        ((2, 1, 4), (3, 1), (3, 1)),  # a head between two rows
        ((), (2, 3), ()),
    ],
)
def test_leading_dimensions_broadcast(v, x, ell):
    """As in torch, whose call is the same."""
    rng = np.random.default_rng(5)
    arrays = [rng.random((*lead, k)) for lead, k in ((v, M), (x, N), (x, M))]
    arrays.append(np.asarray(0.2 + rng.random(ell)))

    @jax.jit
    def ours(*args):
        u, back = jax.vjp(plain, *args)
        return u, *back(u)

    tensors = [torch.from_numpy(each).requires_grad_() for each in arrays]
    u = laplex.matvec(*tensors[:3], lengthscale=tensors[3])
    (u.square().sum() / 2).backward()
    for one, other in zip(ours(*arrays), (u.detach(), *(t.grad for t in tensors)), strict=True):
        # Sums of at most 24 rows or heads, of terms below 5 / 0.2^2.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "m", "b"), [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_nothing_to_sum(n, m, b):
    arrays = np.zeros((b, m)), np.zeros(n), np.zeros(m), 1.0

    @jax.jit
    def both(*args):
        return jax.value_and_grad(lambda *a: ((u := plain(*a)).sum(), u), (0, 1, 2, 3), True)(*args)

    (_, u), found = both(*arrays)
    assert u.shape == (b, n)
    assert all((each == 0).all() for each in (u, *found))


# --- the core -------------------------------------------------------------------------------------


def test_a_compiled_loop_sorts_fixed_anchors_once():
    x = jnp.asarray(np.random.default_rng(0).random(300))

    @jax.jit
    def power(v):
        def step(_, v):
            v = matvec(v, x, lengthscale=0.1)
            return v / jnp.linalg.norm(v)

        return jax.lax.fori_loop(0, 20, step, v)

    plan_cache.clear()
    power(jnp.ones(300)).block_until_ready()
    assert plan_cache.info()[-2:] == (19, 1)


def test_threads_share_the_core():
    rng = np.random.default_rng(0)
    problems = [tuple(map(jnp.asarray, (rng.random(400), rng.random(400)))) for _ in range(4)]
    compiled = jax.jit(lambda v, x: jax.grad(lambda x: matvec(v, x).sum())(x))
    alone = [np.asarray(compiled(*problem)) for problem in problems]
    together: dict[int, list[np.ndarray]] = {k: [] for k in range(4)}

    def work(k: int) -> None:
        for _ in range(5):
            together[k].append(np.asarray(compiled(*problems[k])))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, results in together.items():
        assert len(results) == 5
        for result in results:
            assert_same_bits(result, alone[k])


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": [1.0]}, TypeError, "values must be a JAX or NumPy array, got list"),
        ({"targets": np.arange(4)}, TypeError, "targets has dtype int"),
        ({"targets": np.array(1.0)}, ValueError, r"targets is a scalar.*targets\[None\]"),
        ({"values": np.array(1.0)}, ValueError, r"values is a scalar"),
        ({"values": np.ones(3)}, ValueError, "values has 3 entries.*must have 4"),
        ({"values": np.ones(4, np.float32)}, TypeError, "values has dtype float32"),
        ({"sources": np.ones(4, np.float32)}, TypeError, "sources has dtype float32"),
        ({"target_phase": np.ones(3)}, ValueError, "target_phase has 3 entries"),
        ({"lengthscale": 0.0}, ValueError, "lengthscale must be positive and finite, got 0"),
        ({"lengthscale": "1"}, TypeError, "lengthscale must be a float or an array, got str"),
        ({"lengthscale": np.array(2)}, TypeError, "lengthscale has dtype int"),
        (
            {"lengthscale": np.complex64(1 + 2j)},
            TypeError,
            "lengthscale must be.*got complex64",
        ),
        ({"lengthscale": np.str_("2")}, TypeError, "lengthscale must be a float.*got str_"),
        ({"lengthscale": 10**400}, ValueError, "lengthscale must be finite"),
        ({"frequency": False}, TypeError, "frequency must be a float or an array, got bool"),
        ({"values": np.array(["1"] * 4)}, TypeError, "values has dtype <U1"),
        ({"lengthscale": np.ones(3), "targets": np.ones((2, 4))}, ValueError, "do not broadcast"),
        ({"frequency": float("inf")}, ValueError, "frequency must be finite"),
        ({"real_part": "yes"}, TypeError, "real_part must be True or False"),
        ({"kernel": "rbf"}, ValueError, "kernel must be 'matern12'"),
        ({"side": "up"}, ValueError, "side must be 'both'"),
    ],
)
def test_bad_arguments_name_themselves(change, error, message):
    arguments = {"values": np.ones(4), "targets": np.ones(4), **change}
    with pytest.raises(error, match=message):
        matvec(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.array([0.0, np.nan])}, "targets.*NaN"),
        # The core's own lengthscale is this one divided by sqrt(3).
        ({"lengthscale": np.array(-1.0), "kernel": "matern32"}, "lengthscale must.*got -1"),
    ],
)
def test_bad_numbers_in_arrays_raise_when_xla_computes(change, message):
    arguments = {"values": np.ones(2), "targets": np.ones(2), **change}
    with pytest.raises(FROM_XLA, match=message):
        jax.block_until_ready(matvec(**arguments))


def test_without_jit():
    """By the switch of JAX for debugging."""
    x, v = np.array([0.0, 0.4, 1.0]), np.array([1.0, -0.5, 2.0])

    def product_and_gradients():
        return jax.vjp(matvec, v, x)[1](matvec(v, x))

    expected = product_and_gradients()
    with jax.disable_jit():
        found = product_and_gradients()
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(np.asarray(one), np.asarray(other))


def test_a_gpu_is_refused():
    traced = jax.jit(matvec).trace(jnp.ones(2), jnp.ones(2))
    with pytest.raises(NotImplementedError, match=r"on the CPU only: move.*laplex\.cuda\.Plan"):
        traced.lower(lowering_platforms=("cuda",))
