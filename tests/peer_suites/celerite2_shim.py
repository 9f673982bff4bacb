"""celerite2's terms and GaussianProcess on `laplex.gram`, as far as its own tests use them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from numpy.linalg import LinAlgError

from laplex.gram import SHO, Celerite, LaplaceGram, Matern32, Rotation


class Term:
    """A sum of Laplex's terms under the names of celerite2's methods."""

    def __init__(self, *ours):
        self.ours = ours

    @property
    def terms(self):
        return [self]

    def __add__(self, other):
        return TermSum(self, other)

    def __mul__(self, other):
        return TermProduct(self, other)

    def get_value(self, tau):
        tau = np.atleast_1d(np.asarray(tau, float))
        return sum(term.value(tau) for term in self.ours).numpy()

    def get_psd(self, omega):
        return sum(term.psd(np.atleast_1d(omega)) for term in self.ours).numpy()

    def get_coefficients(self):
        """Read celerite2's coefficients off the blocks, which a critical oscillator has not."""
        real, waves = [], []
        for block in (block for term in self.ours for block in term.blocks(torch.empty(0))):
            rates = [1 / each for each in block.lengthscales]
            if len(rates) == 1:
                real.append((block.weights[0], rates[0]))
                continue
            (one, two), (damping, undamped) = block.weights, rates
            even, odd = (one + two) / 2, damping * (two - one) / 2
            root = np.sqrt(abs((undamped - damping) * (undamped + damping)))
            if root == 0 and odd == 0:  # as in the square of an oscillator
                waves.append((even, 0.0, damping, 0.0))
            elif root == 0:
                raise NotImplementedError("a critical oscillator has no coefficients")
            elif undamped > damping:
                waves.append((even, odd / root, damping, root))
            else:
                halves = (even + odd / root) / 2, (even - odd / root) / 2
                real += [(halves[0], damping - root), (halves[1], damping + root)]
        return (*np.array(real).reshape(-1, 2).T, *np.array(waves).reshape(-1, 4).T)

    def to_dense(self, x, diag):
        return LaplaceGram(x, terms=self.ours, noise=diag).to_dense().numpy()

    def dot(self, x, diag, y):
        return (LaplaceGram(x, terms=self.ours, noise=diag) @ y).numpy()


def of_coefficients(ar, cr, ac, bc, cc, dc):
    real = [Celerite(a, 0.0, c) for a, c in zip(ar, cr, strict=True)]
    return real + [Celerite(*each) for each in zip(ac, bc, cc, dc, strict=True)]


class TermSum(Term):
    def __init__(self, *terms):
        super().__init__(*(our for term in terms for our in term.ours))


class TermProduct(Term):
    def __init__(self, one, two):
        super().__init__(*(a * b for a in one.ours for b in two.ours))


class OriginalCeleriteTerm(Term):
    def __init__(self, term):
        super().__init__(*of_coefficients(*term.get_all_coefficients()))


class GaussianProcess:
    def __init__(self, kernel, t=None, *, mean=0.0, **options):
        self.kernel, self._t = kernel, None
        self._mean = mean if callable(mean) else lambda x: mean
        if t is not None:
            self.compute(t, **options)

    def compute(self, t, *, yerr=None, diag=None, quiet=False):
        t = np.asarray(t, float)
        if t.ndim != 1 or (np.diff(t) < 0).any() or (yerr is not None and diag is not None):
            raise ValueError("t must be sorted and one-dimensional, with one of yerr and diag")
        self._t, self._diag = t, diag if yerr is None else np.square(yerr)
        try:
            self._gram = LaplaceGram(t, terms=self.kernel.ours, noise=self._diag)
            self._log_det = float(self._gram.logdet())
        except (LinAlgError, ValueError):  # such as a negative variance
            if not quiet:
                raise
            self._log_det = -np.inf

    def recompute(self):
        self._checked()
        self.compute(self._t, diag=self._diag)

    def log_likelihood(self, y):
        self._checked(y)
        return float(self._gram.log_prob(y - self._mean(self._t)))

    def apply_inverse(self, y):
        self._checked()
        return self._gram.solve(np.asarray(y).T).numpy().T

    def sample(self, *, size=None, include_mean=True):
        self._checked()
        white = np.random.randn(*(len(self._t), size)[: 1 if size is None else 2])  # noqa: NPY002
        return self._gram.color(white.T).numpy() + include_mean * self._mean(self._t)

    def condition(self, y, t=None, *, include_mean=True, kernel=None):
        return Conditional(self, y, self._t if t is None else t, include_mean, kernel)

    predict = condition

    def _checked(self, y=None):
        if self._t is None:
            raise RuntimeError("compute was not called")
        if y is not None and np.ndim(y) != 1:
            raise ValueError("y must be one-dimensional")


class Conditional:
    """What is predicted, by `LaplaceGram.predict`; of another kernel, by its dense covariance."""

    def __init__(self, gp, y, t, include_mean, kernel):
        if np.ndim(t) != 1:
            raise ValueError("t must be one-dimensional")
        gp._checked(y)
        y = y - gp._mean(gp._t)
        self._shift = include_mean * gp._mean(np.asarray(t))
        self._ours = gp._gram.predict(t, y)
        self._mean, self._covariance = self._ours.mean, lambda: self._ours.covariance
        if kernel is not None:
            across = kernel.get_value(t[:, None] - gp._t)
            solved = gp.apply_inverse(across.T)
            self._mean = torch.from_numpy(across @ gp.apply_inverse(y))
            self._covariance = lambda: torch.from_numpy(
                kernel.get_value(t[:, None] - t) - across @ solved
            )

    @property
    def mean(self):
        return self._mean.numpy() + self._shift

    @property
    def variance(self):
        return self.covariance.diagonal()

    @property
    def covariance(self):
        return self._covariance().numpy()

    def sample(self, size=None):
        return self._ours.sample(() if size is None else size).numpy() + self._shift


def modules() -> dict[str, ModuleType]:
    """The modules that stand for ``celerite2`` and ``celerite2.terms``."""
    package, terms = ModuleType("celerite2"), ModuleType("celerite2.terms")
    for kind in (Term, TermSum, TermProduct, OriginalCeleriteTerm):
        setattr(terms, kind.__name__, kind)
    makers = {
        "RealTerm": lambda a, c: Celerite(a, 0.0, c),
        "ComplexTerm": Celerite,
        "SHOTerm": SHO,
        "Matern32Term": lambda sigma, rho, eps=None: Matern32(rho, sigma**2),
        "RotationTerm": Rotation,
    }
    for name, make in makers.items():
        setattr(terms, name, lambda make=make, **parameters: Term(make(**parameters)))
    package.terms, package.GaussianProcess = terms, GaussianProcess
    return {"celerite2": package, "celerite2.terms": terms}
