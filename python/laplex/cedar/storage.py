"""Saving and loading a model as ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.model_files import local_path, read_config, read_tensors, write_model
from .basis import Basis
from .confirmation import Confirmation
from .files import check_model
from .fitted import Fitted, Modality
from .module import basis_of
from .settings import checked_ks, checked_parameters

MODEL, KIND = "laplex.cedar.CEDAR", "CEDAR model"


class Saved(NamedTuple):
    """What the files of a model hold: parameters of the estimator, its fit, names of columns."""

    parameters: Mapping[str, Any]
    fitted: Fitted
    columns: list[str] | None
    confirmation: Confirmation | None


def save(model: Saved, folder: str | os.PathLike[str]) -> None:
    """Write a fitted model; each file replaces an older one when it is complete."""
    fitted = model.fitted
    tensors = {"mean": fitted.mean, "data_mean": fitted.data_mean}
    for start, basis in enumerate(fitted.bases):
        for name, tensor in basis.tensors().items():
            tensors[f"start{start}.{name}"] = tensor.detach().contiguous()
    for name, modality in fitted.modalities.items():
        tensors[f"modality.{name}"] = modality.mean
    parameters = {name: _plain(value) for name, value in model.parameters.items()}
    _check_parameters(parameters)  # as they may have been set after the fit
    config: dict[str, Any] = {
        "parameters": parameters,
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
    write_model(folder, MODEL, config, tensors)


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
    path = local_path(folder, "folder")
    check_model(path)
    config = read_config(path, MODEL, KIND)
    tensors = read_tensors(path, config, KIND)
    try:
        return _checked(config, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} holds a damaged CEDAR model: {error}") from error


def _checked(config: dict[str, Any], tensors: dict[str, Tensor]) -> Saved:
    """Make a model of what two files hold, which may be anything."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinity")
    parameters, known = dict(config["parameters"]), config["fitted"]
    for name, value in parameters.items():
        for one in value if isinstance(value, list) else [value]:
            if not (one is None or isinstance(one, (bool, int, float, str))):
                raise TypeError(f"{name} is a {type(one).__name__}")
    device = parameters.get("device")
    if device is not None and (not isinstance(device, str) or torch.device(device).type == "meta"):
        raise TypeError(f"device is {device!r:.40}")
    if "transform" in parameters:  # as the parameter was called at first
        parameters["basis"] = parameters.pop("transform")
    _check_parameters(parameters)
    mean, dim = tensors.pop("mean"), known["n_features_in_"]
    if mean.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"mean is {mean.dtype}")

    def vector(name: str, found: Tensor) -> Tensor:
        if found.shape != (dim,) or found.dtype != mean.dtype:
            raise ValueError(f"{name} has shape {list(found.shape)} and dtype {found.dtype}")
        return found

    modalities = {
        name: Modality(
            vector(name, tensors.pop(f"modality.{name}")),
            _number("scale", one["scale"]),
            _number("loss", one["loss"]),
            _count("count", one["count"]),
            _pair(one.get("log_norms")),
        )
        for name, one in config.get("modalities", {}).items()
    }
    data_mean = vector("data_mean", tensors.pop("data_mean"))
    starts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        start, _, part = name.partition(".")
        starts.setdefault(start, {})[part] = tensor
    bases = [_basis(starts.pop(f"start{at}", {}), dim, mean.dtype) for at in range(len(starts))]
    if len({(type(one), one.axes) for one in bases}) > 1:
        raise ValueError("the bases of the starts are of different kinds")
    fitted = Fitted(
        tuple(bases),
        vector("mean", mean),
        data_mean,
        _number("scale_", known["scale_"]),
        _count("k_", known["k_"]),
        _count("n_samples_seen_", known["n_samples_seen_"]),
        tuple(_number("loss_curve_", one, least=-math.inf) for one in known["loss_curve_"]),
        _count("n_iter_", known["n_iter_"]),
        modalities,
        _pair(known.get("log_norms")),
    )
    if not fitted.losses or not bases:
        raise ValueError("there is no basis, or no loss")
    if fitted.k > fitted.axes:
        raise ValueError(f"k_ is {fitted.k}, but there are {fitted.axes} axes")
    columns = config.get("feature_names_in_")
    if columns is not None and ([type(one) for one in columns] != [str] * dim):
        raise ValueError("feature_names_in_ are not the names of the columns")
    confirmation = config.get("confirmation")
    if confirmation is not None:
        confirmation = Confirmation.from_json(json.dumps(confirmation))
        if len(confirmation.confirmed) != fitted.axes:
            raise ValueError(f"confirmation has {len(confirmation.confirmed)} axes")
    return Saved(parameters, fitted, columns, confirmation)


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    checked_parameters(parameters)
    if "k" in parameters:
        checked_ks(parameters["k"])
    if not isinstance(parameters.get("sparse_output", False), bool):
        raise TypeError(f"sparse_output must be a bool, got {parameters['sparse_output']!r:.40}")


def _basis(parts: dict[str, Tensor], dim: int, dtype: torch.dtype) -> Basis:
    """Make a basis of tensors whose names, shapes and dtypes are those of one."""
    kinds: list[dict[str, tuple[int | None, ...]]] = [
        {"readouts": (dim, dim)},
        {"readouts": (dim, dim), "atoms": (dim, dim)},
        {"frame": (None, dim), "dual": (None, dim)},
        {"anchors": (None, dim)},
        {"anchors": (None, dim), "order": (dim,), "signs": (dim,)},
    ]
    wanted = next((one for one in kinds if one.keys() == parts.keys()), None)
    if wanted is None:
        raise ValueError(f"no basis consists of {', '.join(sorted(parts)):.80}")
    for name, shape in wanted.items():
        part = parts[name]
        fits = all(
            have == want or want is None for have, want in zip(part.shape, shape, strict=False)
        )
        if not fits or part.ndim != len(shape) or not part.numel():
            raise ValueError(f"{name} has shape {list(part.shape)}")
        if part.dtype != (torch.int64 if name == "order" else dtype):
            raise ValueError(f"{name} is {part.dtype}")
    if "frame" in parts and not dim <= len(parts["frame"]) == len(parts["dual"]):
        raise ValueError("frame and dual differ in size, or are fewer than the columns")
    if "order" in parts and parts["order"].sort().values.tolist() != list(range(dim)):
        raise ValueError("order is no permutation")
    basis = basis_of(parts)
    _check_inverse(basis, dtype)
    return basis


def _check_inverse(basis: Basis, dtype: torch.dtype) -> None:
    """Check on four vectors that atoms and readouts belong together: z = sum_i (u_i . z) a_i.

    This finds files that were mixed up or changed, at the cost of coding four rows. Rotations keep
    vectors to far better than 1 %. The rounding errors of two other matrices U and A grow with
    their norms: those of a product are about eps sqrt(d) |U| |A|.
    """
    random = torch.Generator("cpu").manual_seed(0)
    z = torch.randn(4, basis.dim, generator=random, dtype=dtype, device="cpu")
    error = (basis.synthesise(basis.analyse(z)) - z).norm(dim=1) / z.norm(dim=1)
    limit = 0.01
    if not basis.orthogonal:
        size = float(basis.readouts.norm()) * float(basis.atoms.norm())
        limit += torch.finfo(dtype).eps * math.sqrt(basis.dim) * size
    if not bool((error < limit).all()):  # nor is it for NaN
        raise ValueError("the atoms are not the inverse of the readouts")


def _number(name: str, value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number")
    if not (least <= value and math.isfinite(value)):
        raise ValueError(
            f"{name} must be a finite number" + (" of at least 0" if least == 0 else "")
        )
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise ValueError(f"{name} must be an integer of at least 1 and below 2**63")
    return value


def _pair(numbers: Any) -> tuple[float, float] | None:
    """Return two numbers; None if a file of an older version has none."""
    if numbers is None:
        return None
    first, second = (_number("log_norms", one, least=-math.inf) for one in numbers)
    return first, second


def _plain(value: Any) -> Any:
    """Return a parameter as a type of JSON; a generator of random numbers becomes None."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Iterable):  # several k
        return [_plain(one) for one in value]
    if isinstance(value, Real):
        return float(value)
    return str(value) if isinstance(value, torch.device) else None
