"""One training: a first layer from many inputs to few units, ReLU, and a classifier."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laplex
import projection_layers as layers
from laplex.nn import LaplexLinear
from projection_tasks import Matrix, Split, batch, glosses, photographs

QUICK_SIDE = 32


def split_of(task: str, quick: bool) -> Split:
    """The data of a task."""
    if task == "glosses":
        return glosses(quick)
    return photographs(QUICK_SIDE if quick else {"photographs": 192, "whole": 592}[task], quick)


def first_layer(split: Split, settings: dict[str, Any]) -> tuple[layers.Fixed | None, nn.Module]:
    """The fixed features of a method, if it has any, and its trained first layer."""
    hidden = settings["hidden"]
    numbers = 3 * split.features  # those of a Laplex layer with one head, but for its outputs
    method = settings["method"]
    if method == "laplex":
        return None, layers.laplex_layer(split, hidden, settings)
    if method == "dense":
        dense = layers.Dense(split.features, hidden)
        if settings["heads"]:  # starts where Laplex starts
            start = layers.laplex_layer(split, hidden, settings)
            dense.weight.data.copy_(start.weight.detach().T)
        return None, dense
    if method == "low rank":
        rank = round(numbers / (split.features + hidden))
        return None, nn.Sequential(
            layers.Dense(split.features, rank), nn.Linear(rank, hidden, bias=False)
        )
    if method == "convolution":
        assert split.size is not None
        return None, layers.Convolution(split.size, hidden)
    equal = max(hidden, numbers // hidden)
    if method == "gaussian":
        return layers.gaussian(hidden), nn.Identity()
    if method == "sparse projection":
        features = min(equal, 2_048)
        return layers.sparse_projection(features), layers.Dense(features, hidden)
    if method == "count sketch":
        return layers.count_sketch(equal), layers.Dense(equal, hidden)
    assert method == "block means", method
    assert split.size is not None
    side = round(math.sqrt(equal / 3))
    return layers.block_means(split.size, side), layers.Dense(3 * side * side, hidden)


def groups(network: nn.Module, rate: float, anchors: float) -> list[dict[str, Any]]:
    """All parameters at one learning rate, but for the anchors of Laplex: a factor of it."""
    moved = [
        each
        for module in network.modules()
        if isinstance(module, LaplexLinear)
        for each in (module.targets, module.sources)
    ]
    others = [each for each in network.parameters() if all(each is not other for other in moved)]
    found = [{"params": others, "lr": rate}]
    return [*found, {"params": moved, "lr": rate * anchors}] if moved else found


def built(settings: dict[str, Any]) -> tuple[Split, Matrix, nn.Sequential]:
    """The data, the inputs of the first trained layer, and the network before training."""
    split = split_of(settings["task"], settings["quick"])
    torch.manual_seed(settings["seed"])
    fixed, first = first_layer(split, settings)
    inputs = split.inputs if fixed is None else fixed(split.inputs, settings["seed"])
    hidden = settings["hidden"]
    network = nn.Sequential(
        first, nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, split.classes)
    )
    return split, inputs, network


def trained(settings: dict[str, Any]) -> tuple[dict[str, Any], nn.Sequential]:
    """Train by Adam with a cosine schedule, for some epochs or for some seconds.

    Return what is measured, and the network.
    """
    # Plans of earlier steps are of no use here, but the cache would keep gigabytes of them.
    laplex.plan_cache.set_max_bytes(2**27)
    start = time.process_time()
    split, inputs, network = built(settings)
    begun = time.process_time()
    optimiser = torch.optim.Adam(groups(network, settings["rate"], settings["anchors"]), fused=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    random = np.random.default_rng(settings["seed"])
    size, count, budget = settings["batch"], len(split.to_learn), settings["budget_s"]
    total = settings["epochs"] * (count // size)
    spent, steps, done = 0.0, 0, 0.0
    network.train()
    while done < 1:
        place = steps % (count // size)
        if place == 0:
            order = random.permutation(count)
        rows = order[place * size : (place + 1) * size]
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
        given = batch(inputs, rows)
        step_start = time.process_time()
        loss = nn.functional.cross_entropy(network(given), split.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        now = time.process_time()
        spent, steps = spent + now - step_start, steps + 1
        done = (now - start) / budget if budget else steps / total
    used = split.to_test if settings["tested"] else split.to_choose
    return {
        "accuracy": accuracy(network, inputs, split.labels, used, size),
        "accuracy_learned": accuracy(network, inputs, split.labels, split.to_learn[:128], size),
        "parameters": sum(each.numel() for each in network[0].parameters()),
        "steps": steps,
        "step_ms": 1e3 * spent / steps,
        "prepared_s": begun - start,
    }, network


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Matrix, labels: Tensor, rows: range, size: int) -> float:
    """The percentage of rows whose class is right."""
    network.eval()
    right = 0
    for start in range(rows.start, rows.stop, size):
        part = np.arange(start, min(start + size, rows.stop))
        right += int((network(batch(inputs, part)).argmax(1) == labels[part]).sum())
    return 100 * right / len(rows)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, and return what is measured."""
    return trained(settings)[0]
