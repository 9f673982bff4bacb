"""Models with a trend, and the dense algebra they are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from laplex.gram import LaplaceGram, Matern32, Term, harmonics, polynomial

D = torch.float64
EPSILON = torch.finfo(D).eps
#: For the improper limit, dense algebra removes the coefficients by an orthogonal projection.
INF = math.inf


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def wave(x: torch.Tensor) -> torch.Tensor:
    """A mean."""
    return 2 + torch.sin(x)


@dataclass
class Dense:
    """N(m + B beta, K) with beta of N(0, diag(prior)), by dense algebra; one matrix."""

    K: torch.Tensor
    B: torch.Tensor
    prior: torch.Tensor
    m: torch.Tensor

    @classmethod
    def of(cls, gram: LaplaceGram) -> Dense:
        alone = LaplaceGram(gram.anchors, terms=gram.terms, noise=gram.noise)
        return cls(alone.to_dense(), gram.basis, gram.prior, gram.mean)

    @property
    def A(self) -> torch.Tensor:
        """The covariance; proper priors only."""
        return self.K + self.B @ torch.diag(self.prior) @ self.B.mT

    @property
    def known(self) -> torch.Tensor:
        """The covariance without the improper coefficients."""
        proper = self.prior < INF
        B = self.B[:, proper]
        return self.K + B @ torch.diag(self.prior[proper]) @ B.mT

    def inverse(self) -> torch.Tensor:
        """A^-1, or its limit: C (C^T A C)^-1 C^T for orthogonal contrasts C of improper columns."""
        C = self.contrasts()
        return C @ torch.linalg.solve(C.mT @ self.known @ C, C.mT)

    def contrasts(self) -> torch.Tensor:
        free = self.B[:, self.prior == INF]
        return torch.linalg.qr(free, mode="complete")[0][:, free.shape[-1] :]

    def log_prob(self, v: torch.Tensor) -> torch.Tensor:
        """Of the contrasts, and the density of all coefficients is 1: |B^T B|^-1/2 more."""
        C, free = self.contrasts(), self.B[:, self.prior == INF]
        S, r = C.mT @ self.known @ C, (v - self.m) @ C
        square = (r * torch.linalg.solve(S, r[..., None])[..., 0]).sum(-1)
        determinants = torch.logdet(S) + torch.logdet(free.mT @ free)
        return -0.5 * (square + determinants + len(S) * math.log(2 * math.pi))

    def coefficients(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normal equations: (B^T K^-1 B + prior^-1)^-1."""
        precision = self.B.mT @ torch.linalg.solve(self.K, self.B) + torch.diag(1 / self.prior)
        covariance = torch.linalg.inv(precision)
        return (v - self.m) @ torch.linalg.solve(self.K, self.B) @ covariance, covariance

    def tolerance(self) -> float:
        """Relative error of results of a backward stable solution with K, and with the normal
        equations of B (whose condition number is that of B squared)."""
        return (
            200
            * EPSILON
            * len(self.K)
            * float(torch.linalg.cond(self.K) * torch.linalg.cond(self.B) ** 2)
        )


def constant_model(n: int, prior: object = None) -> LaplaceGram:
    return LaplaceGram(
        3 * uniform(n), lengthscale=0.5, noise=0.1, basis=torch.ones(n, dtype=D), prior=prior
    )


def line_model(n: int, prior: object = None) -> LaplaceGram:
    """A function with one column a degree, a mean, and a noise for each point."""
    terms = [Term(0.3, 2.0), Term(1.5, frequency=3.0)]
    noise = uniform(n, seed=3) + 0.05
    return LaplaceGram(
        3 * uniform(n),
        terms=terms,
        noise=noise,
        mean=wave,
        basis=polynomial(1, 0.0, 3.0),
        prior=prior,
    )


def mixed_model(n: int, prior: object = None) -> LaplaceGram:
    """Functions of every kind side by side, of finite and infinite variance."""
    x = 3 * uniform(n)
    if prior is None:
        prior = torch.tensor([INF, 2.0, INF, 0.3, 5.0], dtype=D)
    return LaplaceGram(
        x,
        terms=[Matern32(0.8, variance=1.5), Term(0.2)],
        noise=0.2,
        mean=draw(n, seed=8),
        basis=[torch.ones_like, lambda x: x, torch.square, harmonics(1.3)],
        prior=prior,
    )


MODELS = (constant_model, line_model, mixed_model)
