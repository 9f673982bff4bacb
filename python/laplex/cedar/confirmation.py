"""Which axes other rows confirm: found again in disjoint parts of the rows, and not by chance."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from laplex._support.json_files import parse_json
from laplex._support.text_tables import aligned

from .metrics.inputs import Array, ArrayInput
from .metrics.matching import match

#: Number of starts from which axes can be confirmed: the model, and two disjoint parts of the rows.
MIN_STARTS = 3
#: Absolute cosine above which two atoms count as the same axis.
THRESHOLD = 0.7
#: Largest false discovery rate of a confirmed axis.
ALPHA = 0.01
#: Number of rows for each column below which many true axes stay unconfirmed.
ENOUGH_ROWS = 20
#: Largest number of axes that are matched and confirmed, which takes time of its third power.
MOST_AXES = 4096


class TooFewRowsWarning(UserWarning):
    """There are so few rows for each column that true axes may stay unconfirmed."""


@dataclass(frozen=True, eq=False, repr=False)
class Confirmation:
    """Which axes of a model other rows confirm.

    The rows are divided into P disjoint parts by their content, and a basis is fitted to each of
    them. An axis of the model is *confirmed* if

    * the fits to two parts or more found it, each without the rows of the others: their matched
      atoms have an absolute cosine above 0.7 with that of the model;
    * the rows outside of such a part show that it is an axis: in none of the planes through it and
      a second axis may it be just one direction among others (``q <= alpha``); and
    * it has an entry in the codes of enough rows of each part (``support >= min_support``).

    The rows must be independent, or copies of each other: rows of a series confirm accidents of it.
    A confirmed axis is a property of the data, **but it need not be a cause**. If causes are
    oblique, or more than the columns, no rotation has them as axes: all axes of one may be
    confirmed, and each be a mixture of causes. An axis that is not confirmed may still be there:
    causes that are active in most rows, few rows, and a k that is too large hide it.

    Attributes
    ----------
    cosine : ndarray ``[P, axes]``
        Absolute cosine of the atoms of the model with those of the parts that are matched to them.
    p : ndarray ``[axes]``
        p-value of the hypothesis that fewer than two parts have found an axis that is there.
    q : ndarray ``[axes]``
        The same, adjusted for the number of axes: confirming all axes with values up to q keeps the
        expected share of false ones below q (Benjamini and Hochberg, 1995).
    support : ndarray ``[axes]`` of int64
        Number of rows in whose codes the axis has an entry, in the part with the fewest.
    confirmed : ndarray ``[axes]`` of bool
        Which axes are confirmed.
    rows : ndarray ``[P]`` of int64
        Number of rows of each part that were used for the test.
    alpha : float
        Largest q of a confirmed axis.
    threshold : float
        Absolute cosine above which two atoms count as the same axis.
    min_support : int
        Smallest support of a confirmed axis: if m rows agree by chance with probability
        :math:`2^{-m}`, no fewer can be told from chance among all axes.
    """

    cosine: Array
    p: Array
    q: Array
    support: npt.NDArray[np.int64]
    confirmed: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    alpha: float
    threshold: float
    min_support: int

    def table(self, n: int | None = 20) -> str:
        """Return a text table of the axes, those with the smallest p-values first.

        Parameters
        ----------
        n : int, optional
            Number of axes; None for all.
        """
        order = np.lexsort((-self.cosine.min(axis=0), self.p, ~self.confirmed))[:n]
        head = ["axis", "confirmed", *(f"cos {part + 1}" for part in range(len(self.cosine)))]
        body = [
            [
                str(axis),
                "yes" if self.confirmed[axis] else "no",
                *(f"{cosine:.3f}" for cosine in self.cosine[:, axis]),
                f"{self.p[axis]:.1e}",
                f"{self.q[axis]:.1e}",
                str(self.support[axis]),
            ]
            for axis in order
        ]
        return f"{self!r}\n{aligned([*head, 'p', 'q', 'support'], body, left=(), rule='none')}"

    def to_json(self) -> str:
        """Return everything as a JSON object."""
        content = {name: _plain(value) for name, value in vars(self).items()}
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Confirmation:
        """Return what `to_json` wrote.

        Parameters
        ----------
        text : str
            The JSON object.

        Returns
        -------
        Confirmation

        Raises
        ------
        ValueError
            If the text is not such an object.
        """
        try:
            content: Any = {
                name: np.array(value) if isinstance(value, list) else value
                for name, value in parse_json(text).items()
            }
            found = cls(**content)
            kinds = {
                "cosine": "f",
                "p": "f",
                "q": "f",
                "support": "i",
                "confirmed": "b",
                "rows": "i",
            }
            if any(getattr(found, name).dtype.kind != kind for name, kind in kinds.items()):
                raise ValueError("numbers are of another kind")
            sizes = {len(one) for one in (found.p, found.q, found.support, found.confirmed)}
            if sizes != {found.cosine.shape[1]} or len(found.rows) != len(found.cosine):
                raise ValueError("sizes differ")
        except (TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"this is not a confirmation of axes: {error}") from error
        return found

    def __repr__(self) -> str:
        confirmed = int(self.confirmed.sum())
        matched = (self.cosine > self.threshold).sum(axis=0) >= 2
        rest = matched & ~self.confirmed
        rare = int((rest & (self.support < self.min_support)).sum())
        left = (
            f"; of these, the test does not confirm {int(rest.sum()) - rare}, and {rare} are in "
            f"fewer than {self.min_support} codes of a part"
        )
        return (
            f"{confirmed} of {len(self.p)} axes are confirmed (q <= {self.alpha:g}); "
            f"{int(matched.sum())} were found in two of {len(self.rows)} disjoint parts of "
            f"{int(self.rows.sum())} rows" + (left if rest.any() else "")
        )


def combined(
    atoms: ArrayInput,
    others: Sequence[ArrayInput],
    p: Array,
    support: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> Confirmation:
    r"""Match the axes of parts to those of the model, and combine their p-values.

    The p-value of an axis is that of the hypothesis that fewer than two of P parts have found an
    axis that is there, :math:`(P - 1)\, p_{(2)}` with the second smallest of the p-values of the
    parts (Benjamini and Heller, Biometrics 64, 2008). A part whose matched atom is not above the
    threshold has a p-value of 1.

    Parameters
    ----------
    atoms : array ``[axes, d]``
        Atoms of the model.
    others : list of arrays ``[axes, d]``
        Atoms of the P parts.
    p : ndarray ``[P, axes]``
        p-values of the axes of the parts.
    support : ndarray ``[P, axes]``
        Number of rows of each part with the axes of the model in their codes.
    rows : ndarray ``[P]``
        Number of rows of each part.
    """
    matched = [match(atoms, one) for one in others]
    cosine = np.abs(np.stack([found for _, found in matched]))
    p = np.stack([own[index] for own, (index, _) in zip(p, matched, strict=True)])
    p = np.where(cosine > THRESHOLD, p, 1.0)
    both = np.minimum(1.0, (len(p) - 1) * np.sort(p, axis=0)[1])
    q: Array = scipy.stats.false_discovery_control(both)
    least = math.ceil(math.log2(len(both) / ALPHA))
    found = support.min(axis=0)
    confirmed = (q <= ALPHA) & (found >= least)
    return Confirmation(cosine, both, q, found, confirmed, rows, ALPHA, THRESHOLD, least)


def warn_if_few(rows: float, columns: int, *, stacklevel: int) -> None:
    """Warn if true axes may stay unconfirmed for want of rows."""
    if rows < ENOUGH_ROWS * columns:
        warnings.warn(
            f"{rows:g} rows are few for {columns} columns: below about {ENOUGH_ROWS} rows a column "
            f"true axes may stay unconfirmed. Pass {ENOUGH_ROWS * columns} rows or more, or reduce "
            "the columns first, for instance by PCA",
            TooFewRowsWarning,
            stacklevel=stacklevel,
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
