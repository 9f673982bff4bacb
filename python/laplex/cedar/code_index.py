"""Nearest neighbours among codes: a sparse index that dense queries search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from .coding import coded_batches, rows_for
from .estimator import CEDAR
from .metrics.inputs import Array
from .settings import checked_ks, whole

#: Similarities computed at a time: 64 MiB.
_SCORES_AT_ONCE = 2**23


class Neighbours(NamedTuple):
    """The nearest items of queries, the nearest first.

    Attributes
    ----------
    rows : ndarray [q, n] of int64
        Numbers of the items.
    cosines : ndarray [q, n] of float64
        Their cosines with the queries.
    """

    rows: npt.NDArray[np.int64]
    cosines: npt.NDArray[np.float64]


class CodeIndex:
    r"""Embeddings kept as sparse codes, to be searched by dense queries.

    The similarity of a query q and an item is the cosine of q and the reconstruction of the item.
    It is computed without reconstructing anything:

    .. math::
        \cos(q, \hat z_i) = \frac{q \cdot b + (A q) \cdot s_i}{|q|\,|\hat z_i|},

    where the rows of A are the atoms.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    embeddings : array, Tensor or memory map [n, d]; or batches of them
        Embeddings of the items. They are read once.
    k : int, optional
        Number of nonzero entries of a code, by default that of the fit.
    modality : str, optional
        Name of the kind of rows of the items, if not that of the fit.
    centred : bool
        Whether to compare the query and the items each after its mean is subtracted, as for texts
        that search images of a CLIP-like model. b is then 0 in the formula.

    Attributes
    ----------
    codes : scipy.sparse.csr_array [n, d] of float32
        The codes.
    lengths : ndarray [n] of float64
        The lengths of the reconstructions. They are stored as float32 differences to one of them.

    Notes
    -----
    An item takes 8 k + 8 bytes: k values and k numbers of axes of 4 bytes each, a length, and its
    place among the codes. A dense float32 embedding takes 4 d. A search takes O(n k) for a query.

    Cosines are computed in float64. Where the mean of the embeddings is long beside their
    differences, all cosines are nearly 1 and float32 could not tell them apart. Where the mean
    carries nothing, ``centred=True`` is the better measure.
    """

    codes: Any

    def __init__(
        self,
        cedar: CEDAR,
        embeddings: Any,
        *,
        k: int | None = None,
        modality: str | None = None,
        centred: bool = False,
    ) -> None:
        self._fitted = cedar.fitted_
        self._centred = centred
        there = self._fitted.around(modality)
        self._centre = there.mean.double().numpy() * (not centred)
        (entries,) = checked_ks(there.k if k is None else k, there.dim)
        rows = rows_for(there, embeddings, device=cedar.device)
        parts, lengths = [], []
        for _, codes in coded_batches(there, rows, (entries,)):
            near = there.basis.to(codes.device, codes.dtype).synthesise(codes).double()
            near = near + torch.from_numpy(self._centre).to(near.device)
            lengths.append(near.norm(dim=1).cpu().numpy())
            parts.append(scipy.sparse.csr_array(codes.float().cpu().numpy()))
        self.codes = scipy.sparse.vstack(parts, format="csr")
        every = np.concatenate(lengths)
        # A float32, so that the sum is exactly 0 for an item of length 0.
        self._length = float(np.float32(every[0]))
        self._lengths = (every - self._length).astype(np.float32)

    @property
    def lengths(self) -> Array:
        """The lengths of the reconstructions [n]."""
        return self._length + self._lengths.astype(np.float64)

    def __len__(self) -> int:
        return len(self._lengths)

    def __repr__(self) -> str:
        return (
            f"CodeIndex of {len(self)} items of {self.bytes_per_item:.0f} bytes, in place of "
            f"{4 * self.codes.shape[1]}"
        )

    @property
    def bytes_per_item(self) -> float:
        """Memory of an item."""
        codes = self.codes
        parts = (codes.data, codes.indices, codes.indptr, self._lengths)
        return sum(part.nbytes for part in parts) / len(self)

    def search(self, queries: Any, n: int = 10, *, modality: str | None = None) -> Neighbours:
        """Find the n items with the largest cosine for each query.

        Parameters
        ----------
        queries : array, Tensor or memory map [q, d]; or batches of them
            Dense embeddings, which are not coded.
        n : int
            Number of items for each query; all if there are fewer.
        modality : str, optional
            Name of the kind of rows of the queries, if not that of the fit. It matters only if the
            index is centred.

        Returns
        -------
        Neighbours
            Of equal cosines, the items with the lowest numbers. A query or item of length 0 has the
            cosine 0.

        Raises
        ------
        ValueError
            If a query has another width or is not finite, n is less than 1, or there is no such
            modality.
        """
        n = min(whole("n", n), len(self))
        there = self._fitted.around(modality)
        rows = rows_for(there, queries)
        atoms = self._fitted.basis.atoms.double().numpy()
        lengths = self.lengths
        weights = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        found, cosines = [], []
        for batch in rows.batches(max(1, _SCORES_AT_ONCE // len(self))):
            q = batch.double().cpu().numpy()
            if self._centred:
                q = q - there.mean.double().numpy()
            q = q / np.maximum(np.linalg.norm(q, axis=1, keepdims=True), np.finfo(float).tiny)
            scores = ((self.codes @ (atoms @ q.T)).T + (q @ self._centre)[:, None]) * weights
            best = _largest(scores, n)
            found.append(best)
            cosines.append(np.take_along_axis(scores, best, axis=1))
        return Neighbours(np.concatenate(found), np.concatenate(cosines))


def _largest(scores: Array, n: int) -> npt.NDArray[np.int64]:
    """Return the places of the n largest of each row, in order; of equal ones, the first."""
    if n == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    least = -np.partition(-scores, n - 1, axis=1)[:, n - 1]
    places = np.empty((len(scores), n), np.int64)
    for row, (values, bound) in enumerate(zip(scores, least, strict=True)):
        chosen = np.flatnonzero(values >= bound)
        places[row] = chosen[np.argsort(-values[chosen], kind="stable")[:n]]
    return places
