"""Layers in folders and on the hub: their options, their parameters and their model card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from laplex._support.hub import Pretrained
from laplex._support.model_cards import Card
from laplex._support.model_files import (
    fill,
    read_config,
    read_tensors,
    same_shapes,
    values_of,
    write_model,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from laplex.nn.kernel_layer import KernelLayer

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _fit_error(value: Any) -> float | None:
    """Return the error of a fit as a number of JSON, checked in the same way on both ways."""
    if value is None:
        return None
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"fit_error must be a finite number of at least 0 or None, got {value!r}")
    return number


class PretrainedLayer(Pretrained):
    """The methods for files and the hub of a layer, whose options rebuild it."""

    _saved_kind: ClassVar[str] = "layer"

    def _options(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as types of JSON."""
        layer = cast("KernelLayer", self)
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
            "heads": layer.heads,
            "phased": layer.phased,
            "init": layer.init,
            **layer._shape._asdict(),
            "dtype": str(layer.source_gain.dtype).removeprefix("torch."),
        }

    @classmethod
    def _empty(cls, options: dict[str, Any]) -> KernelLayer:
        """Return a layer without memory. The options may be those of a hostile file."""
        given = dict(options)
        dtype = _DTYPES[given.pop("dtype")]
        return cast("KernelLayer", cls(**given, device="meta", dtype=dtype))  # type: ignore[call-arg]

    def _write(self, folder: Path) -> None:
        layer = cast("KernelLayer", self)
        options, tensors = self._options(), values_of(layer.state_dict())
        error = _fit_error(layer.fit_error)
        try:
            fill(self._empty(options), tensors)
        except (TypeError, ValueError) as wrong:
            raise ValueError(
                f"this {type(self).__name__} cannot be rebuilt from its options, as it is a "
                f"subclass, parametrized or pruned: {wrong}"
            ) from wrong
        write_model(folder, self._saved_as, {"options": options, "fit_error": error}, tensors)

    @classmethod
    def _read(cls, folder: Path, **parts: Any) -> Self:
        config = read_config(folder, cls._saved_as, cls._saved_kind)
        try:
            layer = cls._empty(config["options"])
            error = _fit_error(config["fit_error"])
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as wrong:
            raise ValueError(f"{folder} holds a damaged {cls._saved_kind}: {wrong}") from wrong
        tensors = read_tensors(
            folder, config, cls._saved_kind, same_shapes(layer.state_dict(), cls._saved_kind)
        )
        try:
            fill(layer, tensors).eval()
        except ValueError as wrong:
            raise ValueError(f"{folder} holds a damaged {cls._saved_kind}: {wrong}") from wrong
        layer.fit_error = error
        return cast("Self", layer)

    def _card(self, results: Sequence[Any]) -> Card:
        layer = cast("KernelLayer", self)
        name = type(self).__name__
        own = sum(one.numel() for one in layer.parameters())
        outputs, inputs = layer.out_features, layer.in_features
        dense = outputs * (inputs + (layer.bias is not None))
        facts = [
            ("layer", layer.extra_repr()),
            ("parameters", f"{own:,}; a dense layer of these sizes has {dense:,}"),
            ("precision", self._options()["dtype"]),
        ]
        error = _fit_error(layer.fit_error)
        if error is not None:
            facts.append(("error of the weight when it was fitted to a dense one", f"{error:.4f}"))
        limits = [
            "This is one layer: what its inputs and outputs mean is decided by the network that it "
            "was trained in.",
            "TorchScript, quantization and weight tying need the dense layer that "
            "`layer.to_linear()` returns.",
        ]
        if own < dense:
            limits.append(
                "In most tasks that were measured, a dense layer of these sizes, which has "
                f"{dense / own:.1f} times the parameters, reaches a higher accuracy."
            )
        return Card(
            title=f"A {name} of {inputs:,} inputs and {outputs:,} outputs",
            about="A layer whose weight matrix is a sum of Laplace kernels between learned anchors "
            "on lines. It multiplies by the matrix exactly without forming it, and takes the place "
            'of a `torch.nn.Linear`. It was made with Laplex (`pip install "laplex[torch,hub]"`).',
            facts=facts,
            load=f"from laplex.nn import {name}\n\nlayer = {name}.from_pretrained({{name}})\n"
            f"output = layer(inputs)  # [..., {inputs}] to [..., {outputs}]",
            limits=limits,
            tags=("pytorch", "laplace-kernel", "structured-matrix"),
        )
