"""Sorting, ranks and selection that can be differentiated, in O(n log n).

All functions take scores and a temperature ``tau`` in the unit of the scores. With ``tau`` towards
0 they become those of ``torch.sort``, and with ``hard=True`` they are these in the forward pass.

`soft_rank`, `soft_sort`, `soft_quantile`, `soft_topk` and `soft_permute` are made of sums of
Laplace CDFs (LapSum, arXiv 2503.06242). `softsort` is the row-normalised Laplace kernel (SoftSort,
arXiv 2006.16038). `spearman_loss`, `topk_mask` and `SoftPermutation` are built from them.
"""

from __future__ import annotations

from laplex._support.optional import require

require("torch", extra="torch", feature="laplex.order")

from laplex.order.losses import spearman_loss  # noqa: E402  (after the check for torch)
from laplex.order.module import SoftPermutation  # noqa: E402
from laplex.order.permutations import soft_permute, softsort  # noqa: E402
from laplex.order.quantiles import soft_quantile, soft_sort  # noqa: E402
from laplex.order.ranks import soft_rank  # noqa: E402
from laplex.order.selection import soft_topk, topk_mask  # noqa: E402

__all__ = [
    "SoftPermutation",
    "soft_permute",
    "soft_quantile",
    "soft_rank",
    "soft_sort",
    "soft_topk",
    "softsort",
    "spearman_loss",
    "topk_mask",
]
