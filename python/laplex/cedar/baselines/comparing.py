"""Comparison of CEDAR with its baselines, on rows that none of them has seen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from numbers import Integral
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, check_scalar
from torch import Tensor

from laplex._support.progress import progress_bar

from ..estimator import CEDAR
from ..metrics import Reconstruction, ReconstructionReport
from ..rows import as_rows
from ..settings import checked_ks
from ..statistics import ConstantColumnWarning, gather
from .comparison import Block, Comparison, Measurement
from .dictionary import BASELINES, MAX_ROWS, Array, Dictionary
from .equal_bits import bits_of, k_within
from .held_out import Subset, held_out
from .null_controls import covariance_gaussian, isotropic_gaussian
from .pca import PCA
from .random_rotation import RandomRotation


def all_baselines() -> list[Dictionary]:
    """Return one unfitted instance of each baseline with its defaults, and both variants of PCA."""
    return [one for kind in BASELINES.values() for one in kind.variants()]


def compare(
    embeddings: Any,
    k: int | Sequence[int] = (4, 16, 32, 64),
    *,
    test: Any = None,
    test_size: float | int = 0.2,
    baselines: Sequence[Dictionary | str] | None = None,
    models: Mapping[str, Any] | None = None,
    cedar: CEDAR | None = None,
    fit_k: int | Sequence[int] | None = None,
    nulls: bool = True,
    random_state: int = 0,
    seeds: int = 1,
    progress: bool = False,
) -> Comparison:
    """Fit CEDAR and its baselines, and measure their codes on held-out rows.

    The result has two comparisons. At equal k, every code has the same number of nonzero entries.
    At equal bits, every code may cost as many bits as a CEDAR code of k entries: 32 bits for each
    entry, plus log2 of the number of ways to choose the entries. An overcomplete dictionary then
    keeps fewer entries; leading components, which need no choice, keep more. Each null control fits
    a random rotation, PCA and CEDAR in the same way to Gaussian rows that contain nothing to find.

    Parameters
    ----------
    embeddings : array, Tensor or memory map ``[n, d]``; or an iterable of batches, with ``test``
        Embeddings to fit to.
    k : int or sequence of int
        Numbers of nonzero entries to compare at, up to d.
    test : array, Tensor, memory map or iterable of batches, optional
        Held-out rows. By default, ``test_size`` of the embeddings are drawn.
    test_size : float or int
        Fraction or number of rows to hold out if ``test`` is not given.
    baselines : sequence of Dictionary or str, optional
        Unfitted baselines, or names in ``BASELINES``; by default all of them.
    models : mapping of names to estimators, optional
        More methods with ``transform(X, k)`` and ``inverse_transform``. Fitted models are measured
        as they are, on rows that they may have seen. Others are fitted once for all k.
    cedar : CEDAR, optional
        Unfitted model with the settings to use; by default ``CEDAR()``.
    fit_k : int or sequence of int, optional
        Values of k for which CEDAR is fitted, and baselines whose fit depends on k, one fit each.
        Each fit is measured at every k. By default they are fitted for every k.
    nulls : bool
        Whether to run the null controls, which need two more fits of CEDAR.
    random_state : int
        Seed of the split, of the controls and of every fit; it overrides that of the models.
    seeds : int
        Number of repetitions of everything, with seeds ``random_state``, ``random_state + 1``, ...
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Comparison
        Print it for the table.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, two methods have the same name, or the rows cannot be split.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar.baselines import PCA, RandomRotation, compare
    >>> random = np.random.default_rng(0)
    >>> causes = random.standard_normal((1000, 8)) * (random.random((1000, 8)) < 0.2)
    >>> turn = np.linalg.qr(random.standard_normal((8, 8)))[0]
    >>> found = compare(causes @ turn, k=(1, 2), baselines=[RandomRotation(), PCA()], nulls=False)
    >>> best = max((row for row in found.rows if row.k == 2), key=lambda row: row.fve)
    >>> best.method
    'CEDAR'
    """
    dim = as_rows(embeddings, name="embeddings").dim
    ks = checked_ks(k, dim)
    fits = ks if fit_k is None else checked_ks(fit_k, dim)
    check_scalar(seeds, "seeds", Integral, min_val=1)
    check_scalar(random_state, "random_state", Integral, min_val=0)
    if test is not None and as_rows(test, name="test").dim != dim:
        raise ValueError(
            f"test has {as_rows(test, name='test').dim} features, but embeddings have {dim}"
        )
    template = CEDAR() if cedar is None else cedar
    methods = _methods(template, baselines, models, fits)
    total = seeds * (sum(len(one.fits) for one in methods) + nulls)
    rows: list[Measurement] = []
    with progress_bar(progress, extra="cedar") as report, warnings.catch_warnings():
        # The table has a column of dead axes, which says this better than a warning from each fit.
        warnings.simplefilter("ignore", ConstantColumnWarning)
        done = 0
        for seed in range(random_state, random_state + seeds):
            if test is None:
                train, judged = held_out(embeddings, test_size, seed)
            else:
                train, judged = embeddings, test
            generator = torch.Generator().manual_seed(seed)
            known = gather(as_rows(train, device="cpu"), MAX_ROWS, generator)
            for method in methods:
                for fitted_for in method.fits:
                    report("comparing methods", done, total, method.name)
                    fitted = method.fit(train, fitted_for, seed)
                    rows += _measured(fitted, judged, known.mean.numpy(), ks, seed)
                    done += 1
            if nulls:
                report("comparing methods", done, total, "null controls")
                middle = fits[len(fits) // 2]
                count = min(_count(judged), MAX_ROWS)
                rows += _null_controls(template, known.sample, count, ks, middle, seed)
                done += 1
        report("comparing methods", total, total, "")
    return Comparison(rows, ks, dim, known.count, _count(judged), int(seeds))


# --- inside ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fitted:
    """A fitted method, ready to be measured."""

    name: str
    model: Any
    fit_k: int | None
    seconds: float


@dataclass(frozen=True)
class _Method:
    """A method and the k it is fitted for; None if it takes no k, or came fitted."""

    name: str
    model: Any
    fits: tuple[int, ...] | tuple[None]

    def fit(self, train: Any, k: int | None, seed: int) -> _Fitted:
        if _is_fitted(self.model):
            return _Fitted(self.name, self.model, k, nan)
        model = clone(self.model)
        told = {} if k is None else {"k": k}
        if "random_state" in model.get_params():
            told["random_state"] = seed
        model.set_params(**told)
        start = time.perf_counter()
        model.fit(train)
        return _Fitted(self.name, model, k, time.perf_counter() - start)


def _methods(
    template: CEDAR,
    baselines: Sequence[Dictionary | str] | None,
    models: Mapping[str, Any] | None,
    fits: tuple[int, ...],
) -> list[_Method]:
    """List the methods; CEDAR comes after the baselines, and the models that were passed last."""
    chosen: list[Dictionary] = []
    for one in all_baselines() if baselines is None else baselines:
        chosen += BASELINES.find(one).variants() if isinstance(one, str) else [one]
    for baseline in chosen:
        if not isinstance(baseline, Dictionary):
            raise TypeError(
                f"baselines must be of laplex.cedar.baselines, got {baseline!r}: pass other "
                "estimators as models={name: estimator}"
            )
    for name, model in [(one.name, one) for one in chosen] + [("cedar", template)]:
        if _is_fitted(model):
            raise ValueError(f"{name} is fitted already: pass it as models={{name: estimator}}")
    methods = [_Method(one.name, one, fits if one.fitted_for_k else (None,)) for one in chosen]
    methods.append(_Method("CEDAR", template, fits))
    for name, model in (models or {}).items():
        for needed in ("fit", "transform", "inverse_transform"):
            if not hasattr(model, needed):
                raise TypeError(f"models[{name!r}] has no {needed}: pass an estimator like CEDAR")
        methods.append(_Method(name, model, (None,)))
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several methods are called {', '.join(twice)}: pass one as models={{...}}"
        )
    return methods


def _is_fitted(model: Any) -> bool:
    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def _measured(
    fitted: _Fitted, judged: Any, centre: Array, ks: tuple[int, ...], seed: int
) -> list[Measurement]:
    """Measure one fit at every k and at every budget, in bits of CEDAR's codes with d axes."""
    indexed = bool(getattr(fitted.model, "indexed", True))
    axes = _axes(fitted.model, judged)
    kept: dict[tuple[Block, int], int] = {("equal k", k): min(k, axes) for k in ks}
    for k in ks:
        if affordable := k_within(bits_of(len(centre), k), axes, indexed):
            kept["equal bits", k] = affordable
    reports = _reports(fitted.model, judged, centre, sorted(set(kept.values())))
    return [
        _measurement(block, fitted, seed, column, k, axes, bits_of(axes, k, indexed), reports[k])
        for (block, column), k in kept.items()
    ]


def _null_controls(
    template: CEDAR, sample: Tensor, held: int, ks: tuple[int, ...], fit_k: int, seed: int
) -> list[Measurement]:
    """Repeat the fits on as many rows as sample has, in which there is nothing to find."""
    generator = torch.Generator().manual_seed(seed)
    count, axes = sample.shape
    methods = [
        (_Method("random rotation", RandomRotation(), (None,)), None),
        (_Method("PCA, per-row top k", PCA(), (None,)), None),
        (_Method("CEDAR", template, (fit_k,)), fit_k),
    ]
    rows = []
    nulls: list[tuple[Block, Any]] = [
        ("isotropic null", isotropic_gaussian),
        ("covariance null", covariance_gaussian),
    ]
    for block, draw in nulls:
        drawn = draw(count + held, sample, generator)
        for method, fitted_for in methods:
            fitted = method.fit(drawn[:count], fitted_for, seed)
            reports = _reports(fitted.model, drawn[count:], np.zeros(axes), ks)
            rows += [
                _measurement(block, fitted, seed, k, k, axes, bits_of(axes, k), reports[k])
                for k in ks
            ]
    return rows


def _reports(
    model: Any, judged: Any, centre: Array, ks: Sequence[int]
) -> dict[int, ReconstructionReport]:
    """Measure codes of several sizes in one pass over the rows."""
    measured = {k: Reconstruction(centre) for k in ks}
    for batch in as_rows(judged, device="cpu").batches():
        z = batch.numpy()
        for k, one in measured.items():
            codes = model.transform(z, k)
            restored = model.inverse_transform(codes)
            one.update(z, restored, codes.toarray() if scipy.sparse.issparse(codes) else codes)
    return {k: one.compute() for k, one in measured.items()}


def _axes(model: Any, judged: Any) -> int:
    """Return the length of a code, from one row: a matrix of atoms may be too large to form."""
    row = next(as_rows(judged, device="cpu").batches())[:1].numpy()
    return int(model.transform(row, 1).shape[1])


def _measurement(
    block: Block,
    fitted: _Fitted,
    seed: int,
    column: int,
    k: int,
    axes: int,
    bits: float,
    report: ReconstructionReport,
) -> Measurement:
    return Measurement(
        block=block,
        method=fitted.name,
        seed=seed,
        fit_k=fitted.fit_k,
        column=column,
        k=k,
        axes=axes,
        bits=bits,
        fve=report.fve,
        cosine=report.cosine,
        l0=report.l0,
        dead=report.dead or 0,
        fit_seconds=fitted.seconds,
    )


def _count(X: Any) -> int:
    if isinstance(X, Subset):
        return len(X)
    rows = as_rows(X)
    return sum(map(len, rows.batches())) if rows.count is None else rows.count
