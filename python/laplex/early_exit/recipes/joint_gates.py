"""Exits and gates that are trained together, in the style of JEI-DNN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._support.arguments import not_negative, share
from ..model import MultiExitModel
from ..policies.learned import LearnedScore
from ..training.objectives import SampleLosses
from .recipe import Recipe, reading


def jei(*, cost: float = 0.5, threshold: float = 0.5, head: str = "pooled") -> Recipe:
    r"""Make a recipe in the style of jointly learned exits (Regol et al. 2024, arXiv 2310.09163).

    Exit k has a gate beside its head: the probability :math:`g_k` that a sample which arrives there
    leaves, computed from the largest probability, the entropy and the margin of its logits. The
    probability that a sample leaves at exit k is :math:`P_k = g_k \prod_{j < k} (1 - g_j)`, with
    :math:`g_K = 1` at the last exit. Heads and gates train together by

    .. math:: \frac{\sum_k w_k L_k}{\sum_k w_k}
        + \operatorname{mean}_i \sum_k P_{ki} (L_{ki} + \lambda c_k)

    where c_k is the cost of exit k relative to the backbone. In the end a sample leaves at the
    first exit whose gate reaches the threshold.

    Parameters
    ----------
    cost : float
        The price :math:`\lambda` of the cost of the backbone, in units of the loss, at least 0.
    threshold : float
        Smallest probability of a gate at which samples leave, from 0 to 1.
    head : str
        The kind of head.

    Returns
    -------
    Recipe

    Notes
    -----
    The paper optimises heads and gates in turns, as two levels; here one objective has both. Its
    first term is ours: it lets exits learn that no sample takes yet. Gates send no gradient into
    the heads.
    """
    return Recipe(
        head,
        {"strategy": "joint", "combine": ExpectedCost(not_negative("cost", cost))},
        partial(_policy, threshold=share("threshold", threshold)),
        GatedHead,
    )


def _policy(model: MultiExitModel, *, threshold: float) -> LearnedScore:
    return LearnedScore(GateScores(model), threshold)


class Gate(nn.Module):
    """The gate of an exit, from its logits [batch, classes] to a logit of leaving [batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Compute the logit of leaving of each sample."""
        logs = logits.detach().log_softmax(-1)
        two = logs.exp().topk(2, -1).values
        entropy = -(logs.exp() * logs).sum(-1) / math.log(logs.shape[-1])
        seen = torch.stack((two[:, 0], entropy, two[:, 0] - two[:, 1]), -1)
        gate: Tensor = self.linear(seen)[:, 0]
        return gate


class GatedHead(nn.Module):
    """A head with a gate beside it.

    Parameters
    ----------
    head : Module
        The head, which answers as it would without the gate.
    place, num_exits, num_classes : int
        As `Recipe.wrap` gets them; not used.
    """

    carries = True

    def __init__(self, head: nn.Module, place: int, num_exits: int, num_classes: int) -> None:
        super().__init__()
        self.head = head
        self.reads_mask = getattr(head, "reads_mask", False)
        self.gate = Gate()

    def forward(
        self, activation: Any, carried: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the logits of a batch, and carry the logits of its gates [batch, place + 1]."""
        logits = reading(self.head, activation, mask)
        gates = self.gate(logits)[:, None]
        return logits, gates if carried is None else torch.cat((carried, gates), 1)


class GateScores(nn.Module):
    """The probabilities of the gates of a model, as scores for `LearnedScore`.

    Parameters
    ----------
    model : MultiExitModel
        A model with a gate beside each head.
    """

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__()
        heads: Sequence[Any] = list(model.heads)
        self.gates = nn.ModuleList(head.gate for head in heads)
        self.num_exits = model.num_exits

    def score(self, k: int, logits: Tensor) -> Tensor:
        """Compute scores [batch] for the logits [batch, classes] of exit k; 1 at the last exit."""
        if k == len(self.gates):
            return torch.ones_like(logits[:, 0])
        score: Tensor = self.gates[k](logits).sigmoid()
        return score


@dataclass(frozen=True)
class ExpectedCost:
    """The weighted mean of the losses, and the expected loss and cost of the gates' decisions."""

    price: float

    def __call__(self, losses: SampleLosses) -> Tensor:
        """Compute the objective of a batch."""
        if losses.costs is None:
            raise ValueError("the gates need the costs of the exits: pass costs to the objective")
        costs = losses.each.new_tensor(losses.costs)[:, None]
        paid = losses.each + self.price * costs
        return losses.total + (leaving(losses.carried) * paid).sum(0).mean()


def leaving(gates: Tensor) -> Tensor:
    """The probability [K, batch] to leave at each exit, from logits of gates [batch, K - 1]."""
    stays = functional.pad(functional.logsigmoid(-gates).cumsum(1), (1, 0))
    leaves = functional.pad(functional.logsigmoid(gates), (0, 1))
    return (stays + leaves).exp().T
