"""tinygp's quasiseparable kernels and GaussianProcess on `laplex.gram`, as far as its tests go."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import tinygp
import torch
from jax.scipy.linalg import block_diag, expm
from tinygp.kernels import quasisep as theirs

from laplex.gram import SHO, Celerite, LaplaceGram, Matern32, Matern52, Term
from laplex.gram.product import product

#: Stands for the infinite lengthscale of an undamped cosine.
_ENDLESS = 1e12


def array(given):
    return np.asarray(given, np.float64)


class Kernel:
    """A sum of Laplex's terms under the names of tinygp's methods."""

    def __init__(self, *ours):
        self.ours = ours

    def __add__(self, other):
        return Kernel(*self.ours, *other.ours)

    def __mul__(self, factor):
        if isinstance(factor, Kernel):
            return product_of(self, factor)
        return Kernel(*(float(factor) * term for term in self.ours))

    __rmul__ = __mul__

    def __call__(self, x, y):
        return jnp.asarray(self.dense(array(x), array(y)))

    def dense(self, x, y):
        distance = torch.from_numpy(x[:, None] - y)
        values = sum(term.value(distance.flatten()) for term in self.ours)
        return values.reshape(distance.shape).numpy()

    def to_symm_qsm(self, x):
        dense = LaplaceGram(array(x), terms=self.ours).to_dense()
        return SimpleNamespace(to_dense=lambda: jnp.asarray(dense.numpy()))

    def matmul(self, x, *more):
        *sources, values = map(array, more)
        targets, sources = array(x), sources[0] if sources else array(x)
        anchors = torch.from_numpy(np.concatenate((sources, targets)))
        from_to = torch.arange(len(anchors)).tensor_split([len(sources)])
        rows = torch.from_numpy(values)
        result = sum(product(term, rows, anchors, *from_to) for term in self.ours)
        return jnp.asarray(result.numpy())

    # --- the state, as the compiled core defines it -----------------------------------------------

    def _states(self):
        for block in (block for term in self.ours for block in term.blocks(torch.empty(0))):
            (rate, *others), weights = [1 / each for each in block.lengthscales], block.weights
            if not others:
                yield -rate * np.eye(1), weights[0] * np.eye(1)
            elif len(others) == 1:
                zeta = rate / others[0]
                corner = np.array([[0, -zeta], [-zeta, 2 * zeta**2]])
                drift = others[0] * np.array([[0, 1], [-1, -2 * zeta]])
                yield drift, sum(weights) / 2 * np.eye(2) + weights[0] * corner
            else:
                drift = rate * np.array([[0, 1, 0], [0, 0, 1], [-1, -3, -3]])
                yield drift, weights[0] * np.array([[1, 0, -1 / 3], [0, 1 / 3, 0], [-1 / 3, 0, 1]])

    def design_matrix(self):
        return block_diag(*(drift for drift, _ in self._states()))

    def stationary_covariance(self):
        return block_diag(*(covariance for _, covariance in self._states()))

    def observation_model(self, _):
        return jnp.concatenate([jnp.eye(len(drift))[0] for drift, _ in self._states()])

    def transition_matrix(self, x, y):
        return expm(self.design_matrix().T * (y - x))


class Refused(Kernel):
    """A product that Laplex refuses; tinygp's tests make their kernels before they run."""

    def __init__(self, error):
        self.error = error

    @property
    def ours(self):
        raise self.error


def product_of(one, two):
    try:
        return Kernel(*(a * b for a in one.ours for b in two.ours))
    except NotImplementedError as error:
        return Refused(error)


def carma(alpha, beta):
    """The sum of general terms that has the covariance of a CARMA process."""
    alpha, beta = jnp.asarray(alpha, float), jnp.asarray(beta, float)
    roots = theirs.carma_roots(jnp.append(alpha, 1.0))
    sizes = theirs.carma_acvf(roots, alpha, beta)
    found = []
    for root, size in zip(map(complex, roots), map(complex, sizes), strict=True):
        if abs(root.imag) < 1e-6 * abs(root):
            found.append(Celerite(size.real, 0.0, -root.real))
        elif root.imag > 0:
            found.append(Celerite(2 * size.real, 2 * size.imag, -root.real, -root.imag))
    return Kernel(*found)


def cosine(scale=1.0, sigma=1.0):
    return Kernel(Term(_ENDLESS * scale, sigma**2, 2 * np.pi / scale))


#: What stands for the module ``tinygp.kernels.quasisep``.
quasisep = SimpleNamespace(
    Exp=lambda scale=1.0, sigma=1.0: Kernel(Term(scale, float(sigma) ** 2)),
    Cosine=cosine,
    Matern32=lambda scale=1.0, sigma=1.0: Kernel(Matern32(scale, sigma**2)),
    Matern52=lambda scale=1.0, sigma=1.0: Kernel(Matern52(scale, sigma**2)),
    Celerite=lambda a, b, c, d: Kernel(Celerite(a, b, c, d)),
    SHO=lambda omega, quality, sigma=1.0: Kernel(SHO(sigma=sigma, w0=omega, Q=quality)),
    CARMA=carma,
    carma_poly2quads=theirs.carma_poly2quads,
)


class Solver:
    """Stands for tinygp's QuasisepSolver and KalmanSolver."""

    def __init__(self, gram):
        self.gram = gram

    def normalization(self):
        return 0.5 * (float(self.gram.logdet()) + self.gram.shape[-1] * np.log(2 * np.pi))


class Theirs:
    """tinygp's GaussianProcess of its own kernels."""

    def __init__(self, *arguments, **options):
        self.gp = tinygp.gp.GaussianProcess(*arguments, **options)

    def __getattr__(self, name):
        return getattr(self.gp, name)

    def condition(self, y, kernel=None, **options):
        if kernel is not None:
            (matern,) = kernel.ours
            kernel = theirs.Matern32(matern.lengthscale, sigma=matern.variance**0.5)
        return self.gp.condition(y, kernel=kernel, **options)


class GaussianProcess:
    """For Laplex's kernels; tinygp's own for any other kernel."""

    def __new__(cls, kernel, x, **options):
        if not isinstance(kernel, Kernel):
            return Theirs(kernel, x, **options)
        return super().__new__(cls)

    def __init__(self, kernel, x, *, diag, solver=None, mean=0.0):
        self.kernel, self.x, self.diag = kernel, array(x), array(diag)
        if (np.diff(self.x) < 0).any():
            raise ValueError("tinygp wants sorted coordinates")
        self.gram = LaplaceGram(self.x, terms=kernel.ours, noise=np.atleast_1d(self.diag))
        self.solver = Solver(self.gram)

    @property
    def covariance(self):
        return self.gram.to_dense().numpy()

    def log_probability(self, y):
        return float(self.gram.log_prob(array(y)))

    def sample(self, key, shape=()):
        white = array(jax.random.normal(key, (len(self.x), *shape)))
        return self.gram.color(np.moveaxis(white, 0, -1)).numpy()

    def condition(self, y, X_test=None, kernel=None):
        at = self.x if X_test is None else array(X_test)
        gp = SimpleNamespace(solver=self.solver if X_test is None else None)
        if kernel is None:
            predicted = self.gram.predict(at, array(y))
            gp.loc, gp.covariance = predicted.mean.numpy(), predicted.covariance.numpy()
        else:  # another kernel is no term of this matrix
            across = kernel.dense(at, self.x)
            gp.loc = across @ self.gram.solve(array(y)).numpy()
            gp.covariance = kernel.dense(at, at) - across @ self.gram.solve(across).numpy().T
        gp.variance = gp.covariance.diagonal()
        return SimpleNamespace(gp=gp, log_probability=self.log_probability(y))
