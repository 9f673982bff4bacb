"""Independent components, whose atoms need not be orthogonal."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import sklearn.decomposition
import torch
from sklearn.exceptions import ConvergenceWarning

from ..basis import nearest_rotation
from ..statistics import Statistics
from .dictionary import BASELINES, MAX_ROWS, LinearDictionary
from .pca import principal_axes, rank


@BASELINES.register("fast-ica", order=4)
class FastICA(LinearDictionary):
    r"""Independent components of whitened embeddings, by scikit-learn's ``FastICA``.

    .. math:: U = W \Lambda^{-1/2} V, \qquad \text{atoms}^\top = V^\top \Lambda^{1/2} W^\top

    Here V are the principal axes, :math:`\Lambda` their variances, and W the rotation that FastICA
    finds. The inverse is exact and needs no linear solve. The atoms are not orthogonal, so codes
    keep the entries with the largest :math:`|u_i \cdot z|\,\|a_i\|`; the kept entries are not
    fitted again.

    Parameters
    ----------
    k : int
        Number of nonzero entries of a code.
    max_iter : int
        Maximum number of iterations of scikit-learn.
    tol : float
        Tolerance of scikit-learn.
    max_rows : int
        Largest number of rows in memory; more rows are sampled uniformly.
    random_state : int, RandomState or None
        Seed of the sample and of the start.

    Attributes
    ----------
    n_iter_ : int
        Number of iterations.
    converged_ : bool
        Whether FastICA converged within ``max_iter``; on embeddings it often does not. This
        attribute replaces the warning of scikit-learn.

    Notes
    -----
    There are as many axes as directions with variance. Reference: Hyvaerinen and Oja, "Independent
    component analysis: algorithms and applications", Neural Networks 13 (2000).
    """

    _limits: ClassVar = {"max_iter": (Integral, 1), "tol": (Real, 0)}

    n_iter_: int
    converged_: bool

    def __init__(
        self,
        *,
        k: int = 32,
        max_iter: int = 200,
        tol: float = 1e-4,
        max_rows: int = MAX_ROWS,
        random_state: Any = None,
    ) -> None:
        self.k = k
        self.max_iter = max_iter
        self.tol = tol
        self.max_rows = max_rows
        self.random_state = random_state

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        return "FastICA"

    def _learn(self, found: Statistics) -> None:
        axes, variances = principal_axes(found.sample)
        kept = rank(variances)
        axes, deviations = axes[:kept], np.sqrt(variances[:kept])
        centred = found.sample.double().numpy() - found.sample.double().mean(0).numpy()
        white = centred @ (axes.T / deviations)
        # In the precision of the data: float32 halves the time, and the rotation is made exact.
        white = white.astype(found.sample.numpy().dtype)
        model = sklearn.decomposition.FastICA(
            whiten=False, max_iter=self.max_iter, tol=self.tol, random_state=self._seed()
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(white)
        self.converged_ = True
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                self.converged_ = False
            else:  # not ours to hide
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        self.n_iter_ = int(model.n_iter_)
        rotation = nearest_rotation(torch.from_numpy(model.components_)).numpy()
        self.readouts_ = (rotation / deviations) @ axes
        self.atoms_ = (rotation * deviations) @ axes
