"""Write a model with exits to a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ..._support.arguments import one_of
from ..._support.optional import require
from ..activations import batch_of, map_tensors
from ..batches import check_model
from ..costs import count_costs
from ..model import MultiExitModel
from ..policies import POLICIES
from ..policies.base import Policy
from . import runner
from .cutting import Segment, cut_segments, quiet
from .export_folder import check_export_folder, complete_folder
from .portable import FileFormat, check_rows, kernel_layers, portable

#: Largest allowed difference between exported and original logits, relative to 1 + the largest.
_AGREEMENT = 1e-4
#: Protobuf files are limited to 2 GiB; weights above this size go to a separate file.
_LARGE = 1 << 30


def export(
    model: MultiExitModel,
    example: Any,
    folder: str | os.PathLike[str],
    *,
    format: FileFormat = "onnx",  # noqa: A002  (the word for it)
    policy: Policy | None = None,
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
    example : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
        An input of ``model(example)`` with at least 2 samples. All sizes except that of the batch
        are fixed by the export.
    folder : path
        The folder to write. It must not exist, or be empty, or with `overwrite` hold a previous
        export.
    format : "onnx" or "torch"
        ``"onnx"`` writes ``.onnx`` files for onnxruntime, ``"torch"`` writes ``.pt2`` files of
        `torch.export`.
    policy : Policy, optional
        The default policy of ``ExportedModel.predict``, which may be one of your own. Its score,
        and its memory of each sample, become part of the segments.
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
        because data bypass an exit; the message names the exit.
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
    Laplace kernels, which need Laplex to run. Tensors of an activation that nothing after its exit
    uses are not passed on.

    Examples
    --------
    >>> from laplex.early_exit import ExportedModel, MaxSoftmax, export    # doctest: +SKIP
    >>> export(model, images[:2], "exported", policy=MaxSoftmax(0.9))      # doctest: +SKIP
    >>> ExportedModel.load("exported").predict(images.numpy()).labels      # doctest: +SKIP
    """
    path = Path(folder)
    _check(model, example, format, policy)
    check_export_folder(path, overwrite)
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, extra="onnx", feature='laplex.early_exit.export with format="onnx"')
    model, example, policy, dense = portable(model, example, policy, format)
    check_rows(model, example)
    segments = cut_segments(model, example, policy)
    costs = count_costs(model, example)
    files = [f"segment{k}.{'onnx' if format == 'onnx' else 'pt2'}" for k in range(len(segments))]
    imports = [] if format == "onnx" or not kernel_layers(model) else ["laplex.nn"]
    manifest: dict[str, Any] = {
        "kind": runner.KIND,
        "format": runner.FORMAT,
        "file_format": format,
        "num_exits": model.num_exits,
        "segments": [
            _described(segment, file, policy is not None)
            for segment, file in zip(segments, files, strict=True)
        ],
        "input_places": list(runner.leaves(example)),
        "policy": None if policy is None else described(policy, model.num_exits),
        "scored": policy is not None,
        "dense_layers": dense,
        "imports": imports,
        "costs": costs.to_dict(),
        "versions": _versions(format),
    }
    with complete_folder(path) as part:
        for segment, file in zip(segments, files, strict=True):
            _WRITERS[format](segment, part / file)
        shutil.copyfile(runner.__file__, part / "runner.py")
        _write_manifest(part, manifest)
        manifest["largest_difference"] = _largest_difference(model, example, part, policy)
        _write_manifest(part, manifest)
    return path


# --- before --------------------------------------------------------------------------------------


def _check(model: Any, example: Any, form: Any, policy: Any) -> None:
    check_model(model)
    one_of("format", form, FileFormat)
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


# --- files ---------------------------------------------------------------------------------------


def _write_torch(segment: Segment, path: Path) -> None:
    with quiet():
        torch.export.save(segment.program, path)


def _write_onnx(segment: Segment, path: Path) -> None:
    onnx: Any = require("onnx", extra="onnx", feature="laplex.early_exit.export")
    weights = sum(tensor.nbytes for tensor in segment.program.state_dict.values())
    with quiet():
        torch.onnx.export(
            segment.program,
            (),
            path,
            input_names=_names("input", len(segment.inputs)),
            output_names=_names("output", len(segment.outputs)),
            external_data=weights > _LARGE,
            dynamo=True,
            verbose=False,
        )
    onnx.checker.check_model(path, full_check=True)


_WRITERS = {"onnx": _write_onnx, "torch": _write_torch}


def _names(word: str, count: int) -> list[str]:
    return [f"{word}_{place}" for place in range(count)]


def _described(segment: Segment, file: str, scored: bool) -> dict[str, Any]:
    outputs = ["logits", *(["score"] if scored else [])]
    outputs += _names("activation", len(segment.outputs) - len(outputs))
    return {
        "exit": segment.exit,
        "file": file,
        "inputs": _tensors(_names("input", len(segment.inputs)), segment.inputs),
        "outputs": _tensors(outputs, segment.outputs),
    }


def _tensors(names: Sequence[str], tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": ["batch", *tensor.shape[1:]],
        }
        for name, tensor in zip(names, tensors, strict=True)
    ]


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


def _largest_difference(
    model: MultiExitModel, example: Any, folder: Path, policy: Policy | None
) -> float:
    """The largest difference between the logits of the files and of the model.

    It is measured on the example, and on its first sample alone.

    Raises
    ------
    RuntimeError
        If it is larger than rounding explains, or the scores of the files are not those of the
        policy.
    """
    exported = runner.ExportedModel.load(folder)
    largest = 0.0
    for x in (example, map_tensors(lambda tensor: tensor[:1], example)):
        batch = batch_of(x, "example")
        with torch.no_grad():
            expected = torch.stack(model(x)).numpy()
        logits, scores = exported.answers(x)
        difference = float(np.abs(logits - expected).max())
        if not difference <= _AGREEMENT * (1 + float(np.abs(expected).max())):
            raise RuntimeError(
                f"the exported files give logits that differ by {difference:.2g} from those of the "
                f"model for a batch of {batch}: please report this, with the model"
            )
        if policy is not None and scores is not None:
            with torch.no_grad():
                wanted = policy.scores(logits).numpy()
            if not np.allclose(scores, wanted, _AGREEMENT, _AGREEMENT, equal_nan=True):
                raise RuntimeError(
                    f"the exported files give other scores than {policy!r} for a batch of {batch}: "
                    "a score must depend only on k, logits and memory"
                )
        largest = max(largest, difference)
    return largest
