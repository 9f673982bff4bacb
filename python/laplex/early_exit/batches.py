"""Batches of (x, labels): checked, moved, as many as asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._support.arguments import whole
from .activations import batch_of, map_tensors
from .arrays import as_labels
from .model import MultiExitModel, evaluating


def check_model(model: Any, name: str = "model") -> None:
    """Refuse what is no `MultiExitModel`.

    Raises
    ------
    TypeError
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(
            f"{name} must be a MultiExitModel, got {type(model).__name__}: attach exits with "
            "MultiExitModel.attach"
        )


def check_loader(loader: Any, name: str = "loader") -> None:
    """Refuse what can't give batches.

    Raises
    ------
    TypeError
    """
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, np.ndarray, str, dict)):
        raise TypeError(
            f"{name} must give batches (x, labels), got {type(loader).__name__}: pass a DataLoader "
            "or a list of batches"
        )


def check_inputs(model: Any, loader: Any, batches: Any = None) -> None:
    """Refuse what a measurement can't be made of.

    Raises
    ------
    TypeError, ValueError
    """
    check_model(model)
    check_loader(loader)
    if batches is not None:
        whole("batches", batches, 1)


def inputs_and_labels(batch: Any, name: str) -> tuple[Any, Any]:
    """The inputs and labels of a batch of the loader `name`.

    Raises
    ------
    TypeError
        It is none of ``(x, labels)``.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        got = f"{len(batch)} of them" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise TypeError(f"a batch of {name} must be the pair (x, labels), got {got}")
    return batch[0], batch[1]


def device_of(model: nn.Module) -> torch.device:
    """That of the first parameter; the CPU without any."""
    return next((one.device for one in model.parameters()), torch.device("cpu"))


def labelled_batches(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    samples: int | None = None,
    name: str = "loader",
) -> Iterator[tuple[Any, Tensor]]:
    """The first batches of a loader, on the device of the model.

    Parameters
    ----------
    model : MultiExitModel
    loader : iterable of (x, labels)
    batches, samples : int, optional
        At most so many; the last batch is cut.
    name : str
        Of the loader, for messages.

    Yields
    ------
    x, labels : as the model takes it, and Tensor [batch] in int64

    Raises
    ------
    TypeError, ValueError
        Batches are no pairs, labels are no class numbers of the model, or there are no samples.
    """
    device = device_of(model)
    left = samples
    classes: int | None = None
    for done, batch in enumerate(loader):
        if left == 0 or done == batches:
            break
        x, labels = inputs_and_labels(batch, name)
        count = batch_of(x, f"x of {name}")
        if not count:
            continue
        x = map_tensors(lambda tensor: tensor.to(device), x)
        if classes is None:
            classes = _classes(model, x)
        numbers = torch.from_numpy(as_labels(f"labels of {name}", labels, count, classes))
        if left is not None:
            x, numbers = _first(x, left), numbers[:left]
            left -= len(numbers)
        yield x, numbers.to(device)
    if classes is None:
        raise ValueError(f"{name} gave no samples: pass one that is not empty or used up")


def batch_count(loader: Iterable[Any], batches: int | None = None) -> int | None:
    """How many batches `labelled_batches` will give, where that is known."""
    try:
        total = len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set has no length
        return None
    return total if batches is None else min(total, batches)


def _first(x: Any, most: int) -> Any:
    return map_tensors(lambda tensor: tensor[:most], x)


def _classes(model: MultiExitModel, x: Any) -> int:
    """The number of classes, which all exits share."""
    with evaluating(model), torch.no_grad():
        return int(model(x)[0].shape[1])
