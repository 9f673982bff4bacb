"""Conditionals with a trend and of one summand; covariances and densities against dense algebra.

Tolerances: those of `test_basis.py`. An improper prior is compared with the dense limit, in which
the coefficients are estimated by generalised least squares.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from laplex.gram import (
    SHO,
    Conditional,
    LaplaceGram,
    Matern32,
    Matern52,
    Term,
    constant,
    harmonics,
    polynomial,
)
from laplex.gram.singular import points_named
from trend_cases import INF, D, draw, uniform, wave

pytestmark = pytest.mark.usefixtures("one_thread")

N, M = 25, 7
TERMS = (Term(2.0, 1.5), Term(0.5, 0.7, frequency=3.0), SHO(S0=0.4, w0=2.0, Q=0.3))
BASIS = (polynomial(1, 0.0, 5.0), harmonics(1.7))
PRIORS = {
    "proper": torch.tensor([2.0, 0.5, 1.0, 3.0], dtype=D),
    "mixed": torch.tensor([INF, 0.5, INF, 3.0], dtype=D),
    "improper": torch.full((4,), INF, dtype=D),
}


def points() -> tuple[torch.Tensor, torch.Tensor]:
    return 5 * uniform(N, seed=1), 6 * uniform(M, seed=2)


def model(prior: str | None = "mixed") -> LaplaceGram:
    given = {} if prior is None else {"basis": BASIS, "prior": PRIORS[prior]}
    return LaplaceGram(points()[0], terms=TERMS, noise=uniform(N, seed=3) + 0.1, mean=wave, **given)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def dense_terms(terms) -> torch.Tensor:
    """The covariance of terms at anchors and targets together."""
    whole = torch.cat(points())
    total = torch.zeros(N + M, N + M, dtype=D)
    for term in terms:
        total = total + LaplaceGram(whole, terms=[term]).to_dense()
    return total


def expected(gram: LaplaceGram, component, v) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance at the targets, given coefficients' posterior (Rasmussen, 2.41-2.42)."""
    x, t = points()
    terms = (
        TERMS
        if component is None
        else TERMS[component : component + 1]
        if isinstance(component, int)
        else ()
    )
    K = dense_terms(TERMS)[:N, :N] + torch.diag(gram.noise)
    cross, own = dense_terms(terms)[N:, :N], dense_terms(terms)[N:, N:]
    has_mean, has_basis = component in (None, "mean"), component in (None, "basis")
    r = v - wave(x)
    mean = has_mean * wave(t).expand(*v.shape[:-1], M)
    covariance = own - cross @ torch.linalg.solve(K, cross.mT)
    weights = torch.linalg.solve(K, r.mT).mT
    if gram.basis is not None:
        B = gram.basis
        new = has_basis * torch.cat([f(t) for f in BASIS], -1)
        precision = B.mT @ torch.linalg.solve(K, B) + torch.diag(1 / gram.prior)
        beta = torch.linalg.solve(precision, B.mT @ weights.mT).mT
        weights = torch.linalg.solve(K, (r - beta @ B.mT).mT).mT
        unexplained = new - cross @ torch.linalg.solve(K, B)
        mean = mean + beta @ new.mT
        covariance = covariance + unexplained @ torch.linalg.solve(precision, unexplained.mT)
    return mean + weights @ cross.mT, covariance


@pytest.mark.parametrize("prior", [None, *PRIORS])
@pytest.mark.parametrize("component", [None, 0, 1, 2, "basis", "mean"])
def test_predictions_against_dense(prior, component):
    if prior is None and component == "basis":
        return
    gram, v = model(prior), draw(2, N, seed=4)
    found = gram.predict(points()[1], v, term=component)
    mean, covariance = expected(gram, component, v)
    close(found.mean, mean)
    close(found.covariance, covariance)
    close(found.variance, covariance.diagonal())
    close(found.latent_variance, covariance.diagonal())
    assert torch.equal(found.covariance, found.covariance.mT)
    if not isinstance(component, str):
        u = draw(3, 1, M, seed=5)
        normal = torch.distributions.MultivariateNormal(mean, covariance)
        close(found.log_prob(u), normal.log_prob(u), 1e-7)
    samples = found.sample((4_000,), generator=torch.Generator().manual_seed(0))
    assert samples.shape == (4_000, 2, M)
    # Six standard errors.
    size = float(covariance.diagonal().max().clamp(min=0))
    assert float((samples.mean(0) - mean).abs().max()) <= 6 * (size / 4_000) ** 0.5 + 1e-9
    spread = torch.cov(samples[:, 0].mT) - covariance
    assert float(spread.abs().max()) <= 6 * 1.5 * size / 4_000**0.5 + 1e-9


def test_summands_add_up():
    gram, v, t = model(), draw(N, seed=4), points()[1]
    parts = [gram.predict(t, v, term=each).mean for each in (*TERMS, "basis", "mean")]
    close(sum(parts), gram.predict(t, v).mean, 1e-12)
    for number, term in enumerate(TERMS):  # by the object, its number, and its number from behind
        one = gram.predict(t, v, term=term)
        for other in (number, number - 3, np.int64(number)):
            assert torch.equal(one.mean, gram.predict(t, v, term=other).mean)


@pytest.mark.parametrize("given", [[0, 2], (TERMS[2], -3), TERMS[0] + TERMS[2]])
def test_several_terms(given):
    """The process of a sum of terms is that of a model whose other terms are its noise."""
    gram, v, t = model(), draw(2, N, seed=4), points()[1]
    found = gram.predict(t, v, term=given)
    close(found.mean, gram.predict(t, v, term=0).mean + gram.predict(t, v, term=2).mean)
    others = gram.predict(t, v, term=[1, "basis", "mean"])
    close(found.mean + others.mean, gram.predict(t, v).mean)
    equal = Term(0.5, 0.7, frequency=3.0)  # the same numbers in another object
    assert torch.equal(gram.predict(t, v, term=equal).mean, gram.predict(t, v, term=1).mean)
    whole = gram.predict(t, v, term=[0, 1, 2, "basis", "mean"])
    for name in ("mean", "variance", "covariance"):
        close(getattr(whole, name), getattr(gram.predict(t, v), name), 1e-12)
    sizes = found.covariance.diagonal()
    close(found.variance, sizes)
    u = draw(M, seed=5)
    normal = torch.distributions.MultivariateNormal(found.mean, found.covariance)
    close(found.log_prob(u), normal.log_prob(u), 1e-7)


def test_messages_name_the_points_of_the_caller():
    x, v = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.1, 1.0, -1.0, 0.3])
    noisy = LaplaceGram(x, terms=Matern32(), noise=0.1, mean=1.0, basis=constant)
    twice = noisy.predict(np.array([0.5, 0.25, 0.5]), v)
    assert twice.sample().shape == (3,)
    with pytest.raises(np.linalg.LinAlgError, match=r"targets 0 and 2 coincide.*one value at a pl"):
        twice.log_prob(np.zeros(3))
    exact = LaplaceGram(x[1:], terms=Matern32())
    with pytest.raises(np.linalg.LinAlgError, match=r"anchors 0 and 1 coincide, at 1. Give them"):
        _ = exact.predict(x[:1] + 0.5, v[1:]).mean
    exact = LaplaceGram(x[2:], terms=Matern32())
    with pytest.raises(np.linalg.LinAlgError, match="anchor 1 and target 0 coincide"):
        exact.predict(x[3:], v[2:]).log_prob(np.zeros(1))
    given = LaplaceGram(x, terms=Matern32()).condition([3, 2, 1], v[1:])
    for compute in (lambda: given.mean, lambda: given.covariance):
        with pytest.raises(np.linalg.LinAlgError, match=r"anchors [12] and [12] coincide, at 1"):
            compute()
    for term, count in (("basis", "1 degree of"), ("mean", "0 degrees"), (["mean", "basis"], "1")):
        with pytest.raises(np.linalg.LinAlgError, match=f"no density at 2 targets: .* {count}"):
            noisy.predict(np.array([0.5, 1.5]), v, term=term).log_prob(np.zeros(2))


def test_messages_about_rounding():
    message = "before it, anchor 5, at 1, has variance 0. Add noise > 0, or a scale that is not 0"
    renamed = "target 1, at 1, has variance 0. Leave out targets that are so close"
    for kind, expected in (("target", renamed), ("anchor", "anchor 1, at 1, has variance 0. Add")):
        with (
            pytest.raises(np.linalg.LinAlgError, match=expected),
            points_named(lambda k: (kind, k - 4)),  # noqa: B023
        ):
            raise np.linalg.LinAlgError(message)


@pytest.mark.parametrize("prior", [None, *PRIORS])
def test_conditions_against_dense(prior):
    """The remaining entries have noise; `condition` and `predict` agree up to that."""
    gram, v = model(prior), draw(2, N, seed=4)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    seen, rest = order[:16], order[16:].sort().values
    found = gram.condition(seen, v[:, seen])
    assert torch.equal(found.rest, rest)
    given = {} if prior is None else {"basis": BASIS, "prior": PRIORS[prior]}
    x = gram.anchors
    known = LaplaceGram(x[seen], terms=TERMS, noise=gram.noise[seen], mean=wave, **given)
    process = known.predict(x[rest], v[:, seen])
    close(found.mean, process.mean)
    close(found.latent_variance, process.variance)
    close(found.variance, process.variance + gram.noise[rest])
    close(found.covariance, process.covariance + torch.diag(gram.noise[rest]))
    normal = torch.distributions.MultivariateNormal(found.mean, found.covariance)
    close(found.log_prob(v[:, rest]), normal.log_prob(v[:, rest]), 1e-8)
    # The chain rule; improper densities have the same constant on both sides.
    close(known.log_prob(v[:, seen]) + found.log_prob(v[:, rest]), gram.log_prob(v), 1e-10)


def test_predictions_from_matrices():
    """Values at the targets in place of functions."""
    (x, t), v = points(), draw(N, seed=4)
    by_function = LaplaceGram(x, noise=0.1, mean=wave, basis=polynomial(1, 0, 5))
    basis, new = polynomial(1, 0, 5)(x), polynomial(1, 0, 5)(t)
    by_matrix = LaplaceGram(x, noise=0.1, mean=wave(x), basis=basis)
    one = by_function.predict(t, v)
    two = by_matrix.predict(t, v, basis_targets=new, mean_targets=wave(t))
    for name in ("mean", "variance", "covariance"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    arrays = by_matrix.predict(t.numpy(), v.numpy(), basis_targets=new.numpy(), mean_targets=0.5)
    close(arrays.mean, two.mean - wave(t) + 0.5, 1e-12)
    with pytest.raises(ValueError, match="pass them as basis_targets="):
        by_matrix.predict(t, v)
    with pytest.raises(ValueError, match="pass mean_targets="):
        by_matrix.predict(t, v, basis_targets=new)
    with pytest.raises(ValueError, match="basis_targets has 1 columns, but the basis has 2"):
        by_matrix.predict(t, v, basis_targets=new[:, :1], mean_targets=0.0)
    with pytest.raises(ValueError, match="n = 7, the number of targets"):
        by_matrix.predict(t, v, basis_targets=basis, mean_targets=0.0)
    with pytest.raises(ValueError, match="belongs to a basis, but there is none"):
        LaplaceGram(x).predict(t, v, basis_targets=new)
    with pytest.raises(ValueError, match="belongs to a mean, but there is none"):
        LaplaceGram(x).predict(t, v, mean_targets=1.0)
    with pytest.raises(ValueError, match="leave basis_targets out"):
        by_function.predict(t, v, basis_targets=new)
    with pytest.raises(ValueError, match="leave mean_targets out"):
        by_function.predict(t, v, mean_targets=wave(t))
    with pytest.raises(ValueError, match="leave mean_targets out"):
        LaplaceGram(x, mean=1.0).predict(t, v, mean_targets=wave(t))
    with pytest.raises(ValueError, match=r"mean_targets has shape .* the number of targets"):
        by_matrix.predict(t, v, basis_targets=new, mean_targets=wave(x))


@pytest.mark.parametrize("prior", ["proper", "improper"])
def test_derivatives(prior):
    """Means, covariances and densities twice; variances once."""
    n, m = 5, 2
    given = {
        "x": 3 * uniform(n),
        "t": 3 * uniform(m, seed=2),
        "lengthscale": torch.tensor(0.7, dtype=D),
        "noise": uniform(n, seed=3) + 0.2,
        "basis": draw(n + m, 2, seed=4),
        "prior": torch.tensor([0.5, 2.0], dtype=D),
        "mean": draw(n + m, seed=5),
        "values": draw(n, seed=6),
    }
    u = draw(m, seed=7)

    def of(names, term=None):
        def result(*arguments):
            a = dict(zip(given, arguments, strict=True))
            gram = LaplaceGram(
                a["x"],
                terms=[Term(a["lengthscale"]), Term(0.3, 0.5)],
                noise=a["noise"],
                basis=a["basis"][:n],
                prior=a["prior"] if prior == "proper" else None,
                mean=a["mean"][:n],
            )
            new = {"basis_targets": a["basis"][n:], "mean_targets": a["mean"][n:]}
            made = gram.predict(a["t"], a["values"], term=term, **new)
            return [made.log_prob(u) if k == "log_prob" else getattr(made, k) for k in names]

        return lambda *arguments: torch.cat([each.flatten() for each in result(*arguments)])

    leaves = tuple(each.requires_grad_() for each in given.values())
    for term in (None, 0):
        assert gradcheck(of(["mean", "variance", "covariance", "log_prob"], term), leaves)
        assert gradgradcheck(of(["mean", "covariance", "log_prob"], term), leaves, fast_mode=True)


def test_a_batch_is_its_matrices():
    x, t = 3 * uniform(2, 6), 3 * uniform(2, 1, 4, seed=1)[:, 0]
    v, prior = draw(5, 2, 6, seed=2), torch.tensor([[1.0, INF], [INF, 2.0]], dtype=D)
    arguments = {"terms": [Term(0.6), SHO(S0=0.4, w0=2.0, Q=3.0)], "noise": 0.1, "mean": wave}
    gram = LaplaceGram(x, basis=polynomial(1, 0, 3), prior=prior, **arguments)
    for term in (None, 1, "basis"):
        found = gram.predict(t, v, term=term)
        assert found.mean.shape == (5, 2, 4)
        assert found.covariance.shape == (2, 4, 4)
        assert found.sample((3,)).shape == (3, 5, 2, 4)
        for b in range(2):
            one = LaplaceGram(x[b], basis=polynomial(1, 0, 3), prior=prior[b], **arguments)
            other = one.predict(t[b], v[:, b], term=term)
            close(found.mean[:, b], other.mean)
            close(found.covariance[b], other.covariance)
            close(found.variance[b], other.variance)
            if term != "basis":
                u = draw(2, 4)
                close(found.log_prob(u)[:, b], other.log_prob(u[b]))


def test_single_precision_is_rounded_once():
    """Intermediate results are in float64, so that only the inputs and results are rounded."""
    gram, v, t = model(), draw(N, seed=4), points()[1]
    single = gram.to(torch.float32)
    again = LaplaceGram(
        single.anchors.double(),
        terms=TERMS,
        noise=single.noise.double(),
        mean=wave,
        basis=BASIS,
        prior=PRIORS["mixed"],
    )
    one = single.predict(t.float(), v.float())
    two = again.predict(t.float().double(), v.float().double())
    for name in ("mean", "variance", "covariance"):
        assert torch.equal(getattr(one, name), getattr(two, name).float())
    u = draw(M, seed=5).float()
    assert torch.equal(one.log_prob(u), two.log_prob(u.double()).float())


def test_covariance_in_blocks(monkeypatch):
    """Blocks of columns give the same numbers."""
    gram, v, t = model(), draw(N, seed=4), points()[1]
    whole = gram.predict(t, v).covariance
    monkeypatch.setattr("laplex.gram.conditional._BLOCK", N + 1)
    close(gram.predict(t, v).covariance, whole, 1e-13)


def test_log_prob_of_many_points():
    """A million measurements, of which every other one is predicted: the chain rule again."""
    n = 1_000_000
    x = torch.arange(n, dtype=D) / 10
    gram = LaplaceGram(x, noise=0.1, basis=constant)
    y = LaplaceGram(x, noise=0.1).sample(generator=torch.Generator().manual_seed(0)) + 30
    index = torch.arange(0, n, 2)
    found = gram.condition(index, y[index]).log_prob(y[1::2])
    half = LaplaceGram(x[index], noise=0.1, basis=constant).log_prob(y[index])
    # Both are sums of a million summands of order 1.
    assert abs(float(found + half - gram.log_prob(y))) < 1e-4


def test_edges():
    """No targets, no observations, a target at an anchor."""
    x, v = torch.tensor([0.0, 1.0, 2.5], dtype=D), torch.tensor([1.0, 2.0, 0.5], dtype=D)
    gram = LaplaceGram(x, noise=0.1, basis=constant, mean=2.0)
    none = gram.predict(x[:0], v)
    assert none.mean.shape == (0,)
    assert none.covariance.shape == (0, 0)
    assert float(none.log_prob(v[:0])) == 0.0
    at = gram.predict(x, v)
    close(at.covariance.diagonal(), at.variance)
    proper = LaplaceGram(x, noise=0.1, basis=constant, prior=2.0, mean=2.0)
    prior = proper.condition(torch.arange(0), v[:0])
    close(prior.mean, torch.full((3,), 2.0, dtype=D))
    close(prior.covariance, proper.to_dense())
    with pytest.raises(np.linalg.LinAlgError, match="the basis is singular"):
        _ = gram.condition(torch.arange(0), v[:0]).mean
    with pytest.raises(np.linalg.LinAlgError, match="coincide"):
        gram.predict(x[[0, 0]], v).log_prob(v[:2])


def test_targets_at_anchors_without_noise():
    """The process is known there, though the matrix of anchors and targets is singular."""
    x, v = torch.tensor([0.0, 1.0, 2.5], dtype=D), torch.tensor([1.0, 2.0, 0.5], dtype=D)
    for prior in (2.0, INF):
        gram = LaplaceGram(x, basis=constant, prior=prior, mean=wave)
        found = gram.predict(x[[2, 0]], v)
        for result in (found.mean, *found.sample((3,))):
            close(result, v[[2, 0]], 1e-12)
        close(found.variance, torch.zeros(2, dtype=D), 1e-12)
        close(found.covariance, torch.zeros(2, 2, dtype=D), 1e-12)


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (3, IndexError, "term is 3, but there are 3 terms"),
        ("noise", ValueError, "got 'noise'"),
        (1.5, TypeError, r"a list of these, got 1\.5"),
        (1.0, TypeError, r"a list of these, got 1\.0"),
        (True, TypeError, "a list of these, got True"),
        (Term(2.0, 1.6), ValueError, r"which is not one of the terms \(0: Term"),
        ([], ValueError, "pass None for the whole"),
        ([1, 1], ValueError, "term has 1 twice"),
        ([0, Term(2.0, 1.5)], ValueError, "term has 0 twice"),
    ],
)
def test_bad_terms(term, error, message):
    with pytest.raises(error, match=message):
        model().predict(points()[1], draw(N), term=term)


def test_bad_calls():
    t, v = points()[1], draw(N)
    plain = LaplaceGram(points()[0], noise=0.1)
    with pytest.raises(ValueError, match="term is 'basis', but there is no basis"):
        plain.predict(t, v, term="basis")
    with pytest.raises(ValueError, match="term is 'mean', but there is no mean"):
        plain.predict(t, v, term="mean")
    found = plain.predict(t, v)
    assert isinstance(found, Conditional)
    with pytest.raises(TypeError, match=r"values are torch\.float32"):
        found.log_prob(torch.zeros(M))
    with pytest.raises(ValueError, match="the number of remaining entries"):
        found.log_prob(torch.zeros(M + 1, dtype=D))
    with pytest.raises(MemoryError, match="use variance, sample"):
        plain.predict(torch.linspace(0, 1, 20_000, dtype=D), v).covariance  # noqa: B018
    doubled = LaplaceGram(points()[0], terms=[TERMS[0], TERMS[0]], noise=0.1)
    with pytest.raises(ValueError, match=r"the terms number 0 and 1 are all Term.*term=\[0, 1\]"):
        doubled.predict(t, v, term=TERMS[0])
    assert math.isfinite(doubled.predict(t, v, term=1).mean.sum())


@pytest.mark.parametrize("term", [Matern32(), Matern52(), SHO(sigma=1.0, w0=1.0, Q=0.7), Term()])
@pytest.mark.parametrize("gap", [1e-12, 1e-8, 1e-6, 1e-4, 1e-2])
def test_predictions_pass_through_the_values_or_are_refused(term, gap):
    anchors = gap * torch.arange(5, dtype=D)
    gram = LaplaceGram(anchors, terms=term)
    values = gram.sample(generator=torch.Generator().manual_seed(0))
    try:
        predicted = gram.predict(anchors, values).mean
    except np.linalg.LinAlgError as error:
        assert gap < 1e-4, error  # noqa: PT017
    else:
        assert float((predicted - values).abs().max()) < 2e-3
