"""Weights of samples by the exits at which they leave, in the style of L2W."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._support.arguments import positive, share
from ..policies.max_softmax import MaxSoftmax
from ..training.objectives import SampleLosses
from .recipe import Always, Recipe


def l2w(
    *, threshold: float = 0.9, strength: float = 0.8, ratio: float = 1.0, head: str = "pooled"
) -> Recipe:
    r"""Make a recipe in the style of learning to weight samples (Han et al. 2022, ECCV).

    Easy samples leave early, so they should count more for early exits, and hard ones for late
    exits. In each batch, exit k of 1..K takes a share of the samples proportional to
    :math:`r^k`: of those that are left, the ones with the largest probability. With
    :math:`a_{ki} = 1` for the samples i that exit k takes and 0 for others, sample i has the weight
    :math:`v_{ki} = 1 + \delta (a_{ki} - \operatorname{mean}_i a_{ki})` in the loss of exit k, which
    is :math:`\operatorname{mean}_i v_{ki} L_{ki}`. The weights of an exit have the mean 1 and are
    between :math:`1 - \delta` and :math:`1 + \delta`.

    Parameters
    ----------
    threshold : float
        Smallest largest probability at which samples leave, from 0 to 1.
    strength : float
        The range :math:`\delta` of the weights around 1, from 0 to 1.
    ratio : float
        The ratio r of the shares of two exits in a row, positive; below 1, most samples leave
        early.
    head : str
        The kind of head.

    Returns
    -------
    Recipe

    Notes
    -----
    The paper predicts the weights by a network, which a meta-gradient trains for the loss of the
    exits on the samples that leave there. We take that allocation itself as the weights: there is
    no network, no meta-gradient and no second backward pass. So this shows the idea of the paper,
    not its results.
    """
    weigh = LeavingWeights(share("strength", strength), positive("ratio", ratio))
    return Recipe(head, {"strategy": "joint", "combine": weigh}, Always(MaxSoftmax(threshold)))


@dataclass(frozen=True)
class LeavingWeights:
    """The weighted mean of the losses, with weights for the samples of each exit."""

    strength: float
    ratio: float

    def __call__(self, losses: SampleLosses) -> Tensor:
        """Compute the objective of a batch."""
        each = (self.weights(losses.logits) * losses.each).mean(1)
        by_exit = each.new_tensor(losses.weights)
        return (by_exit * each).sum() / by_exit.sum()

    def weights(self, logits: tuple[Tensor, ...]) -> Tensor:
        """The weights [K, batch] of the samples for each exit."""
        taken = self.taken(logits).to(logits[0].dtype)
        return 1 + self.strength * (taken - taken.mean(1, keepdim=True))

    def taken(self, logits: tuple[Tensor, ...]) -> Tensor:
        """Which samples each exit takes, bool [K, batch]; each sample is taken by one exit."""
        exits, batch = len(logits), len(logits[0])
        shares = torch.tensor([self.ratio**k for k in range(exits)], dtype=torch.float64)
        ends = (shares.cumsum(0) / shares.sum() * batch).round().long().tolist()
        taken = torch.zeros((exits, batch), dtype=torch.bool, device=logits[0].device)
        done = 0
        for k, end in enumerate(ends):
            sure = logits[k].detach().softmax(-1).amax(-1).reshape(batch, -1).mean(1)
            sure = sure.masked_fill(taken.any(0), -1.0)
            taken[k, sure.topk(end - done).indices] = True
            done = end
        return taken
