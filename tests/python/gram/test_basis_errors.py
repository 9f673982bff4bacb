"""What a `LaplaceGram` with a mean or a basis refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from laplex.gram import LaplaceGram, constant, harmonics, polynomial
from trend_cases import INF, D

X = torch.tensor([0.0, 1.0, 2.5], dtype=D)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prior": 1.0}, ValueError, "there is no basis"),
        ({"basis": []}, ValueError, "basis has no function"),
        ({"basis": "constant"}, TypeError, "basis must be a torch tensor or a NumPy array"),
        ({"basis": torch.ones(4, 2)}, ValueError, r"shape \[\*b, n, p\] with n = 3"),
        ({"basis": torch.ones(3, 2) * math.nan}, ValueError, "basis must be finite"),
        ({"basis": torch.ones(3, 2).long()}, TypeError, "basis must be float32 or float64"),
        ({"basis": lambda x: x[:2]}, ValueError, r"result has shape \[2\] for points"),
        ({"basis": lambda _: None}, TypeError, "the result of basis must be a torch tensor"),
        ({"basis": lambda x: x / 0}, ValueError, "the result of basis must be finite"),
        ({"basis": constant, "prior": 0.0}, ValueError, "prior must be positive"),
        ({"basis": constant, "prior": math.nan}, ValueError, "prior must be positive"),
        ({"basis": constant, "prior": torch.ones(2)}, ValueError, "the number of columns of basis"),
        ({"basis": torch.ones(2, 3, 1), "noise": torch.ones(5, 1)}, ValueError, "broadcast"),
        ({"mean": torch.ones(2)}, ValueError, r"mean has shape \[2\]"),
        ({"mean": math.inf}, ValueError, "mean must be finite"),
        ({"mean": "zero"}, TypeError, "mean must be a torch tensor or a NumPy array"),
        ({"mean": lambda x: x[:2]}, ValueError, "mean is a function whose result has shape"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        LaplaceGram(X, **arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: a.logdet(),
        lambda a: a.sample(),
        lambda a: a.to_dense(),
        lambda a: a.diagonal(),
        lambda a: a.matvec(X),
        lambda a: a @ X,
        lambda a: a.color(X),
        lambda a: a.whiten(X),
        lambda a: a.inv_quad_logdet(X),
        lambda a: np.asarray(a),
    ],
)
def test_what_has_no_limit_says_so(call):
    gram = LaplaceGram(X, basis=[constant, torch.square], prior=torch.tensor([1.0, INF]))
    with pytest.raises(ValueError, match=r"so that A is infinite.*finite variances"):
        call(gram)


def test_dependent_columns_are_named():
    twice = LaplaceGram(X, basis=[constant, torch.ones(3, dtype=D)])
    with pytest.raises(np.linalg.LinAlgError, match="its column 1 is 0 or a combination"):
        twice.log_prob(X)
    assert torch.isfinite(LaplaceGram(X, basis=[constant, constant], prior=2.0).log_prob(X))
    many = LaplaceGram(X, basis=polynomial(3, 0.0, 2.5))
    with pytest.raises(np.linalg.LinAlgError, match="its column 3"):
        many.coefficients(X)
    batch = LaplaceGram(X, basis=torch.stack((torch.ones(3, 1), torch.zeros(3, 1))))
    with pytest.raises(np.linalg.LinAlgError, match="column 0 of matrix 1 of the batch"):
        batch.log_prob(X)


@pytest.mark.parametrize("name", ["basis", "prior", "mean"])
def test_forward_mode_is_refused(name):
    given = {"basis": torch.ones(3, 1, dtype=D), "prior": torch.ones(1, dtype=D), "mean": X}
    with forward_ad.dual_level():
        given[name] = forward_ad.make_dual(given[name], torch.ones_like(given[name]))
        with pytest.raises(NotImplementedError, match="forward-mode derivatives only for matvec"):
            LaplaceGram(X, **given).log_prob(X)


def test_other_refusals():
    plain = LaplaceGram(X)
    with pytest.raises(ValueError, match="there is none: pass basis="):
        plain.coefficients(X)
    with pytest.raises(ValueError, match="single real term without noise and basis"):
        LaplaceGram(X, basis=constant, prior=1.0).precision()
    with pytest.raises(ValueError, match="degree must be at least 0"):
        polynomial(-1, 0, 1)
    with pytest.raises(ValueError, match="low and high must be finite and ascending"):
        polynomial(1, 1, 1)
    with pytest.raises(ValueError, match="period must be positive"):
        harmonics(0.0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        harmonics(1.0, 0)
