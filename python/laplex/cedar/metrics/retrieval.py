"""Neighbours before and after reconstruction."""

from __future__ import annotations

import numpy as np

from laplex._support.arguments import integer

from .inputs import ArrayInput, float64, row_blocks, same_shape, same_width, unit_rows


def neighbour_recall(
    z: ArrayInput, z_hat: ArrayInput, n: int = 10, *, queries: ArrayInput | None = None
) -> float:
    r"""Return the fraction of nearest neighbours that a search among reconstructions still finds.

    .. math::
        \text{recall} = \frac1{qn} \sum_{i=1}^q
        \bigl| N(q_i; z) \cap N(q_i; \hat z) \bigr|

    Here N(q; z) are the n rows of z with the largest cosine with q. The queries are dense, and only
    what they are compared with is coded: this is a search in an index of sparse codes. The cosines
    need no reconstruction then, because
    :math:`\langle q, \hat z\rangle = \langle q, b\rangle + \sum_i s_i \langle q, a_i\rangle`.

    Parameters
    ----------
    z, z_hat : array or Tensor ``[rows, d]``
        Embeddings and reconstructions. Subtract the mean from both to compare centred rows.
    n : int
        Number of neighbours.
    queries : array or Tensor ``[q, d]``, optional
        What to search for. By default every row of z, among all other rows.

    Returns
    -------
    float
        The recall at n. A random choice reaches n divided by the number of rows.

    Raises
    ------
    ValueError
        If shapes disagree, or there are fewer than n rows to find.
    """
    rows, approximations = float64("z", z), float64("z_hat", z_hat)
    same_shape("z", rows, "z_hat", approximations)
    asked = rows if queries is None else float64("queries", queries)
    same_width("z", rows, "queries", asked)
    count = integer("n", n)
    others = len(rows) - (queries is None)
    if count > others:
        raise ValueError(f"n must be at most {others}, the number of rows to find, got {count}")
    dense, coded = unit_rows(rows), unit_rows(approximations)
    found = 0
    for block in row_blocks(np.broadcast_to(0.0, (len(asked), len(rows)))):
        # The length of a query does not change which row is nearest.
        nearest = []
        for among in (dense, coded):
            cosines = asked[block] @ among.T
            if queries is None:
                own = np.arange(len(rows))[block]
                cosines[np.arange(len(own)), own] = -np.inf
            chosen = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            mask = np.zeros(cosines.shape, bool)
            np.put_along_axis(mask, chosen, True, axis=1)
            nearest.append(mask)
        found += int((nearest[0] & nearest[1]).sum())
    return found / (count * len(asked))
