"""Running statistics of BatchNorm layers, recomputed at other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def tracking_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    """The layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }


def fresh_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of `tracking_layers` in their initial state, by their names in the model."""
    found = {}
    for name, module in tracking_layers(model).items():
        prefix = f"{name}." if name else ""
        for buffer, tensor in module.named_buffers(recurse=False):
            start = torch.ones_like if buffer == "running_var" else torch.zeros_like
            found[prefix + buffer] = start(tensor)
    return found


@contextmanager
def averaging(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, but let its normalisation layers average their statistics.

    Each batch counts the same (cumulative averages: ``momentum=None``), as in
    `torch.optim.swa_utils.update_bn`. Momenta are restored; the caller has to restore the modes.
    """
    layers = list(tracking_layers(model).values())
    momenta = [layer.momentum for layer in layers]
    model.eval()
    try:
        for layer in layers:
            layer.momentum = None
            layer.training = True
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
