"""The methods of adapters.py: configurations of PEFT, with one number that sets their size."""

from __future__ import annotations

import warnings
from typing import Any

import peft
from torch import nn

import laplex.peft
from adapters_tasks import Task

#: Where the search for a method's learning rate starts, in half decades: -4 stands for 1e-2.
STARTS = {
    "classifier alone": -4,
    "everything": -7,
    "Laplex": -3,
    "Laplex, no phases": -3,
    "Laplex, gains from 0": -3,
    "LoRA": -4,
    "VeRA": -3,
    "IA3": -4,
    "FourierFT": -3,
    "C3A": -2,
    "BOFT": -4,
}


def config(method: str, size: int, task: Task) -> peft.PeftConfig:
    """The configuration of an adapter; ``size`` is heads, rank, frequencies or a block's size."""
    targets: Any = {"target_modules": list(task.targets)}
    if method.startswith("Laplex"):
        return laplex.peft.LaplexConfig(heads=size, phased="no" not in method, **targets)
    if method == "LoRA":
        return peft.LoraConfig(r=size, lora_alpha=2 * size, **targets)
    if method == "VeRA":
        return peft.VeraConfig(r=size, **targets)
    if method == "IA3":
        return peft.IA3Config(feedforward_modules=task.feedforward, **targets)
    if method == "FourierFT":
        return peft.FourierFTConfig(n_frequency=size, **targets)
    if method == "C3A":
        return peft.C3AConfig(block_size=size, init_weights=True, **targets)
    return peft.BOFTConfig(boft_block_size=size, boft_n_butterfly_factor=1, **targets)


def adapted(network: nn.Module, method: str, size: int, task: Task) -> nn.Module:
    """The network with trainable parameters, in place."""
    if method == "classifier alone":
        return network
    if method == "everything":
        return network.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BOFT warns that its CUDA extension is missing
        model = peft.get_peft_model(network, config(method, size, task)).eval()
    for layer in model.modules() if method == "Laplex, gains from 0" else ():
        if isinstance(layer, laplex.peft.LaplexLayer):  # as LoRA starts, without an amplitude
            nn.init.zeros_(layer.laplex_kernels["default"].source_gain)
            nn.init.ones_(layer.laplex_amplitude["default"]).requires_grad_(False)
    return model
