"""Batches ``(x, labels)``: checked, moved to the device of a model, limited in number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._support.arguments import whole
from .activations import Inputs, batch_of, first_rows, map_tensors
from .arrays import as_labels
from .model import MultiExitModel, evaluating
from .signature import LABELS

#: The label of a sample or token that does not count, as in torch.
IGNORED = -100


def check_model(
    model: Any,
    name: str = "model",
    otherwise: str = "attach exits with MultiExitModel.attach",
) -> None:
    """Check that an argument is a `MultiExitModel`; `otherwise` is what to do if it is not.

    Raises
    ------
    TypeError
        If it is not.
    """
    if not isinstance(model, MultiExitModel):
        if isinstance(getattr(model, "module", None), MultiExitModel):
            otherwise = f"pass {name}.module"  # in DistributedDataParallel or DataParallel
        raise TypeError(f"{name} must be a MultiExitModel, got {type(model).__name__}: {otherwise}")


def check_loader(loader: Any, name: str = "loader") -> None:
    """Check that an argument can yield batches.

    Raises
    ------
    TypeError
        If it cannot.
    """
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, np.ndarray, str, dict)):
        raise TypeError(
            f"{name} must yield batches (x, labels), got {type(loader).__name__}: pass a "
            "DataLoader or a list of batches"
        )


def check_inputs(model: Any, loader: Any, batches: Any = None) -> None:
    """Check the arguments that all measurements share.

    Raises
    ------
    TypeError, ValueError
        If one of them is invalid.
    """
    check_model(model)
    check_loader(loader)
    if batches is not None:
        whole("batches", batches, 1)


def inputs_and_labels(batch: Any, name: str) -> tuple[Any, Any]:
    """The inputs and labels of a batch of the loader `name`.

    A batch is ``(x, labels)``, ``(x1, x2, ..., labels)`` for a backbone of several arguments, or a
    mapping with the key ``labels`` or ``label`` beside the inputs.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(batch, Mapping):
        for key in LABELS:
            if key in batch:
                return {one: value for one, value in batch.items() if one != key}, batch[key]
        raise TypeError(
            f"a batch of {name} must have 'labels' beside its inputs, got {', '.join(batch)}"
        )
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        got = f"{len(batch)} items" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise TypeError(
            f"a batch of {name} must be (x, labels), or a mapping with 'labels', got {got}"
        )
    *inputs, labels = batch
    return inputs[0] if len(inputs) == 1 else Inputs(tuple(inputs), {}), labels


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter, or the CPU if there is none."""
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
        Maximum number of batches and of samples; the last batch is cut to fit.
    name : str
        Name of the loader, for messages.

    Yields
    ------
    x, labels : as the model takes it, and Tensor [batch] in int64

    Raises
    ------
    TypeError, ValueError
        If batches are not pairs, labels are not class indices of the model, or there are no
        samples.
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
            x, numbers = first_rows(x, left, "x"), numbers[:left]
            left -= len(numbers)
        yield x, numbers.to(device)
    if classes is None:
        raise ValueError(f"{name} yielded no samples: pass one that is neither empty nor exhausted")


def batch_count(loader: Iterable[Any], batches: int | None = None) -> int | None:
    """The number of batches that `labelled_batches` will yield, or None if it is unknown."""
    try:
        total = len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set has no length
        return None
    return total if batches is None else min(total, batches)


def _classes(model: MultiExitModel, x: Any) -> int:
    """The number of classes, which all exits share."""
    with evaluating(model), torch.no_grad():
        return int(model(x)[0].shape[1])
