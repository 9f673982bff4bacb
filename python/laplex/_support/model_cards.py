"""Model cards: the ``README.md`` of a saved model, with the metadata that the hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .optional import require

CARD = "README.md"
#: What tells a card of ours from one that somebody wrote or changed.
_OURS = "<!-- Laplex wrote this card. Delete this line, and it will not be replaced. -->"


#: Metadata that is a text, and metadata that may also be several.
_TEXT = {"library_name", "license", "license_link", "license_name", "model_name", "pipeline_tag"}
_TEXTS = {"base_model", "datasets", "language", "metrics", "tags"}


@dataclass(frozen=True)
class Card:
    """What a class says of a model in its card.

    Attributes
    ----------
    title : str
        The heading.
    about : str
        What the model is, in Markdown.
    facts : sequence of (str, str)
        Names and values of what can be told of it.
    load : str
        Python code that loads and uses the model, with ``{name}`` where the quoted name of its
        repository belongs.
    limits : sequence of str
        What it is not good for.
    tags, pipeline_tag, evaluations
        Metadata: tags, the hub's name of the task, and numbers as (metric, value).
    """

    title: str
    about: str
    facts: Sequence[tuple[str, str]]
    load: str
    limits: Sequence[str]
    tags: Sequence[str] = ()
    pipeline_tag: str | None = None
    evaluations: Sequence[tuple[str, float]] = field(default=())


def card_text(
    card: Card, name: str, results: Sequence[Any], metadata: Mapping[str, Any] | None
) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    card
        What the class says of the model.
    name
        The repository or the folder.
    results
        Results with a method ``table()``, which are shown.
    metadata
        Metadata that is added to that of the class, or replaces it.

    Raises
    ------
    TypeError, ValueError
        If a result has no table, or the metadata cannot be written.
    """
    library = require("huggingface_hub", "hub", feature="a model card")
    given = _checked_metadata(metadata)
    title = given.pop("model_name", name.rpartition("/")[2])
    known = {"library_name": "laplex", "tags": ["laplex", *card.tags]}
    if card.pipeline_tag is not None:
        known["pipeline_tag"] = card.pipeline_tag
    known["tags"] = [*known["tags"], *given.pop("tags", ())]
    if card.evaluations and given.get("datasets"):  # the hub shows no number without its data
        data = given["datasets"][0]
        task = {**known, **given}.get("pipeline_tag", "other")
        known["eval_results"] = [
            library.EvalResult(task, data, data, metric, value)
            for metric, value in card.evaluations
        ]
        known["model_name"] = title
    header = library.ModelCardData(**{**known, **given}).to_yaml()
    facts = [f"| {_cell(one)} | {_cell(value)} |" for one, value in card.facts]
    parts = [
        f"---\n{header.strip()}\n---\n{_OURS}",
        f"# {card.title}",
        card.about,
        "\n".join(["| | |", "|---|---|", *facts]),
        "## Use it",
        _fenced(card.load.format(name=json.dumps(name)), "python"),
    ]
    if results:
        parts += ["## Results", *(_fenced(_table(one)) for one in results)]
    parts += ["## Limitations", "\n".join(f"* {one}" for one in card.limits)]
    return "\n\n".join(parts) + "\n"


def is_ours(path: Path) -> bool:
    """Whether a card may be replaced: there is none, or it is one of ours."""
    return not path.exists() or _OURS in path.read_text(encoding="utf-8", errors="replace")


def _checked_metadata(metadata: Any) -> dict[str, Any]:
    """Return metadata without empty entries; what may be one text or several becomes a list."""
    if not isinstance(metadata, (Mapping, type(None))):
        raise TypeError(
            f"metadata must be a mapping such as {{'license': 'mit'}}, got a "
            f"{type(metadata).__name__}"
        )
    given = {key: value for key, value in (metadata or {}).items() if value is not None}
    for key in given:
        if not isinstance(key, str):
            raise TypeError(f"the keys of metadata must be texts, got {key!r}")
    try:
        json.dumps(given)
    except (TypeError, ValueError) as error:  # PyYAML would write any object
        raise ValueError(
            f"metadata must hold texts, numbers, lists and mappings of them: {error}"
        ) from error
    for key in _TEXTS & given.keys():
        texts = [given[key]] if isinstance(given[key], str) else given[key]
        if not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) for one in texts):
            raise TypeError(f"metadata[{key!r}] must be a text or a list of texts, got {texts!r}")
        given[key] = list(texts)
    for key in _TEXT & given.keys():
        if not isinstance(given[key], str):
            raise TypeError(f"metadata[{key!r}] must be a text, got {given[key]!r}")
    return given


def _table(result: Any) -> str:
    if not callable(getattr(result, "table", None)):
        raise TypeError(
            f"results must hold results of Laplex, which have a method table(), got a "
            f"{type(result).__name__}"
        )
    return str(result.table())


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _fenced(text: str, language: str = "") -> str:
    """A block of code, whose fence is longer than any in the text."""
    longest = max((len(one) for one in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
