"""Comparison of atoms up to order and sign: matching, MCC and Amari distance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.optimize
from torch import Tensor

from .inputs import (
    Array,
    ArrayInput,
    float64,
    row_blocks,
    same_rows,
    same_shape,
    same_width,
    unit_rows,
    untouched,
)

Index = npt.NDArray[np.int64]


def match(atoms_a: ArrayInput, atoms_b: ArrayInput, *, signed: bool = False) -> tuple[Index, Array]:
    r"""Match atoms one to one such that the sum of their absolute cosines is largest.

    .. math::
        \max_\pi \sum_i |c_{i\pi(i)}|, \qquad
        c_{ij} = \frac{\langle a_i, b_j\rangle}{|a_i|\,|b_j|}

    Parameters
    ----------
    atoms_a : array or Tensor ``[p, d]``
        The first atoms.
    atoms_b : array or Tensor ``[q, d]``
        The second atoms.
    signed : bool
        Whether to match by the cosine itself. Use this for codes that cannot be negative, where an
        atom and its negative are two different things.

    Returns
    -------
    index : ndarray ``[p]`` of int64
        For each atom of a, the number of the matched atom of b; -1 for those left over if p > q.
    cosine : ndarray ``[p]``
        Their cosine, with its sign; 0 for those left over. An atom of zeros has cosine 0 with all.

    Raises
    ------
    ValueError
        If the numbers of columns disagree, or a value is not finite.

    Notes
    -----
    The cost is O(max(p, q)^3), by ``scipy.optimize.linear_sum_assignment``.
    """
    a, b = float64("atoms_a", atoms_a), float64("atoms_b", atoms_b)
    same_width("atoms_a", a, "atoms_b", b)
    return _assigned(np.clip(unit_rows(a) @ unit_rows(b).T, -1, 1), signed)


def mcc(atoms: ArrayInput, truth: ArrayInput, *, signed: bool = False) -> float:
    r"""Return the mean absolute cosine of the true atoms with the atoms matched to them.

    .. math::
        \text{MCC} = \frac1q \max_\pi \sum_{j=1}^q |\cos(\text{truth}_j, \text{atom}_{\pi(j)})|

    The value is in [0, 1]. It is 1 only if every true atom was found, up to order, sign and length.
    For two random bases of R^64 it is about 0.32, because the matching finds any resemblance.

    Parameters
    ----------
    atoms : array or Tensor ``[p, d]``
        The atoms found. More atoms than the truth has do not lower the value. If p < q, the q - p
        true atoms without a match count as 0.
    truth : array or Tensor ``[q, d]``
        The true atoms.
    signed : bool
        Whether to match by the cosine itself, as in `match`; the value is then in [-1, 1].

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the numbers of columns disagree, or a value is not finite.

    Notes
    -----
    The name "mean correlation coefficient" comes from the literature on independent components,
    where it compares codes (see `mcc_of_codes`). For orthonormal atoms and white codes the two
    agree.
    """
    found, true = float64("atoms", atoms), float64("truth", truth)
    same_width("atoms", found, "truth", true)
    return _mean_matched(match(true, found, signed=signed)[1], signed)


def mcc_of_codes(codes: ArrayInput, truth: ArrayInput, *, signed: bool = False) -> float:
    r"""Return the mean absolute Pearson correlation of true codes with the codes matched to them.

    .. math::
        \text{MCC} = \frac1q \max_\pi \sum_{j=1}^q |\rho(\text{truth}_{\cdot j},
        \text{code}_{\cdot\pi(j)})|

    Parameters
    ----------
    codes : array or Tensor ``[n, p]``
        The codes found. Axes that never vary have correlation 0 with all others.
    truth : array or Tensor ``[n, q]``
        The codes that the embeddings were made from. If p < q, the q - p columns of `truth` without
        a match count as 0.
    signed : bool
        Whether to match by the correlation itself, not by its absolute value.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the numbers of rows disagree, or a value is not finite.

    Notes
    -----
    This is the measure of Hyvarinen and Morioka, "Unsupervised feature extraction by
    time-contrastive learning and nonlinear ICA", NIPS 2016. It takes two passes over blocks of
    rows, in float64.
    """
    found, true = untouched("codes", codes), untouched("truth", truth)
    same_rows("codes", found, "truth", true)
    means = _column_means("codes", found), _column_means("truth", true)
    cross = np.zeros((true.shape[1], found.shape[1]))
    scatter_found, scatter_true = np.zeros(found.shape[1]), np.zeros(true.shape[1])
    for block in row_blocks(found, true):
        a = float64("codes", found[block]) - means[0]
        b = float64("truth", true[block]) - means[1]
        cross += b.T @ a
        scatter_found += np.square(a).sum(axis=0)
        scatter_true += np.square(b).sum(axis=0)
    # One root after the other: the product of two scatters may leave the range of float64.
    sizes = np.sqrt(scatter_true)[:, None], np.sqrt(scatter_found)
    correlations = cross / np.where(sizes[0] > 0, sizes[0], 1.0)
    correlations /= np.where(sizes[1] > 0, sizes[1], 1.0)
    return _mean_matched(_assigned(np.clip(correlations, -1, 1), signed)[1], signed)


def amari_distance(readouts: ArrayInput, mixing: ArrayInput) -> float:
    r"""Return how far readouts U are from inverting a mixing A, up to order, sign and scale.

    .. math::
        \frac{1}{2d(d-1)} \Bigl[ \sum_i \Bigl( \sum_j \frac{|p_{ij}|}{\max_k |p_{ik}|} - 1 \Bigr)
        + \sum_j \Bigl( \sum_i \frac{|p_{ij}|}{\max_k |p_{kj}|} - 1 \Bigr) \Bigr], \qquad P = U A

    The value is in [0, 1]. It is 0 exactly if P is a permutation with a scale for each row, 1 if
    all entries of P have the same absolute value, and 0 in one dimension.

    Parameters
    ----------
    readouts : array or Tensor ``[d, d]``
        The matrix U with one readout in each row: ``components_`` of a fitted model.
    mixing : array or Tensor ``[d, d]``
        The matrix A with one true atom in each *column*, so that embeddings are A s.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a row or a column of P is zero, so that no source is read, or one is lost.

    Notes
    -----
    The formula follows Amari, Cichocki and Yang, "A new learning algorithm for blind signal
    separation", NIPS 1995, divided by its largest value. If the value is not 0, it depends on the
    relative lengths of the readouts. Scale them alike before you compare, for instance to codes of
    unit variance.
    """
    u, a = float64("readouts", readouts), float64("mixing", mixing)
    same_shape("readouts", u, "mixing", a)
    d = len(u)
    if u.shape != (d, d):
        raise ValueError(f"readouts and mixing must be square, got shape {u.shape}")
    p = np.abs(u @ a)
    by_row, by_column = p.max(axis=1, keepdims=True), p.max(axis=0, keepdims=True)
    if not (by_row.all() and by_column.all()):
        raise ValueError("readouts @ mixing has a row or column of zeros: one of them is singular")
    excess = float((p / by_row).sum() + (p / by_column).sum()) - 2 * d
    return max(0.0, excess) / (2 * d * (d - 1)) if d > 1 else 0.0


# --- inside ---------------------------------------------------------------------------------------


def _assigned(similarity: Array, signed: bool) -> tuple[Index, Array]:
    """Return for each row of a similarity ``[p, q]`` its column or -1, and the similarity or 0."""
    rows, columns = scipy.optimize.linear_sum_assignment(
        similarity if signed else np.abs(similarity), maximize=True
    )
    index = np.full(len(similarity), -1, np.int64)
    index[rows] = columns
    matched = np.zeros(len(similarity))
    matched[rows] = similarity[rows, columns]
    return index, matched


def _mean_matched(matched: Array, signed: bool) -> float:
    return float(np.mean(matched if signed else np.abs(matched)))


def _column_means(name: str, array: npt.NDArray[np.generic] | Tensor) -> Array:
    """Return means ``[d]``, summed about the first row: exact for a column of equal values."""
    shift = float64(name, array[:1])[0]
    total = np.zeros_like(shift)
    for block in row_blocks(array):
        total += (float64(name, array[block]) - shift).sum(axis=0)
    mean: Array = shift + total / len(array)
    return mean
