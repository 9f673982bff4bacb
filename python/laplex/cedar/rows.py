"""Embeddings as a stream of batches, from arrays, tensors, files, tables or loaders."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils import check_array
from torch import Tensor

from laplex._support.npy_files import from_bytes

from .containers import Stream, open_files
from .masks import unmasked
from .tables import columns_of, in_table, matrix, names_in, one_of, package_of

#: Bytes of embeddings in memory at a time, as float64.
_BATCH_BYTES = 2**25


@dataclass(frozen=True)
class Embeddings:
    """Embeddings under a name: a tensor, data set, column or entry of each batch.

    It serves wherever embeddings do, for instance in ``cedar.fit(Embeddings("shards", "emb"))``. A
    source in which there is only one candidate needs no name, and can be passed as it is.

    Parameters
    ----------
    source : object
        One of

        * the path of a .npy, .npz, .safetensors, .parquet, .h5, .hdf5, .zarr or .tar file, of a
          folder of such files, or a pattern such as ``shards/*.npy``; or a list of these. Files of
          a folder or pattern are taken in the order of their names, with numbers in them by value:
          p2 before p10. A .tar file holds .npy files of rows or batches, as WebDataset writes them;
        * an array, a memory map, a tensor, or an HDF5 or zarr array; or a mapping of names to them;
        * a table of pandas, polars or pyarrow, or a Hugging Face dataset;
        * anything that can be iterated over batches or rows, such as a DataLoader with workers or
          an ``IterableDataset``, or that has them by number, such as a ``TensorDataset``; or a
          function without arguments that returns an iterator, such as
          a generator function, and is called for each pass.
    key : str or int, optional
        The name of the tensor, the array, the column of lists of numbers, or the entry of each
        batch; for .tar files what stands between the name of the row and ``.npy``. For batches that
        are tuples it is a number, by default 0.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar import CEDAR, Embeddings
    >>> random = np.random.default_rng(0)
    >>> batches = [{"id": [0, 1], "emb": random.standard_normal((50, 8))} for _ in range(4)]
    >>> CEDAR(k=2, random_state=0).fit(Embeddings(batches, key="emb")).n_samples_seen_
    200
    """

    source: Any
    key: Any = None


class Rows:
    """Embeddings [n, d] that can be iterated as often as needed, in batches.

    Parameters
    ----------
    parts : list
        Streams, and parts with a shape [n, d] that can be sliced; see `laplex.cedar.containers`.
    columns : list of str, optional
        Names of the columns d, if they have any.

    Attributes
    ----------
    dim : int
        Number of columns d.
    count : int or None
        Number of rows n; None if only an iteration over the batches tells it.
    dtype : torch.float32 or torch.float64
        Precision of the batches: float64 for float64 and integers, float32 for float32 and smaller
        floats.
    in_memory : bool
        Whether single rows can be read quickly.
    """

    def __init__(
        self,
        parts: list[Any],
        dtype: torch.dtype | None,
        *,
        name: str,
        device: torch.device,
        columns: list[str] | None = None,
    ) -> None:
        first = parts[0]
        self.dim = first.dim if isinstance(first, Stream) else int(first.shape[1])
        streams = any(isinstance(part, Stream) for part in parts)
        self.count = None if streams else sum(int(part.shape[0]) for part in parts)
        found = [_precision(part.dtype) for part in parts]
        self.dtype = dtype or (torch.float64 if torch.float64 in found else torch.float32)
        self.device = device
        self.name = name
        self.columns = columns
        self._parts = parts
        self._lengths = None if self.count is None else [self.count]
        self.in_memory = len(parts) == 1 and (
            isinstance(first, Tensor) or (isinstance(first, np.ndarray) and not _mapped(first))
        )

    def placed(self, device: Any, dtype: torch.dtype | None) -> Rows:
        """Return the same rows for another device or in another precision."""
        place = self.device if device is None else _usable(device)
        if (place, dtype or self.dtype) == (self.device, self.dtype):
            return self
        return Rows(
            self._parts, dtype or self.dtype, name=self.name, device=place, columns=self.columns
        )

    def check_columns(self, known: Sequence[str] | None) -> None:
        """Check the names of the columns against those of a fit, where both have any.

        Raises
        ------
        ValueError
            If they are others, or in another order.
        """
        if self.columns is None or known is None or self.columns == list(known):
            return
        other = [name for name in self.columns if name not in known]
        what = (
            f"other columns than the fit ({', '.join(other[:5])})"
            if other
            else ("the columns of the fit in another order")
        )
        raise ValueError(
            f"{self.name} has {what}: pass the columns in feature_names_in_, in that order"
        )

    def batches(self, size: int | None = None) -> Iterator[Tensor]:
        """Yield batches [b, d] on the device, after checking that they are finite.

        Parameters
        ----------
        size : int, optional
            The largest number of rows in a batch; by default as many as fit into 32 MiB. Smaller
            batches of a source stay as they are, and larger ones are cut.

        Raises
        ------
        ValueError
            If a row holds NaN or an infinity (the message has its number), or a batch has another
            width.
        """
        largest = size or max(1, _BATCH_BYTES // (max(1, self.dim) * 8))
        start, lengths = 0, []
        for piece in self._pieces(largest):
            rows = self._tensor(piece, start)
            start += len(rows)
            lengths.append(len(rows))
            yield rows
        if self._lengths is None and size is None:
            self._lengths = lengths

    def lengths(self) -> list[int]:
        """Numbers of rows of the batches of a stream; of other sources, the number of rows.

        Where only an iteration tells them, and none was complete, the source is read once.
        """
        if self._lengths is None:
            for _ in self.batches():
                pass
        assert self._lengths is not None
        return self._lengths

    def take(self, index: Tensor) -> Tensor:
        """Return the rows with the numbers in index [b]; the number of rows must be known."""
        if self.in_memory:
            part = self._parts[0]
            place = index.to(part.device) if isinstance(part, Tensor) else index.numpy()
            return self._tensor(part[place], None)
        # Files are read in slices, from the first of the rows to the last.
        found = torch.empty(len(index), self.dim, dtype=self.dtype, device=self.device)
        order = index.argsort()
        wanted = index[order].contiguous()
        size = max(1, _BATCH_BYTES // (max(1, self.dim) * 8))
        before = 0
        for part in self._parts:
            count = int(part.shape[0])
            low, high = torch.searchsorted(wanted, torch.tensor([before, before + count])).tolist()
            while low < high:
                start = int(wanted[low]) - before
                stop = min(start + size, int(wanted[high - 1]) + 1 - before)
                end = int(torch.searchsorted(wanted, before + stop))
                block = self._tensor(part[start:stop], None)
                chosen = (wanted[low:end] - before - start).to(block.device)
                found[order[low:end].to(found.device)] = block[chosen]
                low = end
            before += count
        return found

    def _pieces(self, size: int) -> Iterator[Any]:
        for part in self._parts:
            for block in part.read(size) if hasattr(part, "read") else [part]:
                shape = tuple(block.shape)
                if len(shape) != 2 or shape[1] != self.dim:
                    raise ValueError(
                        f"{self.name} has batches of shapes [*, {self.dim}] and {list(shape)}: "
                        f"each must be [b, {self.dim}]"
                    )
                for start in range(0, shape[0], size):
                    yield block[start : start + size]

    def _tensor(self, batch: Any, start: int | None) -> Tensor:
        if isinstance(batch, Tensor):
            rows = batch.detach()
        else:
            array = np.asarray(batch)
            wide = array.dtype.kind == "f" and array.dtype.itemsize > 8  # np.longdouble
            kind = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
            array = array.astype(kind, copy=False)  # torch has no other
            if _mapped(batch) or not array.flags.writeable:
                array = np.array(array)  # torch tensors cannot be read-only
            rows = _as_tensor(np.ascontiguousarray(array))
            _release(batch)
        rows = rows.to(self.device, self.dtype)
        # A finite sum shows at once that all values are finite; an infinite one may be an overflow.
        if not bool(rows.sum().isfinite()):
            wrong = (~rows.isfinite().all(1)).nonzero()[:, 0]
            if wrong.numel():
                where = "" if start is None else f" in row {start + int(wrong[0])}"
                more = f" and {wrong.numel() - 1} more" if wrong.numel() > 1 else ""
                raise ValueError(
                    f"{self.name} has NaN or infinity{where}{more}: remove such rows, for instance "
                    f"{self.name}[np.isfinite({self.name}).all(1)]"
                )
        return rows


def as_rows(
    X: Any,
    *,
    name: str = "X",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    once: bool = False,
    empty: bool = False,
) -> Rows:
    """Wrap embeddings in any form as ``Rows``.

    Parameters
    ----------
    X : array-like, Tensor, path, table or batches [n, d]
        Any source of `Embeddings`, or one with its key.
    name : str
        Name of X in messages.
    device : str or torch.device, optional
        Device of the batches; by default that of X if it is a tensor, else the CPU.
    dtype : torch.dtype, optional
        Precision of the batches; by default float64 for float64 and integers, and float32 for
        shorter floats.
    once : bool
        Whether one pass is enough, so that a generator is accepted.
    empty : bool
        Whether there may be no rows, as ``[0, d]`` or as no batches; the latter have 0 columns.

    Raises
    ------
    FileNotFoundError
        If X is the path of no file.
    ImportError
        If a package is missing that reads X.
    TypeError
        If X is sparse, or of no kind that can be read, or a generator where several passes are
        needed.
    ValueError
        If X is not two-dimensional, or has no rows or no columns, or masked or complex values; or
        torch cannot use the device.
    """
    if isinstance(X, Rows):
        return X.placed(device, dtype)
    source, key = X, None
    while isinstance(source, Embeddings):
        source, key = source.source, source.key if key is None else key
    if isinstance(source, Rows):
        return source.placed(device, dtype)
    if device is None:
        device = source.device if isinstance(source, Tensor) else "cpu"
    place = _usable(device)
    if empty and _is_empty(source):
        shape: list[int] = list(getattr(source, "shape", []))
        parts: list[Any] = [torch.empty(0, shape[1] if len(shape) == 2 else 0, dtype=dtype)]
    else:
        parts = _parts(source, key, name, once, empty)
    columns = getattr(parts[0], "columns", None) or names_in(source)
    if columns is not None and len(columns) != Rows(parts, dtype, name=name, device=place).dim:
        columns = None  # those of lists, or of more than the embeddings
    return Rows(parts, dtype, name=name, device=place, columns=columns)


def _usable(device: torch.device | str) -> torch.device:
    """Return a device after checking that torch can use it."""
    try:
        place = torch.device(device)
        if place.type not in ("cpu", "meta"):
            torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', got {str(device)!r}: "
            f"{first}"
        ) from error
    return place


def _parts(source: Any, key: Any, name: str, once: bool, empty: bool) -> list[Any]:
    """Return a source as parts and streams."""
    listed = isinstance(source, (list, tuple)) and bool(source)
    if _is_path(source) or (listed and all(map(_is_path, source))):
        return open_files(source, key)
    if listed and any(map(_is_path, source)):
        raise TypeError(
            f"{name} is a list of paths and other things: pass paths alone, or load the files and "
            "pass a list of arrays"
        )
    if isinstance(source, bytes):
        raise TypeError(f"{name} is bytes: pass a path as a str, as in os.fsdecode({name})")
    if package_of(source) == "h5py" and not source:
        raise ValueError(
            f"{name} is in an HDF5 file that is closed: pass the path of the file, or keep it open"
        )
    if scipy.sparse.issparse(source):
        raise TypeError(
            f"{name} is a sparse matrix, but sparse input is not supported: pass {name}.toarray()"
        )
    if isinstance(source, Mapping) or (package_of(source) == "zarr" and hasattr(source, "arrays")):
        arrays = source if isinstance(source, Mapping) else dict(source.arrays())
        if key is None or key not in arrays:
            named = [one for one, array in arrays.items() if len(_shape(array)) == 2]
            key = one_of(name, "array", named, key)
        return _parts(arrays[key], None, name, once, empty)
    source, key = in_table(source, key, name)
    if callable(source) and not isinstance(source, Iterable) and not hasattr(source, "__array__"):
        return [_stream(source, key, name, empty)]
    if _brings_batches(source):
        if isinstance(source, Iterator) and not once:
            raise TypeError(
                f"{name} is a {type(source).__name__}, which can be iterated only once: pass a "
                "generator function, a list, a DataLoader or another iterable that can be "
                "restarted, or call partial_fit on each batch"
            )
        return [_stream(lambda: source, key, name, empty)]
    if _has_items(source):
        return [_stream(lambda: map(source.__getitem__, range(len(source))), key, name, empty)]
    if key is not None:
        raise ValueError(f"{name} holds one array: leave out the key {key!r}")
    if isinstance(source, Tensor):
        _check_shape(tuple(source.shape), name)
        return [_real(source, name)]
    source = unmasked(source, name)
    if _are_vectors(source):
        source = _stack(source)
    if hasattr(source, "shape"):
        _check_shape(_shape(source), name)
        if getattr(getattr(source, "dtype", None), "kind", "") == "c":
            raise ValueError(f"{name} is complex. Complex data not supported: pass real numbers")
    if _is_sliced(source):
        return [source]
    kinds = [np.float64, np.float32, np.float16]
    try:
        return [check_array(source, dtype=kinds, ensure_all_finite=False)]
    except (TypeError, ValueError) as error:
        if hasattr(source, "shape"):  # of an array or frame; scikit-learn wants its own messages
            raise
        first = str(error).partition("\n")[0]
        raise type(error)(
            f"{name} must be rows of numbers [n, d], got a {type(source).__name__} ({first}): pass "
            "an array, or one of the forms that laplex.cedar.Embeddings lists"
        ) from error


def _real(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor without its history; sparse and complex ones are refused."""
    if tensor.layout != torch.strided:
        raise TypeError(
            f"{name} is a sparse tensor, but sparse input is not supported: pass {name}.to_dense()"
        )
    if tensor.is_complex():
        raise ValueError(f"{name} is complex. Complex data not supported: pass real numbers")
    return tensor.detach()


def _stream(make: Callable[[], Any], key: Any, name: str, empty: bool) -> Any:
    """Return the batches or rows of what ``make`` returns, which is called for each pass."""
    made = make()
    if not isinstance(made, Iterable):
        raise TypeError(
            f"{name}() returned {type(made).__name__}: it must return an iterator of batches [b, d]"
        )
    iterator = iter(made)
    first = next(iterator, None)
    if first is None and empty:
        return torch.empty(0, 0)
    if first is None:
        raise ValueError(f"{name} has no batches: 0 sample(s) while a minimum of 1 is required")
    head = _batch(first, key, name)
    if head.ndim not in (1, 2):
        raise ValueError(f"{name} has a batch of shape {list(head.shape)}: each must be [b, d]")
    if head.ndim == 1 or len(head) or not empty:
        _check_shape((1, *head.shape)[-2:], name)
    waiting = [chain([first], iterator)]  # the first pass goes on where this look has stopped
    columns = names_in(first)

    def batch(one: Any) -> Any:
        if columns is not None and names_in(one) not in (None, columns):
            raise ValueError(
                f"{name} has batches whose columns differ in name or order: select the same ones "
                "in each, as in batch[names]"
            )
        return _batch(one, key, name)

    def read(size: int) -> Iterator[Any]:
        batches = map(batch, waiting.pop() if waiting else make())
        return batches if head.ndim == 2 else _stacked(batches, size)

    return Stream(head.shape[-1], head.dtype, read, columns)


def _stacked(rows: Iterable[Any], size: int) -> Iterator[Any]:
    """Put rows [d] together to batches."""
    held: list[Any] = []
    for row in rows:
        if held and row.shape != held[0].shape:
            yield row.reshape(1, -1)  # of another width, which is an error
        held.append(row)
        if len(held) == size:
            yield _stack(held)
            held = []
    if held:
        yield _stack(held)


def _are_vectors(X: Any) -> bool:
    """Whether X is a list of vectors of one length."""
    return (
        isinstance(X, (list, tuple))
        and all(isinstance(row, (np.ndarray, Tensor)) and row.ndim == 1 for row in X)
        and len({len(row) for row in X}) == 1
    )


def _stack(rows: Any) -> Any:
    if isinstance(rows[0], Tensor):
        return torch.stack(list(map(torch.as_tensor, rows)))
    return np.stack(rows)


def _batch(batch: Any, key: Any, name: str) -> Any:
    """Return the embeddings of a batch [b, d] or of a row [d], without what comes with them."""
    if isinstance(batch, Mapping):
        if key is None:
            # Labels and numbers of rows have one dimension less.
            most = max((getattr(value, "ndim", 0) for value in batch.values()), default=0)
            named = [one for one, value in batch.items() if getattr(value, "ndim", 0) == most > 0]
            if len(named) != 1:
                raise TypeError(
                    f"batches are mappings with {', '.join(map(str, batch))}: pass "
                    f"Embeddings({name}, key=...) with the name of the embeddings"
                )
            key = named[0]
        if key not in batch:
            raise ValueError(
                f"batches have no entry {key!r}, but {', '.join(map(repr, batch))}: change the key"
            )
        return _batch(batch[key], None, name)
    if isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], (np.ndarray, Tensor)):
        if key is None and len(batch) > 1 and _are_vectors(batch):
            return _stack(unmasked(batch, name))
        if not isinstance(key or 0, int) or not 0 <= (key or 0) < len(batch):
            raise ValueError(
                f"batches are tuples of {len(batch)}, so key must be an integer below that, got "
                f"{key!r}"
            )
        return _batch(batch[key or 0], None, name)
    if isinstance(batch, bytes):
        return from_bytes(batch)
    if package_of(batch) == "pyarrow" and hasattr(batch, "schema"):
        return matrix(batch, columns_of(batch.schema, key, name), name)
    if isinstance(batch, Tensor):
        return _real(batch, name)
    array = unmasked(batch, name)
    if not isinstance(array, np.ndarray):  # a mapped file stays one
        array = np.asarray(array)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"batches must be real numbers, got {array.dtype}")
    return array


def _has_items(X: Any) -> bool:
    """Whether X has its rows by number and in no other way, as a map-style data set of torch."""
    return (
        hasattr(X, "__getitem__")
        and hasattr(X, "__len__")
        and not isinstance(X, Iterable)
        and not hasattr(X, "__array__")
        and not hasattr(X, "shape")
    )


def _is_path(X: Any) -> bool:
    return isinstance(X, (str, os.PathLike))


def _is_empty(X: Any) -> bool:
    if hasattr(X, "shape"):
        return _shape(X)[:1] == (0,)
    return isinstance(X, (list, tuple)) and not X


def _shape(X: Any) -> tuple[int, ...]:
    return tuple(getattr(X, "shape", ()))


def _is_sliced(X: Any) -> bool:
    """Whether slices of X are rows of real numbers: an array in memory, in a file or elsewhere."""
    if not hasattr(X, "dtype") or not hasattr(X, "__getitem__") or len(_shape(X)) != 2:
        return False
    kind, name = getattr(X.dtype, "kind", ""), getattr(X.dtype, "name", "")
    if isinstance(X, np.ndarray) and not _mapped(X):
        return (kind == "f" or name == "bfloat16") and X.size > 0
    return kind in ("f", "i", "u") or name == "bfloat16"


def _brings_batches(X: Any) -> bool:
    if hasattr(X, "__array__") or hasattr(X, "shape") or isinstance(X, bytes):
        return False
    if isinstance(X, (list, tuple)):
        first = X[0] if X else None
        if isinstance(first, (list, tuple)) and first:
            return getattr(first[0], "ndim", 0) > 0
        return (
            isinstance(first, Mapping)
            or getattr(first, "ndim", 0) == 2
            or package_of(first) == "pyarrow"
        )
    return isinstance(X, Iterable)


def _check_shape(shape: Sequence[int], name: str) -> None:
    if len(shape) != 2:
        remedy = (
            f"{name}.reshape(-1, {shape[-1]}) has the last dimension as rows"
            if len(shape) > 2
            else f"{name}.reshape(1, -1) is a single row"
        )
        raise ValueError(
            f"{name} must be [n, d], rows of embeddings, got shape {list(shape)}. Reshape your "
            f"data: {remedy}"
        )
    for size, what in zip(shape, ("sample(s)", "feature(s)"), strict=True):
        if size == 0:
            raise ValueError(
                f"{name} has 0 {what} (shape={shape}) while a minimum of 1 is required."
            )


def _precision(dtype: Any) -> torch.dtype:
    """Return the precision in which to compute with numbers of a type of torch or NumPy."""
    if not isinstance(dtype, torch.dtype):
        dtype = np.dtype(dtype).name
    short = ("float32", "float16", "bfloat16")
    return torch.float32 if str(dtype).removeprefix("torch.") in short else torch.float64


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.name == "bfloat16":  # of ml_dtypes, which torch does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _mapped(X: Any) -> bool:
    """Whether an array is mapped from a file."""
    return isinstance(X, np.memmap) and getattr(X, "_mmap", None) is not None


def _release(X: Any) -> None:
    """Let go of the pages of a mapped file, which stay in the cache of the system."""
    # A private mapping ("c") would lose what was written to it.
    if _mapped(X) and X.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        X._mmap.madvise(mmap.MADV_DONTNEED)
