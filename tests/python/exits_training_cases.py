"""A tiny model with everything that training may disturb, and data for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from laplex.early_exit import MultiExitModel

FEATURES, CLASSES, SAMPLES = 6, 3, 28


def block(inputs: int, width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)
    )


def tiny() -> MultiExitModel:
    """BatchNorm in the backbone and in a head, dropout; exits at "0" and "1"."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(block(FEATURES), block(8), nn.Linear(8, CLASSES))
        heads = {
            "0": nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, CLASSES)),
            "1": nn.Linear(8, CLASSES),
        }
        return MultiExitModel(backbone, heads)


def plain(dtype: torch.dtype = torch.float64) -> MultiExitModel:
    """A chain of linear layers, without noise: what can be worked out by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES))
        heads = {"0": nn.Linear(8, CLASSES), "1": nn.Linear(8, CLASSES)}
        return MultiExitModel(backbone, heads).to(dtype)


def data(count: int = SAMPLES, dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loader(batch: int = 8, **options: Any) -> DataLoader[Any]:
    """Of 28 samples in 4 batches, the last of them incomplete."""
    return DataLoader(data(), batch_size=batch, **options)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in module.state_dict().items()}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of what is not the same to the bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
