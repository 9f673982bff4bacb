"""What is minimised: a weighted mean of the losses of the exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .activations import map_tensors
from .model import MultiExitModel
from .strategies import Part, positive

Weights = Literal["equal", "linear", "sdn"] | Sequence[float]


@dataclass(frozen=True)
class Distillation:
    """Exits learn from the last exit's probabilities too.

    The loss of exit k becomes ``(1 - weight) CE + weight T^2 KL(p_last(T) || p_k(T))``, with
    probabilities at temperature T and without gradient to the last exit (Hinton et al. 2015).

    Parameters
    ----------
    weight : float
        0 to 1.
    temperature : float
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        positive("Distillation.temperature", self.temperature)
        if not 0 <= float(self.weight) <= 1:
            raise ValueError(f"Distillation.weight must be 0 to 1, got {self.weight:g}")


@dataclass(frozen=True)
class Losses:
    """Losses of one batch.

    Attributes
    ----------
    total : Tensor []
        What is minimised.
    exits : Tensor [K]
        Cross-entropy of each exit; NaN for an exit whose head did not run.
    logits : tuple of Tensor [batch, classes] or None
        Of each exit, None where the head did not run.
    """

    total: Tensor
    exits: Tensor
    logits: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Objective:
    r"""The loss :math:`\sum_k w_k L_k / \sum_k w_k` over the exits that a phase trains.

    Parameters
    ----------
    weights : "equal", "linear", "sdn", or a sequence of K numbers
        ``"equal"``: 1, as in the code of arXiv 2407.14320. ``"linear"``: k + 1 for exit k.
        ``"sdn"``: the ramp ``min(0.01 + t C_k, C_k)`` of shallow-deep networks, with t from 0 to 1
        over the phase and C_k the cost of exit k over that of the backbone; 1 for the last exit.
    gradient_equilibrium : bool
        Scale what exit k (of 1..K) sends back into the backbone by ``1 / (K - k + 1)``, and what
        comes back past it from later exits by ``(K - k) / (K - k + 1)`` (Li et al. 2019).
    detach : bool
        Send nothing back from the attached exits: the backbone learns from its own output alone.
    distillation : Distillation, optional
    label_smoothing : float
        Of the cross-entropies, 0 to less than 1.
    """

    weights: Weights = "equal"
    gradient_equilibrium: bool = False
    detach: bool = False
    distillation: Distillation | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            if self.weights not in ("equal", "linear", "sdn"):
                raise ValueError(
                    "weights must be 'equal', 'linear', 'sdn', or one number for each exit, got "
                    f"{self.weights!r}"
                )
        else:
            numbers = tuple(float(one) for one in self.weights)
            if not all(0 <= one < float("inf") for one in numbers) or not sum(numbers):
                raise ValueError(
                    f"weights must be finite, not negative, and not all 0, got {list(numbers)}"
                )
            object.__setattr__(self, "weights", numbers)
        if self.detach and self.gradient_equilibrium:
            raise ValueError("detach sends nothing back to scale: leave gradient_equilibrium away")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing:g}"
            )

    def exit_weights(
        self, num_exits: int, progress: float = 1.0, costs: Sequence[float] | None = None
    ) -> list[float]:
        """The weight of each exit, K numbers.

        Parameters
        ----------
        num_exits : int
        progress : float
            Of the phase, 0 to 1.
        costs : sequence of K floats, optional
            Cost of each exit over that of the backbone, for ``"sdn"``.

        Raises
        ------
        ValueError
            Another number of weights.
        """
        if self.weights == "equal":
            return [1.0] * num_exits
        if self.weights == "linear":
            return [float(k + 1) for k in range(num_exits)]
        if self.weights == "sdn":
            if costs is None:
                raise ValueError("weights='sdn' needs the costs of the exits")
            ramp = [min(0.01 + progress * cost, cost) for cost in costs[:-1]]
            return [*(float(one) for one in ramp), 1.0]
        if len(self.weights) != num_exits:
            raise ValueError(
                f"weights has {len(self.weights)} entries for {num_exits} exits, the last of them "
                "the backbone's own output: pass one for each"
            )
        return [float(one) for one in self.weights]

    def losses(
        self,
        model: MultiExitModel,
        x: Any,
        labels: Tensor,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
    ) -> Losses:
        """Run a model on a batch as a phase does, and take the losses.

        In a phase of the backbone no head runs; in one of the heads the backbone runs without
        gradient.
        """
        exits = model.num_exits
        if part == "backbone":
            last = model.walk(x, lambda k, activation: activation)
            loss = self._entropy(last, labels)
            unknown = loss.detach().new_full((exits - 1,), torch.nan)
            return Losses(
                loss, torch.cat((unknown, loss.detach()[None])), (*[None] * (exits - 1), last)
            )
        logits = self._all_logits(model, x, frozen=part == "heads")
        each = [self._entropy(one, labels) for one in logits]
        counted = [self._distilled(each[k], logits[k], logits[-1]) for k in range(exits - 1)]
        weights = self.exit_weights(exits, progress, costs)
        if part == "heads":
            weights = weights[:-1]
            if not sum(weights):
                raise ValueError(
                    "weights are 0 for all exits but the last, which heads don't train"
                )
        else:
            counted.append(each[-1])
        total = torch.stack([w * one for w, one in zip(weights, counted, strict=True)]).sum()
        return Losses(total / sum(weights), torch.stack(each).detach(), tuple(logits))

    def _all_logits(self, model: MultiExitModel, x: Any, *, frozen: bool) -> list[Tensor]:
        if frozen:
            seen: list[Any] = []

            def note(k: int, activation: Any) -> Any:
                seen.append(activation)
                return activation

            with torch.no_grad():
                last = model.walk(x, note)
            return [*(model.head_logits(k, one) for k, one in enumerate(seen)), last]
        logits: list[Tensor] = []

        def at_exit(k: int, activation: Any) -> Any:
            left = model.num_exits - k  # K - k + 1 with k from 1
            if self.detach:
                logits.append(model.head_logits(k, map_tensors(Tensor.detach, activation)))
                return activation
            if self.gradient_equilibrium:
                own = map_tensors(lambda one: scale_gradient(one, 1 / left), activation)
                logits.append(model.head_logits(k, own))
                return map_tensors(lambda one: scale_gradient(one, (left - 1) / left), activation)
            logits.append(model.head_logits(k, activation))
            return activation

        last = model.walk(x, at_exit)
        return [*logits, last]

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits,
            labels,
            label_smoothing=self.label_smoothing,
        )

    def _distilled(self, loss: Tensor, logits: Tensor, last: Tensor) -> Tensor:
        if self.distillation is None:
            return loss
        temperature, weight = self.distillation.temperature, self.distillation.weight
        kl = functional.kl_div(
            (logits / temperature).log_softmax(-1),
            (last.detach() / temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - weight) * loss + weight * temperature**2 * kl


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, through which gradients are multiplied by `factor`."""
    scaled: Tensor = _ScaleGradient.apply(value, factor)  # type: ignore[no-untyped-call]
    return scaled
