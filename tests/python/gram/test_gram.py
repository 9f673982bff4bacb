"""`LaplaceGram` against dense float64 algebra and celerite2, its derivatives, and what it refuses.

Tolerances. The factorisation is backward stable: its result belongs to a matrix that is off by a
few units in the last place of sqrt(A_ii A_jj). What is read off it is then off by that times the
condition number, as for any dense solver: `dense_error` allows EPSILON * cond * n.
"""

from __future__ import annotations

import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import laplex
from laplex.gram import Conditional, LaplaceGram, Term
from strategies import awkward_anchor, quick

D = torch.float64
EPSILON = torch.finfo(D).eps


# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def real(n: int) -> LaplaceGram:
    return LaplaceGram(3 * uniform(n), lengthscale=0.5, noise=0.1)


def noiseless(n: int) -> LaplaceGram:
    return LaplaceGram(3 * uniform(n, seed=1), lengthscale=0.5, variance=2.0)


def oscillating(n: int) -> LaplaceGram:
    return LaplaceGram(3 * uniform(n), lengthscale=0.5, frequency=4.0, noise=uniform(n) + 0.1)


def phased(n: int) -> LaplaceGram:
    return LaplaceGram(uniform(n), phase=6 * uniform(n, seed=2), scale=draw(n), noise=0.2)


def summed(n: int) -> LaplaceGram:
    terms = [Term(0.3, 2.0), Term(1.5, frequency=3.0), Term(0.8, phase=draw(n), scale=draw(n))]
    return LaplaceGram(3 * uniform(n), terms=terms, noise=uniform(n) + 0.05)


def batched(n: int) -> LaplaceGram:
    return LaplaceGram(
        uniform(3, 1, n), lengthscale=uniform(2, seed=3) + 0.2, noise=uniform(3, 1, 1) + 0.1
    )


MODELS = (real, noiseless, oscillating, phased, summed, batched)


def dense_error(matrix: torch.Tensor) -> float:
    return 4 * EPSILON * matrix.shape[-1] * float(torch.linalg.cond(matrix).max())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [1, 2, 7, 400])
def test_against_dense(model, n):
    gram = model(n)
    A = gram.to_dense()
    batch = A.shape[:-2]
    v = draw(5, *batch, n, seed=9)
    error = dense_error(A)
    size = v.abs().sum()
    torch.testing.assert_close(gram.diagonal(), A.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(
        gram.matvec(v), (A @ v[..., None])[..., 0], rtol=0, atol=1e-13 * size
    )
    solution = torch.linalg.solve(A, v[..., None])[..., 0]
    torch.testing.assert_close(gram.solve(v), solution, rtol=0, atol=error * solution.norm())
    torch.testing.assert_close(gram.logdet(), torch.logdet(A), rtol=0, atol=error)
    normal = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=D), A)
    expected = normal.log_prob(v)
    torch.testing.assert_close(
        gram.log_prob(v), expected, rtol=0, atol=error * float(expected.abs().max() + n)
    )
    # S S^T = A, whitening undoes colouring, transposes are transposes.
    eye = torch.eye(n, dtype=D).reshape(n, *(1,) * len(batch), n).expand(n, *batch, n)
    S = gram.color(eye).movedim(0, -1)
    torch.testing.assert_close(S @ S.mT, A, rtol=0, atol=1e-13 * float(A.abs().max()))
    torch.testing.assert_close(gram.color(eye, transpose=True).movedim(0, -1), S.mT)
    torch.testing.assert_close(gram.whiten(gram.color(v)), v, rtol=1e-10, atol=1e-10)
    back = gram.whiten(gram.color(v, transpose=True), transpose=True)
    torch.testing.assert_close(back, v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_conditional_against_dense(model):
    n = 60
    gram = model(n)
    A = gram.to_dense()
    batch = A.shape[:-2]
    v = draw(2, *batch, n, seed=9)
    observed = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:35]
    conditional = gram.condition(observed, v[..., observed])
    rest = conditional.rest
    assert sorted([*observed.tolist(), *rest.tolist()]) == list(range(n))
    Aoo, Aro = A[..., observed, :][..., observed], A[..., rest, :][..., observed]
    error = dense_error(Aoo) * 10
    mean = (Aro @ torch.linalg.solve(Aoo, v[..., observed, None]))[..., 0]
    inner = torch.linalg.solve(Aoo, Aro.mT)
    covariance = A[..., rest, :][..., rest] - Aro @ inner
    torch.testing.assert_close(conditional.mean, mean, rtol=0, atol=error)
    torch.testing.assert_close(
        conditional.variance, covariance.diagonal(dim1=-2, dim2=-1), rtol=0, atol=error
    )
    mask = torch.zeros(n, dtype=torch.bool)
    mask[observed] = True
    by_mask = gram.condition(mask, v[..., mask])
    torch.testing.assert_close(by_mask.mean, mean, rtol=0, atol=error)
    samples = conditional.sample((4000,), generator=torch.Generator().manual_seed(1))
    assert samples.shape == (4000, 2, *batch, rest.numel())
    centred = samples - mean
    found = torch.einsum("s...i,s...j->...ij", centred, centred)[0] / 4000
    # Each entry has standard deviation <= sqrt(2/4000) * sqrt(C_ii C_jj): six of them.
    deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    allowed = 6 * math.sqrt(2 / 4000) * deviation[..., :, None] * deviation[..., None, :]
    assert bool(((found - covariance).abs() <= allowed + 1e-12).all())


def test_predict_is_condition_without_noise():
    x, noise = uniform(40), uniform(40, seed=4) + 0.1
    targets = torch.cat((uniform(10, seed=5), x[:3]))
    terms = [Term(0.3, 2.0), Term(1.0, frequency=5.0)]
    gram = LaplaceGram(x, terms=terms, noise=noise)
    y = draw(40)
    prediction = gram.predict(targets, y)
    A = LaplaceGram(torch.cat((x, targets)), terms=terms, noise=None).to_dense()
    Aoo, Aro = A[:40, :40] + torch.diag(noise), A[40:, :40]
    torch.testing.assert_close(prediction.mean, Aro @ torch.linalg.solve(Aoo, y))
    variance = (A[40:, 40:] - Aro @ torch.linalg.solve(Aoo, Aro.T)).diagonal()
    torch.testing.assert_close(prediction.latent_variance, variance)
    torch.testing.assert_close(prediction.variance, variance)
    assert "13 entries given 40" in repr(prediction)
    assert isinstance(prediction, Conditional)


@given(
    anchors=st.lists(awkward_anchor, min_size=0, max_size=24),
    frequency=st.sampled_from([0.0, 2.5]),
    noise=st.floats(1e-3, 10),
    seed=st.integers(0, 9),
)
@quick
def test_any_anchors(anchors, frequency, noise, seed):
    """Ties, denormals, gaps of 60 decades: A x = b holds to a few units of |A| |x|."""
    x = torch.tensor(anchors, dtype=D)
    # A frequency times a gap of 1e30 has no digits left, in any formula.
    x = x.clamp(-1e3, 1e3) if frequency else x
    gram = LaplaceGram(x, lengthscale=0.7, frequency=frequency, noise=noise)
    b = draw(len(anchors), seed=seed)
    A = gram.to_dense()
    solution = gram.solve(b)
    residual = (A @ solution - b).abs()
    n = len(anchors)
    assert bool((residual <= 1e-12 * (1 + noise) * solution.abs().sum() + 1e-300).all())
    logdet = gram.logdet()
    assert abs(float(logdet - torch.logdet(A))) <= 1e-12 * n * n * (1 + noise) / noise


def test_precision_is_the_inverse():
    gram = LaplaceGram(3 * uniform(2, 50), lengthscale=0.7, variance=2.0, scale=draw(50) + 3)
    order, diagonal, off = gram.precision()
    for b in range(2):
        A = gram.to_dense()[b][order[b]][:, order[b]]
        tridiagonal = torch.diag(diagonal[b]) + torch.diag(off[b], 1) + torch.diag(off[b], -1)
        torch.testing.assert_close(tridiagonal @ A, torch.eye(50, dtype=D), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"tridiagonal .* use solve\(\)"):
        real(5).precision()


def test_close_anchors_without_noise():
    """Condition numbers up to 1e12 and far beyond: exact for one real term, by its closed form."""
    for smallest in (1e-6, 1e-12, 1e-300):
        gaps = torch.tensor([smallest, 0.3, smallest, smallest, 1.0, smallest], dtype=D)
        x = torch.cat((torch.zeros(1, dtype=D), gaps.cumsum(0))) if smallest > 1e-15 else None
        if x is None:
            x = torch.tensor([0.0, smallest, 3 * smallest], dtype=D)
        gram = LaplaceGram(x)
        expected = torch.log(-torch.expm1(-2 * x.diff())).sum()
        # Up to seven logarithms on either side, each right to a unit in the last place or two.
        torch.testing.assert_close(gram.logdet(), expected, rtol=4e-15, atol=0)
        gram.log_prob(torch.zeros(len(x), dtype=D))


def exact_logdet(gram: LaplaceGram) -> float:
    """By 100 digits, for a sum of terms without phases and scales."""
    with mpmath.workdps(100):

        def entry(a: float, b: float) -> object:
            gap = mpmath.mpf(a) - mpmath.mpf(b)
            return mpmath.fsum(
                mpmath.exp(-abs(gap) / term.lengthscale) * mpmath.cos(term.frequency * gap)
                for term in gram.terms
            )

        x = gram.anchors.tolist()
        return float(mpmath.log(mpmath.det(mpmath.matrix([[entry(a, b) for b in x] for a in x]))))


def test_ill_conditioned_sums_are_right_or_refused():
    """Three columns, no noise, gaps down to 1e-16: the condition number is about 1 / gap."""
    refused = []
    for exponent in range(2, 17):
        x = 0.37 + 10.0**-exponent * torch.arange(5, dtype=D)
        gram = LaplaceGram(x, terms=[Term(1.0, frequency=2.0), Term(0.5)])
        try:
            logdet = float(gram.logdet())
        except np.linalg.LinAlgError as error:
            refused.append((exponent, str(error)))
            continue
        # A pivot of about the gap is a difference of numbers of about 1: it loses that many digits.
        assert abs(logdet - exact_logdet(gram)) <= 10.0 ** (exponent - 13)
    assert all(exponent > 13 for exponent, _ in refused)
    assert all("singular" in message for _, message in refused)
    assert refused  # at gaps of 1e-16 anchors coincide


def test_float32_is_float64_rounded():
    gram = LaplaceGram(uniform(100).float(), lengthscale=0.3, noise=0.1)
    double = LaplaceGram(gram.anchors.double(), lengthscale=0.3, noise=0.1)
    v = draw(3, 100).float()
    for method in ("matvec", "solve", "color", "whiten", "log_prob"):
        found = getattr(gram, method)(v)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, getattr(double, method)(v.double()).float())
    assert gram.logdet().dtype is gram.sample().dtype is torch.float32


# --- derivatives ---------------------------------------------------------------------------------


def parameters(n: int) -> tuple[torch.Tensor, ...]:
    """Anchors, lengthscale, variance, frequency, phase, scale, noise."""
    tensors = (
        2 * uniform(n, seed=11),
        torch.tensor(0.6, dtype=D),
        torch.tensor(1.3, dtype=D),
        torch.tensor(2.0, dtype=D),
        draw(n, seed=12),
        1 + 0.3 * draw(n, seed=13),
        uniform(n, seed=14) + 0.2,
    )
    return tuple(tensor.requires_grad_() for tensor in tensors)


def build(tensors: tuple[torch.Tensor, ...]) -> LaplaceGram:
    x, lengthscale, variance, frequency, phase, scale, noise = tensors
    terms = [Term(lengthscale, variance, frequency, phase, scale), Term(2 * lengthscale)]
    return LaplaceGram(x, terms=terms, noise=noise)


FUNCTIONS = {
    "matvec": lambda gram, v: gram.matvec(v),
    "solve": lambda gram, v: gram.solve(v),
    "logdet": lambda gram, v: gram.logdet(),
    "log_prob": lambda gram, v: gram.log_prob(v),
    "color": lambda gram, v: gram.color(v),
    "color^T": lambda gram, v: gram.color(v, transpose=True),
    "whiten": lambda gram, v: gram.whiten(v),
    "whiten^T": lambda gram, v: gram.whiten(v, transpose=True),
    "mean": lambda gram, v: gram.condition(torch.tensor([0, 2, 4]), v[..., [0, 2, 4]]).mean,
    "variance": lambda gram, v: gram.condition(torch.tensor([0, 2, 4]), v[..., [0, 2, 4]]).variance,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name):
    tensors = parameters(6)
    v = draw(2, 6, seed=15).requires_grad_()

    def function(v, *tensors):
        return FUNCTIONS[name](build(tensors), v)

    assert gradcheck(function, (v, *tensors))
    if name != "variance":  # itself a derivative: once more only
        assert gradgradcheck(function, (v, *tensors), atol=1e-4)


def test_values_and_parameters_may_be_functions_of_each_other():
    def function(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        gram = LaplaceGram(scale * x, lengthscale=scale * x.mean(), variance=scale, noise=0.1)
        return gram.log_prob(scale * x.sin())

    inputs = (uniform(6).requires_grad_(), torch.tensor(1.3, dtype=D, requires_grad=True))
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, atol=1e-4)


def test_one_derivative_too_many_says_so():
    x = uniform(5).requires_grad_()
    value = LaplaceGram(x, noise=0.1).logdet()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first and second derivatives"):
        torch.autograd.grad(second.sum(), x)
    given = torch.tensor([0, 2])
    variance = LaplaceGram(x, noise=0.1).condition(given, draw(2)).variance
    (first,) = torch.autograd.grad(variance.sum(), x, create_graph=True)
    with pytest.raises(
        NotImplementedError, match="only first derivatives of conditional variances"
    ):
        torch.autograd.grad(first.sum(), x)


def test_what_autograd_cannot_do_is_refused():
    x, v = uniform(5), draw(5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, v)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            LaplaceGram(dual, noise=0.1).logdet()
        with pytest.raises(NotImplementedError, match="forward-mode"):
            LaplaceGram(x, noise=0.1).solve(forward_ad.make_dual(v, v))
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.grad(lambda x: LaplaceGram(x, noise=0.1).logdet())(x)
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.vmap(LaplaceGram(x, noise=0.1).solve)(draw(3, 5))


@pytest.mark.parametrize("name", ["solve", "logdet", "log_prob", "mean"])
def test_ties_have_sign_zero(name):
    """As torch.abs has, through which the dense matrix is differentiated."""
    x = torch.tensor([0.0, 1, 1, 2, 1, 0, 3], dtype=D, requires_grad=True)
    v, weights = draw(7), draw(7, seed=3)

    def dense(A):
        if name == "solve":
            return torch.linalg.solve(A, v) @ weights
        if name == "logdet":
            return torch.logdet(A)
        if name == "mean":
            inner = torch.linalg.solve(A[[0, 2, 4]][:, [0, 2, 4]], v[[0, 2, 4]])
            return (A[[1, 3, 5, 6]][:, [0, 2, 4]] @ inner) @ weights[:4]
        return torch.distributions.MultivariateNormal(torch.zeros(7, dtype=D), A).log_prob(v)

    gram = LaplaceGram(x, terms=[Term(0.5), Term(1.0, frequency=2.0)], noise=0.3)
    (expected,) = torch.autograd.grad(dense(gram.to_dense()), x)
    found = FUNCTIONS[name](gram, v)
    found = found @ weights if name == "solve" else found
    found = found @ weights[:4] if name == "mean" else found
    (gradient,) = torch.autograd.grad(found, x)
    torch.testing.assert_close(gradient, expected)


def test_gradients_of_a_batch_are_those_of_its_matrices():
    x = uniform(3, 1, 20).requires_grad_()
    lengthscale = (uniform(2) + 0.3).requires_grad_()
    v = draw(4, 3, 2, 20)
    LaplaceGram(x, lengthscale=lengthscale, noise=0.1).log_prob(v).sum().backward()
    both = torch.zeros(2, dtype=D)
    for i in range(3):
        for k in range(2):
            one, ell = x.detach()[i, 0].requires_grad_(), lengthscale.detach()[k].requires_grad_()
            LaplaceGram(one, lengthscale=ell, noise=0.1).log_prob(v[:, i, k]).sum().backward()
            both[k] += ell.grad
    torch.testing.assert_close(lengthscale.grad, both)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_parameters_changed_in_place_are_seen(dtype):
    """As an optimiser does; float32 ones are converted, each time anew."""
    ell, noise = torch.tensor(0.5, dtype=dtype), torch.tensor([0.1], dtype=dtype)
    gram = LaplaceGram(uniform(20), lengthscale=ell, noise=noise)
    gram.logdet()
    ell.mul_(2)
    noise.mul_(3)
    again = LaplaceGram(uniform(20), lengthscale=ell, noise=noise)
    torch.testing.assert_close(gram.logdet(), again.logdet())
    torch.testing.assert_close(gram.diagonal(), again.diagonal())


def test_inference_mode():
    with torch.inference_mode():
        x = uniform(20)
        gram = LaplaceGram(x, noise=0.1)
        before = gram.logdet()
        x.mul_(2)
        assert gram.logdet() != before
    assert gram.logdet() != before
    gram = LaplaceGram(uniform(20).requires_grad_(), noise=0.1)
    with torch.inference_mode():
        assert gram.logdet() == before
    (gradient,) = torch.autograd.grad(gram.logdet(), gram.anchors)
    assert gradient.isfinite().all()


def test_anchors_changed_in_place_are_seen():
    x = uniform(20)
    gram = LaplaceGram(x, noise=torch.full((20,), 0.1, dtype=D))
    before = gram.logdet()
    x.mul_(2)
    torch.testing.assert_close(gram.logdet(), LaplaceGram(x, noise=0.1).logdet())
    assert gram.logdet() != before


# --- samples -------------------------------------------------------------------------------------


def test_sample_covariance_converges_like_one_over_root_n():
    gram = summed(30)
    A = gram.to_dense()
    generator = torch.Generator().manual_seed(0)
    sizes = [250, 1000, 4000, 16000, 64000]
    errors = []
    for count in sizes:
        samples = gram.sample((count,), generator=generator)
        errors.append(float((samples.T @ samples / count - A).norm() / A.norm()))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.12
    # E |S - A|^2 = (|A|^2 + (tr A)^2) / N
    expected = math.sqrt(float(A.norm() ** 2 + A.trace() ** 2) / sizes[-1]) / float(A.norm())
    assert 0.7 < errors[-1] / expected < 1.4


def test_samples_carry_gradients_and_repeat():
    noise = torch.full((50,), 0.1, dtype=D, requires_grad=True)
    gram = LaplaceGram(uniform(2, 50), noise=noise)
    a = gram.sample((3,), generator=torch.Generator().manual_seed(5))
    b = gram.sample((3,), generator=torch.Generator().manual_seed(5))
    assert a.shape == (3, 2, 50)
    assert torch.equal(a, b)
    a.square().sum().backward()
    assert noise.grad is not None


# --- other libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [200, 100_000])
@pytest.mark.parametrize("frequency", [0.0, 3.0])
def test_against_celerite2(n, frequency):
    celerite2 = pytest.importorskip("celerite2")
    x = torch.sort(uniform(n) * n * 0.01).values
    y, noise = draw(n), uniform(n) + 0.05
    if frequency:
        term = celerite2.terms.ComplexTerm(a=1.5, b=0.0, c=1 / 0.7, d=frequency)
    else:
        term = celerite2.terms.RealTerm(a=1.5, c=1 / 0.7)
    process = celerite2.GaussianProcess(term)
    process.compute(x.numpy(), diag=noise.numpy())
    gram = LaplaceGram(x, lengthscale=0.7, variance=1.5, frequency=frequency, noise=noise)
    # Two sums of n terms of size about 1.
    assert abs(float(gram.log_prob(y)) - process.log_likelihood(y.numpy())) < 1e-12 * n
    np.testing.assert_allclose(
        gram.solve(y).numpy(), process.apply_inverse(y.numpy()), rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(gram.color(y).numpy(), process.dot_tril(y.numpy()), atol=1e-11)
    targets = torch.linspace(0, float(x[-1]), 300, dtype=D)
    mean, variance = process.predict(y.numpy(), t=targets.numpy()[:300], return_var=True)
    prediction = gram.predict(targets, y)
    np.testing.assert_allclose(prediction.mean.numpy(), mean, atol=1e-11)
    np.testing.assert_allclose(prediction.variance.numpy(), variance, atol=1e-11)


# --- edges and errors ----------------------------------------------------------------------------


def test_nothing_and_one_point():
    empty = LaplaceGram(torch.zeros(2, 0, dtype=D), noise=0.1)
    assert empty.logdet().tolist() == [0.0, 0.0]
    assert empty.solve(torch.zeros(3, 2, 0, dtype=D)).shape == (3, 2, 0)
    assert empty.sample((4,)).shape == (4, 2, 0)
    assert LaplaceGram(torch.zeros(0, 5, dtype=D)).logdet().shape == (0,)
    one = LaplaceGram(torch.ones(1, dtype=D), variance=3.0, noise=1.0)
    torch.testing.assert_close(one.solve(torch.ones(1, dtype=D)), torch.tensor([0.25], dtype=D))
    none = one.condition(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=D))
    assert none.mean.tolist() == [0.0]
    torch.testing.assert_close(none.variance, torch.tensor([4.0], dtype=D))
    everything = one.condition(torch.tensor([0]), torch.ones(1, dtype=D))
    assert everything.mean.shape == everything.variance.shape == (0,)


def test_matrices_and_non_contiguous_values():
    gram = summed(20)
    A = gram.to_dense()
    M = draw(20, 40)[:, ::2]
    torch.testing.assert_close(gram @ M, A @ M)
    torch.testing.assert_close(gram @ M[:, 0], A @ M[:, 0])
    torch.testing.assert_close(gram.solve(M.T), torch.linalg.solve(A, M).T)
    many = batched(20)
    torch.testing.assert_close(many @ M, many.to_dense() @ M)


def test_pickle_and_repr():
    gram = summed(20)
    gram.logdet()
    again = pickle.loads(pickle.dumps(gram))
    assert torch.equal(again.logdet(), gram.logdet())
    assert "noise=0.5" in repr(LaplaceGram(uniform(3), noise=torch.tensor([0.5]).requires_grad_()))
    assert repr(gram).startswith("LaplaceGram(shape=(20, 20), terms=3, noise=Tensor[20]")
    assert laplex.gram.LaplaceGram is LaplaceGram


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"anchors": "ab"}, TypeError, "anchors must be a torch tensor"),
        ({"anchors": torch.arange(3).half()}, TypeError, "anchors must be float32 or float64"),
        ({"anchors": torch.tensor(0.0)}, ValueError, r"anchors must have shape \[..., n\]"),
        ({"anchors": torch.tensor([0.0, torch.nan])}, ValueError, "anchors must be finite"),
        ({"lengthscale": 0.0}, ValueError, "lengthscale must be positive"),
        ({"lengthscale": "1"}, TypeError, "lengthscale must be a float"),
        ({"variance": -1.0}, ValueError, "variance must be positive"),
        ({"frequency": math.inf}, ValueError, "frequency must be finite"),
        ({"noise": -0.1}, ValueError, "noise must be finite and not negative"),
        ({"noise": torch.zeros(3)}, ValueError, "noise has shape .* must be 1 or 2"),
        ({"noise": "a"}, TypeError, "noise must be a float"),
        ({"phase": torch.zeros(3)}, ValueError, "phase has shape"),
        ({"scale": torch.tensor([0.0, math.inf])}, ValueError, "scale must be finite"),
        ({"terms": 3}, TypeError, "at least one laplex.gram.Term"),
        ({"terms": [Term()], "lengthscale": torch.ones(2)}, ValueError, "not both"),
        ({"noise": 10**400}, ValueError, "noise must be finite"),
        ({"variance": 1e300}, ValueError, "variance times the square of scale"),
        (
            {"scale": torch.tensor([1.0, 1e-30]), "variance": 1e-100},
            ValueError,
            "rescale the values",
        ),
        (
            {"anchors": torch.tensor([0.0, 1e308], dtype=D), "frequency": 3.0},
            ValueError,
            "overflows a float",
        ),
        ({"terms": []}, TypeError, "at least one laplex.gram.Term"),
        ({"terms": [Term()], "lengthscale": 2.0}, ValueError, "not both"),
        ({"lengthscale": torch.ones(2), "noise": torch.ones(3, 1)}, ValueError, "broadcast"),
    ],
)
def test_bad_models(arguments, error, message):
    with pytest.raises(error, match=message):
        LaplaceGram(**{"anchors": torch.tensor([0.0, 1.0]), **arguments})


def test_bad_values():
    gram = real(5)
    with pytest.raises(TypeError, match="values are torch"):
        gram.solve(torch.zeros(5))
    with pytest.raises(ValueError, match="last dimension must be 5"):
        gram.log_prob(torch.zeros(4, dtype=D))
    with pytest.raises(TypeError, match="values must be a torch tensor or a NumPy array, got set"):
        gram.solve({0.0})
    with pytest.raises(IndexError, match=r"outside 0\.\.4"):
        gram.condition(torch.tensor([5]), torch.zeros(1, dtype=D))
    with pytest.raises(ValueError, match="twice"):
        gram.condition(torch.tensor([1, 1]), torch.zeros(2, dtype=D))
    with pytest.raises(ValueError, match="must be 2, the number of observed entries"):
        gram.condition(torch.tensor([1, 2]), torch.zeros(3, dtype=D))
    with pytest.raises(ValueError, match="does not broadcast"):
        batched(5).solve(torch.zeros(4, 2, 5, dtype=D))
    with pytest.raises(ValueError, match="predict has no phase or scale"):
        phased(5).predict(torch.zeros(2, dtype=D), torch.zeros(5, dtype=D))
    too_many = [Term(phase=torch.zeros(5)) for _ in range(17)]
    with pytest.raises(ValueError, match="columns, got 34"):
        LaplaceGram(uniform(5), terms=too_many).logdet()


def test_devices():
    with pytest.raises(NotImplementedError, match="anchors is on meta"):
        LaplaceGram(torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="noise is on meta, but anchors is on cpu: move it"):
        LaplaceGram(torch.zeros(3), noise=torch.zeros(3, device="meta"))


def test_bad_calls():
    gram = real(5)
    with pytest.raises(TypeError, match="shape must be a sequence of integers"):
        gram.sample("ab")
    with pytest.raises(ValueError, match="shape must not be negative"):
        gram.sample((-3,))
    assert gram.sample(3).shape == (3, 5)
    with pytest.raises(TypeError, match="unsupported operand"):
        gram @ ([1.0] * 5)
    with pytest.raises(ValueError, match="does not broadcast with the batch"):
        batched(5) @ torch.zeros(4, 2, 5, 1, dtype=D)
    with pytest.raises(TypeError, match="observed_index must be int64"):
        gram.condition(slice(0, 3), torch.zeros(3, dtype=D))
    assert gram.condition([], torch.zeros(0, dtype=D)).mean.shape == (5,)
    generator = (Term(0.5 + k) for k in range(2))
    assert len(LaplaceGram(uniform(5), terms=generator).terms) == 2


def test_singular_matrices_are_named():
    tied = LaplaceGram(torch.tensor([2.0, 1.0, 2.0], dtype=D))
    tied.matvec(torch.zeros(3, dtype=D))  # needs no factor
    with pytest.raises(np.linalg.LinAlgError, match="anchors 0 and 2 coincide, at 2"):
        tied.logdet()
    with pytest.raises(np.linalg.LinAlgError, match="Give them noise > 0"):
        tied.sample()


def test_anchors_may_be_exchanged():
    """By an attribute or by ``.data``, for others of another number too."""
    parameter = torch.nn.Parameter(uniform(3000))
    gram = LaplaceGram(parameter, noise=0.1)
    with torch.no_grad():
        gram.logdet()
        parameter.data = parameter.data[:5].clone()
        torch.testing.assert_close(
            gram.solve(draw(5)), LaplaceGram(parameter, noise=0.1).solve(draw(5))
        )
    gram.anchors = uniform(7)
    assert gram.logdet() == LaplaceGram(uniform(7), noise=0.1).logdet()


def test_a_conditional_of_changed_anchors_says_so():
    x = uniform(10)
    conditional = LaplaceGram(x, noise=0.1).condition(torch.arange(5), draw(5))
    x.mul_(2)
    with pytest.raises(RuntimeError, match="make it again"):
        _ = conditional.mean


def test_conditional_results_keep_their_graph():
    x = uniform(10).requires_grad_()
    conditional = LaplaceGram(x, noise=0.1).condition(torch.arange(5), draw(5))
    with torch.no_grad():
        before = conditional.mean
    assert not before.requires_grad
    assert conditional.mean.requires_grad
    torch.testing.assert_close(conditional.mean.detach(), before)


def test_negated_views_are_read_with_their_sign():
    v, gram = draw(4), LaplaceGram(uniform(4), noise=0.1)
    negated = torch._neg_view(v)
    assert torch.equal(gram.solve(negated), -gram.solve(v))
    anchors = torch.complex(uniform(4), uniform(4)).conj().imag
    assert torch.equal(
        LaplaceGram(anchors, noise=0.1).solve(v), LaplaceGram(anchors.clone(), noise=0.1).solve(v)
    )


def test_frequency_far_away():
    """Angles of 1e16 radians: differences are right, in the matrix, products and predictions."""
    x = torch.tensor([0.1, 0.2, 0.3, 1e14, 1e14 + 1], dtype=D)
    gram = LaplaceGram(x, frequency=3.0, noise=0.1)
    near, far = LaplaceGram(x[:3], frequency=3.0), LaplaceGram(x[3:], frequency=3.0)
    dense = torch.block_diag(near.to_dense(), far.to_dense()) + 0.1 * torch.eye(5, dtype=D)
    exact = torch.exp(-(x[:, None] - x).abs()) * torch.cos(3 * (x[:, None] - x))
    torch.testing.assert_close(dense, exact + 0.1 * torch.eye(5, dtype=D), rtol=0, atol=1e-15)
    torch.testing.assert_close(gram.to_dense(), dense, rtol=0, atol=1e-15)
    v = draw(5)
    torch.testing.assert_close(gram @ v, dense @ v, rtol=0, atol=1e-14)
    torch.testing.assert_close(gram.solve(v), torch.linalg.solve(dense, v), rtol=0, atol=1e-13)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12])
def test_frequency_close_by(gap):
    """Sines of close anchors keep their digits, by an origin among the anchors.

    Found: at most 1e-8, at 1e-9. With absolute angles, whose sines are rounded to 1e-16, a
    difference of 1e-12 would have four digits.
    """
    gram = LaplaceGram(0.37 + gap * torch.arange(6, dtype=D), frequency=2.0)
    assert abs(float(gram.logdet()) - exact_logdet(gram)) < 1e-7


def test_samples_at_ties_without_noise():
    """Predictions at one place twice, and at the anchors themselves."""
    x, v = uniform(6), draw(6)
    for terms in ([Term(0.5)], [Term(0.5), Term(1.0, frequency=2.0)]):
        prediction = LaplaceGram(x, terms=terms).predict(torch.cat((x[:2], x[:1] + 0.1)), v)
        samples = prediction.sample(2000, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(samples[:, :2], v[:2].expand(2000, 2), rtol=0, atol=1e-6)
        variance = samples[:, 2].var()
        assert abs(variance / prediction.variance[2] - 1) < 6 * math.sqrt(2 / 2000)
    twice = LaplaceGram(x, noise=0.1).predict(torch.tensor([0.3, 0.3], dtype=D), v).sample(5)
    torch.testing.assert_close(twice[:, 0], twice[:, 1])


def test_nan_values_propagate():
    v = torch.zeros(5, dtype=D)
    v[2] = torch.nan
    assert real(5).solve(v).isnan().any()
    assert real(5).log_prob(v).isnan()
