"""Shallow-deep networks."""

from __future__ import annotations

from ..policies.max_softmax import MaxSoftmax
from .recipe import Always, Recipe


def sdn(*, threshold: float = 0.9) -> Recipe:
    r"""Make the recipe of shallow-deep networks (Kaya, Hong and Dumitras 2019, arXiv 1810.07052).

    Each head mixes the maximum and the average over positions. All exits train together by
    :math:`\sum_k w_k L_k / \sum_k w_k`, where the weight of an exit rises over the training from
    0.01 to its relative cost (`Objective`, ``weights="sdn"``). A sample leaves at the first exit
    whose largest probability reaches the threshold; if none does, the most confident exit answers.

    Parameters
    ----------
    threshold : float
        Smallest largest probability at which samples leave, from 0 to 1.

    Returns
    -------
    Recipe

    Notes
    -----
    The paper trains on a network from scratch, as here, or on one that is trained and frozen: for
    that, pass ``strategy="disjoint"`` instead of the one in the options.
    """
    return Recipe(
        "pooled",
        {"strategy": "joint", "weights": "sdn"},
        Always(MaxSoftmax(threshold, fallback="most_confident")),
    )
