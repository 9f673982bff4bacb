"""Embeddings in tables: as columns of numbers, or as one column of lists of equal length.

Tables are those of pyarrow, pandas, polars and Hugging Face datasets; parquet files are read as
tables of pyarrow.
"""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from laplex._support.optional import require

from .masks import unmasked

Array = npt.NDArray[Any]

#: The index of a filtered frame, which pandas writes as a column of its own.
_INDEX = re.compile(r"__index_level_\d+__")
#: Number of rows of a stream of Hugging Face that come together.
_STREAMED_ROWS = 1024


def package_of(value: object) -> str:
    """Return the name of the package that a value's type comes from, which is not imported."""
    return type(value).__module__.partition(".")[0]


def one_of(what: str, kind: str, names: list[str], key: object) -> str:
    """Return the key, or the only name there is.

    Raises
    ------
    ValueError
        If there is no such name, or several and no key; the message lists them.
    """
    listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    plural = kind.replace(" of ", "s of ", 1) if " of " in kind else f"{kind}s"
    if key is not None:
        if key not in names:
            there = f"it has {listed}" if names else "it has none at all"
            raise ValueError(f"{what} has no {kind} {key!r} ({there}): change the key")
        return str(key)
    if len(names) != 1:
        more = "; choose one by its key: Embeddings(..., key=NAME), or --key NAME" if names else ""
        raise ValueError(f"{what} has {len(names)} {plural}: {listed or 'none'}{more}")
    return names[0]


def in_table(source: Any, key: Any, name: str) -> tuple[Any, Any]:
    """Return the embeddings in a table, as something with rows, and the key that is left.

    Returns
    -------
    source, key
        As they were if the source is no table, or one whose columns scikit-learn reads. A stream of
        Hugging Face becomes a function that returns batches of pyarrow.

    Raises
    ------
    ImportError
        If pyarrow is missing, which reads lists in polars.
    ValueError
        If there are no such columns, or values are missing in them.
    """
    package = package_of(source)
    if package == "datasets":
        return _in_datasets(source, key, name)
    if package == "pyarrow" and hasattr(source, "schema"):
        return matrix(source, columns_of(source.schema, key, name), name), None
    if package == "polars" and hasattr(source, "to_frame"):  # a series
        source, key = source.to_frame(), source.name
    if package == "polars" and hasattr(source, "to_arrow"):
        nested = any(type(kind).__name__ in ("List", "Array") for kind in source.dtypes)
        if key is not None or nested:
            require("pyarrow", extra="parquet", feature="reading lists in polars")
            table = source.to_arrow()
            return matrix(table, columns_of(table.schema, key, name), name), None
        _check_numbers(source, name)
    if package == "pandas":
        return _in_pandas(source, key, name)
    return source, key


def _in_datasets(source: Any, key: Any, name: str) -> tuple[Any, Any]:
    if hasattr(source, "column_name"):  # dataset["emb"]
        source, key = source.source, source.column_name
    if not hasattr(source, "with_format"):
        return source, key
    if hasattr(source, "num_rows") and source.format["type"] != "custom":
        return DatasetRows(source, key, name), None
    if hasattr(source, "num_rows"):  # rows are what a function of the user makes of them
        return partial(source.iter, _STREAMED_ROWS), key
    return partial(source.with_format("arrow").iter, _STREAMED_ROWS), key


class DatasetRows:
    """The rows of a column of a Hugging Face dataset, read in slices in their own precision."""

    def __init__(self, dataset: Any, key: str | None, name: str) -> None:
        schema = dataset.features.arrow_schema
        self._chosen = columns_of(schema, key, name)
        columns = [self._chosen] if isinstance(self._chosen, str) else self._chosen
        self.columns = None if isinstance(self._chosen, str) else self._chosen
        self._table = dataset.with_format("arrow", columns=columns)
        self._name = name
        first = self[:1]
        self.shape, self.dtype = (len(dataset), first.shape[1]), first.dtype

    def __getitem__(self, rows: slice) -> Array:
        return matrix(self._table[rows], self._chosen, self._name)


def columns_of(schema: Any, key: str | None, what: str) -> str | list[str]:
    """Return the name of a column of lists in a schema of pyarrow, or of all columns of numbers.

    Warns
    -----
    UserWarning
        If columns are left out, or there are integers among columns of floats.
    """
    types = require("pyarrow", extra="parquet").types
    kinds = {field.name: field.type for field in schema}
    lists = [name for name, kind in kinds.items() if _is_list(types, kind)]
    if key is not None or lists:
        return one_of(what, "column of lists", lists, key)
    numbers = [
        name
        for name, kind in kinds.items()
        if (types.is_floating(kind) or types.is_integer(kind)) and not _INDEX.fullmatch(name)
    ]
    if not numbers:
        raise ValueError(f"{what} has no columns of numbers and none of lists of numbers")
    whole = [name for name in numbers if types.is_integer(kinds[name])]
    if len(whole) < len(numbers):
        _warn_of_integers(whole, what)
    left = [name for name in kinds if name not in numbers]
    if left:
        warnings.warn(
            f"{what}: columns that do not hold numbers are left out ({', '.join(left[:5])})",
            UserWarning,
            stacklevel=2,
        )
    return numbers


def names_in(source: Any) -> list[str] | None:
    """Return the names of the columns of a table, those of numbers if it is one of pyarrow."""
    package = package_of(source)
    if package == "pyarrow" and hasattr(source, "schema"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table itself gives them
            chosen = columns_of(source.schema, None, "X") if _has_numbers(source.schema) else ""
        return None if isinstance(chosen, str) else chosen
    if package in ("pandas", "polars") and hasattr(source, "columns"):
        names = list(source.columns)
        return names if all(isinstance(name, str) for name in names) else None
    return None


def _has_numbers(schema: Any) -> bool:
    """Whether a schema of pyarrow has columns of numbers and none of lists."""
    types = require("pyarrow", extra="parquet").types
    kinds = [field.type for field in schema]
    numbers = any(types.is_floating(kind) or types.is_integer(kind) for kind in kinds)
    return numbers and not any(_is_list(types, kind) for kind in kinds)


def _warn_of_integers(whole: list[str], what: str) -> None:
    if whole:
        warnings.warn(
            f"{what}: columns of integers among columns of floats are taken as parts of the "
            f"embeddings ({', '.join(whole[:5])}). Remove them if they are labels or row "
            "numbers",
            UserWarning,
            stacklevel=3,
        )


def matrix(table: Any, chosen: str | list[str], what: str) -> Array:
    """Return the chosen columns of a table or batch of pyarrow as an array [n, d]."""
    compute = require("pyarrow.compute", extra="parquet")
    names = [chosen] if isinstance(chosen, str) else chosen
    columns = [table.column(table.schema.get_field_index(name)) for name in names]
    columns = [one.combine_chunks() if hasattr(one, "combine_chunks") else one for one in columns]
    values = [column.flatten() for column in columns] if isinstance(chosen, str) else columns
    for name, column, value in zip(names, columns, values, strict=True):
        if column.null_count or value.null_count:
            raise ValueError(f"{what} has missing values in {name!r}: remove such rows")
    if not isinstance(chosen, str):
        return np.column_stack([value.to_numpy(zero_copy_only=False) for value in values])
    lengths = compute.min_max(compute.list_value_length(columns[0])).as_py()
    if lengths["min"] != lengths["max"]:
        raise ValueError(_unequal(what, chosen, lengths["min"], lengths["max"]))
    flat: Array = values[0].to_numpy(zero_copy_only=False)
    return flat.reshape(len(columns[0]), lengths["max"] or 0)


def _in_pandas(source: Any, key: Any, name: str) -> tuple[Any, Any]:
    if source.ndim == 2 and key is None:
        lists = [column for column in source.columns if _holds_lists(source[column])]
        if not lists:
            _check_numbers(source, name)
            return source, None
        key = one_of(name, "column of lists", lists, None)
    if source.ndim == 2:
        source = source[one_of(name, "column", list(source.columns), key)]
    if not _holds_lists(source):
        return source, None
    if bool(source.isna().any()):
        raise ValueError(f"{name} has missing values in {source.name!r}: remove such rows")
    rows = [np.asarray(unmasked(row, name)) for row in source]
    lengths = [row.size for row in rows]
    if min(lengths) != max(lengths):
        raise ValueError(_unequal(name, source.name, min(lengths), max(lengths)))
    return np.stack(rows), None


def _check_numbers(frame: Any, name: str) -> None:
    """Refuse columns of text in a frame of pandas or polars, and warn of integers among floats."""
    columns = list(map(str, frame.columns))
    row = frame[:1].to_numpy().ravel() if len(frame) else []
    text = [column for column, value in zip(columns, row, strict=False) if isinstance(value, str)]
    if text:
        raise ValueError(
            f"{name} has columns of text ({', '.join(text[:5])}): leave them out, as in "
            f"{name}[NAMES] with the names of the others"
        )
    kinds = [str(kind).lower() for kind in frame.dtypes]
    if any(kind.startswith("float") for kind in kinds):
        whole = [
            column
            for column, kind in zip(columns, kinds, strict=True)
            if kind.startswith(("int", "uint"))
        ]
        _warn_of_integers(whole, name)


def _holds_lists(column: Any) -> bool:
    return len(column) > 0 and isinstance(column.iloc[0], (list, tuple, np.ndarray))


def _unequal(what: str, name: object, least: int, most: int) -> str:
    return (
        f"{what} has lists of {least} to {most} numbers in {name!r}: all lists must have the same "
        "length"
    )


def _is_list(types: Any, kind: Any) -> bool:
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(
        listed and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    )
