"""Embeddings as a stream of batches, from arrays, tensors, files or loaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils import check_array
from torch import Tensor

#: Bytes of embeddings in memory at a time if they come from a file.
_BATCH_BYTES = 2**25


class Rows:
    """Embeddings [n, d] that can be iterated as often as needed, in batches.

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
        source: Any,
        dim: int,
        count: int | None,
        dtype: torch.dtype,
        *,
        name: str,
        device: torch.device,
        batches: Callable[[int], Iterable[Any]],
    ) -> None:
        self.source = source
        self.dim = dim
        self.count = count
        self.dtype = dtype
        self.device = device
        self.name = name
        self._batches = batches
        self._lengths = None if count is None else [count]
        self.in_memory = count is not None and not isinstance(source, np.memmap)

    def batches(self, size: int | None = None) -> Iterator[Tensor]:
        """Yield batches [b, d] on the device, after checking that they are finite.

        Parameters
        ----------
        size : int, optional
            Number of rows in each batch but the last; by default as many as fit into 32 MiB. A
            source that comes in batches keeps them.

        Raises
        ------
        ValueError
            If a row holds NaN or an infinity (the message has its number), or a batch has another
            width.
        """
        size = size or max(1, _BATCH_BYTES // (max(1, self.dim) * 8))
        start, lengths = 0, []
        for batch in self._batches(size):
            rows = self._tensor(batch, start)
            if not len(rows):
                continue
            start += len(rows)
            lengths.append(len(rows))
            yield rows
        if self._lengths is None:
            self._lengths = lengths

    def lengths(self) -> list[int]:
        """Numbers of rows of the batches that the source brings; one batch if it brings none.

        Where only an iteration tells them, and none was complete, the source is read once.
        """
        if self._lengths is None:
            for _ in self.batches():
                pass
        assert self._lengths is not None
        return self._lengths

    def take(self, index: Tensor) -> Tensor:
        """Return the rows with the numbers in index [b]; the number of rows must be known."""
        source = self.source
        if isinstance(source, Tensor):
            return self._tensor(source[index.to(source.device)], None)
        return self._tensor(source[index.numpy()], None)

    def _tensor(self, batch: Any, start: int | None) -> Tensor:
        if isinstance(batch, np.ndarray):
            batch = batch.astype(batch.dtype.newbyteorder("="), copy=False)  # torch has no other
        if isinstance(batch, Tensor):
            rows = batch.detach()
        elif isinstance(batch, np.memmap) or (
            isinstance(batch, np.ndarray) and not batch.flags.writeable
        ):
            # A copy: torch tensors cannot be read-only, and pages of a file should not stay here.
            rows = torch.from_numpy(np.array(batch))
        else:
            rows = torch.as_tensor(np.ascontiguousarray(batch))
        if rows.dim() != 2 or rows.shape[1] != self.dim:
            raise ValueError(
                f"{self.name} has batches of shapes [*, {self.dim}] and {list(rows.shape)}: each "
                f"must be [b, {self.dim}]"
            )
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
    X : array-like, Tensor or memory map [n, d]; or an iterable of batches [b, d]
        Batches are arrays or tensors, or sequences that begin with one, as data loaders yield them.
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
    TypeError
        If X is complex or sparse, or a generator where several passes are needed.
    ValueError
        If X is not two-dimensional, or has no rows or no columns.
    """
    if isinstance(X, (str, os.PathLike)):
        raise TypeError(f"{name} is a path: pass np.load({str(X)!r}, mmap_mode='r')")
    if isinstance(X, Rows):
        return X
    place = torch.device("cpu" if device is None else device)
    if empty and _is_empty(X):
        shape: list[int] = list(getattr(X, "shape", []))
        nothing = torch.empty(0, shape[1] if len(shape) == 2 else 0, dtype=dtype)
        return _sliced(nothing, nothing.dtype, name, place)
    if isinstance(X, Tensor):
        if device is None:
            place = X.device
        _check_shape(tuple(X.shape), name)
        if X.is_complex():
            raise TypeError(f"{name} is complex. Complex data not supported: pass its real parts")
        tensor = X.detach()
        return _sliced(tensor, dtype or _torch_dtype(tensor.dtype), name, place)
    if isinstance(X, np.memmap) and X.dtype.kind in "fiu":
        _check_shape(X.shape, name)
        return _sliced(X, dtype or _numpy_dtype(X.dtype), name, place)
    if _brings_batches(X):
        return _from_batches(X, name, place, dtype, once, empty)
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim == 2 and X.size:
        array = X
    else:  # lists, data frames, other numbers, or invalid: messages are those of scikit-learn
        if scipy.sparse.issparse(X):
            raise TypeError(
                f"{name} is a sparse matrix, but sparse input is not supported: "
                f"pass {name}.toarray()"
            )
        array = check_array(X, dtype=[np.float64, np.float32], ensure_all_finite=False)
    return _sliced(array, dtype or _numpy_dtype(array.dtype), name, place)


def _sliced(source: Any, dtype: torch.dtype, name: str, device: torch.device) -> Rows:
    count, dim = source.shape

    def batches(size: int) -> Iterator[Any]:
        for start in range(0, count, size):
            yield source[start : start + size]

    return Rows(source, dim, count, dtype, name=name, device=device, batches=batches)


def _from_batches(
    X: Iterable[Any],
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    once: bool,
    empty: bool,
) -> Rows:
    first: Any = None
    if isinstance(X, Iterator):
        if not once:
            raise TypeError(
                f"{name} is a {type(X).__name__}, which can be iterated only once: pass a list, "
                "a DataLoader or another iterable that can be restarted, or call partial_fit on "
                "each batch"
            )
        iterator = iter(X)
        first = next(iterator, None)
    else:
        first = next(iter(X), None)
    if first is None and empty:
        return _sliced(torch.empty(0, 0), torch.float32, name, device)
    if first is None:
        raise ValueError(f"{name} has no batches: 0 sample(s) while a minimum of 1 is required")
    head = _batch(first)
    if head.ndim != 2:
        raise ValueError(f"{name} has a batch of shape {list(head.shape)}: each must be [b, d]")
    if len(head) or not empty:
        _check_shape(tuple(head.shape), name)
    found = _torch_dtype(head.dtype) if isinstance(head, Tensor) else _numpy_dtype(head.dtype)

    def batches(size: int) -> Iterator[Any]:
        if isinstance(X, Iterator):
            yield head
        for batch in X:
            yield _batch(batch)

    return Rows(X, head.shape[1], None, dtype or found, name=name, device=device, batches=batches)


def _is_empty(X: Any) -> bool:
    if hasattr(X, "shape"):
        return len(X.shape) > 0 and X.shape[0] == 0
    return isinstance(X, (list, tuple)) and not X


def _brings_batches(X: Any) -> bool:
    if hasattr(X, "__array__") or hasattr(X, "shape") or isinstance(X, (str, bytes, dict)):
        return False
    if isinstance(X, (list, tuple)):
        return bool(X) and (
            (isinstance(X[0], (np.ndarray, Tensor)) and X[0].ndim == 2) or isinstance(X[0], Mapping)
        )
    return isinstance(X, Iterable)


def _batch(batch: Any) -> Any:
    """Return the embeddings of a batch, without labels that may follow them."""
    if isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], (np.ndarray, Tensor)):
        batch = batch[0]
    if isinstance(batch, Mapping):
        raise TypeError(
            f"batches are mappings with {', '.join(map(str, batch))}: pass arrays or tensors "
            "[b, d], as in (batch['embedding'] for batch in loader) made anew for each pass"
        )
    return batch if isinstance(batch, Tensor) else np.asarray(batch)


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"{name} must be [n, d], rows of embeddings, got shape {list(shape)}. Reshape your "
            f"data: {name}.reshape(1, -1) is a single row"
        )
    for size, what in zip(shape, ("sample(s)", "feature(s)"), strict=True):
        if size == 0:
            raise ValueError(
                f"{name} has 0 {what} (shape={shape}) while a minimum of 1 is required."
            )


def _torch_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float32
    return torch.float64


def _numpy_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    if dtype.kind not in "fiub":
        raise TypeError(f"batches must be real numbers, got {dtype}")
    return torch.float32 if dtype.kind == "f" and dtype.itemsize < 8 else torch.float64
