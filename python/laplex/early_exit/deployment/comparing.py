"""Compare exported files with the model that they were written from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..activations import batch_of, rows_of
from ..model import MultiExitModel
from ..policies.base import Policy
from .runner import ExportedModel

#: Largest allowed difference between exported and original logits, relative to 1 + the largest.
_AGREEMENT = 1e-4
#: Number of samples on which the cuts are tried.
_TRIED = 8


def largest_difference(
    model: MultiExitModel, example: Any, folder: Path, policy: Policy | None
) -> float:
    """The largest difference between the logits of the files and of the model.

    It is measured on the example, on its first sample alone, and on every other one of the first
    samples where the rest leave at one of the exits.

    Raises
    ------
    RuntimeError
        If it is larger than rounding explains, or the scores of the files are not those of the
        policy.
    ValueError
        If the logits of samples change when others leave.
    """
    exported = ExportedModel.load(folder)
    largest = 0.0
    for x in (example, _first(example, 1)):
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
    return max(largest, _after_leaving(model, example, exported))


def _after_leaving(model: MultiExitModel, example: Any, exported: ExportedModel) -> float:
    x = _first(example, _TRIED)
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
    expected, logits = _logits(model, example), ExportedModel.load(folder).logits(example)
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


def _first(x: Any, count: int) -> Any:
    return rows_of(x, slice(count), batch_of(x, "example"))


def _allowed(expected: np.ndarray[Any, Any]) -> float:
    return _AGREEMENT * (1 + float(np.abs(expected).max()))
