"""Reading JSON that anybody may have written: a ValueError for whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The largest JSON file that is read; ours are a thousand times smaller.
MOST_BYTES = 2**28


def read_text(path: Path, most: int) -> str:
    """Read a text file of at most so many bytes.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is longer, or not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes, the most that is read of such a file")
    return content.decode("utf-8")


def parse_json(text: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Parse JSON; ``parse_constant`` as in `json.loads`.

    Raises
    ------
    ValueError
        If it is not JSON, or its lists and objects are nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None


def read_json(path: Path) -> Any:
    """Read a JSON file; errors as in `read_text` and `parse_json`."""
    return parse_json(read_text(path, MOST_BYTES))
