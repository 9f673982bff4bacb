"""`laplex.jax.log_prob`: the density of the dense matrix, and its gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import laplex.jax
from laplex.gram import LaplaceGram, Term
from strategies import quick

log_prob = laplex.jax.log_prob
N = 6
#: Which of them depends on the version of JAX, and on whether it waits for the result.
FROM_XLA = (jax.errors.JaxRuntimeError, ValueError)
compiled = jax.jit(log_prob)
NAMES = ("values", "anchors", "lengthscale", "variance", "frequency", "noise")


def dense(values, anchors, lengthscale, variance, frequency=None, noise=None):
    """The density by its formula, of torch tensors without leading dimensions."""
    distance = (anchors[:, None] - anchors).abs()
    matrix = variance * torch.exp(-distance / lengthscale)
    if frequency is not None:
        matrix = matrix * torch.cos(frequency * distance)
    if noise is not None:
        matrix = matrix + torch.diag_embed(noise.expand(anchors.shape))
    zero = torch.zeros_like(values)
    return torch.distributions.MultivariateNormal(zero, matrix).log_prob(values)


@partial(jax.jit, static_argnames="still")
def density_and_gradients(own, still=False):
    names = [name for name in NAMES if not (still and name == "frequency")]
    return jax.value_and_grad(lambda own: log_prob(**dict(zip(names, own, strict=True))))(own)


@st.composite
def processes(draw: st.DrawFn) -> list[np.ndarray]:
    """All arrays; anchors may be tied, which takes another way through the core."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    gaps = draw(st.lists(st.sampled_from((0.0, 0.25, 1.0, 7.0)), min_size=N, max_size=N))
    anchors = rng.permutation(np.cumsum(gaps))
    numbers = [draw(st.sampled_from((0.3, 2.0))) for _ in range(2)]
    noise = rng.uniform(0.2, 1, draw(st.sampled_from((N, 1))))
    return [rng.standard_normal(N), anchors, *map(np.array, numbers), np.array(1.5), noise]


@quick
@given(processes(), st.booleans())
def test_density_and_gradients_are_those_of_the_dense_matrix(own, still):
    if still:
        del own[4]
    value, gradients = density_and_gradients(own, still=still)
    tensors = [torch.from_numpy(each).requires_grad_() for each in own]
    args = [*tensors[:4], None, tensors[4]] if still else tensors
    expected = dense(*args)
    expected.backward()
    # Eigenvalues lie between 0.2 and 2 N + 1: the dense matrix has a condition number below 65.
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    for one, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(one, tensor.grad, rtol=1e-10, atol=1e-10)


def problem(*lead: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {
        "values": rng.standard_normal((*lead, N)),
        "anchors": rng.random((*lead, N)) * 3,
        "lengthscale": np.asarray(0.5 + rng.random(lead)),
        "variance": np.asarray(0.5 + rng.random(lead)),
        "frequency": np.asarray(rng.random(lead)),
        "noise": 0.1 + rng.random((*lead, 1)),
    }


def test_same_as_laplace_gram():
    own = problem()
    kernel = Term(own["lengthscale"], own["variance"], own["frequency"])
    gram = LaplaceGram(own["anchors"], terms=kernel, noise=own["noise"])
    assert float(log_prob(**own)) == gram.log_prob(own["values"]).item()


@pytest.mark.parametrize("mapped", [("values",), ("lengthscale", "noise"), NAMES])
def test_vmap_is_a_loop(mapped):
    one, many = problem(), problem(3)
    own = {name: (many if name in mapped else one)[name] for name in NAMES}
    axes = {name: 0 if name in mapped else None for name in NAMES}
    both = jax.value_and_grad(lambda own: log_prob(**own))
    compiled = jax.jit(both)
    each = [
        compiled({name: a[b] if name in mapped else a for name, a in own.items()}) for b in range(3)
    ]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    ours = jax.jit(jax.vmap(both, (axes,)))(own)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_leading_dimensions_broadcast_and_gradients_are_summed():
    own = problem()
    rows = np.random.default_rng(0).standard_normal((2, 3, N))
    own |= {"values": rows, "lengthscale": np.array([0.5, 1.0, 2.0])}
    del own["frequency"]

    def loss(lengthscale, anchors):
        found = log_prob(**{**own, "lengthscale": lengthscale, "anchors": anchors})
        return found.sum(), found

    args = own["lengthscale"], own["anchors"]
    (_, found), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*args)
    assert found.shape == (2, 3)
    by_lengthscale, by_anchors = np.zeros(3), np.zeros(N)
    for row in rows:
        for k in range(3):
            ell = torch.tensor(own["lengthscale"][k], requires_grad=True)
            x = torch.from_numpy(own["anchors"]).requires_grad_()
            noise = torch.from_numpy(own["noise"])
            variance = torch.from_numpy(own["variance"])
            dense(torch.from_numpy(row[k]), x, ell, variance, None, noise).backward()
            by_lengthscale[k] += ell.grad.item()
            by_anchors += x.grad.numpy()
    np.testing.assert_allclose(gradients[0], by_lengthscale, rtol=1e-10)
    np.testing.assert_allclose(gradients[1], by_anchors, rtol=1e-10)


def test_tangents_are_products_with_the_gradients():
    own = problem()
    along = {name: np.ones_like(each) for name, each in own.items()}
    run = jax.jit(lambda own, along: jax.jvp(lambda own: log_prob(**own), (own,), (along,))[1])
    _, gradients = density_and_gradients(list(own.values()))
    expected = sum(np.sum(each) for each in gradients)
    np.testing.assert_allclose(run(own, along), expected, rtol=1e-13)


def test_single_precision_is_computed_in_double():
    jax.config.update("jax_enable_x64", False)
    own = {name: each.astype(np.float32) for name, each in problem().items()}
    value, gradients = jax.jit(jax.value_and_grad(lambda own: log_prob(**own)))(own)
    tensors = {
        name: torch.from_numpy(a.astype(np.float64)).requires_grad_() for name, a in own.items()
    }
    expected = dense(**tensors)
    expected.backward()
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, tensors[name].grad, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_nothing_observed(shape):
    values = np.zeros(shape)
    assert (log_prob(values, values) == np.zeros(shape[:-1])).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": [1.0]}, TypeError, "values must be a JAX or NumPy array"),
        ({"anchors": np.ones(2)}, ValueError, "anchors has 2 entries.*must have 3"),
        ({"anchors": np.ones(3, np.float32)}, TypeError, "anchors has dtype float32"),
        ({"noise": np.ones(2)}, ValueError, "noise has 2 entries.*must have 3"),
        ({"noise": "0.1"}, TypeError, "noise must be a float or an array"),
        ({"lengthscale": -1.0}, ValueError, "lengthscale must be positive"),
        ({"variance": -0.05, "noise": 1.0}, ValueError, "variance must be positive.*got -0.05"),
        ({"noise": float("inf")}, ValueError, "noise must be at least 0 and finite, got inf"),
        ({"noise": 0j}, TypeError, "noise must be a float or an array, got complex"),
        ({"variance": np.ones(2), "lengthscale": np.ones(3)}, ValueError, "do not broadcast"),
    ],
)
def test_bad_arguments_name_themselves(change, error, message):
    with pytest.raises(error, match=message):
        log_prob(**{"values": np.ones(3), "anchors": np.arange(3.0), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": np.full(N, np.inf)}, "anchors must be finite"),
        ({"frequency": 1e308, "anchors": 1e3 * np.arange(N)}, "anchors.*range times the frequency"),
        ({"lengthscale": 0.0}, "lengthscale must be positive and finite, got 0"),
        (
            {"variance": -0.05, "noise": np.ones(1)},
            "variance must be positive and finite, got -0",
        ),
        ({"variance": np.nan}, "variance must be positive and finite, got nan"),
        ({"frequency": np.nan}, "frequency must be finite, got nan"),
        ({"noise": np.array([-1.0])}, "noise must be finite and not negative.*got -1"),
        ({"noise": np.array([np.inf])}, "noise must be finite and not negative.*got inf"),
        ({"anchors": np.zeros(N), "noise": np.zeros(1)}, "singular"),
    ],
)
def test_bad_numbers_raise_when_xla_computes(change, message):
    own = problem() | {name: np.asarray(each) for name, each in change.items()}
    with pytest.raises(FROM_XLA, match=message):
        jax.block_until_ready(compiled(**own))


def test_there_is_no_second_derivative():
    def density(ell):
        return log_prob(np.ones(2), np.arange(2.0), lengthscale=ell)

    with pytest.raises(NotImplementedError, match=r"no second derivatives: use laplex\.gram"):
        jax.jit(jax.hessian(density)).lower(1.0)
