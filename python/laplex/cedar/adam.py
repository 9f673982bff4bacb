"""The gradient solver: Adam on mini-batches, for any change of basis and any number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .basis import Basis
from .topk import top_k

#: Fraction of the steps in which the learning rate rises from 0; after them it falls as a cosine.
_WARM_UP = 0.05

#: Gain of a fifth of the steps, as a fraction of the variance, below which a fit has converged;
#: the same rise of the loss tells that it has not.
_LEAST_GAIN = 0.01

#: The loss of a rotation is at most 1, the variance; that of one batch may be larger.
_WORST_LOSS = 10.0


class Training:
    r"""Adam on the mean squared reconstruction error, as a fraction of the variance.

    With several k, the loss is the mean of their losses. The mask of T_k is piecewise constant, so
    plain gradients through the kept values are exact almost everywhere.

    Parameters
    ----------
    transform : Module
        Returns a ``Basis`` when called.
    centre : Tensor [d]
        The centre b; with ``learn_centre`` it is trained too.
    scale : float
        Root of the variance. The data are divided by it, so the learning rate does not depend on
        their unit.
    ks : sequence of int
        Numbers of entries of a code.
    learning_rate : float
        The largest learning rate of the schedule.
    steps : int or None
        Length of the schedule; None keeps the learning rate constant.
    learn_centre : bool
        Whether to train the centre.
    """

    def __init__(
        self,
        transform: nn.Module,
        centre: Tensor,
        scale: float,
        ks: Sequence[int],
        *,
        learning_rate: float,
        steps: int | None,
        learn_centre: bool = False,
    ) -> None:
        self.transform = transform
        self.ks = list(ks)
        self.scale = scale
        self.steps = steps
        self.learning_rate = learning_rate
        self.learn_centre = learn_centre
        self.centre = centre
        self.shift = nn.Parameter(torch.zeros_like(centre), requires_grad=learn_centre)
        parameters = [*transform.parameters(), *([self.shift] if learn_centre else [])]
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        self.step = 0
        self.losses: list[float] = []

    def advance(self, batch: Tensor) -> float:
        """Take one step on rows [b, d] and return the loss before it."""
        self._set_rate()
        self.optimizer.zero_grad(set_to_none=True)
        z = (batch - self.centre) / self.scale - self.shift
        loss = reconstruction_error(self.transform(), z, self.ks)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def check(self) -> None:
        """Raise an error if the loss is not finite or far above that of the mean alone."""
        if not self.losses[-1] <= _WORST_LOSS:
            raise ValueError(
                f"the fit diverged: its loss is {self.losses[-1]:.3g} times the variance; lower "
                f"learning_rate={self.learning_rate:g}"
            )

    def unfinished(self, *, from_chance: bool) -> str:
        """Return why the schedule was too short, too fast or too slow; nothing if it was not.

        The learning rate falls to 0, so the loss is always flat at the end. The gain from the third
        to the fourth fifth of the steps, with half of the rate left, tells more. A loss that rose,
        or is no better than that of a random start, tells that steps were too large. A step changes
        a parameter by about the learning rate, and an entry of a rotation has the size 1/sqrt(d):
        if all steps together are shorter, they cannot have turned it.
        """
        part = len(self.losses) // 5
        fifths = [self.losses[place * part : (place + 1) * part] for place in range(5)]
        means = [sum(fifth) / max(1, part) for fifth in fifths]
        path = 0.5 * self.learning_rate * len(self.losses)
        least = len(self.centre) ** -0.5
        if not part:
            what = "of fewer than 5 steps the loss says nothing. Raise max_iter"
        elif means[2] - means[3] >= _LEAST_GAIN:
            what = (
                f"the loss still fell by {means[2] - means[3]:.2g} of the variance from the third "
                f"to the fourth fifth of them (above {_LEAST_GAIN:g}). Raise max_iter"
            )
        elif path < least:
            what = (
                f"together they turn the axes by {path:.2g} at most, and {least:.2g} is the size "
                f"of an entry of a rotation. Raise max_iter or learning_rate={self.learning_rate:g}"
            )
        elif means[4] > min(means) + _LEAST_GAIN:
            what = (
                f"the loss rose by {means[4] - min(means):.2g} of the variance. Lower "
                f"learning_rate={self.learning_rate:g}"
            )
        elif from_chance and means[4] > self.losses[0] - _LEAST_GAIN:
            what = (
                "the codes explain no more than at the random start: the rows have no sparse axes, "
                f"or steps were too large. Lower learning_rate={self.learning_rate:g}"
            )
        else:
            return ""
        return f"max_iter={self.steps} steps of adam: {what}"

    def basis(self) -> Basis:
        """Return the current basis."""
        finished: Callable[[], Basis] = self.transform.finished  # type: ignore[assignment]
        return finished()

    def mean(self) -> Tensor:
        """Return the current centre b [d] in float64."""
        return self.centre.double() + self.shift.detach().double() * self.scale

    def state(self) -> dict[str, Any]:
        """Return everything that ``restore`` needs to continue with the same bits."""
        return {
            "transform": self.transform.state_dict(),
            "shift": self.shift.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": list(self.losses),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.transform.load_state_dict(state["transform"])
        with torch.no_grad():
            self.shift.copy_(state["shift"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.losses = list(state["losses"])

    def _set_rate(self) -> None:
        if self.steps is None:
            return
        rising = max(1, round(_WARM_UP * self.steps))
        if self.step < rising:
            part = (self.step + 1) / rising
        else:
            done = (self.step - rising) / max(1, self.steps - rising)
            part = 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * min(1.0, done))))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * part


def reconstruction_error(basis: Basis, z: Tensor, ks: Sequence[int]) -> Tensor:
    r"""Return :math:`\langle |z - U^{-1} T_k(U z)|^2 \rangle` for centred z, averaged over ks."""
    norms = basis.atom_norms
    coordinates = basis.analyse(z)
    losses = []
    for k in ks:
        codes = top_k(coordinates, k, norms)
        if basis.orthogonal:  # what is left out has the same norm on either side
            losses.append((coordinates - codes).square().sum(1).mean())
        else:
            losses.append((z - basis.synthesise(codes)).square().sum(1).mean())
    return torch.stack(losses).mean()
