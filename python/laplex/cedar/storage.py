"""Saving and loading a model as ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import _core
from .._support.complete_files import replacing
from .files import CONFIG, TENSORS, check_model
from .module import basis_of

if TYPE_CHECKING:
    from .estimator import CEDAR

    Model = TypeVar("Model", bound=CEDAR)

_FORMAT = 1
_VECTORS = ("mean", "data_mean")
_NUMBERS = ("k_", "n_iter_", "n_samples_seen_", "n_features_in_", "loss_curve_", "scale_")


def save(model: CEDAR, folder: str | os.PathLike[str]) -> None:
    """Write a fitted model; each file replaces an older one when it is complete."""
    path = Path(folder)
    if path.is_file():
        raise FileExistsError(f"{path} is a file: pass a folder")
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.as_tensor(getattr(model, f"{name}_")) for name in _VECTORS}
    for start, basis in enumerate(model.bases_):
        for name, tensor in basis.tensors().items():
            tensors[f"start{start}.{name}"] = tensor.detach().contiguous()
    config: dict[str, Any] = {
        "format": _FORMAT,
        "model": "laplex.cedar.CEDAR",
        "laplex": _core.info()["version"],
        "parameters": {name: _plain(value) for name, value in model.get_params().items()},
        "fitted": {name: _plain(getattr(model, name)) for name in _NUMBERS},
    }
    if hasattr(model, "feature_names_in_"):
        config["feature_names_in_"] = [str(name) for name in model.feature_names_in_]
    with replacing(path / TENSORS) as part:
        save_file(tensors, part)
    with replacing(path / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(cls: type[Model], folder: str | os.PathLike[str]) -> Model:
    """Read a model.

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the files are damaged, of another kind, or newer than this version of Laplex.
    """
    path = Path(folder)
    check_model(path)
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        form = config["format"]
        if config["model"] != "laplex.cedar.CEDAR":
            raise KeyError("model")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} does not describe a CEDAR model") from error
    if form != _FORMAT:
        raise ValueError(
            f"{path} was saved in format {form}, but this version of Laplex reads format "
            f"{_FORMAT}: use version {config.get('laplex')}, which saved it, or a newer one"
        )
    try:
        # Copied to aligned memory, as in the fit: products with a mapped file may round
        # differently, depending on where its header ends.
        tensors = {name: one.clone() for name, one in load_file(path / TENSORS).items()}
        parameters = config["parameters"]
        if "transform" in parameters:  # as the parameter was called at first
            parameters["basis"] = parameters.pop("transform")
        model = cls(**parameters)
        starts = sorted({int(name[5 : name.index(".")]) for name in tensors.keys() - set(_VECTORS)})
        bases = []
        for start in starts:
            head = f"start{start}."
            parts = {name[len(head) :]: tensors[name] for name in tensors if name.startswith(head)}
            bases.append(basis_of(parts))
        fitted = {name: config["fitted"][name] for name in _NUMBERS}
        vectors = {f"{name}_": tensors[name].numpy() for name in _VECTORS}
        dims = {basis.dim for basis in bases} | set(map(len, vectors.values()))
        dims.add(fitted["n_features_in_"])
        if len(dims) != 1:
            raise ValueError("sizes differ")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds a damaged CEDAR model: {error}") from error
    model.bases_ = bases
    for name, value in {**vectors, **fitted}.items():
        setattr(model, name, value)
    if "feature_names_in_" in config:
        model.feature_names_in_ = np.array(config["feature_names_in_"], dtype=object)
    return model


def _plain(value: Any) -> Any:
    """Return a parameter as a type of JSON; a generator of random numbers becomes None."""
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, torch.device) else None
