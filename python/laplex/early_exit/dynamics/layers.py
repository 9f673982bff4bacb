"""What layers put out for some samples, as rows of a matrix for each layer."""

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
    """How an activation becomes rows.

    Attributes
    ----------
    spatial : "pool", "flatten" or "positions"
        Maps and tokens: the mean over positions, all their numbers, or each position a row.
    positions : int
        For "positions": how many are drawn of each sample; all where there are no more.
    channel_axis : int or None
        None: the last of three dimensions, the one after the batch of more.
    seed : int
        Of the positions drawn.
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
        """Rows [rows, features] of what a layer put out for a batch.

        Raises
        ------
        ValueError
            There are no numbers, or several maps that have no positions in common.
        """
        parts = [part.detach() for part in tensors_of(activation) if part.is_floating_point()]
        if not parts or any(part.ndim < 2 for part in parts):
            raise ValueError(
                f"layer {layer!r} puts out no numbers [batch, features, ...]: name another"
            )
        if self.spatial == "flatten":
            return torch.cat([part.flatten(1) for part in parts], 1)
        if self.spatial == "pool":
            return torch.cat([self._by_position(part, layer).mean(1) for part in parts], 1)
        if len(parts) > 1:
            raise ValueError(
                f"layer {layer!r} puts out {len(parts)} maps, whose positions are not the same: "
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
                f"channel_axis must be a dimension of layer {layer!r}, which puts out "
                f"{list(part.shape)}, and not the batch, got {axis}"
            )
        return part.movedim(axis, -1).flatten(1, -2)


@dataclass(frozen=True)
class LayerRows:
    """Rows of each layer, what the model was given for them, and its labels.

    Attributes
    ----------
    rows : dict of str to ndarray [rows, features], float32 or float64
        By layer.
    rounding : dict of str to float
        Of each layer: the relative rounding error of its numbers.
    inputs : ndarray [samples, numbers], float32 or float64, or None
        None if they were not asked for.
    labels : ndarray [samples], int64
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
    """Run the backbone over the first samples of a loader and listen.

    Parameters
    ----------
    model : MultiExitModel
        Run in evaluation mode; nothing of it is changed.
    loader : iterable of (x, labels)
    layers : mapping of str to str, sequence of str, or None
        Names of modules of the backbone. None: its children, those with exits inside taken apart,
        as far as they run once in a forward.
    as_rows : AsRows
    max_samples : int
        The first so many.
    inputs : bool
        Keep the inputs too.
    report : callable
        Of a progress bar: told the number of samples done.

    Raises
    ------
    TypeError, ValueError
        Unknown layers, layers that do not run once in a forward, or put out no finite numbers;
        inputs that are no real numbers.
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
                model.backbone(x)
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
                "backbone: name one that runs once in each"
            )
    once = [listener for listener in listeners if listener.runs == forwards]
    if not once:
        raise ValueError("no child of the backbone runs once in its forward: name some layers")
    return LayerRows(
        rows={one.name: one.rows() for one in once},
        rounding={one.name: one.rounding for one in once},
        inputs=np.concatenate(given) if inputs else None,
        labels=np.concatenate(labels),
    )


class _Listener:
    """Collects what one layer puts out, in one forward after another."""

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
                f"layer {self.name!r} puts out numbers that are not finite: the model has "
                "diverged, or the data have such values"
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
            f"inputs of {[str(part.dtype) for part in parts]} are no real numbers, of which "
            "I(X;Z) could be estimated: pass inputs=False"
        )
    return _as_array(torch.cat([part.flatten(1) for part in parts], 1))


def _as_array(rows: Tensor) -> NDArray[Any]:
    """On the CPU, in float32 or float64."""
    array: NDArray[Any] = rows.to(torch.promote_types(rows.dtype, torch.float32)).cpu().numpy()
    return array
