"""The training objective: a weighted mean of the losses of the exits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._support.arguments import positive, share
from ..activations import map_tensors
from ..model import MultiExitModel
from ..reading import check_alike
from .exit_loss import ExitLoss, Loss, counting, in_float
from .strategies import Part

Weights = Literal["equal", "linear", "sdn"] | Sequence[float]
Logits = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Distillation:
    """Self-distillation: the earlier exits also learn from the probabilities of the last exit.

    The loss of exit k becomes ``(1 - weight) L_k + weight T^2 KL(p_last(T) || p_k(T))``, with
    softmax probabilities at temperature T and no gradient to the last exit (Hinton et al. 2015).

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
        Loss of each exit, without gradients; label smoothing is included, distillation is not. NaN
        for an exit whose head did not run.
    count : int
        Number of labels that count: of samples or, for losses of tokens, of tokens.
    """

    total: Tensor
    exits: Tensor
    count: int


@dataclass(frozen=True)
class SampleLosses:
    """What the function `combine` of an `Objective` makes the objective of a batch from.

    Attributes
    ----------
    total : Tensor []
        The weighted mean of the losses, which `combine` replaces.
    each : Tensor [K, batch]
        The loss of each exit and sample.
    weights : list of K floats
        The weight of each exit, as `Objective.exit_weights` returns it.
    logits : tuple of K Tensors [batch, classes]
        The logits of each exit.
    labels
        The labels of the batch.
    carried : Tensor, nested Tensors, or None
        What the last head with ``carries = True`` returned beside its logits.
    costs : sequence of K floats, or None
        The cost of each exit relative to the backbone; `train` counts it.
    """

    total: Tensor
    each: Tensor
    weights: list[float]
    logits: tuple[Tensor, ...]
    labels: Any
    carried: Any
    costs: Sequence[float] | None


Combine = Callable[[SampleLosses], Tensor]


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
    loss : "cross-entropy", "bce", "mse", or callable
        The loss :math:`L_k` of one exit. ``"cross-entropy"`` takes class indices, int64 [batch], or
        probabilities of the classes (of mixup or cutmix), float [batch, classes]. For logits of
        tokens, [batch, tokens, classes], it takes int64 [batch, tokens] or float [batch, tokens,
        classes]. Labels of -100 do not count. ``"bce"`` is the binary cross-entropy of logits for
        several labels at once, and takes 0 to 1 for each, [batch, labels]. ``"mse"`` is the mean
        squared error of outputs [batch, d]. Alternatively, a function ``loss(logits, labels)``
        that returns a scalar, or unreduced losses with the batch first, which are averaged; it
        gets the labels as the loader yields them.
    class_weights : sequence of float, optional
        Weights of the classes, as ``weight`` of torch's cross-entropies. For ``"cross-entropy"``
        and ``"bce"``.
    combine : callable, optional
        A function from `SampleLosses` to the objective [], instead of the weighted mean: to weigh
        single samples, or to add a term from what the heads carry. A phase of the backbone does not
        use it.

    Examples
    --------
    In a training loop of your own, call the objective instead of the model:

    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel, Objective
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"0": nn.Linear(8, 3)})
    >>> losses = Objective("linear")(model, torch.randn(5, 4), torch.arange(5) % 3)
    >>> losses.total.backward()
    >>> losses.exits.shape
    torch.Size([2])
    """

    weights: Weights = "equal"
    gradient_equilibrium: bool = False
    detach: bool = False
    distillation: Distillation | None = None
    label_smoothing: float = 0.0
    loss: Loss = "cross-entropy"
    class_weights: Sequence[float] | None = None
    combine: Combine | None = None

    def __post_init__(self) -> None:
        exit_loss = self.exit_loss  # checks the loss and its options
        object.__setattr__(self, "class_weights", exit_loss.class_weights)
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
        if self.distillation is not None and self.loss in ("bce", "mse"):
            raise ValueError(
                "distillation compares softmax probabilities of classes, which a model with "
                f"loss={self.loss!r} does not have: leave out one of the two"
            )
        if self.combine is not None and not callable(self.combine):
            raise TypeError(f"combine must be a function of SampleLosses, got {self.combine!r}")

    @cached_property
    def exit_loss(self) -> ExitLoss:
        """The loss of one exit.

        :meta private:
        """
        return ExitLoss(self.loss, self.class_weights, self.label_smoothing)

    def exit_weights(
        self,
        num_exits: int,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
        output_head: bool = False,
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
        output_head : bool
            Whether the model has an output head, which a phase of the heads trains too.

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
        if part == "heads" and not output_head:
            found[-1] = 0.0
            if not sum(found):
                raise ValueError(
                    "weights are 0 for all exits but the last, which a phase of the heads does not "
                    "train: give another exit a positive weight"
                )
        return found

    def __call__(
        self,
        model: MultiExitModel,
        x: Any,
        labels: Any,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
        name: str = "the batch",
    ) -> Losses:
        """Run a model on a batch and compute the losses, for a training loop of your own.

        Parameters
        ----------
        model : MultiExitModel
            The model, in the mode that you set.
        x
            As in `MultiExitModel.forward`.
        labels : Tensor
            Labels that suit the loss; those of the cross-entropy are int64 [batch].
        part, progress, costs
            As in `exit_weights`. Freezing the other part, and the modes of modules, are up to you.
        name : str
            Name of the loader, for messages.

        Returns
        -------
        Losses
            Call ``backward()`` on its ``total``.

        Raises
        ------
        TypeError, ValueError
            If the labels do not suit the loss or the model; if an exit gives logits of another
            shape than the backbone; or if gradients are enabled but cannot reach an exit that is
            trained.
        """
        logits, carried = self._run(model, x, part)
        check_alike(logits, model.output_names)
        _check_gradients(model, logits, part)
        return self.losses(
            logits,
            labels,
            part,
            progress=progress,
            costs=costs,
            carried=carried,
            output_head=model.output_head is not None,
            name=name,
        )

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
        return self._run(model, x, part)[0]

    def _run(self, model: MultiExitModel, x: Any, part: Part) -> tuple[Logits, Any]:
        """The logits, and what the last carrying head returned beside them."""
        exits, reader = model.num_exits, model.reader(x)
        if part == "backbone":
            last = model.walk(x, lambda k, activation: activation)
            return (*[None] * (exits - 1), last), None
        seen: list[Any] = []

        def at_exit(k: int, activation: Any) -> Any:
            if part == "heads":
                own, passing = _copied(activation), activation
            else:
                own, passing = self._branches(activation, left=exits - k)
            seen.append(own)
            return passing

        with torch.no_grad() if part == "heads" else nullcontext():
            last = model.walk(x, at_exit)
        # Heads run last: in a module under torch.utils.checkpoint, they would be missed when it
        # computes its activations again.
        each = [reader.logits(k, one) for k, one in enumerate(seen)]
        return (*each, reader.output(last)), reader.carried

    def losses(
        self,
        logits: Logits,
        labels: Any,
        part: Part = "all",
        *,
        progress: float = 1.0,
        costs: Sequence[float] | None = None,
        carried: Any = None,
        output_head: bool = False,
        name: str = "the batch",
    ) -> Losses:
        """Compute the losses of the logits that the method `logits` returned.

        Parameters
        ----------
        logits : tuple of K Tensors [batch, classes]
            Logits of each exit, None where the head did not run.
        labels : Tensor
            Labels that suit the loss.
        part, progress, costs
            As in `exit_weights`.
        carried
            For `combine`: what the last carrying head returned beside its logits.
        output_head : bool
            As in `exit_weights`.
        name : str
            Name of the loader, for messages.

        Returns
        -------
        Losses

        Raises
        ------
        TypeError, ValueError
            If the labels do not suit the loss or the logits, or the logits of an exit have another
            shape than those of the last.
        """
        check_alike(logits, range(len(logits)))
        last = logits[-1]
        assert last is not None
        self.exit_loss.check(labels, last, name)
        weights = self.exit_weights(
            len(logits), part, progress=progress, costs=costs, output_head=output_head
        )
        exit_loss = self.exit_loss
        terms: list[Tensor] = []
        each: list[Tensor] = []
        for k, one in enumerate(logits):
            if one is None:
                each.append(in_float(last).new_full((), torch.nan))
                continue
            loss = exit_loss.mean(one, labels)
            each.append(loss.detach())
            attached = k < len(logits) - 1
            if attached and self.distillation is not None:
                loss = _distilled(loss, one, last, labels, self.distillation)
            if attached or output_head or part != "heads":
                terms.append(weights[k] * loss)
        total, exits = torch.stack(terms).sum() / sum(weights), torch.stack(each)
        count = exit_loss.count(last, labels)
        if self.combine is None or part == "backbone":
            return Losses(total, exits, count)
        known = tuple(one for one in logits if one is not None)
        by_sample = torch.stack([exit_loss.each(one, labels) for one in known])
        seen = SampleLosses(total, by_sample, weights, known, labels, carried, costs)
        return Losses(self.combine(seen), exits, count)

    def _branches(self, activation: Any, left: int) -> tuple[Any, Any]:
        """The activation for the head and the one for the backbone; `left` is K - k + 1."""
        if self.detach:
            return map_tensors(lambda one: one.detach().clone(), activation), activation
        if not self.gradient_equilibrium:
            return _copied(activation), activation
        own = map_tensors(lambda one: scale_gradient(one, 1 / left), activation)
        return own, map_tensors(lambda one: scale_gradient(one, (left - 1) / left), activation)


def _copied(activation: Any) -> Any:
    """A copy for the head: the backbone's next module may write over the activation in place."""
    return map_tensors(Tensor.clone, activation)


def _distilled(
    loss: Tensor, logits: Tensor, last: Tensor, labels: Any, how: Distillation
) -> Tensor:
    kl = functional.kl_div(
        (in_float(logits) / how.temperature).log_softmax(-1),
        (in_float(last.detach()) / how.temperature).log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    counted = counting(logits, labels)
    mean = kl.mean() if counted is None else (kl * counted).sum() / counted.sum().clamp(min=1)
    return (1 - how.weight) * loss + how.weight * how.temperature**2 * mean


def _check_gradients(model: MultiExitModel, logits: Logits, part: Part) -> None:
    """Check that gradients reach every exit that is trained.

    Raises
    ------
    ValueError
        If an exit would never train.
    """
    if not torch.is_grad_enabled():
        return
    learning: list[nn.Module | None] = [*model.heads, model.output_head]
    if part == "backbone" or (part == "all" and model.output_head is None):
        learning[-1] = model.backbone
    for name, one, module in zip(model.output_names, logits, learning, strict=True):
        if module is None or one is None or one.requires_grad:
            continue
        if any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"exit {name!r} would never train, because its logits do not require gradients: "
                "remove torch.no_grad and detach there; in torch.utils.checkpoint, pass "
                "use_reentrant=False"
            )


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
