"""The part of adapters.py with times of one adapted layer, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

import laplex.peft
import studies

SHAPES = ((384, 384), (384, 1536), (1536, 384))
ROWS = (32, 512, 2048)
CONFIGS = {
    "frozen": None,
    "1 head": laplex.peft.LaplexConfig(heads=1, target_modules=["0"]),
    "2 heads": laplex.peft.LaplexConfig(heads=2, target_modules=["0"]),
    "LoRA, rank 4": peft.LoraConfig(r=4, target_modules=["0"]),
}


def runs(records: studies.Records, quick: bool) -> Iterator[dict]:
    """One layer with rows of inputs."""
    for inputs, outputs in SHAPES[:1] if quick else SHAPES:
        for rows in ROWS[:1] if quick else ROWS:
            yield {"inputs": inputs, "outputs": outputs, "rows": rows, "rounds": 2 if quick else 9}


def measured(settings: dict) -> dict[str, Any]:
    """The least processor time over interleaved rounds, in ms."""
    torch.manual_seed(0)
    x = torch.randn(settings["rows"], settings["inputs"], requires_grad=True)
    layers = {}
    for name, config in CONFIGS.items():
        layer = nn.Sequential(nn.Linear(settings["inputs"], settings["outputs"]))
        layer.requires_grad_(False)
        layers[name] = layer if config is None else peft.get_peft_model(layer, config)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(settings["rounds"]):
        for name, layer in layers.items():
            start = time.process_time()
            layer(x).square().sum().backward()
            times[name].append(1000 * (time.process_time() - start))
    return {name: min(each) for name, each in times.items()}


def table(records: list[dict], folder: Path) -> str:
    """Times of a layer and of the same layer with adapters."""
    lines = [f"| layer | rows | {' | '.join(CONFIGS)} |", f"|---|---|{'---|' * len(CONFIGS)}"]
    for each in records:
        cells = " | ".join(f"{each[name]:.{0 if each[name] >= 9.95 else 1}f}" for name in CONFIGS)
        lines.append(f"| {each['inputs']:,} -> {each['outputs']:,} | {each['rows']:,} | {cells} |")
    return "\n".join(lines) + "\n"
