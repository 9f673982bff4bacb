"""Arrays and results as what JSON holds: NaN as null, infinities as "inf" and "-inf"."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._support.complete_files import replacing
from .arrays import Array


def plain(value: Any) -> Any:
    """Arrays, dataclasses, tuples and mappings as lists, dicts, numbers and strings."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return None
        return number if math.isfinite(number) else ("inf" if number > 0 else "-inf")
    if isinstance(value, np.integer):
        return int(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def numbers(value: Any) -> Array:
    """The float64 array that `plain` made lists of."""

    def read(one: Any) -> Any:
        if isinstance(one, list):
            return [read(inner) for inner in one]
        return math.nan if one is None else float(one)

    return np.asarray(read(value), dtype=np.float64)


def number(value: Any) -> float:
    """The float that `plain` wrote."""
    return float(numbers(value))


def as_json(values: dict[str, Any], path: str | Path | None) -> str:
    """The text of `values`; also written to `path`, whole or not at all."""
    text = json.dumps(values, indent=1, allow_nan=False)
    if path is not None:
        with replacing(Path(path)) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return text


def from_json(source: str | Path) -> Any:
    """What the JSON text, or the file, holds.

    Raises
    ------
    ValueError
        It is no JSON.
    OSError
        There is no such file.
    """
    text = str(source)
    if isinstance(source, Path) or not text.lstrip().startswith(("{", "[")):
        text = Path(source).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"that is no JSON ({error}): pass what to_json returned or wrote"
        ) from None
