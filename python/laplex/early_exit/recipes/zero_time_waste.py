"""Zero time waste: exits that use what earlier exits have computed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..policies.max_softmax import MaxSoftmax
from .recipe import Always, Recipe, reading


def ztw(*, threshold: float = 0.9, head: str = "linear") -> Recipe:
    r"""Make the recipe of zero time waste (Wolczyk et al. 2021, arXiv 2106.05409).

    Exit k sees the probabilities of the exit before it: its own prediction is :math:`p_k =
    \mathrm{softmax}(f_k(h_k) + U_k p_{k-1})`, where f_k is the head and h_k its activation. With a
    linear head this is one linear layer on the features and the probabilities together. Exit k
    answers with a geometric ensemble of all predictions so far, the backbone's own included,

    .. math:: q_k \propto b_k \prod_{j \le k} p_j^{w_{kj}}

    with learned b_k > 0, one number for each class, and w_kj > 0.

    Parameters
    ----------
    threshold : float
        Smallest largest probability at which samples leave, from 0 to 1.
    head : str
        The kind of the heads f_k.

    Returns
    -------
    Recipe

    Notes
    -----
    The backbone is trained first and then frozen, as in the paper. What differs: connections and
    ensembles train together, by the cross-entropy of q_k, instead of one after the other. Earlier
    predictions enter without gradients. The w_kj start at 1 / k (of 1..K) and the U_k at 0.
    """
    return Recipe(
        head,
        {"strategy": "disjoint"},
        Always(MaxSoftmax(threshold)),
        CascadeHead,
        wraps_output=True,
    )


class CascadeHead(nn.Module):
    """A head that sees the previous prediction and answers with an ensemble of all so far.

    Parameters
    ----------
    head : Module
        The head f_k; the identity for the backbone's own logits, which see no prediction.
    place : int
        Index k of the exit, from 0.
    num_exits, num_classes : int
    """

    carries = True

    def __init__(self, head: nn.Module, place: int, num_exits: int, num_classes: int) -> None:
        super().__init__()
        self.head = head
        self.reads_mask = getattr(head, "reads_mask", False)
        self.cascade: nn.Linear | None = None
        if 0 < place < num_exits - 1:
            self.cascade = nn.Linear(num_classes, num_classes, bias=False)
            nn.init.zeros_(self.cascade.weight)
        self.log_weights = nn.Parameter(torch.full((place + 1,), -math.log(place + 1)))
        self.log_bias = nn.Parameter(torch.zeros(num_classes))

    def forward(
        self, activation: Any, carried: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the ensemble's logits of a batch.

        Parameters
        ----------
        activation : Tensor, or sequence of them
            As the head takes it.
        carried : Tensor [batch, place, classes], optional
            Logarithms of the predictions of the exits before.
        mask : Tensor [batch, tokens] of bool, optional
            As the head takes it.

        Returns
        -------
        Tensor [batch, classes], Tensor [batch, place + 1, classes]
            The logits, and the logarithms of the predictions so far.
        """
        own = reading(self.head, activation, mask)
        if carried is not None and self.cascade is not None:
            own = own + self.cascade(carried[:, -1].detach().exp())
        seen = own.log_softmax(-1)[:, None]
        if carried is not None:
            seen = torch.cat((carried.detach(), seen), 1)
        return (self.log_weights.exp()[:, None] * seen).sum(1) + self.log_bias, seen
