"""Results: dataclasses that print as a table and can be written to and read from JSON.

JSON has no numbers for NaN and infinities; they become null, "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from .complete_files import replacing
from .json_files import MOST_BYTES, parse_json, read_text

AnyResult = TypeVar("AnyResult", bound="Result")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A result in the fields of a dataclass; printing it prints its table."""

    #: The name of the class in files, or None if files do not hold it.
    _kind: ClassVar[str | None] = None
    #: What files hold besides the fields: attributes, and methods without arguments.
    _derived: ClassVar[tuple[str, ...]] = ()
    #: Everything that files hold, if the order is not that of the fields and ``_derived``.
    _written: ClassVar[tuple[str, ...]] = ()
    #: Whether files distinguish infinities from NaN.
    _infinities: ClassVar[bool] = True

    def table(self) -> str:
        """Return the result as an aligned table."""
        raise NotImplementedError

    def _summary(self) -> str:
        """Return the text of ``repr``, unless the class has its own ``__repr__``."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()}; print it for the table)"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle, even of a version with fewer fields."""
        for one in fields(self):
            if one.default is not MISSING:
                state.setdefault(one.name, one.default)
            elif one.default_factory is not MISSING:
                state.setdefault(one.name, one.default_factory())
        vars(self).update(state)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings for JSON, with None for NaN; see `from_dict`."""
        found = {} if self._kind is None else {"kind": self._kind}
        for name in self._written or [*(one.name for one in fields(self)), *self._derived]:
            value = getattr(self, name)
            found[name] = to_plain(value() if callable(value) else value, self._infinities)
        return found

    @classmethod
    def from_dict(cls: type[AnyResult], values: Mapping[str, Any]) -> AnyResult:
        """Make a result from the output of `to_dict`.

        Parameters
        ----------
        values : mapping
            What `to_dict` returned.

        Returns
        -------
        object of this class
            A result with the same contents.

        Raises
        ------
        ValueError
            If ``values`` are not such an output, or are inconsistent.
        """
        try:
            if cls._kind is not None and values["kind"] != cls._kind:
                raise ValueError(f"their kind is {values['kind']!r}")
            found: AnyResult = _from_fields(cls, values)
            found._check()
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"values are not those of {cls.__name__}.to_dict ({why}): pass what it returned"
            ) from error
        return found

    def _check(self) -> None:
        """Raise a ValueError if the fields that were read are inconsistent."""

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON, and write it to ``path`` if one is given.

        The file is written completely or not at all.

        Parameters
        ----------
        path : str or Path, optional
            File to write. By default, none is written.

        Returns
        -------
        str
            The result as JSON.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            with replacing(Path(path)) as part:
                part.write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls: type[AnyResult], source: str | Path) -> AnyResult:
        """Make a result from a string or file that `to_json` wrote.

        Parameters
        ----------
        source : str or Path
            JSON that starts with ``{`` or ``[``, or the path of a file.

        Returns
        -------
        object of this class
            A result with the same contents.

        Raises
        ------
        ValueError
            If the contents are something else.
        OSError
            If the file does not exist.
        """
        text = str(source)
        if isinstance(source, Path) or not text.lstrip().startswith(("{", "[")):
            text = read_text(Path(source), MOST_BYTES)
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(
                f"source is not JSON ({error}): pass what to_json returned or wrote"
            ) from None
        return cls.from_dict(values)


def to_plain(value: Any, infinities: bool = True) -> Any:
    """Convert results, dataclasses, arrays and mappings to dicts, lists, numbers and strings.

    NaN becomes None, and so do infinities unless ``infinities`` is set.
    """
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): to_plain(one, infinities) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(one, infinities) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if infinities and math.isinf(value) else None
    return value


def from_plain(kind: Any, value: Any) -> Any:
    """Convert the output of `to_plain` back.

    Parameters
    ----------
    kind : type
        A dataclass, an array, a number, str, Literal, None, or a tuple, list, dict or union of
        these.
    value
        The value from JSON.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If the value does not have this type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        if value is None:
            return None
        others = [one for one in inner if one is not NoneType]
        if len(others) > 1:  # a dict or a plain value
            others = [one for one in others if isinstance(value, dict) == (get_origin(one) is dict)]
        return from_plain(others[0], value)
    if origin is np.ndarray:
        (dtype,) = get_args(inner[1])
        return np.asarray(_float(value) if issubclass(dtype, np.floating) else value, dtype)
    if origin is dict:
        return {str(key): from_plain(inner[1], one) for key, one in value.items()}
    if origin in (tuple, list):
        return origin(from_plain(inner[0], one) for one in value)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{value!r} is none of {inner}")
        return value
    if kind is float:
        return _float(value)
    if issubclass(kind, Result):
        return kind.from_dict(value)
    return _from_fields(kind, value) if is_dataclass(kind) else kind(value)


def _from_fields(kind: Any, values: Mapping[str, Any]) -> Any:
    types = get_type_hints(kind)
    names = [
        one.name
        for one in fields(kind)  # files of earlier versions lack some that have a default
        if one.name in values or (one.default is MISSING and one.default_factory is MISSING)
    ]
    return kind(**{name: from_plain(types[name], values[name]) for name in names})


def _float(value: Any) -> Any:
    if isinstance(value, list):
        return [_float(one) for one in value]
    return math.nan if value is None else float(value)
