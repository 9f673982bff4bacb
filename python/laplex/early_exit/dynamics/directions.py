"""Random directions in the parameter space of a model, with the norms of its filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._support.arguments import whole
from ..batches import check_model
from ..model import MultiExitModel
from .blocks import is_norm_or_embedding

Direction = dict[str, NDArray[Any]]


def filter_directions(model: MultiExitModel, seed: int = 0) -> tuple[Direction, Direction]:
    r"""Draw two random directions, normalised filter by filter (Li et al. 2018).

    .. math:: d_f \leftarrow \frac{d_f}{\lVert d_f \rVert} \lVert \theta_f \rVert

    for Gaussian :math:`d_f` and each filter f, which is an entry of the first dimension of a
    parameter (a filter of a convolution, a row of a matrix). Parameters with fewer than two
    dimensions (biases), and those of normalisations and embeddings, do not move: the directions do
    not contain them.

    Parameters
    ----------
    model : MultiExitModel
        The model.
    seed : int
        Random seed of the directions.

    Returns
    -------
    tuple of two dicts of str to ndarray
        The directions: arrays by the names of ``model.named_parameters()``, in the shapes and the
        precision of the parameters.

    Raises
    ------
    TypeError, ValueError
        If `model` is not a `MultiExitModel`, or has no parameter that moves.
    """
    check_model(model)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    moving = _moving(model)
    if not moving:
        raise ValueError("model has no parameters of two or more dimensions to move")
    first, second = (
        {name: _as_filters(parameter, generator) for name, parameter in moving.items()}
        for _ in range(2)
    )
    return first, second


def _moving(model: nn.Module) -> dict[str, Tensor]:
    still = {
        id(parameter)
        for module in model.modules()
        if is_norm_or_embedding(module)
        for parameter in module.parameters(recurse=False)
    }
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and parameter.is_floating_point() and id(parameter) not in still
    }


def _as_filters(parameter: Tensor, generator: torch.Generator) -> NDArray[Any]:
    direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    flat = direction.flatten(1)
    norms = parameter.detach().double().cpu().flatten(1).norm(dim=1, keepdim=True)
    filters = (flat / flat.norm(dim=1, keepdim=True) * norms).view(parameter.shape)
    wide = torch.promote_types(parameter.dtype, torch.float32)  # NumPy has no bfloat16
    array: NDArray[Any] = filters.to(wide).numpy()
    return array


def as_direction(model: nn.Module, direction: Any, name: str) -> dict[str, Tensor]:
    """Convert a direction to tensors like the parameters of the model.

    Raises
    ------
    TypeError, ValueError
        If it names anything but parameters, has other shapes, or is not finite.
    """
    if not isinstance(direction, Mapping):
        raise TypeError(
            f"{name} must map names of parameters to arrays, got {type(direction).__name__}: see "
            "filter_directions"
        )
    known = dict(model.named_parameters())
    found = {}
    for key, values in direction.items():
        if key not in known:
            raise ValueError(f"{name} has {key!r}, which is not a parameter of the model")
        array = np.asarray(values)
        if array.shape != tuple(known[key].shape) or not np.isfinite(array).all():
            raise ValueError(
                f"{name}[{key!r}] must be finite and of shape {list(known[key].shape)}, got "
                f"{list(array.shape)}"
            )
        found[key] = torch.tensor(array).to(known[key].detach())
    return found
