"""The estimator `CEDAR`: sparse codes for embeddings by an invertible change of basis."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from laplex._support.communicator import Communicator, OneProcess, communicator, together
from laplex._support.hub import Pretrained
from laplex._support.model_cards import Card
from laplex._support.progress import progress_bar
from laplex._support.renamed_parameters import renamed, renamed_parameter

from . import coding, fitting, online, storage
from .basis import Basis
from .confirmation import MIN_STARTS, MOST_AXES, Confirmation, warn_if_few
from .drift import Drift
from .fitted import Fitted, Modality
from .interventions import Value, changed, checked_changes
from .masks import unmasked
from .metrics import Reconstruction
from .model_card import model_card
from .module import CedarModule
from .ranks import aligned, of_first, same
from .rows import Rows, as_rows
from .settings import Settings, checked_ks, settings_of, whole
from .shards import Elsewhere, Shards
from .statistics import drawn
from .tables import package_of
from .transforms import TRANSFORMS

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch.distributed import ProcessGroup

Array = npt.NDArray[Any]

#: The widest embeddings for which ``components_`` forms a d x d matrix: 2 GiB.
_WIDEST_MATRIX = 16384


def _learns_from_batches(model: CEDAR) -> bool:
    """Say whether a model has ``partial_fit``; scikit-learn asks with ``hasattr``."""
    if model.basis in TRANSFORMS and TRANSFORMS[model.basis].pursues:
        raise AttributeError(
            f"basis must be a rotation or an invertible matrix for partial_fit, got "
            f"{model.basis!r}: call fit, which takes streams too"
        )
    return True


class CEDAR(Pretrained, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Sparse codes for embeddings, by a learned change of basis and the k largest coordinates.

    .. math::
        s = T_k(U (z - b)), \qquad \hat z = b + U^{-1} s

    U is invertible, so the code has as many coordinates, called *axes*, as the embedding.
    :math:`T_k` keeps the k largest coordinates in absolute value, with their signs. The rows of U
    are called *readouts*. The columns of :math:`U^{-1}` are called *atoms*: the directions in
    embedding space that the axes stand for.

    U minimises the mean squared error :math:`\langle |z - \hat z|^2 \rangle`. For an orthogonal U,
    this maximises the energy in the k largest coordinates.

    Parameters
    ----------
    k : int or sequence of int
        Number of nonzero entries of a code. With several, the losses are averaged, and one basis
        serves all of them (Matryoshka); ``transform`` then uses the largest by default.
    basis : {"orthogonal", "invertible", "frame", "laplex"}
        Kind of matrix U. "orthogonal" is a rotation. "invertible" is any invertible matrix,
        parametrised by :math:`e^A`; it chooses the entries of a code by the size
        :math:`|u_i \cdot z|\,|a_i|` of their contribution to the reconstruction. "frame" has
        ``redundancy`` times d atoms, for data with more causes than columns; its codes come from
        orthogonal matching pursuit. "laplex" is a product of rotations by Laplace kernels, with d
        parameters per head in place of d x d; the page "How CEDAR works" of the documentation gives
        the formula. Other names come from ``laplex.cedar.transforms.TRANSFORMS``.
    solver : {"auto", "procrustes", "adam", "pursuit"}
        "procrustes" alternates between the codes and the rotation that fits them best, which comes
        from a singular value decomposition. It uses momentum, has no learning rate, and its loss
        never grows. "adam" takes gradient steps on mini-batches, for any basis and width. "pursuit"
        alternates between codes and least squares, for frames only, on at most 65,536 rows drawn
        uniformly. "auto" chooses procrustes for rotations of up to 4096 columns, pursuit for
        frames, and adam otherwise.
    center : {"mean", "learned", "none"}
        The centre b. "mean" is the mean of the data. "learned" starts from the mean and learns b
        together with U. "none" is 0.
    n_init : int
        Number of starts. The first sees all rows and is the model; it does not depend on this
        number. The others each see a part of the rows, chosen by their content, that is disjoint
        from those of the rest: with 3, halves; with 2, one half. With 3 or more,
        ``confirmation_`` says which axes of the model other rows confirm. ``restarts_`` holds the
        atoms of all starts.
    random_state : int, RandomState or None
        Seed of the starts and of the order of mini-batches.
    max_iter : int, optional
        Maximum number of passes over the data (procrustes, default 300; pursuit, default 40) or
        number of steps (adam, default 2000).
    tol : float
        Procrustes and pursuit stop when five passes together lower the loss by less than this
        fraction of the variance.
    batch_size : int
        Number of rows in a step of adam.
    learning_rate : float
        Learning rate of adam. The data are divided by the root of their variance, so the rate does
        not depend on their unit.
    heads : int, optional
        Number of rotations in the product of basis "laplex"; 16 by default.
    redundancy : int
        Number of axes for each column of the embeddings, with basis "frame".
    parametrization : {"expm", "cayley"}
        How adam parametrises a rotation: by the matrix exponential or the Cayley transform.
    sparse_output : bool
        Whether ``transform`` returns a SciPy matrix in CSR format.
    device : str or torch.device, optional
        Where to compute. By default, on the device of the input if it is a tensor, else on the CPU.

    Attributes
    ----------
    mean_ : ndarray [d]
        The centre b.
    data_mean_ : ndarray [d]
        Mean of the training rows.
    scale_ : float
        Root of the total variance: of the mean squared distance of the training rows from their
        mean.
    components_ : ndarray [d, d]
        The matrix U; its rows are the readouts. With basis "frame" there are ``redundancy`` times
        d rows here, in ``atoms_`` and in ``restarts_``, and as many entries in a code.
    atoms_ : ndarray [d, d]
        The atoms as rows: row i is column i of :math:`U^{-1}`. For a rotation they equal the
        readouts.
    restarts_ : ndarray [n_init, d, d]
        The atoms of every start; first those of the model.
    confirmation_ : Confirmation or None
        Which axes other rows confirm; None with fewer than 3 starts, above 4,096 columns, and after
        ``partial_fit``.
    confirmed_ : ndarray [d] of bool, or None
        The mask ``confirmation_.confirmed``.
    basis_ : Basis
        U as an object with ``analyse`` and ``synthesise``.
    bases_ : list of Basis
        The same for every start, first that of the model.
    loss_curve_ : list of float
        Squared error as a fraction of the variance, for each pass or step of the model.
    n_iter_ : int
        Number of passes or steps of the model.
    n_samples_seen_ : int
        Number of training rows.
    modalities_ : dict of str to Modality
        Mean, scale, loss and number of rows of other kinds of rows: see `add_modality`.
    n_features_in_ : int
        Number of columns d.
    k_ : int
        The largest k.

    Notes
    -----
    This is our reading of the abstract of arXiv 2605.22679; we do not know the body of the paper.
    An axis may be an accident of the rows or of the seed: see ``confirmation_`` and `stability`.

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

    #: Models that were pickled by an earlier version have none.
    confirmation_: Confirmation | None = None

    @renamed_parameter("CEDAR", "transform", "basis")
    def __init__(
        self,
        k: int | Sequence[int] = 32,
        basis: str = "orthogonal",
        solver: Literal["auto", "procrustes", "adam", "pursuit"] = "auto",
        center: Literal["mean", "learned", "none"] = "mean",
        n_init: int = 1,
        random_state: Any = None,
        *,
        max_iter: int | None = None,
        tol: float = 1e-5,
        batch_size: int = 1024,
        learning_rate: float = 0.01,
        heads: int | None = None,
        redundancy: int = 2,
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
        self.redundancy = redundancy
        self.parametrization = parametrization
        self.sparse_output = sparse_output
        self.device = device

    def set_params(self, **params: Any) -> CEDAR:
        """Set parameters of the estimator, as scikit-learn does.

        Parameters
        ----------
        **params
            New values of parameters of the constructor, by name.

        Returns
        -------
        CEDAR
            The estimator itself.

        Raises
        ------
        ValueError
            If the constructor has no such parameter.
        """
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
        max_rows: int | None = None,
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
    ) -> CEDAR:
        """Learn the change of basis from embeddings.

        With `group` or `comm`, each process passes rows of its own and gets the model of all rows,
        as if one process had them in the order of the ranks, up to rounding. All call ``fit`` with
        the same arguments; an error on one of them is raised on all and names the rank.

        Parameters
        ----------
        X : array-like, Tensor, path, table or batches [n, d]
            At least 2 rows of finite numbers, in any form of `Embeddings`. Files and batches are
            streamed, so memory does not grow with n. With `group` or `comm`, the rows of this
            process, perhaps none, as ``[0, d]`` or an empty list.
        y : object
            Ignored.
        progress : bool
            Whether to show a progress bar, on rank 0.
        checkpoint : path, optional
            A file that is written after each pass of procrustes, or every 100 steps of adam, by
            rank 0. Any number of processes may resume from it.
        resume : bool
            Whether to continue from the checkpoint if it exists. On the same machine with the same
            number of threads, the result has the same bits as that of an uninterrupted fit.
        max_rows : int, optional
            Learn from at most so many rows, drawn uniformly in one pass, for a quick look; they are
            kept in memory. `random_state` seeds the draw.
        group : torch.distributed.ProcessGroup, optional
            The processes that fit together, for instance ``torch.distributed.group.WORLD``.
        comm : mpi4py.MPI.Comm, optional
            The same on MPI.

        Returns
        -------
        CEDAR
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or X is not valid, or the checkpoint belongs to another fit.

        Warns
        -----
        TooFewRowsWarning
            If ``n_init`` is 3 or more and there are fewer than 20 rows for each column.
        ConstantColumnWarning
            If a column has the same value in every row.
        DominantRowWarning
            If one row of more than 20 holds more than half of the variance.
        sklearn.exceptions.ConvergenceWarning
            If the fit ended before it had converged, or its steps were too large or too small.
        """
        ranks = _ranks(group, comm)
        with _unchanged_by_errors(self):
            rows = together(ranks, lambda: self._rows(X, reset=True, empty=ranks.size > 1))
            if ranks.size > 1:
                rows, names = aligned(ranks, rows, getattr(self, "feature_names_in_", None))
                if names is not None:
                    self.feature_names_in_ = names
                same(ranks, max_rows=max_rows)
            data = Shards(rows, ranks)
            if max_rows is not None:
                size = together(ranks, lambda: whole("max_rows", max_rows))
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
                seed = of_first(ranks, seed, rows.device)
                data = Shards(drawn(rows, size, seed, ranks, data.before), ranks)
            return self._learned(data, progress, checkpoint, resume)

    def fit_map_reduce(
        self,
        map_reduce: Callable[[Callable[[Any], Any]], Any],
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> CEDAR:
        """Learn from embeddings that other processes hold, as those of Dask, Ray or Spark.

        The solver is procrustes. Every pass is over all rows, as there is no sample to start from;
        ``fit`` uses one above 262,144 rows. With fewer, the results are the same up to rounding.

        Parameters
        ----------
        map_reduce : callable
            ``map_reduce(make)`` calls ``make(rows)`` for each part of the data and returns the sum
            of the results. The parts are any rows that ``fit`` takes, the same each time, and may
            be empty. ``make`` and its results can be pickled, and results are added with ``+``,
            in any order.
        progress : bool
            Whether to show a progress bar.
        checkpoint : path, optional
            As in `fit`.
        resume : bool
            As in `fit`.

        Returns
        -------
        CEDAR
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data are not valid, or the solver is not procrustes.

        Examples
        --------
        >>> import numpy as np
        >>> from laplex.cedar import CEDAR
        >>> parts = np.random.default_rng(0).standard_normal((4, 100, 8))
        >>> model = CEDAR(k=2, random_state=0).fit_map_reduce(lambda make: sum(map(make, parts)))
        >>> model.n_samples_seen_
        400
        """
        if not callable(map_reduce):
            raise TypeError(
                f"map_reduce must be a function, got {type(map_reduce).__name__}: pass one that "
                "calls make(rows) for each part of the data and returns the sum"
            )
        with _unchanged_by_errors(self):
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            return self._learned(Elsewhere(map_reduce, self.device), progress, checkpoint, resume)

    def _learned(
        self,
        data: Shards | Elsewhere,
        progress: bool,
        checkpoint: str | os.PathLike[str] | None,
        resume: bool,
    ) -> CEDAR:
        rows, ranks = data.rows, data.comm

        def checked() -> tuple[Settings, int]:
            settings = settings_of(vars(self), rows.dim)
            return settings, int(check_random_state(self.random_state).randint(2**31 - 1))

        settings, seed = together(ranks, checked)
        if settings.ks[0] >= rows.dim > 1 and not ranks.rank:
            warnings.warn(
                f"k={settings.ks[0]} keeps as many entries as X has columns, so any basis restores "
                "X and there is nothing to learn: pass a k well below the number of columns",
                UserWarning,
                stacklevel=3,  # the caller of fit
            )
        if ranks.size > 1:
            given = asdict(settings)
            plain = self.random_state is None or isinstance(self.random_state, int)
            ks = given.pop("ks")
            same(
                ranks,
                k=ks if len(ks) > 1 else ks[0],
                **given,
                random_state=self.random_state if plain else seed,
                checkpoint=None if checkpoint is None else str(checkpoint),
                resume=resume,
            )
            seed = of_first(ranks, seed, rows.device)
        bar = progress_bar(progress and ranks.rank == 0, extra="cedar")
        with ExitStack() as shown:
            report = together(ranks, lambda: shown.enter_context(bar))
            found = fitting.fit(
                data,
                settings,
                seed,
                random_state=self.random_state,
                report=report,
                checkpoint=checkpoint,
                resume=resume,
            )
        best = found.solutions[0]
        known = found.statistics
        self._set(rows, [one.basis for one in found.solutions], best.centre, settings)
        self._remember(known.mean, known.scale, known.count, known.log_norms)
        self.loss_curve_ = list(best.losses)
        self.n_iter_ = len(best.losses)
        self.confirmation_ = found.confirmation
        if self.confirmation_ is not None and not ranks.rank:
            warn_if_few(known.count, rows.dim, stacklevel=4)
        self.modalities_: dict[str, Modality] = {}
        self._online: online.Learner | None = None
        if best.unfinished and ranks.rank == 0:
            warnings.warn(
                f"{type(self).__name__} did not converge: {best.unfinished}, or use the model as "
                "it is",
                ConvergenceWarning,
                stacklevel=3,  # the caller of fit
            )
        return self

    @available_if(_learns_from_batches)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: object = None) -> CEDAR:
        """Learn from more embeddings, and slowly forget the oldest.

        The first call of a new model needs at least 2 different rows. The axes of such a model are
        in no order, and their signs are left to chance. A model that was fitted or loaded keeps the
        places and signs of its axes, and continues without knowledge of the rows it has seen.
        Procrustes remembers the codes of the last third of the rows seen. Adam goes through X once
        in steps of ``batch_size`` rows, at a constant learning rate.

        Parameters
        ----------
        X : array-like, Tensor, path, table or batches [b, d]
            The new rows, in any form of `Embeddings`; a generator is accepted too. They are read
            once, and forgotten batch by batch.
        y : object
            Ignored.

        Returns
        -------
        CEDAR
            The estimator itself.
        """
        learner: online.Learner | None = getattr(self, "_online", None)
        with _unchanged_by_errors(self):
            known = None
            if learner is None and self.__sklearn_is_fitted__():
                known = self._known()
            rows = self._rows(X, reset=learner is None and known is None, once=True)
            settings = settings_of(vars(self), rows.dim)
            if learner is None:
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
                learner = online.Learner(rows, settings, seed, known)
            else:
                learner = copy.deepcopy(learner)  # as it was, should this fail
            learner.learn(rows, settings)
        self._online = learner
        self._set(rows, [learner.basis()], learner.centre(), settings)
        self._remember(learner.mean, learner.deviation, learner.count, learner.log_norms)
        self.loss_curve_ = list(learner.losses)
        self.n_iter_ = len(learner.losses)
        self.confirmation_ = None
        return self

    def confirm(
        self,
        X: Any,
        *,
        progress: bool = False,
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
    ) -> Confirmation:
        """Find out which axes of a fitted model other rows confirm.

        This makes up for ``n_init=1`` in the fit: it fits the disjoint parts of the rows alone and
        leaves the model as it is. With the rows and the ``random_state`` of the fit, the result is
        that of a fit with ``n_init=3``. If ``n_init`` of the model is above 3, there are as many
        parts as in such a fit.

        Parameters
        ----------
        X : array-like, Tensor or memory map [n, d]; or batches of them
            The rows of the fit, or others of their kind, as in `fit`.
        progress : bool
            Whether to show a progress bar, on rank 0.
        group : torch.distributed.ProcessGroup, optional
            The processes whose rows together are X, as in `fit`.
        comm : mpi4py.MPI.Comm, optional
            The same on MPI.

        Returns
        -------
        Confirmation
            Also set as ``confirmation_``; ``restarts_`` then holds the atoms of the parts too.

        Raises
        ------
        NotFittedError
            If the model has not been fitted.
        TypeError, ValueError
            If X is not valid, has other columns, or more than 4,096 of them.

        Warns
        -----
        TooFewRowsWarning
            If there are fewer than 20 rows for each column.
        """
        check_is_fitted(self)
        ranks = _ranks(group, comm)
        rows = together(ranks, lambda: self._rows(X, reset=False, once=False, empty=ranks.size > 1))
        if self.fitted_.axes > MOST_AXES:
            raise ValueError(
                f"the model must have at most {MOST_AXES} axes to confirm them, got "
                f"{self.fitted_.axes}: reduce the columns of X first, for instance by PCA"
            )
        if ranks.size > 1:
            rows, _ = aligned(ranks, rows, None)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        seed = of_first(ranks, seed, rows.device)
        settings = settings_of(vars(self), rows.dim)
        settings = replace(settings, n_init=max(MIN_STARTS, settings.n_init))
        basis, centre = self._placed(rows)
        model = fitting.Solution(basis, centre.double(), list(self.loss_curve_))
        bar = progress_bar(progress and ranks.rank == 0, extra="cedar")
        with ExitStack() as shown:
            report = together(ranks, lambda: shown.enter_context(bar))
            found = fitting.confirm(Shards(rows, ranks), settings, seed, model, report=report)
        cpu = torch.device("cpu")
        others = [one.basis.to(cpu, rows.dtype) for one in found.solutions[1:]]
        self.bases_ = [self.basis_, *others]
        assert found.confirmation is not None
        self.confirmation_ = found.confirmation
        if not ranks.rank:
            warn_if_few(found.statistics.count, rows.dim, stacklevel=3)
        return found.confirmation

    # --- codes ------------------------------------------------------------------------------------

    def transform(self, X: Any, k: int | None = None, modality: str | None = None) -> Any:
        """Return the signed codes of embeddings.

        Parameters
        ----------
        X : array-like, Tensor, path, table or batches [n, d]
            As in ``fit``; a generator of batches is accepted too.
        k : int, optional
            Number of nonzero entries; by default the k of the fit, or the largest of several.
        modality : str, optional
            Name of the kind of rows, if not that of the fit: see `add_modality`.

        Returns
        -------
        ndarray or scipy.sparse.csr_array [n, d]
            Codes with at most k nonzero entries in each row.

        Warns
        -----
        DriftWarning
            If X has 32 rows or more, and their mean or norm is far from that of the training rows,
            or of the rows of the modality; or 100 rows or more, of which the axes explain much less
            than of the training rows.
        """
        rows, blocks = self._coded(X, k, "indices" if self.sparse_output else "dense", modality)
        found = coding.joined(blocks, rows.count)
        return coding.sparse_matrix(found, self.fitted_.axes) if self.sparse_output else found[0]

    def iter_transform(
        self,
        X: Any,
        k: int | None = None,
        modality: str | None = None,
        *,
        format: Literal["dense", "indices"] = "dense",  # noqa: A002 - as SciPy calls it
    ) -> Iterator[Any]:
        """Yield the signed codes of embeddings in batches, in memory that does not grow with n.

        Parameters
        ----------
        X : array-like, Tensor, path, table or batches [n, d]
            As in ``fit``; a generator of batches is accepted too.
        k : int, optional
            Number of nonzero entries; by default the k of the fit, or the largest of several.
        modality : str, optional
            Name of the kind of rows, as in `transform`.
        format : {"dense", "indices"}
            "dense" yields codes; "indices" yields only their entries.

        Yields
        ------
        ndarray [b, d], or tuple of ndarray [b, k] of int32 and ndarray [b, k]
            The codes of the next rows, which fit into 32 MiB; or the axes of their entries, in
            ascending order, and the values. Where fewer than k entries are not 0, axes with the
            value 0 follow.

        Warns
        -----
        DriftWarning
            As in `transform`, after the last batch.

        See Also
        --------
        laplex.cedar.write_codes : Write the codes to a file.

        Examples
        --------
        >>> import numpy as np
        >>> from laplex.cedar import CEDAR
        >>> rows = np.random.default_rng(0).standard_normal((100, 8))
        >>> model = CEDAR(k=2, random_state=0).fit(rows)
        >>> for axes, values in model.iter_transform(rows, format="indices"):
        ...     axes.shape, values.shape
        ((100, 2), (100, 2))
        """
        if format not in ("dense", "indices"):
            raise ValueError(f"format must be 'dense' or 'indices', got {format!r}")
        _, blocks = self._coded(X, k, format, modality)
        return blocks if format == "indices" else (block[0] for block in blocks)

    def inverse_transform(self, X: Any, modality: str | None = None) -> Array:
        r"""Return the embeddings that codes stand for, :math:`b + U^{-1} s`.

        Parameters
        ----------
        X : array-like, Tensor or SciPy sparse matrix [n, d]; or batches of them
            Codes, with any number of nonzero entries.
        modality : str, optional
            Name of the kind of rows to return, as in `transform`.

        Returns
        -------
        ndarray [n, d]
        """
        fitted = self.fitted_.around(modality)
        if scipy.sparse.issparse(X):
            X = coding.SparseRows(X)
        rows = as_rows(X, device=self.device, dtype=self._dtype, once=True)
        self._check_width(rows, "codes", fitted.axes)
        basis, centre = fitted.placed(rows.device)
        blocks = ([(basis.synthesise(one) + centre).cpu().numpy()] for one in rows.batches())
        return coding.joined(blocks, rows.count)[0]

    def intervene(
        self,
        z: Any,
        values: Mapping[Any, Value],
        names: Any = None,
        modality: str | None = None,
    ) -> Any:
        r"""Set some coordinates of embeddings and leave all others as they are.

        .. math:: z' = z + \sum_i (t_i - u_i \cdot (z - b))\, a_i

        Coordinates are not cut off to k entries: the part of z that its code omits stays in it.
        With basis "frame" the coordinates are those of the dual frame, and the atoms depend on each
        other. Instead of the formula, z moves along the atoms of the axes that are set until each
        of their coordinates is :math:`t_i`. Other coordinates move too, and codes, which come from
        pursuit, may differ. More than d axes are set as well as they can be by least squares.

        Parameters
        ----------
        z : array-like or Tensor [..., d]
            Embeddings.
        values : mapping
            The new coordinates :math:`t_i`, by the number of the axis or by its name. Each is a
            number, one number for each embedding or for each item of the leading dimensions of z,
            or a function of a Tensor ``z.shape[:-1]`` of the old coordinates, such as ``lambda c:
            2 * c``, that returns one of these. Shapes are matched to ``z.shape[:-1]`` from the
            first dimension on: for z [batch, tokens, d], values [batch] are one for each item, and
            values [1, tokens] one for each token. A name stands for one end of its axis: there,
            larger values mean more of what the name says, at either end.
        names : AxisNames or mapping of str to int, optional
            What the names in ``values`` mean: the result of `name_axes`, or an axis for each name.
        modality : str, optional
            Name of the kind of rows, as in `transform`.

        Returns
        -------
        ndarray or Tensor [..., d]
            The changed embeddings, of the kind and type of z; of the type of the model if z are
            integers. Gradients flow from a Tensor to z and to values that are Tensors.

        Raises
        ------
        TypeError, ValueError, IndexError
            If z does not hold finite numbers in d columns; if ``values`` is not a mapping, or has a
            value of another kind or size, or gives a number that is not finite; if an axis does not
            exist; if a name is unknown, or names several axes.

        Warns
        -----
        DriftWarning
            As `transform` does.
        """
        fitted = self.fitted_.around(modality)
        changes = checked_changes(values, names, fitted.axes)
        if hasattr(z, "columns"):  # a table, whose columns may come in another order
            as_rows(z, name="z").check_columns(fitted.columns)
        rows = _finite_rows(z, fitted.dim, fitted.dtype)
        if not isinstance(z, Tensor) and self.device is not None:
            rows = rows.to(self.device)
        basis, centre = fitted.placed(rows.device)
        moved = changed(basis, centre, rows, changes)
        if not bool(moved.isfinite().all()):  # only Tensors and functions are not checked before
            raise ValueError(
                "values must give finite coordinates, but the result has NaN or infinity: check "
                "the Tensors and functions in values"
            )
        drift = Drift(fitted, "z")
        drift.see(rows.detach().to(fitted.dtype).reshape(-1, fitted.dim) - centre)
        drift.warn()
        return moved if isinstance(z, Tensor) else moved.cpu().numpy()

    def score(
        self,
        X: Any,
        y: object = None,
        *,
        modality: str | None = None,
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
    ) -> float:
        r"""Return the fraction of variance explained.

        .. math:: 1 - E|z - \hat z|^2 / (E|z|^2 - |E z|^2)

        Parameters
        ----------
        X : array-like, Tensor, path, table or batches [n, d]
            Embeddings; rows that the fit has not seen give an honest value.
        y : object
            Ignored.
        modality : str, optional
            Name of the kind of rows, as in `transform`.
        group : torch.distributed.ProcessGroup, optional
            The processes whose rows together are X, as in `fit`; all get the same value.
        comm : mpi4py.MPI.Comm, optional
            The same on MPI.

        Returns
        -------
        float
            At most 1.

        Warns
        -----
        DriftWarning
            As `transform` does; each process judges its own rows.
        """
        fitted = self.fitted_.around(modality)
        ranks = _ranks(group, comm)

        def mine() -> Reconstruction:
            rows = self._rows(X, reset=False, empty=ranks.size > 1)
            return coding.measured(fitted, rows, (self.k_,))[self.k_]

        measured = Reconstruction()
        for part in ranks.all_gather_object(together(ranks, mine)):
            measured.merge(part)
        return float(measured.compute().fve)

    def add_modality(self, name: str, X: Any) -> CEDAR:
        r"""Remember the mean of rows of another kind, to code such rows around it.

        Images and texts of a CLIP-like model lie in separate cones of the space (Liang et al.,
        "Mind the gap", arXiv 2203.02053). Around the mean of the images, the codes of texts would
        hold little but the gap between the cones. After ``add_modality("text", texts)``,
        ``transform(texts, modality="text")`` takes the centre
        :math:`b + (\bar x_\text{text} - \bar x)` in place of b, where :math:`\bar x` is the mean
        of the rows of the fit. The basis is the same, so that the codes can be compared.

        Parameters
        ----------
        name : str
            Name of the kind of rows. A modality of that name is replaced.
        X : array-like, Tensor or memory map [n, d]; or batches of them
            Its rows, at least 2; a generator of batches is accepted. They are read once.

        Returns
        -------
        CEDAR
            The estimator itself, with the modality in ``modalities_``.

        Raises
        ------
        TypeError, ValueError
            If the name is not a string or empty, or X is not valid.
        """
        fitted = self.fitted_
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a word such as 'text', got {name!r}")
        found = coding.modality_of(fitted, self._rows(X, reset=False))
        self.modalities_ = {**fitted.modalities, name: found}
        return self

    # --- the basis --------------------------------------------------------------------------------

    @property
    def fitted_(self) -> Fitted:
        """What the fit has found, as one frozen object."""
        check_is_fitted(self)
        return Fitted(
            tuple(self.bases_),
            torch.as_tensor(self.mean_),
            torch.as_tensor(self.data_mean_),
            float(self.scale_),
            int(self.k_),
            int(self.n_samples_seen_),
            tuple(self.loss_curve_),
            int(self.n_iter_),
            getattr(self, "modalities_", {}),  # absent in older pickles
            getattr(self, "_log_norms", None),
            getattr(self, "feature_names_in_", None),
        )

    @property
    def basis_(self) -> Basis:
        """The change of basis of the model."""
        return self.bases_[0]

    @property
    def components_(self) -> Array:
        """The matrix U [d, d]; its rows are the readouts."""
        return self._matrix(lambda basis: basis.readouts, self.basis_)

    @property
    def atoms_(self) -> Array:
        """The atoms as rows [d, d]: row i is column i of the inverse of U."""
        return self._matrix(lambda basis: basis.atoms, self.basis_)

    @property
    def restarts_(self) -> Array:
        """The atoms [n_init, d, d] of every start; first those of the model."""
        return np.stack([self._matrix(lambda basis: basis.atoms, basis) for basis in self.bases_])

    @property
    def confirmed_(self) -> npt.NDArray[np.bool_] | None:
        """Which axes other rows confirm, a mask [d]; None if that is unknown."""
        check_is_fitted(self)
        return None if self.confirmation_ is None else self.confirmation_.confirmed

    def torch_module(self, modality: str | None = None) -> CedarModule:
        """Return a copy of the model as a torch module, for use inside a network.

        Gradients flow to the input; the module has no trainable parameters.

        Parameters
        ----------
        modality : str, optional
            Name of the kind of rows, as in `transform`.

        Returns
        -------
        CedarModule
            The module.
        """
        fitted = self.fitted_.around(modality)
        return CedarModule(fitted.basis, fitted.mean, fitted.k, fitted).eval()

    # --- files ------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder; make it if needed.

        Parameters
        ----------
        folder : str or path
            The folder. Files of these names in it are overwritten.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        FileExistsError
            If ``folder`` is a file.
        TypeError, ValueError
            If a parameter was set to what no fit accepts.
        """
        columns = getattr(self, "feature_names_in_", None)
        storage.save(
            storage.Saved(
                # Those of a subclass, and those that its constructor does not let one choose.
                {name: vars(self)[name] for name in CEDAR._get_param_names()} | self.get_params(),
                self.fitted_,
                None if columns is None else list(map(str, columns)),
                self.confirmation_,
            ),
            folder,
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> CEDAR:
        """Read a saved model; on the same machine, its results have the same bits.

        Parameters
        ----------
        folder : str or path
            The folder that `save` wrote.

        Returns
        -------
        CEDAR
            The fitted estimator, with its parameter ``device`` as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        ValueError
            If the files are damaged, of another kind, or newer than this version of Laplex.
        """
        saved = storage.load(folder)
        given, own = saved.parameters, cls._get_param_names()
        fixed = {name: given[name] for name in CEDAR._get_param_names() if name in given}
        try:
            model = cls(**{name: given[name] for name in given if name in own or name not in fixed})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{folder} holds a damaged CEDAR model, or one of another class, whose `load` "
                f"reads it: {error}"
            ) from error
        model.__dict__.update(fixed)
        fitted = saved.fitted
        model.bases_ = list(fitted.bases)
        model.mean_, model.data_mean_ = fitted.mean.numpy(), fitted.data_mean.numpy()
        model.scale_, model.k_ = fitted.scale, fitted.k
        model.n_samples_seen_, model.n_features_in_ = fitted.count, fitted.dim
        model.loss_curve_, model.n_iter_ = list(fitted.losses), fitted.steps
        model.confirmation_ = saved.confirmation
        model.modalities_ = dict(fitted.modalities)
        model._log_norms = fitted.log_norms
        if saved.columns is not None:
            model.feature_names_in_ = np.array(saved.columns, dtype=object)
        return model

    _saved_as, _saved_kind = storage.MODEL, storage.KIND

    def _write(self, folder: Path) -> None:
        self.save(folder)

    @classmethod
    def _read(cls, folder: Path, **parts: Any) -> CEDAR:
        model = cls.load(folder)
        model.device = None  # that of the machine on which it was saved
        return model

    def _card(self, results: Sequence[Any]) -> Card:
        return model_card(self)

    # --- scikit-learn -----------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor, by name.

        Parameters
        ----------
        deep : bool
            Has no effect; scikit-learn passes it.

        Returns
        -------
        dict of str to object
            The parameters as they were given.
        """
        names = self._get_param_names()
        return {name: getattr(self, name) for name in names}

    @property
    def _n_features_out(self) -> int:
        return self.fitted_.axes

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
            getattr(self, "_log_norms", None),
        )

    def _remember(
        self, mean: Tensor, scale: float, count: int, log_norms: tuple[float, float] | None
    ) -> None:
        self.data_mean_ = mean.cpu().to(self._dtype).clone().numpy()
        self.scale_ = float(scale)
        self.n_samples_seen_ = count
        self._log_norms = log_norms

    def _set(self, rows: Rows, bases: list[Basis], centre: Tensor, settings: Settings) -> None:
        cpu = torch.device("cpu")
        self.bases_ = [basis.to(cpu, rows.dtype) for basis in bases]
        self.mean_ = centre.to(cpu, rows.dtype).clone().numpy()
        self.k_ = settings.ks[-1]
        self.n_features_in_ = rows.dim

    def _rows(self, X: Any, *, reset: bool, once: bool | None = None, empty: bool = False) -> Rows:
        fitted = None if reset else self._dtype
        rows = as_rows(
            X,
            device=self.device,
            dtype=fitted,
            once=not reset if once is None else once,
            empty=empty,
        )
        frame = package_of(X) in ("pandas", "polars") and len(getattr(X, "columns", ())) == rows.dim
        if (isinstance(X, np.ndarray) and X.ndim == 2) or frame:
            validate_data(self, X, reset=reset, skip_check_array=True)
        elif reset:
            if rows.columns is not None:
                self.feature_names_in_ = np.array(rows.columns, dtype=object)
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        else:
            rows.check_columns(getattr(self, "feature_names_in_", None))
        if not reset and (rows.count != 0 or rows.dim):
            self._check_width(rows, "features")
        return rows

    def _check_width(self, rows: Rows, what: str, width: int | None = None) -> None:
        width = self.n_features_in_ if width is None else width
        if rows.dim != width:
            raise ValueError(
                f"{rows.name} has {rows.dim} {what}, but {type(self).__name__} is expecting "
                f"{width} features as input"
            )

    def _placed(self, rows: Rows) -> tuple[Basis, Tensor]:
        return self.fitted_.placed(rows.device)

    def _coded(
        self, X: Any, k: object, form: str, modality: str | None
    ) -> tuple[Rows, Iterator[tuple[Array, ...]]]:
        """Return rows, and an iterator over blocks of their codes, or of the axes and values."""
        fitted = self.fitted_.around(modality)
        entries = self._entries(k)
        rows = self._rows(X, reset=False)

        def blocks() -> Iterator[tuple[Array, ...]]:
            for _, batch in coding.coded_batches(fitted, rows, (entries,)):
                codes = batch.cpu().numpy()
                yield (codes,) if form == "dense" else coding.entries_of(codes, entries)

        return rows, blocks()

    def _entries(self, k: object) -> int:
        if k is None:
            return int(self.k_)
        ks = checked_ks(k, self.n_features_in_)
        if len(ks) > 1:
            raise ValueError(f"transform takes one k, got {k!r}")
        return ks[0]

    def _matrix(self, part: Callable[[Basis], Tensor], basis: Basis) -> Array:
        check_is_fitted(self)
        if basis.dim > _WIDEST_MATRIX:
            raise ValueError(
                f"a matrix of {basis.dim} x {basis.dim} numbers is too large to form: use "
                "basis_.analyse and basis_.synthesise instead"
            )
        matrix: Array = part(basis).numpy()
        return matrix


def _finite_rows(z: Any, dim: int, dtype: torch.dtype) -> Tensor:
    """Return embeddings [..., dim] as a Tensor of a floating type; ``dtype`` if they have none."""
    given = z if isinstance(z, Tensor) else np.asarray(unmasked(z, "z"))
    if not isinstance(given, Tensor):
        if given.dtype.kind not in "fiu":
            raise TypeError(f"z must hold real numbers, got dtype {given.dtype}")
        given = torch.from_numpy(np.array(given))
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"z must hold real numbers, got {given.dtype}")
    if given.dim() == 0 or given.shape[-1] != dim:
        raise ValueError(f"z must have {dim} columns, as in the fit, got shape {list(given.shape)}")
    if not given.isfinite().all():
        raise ValueError("z contains NaN or infinity: remove these rows")
    return given if given.is_floating_point() else given.to(dtype)


def _ranks(group: ProcessGroup | None, comm: MPI.Comm | None) -> Communicator:
    return OneProcess() if group is None and comm is None else communicator(group, comm)


@contextmanager
def _unchanged_by_errors(model: CEDAR) -> Iterator[None]:
    """Restore a model to its earlier state if learning fails."""
    before = dict(vars(model))
    try:
        yield
    except BaseException:
        model.__dict__.clear()
        model.__dict__.update(before)
        raise
