"""Compare exported files with the model that they were written from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..activations import batch_of, first_rows, map_tensors, tensors_of
from ..model import MultiExitModel
from ..policies.base import Policy
from .runner import ExportedModel

#: Largest allowed difference between exported and original logits, relative to 1 + the largest.
_AGREEMENT = 1e-4
#: Number of samples on which the cuts are tried.
_TRIED = 8
#: Other values of a dynamic size. Strides make neighbours alike, and a model may take multiples of
#: a size only: hence twice the size. The example may have the largest size: hence one less, but
#: not 1, which torch.export treats as a case of its own.
_CHANGES: tuple[Callable[[int], int], ...] = (
    lambda size: size + 1,
    lambda size: 2 * size,
    lambda size: max(2, size - 1),
)


def largest_difference(
    model: MultiExitModel,
    example: Any,
    folder: Path,
    policy: Policy | None,
    dynamic: Sequence[dict[int, str]],
) -> float:
    """The largest difference between the logits of the files and of the model.

    It is measured on the example, on its first sample alone, on every other one of the first
    samples where the rest leave at one of the exits, and at other values of the dynamic sizes.

    Raises
    ------
    RuntimeError
        If it is larger than rounding explains, or the scores of the files are not those of the
        policy.
    ValueError
        If the logits of samples change when others leave, or the files are wrong at another value
        of a dynamic size.
    """
    exported = ExportedModel.load(folder, trusted=True)
    largest = 0.0
    for x in (example, first_rows(example, 1, "example")):
        batch = batch_of(x, "example")
        expected = _logits(model, x)
        logits, scores = exported.answers(x)
        difference = float(np.abs(logits - expected).max())
        if not difference <= _allowed(expected):
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
    largest = max(largest, _after_leaving(model, example, exported))
    return max(largest, _at_other_sizes(model, example, exported, dynamic))


def _after_leaving(model: MultiExitModel, example: Any, exported: ExportedModel) -> float:
    x = first_rows(example, _TRIED, "example")
    expected = _logits(model, x)
    stays = np.arange(expected.shape[1]) % 2 == 1
    largest = 0.0
    for k, name in enumerate(model.exit_names):
        difference = float(np.abs(exported.rest(x, k, stays) - expected[k + 1 :, stays]).max())
        if not difference <= _allowed(expected):
            raise ValueError(
                f"the logits of samples change by {difference:.2g} when others leave at exit "
                f"{name!r}: what passes it depends on the other samples of the batch, or on their "
                "order; early exits need a backbone that treats samples independently"
            )
        largest = max(largest, difference)
    return largest


def _at_other_sizes(
    model: MultiExitModel, example: Any, exported: ExportedModel, dynamic: Sequence[dict[int, str]]
) -> float:
    """Each dynamic size alone, and all together, since a model may take square images only."""
    x, largest = first_rows(example, 2, "example"), 0.0
    old = {
        name: tensor.shape[axis]
        for tensor, axes in zip(tensors_of(x), dynamic, strict=True)
        for axis, name in axes.items()
    }
    unseen = set(old)
    for names in filter(None, dict.fromkeys([*((name,) for name in old), tuple(old)])):
        for change in _CHANGES:
            new = {name: change(old[name]) for name in names}
            difference = _at_sizes(model, _resized(x, dynamic, new), exported, old, new)
            if difference is not None:
                unseen.difference_update(names)
                largest = max(largest, difference)
    for name in sorted(unseen):
        tried = ", ".join(str(change(old[name])) for change in _CHANGES)
        raise ValueError(
            f"the model takes {name} = {old[name]} in the example, but none of {tried}, so that "
            f"the files cannot be compared with it: leave {name} out of dynamic, or pass "
            "dynamic={} to fix all sizes but the batch"
        )
    return largest


def _at_sizes(
    model: MultiExitModel,
    x: Any,
    exported: ExportedModel,
    old: dict[str, int],
    new: dict[str, int],
) -> float | None:
    """The largest difference for an input of other sizes; None if the model does not take them."""
    try:
        expected = _logits(model, x)
    except Exception:  # a forward may raise anything for a size that it does not take
        return None
    if not np.isfinite(expected).all():
        return None
    try:
        difference = float(np.abs(exported.logits(x) - expected).max())
        found = f"give logits that differ by {difference:.2g} from those of the model"
    except ValueError:  # the runner refuses the sizes, and says so
        return None
    except RuntimeError as error:
        difference, found = np.inf, f"do not run ({error})"
    if difference <= _allowed(expected):
        return difference
    sizes, before = (", ".join(f"{name} = {one[name]}" for name in new) for one in (new, old))
    other = "" if exported.manifest["file_format"] == "torch" else 'pass format="torch", or '
    raise ValueError(
        f"the exported files {found} for {sizes}, though they agree for {before} of the example: "
        f"the exporter has fixed a number that follows from it, such as the windows of an adaptive "
        f"pooling; {other}leave {' and '.join(new)} out of dynamic"
    )


def _resized(x: Any, dynamic: Sequence[dict[int, str]], new: dict[str, int]) -> Any:
    """The input with other sizes: its values are repeated along these axes, or cut off."""
    axes = iter(dynamic)

    def one(tensor: Tensor) -> Tensor:
        for axis, name in next(axes).items():
            if name in new:
                rows = torch.arange(new[name]) % tensor.shape[axis]
                tensor = tensor.index_select(axis, rows)
        return tensor

    return map_tensors(one, x)


def quantize_files(
    folder: Path, files: list[str], model: MultiExitModel, example: Any, policy: Policy | None
) -> dict[str, Any]:
    """Quantize ONNX files to int8 in place, and compare them with the model on the example.

    Returns
    -------
    dict
        For the manifest: the type of the weights, the largest difference of logits, the share of
        samples with the same label at the last exit, and, with a policy, with the same exit.
    """
    # Imported here: it needs onnxruntime, which an export to torch does not.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def news(record: logging.LogRecord) -> bool:  # each file was written optimised
        return "pre-processing" not in record.getMessage()

    logging.getLogger().addFilter(news)
    try:
        for name in files:
            written, small = folder / name, folder / f"{name}.int8"
            quantize_dynamic(
                written,
                small,
                # onnxruntime has no convolution of int8 weights on the CPU.
                op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Gather"],
                weight_type=QuantType.QInt8,
            )
            small.replace(written)
            (folder / f"{name}.data").unlink(missing_ok=True)  # large weights in float32
    finally:
        logging.getLogger().removeFilter(news)
    expected, logits = (
        _logits(model, example),
        ExportedModel.load(folder, trusted=True).logits(example),
    )
    same = logits[-1].argmax(-1) == expected[-1].argmax(-1)
    found: dict[str, Any] = {
        "weights": "int8",
        "largest_difference": float(np.abs(logits - expected).max()),
        "same_labels": float(same.mean()),
    }
    if policy is not None:
        with torch.no_grad():
            exits = policy.exit_index(logits) == policy.exit_index(expected)
        found["same_exits"] = float(exits.double().mean())
    return found


def _logits(model: MultiExitModel, x: Any) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return torch.stack(model(x)).numpy()


def _allowed(expected: np.ndarray[Any, Any]) -> float:
    return _AGREEMENT * (1 + float(np.abs(expected).max()))
