"""The algebra of A = K + B diag(prior) B^T, given the factor of K."""

from __future__ import annotations

from math import inf, log, pi

import numpy as np
import torch
from torch import Tensor

from . import factor as factors
from .factor import Covariance, Factor, Gram

#: Columns whose part beyond the others is smaller than this, relative to their size, are dependent.
_TOLERANCE = 16 * torch.finfo(torch.float64).eps


class LowRank:
    r"""Vectors and a basis, whitened by the factor S of K = S S^T.

    With W = S^-1 B and s = sqrt(prior), the thin QR decomposition of the stacked matrix

        [W diag(s)]   [Q1]
        [    I    ] = [Q2] R

    serves everything: A = S (I - Q1 Q1^T)^-1 S^T, det A = det K det R^2, and R^-1 R^-T is, up to s,
    the covariance of the coefficients given the values. Where a prior is improper, s is 1 and the
    rows of I are 0. No inverse of a prior and no normal equations appear, so large priors are as
    accurate as their limit.

    Parameters
    ----------
    gram, covariance
        The factor of K, and its parameters.
    values : Tensor ``[B, R, n]``
    basis : Tensor ``[B, p, n]``
    prior : Tensor ``[B, p]``

    Raises
    ------
    numpy.linalg.LinAlgError
        If the columns of the basis are linearly dependent and the prior does not tell them apart.
    """

    triangle: Tensor
    directions: Tensor
    ends: Tensor
    whitened: Tensor
    scale: Tensor
    improper: Tensor
    logs: Tensor

    def __init__(
        self, gram: Gram, covariance: Covariance, values: Tensor, basis: Tensor, prior: Tensor
    ) -> None:
        self.gram, self.covariance = gram, covariance
        count, n = basis.shape[-2:]
        whitened, self.logs = factors.innovations(gram, torch.cat((basis, values), 1), covariance)
        self.roots = torch.exp(-0.5 * self.logs)[:, None]
        whitened = whitened * self.roots
        self.improper = prior == inf
        self.scale = torch.where(self.improper, 1.0, prior).sqrt()
        ends = torch.diag_embed((~self.improper).to(prior.dtype))
        stacked = torch.cat((whitened[:, :count] * self.scale[..., None], ends), -1).mT
        orthogonal, triangle = torch.linalg.qr(stacked)
        _check_rank(stacked, triangle, n)
        sign = triangle.diagonal(dim1=-2, dim2=-1).detach().sign()
        orthogonal = orthogonal * sign[:, None, :]
        self.triangle = triangle * sign[..., None]
        self.directions, self.ends = orthogonal[:, :n], orthogonal[:, n:]
        self.whitened = whitened[:, count:]

    def _residual(self) -> tuple[Tensor, Tensor]:
        """What no coefficients explain of the whitened values ``[B, R, n]``; coordinates in Q1."""
        coordinates = self.whitened @ self.directions
        return self.whitened - coordinates @ self.directions.mT, coordinates

    def solve(self) -> Tensor:
        """A^-1 times the values; in the improper limit, what no coefficients explain is left."""
        residual = self._residual()[0] * self.roots
        return factors.product(self.gram, Factor.UPPER_INVERSE, residual, self.covariance)

    def quadratic(self) -> Tensor:
        """Values^T A^-1 values ``[B, R]``, as the least squares that they are."""
        residual, coordinates = self._residual()
        penalty = coordinates @ self.ends.mT
        result: Tensor = residual.square().sum(-1) + penalty.square().sum(-1)
        return result

    def logdet(self) -> Tensor:
        """Log det A ``[B]``; in the improper limit, without the diverging log of those priors."""
        diagonal = self.triangle.diagonal(dim1=-2, dim2=-1)
        result: Tensor = self.logs.sum(-1) + 2 * diagonal.log().sum(-1)
        return result

    def quadratic_and_logdet(self) -> Tensor:
        """Both, ``[B, R + 1]``."""
        return torch.cat((self.quadratic(), self.logdet()[:, None]), -1)

    def log_prob(self) -> Tensor:
        """Log density ``[B, R]``, which is the restricted one in the improper limit."""
        count = self.logs.shape[-1] - self.improper.sum(-1, keepdim=True, dtype=torch.float64)
        constant = count * log(2 * pi)
        return -0.5 * (self.quadratic() + self.logdet()[:, None] + constant)

    def coefficients(self) -> Tensor:
        """Expectations ``[B, R, p]`` of the coefficients, given the values."""
        coordinates = self.whitened @ self.directions
        return _solved(self.triangle, coordinates.mT).mT * self.scale[:, None]

    def coefficient_covariance(self) -> Tensor:
        """Covariances ``[B, p, p]`` of the coefficients, given the values."""
        inverse = _solved(self.triangle, self._eye())
        root = self.scale[..., None] * inverse
        return root @ root.mT

    def times_root(self, vectors: Tensor, *, transpose: bool) -> Tensor:
        """Multiply by C, or C^T, for which S C is a square root of A; proper priors only.

        C = I + Q1 R (I + R^T)^-1 R^T Q1^T
        """
        upper, lower = self.triangle, self.triangle.mT
        inner = upper @ _solved(self._eye() + lower, lower, upper=False)
        return self._updated(vectors, inner.mT if transpose else inner)

    def times_inverse_root(self, vectors: Tensor, *, transpose: bool) -> Tensor:
        """Multiply by C^-1, or C^-T.

        C^-1 is I - Q1 (I + R)^-1 R Q1^T.
        """
        upper = self.triangle
        inner = -_solved(self._eye() + upper, upper)
        return self._updated(vectors, inner.mT if transpose else inner)

    def _updated(self, vectors: Tensor, inner: Tensor) -> Tensor:
        """Multiply vectors ``[B, R, n]`` by I + Q1 inner Q1^T."""
        return vectors + vectors @ self.directions @ inner.mT @ self.directions.mT

    def _eye(self) -> Tensor:
        count = self.scale.shape[-1]
        eye = torch.eye(count, dtype=self.scale.dtype, device=self.scale.device)
        return eye.expand_as(self.triangle)


def _solved(triangle: Tensor, right: Tensor, *, upper: bool = True) -> Tensor:
    result: Tensor = torch.linalg.solve_triangular(triangle, right, upper=upper)
    return result


def _check_rank(stacked: Tensor, triangle: Tensor, n: int) -> None:
    own = triangle.detach().diagonal(dim1=-2, dim2=-1).abs()
    dependent = own <= _TOLERANCE * max(n, 1) ** 0.5 * stacked.detach().norm(dim=-2)
    if bool(dependent.any()):
        batch, column = dependent.nonzero()[0].tolist()
        where = f" of matrix {batch} of the batch" if len(triangle) > 1 else ""
        raise np.linalg.LinAlgError(
            f"the basis is singular to working precision: at these anchors, its column {column}"
            f"{where} is 0 or a combination of the columns before it. Remove it, give it a "
            "smaller prior, or give more anchors"
        )
