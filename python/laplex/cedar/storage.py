"""Saving and loading a model as ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .. import _core
from .._support.complete_files import replacing
from .._support.json_files import read_json
from .confirmation import Confirmation
from .files import CONFIG, TENSORS, check_model
from .fitted import Fitted, Modality
from .module import basis_of

_FORMAT = 1
_MODEL = "laplex.cedar.CEDAR"
_VECTORS = ("mean", "data_mean")


class Saved(NamedTuple):
    """What the files of a model hold: parameters of the estimator, its fit, names of columns."""

    parameters: Mapping[str, Any]
    fitted: Fitted
    columns: list[str] | None
    confirmation: Confirmation | None


def save(model: Saved, folder: str | os.PathLike[str]) -> None:
    """Write a fitted model; each file replaces an older one when it is complete."""
    path = Path(folder).expanduser()
    if path.is_file():
        raise FileExistsError(f"{path} is a file: pass a folder")
    path.mkdir(parents=True, exist_ok=True)
    fitted = model.fitted
    tensors = {"mean": fitted.mean, "data_mean": fitted.data_mean}
    for start, basis in enumerate(fitted.bases):
        for name, tensor in basis.tensors().items():
            tensors[f"start{start}.{name}"] = tensor.detach().contiguous()
    for name, modality in fitted.modalities.items():
        tensors[f"modality.{name}"] = modality.mean
    config: dict[str, Any] = {
        "format": _FORMAT,
        "model": _MODEL,
        "laplex": _core.info()["version"],
        "parameters": {name: _plain(value) for name, value in model.parameters.items()},
        "fitted": {
            "k_": fitted.k,
            "n_iter_": fitted.steps,
            "n_samples_seen_": fitted.count,
            "n_features_in_": fitted.dim,
            "loss_curve_": list(fitted.losses),
            "scale_": fitted.scale,
            "log_norms": fitted.log_norms,
        },
        "modalities": {
            name: {
                "scale": one.scale,
                "loss": one.loss,
                "count": one.count,
                "log_norms": one.log_norms,
            }
            for name, one in fitted.modalities.items()
        },
    }
    if model.confirmation is not None:
        config["confirmation"] = json.loads(model.confirmation.to_json())
    if model.columns is not None:
        config["feature_names_in_"] = model.columns
    with replacing(path / TENSORS) as part:
        save_file(tensors, part)
    config["tensors"] = _digest(path / TENSORS)
    with replacing(path / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: str | os.PathLike[str]) -> Saved:
    """Read a model.

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the files are damaged, of another kind, of two models, or newer than this version of
        Laplex.
    """
    path = Path(folder).expanduser()
    check_model(path)
    try:
        config = read_json(path / CONFIG)
        form = config["format"]
        if config["model"] != _MODEL:
            raise KeyError("model")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} does not describe a CEDAR model") from error
    if form != _FORMAT:
        raise ValueError(
            f"{path} was saved in format {form}, but this version of Laplex reads format "
            f"{_FORMAT}: use version {config.get('laplex')}, which saved it, or a newer one"
        )
    if config.get("tensors", "") not in ("", _digest(path / TENSORS)):  # absent in older models
        raise ValueError(
            f"{path} holds a damaged CEDAR model: {TENSORS} is not the one that {CONFIG} was saved "
            "with. Copy both files of one model, or save it again"
        )
    try:
        # Copied to aligned memory, as in the fit: products with a mapped file may round
        # differently, depending on where its header ends.
        tensors = {name: one.clone() for name, one in load_file(path / TENSORS).items()}
        parameters = dict(config["parameters"])
        if "transform" in parameters:  # as the parameter was called at first
            parameters["basis"] = parameters.pop("transform")
        modalities = {
            name: Modality(tensors.pop(f"modality.{name}"), **one)
            for name, one in config.get("modalities", {}).items()
        }
        starts = sorted({int(name[5 : name.index(".")]) for name in tensors.keys() - set(_VECTORS)})
        bases = []
        for start in starts:
            head = f"start{start}."
            parts = {name[len(head) :]: tensors[name] for name in tensors if name.startswith(head)}
            bases.append(basis_of(parts))
        known = config["fitted"]
        fitted = Fitted(
            tuple(bases),
            tensors["mean"],
            tensors["data_mean"],
            known["scale_"],
            known["k_"],
            known["n_samples_seen_"],
            tuple(known["loss_curve_"]),
            known["n_iter_"],
            modalities,
            _pair(known.get("log_norms")),
        )
        dims = {basis.dim for basis in bases} | {fitted.dim, len(fitted.data_mean)}
        dims |= {len(one.mean) for one in modalities.values()}
        if dims != {known["n_features_in_"]}:
            raise ValueError("sizes differ")
        if not 1 <= fitted.k <= fitted.axes:
            raise ValueError(f"k_ is {fitted.k}, but there are {fitted.axes} axes")
        scales = (fitted.scale, *(one.scale for one in modalities.values()))
        if not all(0 <= scale < math.inf for scale in scales):
            raise ValueError("a scale must be a finite number of at least 0")
        if not fitted.losses or not all(map(math.isfinite, fitted.losses)):
            raise ValueError("loss_curve_ must hold finite numbers")
        for number in (fitted.k, fitted.count, fitted.steps):
            if not isinstance(number, int) or number < 1:
                raise ValueError("k_, n_samples_seen_ and n_iter_ must be integers of at least 1")
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} has NaN or infinity")
        confirmation = config.get("confirmation")
        if confirmation is not None:
            confirmation = Confirmation.from_json(json.dumps(confirmation))
    except Exception as error:  # there are as many kinds as there are ways to be damaged
        raise ValueError(f"{path} holds a damaged CEDAR model: {error}") from error
    return Saved(parameters, fitted, config.get("feature_names_in_"), confirmation)


def _pair(numbers: Any) -> tuple[float, float] | None:
    """Return two numbers; None if a file of an older version has none."""
    return None if numbers is None else (float(numbers[0]), float(numbers[1]))


def _digest(file: Path) -> str:
    """Return a hash of the contents of a file."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            found.update(block)
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """Return a parameter as a type of JSON; a generator of random numbers becomes None."""
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, torch.device) else None
