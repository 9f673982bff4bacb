"""Models with exits that several test files use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from laplex.early_exit import MultiExitModel, networks


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def _attached(backbone: nn.Module, name: str, head: str) -> MultiExitModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MultiExitModel.attach(
            backbone, networks.EXITS[name], head=head, num_classes=10, example=images(4)
        )
        for module in model.modules():  # statistics that are not those of a new network
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


#: A network of every kind, with BatchNorm (resnet, msdnet, conv heads) and without.
MODELS: dict[str, Callable[[], MultiExitModel]] = {
    "resnet": lambda: _attached(networks.small_resnet(width=4, seed=0), "small_resnet", "conv"),
    "msdnet": lambda: _attached(
        networks.small_msdnet(width=2, growth=2, seed=0), "small_msdnet", "pooled"
    ),
    "vit": lambda: _attached(networks.small_vit(dim=16, seed=0), "small_vit", "token"),
    "mlp": lambda: _attached(networks.small_mlp(784, seed=0), "small_mlp", "laplex"),
}
