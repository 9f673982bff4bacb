"""Outputs of layers for some samples, as the rows of one matrix for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._support.arguments import one_of, whole
from ..._support.progress import Report
from ..activations import tensors_of
from ..arrays import Integers
from ..batches import labelled_batches
from ..model import MultiExitModel
from .blocks import default_blocks, named_blocks
from .restoring import unchanged

Spatial = Literal["pool", "flatten", "positions"]


@dataclass(frozen=True)
class AsRows:
    """How activations are converted to rows of a matrix.

    Attributes
    ----------
    spatial : "pool", "flatten" or "positions"
        For feature maps and tokens: the mean over positions, all numbers, or one row for each
        position.
    positions : int
        For "positions": the number of positions that are drawn from each sample, at most all.
    channel_axis : int or None
        The dimension of the channels. None stands for the last of three dimensions, and for the
        second of four or more.
    seed : int
        Random seed of the positions.
    """

    spatial: Spatial
    positions: int = 1
    channel_axis: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("spatial", self.spatial, Spatial)
        whole("positions", self.positions, 1)
        whole("seed", self.seed, 0)

    def of(self, activation: Any, generator: torch.Generator, layer: str) -> Tensor:
        """Convert the output of a layer for a batch to rows [rows, features].

        Raises
        ------
        ValueError
            If it has no numbers, or several maps without common positions.
        """
        parts = [part.detach() for part in tensors_of(activation) if part.is_floating_point()]
        if not parts or any(part.ndim < 2 for part in parts):
            raise ValueError(
                f"layer {layer!r} returns no numbers [batch, features, ...]: name another layer"
            )
        if self.spatial == "flatten":
            return torch.cat([part.flatten(1) for part in parts], 1)
        if self.spatial == "pool":
            return torch.cat([self._by_position(part, layer).mean(1) for part in parts], 1)
        if len(parts) > 1:
            raise ValueError(
                f"layer {layer!r} returns {len(parts)} maps, and their positions differ: "
                'use spatial="pool"'
            )
        rows = self._by_position(parts[0], layer)
        count = rows.shape[1]
        if count <= self.positions:
            return rows.flatten(0, 1)
        drawn = torch.rand(rows.shape[:2], generator=generator).argsort(1)[:, : self.positions]
        return rows.take_along_dim(drawn.to(rows.device)[:, :, None], 1).flatten(0, 1)

    def _by_position(self, part: Tensor, layer: str) -> Tensor:
        """[batch, positions, channels]."""
        if part.ndim == 2:
            return part[:, None]
        axis = (2 if part.ndim == 3 else 1) if self.channel_axis is None else self.channel_axis
        if not -part.ndim < axis < part.ndim or axis == 0:
            raise ValueError(
                f"channel_axis must be a dimension of the output of layer {layer!r}, "
                f"{list(part.shape)}, other than the batch, got {axis}"
            )
        return part.movedim(axis, -1).flatten(1, -2)


@dataclass(frozen=True)
class LayerRows:
    """Rows of each layer, and the inputs and labels that belong to them.

    Attributes
    ----------
    rows : dict of str to ndarray [rows, features], float32 or float64
        Rows by layer.
    rounding : dict of str to float
        Relative rounding error of the numbers of each layer.
    inputs : ndarray [samples, numbers], float32 or float64, or None
        Inputs of the model; None if they were not requested.
    labels : ndarray [samples], int64
        Class indices.
    """

    rows: dict[str, NDArray[Any]]
    rounding: dict[str, float]
    inputs: NDArray[Any] | None
    labels: Integers


def layer_rows(
    model: MultiExitModel,
    loader: Iterable[Any],
    layers: Mapping[str, str] | Sequence[str] | None,
    as_rows: AsRows,
    *,
    max_samples: int,
    inputs: bool = False,
    report: Report,
) -> LayerRows:
    """Run the backbone over the first samples of a loader and collect the outputs of its layers.

    Parameters
    ----------
    model : MultiExitModel
        The model. It runs in evaluation mode and is not changed.
    loader : iterable of (x, labels)
    layers : mapping of str to str, sequence of str, or None
        Names of modules of the backbone. None stands for its children that run exactly once in a
        forward; children that contain exits are split into their own children.
    as_rows : AsRows
    max_samples : int
        Number of samples to use.
    inputs : bool
        Whether to keep the inputs, too.
    report : callable
        Function of a progress bar, called with the number of samples done.

    Raises
    ------
    TypeError, ValueError
        If layers are unknown, do not run exactly once in a forward, or return numbers that are not
        finite, or inputs are not real numbers.
    """
    modules = named_blocks(model, default_blocks(model) if layers is None else layers)
    listeners = [_Listener(name, as_rows) for name in modules]
    given: list[NDArray[Any]] = []
    labels: list[Integers] = []
    forwards = 0
    with unchanged(model), torch.no_grad():
        model.eval()
        for x, numbers in labelled_batches(model, loader, samples=max_samples):
            with _listening(modules.values(), listeners):
                model.run_backbone(x)
            forwards += 1
            labels.append(numbers.cpu().numpy())
            if inputs:
                given.append(_input_rows(x))
            report("activations", sum(map(len, labels)), max_samples, "")
    done = sum(map(len, labels))
    report("activations", done, done, "")
    for listener in listeners:
        if listener.runs != forwards and layers is not None:
            raise ValueError(
                f"layer {listener.name!r} ran {listener.runs} times in {forwards} forwards of the "
                "backbone: name a layer that runs once in each"
            )
    once = [listener for listener in listeners if listener.runs == forwards]
    if not once:
        raise ValueError("no child of the backbone runs exactly once in its forward: pass layers")
    return LayerRows(
        rows={one.name: one.rows() for one in once},
        rounding={one.name: one.rounding for one in once},
        inputs=np.concatenate(given) if inputs else None,
        labels=np.concatenate(labels),
    )


class _Listener:
    """Collects the outputs of one layer over several forwards."""

    def __init__(self, name: str, as_rows: AsRows) -> None:
        self.name, self.as_rows = name, as_rows
        self.generator = torch.Generator().manual_seed(as_rows.seed)
        self.runs, self.rounding = 0, 0.0
        self.parts: list[NDArray[Any]] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.runs += 1
        rows = self.as_rows.of(output, self.generator, self.name)
        self.rounding = float(torch.finfo(rows.dtype).eps)
        self.parts.append(_as_array(rows))

    def rows(self) -> NDArray[Any]:
        found = np.concatenate(self.parts)
        if not np.isfinite(found).all():
            raise ValueError(
                f"layer {self.name!r} returns numbers that are not finite: the model has "
                "diverged, or its inputs are not finite"
            )
        return found


@contextmanager
def _listening(modules: Iterable[nn.Module], listeners: Iterable[_Listener]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(listener)
        for module, listener in zip(modules, listeners, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_rows(x: Any) -> NDArray[Any]:
    parts = tensors_of(x)
    if not all(part.is_floating_point() or part.dtype == torch.uint8 for part in parts):
        raise ValueError(
            f"inputs of {[str(part.dtype) for part in parts]} are not real numbers, so I(X;Z) "
            "cannot be estimated: pass inputs=False"
        )
    return _as_array(torch.cat([part.flatten(1) for part in parts], 1))


def _as_array(rows: Tensor) -> NDArray[Any]:
    """Convert to an array in float32 or float64."""
    array: NDArray[Any] = rows.to(torch.promote_types(rows.dtype, torch.float32)).cpu().numpy()
    return array
