"""Exported models that several test files use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from laplex.early_exit import ExportedModel, MultiExitModel


def small(exits: int = 2) -> MultiExitModel:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    names = ("1", "3")[:exits]
    return MultiExitModel(layers, {name: nn.Linear(6, 3) for name in names}).eval()


def stand_in(logits: np.ndarray) -> ExportedModel:
    """An exported model whose segments look their logits up by a sample's number."""
    value = {"name": "input_0", "dtype": "int64", "shape": ["batch", 1], "batch_axis": 0}
    outputs = [{"name": "logits", "batch_axis": 0}]
    manifest = {
        "inputs": [{"place": "", **value}],
        "segments": [
            {"exit": str(k), "inputs": [value], "outputs": outputs} for k in range(len(logits))
        ],
        "policy": None,
        "file_format": "none",
    }

    def segment(k: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        return lambda arrays: [logits[k][arrays[0][:, 0]]]

    return ExportedModel(manifest, [segment(k) for k in range(len(logits))])
