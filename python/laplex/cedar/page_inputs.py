"""What the pages on a model take beside it: names of the axes, and texts and pictures of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .estimator import CEDAR
from .naming import AxisNames, name_axes
from .thumbnails import thumbnail


class RowExamples:
    """Texts and pictures of the rows, checked.

    Parameters
    ----------
    items : sequence of str ``[n]``, optional
        Texts of the rows.
    thumbnails : sequence ``[n]``, optional
        Pictures of the rows, as `thumbnail` reads them.
    longest : int
        Number of characters after which a text is cut off.
    count : int, optional
        Number of rows, if it is known yet.

    Raises
    ------
    ImportError, ValueError
        If the numbers differ, or the first picture cannot be read; the others are read when they
        are shown.
    """

    def __init__(
        self,
        items: Sequence[str | None] | None,
        thumbnails: Sequence[Any] | None,
        longest: int,
        count: int | None,
    ) -> None:
        self.items, self.thumbnails, self._longest = items, thumbnails, longest
        if count is not None:
            self.check_count(count)
        if thumbnails is not None and len(thumbnails):
            thumbnail(thumbnails[0], 0)

    def check_count(self, count: int) -> None:
        """Raise ValueError unless there are as many texts and pictures as rows."""
        for what, examples in (("items", self.items), ("thumbnails", self.thumbnails)):
            if examples is not None and len(examples) != count:
                raise ValueError(
                    f"{what} and embeddings must have the same length, got {len(examples)} and "
                    f"{count} rows"
                )

    def text(self, row: int) -> str | None:
        """Return the text of a row on one line; None if it has none."""
        text = None if self.items is None else self.items[row]
        if text is None:
            return None
        line = " ".join(str(text).split())
        return line if len(line) <= self._longest else line[: self._longest - 1] + "…"

    def picture(self, row: int, side: int = 112) -> tuple[str, bool] | None:
        """Return the thumbnail of a row; None without pictures."""
        return None if self.thumbnails is None else thumbnail(self.thumbnails[row], row, side)


def check_names(
    names: AxisNames | None, words: Sequence[str] | None, text_embeddings: Any, axes: int
) -> None:
    """Raise ValueError if names, or what they are found from, do not belong together."""
    if names is not None and (words is not None or text_embeddings is not None):
        raise ValueError("pass names, or words and text_embeddings to find them, not both")
    if (words is None) != (text_embeddings is None):
        raise ValueError("words and text_embeddings go together: pass both or neither")
    if names is not None and len(names) != axes:
        raise ValueError(f"names describe {len(names)} axes, but the model has {axes}")


def found_names(
    cedar: CEDAR, names: AxisNames | None, words: Sequence[str] | None, text_embeddings: Any
) -> AxisNames | None:
    """Return the names, found from words if they are not given; None without either."""
    return names if words is None else name_axes(cedar, text_embeddings, words)


def known_axes(cedar: CEDAR, names: AxisNames | None) -> list[bool | None]:
    """Return whether each axis is confirmed; None where that is unknown.

    A mask that the caller passed for the names takes precedence over that of the model.
    """
    mask = cedar.confirmed_
    known: list[bool | None] = [None] * cedar.fitted_.axes
    if mask is not None:
        known = [bool(one) for one in mask]
    if names is None:
        return known
    return [
        own.confirmed if own.confirmed is not None else other
        for own, other in zip(names, known, strict=True)
    ]
