"""Patience-based early exits (PABEE)."""

from __future__ import annotations

from ..policies.patience import Patience
from .recipe import Always, Recipe


def pabee(*, n: int = 1, head: str = "linear") -> Recipe:
    r"""Make the recipe of patience-based early exits (Zhou et al. 2020, arXiv 2006.04152).

    All exits train together by :math:`\sum_{k=1}^K k L_k / \sum_{k=1}^K k`, so that deep exits
    count more. A sample leaves when `n` exits in a row have repeated the prediction of the exit
    before them.

    Parameters
    ----------
    n : int
        Number of repetitions, at least 0.
    head : str
        The kind of head; for transformers whose first token is for classification, ``"token"``.

    Returns
    -------
    Recipe

    Notes
    -----
    The paper leaves regression when two outputs are closer than a threshold; `Patience` compares
    classes only.
    """
    return Recipe(head, {"strategy": "joint", "weights": "linear"}, Always(Patience(n)))
