"""The training objective: a weighted mean of the losses of the exits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..._support.arguments import not_negative, positive, share
from ..activations import map_tensors
from ..model import MultiExitModel
from .strategies import Part

Weights = Literal["equal", "linear", "sdn"] | Sequence[float]
Logits = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Distillation:
    """Self-distillation: the earlier exits also learn from the probabilities of the last exit.

    The loss of exit k becomes ``(1 - weight) CE + weight T^2 KL(p_last(T) || p_k(T))``, with
    probabilities at temperature T and no gradient to the last exit (Hinton et al. 2015).

    Parameters
    ----------
    weight : float
        Weight of the distillation term, from 0 to 1.
    temperature : float
        Temperature T, positive.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        positive("Distillation.temperature", self.temperature)
        share("Distillation.weight", self.weight)


@dataclass(frozen=True)
class Losses:
    """Losses of one batch.

    Attributes
    ----------
    total : Tensor []
        The objective, which is minimised.
    exits : Tensor [K]
        Cross-entropy of each exit, smoothed labels included; NaN for an exit whose head did not
        run.
    """

    total: Tensor
    exits: Tensor


@dataclass(frozen=True)
class Objective:
    r"""The objective :math:`\sum_k w_k L_k / \sum_k w_k` over the exits that a phase trains.

    Parameters
    ----------
    weights : "equal", "linear", "sdn", or a sequence of K numbers
        Weights :math:`w_k` of the losses. ``"equal"`` sets all to 1, as in the code of arXiv
        2407.14320. ``"linear"`` sets k + 1 for exit k, counted from 0. ``"sdn"`` is the ramp
        ``min(0.01 + t C_k, C_k)`` of shallow-deep networks, where t rises from 0 to 1 over the
        phase and C_k is the cost of exit k relative to the backbone; the last exit has the weight
        1.
    gradient_equilibrium : bool
        Whether to scale gradients in the backbone (Li et al. 2019): the gradient of exit k (of
        1..K) by ``1 / (K - k + 1)``, and the gradients of later exits, where they pass exit k, by
        ``(K - k) / (K - k + 1)``.
    detach : bool
        Whether to stop the gradients of the attached exits at their heads, so that the backbone
        learns from its own output only.
    distillation : Distillation, optional
        Self-distillation from the last exit.
    label_smoothing : float
        Label smoothing of the cross-entropies, at least 0 and less than 1.
    """

    weights: Weights = "equal"
    gradient_equilibrium: bool = False
    detach: bool = False
    distillation: Distillation | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", _checked_weights(self.weights))
        if self.detach and self.gradient_equilibrium:
            raise ValueError(
                "detach and gradient_equilibrium exclude each other: with detach, exits send no "
                "gradients into the backbone: pass one of the two"
            )
        if self.distillation is not None and not isinstance(self.distillation, Distillation):
            raise TypeError(
                "distillation must be a Distillation such as Distillation(weight=0.5), got "
                f"{self.distillation!r}"
            )
        if not_negative("label_smoothing", self.label_smoothing) >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {self.label_smoothing:g}")

    def exit_weights(
        self,
        num_exits: int,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
    ) -> list[float]:
        """Compute the weight of each exit, 0 for exits that a phase does not train.

        Parameters
        ----------
        num_exits : int
            Number of exits K.
        part : "backbone", "all" or "heads"
            The part that the phase trains.
        progress : float
            Progress of the phase, from 0 to 1.
        costs : sequence of K floats, optional
            Cost of each exit relative to the backbone, for ``"sdn"``.

        Returns
        -------
        list of K floats

        Raises
        ------
        ValueError
            If there are not K weights, or all exits that the phase trains have the weight 0.
        """
        if part == "backbone":  # its loss does not depend on the weights
            return [0.0] * (num_exits - 1) + [1.0]
        if self.weights == "equal":
            found = [1.0] * num_exits
        elif self.weights == "linear":
            found = [float(k + 1) for k in range(num_exits)]
        elif self.weights == "sdn":
            if costs is None:
                raise ValueError("weights='sdn' needs the costs of the exits")
            ramp = [min(0.01 + progress * cost, cost) for cost in costs[:-1]]
            found = [*(float(one) for one in ramp), 1.0]
        else:
            found = [float(one) for one in self.weights]
            if len(found) != num_exits:
                raise ValueError(
                    f"weights has {len(found)} entries, but there are {num_exits} exits, the "
                    "backbone's own output included: pass one weight per exit"
                )
        if part == "heads":
            found[-1] = 0.0
            if not sum(found):
                raise ValueError(
                    "weights are 0 for all exits but the last, which a phase of the heads does not "
                    "train: give another exit a positive weight"
                )
        return found

    def logits(self, model: MultiExitModel, x: Any, part: Part = "all") -> Logits:
        """Run a model on a batch in the way that a phase trains it.

        Parameters
        ----------
        model : MultiExitModel
            The model.
        x
            As in `MultiExitModel.forward`.
        part : "backbone", "all" or "heads"
            The part that the phase trains.

        Returns
        -------
        tuple of K Tensors [batch, classes]
            Logits of each exit. In a phase of the backbone no head runs, and the logits of the
            attached exits are None. In a phase of the heads the backbone runs without gradients.
        """
        exits, reader = model.num_exits, model.reader(x)
        if part == "backbone":
            last = model.walk(x, lambda k, activation: activation)
            return (*[None] * (exits - 1), last)
        if part == "heads":
            seen: list[Any] = []

            def note(k: int, activation: Any) -> Any:
                # A copy: the backbone's next module may write over the activation in place.
                seen.append(map_tensors(Tensor.clone, activation))
                return activation

            with torch.no_grad():
                last = model.walk(x, note)
            return (*(reader.logits(k, one) for k, one in enumerate(seen)), reader.output(last))
        found: list[Tensor] = []

        def at_exit(k: int, activation: Any) -> Any:
            own, passing = self._branches(activation, left=exits - k)
            found.append(reader.logits(k, own))
            return passing

        last = reader.output(model.walk(x, at_exit))
        return (*found, last)

    def losses(
        self,
        logits: Logits,
        labels: Tensor,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
    ) -> Losses:
        """Compute the losses of the logits that the method `logits` returned.

        Parameters
        ----------
        logits : tuple of K Tensors [batch, classes]
            Logits of each exit, None where the head did not run.
        labels : Tensor [batch], int64
            Class indices.
        part, progress, costs
            As in `exit_weights`.

        Returns
        -------
        Losses
        """
        last = logits[-1]
        assert last is not None
        weights = self.exit_weights(len(logits), part, progress=progress, costs=costs)
        terms: list[Tensor] = []
        each: list[Tensor] = []
        for k, one in enumerate(logits):
            if one is None:
                each.append(_float(last).new_full((), torch.nan))
                continue
            entropy = functional.cross_entropy(
                _float(one), labels, label_smoothing=self.label_smoothing
            )
            each.append(entropy.detach())
            attached = k < len(logits) - 1
            if attached and self.distillation is not None:
                entropy = self._distilled(entropy, one, last, self.distillation)
            if attached or part != "heads":
                terms.append(weights[k] * entropy)
        return Losses(torch.stack(terms).sum() / sum(weights), torch.stack(each))

    def _branches(self, activation: Any, left: int) -> tuple[Any, Any]:
        """The activation for the head and the one for the backbone; `left` is K - k + 1."""
        if self.detach:
            return map_tensors(lambda one: one.detach().clone(), activation), activation
        if not self.gradient_equilibrium:
            # A copy, as above: overwriting what the head keeps for its gradient is an error.
            return map_tensors(Tensor.clone, activation), activation
        own = map_tensors(lambda one: scale_gradient(one, 1 / left), activation)
        return own, map_tensors(lambda one: scale_gradient(one, (left - 1) / left), activation)

    @staticmethod
    def _distilled(entropy: Tensor, logits: Tensor, last: Tensor, how: Distillation) -> Tensor:
        kl = functional.kl_div(
            (_float(logits) / how.temperature).log_softmax(-1),
            (_float(last.detach()) / how.temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - how.weight) * entropy + how.weight * how.temperature**2 * kl


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()  # the next module could not write into a view in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """Return the same value, but multiply gradients that pass through it by `factor`."""
    scaled: Tensor = _ScaleGradient.apply(value, factor)  # type: ignore[no-untyped-call]
    return scaled


def _checked_weights(weights: Any) -> str | tuple[float, ...]:
    if isinstance(weights, str):
        if weights in ("equal", "linear", "sdn"):
            return weights
    else:
        try:
            numbers = tuple(float(one) for one in weights)
        except (TypeError, ValueError):
            pass
        else:
            if not all(0 <= one < math.inf for one in numbers) or not sum(numbers):
                raise ValueError(
                    f"weights must be finite, not negative, and not all 0, got {list(numbers)}"
                )
            return numbers
    raise ValueError(
        f"weights must be 'equal', 'linear', 'sdn', or one number for each exit, got {weights!r}"
    )


def _float(logits: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
