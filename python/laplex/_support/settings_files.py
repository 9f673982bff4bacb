"""Settings in YAML files: read and checked by the types and bounds of their fields, and written.

The settings are a frozen dataclass whose fields are made by `laplex._support.options.setting`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .json_files import read_text
from .optional import require

#: More than any settings file has.
MOST_BYTES = 2**20

S = TypeVar("S")


def changed(settings: S, values: Mapping[Any, Any], where: str) -> S:
    """Replace some values of settings, as read from YAML, after checking them.

    Raises
    ------
    ValueError
        If a key does not exist (the message suggests the nearest one), or a value is invalid. The
        message begins with `where`.
    """
    known = {one.name: one.metadata for one in fields(settings)}  # type: ignore[arg-type]
    types = get_type_hints(type(settings))
    checked = {}
    for key, given in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise ValueError(f"{where}: there is no key {str(key)!r}: {hint}")
        try:
            value = _converted(types[key], given, known[key])
        except (TypeError, ValueError):
            fits = _described(types[key], known[key])
            raise ValueError(f"{where}: {key} must be {fits}, got {given!r}") from None
        check = known[key]["check"]
        checked[key] = check(value) if check and value is not None else value
    return replace(settings, **checked)  # type: ignore[type-var]


def read_yaml(path: Path, defaults: S) -> S:
    """Read settings from a file; missing keys get their defaults.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read or is not valid YAML, or as in `changed`.
    """
    yaml = require("yaml", extra="exits", feature="a settings file")
    if not path.is_file():
        there = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise FileNotFoundError(f"{there}: pass an existing settings file")
    try:
        text = read_text(path, MOST_BYTES)
        # A few lines of aliases can stand for more values than fit into memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it has aliases (*): write the values out")
        values = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises as many kinds as there are ways to be wrong
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping | None):
        raise ValueError(f"{path} must hold keys with values, such as `epochs: 10`")
    return changed(defaults, values or {}, str(path))  # nothing but comments is None


def to_yaml(settings: Any, title: str) -> str:
    """Format all settings as YAML, with a comment about each; `read_yaml` reads the result."""
    yaml = require("yaml", extra="exits", feature="a settings file")
    lines = [f"# {title}"]
    for one in fields(settings):
        value, known = getattr(settings, one.name), one.metadata
        value = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1e9)
        text = text.removesuffix("...\n").rstrip()  # the end mark after a scalar
        words = f"One of {', '.join(known['choices'])}." if known["choices"] else ""
        null = f"null: {known['unset']}." if known["unset"] else ""
        about = " ".join(filter(None, (known["about"], words, known["in_file"], null)))
        lines.append(f"\n# {about}\n{one.name}: {text}")
    return "\n".join(lines) + "\n"


def _converted(kind: Any, value: Any, known: Mapping[str, Any]) -> Any:
    """A value from YAML in the type of its field; TypeError or ValueError if it does not fit."""
    kinds, origin = get_args(kind), get_origin(kind)
    if kind is Any or (value is None and NoneType in kinds):
        return value
    if origin is UnionType:
        plain = str in kinds and isinstance(value, str)
        kind = str if plain else next(one for one in reversed(kinds) if one is not NoneType)
        return _converted(kind, value, known)
    if origin is dict:
        if not isinstance(value, Mapping) or not set(value) <= set(known.get("keys", value)):
            raise TypeError
        return {_converted(str, k, {}): _converted(kinds[1], v, known) for k, v in value.items()}
    if origin is tuple:
        listed = value.split(",") if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not listed:
            raise TypeError
        if kinds[0] is str:  # modules of a Sequential have names such as 0, which YAML reads as int
            listed = [str(one).strip() for one in listed]
        return tuple(_converted(kinds[0], one, {**known, "choices": ()}) for one in listed)
    if isinstance(value, bool) != (kind is bool):
        raise TypeError
    if kind is float:  # YAML 1.1 reads 1e-3 as a text, because it has no decimal point
        value = float(value)
    if not isinstance(value, kind) or value == "":
        raise TypeError
    if (words := tuple(known.get("choices", ()))) and value not in words:
        raise ValueError
    least, most = known.get("min"), known.get("max")
    if kind in (int, float) and not (
        (-1e300 if least is None else least) <= value <= (1e300 if most is None else most)
    ):
        raise ValueError  # NaN and infinities are not between bounds, either
    return value


def _described(kind: Any, known: Mapping[str, Any]) -> str:
    """What fits a key, for messages."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    names |= {tuple: "a list", dict: "a mapping"}
    if known["choices"]:
        names[str] = f"one of {', '.join(known['choices'])}"
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    text = " or ".join(names[get_origin(one) or one] for one in kinds if one is not NoneType)
    if known.get("keys"):
        text += f" with the keys {', '.join(known['keys'])}"
    if known["max"] is not None:
        return f"{text} from {known['min']} to {known['max']}"
    return text if known["min"] is None else f"{text} of at least {known['min']}"
