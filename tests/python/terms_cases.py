"""The terms that the tests of `laplex.gram` use, beside celerite2's."""

from __future__ import annotations

from typing import Any

import celerite2.terms as theirs
import torch

from laplex.gram import SHO, Celerite, Matern32, Matern52, Rotation, Term
from laplex.gram.terms import BaseTerm

#: Each term with some numbers, and celerite2's term with the same covariance, where it has one.
CASES: dict[str, tuple[BaseTerm, Any]] = {
    "underdamped": (
        SHO(sigma=1.5, rho=3.4, tau=2.345),
        theirs.SHOTerm(sigma=1.5, rho=3.4, tau=2.345),
    ),
    "overdamped": (SHO(S0=1.5, w0=3.4, Q=0.2), theirs.SHOTerm(S0=1.5, w0=3.4, Q=0.2)),
    "critical": (SHO(sigma=0.7, w0=2.0, Q=0.5), None),
    "rotation": (
        Rotation(sigma=1.5, period=3.45, Q0=1.3, dQ=1.05, f=0.5),
        theirs.RotationTerm(sigma=1.5, period=3.45, Q0=1.3, dQ=1.05, f=0.5),
    ),
    "celerite": (Celerite(1.5, 0.7, 0.7, 0.5), theirs.ComplexTerm(a=1.5, b=0.7, c=0.7, d=0.5)),
    "kinked": (Celerite(1.5, -0.9, 0.7, 1.1), theirs.ComplexTerm(a=1.5, b=-0.9, c=0.7, d=1.1)),
    "real": (Celerite(1.5, 0.0, 0.7), theirs.RealTerm(a=1.5, c=0.7)),
    "laplace": (Term(2.0, 1.5), theirs.RealTerm(a=1.5, c=0.5)),
    "cosine": (Term(2.0, 1.5, 3.0), theirs.ComplexTerm(a=1.5, b=0, c=0.5, d=3.0)),
    "matern32": (Matern32(2.0, 2.25), None),
    "matern52": (Matern52(2.0, 2.25), None),
    "of variance 1": (Matern52(), None),  # as columns of variance 1 have no weights
    "product of exponentials": (
        Term(2.0, 1.5) * Celerite(0.8, 0.0, 0.7),
        theirs.RealTerm(a=1.5, c=0.5) * theirs.RealTerm(a=0.8, c=0.7),
    ),
    "decaying": (
        Term(2.0, 1.5) * SHO(sigma=1.5, rho=3.4, tau=2.345),
        theirs.RealTerm(a=1.5, c=0.5) * theirs.SHOTerm(sigma=1.5, rho=3.4, tau=2.345),
    ),
    "product with matern32": (Matern32(2.0, 2.25) * Term(3.0), None),
    "product of waves": (
        SHO(sigma=1.5, rho=3.4, tau=2.345) * Celerite(1.5, 0.7, 0.7, 0.5),
        theirs.SHOTerm(sigma=1.5, rho=3.4, tau=2.345)
        * theirs.ComplexTerm(a=1.5, b=0.7, c=0.7, d=0.5),
    ),
    "product of three": (
        SHO(S0=1.5, w0=3.4, Q=0.2) * SHO(S0=1.2, w0=2.4, Q=0.3) * SHO(sigma=1.0, w0=1.0, Q=2.0),
        theirs.SHOTerm(S0=1.5, w0=3.4, Q=0.2)
        * theirs.SHOTerm(S0=1.2, w0=2.4, Q=0.3)
        * theirs.SHOTerm(sigma=1.0, w0=1.0, Q=2.0),
    ),
}
WITH_THEIRS = [name for name, (_, other) in CASES.items() if other is not None]


def numbers(term: BaseTerm) -> dict[str, torch.Tensor]:
    """The numbers of a term as tensors that require gradients."""
    return {
        name: torch.tensor(each, dtype=torch.float64, requires_grad=True)
        for name, each in term.parameters().items()
        if isinstance(each, float)
    }
