"""Base classes of the baselines: a centre, atoms, and a way to compute sparse codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data
from torch import Tensor

from ..._support.registry import Registry
from ..rows import Rows, as_rows
from ..statistics import Statistics, gather
from ..topk import top_k

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[Any]

#: Largest number of rows in memory by default: 150 MB for 768 float32 numbers each.
MAX_ROWS = 50_000


#: The baselines by name. Each is in a file of its own and registers itself.
BASELINES: Registry[type[Dictionary]] = Registry("baseline", "laplex.cedar.baselines")


class Dictionary(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]
    r"""Base class of the baselines: a dictionary of atoms for sparse codes.

    .. math:: \hat z = b + \sum_i s_i a_i

    with at most k nonzero :math:`s_i`. Subclasses take at least the parameters ``max_rows`` and
    ``random_state``, and ``k`` to stand in a pipeline. The centre b is the mean of *all* rows, from
    one pass. Everything else is learned from a uniform sample of at most ``max_rows`` rows, which
    are held in memory. ``transform`` reads the rows in batches.

    Attributes
    ----------
    mean_ : ndarray ``[d]`` of float64
        The centre b, which is subtracted from an embedding and added to a reconstruction.
    atoms_ : ndarray ``[axes, d]`` of float64
        The atoms :math:`a_i`.
    n_features_in_ : int
        Number of columns d.
    """

    #: Whether the fit depends on k, so that a comparison fits it anew for each.
    fitted_for_k: ClassVar[bool] = False
    #: Types and smallest values of the parameters.
    _limits: ClassVar[dict[str, tuple[type, int]]] = {}

    k: int = 32
    max_rows: int
    random_state: Any
    mean_: Array
    atoms_: Array
    n_features_in_: int

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the unfitted instances that a comparison uses by default."""
        return [cls()]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the method in tables."""

    @property
    def indexed(self) -> bool:
        """Whether each row chooses its axes, so that a code must store the choice.

        If not, a code uses the first k axes. The cost of a code in bits depends on this.
        """
        return True

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn the dictionary from embeddings.

        Parameters
        ----------
        X : array, Tensor or memory map ``[n, d]``, or an iterable of batches
            Embeddings.
        y : object
            Ignored.

        Returns
        -------
        Dictionary
            The estimator itself.

        Raises
        ------
        ValueError
            If there are fewer than two rows, all rows are the same, a value is not finite, or a
            parameter is out of range.
        """
        self._check_parameters()
        rows = self._rows(X, reset=True)
        found = gather(rows, self.max_rows, self._generator())
        self.n_features_in_ = rows.dim
        self.mean_ = found.mean.numpy()
        self._learn(found)
        return self

    def transform(self, X: Any, k: int | None = None) -> Array:
        """Return the signed codes of embeddings.

        Parameters
        ----------
        X : array, Tensor or memory map ``[n, d]``, or an iterable of batches
            Embeddings.
        k : int, optional
            Number of nonzero entries, from 1 to the number of axes; by default the parameter ``k``.

        Returns
        -------
        ndarray ``[n, axes]``
            Codes with at most k nonzero entries in each row: float64 if X is float64 or integers,
            else float32.
        """
        check_is_fitted(self, "atoms_")
        axes = len(self.atoms_)
        k = self.k if k is None else k
        check_scalar(k, "k", Integral, min_val=1)
        if k > axes:
            raise ValueError(f"k must be at most {axes}, the number of axes, got {k}")
        rows = self._rows(X, reset=False)
        if rows.dim != self.n_features_in_:
            raise ValueError(
                f"X has {rows.dim} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        mean = torch.from_numpy(self.mean_)
        # Centred in float64, so that a large common mean cancels before anything is rounded.
        codes = [
            self._encode((batch - mean).to(rows.dtype), int(k)).numpy() for batch in rows.batches()
        ]
        return np.concatenate(codes)

    def inverse_transform(self, codes: npt.ArrayLike) -> Array:
        """Reconstruct rows from their codes, in the precision of the codes.

        Parameters
        ----------
        codes : array ``[n, axes]``
            Codes, as `transform` returns them.

        Returns
        -------
        ndarray ``[n, d]``
            The reconstructions.

        Raises
        ------
        NotFittedError
            If the method has not been fitted.
        ValueError
            If the codes do not have one column for each axis.
        """
        check_is_fitted(self, "atoms_")
        entries: Array = check_array(
            codes, dtype=[np.float64, np.float32], input_name="codes", ensure_min_samples=0
        )
        if entries.shape[1] != len(self.atoms_):
            raise ValueError(
                f"codes must be [n, {len(self.atoms_)}], one column for each axis, got "
                f"{list(entries.shape)}"
            )
        mean, atoms = self.mean_.astype(entries.dtype), self.atoms_.astype(entries.dtype)
        restored: Array = entries @ atoms + mean
        return restored

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.atoms_)

    def _rows(self, X: Any, *, reset: bool) -> Rows:
        if hasattr(X, "columns") or (isinstance(X, np.ndarray) and X.ndim == 2):
            validate_data(self, X, reset=reset, skip_check_array=True)  # names of columns
        return as_rows(X, device="cpu", once=not reset)

    @abstractmethod
    def _learn(self, found: Statistics) -> None:
        """Set the attributes from a sample of the rows and their exact mean."""

    @abstractmethod
    def _encode(self, z: Tensor, k: int) -> Tensor:
        """Return the codes [b, axes] of centred rows [b, d]."""

    def _check_parameters(self) -> None:
        for name, (kind, least) in {
            "k": (Integral, 1),
            "max_rows": (Integral, 2),
            **self._limits,
        }.items():
            check_scalar(getattr(self, name), name, kind, min_val=least)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed())


class LinearDictionary(Dictionary):
    r"""A dictionary with codes from one linear map, :math:`s = T_k(U (z - b))`.

    :math:`T_k` keeps the k entries with the largest contributions to the reconstruction,
    :math:`|u_i \cdot z|\,\|a_i\|`. For atoms of length 1 these are the largest entries.

    Attributes
    ----------
    readouts_ : ndarray ``[axes, d]`` of float64
        The rows :math:`u_i` of U, with :math:`u_i \cdot a_j = \delta_{ij}`. For orthonormal atoms
        they equal the atoms.
    """

    readouts_: Array

    def _encode(self, z: Tensor, k: int) -> Tensor:
        coordinates = z @ torch.from_numpy(self.readouts_).to(z.dtype).T
        weights = torch.from_numpy(np.linalg.norm(self.atoms_, axis=1)).to(z.dtype)
        # Unit length up to rounding, which must not decide between equal coordinates.
        unit = self.readouts_ is self.atoms_
        return top_k(coordinates, k, None if unit else weights)
