"""Results: dataclasses that print as a table, and are written to JSON and read from it.

In JSON, NaN is null and infinities are "inf" and "-inf", for which it has no numbers.
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

AnyResult = TypeVar("AnyResult", bound="Result")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was measured, in the fields of a dataclass; printing it prints its table."""

    #: The name of the class in files; None where they do not hold it.
    _kind: ClassVar[str | None] = None
    #: What files hold beside the fields: attributes, and methods without arguments.
    _derived: ClassVar[tuple[str, ...]] = ()
    #: All that files hold, where another order than fields and `_derived` is to be kept.
    _written: ClassVar[tuple[str, ...]] = ()
    #: Whether files tell infinities from NaN.
    _infinities: ClassVar[bool] = True

    def table(self) -> str:
        """One aligned text."""
        raise NotImplementedError

    def _summary(self) -> str:
        """What `repr` says, unless the class has a ``__repr__`` of its own."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()}; print it for the table)"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickle, of a version with fewer fields too."""
        for one in fields(self):
            if one.default is not MISSING:
                state.setdefault(one.name, one.default)
            elif one.default_factory is not MISSING:
                state.setdefault(one.name, one.default_factory())
        vars(self).update(state)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, lists and strings, for JSON: NaN as None; `from_dict` reads it."""
        found = {} if self._kind is None else {"kind": self._kind}
        for name in self._written or [*(one.name for one in fields(self)), *self._derived]:
            value = getattr(self, name)
            found[name] = to_plain(value() if callable(value) else value, self._infinities)
        return found

    @classmethod
    def from_dict(cls: type[AnyResult], values: Mapping[str, Any]) -> AnyResult:
        """The result that `to_dict` wrote.

        Raises
        ------
        ValueError
            `values` come from elsewhere, or disagree.
        """
        try:
            if cls._kind is not None and values["kind"] != cls._kind:
                raise ValueError(f"they are a {values['kind']}")
            found: AnyResult = _from_fields(cls, values)
            found._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"values are not those of {cls.__name__}.to_dict ({error!r}): pass what it returned"
            ) from error
        return found

    def _check(self) -> None:
        """Raise ValueError where fields that were read do not go together."""

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON; also written to `path` where one is given, whole or not at all.

        Raises
        ------
        OSError
            It can't be written there.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            with replacing(Path(path)) as part:
                part.write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls: type[AnyResult], source: str | Path) -> AnyResult:
        """The result of a text or file that `to_json` wrote.

        Raises
        ------
        ValueError
            It holds something else.
        OSError
            There is no such file.
        """
        text = str(source)
        if isinstance(source, Path) or not text.lstrip().startswith(("{", "[")):
            text = Path(source).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"that is no JSON ({error}): pass what to_json returned or wrote"
            ) from None
        return cls.from_dict(values)


def to_plain(value: Any, infinities: bool = True) -> Any:
    """Results, dataclasses, arrays, tuples and mappings as dicts, lists, numbers and strings.

    NaN becomes None, and so do infinities unless they are to be told apart.
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
    """What `to_plain` made plain.

    Parameters
    ----------
    kind : type
        A dataclass, an array, a number, str, Literal, None, or a tuple, list, dict or union of
        these.
    value
        What JSON holds.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        It is something else.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        (other,) = (one for one in inner if one is not NoneType)
        return None if value is None else from_plain(other, value)
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
    return kind(**{one.name: from_plain(types[one.name], values[one.name]) for one in fields(kind)})


def _float(value: Any) -> Any:
    if isinstance(value, list):
        return [_float(one) for one in value]
    return math.nan if value is None else float(value)
