"""The copy of a model that is exported: on the CPU, in a precision and with layers for files."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from laplex.nn import LaplexHead, LaplexLinear

from ..activations import map_tensors
from ..model import MultiExitModel
from ..policies.base import Policy
from .tracing import modules_of

FileFormat = Literal["onnx", "torch"]


def portable(
    model: MultiExitModel, example: Any, policy: Policy | None, form: FileFormat
) -> tuple[MultiExitModel, Any, Policy | None, list[str]]:
    """Copies on the CPU in a precision that the files support, and names of layers made dense."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    double = any(parameter.dtype is torch.float64 for parameter in model.parameters())
    dtype = torch.float64 if double and form == "torch" else torch.float32
    dense = _make_dense(model) if form == "onnx" else []

    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    policy = copy.deepcopy(policy)
    modules_of(policy).cpu().eval().requires_grad_(False)
    return model.to(dtype), map_tensors(moved, example), policy, dense


def kernel_layers(model: nn.Module) -> list[str]:
    """Names of the layers of Laplace kernels; both names of a layer that is in two places."""
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (LaplexHead, LaplexLinear))
    ]


def _make_dense(model: nn.Module) -> list[str]:
    """Replace layers of Laplace kernels with equal dense layers."""
    names = kernel_layers(model)
    for name in names:
        layer: Any = model.get_submodule(name)
        model.set_submodule(name, layer.to_linear().requires_grad_(False))
    return names
