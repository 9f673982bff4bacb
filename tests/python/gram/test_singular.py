"""Which covariances are refused as singular, and that no other is.

A is refused where a variance d_k of its factor is at most 2 J epsilon times its growth: the sum
over j of (L^-1)_kj^2 S_j, with S the variances without noise. There, some change of the entries by
at most 2 J epsilon sqrt(S_i S_j) makes A singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplex.gram import LaplaceGram, Term
from strategies import quick

D = torch.float64
EPSILON = torch.finfo(D).eps


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=D)


def refused(gram: LaplaceGram) -> bool:
    """Whether everything that needs the factor says so; and if not, nothing does."""
    zeros = torch.zeros(gram.shape[-1], dtype=D)
    calls = [gram.logdet, gram.sample, lambda: gram.solve(zeros), lambda: gram.log_prob(zeros)]
    said = [is_refused(call) for call in calls]
    assert len(set(said)) == 1
    return said[0]


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except np.linalg.LinAlgError:
        return True
    return False


def test_three_phases_at_one_place():
    """Vectors of a plane. What rounding leaves of the last variance, 1.9e-15, is above epsilon."""
    gram = LaplaceGram(torch.zeros(3, dtype=D), phase=tensor(0.8, 0.6, 2.0))
    assert refused(gram)
    with pytest.raises(np.linalg.LinAlgError, match="anchors 1 and 2 coincide, at 0"):
        gram.logdet()
    two = LaplaceGram(torch.zeros(2, dtype=D), phase=tensor(0.8, 0.6))
    # sin(0.2)^2 in closed form, of which 1/25 is left of numbers of about 1.
    assert abs(float(two.logdet()) - 2 * math.log(math.sin(0.2))) < 25 * 8 * EPSILON


@pytest.mark.parametrize(
    "terms",
    [
        [Term(1.0, frequency=torch.zeros((), dtype=D))],  # whose sines are 0
        [Term(1.0, phase=torch.zeros(4, dtype=D))],
        [Term(1.0, phase=torch.full((4,), 0.3, dtype=D))],
        [Term(0.7), Term(0.7, 2.0)],  # one process, written as two
        [Term(0.7), Term(0.2)],
        [Term(0.7, frequency=2.0), Term(0.2)],
        [Term(0.7, scale=tensor(1.0, 2.0, 2.0, 3.0)), Term(0.3, scale=tensor(2.0, 1.0, 1.0, 0.5))],
    ],
)
def test_terms_without_phases_of_their_own_are_singular_at_a_tie(terms: list[Term]) -> None:
    tied = tensor(0.0, 1.0, 1.0, 2.5)
    assert refused(LaplaceGram(tied, terms=terms))
    assert not refused(LaplaceGram(tied, terms=terms, noise=tensor(0.0, 0.0, 1e-3, 0.0)))
    assert not refused(LaplaceGram(tensor(0.0, 1.0, 1.01, 2.5), terms=terms))
    # Close by a unit in the last place of 1, two columns are within 2 J epsilon of coinciding.
    assert refused(LaplaceGram(tensor(0.0, 1.0, 1.0 + EPSILON / 2, 2.5), terms=terms))


def test_a_point_without_loading_is_singular():
    x = tensor(0.0, 1.0, 2.0)
    for terms in (
        [Term(1.0, scale=tensor(1.0, 0.0, 1.0))],
        [Term(1.0, scale=tensor(1.0, 0.0, 1.0)), Term(0.5, scale=tensor(2.0, 0.0, 1.0))],
        [Term(1.0, frequency=2.0, scale=tensor(1.0, 0.0, 1.0))],
    ):
        assert refused(LaplaceGram(x, terms=terms))
        assert not refused(LaplaceGram(x, terms=terms, noise=tensor(0.0, 1e-9, 0.0)))


def test_one_column_has_no_bound():
    """Nothing cancels there: a gap of 1e-300 is as good as another."""
    x = tensor(0.0, 1e-300, 1.0)
    exact = math.log(2e-300) + math.log(-math.expm1(-2.0))
    assert abs(float(LaplaceGram(x).logdet()) - exact) < 8 * EPSILON * abs(exact)


def test_predictions_need_the_observed_points_alone():
    """New points may lie on each other and on the anchors; the anchors may not."""
    x, v = tensor(0.0, 1.0, 2.0), tensor(1.0, 2.0, 3.0)
    prediction = LaplaceGram(x, terms=[Term(1.0, frequency=2.0)]).predict(tensor(0.5, 0.5, 1.0), v)
    assert bool(prediction.mean.isfinite().all())
    assert abs(float(prediction.variance[2])) < 64 * EPSILON
    observed = LaplaceGram(torch.zeros(4, dtype=D), phase=tensor(0.8, 0.6, 2.0, 1.0))
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        _ = observed.condition(torch.arange(3), v).mean


def test_a_matrix_of_a_batch_is_named():
    phases = torch.stack([tensor(0.8, 2.0, 4.0), tensor(0.8, 0.6, 2.0)])
    x = torch.stack([tensor(0.0, 1.0, 2.0), torch.zeros(3, dtype=D)])
    with pytest.raises(np.linalg.LinAlgError, match="of matrix 1 is singular"):
        LaplaceGram(x, phase=phases).logdet()


sizes = st.floats(-2, 2).map(lambda e: 10.0**e)
angles = st.floats(0, 6.25)


@st.composite
def grams(draw, coincident: bool):
    """Up to three terms at up to eight anchors.

    With `coincident`, J + 1 of them, at one place, without noise.
    """
    count = draw(st.integers(1, 3))
    phased = [draw(st.booleans()) for _ in range(count)]
    columns = sum(1 + each for each in phased)
    if columns == 1:
        phased, columns = [True], 2
    alone = draw(st.integers(0, 4))
    many = columns + 1 if coincident else 0
    n = alone + many + (0 if coincident else 1)
    spread = draw(st.lists(st.floats(-3, 3), min_size=n - many, max_size=n - many))
    order = draw(st.permutations(range(n)))
    x = torch.tensor([*spread, *[0.5] * many], dtype=D)[list(order)]
    noise = torch.tensor([draw(sizes) for _ in spread] + [0.0] * many, dtype=D)[list(order)]
    if not coincident:
        noise = noise * draw(st.sampled_from([0.0, 1e-8, 1e-3, 1.0]))

    def numbers(strategy: st.SearchStrategy[float]) -> torch.Tensor:
        return torch.tensor([draw(strategy) for _ in range(n)], dtype=D)

    terms = [
        Term(
            draw(sizes),
            draw(sizes),
            draw(st.floats(-5, 5)) if each and not coincident else 0.0,
            numbers(angles) if each else None,
            numbers(sizes),
        )
        for each in phased
    ]
    return LaplaceGram(x, terms=terms, noise=noise)


@quick
@given(gram=grams(coincident=True))
def test_more_anchors_at_a_place_than_columns_are_refused(gram: LaplaceGram) -> None:
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        gram.logdet()


def eigenvalues(gram: LaplaceGram) -> tuple[float, float]:
    """The least and the largest of the matrix with variances of 1, noise left out of their sizes.

    Of 40 digits: in float64 the least of a matrix that is nearly singular would be noise.
    """
    dense = gram.to_dense()
    size = (dense.diagonal() - gram.noise).sqrt()
    with mpmath.workdps(40):
        scaled = mpmath.matrix((dense / size / size[:, None]).tolist())
        values = mpmath.eigsy(scaled, eigvals_only=True)
        return float(min(values)), float(max(values))


@quick
@given(gram=grams(coincident=False))
def test_well_conditioned_matrices_are_not_refused_and_right(gram: LaplaceGram) -> None:
    n = gram.shape[-1]
    least, largest = eigenvalues(gram)
    if least < 1e-8 * largest:
        return
    width = gram.parameters.covariance().loadings.shape[-1]
    # The factor belongs to a matrix that is off by 64 J epsilon sqrt(S_i S_j), as the C++ tests
    # have it: an eigenvalue of the scaled matrix by n times that, its logarithm by that over the
    # least, and there are n of them. to_dense() and its determinant have as much again.
    error = 2 * 64 * width * EPSILON * n * n / least
    expected = float(torch.linalg.slogdet(gram.to_dense()).logabsdet)
    assert abs(float(gram.logdet()) - expected) <= error
