"""Principal components, with two ways to choose the entries of a code."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.linalg
import sklearn.decomposition
import torch
from torch import Tensor

from ..statistics import Statistics
from .dictionary import BASELINES, MAX_ROWS, Array, LinearDictionary

#: Variances below this fraction of the largest are rounding and are not whitened or rotated.
_LEAST_VARIANCE = 1e-10


@BASELINES.register("pca", order=1)
class PCA(LinearDictionary):
    """Orthonormal principal components by scikit-learn's ``PCA``, completed to a basis.

    Parameters
    ----------
    select : {"per_row", "leading"}
        Which k coordinates a code keeps. "per_row" keeps the k largest of each row, as the other
        methods do; this is the fair comparison. "leading" keeps the first k for every row, as PCA
        is commonly used; its codes cost fewer bits, because they need not store which axes they
        use.
    k : int
        Number of nonzero entries of a code.
    max_rows : int
        Largest number of rows in memory; more rows are sampled uniformly.
    random_state : int, RandomState or None
        Seed of the sample.

    Attributes
    ----------
    explained_variance_ : ndarray ``[d]``
        Variance along each atom, in descending order. With fewer rows than columns, atoms that
        complete the basis have variance 0.
    """

    explained_variance_: Array

    def __init__(
        self,
        select: Literal["per_row", "leading"] = "per_row",
        *,
        k: int = 32,
        max_rows: int = MAX_ROWS,
        random_state: Any = None,
    ) -> None:
        self.select = select
        self.k = k
        self.max_rows = max_rows
        self.random_state = random_state

    @classmethod
    def variants(cls) -> list[PCA]:
        """Return PCA with leading components, and PCA with the top k of each row."""
        return [cls("leading"), cls()]

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        return "PCA, per-row top k" if self.select == "per_row" else "PCA, leading k"

    @property
    def indexed(self) -> bool:
        """Whether each row chooses its axes."""
        return self.select == "per_row"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.select not in ("per_row", "leading"):
            raise ValueError(f"select must be 'per_row' or 'leading', got {self.select!r}")

    def _learn(self, found: Statistics) -> None:
        self.atoms_, self.explained_variance_ = principal_axes(found.sample)
        self.readouts_ = self.atoms_

    def _encode(self, z: Tensor, k: int) -> Tensor:
        if self.select == "per_row":
            return super()._encode(z, k)
        codes = z @ torch.from_numpy(self.readouts_).to(z.dtype).T
        codes[:, k:] = 0
        return codes


def principal_axes(sample: Tensor) -> tuple[Array, Array]:
    """Return orthonormal principal axes as rows [d, d] and descending variances [d], in float64.

    With fewer rows than columns, directions without variance complete the basis.
    """
    model = sklearn.decomposition.PCA(svd_solver="full" if len(sample) < 1000 else "auto")
    axes: Array = model.fit(sample.double().numpy()).components_
    variances: Array = model.explained_variance_
    missing = axes.shape[1] - len(axes)
    if missing:
        axes = np.concatenate([axes, scipy.linalg.null_space(axes).T])
        variances = np.concatenate([variances, np.zeros(missing)])
    return axes, variances


def rank(variances: Array) -> int:
    """Return the number of principal axes with a variance above rounding."""
    return int((variances > _LEAST_VARIANCE * variances[0]).sum())
