"""Losses of all exits, at the parameters of a model or at other parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Array
from ..model import MultiExitModel

#: From logits [batch, classes] and labels [batch] to the mean loss of the batch, a scalar.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

cross_entropy: Loss = nn.functional.cross_entropy


def loss_of(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute a loss in at least float32.

    Raises
    ------
    ValueError
        If it is not a scalar Tensor.
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    value = loss(wide, labels)
    if not isinstance(value, Tensor) or value.ndim:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            "loss must return the mean loss of a batch, a Tensor without dimensions, got "
            f"{got}: take .mean()"
        )
    return value


@dataclass
class Sums:
    """Losses and numbers of right predictions of K exits, summed over samples."""

    exits: int
    samples: int = 0
    loss: Array = field(init=False)
    right: Array = field(init=False)

    def __post_init__(self) -> None:
        self.loss, self.right = np.zeros(self.exits), np.zeros(self.exits)

    @torch.no_grad()
    def add(
        self,
        model: MultiExitModel,
        tensors: Mapping[str, Tensor],
        x: Any,
        labels: Tensor,
        loss: Loss,
    ) -> None:
        """Run a batch with `tensors` in place of the parameters and buffers of those names."""
        logits = functional_call(model, dict(tensors), (x,))
        count = len(labels)
        for k, one in enumerate(logits):
            self.loss[k] += count * float(loss_of(loss, one, labels))
            self.right[k] += int((one.argmax(-1) == labels).sum())
        self.samples += count
