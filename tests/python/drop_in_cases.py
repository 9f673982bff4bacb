"""Models whose dense layers become layers of Laplace kernels, and the way back."""

from __future__ import annotations

import copy

from torch import nn

from laplex.nn import LaplexLinear
from laplex.nn.kernel_layer import KernelLayer

#: Two evaluations in float64 of a network of a few dozen layers with activations of size about 1.
#: Sums of a few hundred terms differ by some 1e-14 of their size (the operator's bound, and the
#: dense product's), and each layer passes on the difference times its own gain, a few at most.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def with_kernels(model: nn.Module, heads: int = 2, cls: type[KernelLayer] = LaplexLinear):
    """`model` with every nn.Linear in it replaced by a layer of Laplace kernels of its shape."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                layer = cls(
                    child.in_features,
                    child.out_features,
                    heads=heads,
                    bias=child.bias is not None,
                    dtype=child.weight.dtype,
                )
                setattr(module, name, layer.train(child.training))
    return model


def made_dense(model: nn.Module):
    """A copy of `model` with every layer of Laplace kernels replaced by the dense one it is."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, KernelLayer):
                setattr(module, name, child.to_linear())
    return model


def kernel_layers(model: nn.Module) -> list[KernelLayer]:
    return [module for module in model.modules() if isinstance(module, KernelLayer)]


def assert_gradients_reach_the_anchors(model: nn.Module) -> None:
    layers = kernel_layers(model)
    assert layers
    for layer in layers:
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert layer.source_gain.grad.any()
        if min(layer.in_features, layer.out_features) > 1:
            assert layer.targets.grad.any()
            assert layer.sources.grad.any()
