"""The loss of one exit: what kinds there are, which labels they take, and what counts as right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..._support.arguments import not_negative
from ..batches import IGNORED

Loss = str | Callable[[Tensor, Any], Tensor]

KINDS = ("cross-entropy", "bce", "mse")


@dataclass(frozen=True)
class ExitLoss:
    """The loss of one exit; the parameters are those of `Objective`."""

    kind: Loss = "cross-entropy"
    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.kind) and self.kind not in KINDS:
            raise ValueError(
                f"loss must be one of {', '.join(map(repr, KINDS))}, or a function of logits and "
                f"labels, got {self.kind!r}"
            )
        if not_negative("label_smoothing", self.label_smoothing) >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {self.label_smoothing:g}")
        what = "a function" if callable(self.kind) else repr(self.kind)
        if self.label_smoothing and self.kind != "cross-entropy":
            raise ValueError(
                f"label_smoothing is for loss='cross-entropy', but loss is {what}: leave it out"
            )
        if self.class_weights is None:
            return
        if self.kind not in ("cross-entropy", "bce"):
            raise ValueError(
                f"class_weights are for loss='cross-entropy' and 'bce', but loss is {what}: leave "
                "them out"
            )
        object.__setattr__(self, "class_weights", _checked_classes(self.class_weights))

    def mean(self, logits: Tensor, labels: Any, *, smoothed: bool = True) -> Tensor:
        """The mean [] over the labels that count; 0 if none does, or all have the weight 0."""
        if self.kind == "cross-entropy":
            counted = counting(logits, labels)
            if counted is not None:
                if self.class_weights is not None:
                    weights = logits.new_tensor(self.class_weights)
                    counted = counted & (weights[labels.where(counted, 0)] > 0)
                if not bool(counted.any()):  # torch divides by the sum of the weights
                    return logits.sum() * 0
            return self._cross_entropy(logits, labels, "mean", smoothed)
        return self._unreduced(logits, labels).mean()

    def each(self, logits: Tensor, labels: Any) -> Tensor:
        """The loss [batch] of each sample: the mean over its labels that count."""
        if self.kind == "cross-entropy":
            found = self._cross_entropy(logits, labels, "none", smoothed=True)
            found = found.reshape(len(logits), -1).sum(1)
            counted = counting(logits, labels)
            if counted is None:
                return found / (math.prod(logits.shape[1:-1]) or 1)
            return found / counted.reshape(len(logits), -1).sum(1).clamp(min=1)
        found = self._unreduced(logits, labels)
        if found.ndim == 0 or len(found) != len(logits):
            raise ValueError(
                f"loss must return one loss for each of the {len(logits)} samples, as combine "
                f"weighs samples, got {list(found.shape)}: use reduction='none' in it"
            )
        return found.reshape(len(found), -1).mean(1)

    def accuracy(self, logits: Tensor, labels: Any) -> Tensor:
        """The share [] of labels that are right; NaN where that has no meaning."""
        found: Tensor
        counted = counting(logits, labels)
        if self.kind == "bce":
            found = (logits > 0) == (labels > 0.5)
            return found.float().mean()
        if counted is not None and self.kind != "mse":
            right: Tensor = (logits.argmax(-1) == labels) & counted
            return right.sum() / counted.sum().clamp(min=1)
        if self.kind == "cross-entropy":
            found = logits.argmax(-1) == labels.argmax(-1)
            return found.float().mean()
        return logits.new_full((), math.nan)

    def count(self, logits: Tensor, labels: Any) -> int:
        """The number of labels that count, as the weight of a batch in the mean of an epoch."""
        counted = counting(logits, labels)
        return len(logits) if counted is None else int(counted.sum())

    def check(self, labels: Any, logits: Tensor, name: str) -> None:
        """Check that the labels of the loader `name` suit the loss and the model.

        A loss of the caller's own may take anything.

        Raises
        ------
        TypeError, ValueError
            If they do not.
        """
        if callable(self.kind):
            return
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels of {name} must be a Tensor, got {type(labels).__name__}")
        indices, classes = logits.shape[:-1], logits.shape[-1]
        classes_first = logits.shape[:1] + logits.shape[2:]
        whole = self.kind == "cross-entropy" and not labels.is_floating_point()
        if whole and labels.shape == classes_first != indices:
            raise ValueError(
                f"labels of {name} are {list(labels.shape)}, so the classes are dimension 1 of the "
                f"logits {list(logits.shape)}, but they must be the last one: return "
                "logits.movedim(1, -1) from the backbone and the heads"
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} entries, but the model has {classes} "
                "classes: pass one weight for each"
            )
        got = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        numbers = list(logits.shape)
        if self.kind != "cross-entropy":
            if labels.shape != logits.shape:
                flat = classes == 1 and labels.shape == indices
                remedy = ": pass labels[..., None]" if flat else ""
                raise ValueError(
                    f"labels of {name} must be {numbers} for loss={self.kind!r}, like the outputs "
                    f"of the model, got {got}{remedy}"
                )
            if self.kind == "bce" and not bool(((labels >= 0) & (labels <= 1)).all()):
                raise ValueError(f"labels of {name} must be 0 to 1 for loss='bce'")
            return
        if labels.is_floating_point() and labels.shape == logits.shape:
            off = float((labels.sum(-1) - 1).abs().max()) if labels.numel() else 0.0
            if not off <= 0.02 or bool((labels < 0).any()):  # half precision rounds the sum
                raise ValueError(
                    f"soft labels of {name} must be probabilities with the sum 1: for labels that "
                    "may hold together, pass loss='bce'"
                )
            return
        if labels.dtype != torch.int64 or labels.shape != indices:
            for_each = "sample" if len(indices) == 1 else "token"
            remedy = ": pass labels.long()" if labels.shape == indices else ""
            raise ValueError(
                f"labels of {name} must be int64 {list(indices)}, one for each {for_each}, or "
                f"float {numbers} with probabilities, got {got}{remedy}"
            )
        wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
        if bool(wrong.any()):
            raise ValueError(
                f"labels of {name} must be 0 to {classes - 1}, as the model has {classes} classes, "
                f"got {int(labels[wrong][0])}"
            )

    def _cross_entropy(
        self, logits: Tensor, labels: Tensor, reduction: str, smoothed: bool
    ) -> Tensor:
        flat = in_float(logits).flatten(0, -2)
        indices = counting(logits, labels) is not None
        return functional.cross_entropy(
            flat,
            labels.flatten() if indices else labels.flatten(0, -2).to(flat),
            self._weights(flat),
            ignore_index=IGNORED,
            reduction=reduction,
            label_smoothing=self.label_smoothing if smoothed else 0.0,
        )

    def _unreduced(self, logits: Tensor, labels: Any) -> Tensor:
        logits = in_float(logits)
        if callable(self.kind):
            found = self.kind(logits, labels)
            if not isinstance(found, Tensor):
                raise TypeError(f"loss must return a Tensor, got {type(found).__name__}")
            return found
        labels = labels.to(logits)
        if self.kind == "mse":
            return functional.mse_loss(logits, labels, reduction="none")
        return functional.binary_cross_entropy_with_logits(
            logits, labels, self._weights(logits), reduction="none"
        )

    def _weights(self, like: Tensor) -> Tensor | None:
        return None if self.class_weights is None else like.new_tensor(self.class_weights)


def counting(logits: Tensor, labels: Any) -> Tensor | None:
    """Which labels count, if they are class indices; None for labels of another kind."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        return None
    return labels != IGNORED if labels.shape == logits.shape[:-1] else None


def in_float(logits: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _checked_classes(weights: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(one) for one in weights)
    except (TypeError, ValueError):
        raise TypeError(
            f"class_weights must be one number for each class, got {weights!r}"
        ) from None
    if not all(0 <= one < math.inf for one in found) or not sum(found):
        raise ValueError(
            f"class_weights must be finite, not negative, and not all 0, got {list(found)}"
        )
    return found
