"""How many entries a code should have: fits of several k, beside baselines, on held-out rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from laplex._support.optional import require

from .basis import Basis, DenseBasis, random_rotation
from .estimator import CEDAR
from .metrics.matching import match
from .parts import hashes
from .rows import as_rows
from .settings import checked_ks, whole
from .statistics import gather

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

#: Least gain, as a fraction of the variance, that supports a k.
_LEAST_GAIN = 0.01
#: What twice as many entries cost, as a fraction of the skill.
_PRICE = 0.05
#: Absolute cosine above which atoms of two halves are the same axis, as in `stability`.
_SAME_AXIS = 0.7
#: Number of blocks of rows whose gains are compared, and number of standard errors by which a gain
#: must exceed 0.
_BLOCKS, _ERRORS = 32, 3.0
_BATCH = 8192


@dataclass(frozen=True, eq=False, repr=False)
class KChoice:
    """Result of `choose_k`.

    Attributes
    ----------
    ks : tuple of int
        The numbers of entries that were tried.
    best : int or None
        The k to use; None if none is supported.
    reason : str
        Why, in words.
    elbow : int
        The k at which the curve of `fve` bends most: farthest above the straight line between its
        ends (Satopaa et al., 2011). It needs no baseline, and is there for noise too.
    fve : ndarray ``[ks]``
        Fraction of variance explained on the half of the rows that the model has not seen, averaged
        over the halves.
    baseline : ndarray ``[ks]``
        The same for the better of two bases with the k largest coordinates of each row: the
        principal axes of the other half, and a random rotation.
    gain : ndarray ``[ks]``
        ``fve - baseline``.
    spread : ndarray ``[ks]``
        Half of the difference between the gains of the halves.
    skill : ndarray ``[ks]``
        ``gain / (1 - baseline)``: the share of what the baseline leaves that the code explains.
    certain : ndarray ``[ks]``
        ``gain`` less three of its standard errors, on the half where that is smaller.
    stability : ndarray ``[ks]``
        Share of axes that the fits of both halves, from different starts, have (absolute cosine
        above 0.7).
    """

    ks: tuple[int, ...]
    best: int | None
    reason: str
    elbow: int
    fve: Array
    baseline: Array
    gain: Array
    spread: Array
    skill: Array
    certain: Array
    stability: Array

    def table(self) -> str:
        """Return a text table with a line for each k; a star marks the best."""
        lines = ["    k    FVE  baseline    gain           skill  shared axes"]
        for place, k in enumerate(self.ks):
            lines.append(
                f"{k:5d}  {self.fve[place]:.3f}     {self.baseline[place]:.3f}  "
                f"{self.gain[place]:+.3f} ± {self.spread[place]:.3f}  {self.skill[place]:6.3f}  "
                f"{self.stability[place]:10.0%}" + (" *" if k == self.best else "")
            )
        return "\n".join(lines)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the curves over k.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Where to draw; a new figure if None.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        if axes is None:
            pyplot = require("matplotlib.pyplot", "cedar", feature="KChoice.plot")
            axes = pyplot.subplots(figsize=(6, 4))[1]
        for name, values in (
            ("held-out FVE", self.fve),
            ("better baseline", self.baseline),
            ("skill", self.skill),
            ("share of axes in both halves", self.stability),
        ):
            axes.plot(self.ks, values, marker="o", label=name)
        if self.best is not None:
            axes.axvline(self.best, color="gray", linestyle=":", label=f"best k = {self.best}")
        axes.set(xscale="log", xlabel="entries of a code, k", xticks=self.ks, xticklabels=self.ks)
        axes.minorticks_off()
        axes.legend()
        return axes

    def __repr__(self) -> str:
        return f"{self.reason}\n{self.table()}"


def choose_k(
    X: Any,
    ks: Iterable[int] | None = None,
    *,
    model: CEDAR | None = None,
    max_rows: int = 2**15,
    random_state: Any = 0,
) -> KChoice:
    r"""Fit several k on either half of the rows, and say which of them the other half supports.

    A code with more entries always explains more, so the variance explained cannot choose k. The
    skill asks how much of what a basis without sparse axes leaves unexplained they explain:

    .. math::
        B_k = \max(\mathrm{FVE}_k^{\text{principal axes}}, \mathrm{FVE}_k^{\text{random}}), \qquad
        \mathrm{skill}_k = \frac{\mathrm{FVE}_k - B_k}{1 - B_k}

    It is small where k is too small to describe a row, and where the entries beyond those that the
    axes explain are spent on noise. The best k has the largest skill, of which each doubling of k
    costs 5 %: :math:`\mathrm{skill}_k (1 - 0.05 \log_2 k)`.

    The best k is supported if on either half its gain, :math:`\mathrm{FVE}_k - B_k`, is above 0.01
    and above three of its standard errors, which come from the gains of 32 blocks of successive
    rows. So a few rows of a large norm support nothing, however much they gain. Equal rows are in
    the same half. The rule is ours, a relative of the gap statistic (Tibshirani et al., 2001).

    Rows that depend on each other over long stretches, such as those of a random walk, are known
    in either half: thin them out first, or any k may be supported.

    Parameters
    ----------
    X : array-like, Tensor or memory map [n, d]; or batches of them
        Embeddings.
    ks : iterable of int, optional
        Numbers of entries to try; by default the powers of 2 up to d / 2.
    model : CEDAR, optional
        The estimator to fit, with its parameters but for k; by default ``CEDAR()``.
    max_rows : int
        Largest number of rows to use; of more, a uniform sample is taken. Each half is fitted once
        for each k.
    random_state : int, RandomState or None
        Seed of the sample, the halves, the random rotation, and the fits if `model` has none.

    Returns
    -------
    KChoice

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid, or there are fewer than 8 different rows.

    Warns
    -----
    UserWarning
        If the largest k tried is the best, or the smallest and not 1.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar import choose_k
    >>> random = np.random.default_rng(0)
    >>> causes = random.standard_normal((2000, 16)) * (random.random((2000, 16)) < 0.15)
    >>> turn = np.linalg.qr(random.standard_normal((16, 16)))[0]
    >>> choose_k(causes @ turn).best
    4
    >>> choose_k(random.standard_normal((2000, 16))).best is None
    True
    """
    if model is not None and not isinstance(model, CEDAR):
        raise TypeError(f"model must be a CEDAR, got {type(model).__name__}: pass CEDAR(...)")
    model = CEDAR() if model is None else model
    rows = as_rows(X, device=model.device)
    tried = checked_ks(_powers(rows.dim) if ks is None else ks, rows.dim)
    own = check_random_state(random_state)
    seed = int(own.randint(2**31 - 1))
    random = torch.Generator().manual_seed(seed)
    sample = gather(rows, whole("max_rows", max_rows), random).sample
    # Equal rows are in the same half, and the halves have equally many different rows.
    numbers = hashes(sample, seed).cpu().numpy()
    distinct, place_of = np.unique(numbers, return_inverse=True)
    if len(distinct) < 8:
        raise ValueError(
            f"X has {len(distinct)} different rows, but choose_k needs at least 8, and 20 a column "
            "to tell anything: pass more embeddings"
        )
    first = torch.from_numpy(place_of % 2 == 0).to(sample.device)
    halves = sample[first], sample[~first]
    given = model.random_state
    seeds = (own if given is None else check_random_state(given)).randint(2**31 - 1, size=2)
    drawn = random_rotation(rows.dim, random).to(rows.device)
    fve, baseline, certain = (np.empty((2, len(tried))) for _ in range(3))
    shared = np.empty(len(tried))
    known = [
        _baseline(axes, mean, drawn, test, tried)
        for (axes, mean), test in zip(map(_principal, halves), halves[::-1], strict=True)
    ]
    for place, k in enumerate(tried):
        fits = []
        for number, half in enumerate(halves):
            one = clone(model)
            # By attribute: the constructor of a subclass may not have these parameters.
            one.k, one.random_state = k, int(seeds[number])
            fits.append(one.fit(half))
            found = _gain(one, k, halves[1 - number], known[number][place])
            fve[number, place], baseline[number, place], certain[number, place] = found
        cosine = match(*(one.atoms_ for one in fits))[1]
        shared[place] = (np.abs(cosine) > _SAME_AXIS).mean()
    return _judged(tried, fve, baseline, certain, shared)


def gain_score(model: CEDAR | Pipeline, X: Any, y: object = None) -> float:
    r"""Return the skill of a model beyond two baselines: a scorer for a search of k.

    ``CEDAR.score`` grows with k, so a search by it takes the largest. This is the skill that
    `choose_k` defines, with the gain less three of its standard errors, times
    :math:`1 - 0.05 \log_2 k`. A model that explains no more than the baselines, or does so by a few
    rows only, has a score below 0. The baselines are a random rotation and the principal axes of X
    itself. The latter have seen X, which flatters them where X has few rows a column: `choose_k`
    compares with axes of other rows.

    Parameters
    ----------
    model : CEDAR or Pipeline
        A fitted model, or a pipeline that ends with one: X is then transformed by its other steps.
    X : array-like, Tensor or memory map [n, d]; or batches of them
        Embeddings that the fit has not seen; of more than 32,768, a uniform sample is taken. A
        search that splits the rows at random has copies of a row on both sides: remove them first.
    y : object
        Ignored.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If the model, or the last step of the pipeline, is not a CEDAR.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from laplex.cedar import CEDAR, gain_score
    >>> random = np.random.default_rng(0)
    >>> causes = random.standard_normal((2000, 16)) * (random.random((2000, 16)) < 0.15)
    >>> turn = np.linalg.qr(random.standard_normal((16, 16)))[0]
    >>> search = GridSearchCV(CEDAR(random_state=0), {"k": [1, 2, 4, 8]}, scoring=gain_score, cv=3)
    >>> search.fit(causes @ turn).best_params_
    {'k': 4}
    """
    if isinstance(model, Pipeline):
        X = model[:-1].transform(X) if len(model) > 1 else X
        model = model[-1]
    if not isinstance(model, CEDAR):
        raise TypeError(
            f"model must be a CEDAR or a pipeline that ends with one, got {type(model).__name__}: "
            "pass scoring=gain_score for such a model only"
        )
    check_is_fitted(model)
    rows = as_rows(X, device=model.device)
    known = gather(rows, 2**15, torch.Generator().manual_seed(0)).sample
    axes, mean = _principal(known)
    drawn = random_rotation(rows.dim, torch.Generator().manual_seed(0)).to(rows.device)
    ks = (model.k_,)
    _, best, certain = _gain(model, model.k_, known, _baseline(axes, mean, drawn, known, ks)[0])
    return float(certain / max(1 - best, _LEAST_GAIN) * _prices(ks)[0])


def _judged(
    ks: tuple[int, ...], fve: Array, baseline: Array, certain: Array, shared: Array
) -> KChoice:
    gains = fve - baseline
    gain, spread = gains.mean(0), np.abs(gains[0] - gains[1]) / 2
    skill = gain / np.maximum(1 - baseline.mean(0), _LEAST_GAIN)
    at = int((skill * _prices(ks)).argmax())
    best = ks[at]
    supported = bool(gains[:, at].min() > _LEAST_GAIN and certain[:, at].min() > 0)
    if supported:
        reason = (
            f"k = {best}: held-out FVE {fve.mean(0)[at]:.3f}, {skill[at]:.0%} of what the better "
            f"baseline leaves; {shared[at]:.0%} of the axes are found on both halves of the rows."
        )
    else:
        reason = (
            "no k is supported: on held-out rows, the fits do not explain reliably more than "
            f"principal axes or a random rotation ({gains[:, at].min():+.3f} of the variance at "
            f"k = {best}, {certain[:, at].min():+.3f} less three standard errors)."
        )
    if supported and len(ks) > 1 and (best == ks[-1] or best == ks[0] > 1):
        end, side = ("largest", "larger") if best == ks[-1] else ("smallest", "smaller")
        warnings.warn(
            f"ks do not reach a plateau: the {end} k tried, {best}, is the best; try {side} ones",
            UserWarning,
            stacklevel=3,
        )
    line = np.interp(ks, [ks[0], ks[-1]], fve.mean(0)[[0, -1]])
    elbow = ks[int((fve.mean(0) - line).argmax())]
    return KChoice(
        ks,
        best if supported else None,
        reason,
        elbow,
        fve.mean(0),
        baseline.mean(0),
        gain,
        spread,
        skill,
        certain.min(0),
        shared,
    )


def _prices(ks: Sequence[int]) -> Array:
    prices: Array = np.maximum(1 - _PRICE * np.log2(ks), _PRICE)
    return prices


def _powers(dim: int) -> Sequence[int]:
    return [2**power for power in range(max(1, dim // 2).bit_length())]


def _principal(sample: Tensor) -> tuple[DenseBasis, Tensor]:
    """Return the principal axes of rows [n, d] and their mean [d], in float64."""
    exact = sample.double()
    mean = exact.mean(0)
    _, vectors = torch.linalg.eigh((exact - mean).T @ (exact - mean))
    return DenseBasis(vectors.T.contiguous()), mean


def _errors(basis: Basis, mean: Tensor, rows: Tensor, ks: Sequence[int]) -> Array:
    """Return the squared errors [ks, n] of codes of rows [n, d] around a mean [d]."""
    found = []
    for batch in torch.split(rows, _BATCH):
        z = batch.double() - mean
        errors = [(z - basis.synthesise(basis.encode(z, k))).square().sum(1) for k in ks]
        found.append(torch.stack(errors).cpu())
    joined: Array = torch.cat(found, dim=1).numpy()
    return joined


def _baseline(
    axes: Basis, mean: Tensor, drawn: Tensor, rows: Tensor, ks: Sequence[int]
) -> list[Array]:
    """Return for each k the squared errors [n] of the better of two bases without sparse axes."""
    both = [_errors(basis, mean, rows, ks) for basis in (axes, DenseBasis(drawn))]
    return [min(pair, key=np.sum) for pair in zip(*both, strict=True)]


def _gain(model: CEDAR, k: int, rows: Tensor, baseline: Array) -> tuple[float, float, float]:
    """Return the variance of rows that a model explains, that the baseline does, and a lower limit.

    All are fractions of the variance; the limit is one of the gain.
    """
    fitted = model.fitted_
    basis, mean = fitted.basis.to(rows.device, torch.float64), fitted.mean.to(rows.device)
    errors = _errors(basis, mean.double(), rows, (k,))[0]
    exact = rows.double()
    variance = float((exact - exact.mean(0)).square().sum())
    # Equal rows are one observation, at the place of the first of them.
    _, first, which = np.unique(
        hashes(rows, 0).cpu().numpy(), return_index=True, return_inverse=True
    )
    gains = np.bincount(which, baseline - errors)[first.argsort()]
    blocks = np.array([one.sum() for one in np.array_split(gains, _BLOCKS)])
    certain = (blocks.sum() - _ERRORS * blocks.std(ddof=1) * _BLOCKS**0.5) / variance
    return 1 - float(errors.sum()) / variance, 1 - float(baseline.sum()) / variance, float(certain)
