"""Lists and tuples of numbers in place of arrays, wherever `laplex.gram` takes arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laplex.gram import SHO, Celerite, LaplaceGPRegressor, LaplaceGram, Matern32, Term, polynomial

D = torch.float64
POINTS = [0.0, 0.5, 2.0, 3.0]

# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(
    "given",
    [
        {"noise": [0.1, 0.2, 0.3, 0.4]},
        {"noise": [1]},
        {"phase": [0.1, 0.2, 0.3, 0.4], "scale": [1, 2, 3, 4]},
        {"lengthscale": [0.5, 2.0], "variance": [1, 2], "frequency": [0.0, 3.0]},
        {"mean": [1.0, 2.0, 3.0, 4.0]},
        {"basis": polynomial(1, 0.0, 3.0), "prior": [10.0, 1.0]},
        {"basis": [[1.0, 0.0], [1.0, 2.0], [1.0, 3.0], [1.0, 5.0]], "prior": [10, 1]},
        {"basis": [1.0, 2.0, 0.0, 1.0], "prior": 2.0},
        {"basis": [torch.square, [1.0, 2.0, 0.0, 1.0]], "prior": [1.0, 2.0]},
    ],
)
def test_sequences_stand_for_arrays(given, kind):
    given = {"noise": 0.5, **given}
    sequences, arrays = {}, {}
    for name, value in given.items():
        many = isinstance(value, list)
        sequences[name] = kind(value) if many else value
        mixed = many and any(map(callable, value))
        arrays[name] = np.array(value) if many and not mixed else value
    one, two = LaplaceGram(kind(POINTS), **sequences), LaplaceGram(np.array(POINTS), **arrays)
    assert torch.equal(one.to_dense(), two.to_dense())
    values = [1.0, 2.0, 0.0, -1.0]
    assert torch.equal(one.log_prob(kind(values)), two.log_prob(np.array(values)))


def test_sequences_as_parameters_of_terms():
    terms = (
        Matern32([1.0, 2.0], 3.0) + SHO(sigma=(1, 2), w0=1.0, Q=[0.5, 3.0]) + Celerite(1, 0, 1, 2)
    )
    arrays = (
        Matern32(np.array([1.0, 2.0]), 3.0)
        + SHO(sigma=np.array([1.0, 2.0]), w0=1.0, Q=np.array([0.5, 3.0]))
        + Celerite(1, 0, 1, 2)
    )
    one, two = (LaplaceGram(POINTS, terms=each, noise=0.1) for each in (terms, arrays))
    assert torch.equal(one.to_dense(), two.to_dense())
    assert torch.equal(Term().value([0.0, 1.0]), Term().value(np.array([0.0, 1.0])))
    assert torch.equal(Term().psd((0, 1)), Term().psd(np.array([0.0, 1.0])))


def test_sequences_as_targets_and_values():
    gram = LaplaceGram(POINTS, basis=lambda x: x, mean=[0, 1, 2, 3], noise=0.1)
    values = [1, 2, 0, -1]
    found = gram.predict([5, 6], values, mean_targets=(4.0, 5.0))
    expected = gram.predict(
        np.array([5.0, 6.0]), np.array(values, float), mean_targets=np.array([4.0, 5.0])
    )
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(
        gram.condition([0, 1], [1.0, 2.0]).mean,
        gram.condition(np.array([0, 1]), np.array([1.0, 2.0])).mean,
    )


def test_a_regressor_takes_a_list_of_prior_variances():
    x = np.arange(30.0)
    y = np.sin(x) + x
    basis = polynomial(1, 0.0, 30.0)
    given = {"basis": basis, "alpha": [0.1] * 30, "optimizer": None}
    one = LaplaceGPRegressor(prior=[10.0, 1.0], **given).fit(x[:, None], y)
    two = LaplaceGPRegressor(prior=np.array([10.0, 1.0]), **given).fit(x[:, None], y)
    assert one.log_marginal_likelihood_value_ == two.log_marginal_likelihood_value_


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LaplaceGram(["a"]), TypeError, "anchors has dtype <U1"),
        (lambda: LaplaceGram([[0.0], [1.0, 2.0]]), TypeError, "anchors is not array-like"),
        (lambda: LaplaceGram([2**53 + 1]), ValueError, "anchors has the integer 9007199254740993"),
        (
            lambda: LaplaceGram(POINTS, scale=[torch.ones((), requires_grad=True)] * 4),
            TypeError,
            "scale is a list of tensors: use torch.stack",
        ),
        (
            lambda: LaplaceGram(POINTS).solve([(torch.ones(()),) * 4]),
            TypeError,
            "values is a list of tensors: use torch.stack",
        ),
        (
            lambda: LaplaceGram(POINTS, basis=polynomial(1, 0.0, 1.0), prior=[1.0, -1.0]),
            ValueError,
            "prior must be positive",
        ),
        (
            lambda: LaplaceGram(POINTS, basis=polynomial(1, 0.0, 1.0), prior=[1.0, 1.0, 1.0]),
            ValueError,
            "prior has shape \\[3\\]",
        ),
        (lambda: LaplaceGram(POINTS, noise=[0.1, -1.0, 0.0, 0.0]), ValueError, "noise must be fin"),
        (lambda: LaplaceGram(POINTS, noise={}), TypeError, "noise must be a float"),
        (lambda: Matern32([1.0, 0.0]).value([1.0]), ValueError, "lengthscale must be positive"),
    ],
)
def test_sequences_are_checked_as_arrays(call, error, message):
    with pytest.raises(error, match=message):
        call()
