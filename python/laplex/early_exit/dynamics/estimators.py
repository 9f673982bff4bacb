"""Estimators of mutual information from samples, in nats."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, logsumexp

from ..._support.arguments import whole
from ..arrays import Array, Integers, as_labels, as_numbers
from .centring import centred

#: Canonical correlations above 1 minus this count as 1: one side is a function of the other.
_EXACT = 1e-12


def gaussian_information(x: Any, z: Any) -> float:
    r"""Estimate the mutual information I(X;Z) of two jointly Gaussian vectors.

    .. math::
        -\tfrac12 \sum_i \log(1 - \rho_i^2)
            - \tfrac12 \sum_{i=1}^{d_x} \left[ \psi\left(\tfrac{n - i}{2}\right)
            - \psi\left(\tfrac{n - d_z - i}{2}\right) \right]

    with the canonical correlations :math:`\rho_i` of the samples. The second sum is the bias of the
    first. It is exact for Gaussian vectors (from the mean log-determinant of a Wishart matrix), so
    the estimate is unbiased and may be negative. For other vectors it only captures linear
    dependence.

    Parameters
    ----------
    x : array or Tensor [n, dx] or [n]
        Samples of X.
    z : array or Tensor [n, dz] or [n]
        Samples of Z.

    Returns
    -------
    float
        The estimate in nats; infinite if a direction of one vector is a linear function of the
        other vector.

    Raises
    ------
    TypeError, ValueError
        If values are not finite, the numbers of samples differ, n is less than dx + dz + 2, or
        columns of one vector are linearly dependent.
    """
    x, z = _pair(x, z)
    n, sizes = len(x), (x.shape[1], z.shape[1])
    if n < sum(sizes) + 2:
        raise ValueError(
            f"{n} samples are too few for {sizes[0]} + {sizes[1]} columns: pass more than "
            f"{sum(sizes) + 1}, or fewer columns"
        )
    rho = np.linalg.svd(_orthonormal("x", x).T @ _orthonormal("z", z), compute_uv=False)
    if rho[0] >= 1 - _EXACT:
        return float("inf")
    order = np.arange(1, sizes[0] + 1)
    bias = 0.5 * (digamma((n - order) / 2) - digamma((n - sizes[1] - order) / 2)).sum()
    return float(-0.5 * np.log1p(-(rho**2)).sum() - bias)


def gaussian_label_information(z: Any, labels: Any, *, folds: int = 5, seed: int = 0) -> float:
    r"""Estimate the mutual information I(Z;Y) of a vector that is Gaussian within each class.

    The estimate is the mean of :math:`\log q(z_i | y_i) - \log \sum_c p_c q(z_i | c)` over the
    samples, where q and the frequencies :math:`p_c` are fitted to the other folds. Because q is
    evaluated on samples that it was not fitted to, the expected estimate is not above the truth for
    any distribution, up to the error of the frequencies. It may be negative, the more so the more
    parameters, d (d + 3) / 2 for each class, there are for each sample.

    Parameters
    ----------
    z : array or Tensor [n, d] or [n]
        Samples of Z.
    labels : array or Tensor [n], integers
        Classes Y.
    folds : int
        Number of folds, at least 2. The samples of each class are divided evenly among them.
    seed : int
        Random seed of the division into folds.

    Returns
    -------
    float
        The estimate in nats. It is at most the entropy of the labels, up to the error of the
        frequencies.

    Raises
    ------
    TypeError, ValueError
        If values are not finite, or a class has too few samples or linearly dependent columns.
    """
    z, classes, index = _labelled(z, labels)
    folds = whole("folds", folds, 2)
    rng = np.random.default_rng(whole("seed", seed, 0))
    fold = np.empty(len(z), dtype=np.int64)
    for label in range(len(classes)):
        mine = rng.permutation(np.flatnonzero(index == label))
        fold[mine] = (np.arange(len(mine)) + label) % folds
    gains = np.empty(len(z))
    for held in range(folds):
        out = fold == held
        rest = [z[~out & (index == label)] for label in range(len(classes))]
        density = np.stack(
            [_log_density(z[out], of, label) for of, label in zip(rest, classes, strict=True)]
        )
        frequency = np.array([len(of) for of in rest]) / (~out).sum()
        own = density[index[out], np.arange(density.shape[1])]
        gains[out] = own - logsumexp(density + np.log(frequency)[:, None], axis=0)
    return float(gains.mean())


def ksg_information(x: Any, z: Any, *, neighbours: int = 3) -> float:
    r"""Estimate the mutual information I(X;Z) of two continuous vectors from nearest neighbours.

    .. math:: \psi(k) + \psi(n) - \langle \psi(n_x + 1) + \psi(n_z + 1) \rangle

    This is the first estimator of Kraskov, Stoegbauer and Grassberger (2004). For each sample,
    :math:`n_x` and :math:`n_z` are the numbers of other samples that are closer in x, or in z, than
    its k-th neighbour in both together; the distance is the largest coordinate difference. Columns
    are first scaled to a standard deviation of 1, and noise of :math:`10^{-10}` is added to
    separate equal samples.

    The estimate is nearly unbiased for weak dependence. It is too low if the dependence is strong
    for the number of samples, and more so with more columns: for 1000 samples of 4 + 4 columns with
    correlations of 0.9, which share 3.3 nats, it gives 2.5. It is at most
    :math:`\psi(n) - \psi(k)`, so n samples cannot show much more than log n nats.

    Parameters
    ----------
    x : array or Tensor [n, dx] or [n]
        Samples of X.
    z : array or Tensor [n, dz] or [n]
        Samples of Z.
    neighbours : int
        The number k. A larger k lowers the variance and raises the bias.

    Returns
    -------
    float
        The estimate in nats; it may be slightly negative.

    Raises
    ------
    TypeError, ValueError
        If values are not finite, the numbers of samples differ, or n is at most `neighbours`.
    """
    x, z = _pair(x, z)
    n, k = len(x), _neighbours(neighbours, len(x))
    x, z = _scaled(x, 0), _scaled(z, 1)
    both = np.concatenate((x, z), axis=1)
    radius = cKDTree(both).query(both, k + 1, p=np.inf)[0][:, -1]
    inside = np.nextafter(radius, 0)
    counts = [  # of samples that are closer, and the sample itself
        cKDTree(one).query_ball_point(one, inside, p=np.inf, return_length=True) for one in (x, z)
    ]
    each = digamma(counts[0]) + digamma(counts[1])
    return float(digamma(k) + digamma(n) - each.mean())


def ksg_label_information(z: Any, labels: Any, *, neighbours: int = 3) -> float:
    r"""Estimate the mutual information I(Z;Y) of a vector and classes from nearest neighbours.

    .. math:: \psi(n) + \langle \psi(k_i) - \psi(n_{y_i}) - \psi(m_i) \rangle

    This is the estimator of Ross (2014). For each sample, :math:`n_{y_i}` is the size of its class,
    and :math:`m_i` is the number of samples of any class, itself included, that are closer than its
    :math:`k_i`-th neighbour within the class. :math:`k_i` is `neighbours`, or fewer if the class is
    smaller; classes of one sample are left out. Distances and scaling are as in `ksg_information`.

    The estimate is too low for classes that differ slightly in many columns. It may be slightly
    above the entropy of the labels.

    Parameters
    ----------
    z : array or Tensor [n, d] or [n]
        Samples of Z.
    labels : array or Tensor [n], integers
        Classes Y.
    neighbours : int
        Number of neighbours.

    Returns
    -------
    float
        The estimate in nats; it may be slightly negative.

    Raises
    ------
    TypeError, ValueError
        If values are not finite, or no class has two samples.
    """
    z, classes, index = _labelled(z, labels)
    neighbours = _neighbours(neighbours, len(z))
    sizes = np.bincount(index, minlength=len(classes))
    kept = sizes[index] > 1
    if not kept.any():
        raise ValueError("labels have no class of two samples: pass more samples")
    z, index = _scaled(z[kept], 1), index[kept]
    radius = np.empty(len(z))
    for label in np.flatnonzero(sizes > 1):
        mine = z[index == label]
        k = min(neighbours, len(mine) - 1)
        radius[index == label] = cKDTree(mine).query(mine, k + 1, p=np.inf)[0][:, -1]
    closer = cKDTree(z).query_ball_point(z, np.nextafter(radius, 0), p=np.inf, return_length=True)
    own = sizes[index]
    each = digamma(np.minimum(neighbours, own - 1)) - digamma(own) - digamma(closer)
    return float(digamma(len(z)) + each.mean())


def label_entropy(labels: Any) -> float:
    """Compute the entropy H(Y) of the frequencies of the labels, in nats.

    Parameters
    ----------
    labels : array or Tensor [n], integers
        Classes Y.

    Returns
    -------
    float
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    parts = counts / counts.sum()
    return float(-(parts * np.log(parts)).sum() + 0.0)


# --- inside ---------------------------------------------------------------------------------------


def _columns(name: str, values: Any) -> Array:
    one_column = getattr(values, "ndim", 2) == 1
    return as_numbers(name, values[:, None] if one_column else values, 2, "[samples, columns]")


def _pair(x: Any, z: Any) -> tuple[Array, Array]:
    x, z = _columns("x", x), _columns("z", z)
    if len(x) != len(z):
        raise ValueError(f"x and z must have the same number of rows, got {len(x)} and {len(z)}")
    return x, z


def _labelled(z: Any, labels: Any) -> tuple[Array, Integers, Integers]:
    z = _columns("z", z)
    numbers = as_labels("labels", labels, len(z), np.iinfo(np.int64).max)
    classes, index = np.unique(numbers, return_inverse=True)
    return z, classes, index.reshape(-1)


def _neighbours(neighbours: Any, samples: int) -> int:
    k = whole("neighbours", neighbours, 1)
    if samples <= k:
        raise ValueError(f"{samples} samples are too few for {k} neighbours: pass more than {k}")
    return k


def _scaled(values: Array, stream: int) -> Array:
    values = centred(values)
    deviation = values.std(axis=0)
    values = values / np.where(deviation > 0, deviation, 1.0)
    noise = np.random.default_rng([0, stream]).standard_normal(values.shape)
    scaled: Array = values + 1e-10 * noise
    return scaled


def _orthonormal(name: str, values: Array) -> Array:
    """Orthonormal columns with the span of the columns of `values` minus their means."""
    values = centred(values)
    scale = np.linalg.norm(values, axis=0)
    directions, sizes, _ = np.linalg.svd(
        values / np.where(scale > 0, scale, 1.0), full_matrices=False
    )
    if sizes[-1] <= 1e-10 * sizes[0]:
        raise ValueError(
            f"columns of {name} are constant or linearly dependent: reduce them to fewer, with PCA"
        )
    spanning: Array = directions
    return spanning


def _log_density(z: Array, of: Array, label: Any) -> Array:
    """Log density [n] of the Gaussian with the mean and covariance of a class."""
    count, d = of.shape
    if count < d + 2:
        raise ValueError(
            f"class {label} has {count} samples outside of a fold, too few for a covariance of {d} "
            f"columns: pass {d + 2} or more samples, or fewer columns"
        )
    # From singular values, because a covariance would square the condition number of the columns.
    _, sizes, directions = np.linalg.svd(centred(of) / np.sqrt(count - 1), full_matrices=False)
    if sizes[-1] <= 1e-10 * max(sizes[0], np.finfo(np.float64).tiny):
        raise ValueError(
            f"columns of class {label} are constant or linearly dependent: reduce them "
            "to fewer, or use neighbours"
        )
    standard = (z - of.mean(axis=0)) @ (directions.T / sizes)
    constant = np.log(sizes).sum() + 0.5 * d * np.log(2 * np.pi)
    log_density: Array = -0.5 * (standard**2).sum(axis=1) - constant
    return log_density
