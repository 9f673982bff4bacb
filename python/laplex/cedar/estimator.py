"""`CEDAR`: a sparse code for embeddings by an invertible change of basis."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from laplex._support.progress import progress_bar
from laplex._support.renamed_parameters import renamed, renamed_parameter

from . import coding, fitting, online, storage
from .basis import Basis
from .metrics import Reconstruction
from .module import CedarModule
from .rows import Rows, as_rows
from .settings import Settings, checked_ks, number, settings_of

Array = npt.NDArray[Any]

#: The widest embeddings of which `components_` makes a matrix, where there is none: 2 GiB.
_WIDEST_MATRIX = 16384


class CEDAR(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Sparse code for embeddings by an invertible change of basis with a top-k bottleneck.

    .. math::
        s = T_k(U (z - b)), \qquad \hat z = b + U^{-1} s

    U is invertible, so the code has as many coordinates, *axes*, as the embedding; :math:`T_k`
    keeps the k largest with their signs. Rows of U are readouts, columns of :math:`U^{-1}` are
    *atoms*, the directions that axes stand for. Learned by least squares,
    :math:`\min \langle |z - \hat z|^2 \rangle`; for orthogonal U this maximises the energy in the
    k largest coordinates.

    Parameters
    ----------
    k : int or sequence of int
        Entries of a code. Of several the losses are averaged, so that one basis serves them all
        (Matryoshka); `transform` then uses the largest unless told.
    basis : {"orthogonal", "invertible", "laplex"}
        What U is: a rotation; any invertible matrix, :math:`e^A`, whose entries are chosen by the
        size :math:`|u_i \cdot z|\,|a_i|` of their part of the reconstruction; a product of
        rotations by Laplace kernels, d numbers a head in place of d x d (see `LaplaceRotations`);
        or what `laplex.cedar.transforms.TRANSFORMS` has besides.
    solver : {"auto", "procrustes", "adam"}
        "procrustes" alternates between codes and the rotation that fits them best, from a singular
        value decomposition, with momentum: no learning rate, and the loss never grows. "adam":
        gradients on mini-batches, for any transform and width. "auto": procrustes for rotations up
        to 1024 columns.
    center : {"mean", "learned", "none"}
        b: the mean of the data; learned from there, together with U; 0.
    n_init : int
        Random starts; the one with the least loss is kept first, the others for `restarts_`.
    random_state : int, RandomState or None
    max_iter : int, optional
        Passes over the data of procrustes (None: 100), steps of adam (None: 2000).
    tol : float
        Procrustes stops when five passes gain less, in parts of the variance.
    batch_size, learning_rate : int, float
        Of adam. Data are divided by the root of their variance: the rate is free of units.
    heads : int, optional
        Of "laplex". None: 16.
    parametrization : {"expm", "cayley"}
        Of a rotation under adam.
    sparse_output : bool
        Whether `transform` gives a SciPy matrix in CSR format.
    device : str or torch.device, optional
        Where to compute. None: where a tensor is, else the CPU.

    Attributes
    ----------
    mean_ : ndarray [d]
        b.
    data_mean_ : ndarray [d]
        Mean of the training rows.
    scale_ : float
        Root of the mean square norm of the training rows less that: of their variance.
    components_ : ndarray [d, d]
        U, its rows the readouts.
    atoms_ : ndarray [d, d]
        Row i is atom i, column i of U^-1. Those of a rotation are the readouts.
    restarts_ : ndarray [n_init, d, d]
        Atoms from every start, the best first.
    basis_ : Basis
        U as an object; `bases_` that of each start, the best first.
    loss_curve_ : list of float
        Squared error in parts of the variance, of each pass or step of the best start.
    n_iter_, n_samples_seen_, n_features_in_, k_ : int
        k_ is the largest k.

    Notes
    -----
    Our reading of the abstract of arXiv 2605.22679; the body of the paper is unknown to us. What
    axes two starts share says how far they are properties of the data: see `stability`.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar import CEDAR
    >>> random = np.random.default_rng(0)
    >>> causes = random.standard_normal((2000, 8)) * (random.random((2000, 8)) < 0.2)
    >>> turn = np.linalg.qr(random.standard_normal((8, 8)))[0]
    >>> model = CEDAR(k=2, random_state=0).fit(causes @ turn)
    >>> codes = model.transform(causes @ turn)
    >>> codes.shape, int((codes != 0).sum(1).max())
    ((2000, 8), 2)
    >>> bool(np.abs(model.atoms_ @ turn.T).max(0).min() > 0.99)  # each true direction is found
    True
    """

    @renamed_parameter("CEDAR", "transform", "basis")
    def __init__(
        self,
        k: int | Sequence[int] = 32,
        basis: str = "orthogonal",
        solver: Literal["auto", "procrustes", "adam"] = "auto",
        center: Literal["mean", "learned", "none"] = "mean",
        n_init: int = 1,
        random_state: Any = None,
        *,
        max_iter: int | None = None,
        tol: float = 1e-5,
        batch_size: int = 1024,
        learning_rate: float = 0.01,
        heads: int | None = None,
        parametrization: Literal["expm", "cayley"] = "expm",
        sparse_output: bool = False,
        device: Any = None,
    ) -> None:
        self.k = k
        self.basis = basis
        self.solver = solver
        self.center = center
        self.n_init = n_init
        self.random_state = random_state
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.heads = heads
        self.parametrization = parametrization
        self.sparse_output = sparse_output
        self.device = device

    def set_params(self, **params: Any) -> CEDAR:
        """As scikit-learn's."""
        if "transform" in params:
            params = renamed(params, "CEDAR", "transform", "basis")
        found: CEDAR = super().set_params(**params)
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "transform" in state:  # as the parameter was called at first
            state = {**state, "basis": state["transform"]}
            del state["transform"]
        super().__setstate__(state)

    # --- learning ---------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> CEDAR:
        """Learn the change of basis from embeddings.

        Parameters
        ----------
        X : array-like, Tensor or memory map [n, d]; or batches of them
            At least 2 rows, finite. Batches: a list, a DataLoader or anything that can be iterated
            again. Files and batches are streamed: memory does not grow with n.
        progress
            Show a progress bar.
        checkpoint : path, optional
            A file that is written after each pass, or every 100 steps.
        resume
            Go on from the checkpoint if there is one; on the same machine, with the same number of
            threads, the result is the same, bit for bit.
        """
        with _unchanged_by_errors(self):
            rows = self._rows(X, reset=True)
            settings = settings_of(self, rows.dim)
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            with progress_bar(progress, extra="cedar") as report:
                found = fitting.fit(
                    rows,
                    settings,
                    seed,
                    random_state=self.random_state,
                    report=report,
                    checkpoint=checkpoint,
                    resume=resume,
                )
        best = found.solutions[0]
        data = found.statistics
        self._set(rows, [one.basis for one in found.solutions], best.centre, settings)
        self._remember(data.mean, data.scale, data.count)
        self.loss_curve_ = list(best.losses)
        self.n_iter_ = len(best.losses)
        self._online: online.Learner | None = None
        return self

    def partial_fit(self, X: Any, y: object = None) -> CEDAR:
        """Learn from more embeddings, and forget the oldest slowly.

        The first call of a new model needs at least 2 different rows. One that was fitted or loaded
        goes on from its best start; which rows its codes came from is not known then. Procrustes
        remembers codes of the last third of what it saw; adam goes through the batch once in steps
        of `batch_size`, at a constant rate.
        """
        learner: online.Learner | None = getattr(self, "_online", None)
        with _unchanged_by_errors(self):
            known = None
            if learner is None and self.__sklearn_is_fitted__():
                known = self._known()
            rows = self._rows(X, reset=learner is None and known is None, once=True)
            settings = settings_of(self, rows.dim)
            if learner is None:
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
                learner = online.Learner(rows, settings, seed, known)
            else:
                learner = copy.deepcopy(learner)  # as it was, should this fail
            learner.learn(rows, settings)
        self._online = learner
        self._set(rows, [learner.basis()], learner.centre(), settings)
        self._remember(learner.mean, learner.deviation, learner.count)
        self.loss_curve_ = list(learner.losses)
        self.n_iter_ = len(learner.losses)
        return self

    # --- codes ------------------------------------------------------------------------------------

    def transform(self, X: Any, k: int | None = None) -> Any:
        """Signed codes [n, d] of embeddings [n, d], with at most k entries a row that are not 0.

        Parameters
        ----------
        X
            As in `fit`; a generator of batches will do.
        k
            None: that of the fit, the largest of several.

        Warns
        -----
        DriftWarning
            Mean or norm of 32 rows or more are far from those of the fit.
        """
        check_is_fitted(self)
        entries = self._entries(k)
        rows = self._rows(X, reset=False)
        parts: list[Any] = []
        for _, batch in coding.coded_batches(self, rows, (entries,)):
            codes = batch.cpu().numpy()
            parts.append(scipy.sparse.csr_array(codes) if self.sparse_output else codes)
        if self.sparse_output:
            return scipy.sparse.vstack(parts, format="csr")
        return np.concatenate(parts)

    def inverse_transform(self, X: Any) -> Array:
        r"""Embeddings [n, d] of codes [n, d]: :math:`b + U^{-1} s`. Any codes will do."""
        check_is_fitted(self)
        if scipy.sparse.issparse(X):
            X = X.toarray()
        rows = as_rows(X, device=self.device, dtype=self._dtype, once=True)
        self._check_width(rows, "codes")
        basis, centre = self._placed(rows)
        return np.concatenate(
            [(basis.synthesise(batch) + centre).cpu().numpy() for batch in rows.batches()]
        )

    def intervene(self, z: Any, values: Mapping[int, float]) -> Any:
        r"""Embeddings with some coordinates set, and all others as they were.

        .. math:: z' = z + \sum_i (t_i - u_i \cdot (z - b))\, a_i

        Nothing is cut off to k entries: what the code leaves out of z stays in it.

        Parameters
        ----------
        z : array-like or Tensor [n, d] or [d]
        values : mapping
            From axes to the coordinates t_i that they get.

        Returns
        -------
        ndarray or Tensor
            As z.
        """
        check_is_fitted(self)
        if not isinstance(values, Mapping):
            raise TypeError(f"values must map axes to numbers, as in {{3: 0.0}}, got {values!r}")
        several = z if isinstance(z, Tensor) else np.asarray(z)
        single = several.ndim == 1
        rows = as_rows(
            several[None] if single else several, name="z", device=self.device, dtype=self._dtype
        )
        self._check_width(rows, "columns")
        basis, centre = self._placed(rows)
        parts = []
        for batch in rows.batches():
            coordinates = basis.analyse(batch - centre)
            change = torch.zeros_like(coordinates)
            for axis, value in values.items():
                column = self._axis(axis)
                change[:, column] = number(f"values[{axis}]", value) - coordinates[:, column]
            parts.append(batch + basis.synthesise(change))
        moved = torch.cat(parts)
        moved = moved[0] if single else moved
        return moved if isinstance(z, Tensor) else moved.cpu().numpy()

    def score(self, X: Any, y: object = None) -> float:
        r"""Fraction of variance explained: :math:`1 - E|z-\hat z|^2 / (E|z|^2 - |Ez|^2)`."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        basis, centre = self._placed(rows)
        measured = Reconstruction()
        for batch in rows.batches():
            codes = basis.encode(batch - centre, self.k_)
            measured.update(batch, basis.synthesise(codes) + centre)
        return float(measured.compute().fve)

    # --- the basis --------------------------------------------------------------------------------

    @property
    def basis_(self) -> Basis:
        """The change of basis of the best start."""
        return self.bases_[0]

    @property
    def components_(self) -> Array:
        """U [d, d], its rows the readouts."""
        return self._matrix(lambda basis: basis.readouts, self.basis_)

    @property
    def atoms_(self) -> Array:
        """Atoms as rows [d, d]: row i is column i of U^-1."""
        return self._matrix(lambda basis: basis.atoms, self.basis_)

    @property
    def restarts_(self) -> Array:
        """Atoms [n_init, d, d] from every start, the best first."""
        return np.stack([self._matrix(lambda basis: basis.atoms, basis) for basis in self.bases_])

    def torch_module(self) -> CedarModule:
        """A module with `encode`, `decode` and `forward`, for networks; a copy, not trainable."""
        check_is_fitted(self)
        return CedarModule(self.basis_, torch.as_tensor(self.mean_), self.k_)

    # --- files ------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder, made if need be."""
        check_is_fitted(self)
        storage.save(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> CEDAR:
        """A model as it was saved: on the same machine, its results have the same bits."""
        return storage.load(cls, folder)

    # --- scikit-learn -----------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the constructor, by name."""
        names = self._get_param_names()
        return {name: vars(self)[name] for name in names}

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)

    def __sklearn_is_fitted__(self) -> bool:
        return "mean_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return torch.as_tensor(self.mean_).dtype

    def _known(self) -> online.Known:
        return online.Known(
            int(self.n_samples_seen_),
            torch.as_tensor(self.data_mean_),
            float(self.scale_),
            torch.as_tensor(self.mean_),
            self.basis_,
            float(self.loss_curve_[-1]),
        )

    def _remember(self, mean: Tensor, scale: float, count: int) -> None:
        self.data_mean_ = mean.cpu().to(self._dtype).clone().numpy()
        self.scale_ = float(scale)
        self.n_samples_seen_ = count

    def _set(self, rows: Rows, bases: list[Basis], centre: Tensor, settings: Settings) -> None:
        cpu = torch.device("cpu")
        self.bases_ = [basis.to(cpu, rows.dtype) for basis in bases]
        self.mean_ = centre.to(cpu, rows.dtype).clone().numpy()
        self.k_ = settings.ks[-1]
        self.n_features_in_ = rows.dim

    def _rows(self, X: Any, *, reset: bool, once: bool | None = None) -> Rows:
        if hasattr(X, "columns") or (isinstance(X, np.ndarray) and X.ndim == 2):
            validate_data(self, X, reset=reset, skip_check_array=True)  # names of columns
        fitted = None if reset else self._dtype
        rows = as_rows(
            X, device=self.device, dtype=fitted, once=not reset if once is None else once
        )
        if not reset:
            self._check_width(rows, "features")
        return rows

    def _check_width(self, rows: Rows, what: str) -> None:
        if rows.dim != self.n_features_in_:
            raise ValueError(
                f"{rows.name} has {rows.dim} {what}, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )

    def _placed(self, rows: Rows) -> tuple[Basis, Tensor]:
        centre = torch.as_tensor(self.mean_).to(rows.device)
        return self.basis_.to(rows.device, self._dtype), centre

    def _entries(self, k: object) -> int:
        if k is None:
            return int(self.k_)
        ks = checked_ks(k, self.n_features_in_)
        if len(ks) > 1:
            raise ValueError(f"transform takes one k, got {k!r}")
        return ks[0]

    def _axis(self, axis: object) -> int:
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
            raise TypeError(f"axes are integers, got {axis!r}")
        if not 0 <= axis < self.n_features_in_:
            raise IndexError(f"axis {axis} is not one of 0..{self.n_features_in_ - 1}")
        return int(axis)

    def _matrix(self, part: Callable[[Basis], Tensor], basis: Basis) -> Array:
        check_is_fitted(self)
        if basis.dim > _WIDEST_MATRIX:
            raise ValueError(
                f"a matrix of {basis.dim} x {basis.dim} numbers is not formed: use basis_.analyse "
                "and basis_.synthesise"
            )
        matrix: Array = part(basis).numpy()
        return matrix


@contextmanager
def _unchanged_by_errors(model: CEDAR) -> Iterator[None]:
    """Leave a model as it was where learning fails."""
    before = dict(vars(model))
    try:
        yield
    except BaseException:
        model.__dict__.clear()
        model.__dict__.update(before)
        raise
