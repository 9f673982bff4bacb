"""Where exits can be attached to a network, and where they are by default."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from .activations import batch_of, main_tensor
from .model import evaluating
from .signature import Signature

__all__ = ["default_exits", "exit_places"]


def default_exits(backbone: nn.Module, example: Any, count: int = 3) -> tuple[str, ...]:
    """Choose blocks of a network, evenly spaced in depth, to attach exits to.

    Blocks are the modules of one class that a list, a sequence or the network itself consists of,
    such as the stages of a residual network or the layers of a transformer.

    Parameters
    ----------
    backbone : Module
        The network.
    example : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
        A batch that it accepts.
    count : int
        Number of exits, without the output of the network. There are fewer where there are fewer
        blocks before the last one.

    Returns
    -------
    tuple of str
        Names of modules, for `MultiExitModel.attach`.

    Raises
    ------
    ValueError
        If there are no such blocks; the message lists modules that can carry an exit.

    Examples
    --------
    >>> import torch
    >>> from laplex.early_exit import default_exits, networks
    >>> default_exits(networks.small_vit(depth=12), torch.zeros(1, 1, 28, 28))
    ('blocks.2', 'blocks.5', 'blocks.8')
    """
    can = exit_places(backbone, example)
    blocks = [one for one in _blocks(backbone) if one in can]
    count = min(count, len(blocks) - 1)  # after the last block, there is only the output
    if count < 1:
        listed = ", ".join(list(can)[:8]) or "none"
        raise ValueError(
            f"the backbone has no default exits: name some of its modules, such as {listed} "
            "(exit_places or --list-exits lists them)"
        )
    return tuple(blocks[len(blocks) * (k + 1) // (count + 1) - 1] for k in range(count))


def exit_places(backbone: nn.Module, example: Any) -> dict[str, list[int]]:
    """List the modules of a network that can carry an exit, in the order in which they run.

    These are the modules that return a Tensor whose first dimension is the batch.

    Parameters
    ----------
    backbone : Module
        The network. It is run once, in evaluation mode and without gradients.
    example : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
        A batch that it accepts.

    Returns
    -------
    dict of str to list of int
        The shape of the output of each module, by name; ``name@0``, ``name@1``, ... for the runs of
        a module that runs several times.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import exit_places
    >>> exit_places(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.zeros(5, 4))
    {'0': [5, 8], '1': [5, 8]}
    """
    ran: list[tuple[str, list[int]]] = []
    samples = batch_of(example, "example")

    def listen(name: str, output: Any) -> None:
        with suppress(TypeError):  # outputs of other kinds cannot be read by heads
            ran.append((name, list(main_tensor(output).shape)))

    named = [(name, one) for name, one in backbone.named_modules() if name]
    if not named:
        return {}
    handles = [
        one.register_forward_hook(lambda _, __, output, name=name: listen(name, output))
        for name, one in named
    ]
    try:
        args, kwargs = Signature.of(backbone).arguments(example)
        with evaluating(backbone), torch.no_grad():
            backbone(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    times, runs = Counter(name for name, _ in ran), Counter[str]()
    found = {}
    for name, shape in ran:
        key = f"{name}@{runs[name]}" if times[name] > 1 else name
        runs[name] += 1
        if len(shape) > 1 and shape[0] == samples:
            found[key] = shape
    return found


def _blocks(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the blocks: the largest group of alike children, or that of the largest child."""
    groups: dict[Any, list[tuple[str, int]]] = {}
    children = [
        (name, one, sum(1 for _ in one.modules()))
        for name, one in module.named_children()
        if next(one.parameters(), None) is not None
    ]
    for name, one, size in children:
        # A stem may have the class of the stages, but not the name: layer1, layer2, ...
        alike = type(one), re.sub(r"\d+\w*$", "", name)
        groups.setdefault(alike, []).append((f"{prefix}{name}", size))
    if not children:
        return []
    group = max(groups.values(), key=lambda one: sum(size for _, size in one))
    if len(group) >= (2 if isinstance(module, (nn.Sequential, nn.ModuleList)) else 3):
        return [name for name, _ in group]
    name, largest, _ = max(children, key=lambda one: one[2])
    return _blocks(largest, f"{prefix}{name}.")
