"""Checks of loaders and of single batches, with clearer messages than those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..batches import batch_count
from ..model import MultiExitModel, evaluating
from .freezing import trained_parts
from .strategies import Part


def check_loaders(train_loader: Any, val_loader: Any) -> None:
    """Check that the loaders can be read once in every epoch.

    Raises
    ------
    TypeError, ValueError
        If one is not a loader, is empty, or is an iterator, which is exhausted after one epoch.
    """
    if train_loader is None:
        raise TypeError("train_loader is None: pass a DataLoader")
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None:
            continue
        if not hasattr(loader, "__iter__"):
            raise TypeError(f"{name} must be a DataLoader, got {type(loader).__name__}")
        if hasattr(loader, "__next__"):
            raise TypeError(
                f"{name} is an iterator, which is exhausted after one epoch: pass a DataLoader or "
                "a list of batches"
            )
        if batch_count(loader) == 0:
            raise ValueError(
                f"{name} is empty: pass one with at least one batch (with drop_last=True, there "
                "must be one full batch)"
            )


def last_batch_is_one(loader: Any) -> bool:
    """Whether a DataLoader is known to yield a batch of one sample."""
    if not isinstance(loader, DataLoader) or not loader.batch_size or loader.drop_last:
        return False
    try:
        count = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return False
    return count % loader.batch_size == 1 or (loader.batch_size == 1 and count > 0)


def check_single(model: MultiExitModel, part: Part, x: Any) -> None:
    """Check that every trained BatchNorm can compute statistics from a batch of one sample.

    Parameters
    ----------
    model : MultiExitModel
        The model, with the flags and modes of the phase.
    part : "backbone", "all" or "heads"
        The part that the phase trains.
    x
        A batch of one sample.

    Raises
    ------
    ValueError
        If a BatchNorm gets only one value for each channel.
    """

    def look(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if inputs[0].numel() <= inputs[0].shape[1]:
                raise ValueError(
                    "train_loader yields a batch of one sample, from which BatchNorm "
                    f"({name!r}) cannot compute statistics: pass drop_last=True to the DataLoader, "
                    "or another batch_size"
                )

        return hook

    norms = {
        module: name
        for part_of_model in trained_parts(model, part)
        for name, module in part_of_model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    }
    if not norms:
        return
    handles = [module.register_forward_pre_hook(look(name)) for module, name in norms.items()]
    try:
        with evaluating(model), torch.no_grad():  # leaves statistics and random state unchanged
            if part == "backbone":
                model.walk(x, lambda k, activation: activation)
            else:
                model(x)
    finally:
        for handle in handles:
            handle.remove()
