"""Names for axes: the words whose embeddings point along an atom, or against it.

An axis has two ends, and one end says little about the other: "red" may be opposite to "green", or
to nothing at all. So each end gets a name of its own, or none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted

from laplex._support.renamed_parameters import renamed_parameter
from laplex._support.text_tables import aligned

from .basis import random_rotation
from .confirmation import warn_if_few
from .metrics.inputs import Array, float64, unit_rows
from .rows import Rows, as_rows
from .settings import number, whole

#: Number of random directions that `threshold="chance"` draws, and the quantile of their scores.
_CHANCE_AXES, _CHANCE_LEVEL = 256, 0.99
#: Number of cosines (axes times words) computed at a time: 8 MiB, and temporaries of that size.
_COSINES_AT_ONCE = 2**20


class UnconfirmedNamesWarning(UserWarning):
    """Axes were named although it is unknown whether other rows confirm them."""


@dataclass(frozen=True)
class Name:
    """The name of one end of an axis.

    Attributes
    ----------
    word : str
        The word with the best score.
    score : float
        Cosine of the direction of this end with the centred embedding of the word.
    margin : float
        Score of the word minus that of the best *other* word; 0 if two words fit equally well.
    runner_up : str
        That other word.
    """

    word: str
    score: float
    margin: float
    runner_up: str


@dataclass(frozen=True)
class AxisName:
    """The names of both ends of an axis.

    Attributes
    ----------
    axis : int
        Number of the axis.
    positive, negative : Name or None
        Names of the atom and of its negative. None if the score of the best word is below the
        threshold, or if only confirmed axes get names and this one is not confirmed.
    positive_score, negative_score : float
        Score of the best word, whether or not it became a name.
    confirmed : bool or None
        Whether other rows confirm the axis (see `Confirmation`); None if that is unknown.
    """

    axis: int
    positive: Name | None
    negative: Name | None
    positive_score: float
    negative_score: float
    confirmed: bool | None

    @property
    def named(self) -> bool:
        """Whether either end has a name."""
        return self.positive is not None or self.negative is not None


@dataclass(frozen=True, eq=False, repr=False)
class AxisNames(Sequence[AxisName]):
    """Result of `name_axes`: a sequence with one `AxisName` for each axis, in order.

    Attributes
    ----------
    axes : tuple of AxisName
        The names of each axis.
    threshold : float
        Smallest cosine that a name needs.
    """

    axes: tuple[AxisName, ...]
    threshold: float

    def __getitem__(self, axis: Any) -> Any:
        return self.axes[axis]

    def __len__(self) -> int:
        return len(self.axes)

    def __iter__(self) -> Iterator[AxisName]:
        return iter(self.axes)

    @property
    def tested(self) -> bool:
        """Whether it is known which axes are confirmed."""
        return all(axis.confirmed is not None for axis in self.axes)

    def ranked(self) -> list[AxisName]:
        """Return the axes, those with names first and by score in descending order."""

        def best(axis: AxisName) -> tuple[bool, float]:
            scores = [name.score for name in (axis.positive, axis.negative) if name is not None]
            return not scores, -max(scores, default=0.0)

        return sorted(self.axes, key=best)

    def table(self, n: int | None = 20) -> str:
        """Return a text table of the axes with the best names.

        Parameters
        ----------
        n : int, optional
            Number of axes, at least 1; None for all named axes.
        """
        chosen = [axis for axis in self.ranked() if axis.named]
        chosen = chosen if n is None else chosen[: whole("n", n)]
        head = ["axis", "confirmed", "+", "score", "margin", "-", "score", "margin"]
        body = [
            [
                str(axis.axis),
                {None: "?", True: "yes", False: "no"}[axis.confirmed],
                *_cells(axis.positive),
                *_cells(axis.negative),
            ]
            for axis in chosen
        ]
        return f"{self!r}\n{aligned(head, body, left=(2, 5), rule='none')}"

    def to_json(self) -> str:
        """Return all names and scores as a JSON object."""
        content = {
            "threshold": self.threshold,
            "tested": self.tested,
            "axes": [asdict(axis) for axis in self.axes],
        }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        named = sum(axis.named for axis in self.axes)
        about = (
            f"{named} of {len(self)} axes have a name with a cosine of at least "
            f"{self.threshold:.3f}"
        )
        if self.tested:
            confirmed = sum(axis.confirmed is True for axis in self.axes)
            return f"{about}; {confirmed} are confirmed"
        return f"{about}; UNCONFIRMED: it is unknown which axes other rows confirm"


@renamed_parameter("name_axes", "recurring", "confirmed")
def name_axes(
    cedar: Any,
    text_embeddings: Any,
    words: Sequence[str],
    *,
    text_mean: Any = None,
    threshold: float | Literal["chance"] = "chance",
    confirmed: npt.ArrayLike | Literal["auto"] | None = "auto",
) -> AxisNames:
    r"""Name both ends of each axis by the word with the nearest direction.

    .. math::
        \text{score}_i^\pm = \max_w \cos(\pm a_i,\; t_w - \bar t)

    Parameters
    ----------
    cedar : CEDAR or other estimator with ``atoms_`` ``[axes, d]``
        A fitted model.
    text_embeddings : array, Tensor, memory map ``[m, d]``, or batches of them
        Embeddings :math:`t_w` of the words, in the space of the embeddings of the fit. They are
        read twice, in blocks.
    words : sequence of str ``[m]``
        The words. A word that appears several times (say, in several sentences) is still one word:
        margins are to the best *other* word. Upper and lower case count as the same word.
    text_mean : array ``[d]``, optional
        Vector :math:`\bar t` to subtract from each text embedding; by default their mean. The mean
        of the model would not do: where images and texts share a space, as in CLIP, they lie in two
        separate cones (Liang et al., "Mind the gap", arXiv 2203.02053). After subtracting the mean
        of the *images*, all words would keep the gap between the cones as a common part, which is
        larger than all differences between the words. The scores would then measure how an axis
        lies relative to the gap, and be the same for every word.
    threshold : float or "chance"
        Smallest score of a name. "chance" is the score that 99 % of random directions do not reach
        (see `chance_scores`); it depends on the number of words and on their spread.
    confirmed : "auto", None or array of bool ``[axes]``
        Which axes may have a name. "auto" names those that other rows confirm, as
        ``cedar.confirmation_`` says (see `Confirmation`). If there is none, all are named, marked
        as unconfirmed (``confirmed=None``), with a warning. None names all axes without a warning;
        the marks are as with "auto".

    Returns
    -------
    AxisNames
        The names, indexed by axis; print its ``table()``.

    Raises
    ------
    TypeError, ValueError
        If sizes disagree, there are fewer than two different words, or a value is not finite.

    Warns
    -----
    UnconfirmedNamesWarning
        If ``confirmed="auto"`` and the model has no confirmation.
    TooFewRowsWarning
        If ``confirmed="auto"`` and the model was fitted to fewer than 20 rows for each column.

    Notes
    -----
    The time is O(axes m d), in float64; memory does not grow with m. Of equal scores, the first
    word wins. A name is the nearest of the words on offer, and the axis may still be far from it:
    look at `top_examples` too.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar import CEDAR, name_axes
    >>> random = np.random.default_rng(0)
    >>> causes = random.standard_normal((2000, 3)) * (random.random((2000, 3)) < 0.3)
    >>> model = CEDAR(k=1, n_init=3, random_state=0).fit(causes)
    >>> texts = np.vstack([np.eye(3), -np.eye(3)])
    >>> words = ["warm", "loud", "big", "cold", "quiet", "small"]
    >>> names = name_axes(model, texts, words, threshold=0.5)
    >>> sorted(sorted([axis.positive.word, axis.negative.word]) for axis in names)
    [['big', 'small'], ['cold', 'warm'], ['loud', 'quiet']]
    """
    if hasattr(cedar, "fit"):
        check_is_fitted(cedar)
    atoms = float64("atoms_", cedar.atoms_)
    texts = _Texts(text_embeddings, text_mean, atoms.shape[1])
    spelled = _checked_words(words, texts.rows)
    same = _same_words(spelled)
    if isinstance(threshold, str):
        if threshold != "chance":
            raise ValueError(f"threshold must be a cosine or 'chance', got {threshold!r}")
        chance = np.quantile(_best_scores(texts, _random_axes(atoms.shape[1])), _CHANCE_LEVEL)
        # If all texts are equal, no cosine is above 0 and no word is nearer than another.
        least = max(float(chance), float(np.finfo(np.float64).tiny))
    else:
        least = number("threshold", threshold)
    known = _known(cedar, confirmed, len(atoms))
    positive, negative = _nearest(texts, unit_rows(atoms), same)
    axes = []
    for axis, (up, down, again) in enumerate(zip(positive, negative, known, strict=True)):
        ends = []
        for end in (up, down):
            named = end.score >= least and (confirmed is None or again is not False)
            ends.append(
                Name(spelled[end.word], end.score, end.score - end.second, spelled[end.other])
                if named
                else None
            )
        axes.append(AxisName(axis, ends[0], ends[1], up.score, down.score, again))
    return AxisNames(tuple(axes), least)


def chance_scores(
    text_embeddings: Any, *, text_mean: Any = None, axes: int = 256, random_state: int = 0
) -> Array:
    r"""Return the scores that names of *random* directions get.

    Only scores above these say anything. Among many words, one is always near: in d dimensions, the
    best of m words in all directions has a cosine of about :math:`\sqrt{2 \ln m / d}` with a
    direction that is unrelated to them.

    Parameters
    ----------
    text_embeddings : array, Tensor, memory map ``[m, d]``, or batches of them
        Embeddings of the words, as in `name_axes`.
    text_mean : array ``[d]``, optional
        Vector to subtract from each, as in `name_axes`.
    axes : int
        Number of random directions, which are rows of random rotations.
    random_state : int
        Seed of the directions.

    Returns
    -------
    ndarray ``[axes, 2]``
        Score of the best word for the positive and the negative end.
    """
    texts = _Texts(text_embeddings, text_mean, None)
    return _best_scores(texts, _random_axes(texts.rows.dim, whole("axes", axes), random_state))


# --- inside ---------------------------------------------------------------------------------------


class _Texts:
    """Centred text embeddings of unit length, in blocks."""

    def __init__(self, text_embeddings: Any, text_mean: Any, dim: int | None) -> None:
        self.rows = as_rows(
            text_embeddings, name="text_embeddings", device="cpu", dtype=torch.float64
        )
        if dim is not None and self.rows.dim != dim:
            raise ValueError(
                f"text_embeddings have {self.rows.dim} columns, but atoms have {dim}: words must "
                "be embedded into the space that the model was fitted in"
            )
        if text_mean is None:
            # Sums are about the first row, so that the large common part does not cause rounding.
            shift = next(self.rows.batches(1))[0].numpy().copy()
            total, count = np.zeros(self.rows.dim), 0
            for batch in self.rows.batches():
                total += (batch.numpy() - shift).sum(axis=0)
                count += len(batch)
            self.mean: Array = shift + total / count
        else:
            self.mean = float64("text_mean", text_mean, ndim=1)
            if len(self.mean) != self.rows.dim:
                raise ValueError(
                    f"text_mean has {len(self.mean)} numbers, but text_embeddings have "
                    f"{self.rows.dim} columns"
                )

    def cosines(self, directions: Array) -> Iterator[tuple[int, Array]]:
        """Yield for each block the number of its first word and the cosines [axes, b]."""
        start = 0
        for batch in self.rows.batches(max(1, _COSINES_AT_ONCE // len(directions))):
            yield start, np.clip(directions @ unit_rows(batch.numpy() - self.mean).T, -1, 1)
            start += len(batch)


@dataclass
class _Nearest:
    """The best word for a direction, and the best other word."""

    word: int
    score: float
    other: int
    second: float


def _nearest(
    texts: _Texts, directions: Array, same: npt.NDArray[np.int64]
) -> tuple[list[_Nearest], list[_Nearest]]:
    """Find the best words for directions and their negatives; ``same`` marks equal words."""
    axes = np.arange(len(directions))
    found: list[npt.NDArray[Any] | None] = [None, None]
    scores: list[npt.NDArray[Any] | None] = [None, None]
    count = 0
    for start, cosine in texts.cosines(directions):
        count = start + cosine.shape[1]
        if count > len(same):
            continue
        here = same[start:count]
        for end, values in enumerate((cosine, -cosine)):
            first = values.argmax(axis=1)
            top = values[axes, first]
            rest = np.where(here == here[first][:, None], -np.inf, values)
            second = rest.argmax(axis=1)
            words = np.stack([first, second], axis=1) + start
            values_here = np.stack([top, rest[axes, second]], axis=1)
            before, before_scores = found[end], scores[end]
            if before is not None and before_scores is not None:
                # Earlier blocks come first, so that of equal scores the first word wins.
                words = np.concatenate([before, words], axis=1)
                values_here = np.concatenate([before_scores, values_here], axis=1)
                best = values_here.argmax(axis=1)
                chosen = same[words[axes, best]]
                others = np.where(same[words] == chosen[:, None], -np.inf, values_here)
                both = np.stack([best, others.argmax(axis=1)], axis=1)
                runner = others[axes, both[:, 1]]
                values_here = np.stack([values_here[axes, best], runner], axis=1)
                words = np.take_along_axis(words, both, axis=1)
            found[end], scores[end] = words, values_here
    _check_count(count, len(same))
    both_ends = []
    for words_of, scores_of in zip(found, scores, strict=True):
        assert words_of is not None
        assert scores_of is not None
        both_ends.append(
            [
                _Nearest(int(w[0]), float(s[0]), int(w[1]), float(s[1]))
                for w, s in zip(words_of, scores_of, strict=True)
            ]
        )
    return both_ends[0], both_ends[1]


def _best_scores(texts: _Texts, directions: Array) -> Array:
    best = np.full((len(directions), 2), -np.inf)
    for _, cosine in texts.cosines(directions):
        block = np.stack([cosine.max(axis=1), -cosine.min(axis=1)], axis=1)
        best = np.maximum(best, block)
    return best


def _random_axes(dim: int, axes: int = _CHANCE_AXES, random_state: int = 0) -> Array:
    generator = torch.Generator().manual_seed(random_state)
    rotations = [random_rotation(dim, generator).numpy() for _ in range(-(-axes // dim))]
    chosen: Array = np.concatenate(rotations)[:axes]
    return chosen


def _known(cedar: Any, confirmed: npt.ArrayLike | str | None, axes: int) -> Sequence[bool | None]:
    """Return whether each axis is confirmed, or None for each where that is unknown."""
    if confirmed is None or isinstance(confirmed, str):
        if confirmed not in (None, "auto"):
            raise ValueError(f"confirmed must be 'auto', None or a mask, got {confirmed!r}")
        found = getattr(cedar, "confirmation_", None)
        if confirmed == "auto":
            rows = float(getattr(cedar, "n_samples_seen_", "inf"))
            warn_if_few(rows, len(cedar.atoms_[0]), stacklevel=5)
        if found is None:
            if confirmed == "auto":
                warnings.warn(
                    "names are unconfirmed: it is unknown which axes are properties of the data "
                    "and which are accidents of the rows or of the seed. Fit with n_init=3 or "
                    "more, or call cedar.confirm(X), to name only the axes that other rows "
                    "confirm, or pass confirmed=None to name all axes without this warning",
                    UnconfirmedNamesWarning,
                    stacklevel=4,
                )
            return [None] * axes
        mask = found.confirmed
    else:
        mask = np.asarray(confirmed)
        if mask.dtype != np.bool_ or mask.shape != (axes,):
            raise ValueError(
                f"confirmed must be a mask of bool [{axes}], one for each axis, got {mask.dtype} "
                f"{list(mask.shape)}: for instance cedar.confirm(X).confirmed"
            )
    return [bool(one) for one in mask]


def _checked_words(words: Sequence[str], rows: Rows) -> list[str]:
    if isinstance(words, (str, bytes)):
        raise TypeError(f"words must be a sequence of words, got the single word {words!r}")
    spelled = list(words)
    for place, word in enumerate(spelled):
        if not isinstance(word, str):
            raise TypeError(f"words must be strings, got {word!r} at {place}")
    if rows.count is not None:
        _check_count(rows.count, len(spelled))
    return [str(word) for word in spelled]


def _check_count(rows: int, words: int) -> None:
    if rows != words:
        raise ValueError(
            "words and text_embeddings must have the same length, got "
            f"{words} words and {rows} rows"
        )


def _same_words(words: list[str]) -> npt.NDArray[np.int64]:
    """Return numbers [m] that are equal for equal words."""
    numbers: dict[str, int] = {}
    found = np.array(
        [numbers.setdefault(word.strip().casefold(), len(numbers)) for word in words], np.int64
    )
    if len(numbers) < 2:
        raise ValueError(
            f"words has {len(numbers)} different word(s), but a name is the best of several: pass "
            "2 or more"
        )
    return found


def _cells(name: Name | None) -> tuple[str, str, str]:
    if name is None:
        return "-", "", ""
    word = " ".join(name.word.split())
    short = word if len(word) <= 32 else word[:31] + "…"
    return short, f"{name.score:.3f}", f"{name.margin:.3f}"
