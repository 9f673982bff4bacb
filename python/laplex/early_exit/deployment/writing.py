"""Write a model with exits to a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ... import __version__
from ..._support.arguments import one_of
from ..._support.optional import require
from ..activations import Inputs, batch_of
from ..batches import check_model
from ..costs import count_costs
from ..model import MultiExitModel
from ..policies import POLICIES
from ..policies.base import Policy
from . import runner
from .comparing import largest_difference, quantize_files
from .cutting import Segment, cut_segments
from .dynamic_sizes import dynamic_sizes
from .export_folder import check_export_folder, complete_folder
from .portable import FileFormat, kernel_layers, portable
from .tracing import quiet

#: Protobuf files are limited to 2 GiB; weights above this size go to a separate file.
_LARGE = 1 << 30


def export(
    model: MultiExitModel,
    example: Any,
    folder: str | os.PathLike[str],
    *,
    format: FileFormat = "onnx",  # noqa: A002  (the word for it)
    policy: Policy | None = None,
    dynamic: Mapping[Any, Any] | None = None,
    quantize: Literal["int8"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Export a model with its exits: one file for each segment, a manifest, and a runner.

    `ExportedModel.load` opens the folder. The folder appears only when it is complete: everything
    is written to a temporary folder, compared with the model in the runtime of the files, and then
    renamed.

    Parameters
    ----------
    model : MultiExitModel
        The model. It is not changed: a copy on the CPU, in evaluation mode, is exported.
    example : Tensor [batch, ...], or nested lists, tuples and mappings of Tensors
        An input of ``model(example)`` with at least 2 samples, such as the output of a tokenizer.
        All sizes except that of the batch and those in `dynamic` are fixed by the export.
    folder : path
        The folder to write. It must not exist, or be empty, or with `overwrite` hold a previous
        export.
    format : "onnx" or "torch"
        ``"onnx"`` writes ``.onnx`` files for onnxruntime, ``"torch"`` writes ``.pt2`` files of
        `torch.export`.
    policy : Policy, optional
        The default policy of ``ExportedModel.predict``, which may be one of your own. Its score,
        and its memory of each sample, become part of the segments.
    dynamic : mapping, optional
        Names of the sizes that may vary in addition to the batch, by axis: ``{1: "tokens"}`` for an
        example that is one Tensor, ``{"input_ids": {1: "tokens"}, ...}`` for a mapping. Sizes of
        one name must be equal in each call. By default, axis 1 of ``input_ids``,
        ``attention_mask``, ``token_type_ids`` and ``position_ids`` is dynamic; ``{}`` fixes it.
        The files are also compared with the model at other values of these sizes. The windows of
        an adaptive pooling to more than one number cannot vary in ONNX: use ``format="torch"``.
    quantize : "int8", optional
        Store the weights of matrix products as int8, and quantize their inputs in each call
        (dynamic quantization of onnxruntime). The manifest has, under ``"quantized"``, how far the
        logits and the decisions for the example moved. Needs ``format="onnx"``.
    overwrite : bool
        Whether to replace a previous export in `folder`. If false, such a folder raises
        FileExistsError. A folder that holds anything else is never replaced.

    Returns
    -------
    Path
        The folder, which contains ``manifest.json``, ``segment0.onnx``, ... and ``runner.py``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, a score or the model cannot be traced, or the model cannot be cut
        at an exit or has an operation that ONNX lacks; the message names it. If the files are wrong
        at another value of a dynamic size, or the model takes no other value.
    FileExistsError
        If the folder is not empty.
    ImportError
        If the packages for ONNX are not installed: ``pip install "laplex[onnx]"``.
    RuntimeError
        If the files disagree with the model.

    Notes
    -----
    ONNX files are in float32. ``torch.export`` files are in float64 if the model is, otherwise in
    float32. ONNX has no Laplace kernels: `LaplexHead` and `LaplexLinear`, which are linear in their
    input, become dense layers there, and the manifest lists them. In ``.pt2`` files they remain
    Laplace kernels, which need Laplex to run. What later segments need, masks and skip connections
    included, is passed on to them. The rows of samples that leave are removed along the batch axis
    of each tensor, which the manifest names. What has no batch axis is passed on as it is. Anything
    that follows from the inputs without a weight, such as an attention mask, is computed again in
    each segment.

    Examples
    --------
    >>> from laplex.early_exit import ExportedModel, MaxSoftmax, export    # doctest: +SKIP
    >>> export(model, images[:2], "exported", policy=MaxSoftmax(0.9))      # doctest: +SKIP
    >>> ExportedModel.load("exported").predict(images.numpy()).labels      # doctest: +SKIP
    """
    path = Path(folder)
    _check(model, example, format, policy, quantize)
    example = _arguments(model, example)
    sizes = dynamic_sizes(example, dynamic)
    check_export_folder(path, overwrite)
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, extra="onnx", feature='laplex.early_exit.export with format="onnx"')
    model, example, policy, dense = portable(model, example, policy, format)
    segments = cut_segments(model, example, policy, sizes)
    costs = count_costs(model, example)
    files = [f"segment{k}.{'onnx' if format == 'onnx' else 'pt2'}" for k in range(model.num_exits)]
    imports = [] if format == "onnx" or not kernel_layers(model) else ["laplex.nn"]
    manifest: dict[str, Any] = {
        "kind": runner.KIND,
        "format": runner.FORMAT,
        "file_format": format,
        "num_exits": model.num_exits,
        "segments": [
            {
                "exit": segment.exit,
                "file": file,
                "inputs": [asdict(value) for value in segment.inputs],
                "outputs": [asdict(value) for value in segment.outputs],
            }
            for segment, file in zip(segments.parts, files, strict=True)
        ],
        "inputs": [
            {"place": place, **asdict(value)}
            for place, value in zip(runner.leaves(example), segments.inputs, strict=True)
        ],
        "largest_sizes": segments.largest,
        "policy": None if policy is None else described(policy, model.num_exits),
        "scored": policy is not None,
        "dense_layers": dense,
        "imports": imports,
        "costs": costs.to_dict(),
        "versions": _versions(format),
    }
    with complete_folder(path) as part:
        for segment, file in zip(segments.parts, files, strict=True):
            _WRITERS[format](segment, part / file)
        shutil.copyfile(runner.__file__, part / "runner.py")
        _write_manifest(part, manifest)
        manifest["largest_difference"] = largest_difference(model, example, part, policy, sizes)
        if quantize is not None:
            manifest["quantized"] = quantize_files(part, files, model, example, policy)
        _write_manifest(part, manifest)
    return path


# --- before --------------------------------------------------------------------------------------


def _check(model: Any, example: Any, form: Any, policy: Any, quantize: Any) -> None:
    check_model(model)
    one_of("format", form, FileFormat)
    if quantize is not None:
        one_of("quantize", quantize, Literal["int8"])
        if form != "onnx":
            raise ValueError(f'quantize={quantize!r} is for ONNX files: pass format="onnx"')
    if batch_of(example, "example") < 2:
        raise ValueError(
            "example has fewer than 2 samples, with which the batch size would become a constant: "
            "pass a batch of at least 2"
        )
    if policy is not None:
        if not isinstance(policy, Policy):
            raise TypeError(
                f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
            )
        policy.cuts(model.num_exits)
        if type(policy).reached is not Policy.reached:
            raise TypeError(
                f"policy is a {type(policy).__name__} with its own method reached, which exported "
                "files do not support: they compare its score with its thresholds by >= or >"
            )


def _arguments(model: MultiExitModel, example: Any) -> Any:
    """The example without what the backbone does not take, such as labels."""
    if isinstance(example, Mapping):
        args, kwargs = model.signature.arguments(example)
        return example if args else {key: kwargs[key] for key in example if key in kwargs}
    if isinstance(example, Inputs) and len(example.args) == 1 and not example.kwargs:
        return example.args[0]
    return example


# --- files ---------------------------------------------------------------------------------------


def _write_torch(segment: Segment, path: Path) -> None:
    with quiet():
        torch.export.save(segment.program, path)


def _write_onnx(segment: Segment, path: Path) -> None:
    onnx: Any = require("onnx", extra="onnx", feature="laplex.early_exit.export")
    weights = sum(tensor.nbytes for tensor in segment.program.state_dict.values())
    try:
        with quiet():
            torch.onnx.export(
                segment.program,
                (),
                path,
                input_names=[value.name for value in segment.inputs],
                output_names=[value.name for value in segment.outputs],
                external_data=weights > _LARGE,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason: BaseException = error  # that of the exporter is a page long
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise ValueError(
            f"the segment of {segment.exit!r} cannot be written as ONNX: "
            f'{str(reason).partition(chr(10))[0]}; pass format="torch", or replace that operation'
        ) from error
    onnx.checker.check_model(path, full_check=True)
    # The exporter notes in every node which lines of which files on this machine it comes from.
    model = onnx.load(path, load_external_data=False)
    for node in (*model.graph.node, *(one for f in model.functions for one in f.node)):
        del node.metadata_props[:]
    onnx.save(model, path)


_WRITERS = {"onnx": _write_onnx, "torch": _write_torch}


def _versions(form: FileFormat) -> dict[str, str]:
    found = {
        "laplex": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            found[name] = require(name, extra="onnx").__version__
    return found


def described(policy: Policy, num_exits: int) -> dict[str, Any]:
    """Describe a policy for the manifest.

    A policy of Laplex is described by the name of its class and by its thresholds as they were
    given. Any other policy is described by the full path of its class and by its thresholds in
    units of scores.
    """
    kind = type(policy)
    own = any(kind is one for one in POLICIES.built_in().values())
    thresholds: Any = policy.thresholds if own else policy.cuts(num_exits).tolist()

    def number(value: float) -> float | str:  # JSON has no infinities; float() reads the text
        return value if np.isfinite(value) else str(value)

    return {
        "rule": kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}",
        "thresholds": number(thresholds)
        if isinstance(thresholds, float)
        else [number(one) for one in thresholds],
        "strict": policy.strict,
        "fallback": policy.fallback,
    }


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    (folder / runner.MANIFEST).write_text(text, encoding="utf-8")
