"""Global past-future early exits: heads that see earlier states and imitate later ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._support.arguments import not_negative, whole
from ..heads.base import Head
from ..policies.max_softmax import MaxSoftmax
from ..training.objectives import SampleLosses
from .recipe import Always, Recipe


def gpf(*, threshold: float = 0.9, width: int = 32, imitation: float = 1.0) -> Recipe:
    r"""Make the recipe of global past-future early exits (Liao et al. 2021, NAACL).

    Exit k makes a state :math:`s_k = \tanh(A_k \bar h_k)` of its activation, averaged over
    positions. It classifies from the past and from an imitation of the future,

    .. math:: \mathrm{logits}_k = W_k [\pi_k; \operatorname{mean}_{j > k} f_{kj}] + c_k,\quad
        \pi_k = \operatorname{mean}_{j \le k} s_j,\quad f_{kj} = \tanh(F_{kj} \pi_k).

    The imitations :math:`f_{kj}` learn from the states that later exits do compute: the objective
    is :math:`\sum_k k L_k / \sum_k k + \beta \operatorname{mean} (f_{kj} - s_j)^2`, in which the
    :math:`s_j` have no gradient. The last attached exit has no future, and the backbone's own
    output stays as it is.

    Parameters
    ----------
    threshold : float
        Smallest largest probability at which samples leave, from 0 to 1.
    width : int
        Number of features of a state, at least 1.
    imitation : float
        Weight :math:`\beta` of the imitation, at least 0.

    Returns
    -------
    Recipe

    Notes
    -----
    We know the idea of the paper, not its layers: states are means here, of features that are
    averaged over positions, and imitations are linear maps with tanh, trained by squared error.
    """
    whole("width", width, 1)
    return Recipe(
        "linear",
        {
            "strategy": "joint",
            "weights": "linear",
            "combine": Imitation(not_negative("imitation", imitation)),
        },
        Always(MaxSoftmax(threshold)),
        partial(_past_future, width=width),
    )


def _past_future(
    head: Any, place: int, num_exits: int, num_classes: int, *, width: int
) -> nn.Module:
    return PastFutureHead(head.linear.in_features, place, num_exits - 1, num_classes, width)


class PastFutureHead(Head):
    """A head that sees the states of earlier exits and imitates those of later ones.

    Parameters
    ----------
    in_features : int
        Number of features of the activation.
    place : int
        Index k of the exit, from 0.
    attached : int
        Number of attached exits.
    num_classes, width : int
        Number of classes, and of features of a state.
    """

    carries = True

    def __init__(
        self, in_features: int, place: int, attached: int, num_classes: int, width: int
    ) -> None:
        super().__init__()
        self.width = width
        self.state = nn.Linear(in_features, width)
        later = attached - 1 - place
        self.future = nn.Linear(width, later * width) if later else None
        self.classifier = nn.Linear(2 * width if later else width, num_classes)

    def classify(self, features: Tensor) -> Tensor:
        """Compute the state ``[batch, width]`` from features ``[batch, in_features]``."""
        state: Tensor = self.state(features).tanh()
        return state

    def forward(  # type: ignore[override]
        self,
        activation: Any,
        carried: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute the logits of a batch.

        Parameters
        ----------
        activation, mask
            As in `Head`.
        carried : (Tensor [batch, place, width], Tensor [batch, n, width]), optional
            The states of the exits before, and their imitations of later ones.

        Returns
        -------
        Tensor [batch, classes], (Tensor, Tensor)
            The logits, and what is carried on, longer by what this exit adds.
        """
        state = super().forward(activation, mask)[:, None]
        imitated = state[:, :0]
        if carried is not None:
            state = torch.cat((carried[0], state), 1)
            imitated = carried[1]
        features = past = state.mean(1)
        if self.future is not None:
            futures = self.future(past).tanh().unflatten(1, (-1, self.width))
            features = torch.cat((past, futures.mean(1)), 1)
            imitated = torch.cat((imitated, futures), 1)
        return self.classifier(features), (state, imitated)


@dataclass(frozen=True)
class Imitation:
    """The weighted mean of the losses, and the error of the imitated states."""

    weight: float

    def __call__(self, losses: SampleLosses) -> Tensor:
        """Compute the objective of a batch."""
        states, imitated = losses.carried
        real = [states[:, k + 1 :] for k in range(states.shape[1])]  # as the heads imitate them
        if not imitated.shape[1]:
            return losses.total
        error = functional.mse_loss(imitated, torch.cat(real, 1).detach())
        return losses.total + self.weight * error
