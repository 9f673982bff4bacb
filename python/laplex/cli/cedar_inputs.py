"""The inputs of the commands of ``laplex cedar``: a model, embeddings, and what describes both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplex._support.command_errors import caution
from laplex._support.complete_files import check_writable

from ..cedar.files import check_model, find_files, list_pictures, read_lines

if TYPE_CHECKING:
    from ..cedar.estimator import CEDAR
    from ..cedar.naming import AxisNames
    from ..cedar.rows import Rows


class DescribedModel:
    """A model, embeddings, and files that describe both; checked before anything slow."""

    def __init__(
        self,
        model: Path,
        embeddings: list[Path],
        words: Path | None,
        text_embeddings: Path | None,
        items: Path | None,
        images: Path | None,
        out: Path,
    ) -> None:
        if (words is None) != (text_embeddings is None):
            raise ValueError("--words and --text-embeddings go together: pass both or neither")
        check_model(model)
        self._model, self._files = model, find_files(embeddings)
        if text_embeddings is not None:
            find_files(text_embeddings)
        self._words, self._text_embeddings = words, text_embeddings
        self._listed = None if words is None else read_lines(words)
        self._paths = {"--items": items, "--images": images}
        self._items = None if items is None else read_lines(items)
        self._pictures = None if images is None else list_pictures(images)
        check_writable(out)

    @contextmanager
    def opened(self, key: str | None) -> Iterator[dict[str, Any]]:
        """Read the model and the embeddings, and yield them as arguments of Python's functions."""
        cedar = load_model(self._model)
        rows = open_rows(self._files, key, "embeddings")
        for what, found in (("--items", self._items), ("--images", self._pictures)):
            if found is not None and rows.count not in (None, len(found)):
                raise ValueError(
                    f"{what} {self._paths[what]} has {len(found)} entries, but "
                    f"{label(self._files)} has {rows.count} rows: there must be one for each row, "
                    "in the same order"
                )
        names = None
        if self._words and self._listed is not None and self._text_embeddings:
            names = find_names(cedar, self._words, self._listed, self._text_embeddings)
        with messages_about(label(self._files)):
            yield {
                "cedar": cedar,
                "embeddings": rows,
                "names": names,
                "items": self._items,
                "thumbnails": self._pictures,
            }


def open_rows(files: list[Path], key: str | None, name: str = "X") -> Rows:
    """Open files of embeddings; ``name`` is for messages."""
    from ..cedar.rows import Embeddings, as_rows

    return as_rows(Embeddings(files, key), name=name)


def label(files: list[Path]) -> str:
    """Name files of embeddings in a message."""
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


@contextmanager
def messages_about(path: str) -> Iterator[None]:
    """Put the name of a file in front of messages about its contents."""
    try:
        yield
    except ValueError as error:
        if re.search(r"\b(X|embeddings|text_embeddings)\b", str(error)) is None:
            raise
        raise ValueError(f"{path}: {error}") from error


def load_model(folder: Path) -> CEDAR:
    """Load a model; torch is imported here and not before."""
    from ..cedar.estimator import CEDAR

    return CEDAR.load(folder)


def find_names(
    cedar: CEDAR,
    words: Path,
    listed: list[str],
    text_embeddings: Path,
    *,
    key: str | None = None,
    threshold: float | None = None,
    all_axes: bool = False,
) -> AxisNames:
    """Name the axes by words, with a caution if it is unknown which are confirmed."""
    from ..cedar.confirmation import MIN_STARTS
    from ..cedar.naming import name_axes

    texts = open_rows([text_embeddings], key, "text_embeddings")
    _check_words(listed, words, texts, text_embeddings)
    unknown = cedar.confirmation_ is None
    if unknown and not all_axes:
        caution(
            "names are unconfirmed: it is unknown which axes other rows confirm; fit with "
            f"--n-init {MIN_STARTS} or more"
        )
    with messages_about(str(text_embeddings)):
        return name_axes(
            cedar,
            texts,
            listed,
            threshold="chance" if threshold is None else threshold,
            # The caution above takes the place of the warning.
            confirmed=None if unknown or all_axes else "auto",
        )


def _check_words(words: list[str], path: Path, texts: Rows, texts_path: Path) -> None:
    if texts.count not in (None, len(words)):
        raise ValueError(
            f"--words {path} has {len(words)} lines, but --text-embeddings {texts_path} has "
            f"{texts.count} rows: there must be one for each word, in the same order"
        )
