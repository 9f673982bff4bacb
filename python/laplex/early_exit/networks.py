"""Small backbones to try exits on: a residual network, an MSDNet, a vision transformer, an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .origins import with_origin

__all__ = ["small_mlp", "small_msdnet", "small_resnet", "small_vit"]

M = TypeVar("M", bound=nn.Module)

#: The default exits of each backbone: names of its modules.
EXITS: dict[str, tuple[str, ...]] = {
    "small_mlp": ("layers.0", "layers.1"),
    "small_msdnet": ("blocks.0", "blocks.1", "blocks.2"),
    "small_resnet": ("layer1", "layer2"),
    "small_vit": ("blocks.0", "blocks.1", "blocks.2"),
}


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """The network that `small_resnet` makes."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: int,
        blocks: Sequence[int],
        stem_stride: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        channels = width
        for number, depth in enumerate(blocks, 1):
            after = width * 2 ** (number - 1)
            layer = nn.Sequential()
            for place in range(depth):
                stride = 2 if number > 1 and place == 0 else 1
                layer.append(_Residual(channels, after, stride))
                channels = after
            self.add_module(f"layer{number}", layer)
        self._depth = len(blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        x = self.stem(x)
        for number in range(1, self._depth + 1):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def small_resnet(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    width: int = 16,
    blocks: Sequence[int] = (1, 1, 1),
    stem_stride: int = 1,
    seed: int | None = None,
) -> SmallResNet:
    """Make a residual network (He et al. 2016) with stages ``layer1``, ``layer2``, ``layer3``.

    Parameters
    ----------
    num_classes : int
        Number of classes.
    in_channels : int
        Number of channels of the images.
    width : int
        Number of channels of the first stage. Each later stage has twice as many channels and maps
        of half the side.
    blocks : sequence of int
        Number of residual blocks of each stage.
    stem_stride : int
        Stride of the first convolution; 2 makes every stage four times cheaper.
    seed : int, optional
        Random seed of the initial weights. If given, torch's global generator is left alone;
        otherwise the weights are drawn from it.

    Returns
    -------
    SmallResNet
    """
    return _seeded(
        seed,
        SmallResNet,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        blocks=blocks,
        stem_stride=stem_stride,
    )


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class _MultiScale(nn.Module):
    """A layer of an MSDNet: each scale gets new maps from itself and from the finer scale."""

    def __init__(self, channels: Sequence[int], growth: int) -> None:
        super().__init__()
        self.same = nn.ModuleList(_conv(count, growth * 2**i) for i, count in enumerate(channels))
        self.finer = nn.ModuleList(
            _conv(count, growth * 2**i, stride=2) for i, count in enumerate(channels[:-1], 1)
        )

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        new = []
        for i, past in enumerate(scales):
            parts = [past, self.same[i](past)]
            if i:
                parts.append(self.finer[i - 1](scales[i - 1]))
            new.append(torch.cat(parts, 1))
        return new


class SmallMSDNet(nn.Module):
    """The network that `small_msdnet` makes."""

    def __init__(
        self, num_classes: int, in_channels: int, width: int, growth: int, blocks: int, scales: int
    ) -> None:
        super().__init__()
        channels = [width * 2**i for i in range(scales)]
        self.stem = nn.ModuleList(
            _conv(in_channels if i == 0 else channels[i - 1], count, stride=1 if i == 0 else 2)
            for i, count in enumerate(channels)
        )
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(_MultiScale(channels, growth))
            channels = [count + growth * 2**i * (2 if i else 1) for i, count in enumerate(channels)]
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        scales: list[Tensor] = []
        for layer in self.stem:
            scales.append(layer(scales[-1] if scales else x))
        for block in self.blocks:
            scales = block(scales)
        logits: Tensor = self.head(scales[-1].mean((2, 3)))
        return logits


def small_msdnet(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    width: int = 8,
    growth: int = 8,
    blocks: int = 4,
    scales: int = 3,
    seed: int | None = None,
) -> SmallMSDNet:
    """Make a network in the style of MSDNet (Huang et al. 2018): coarse features from the start.

    Every block keeps the maps of all scales, and returns a list of them. An exit reads the last
    entry, the coarsest scale.

    Parameters
    ----------
    num_classes : int
        Number of classes.
    in_channels : int
        Number of channels of the images.
    width : int
        Number of channels of the finest scale at the start. Each coarser scale has twice as many.
    growth : int
        Number of channels that a block adds to the finest scale.
    blocks : int
        Number of blocks.
    scales : int
        Number of scales.
    seed : int, optional
        As in `small_resnet`.

    Returns
    -------
    SmallMSDNet
    """
    return _seeded(
        seed,
        SmallMSDNet,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        growth=growth,
        blocks=blocks,
        scales=scales,
    )


class _Attention(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class SmallViT(nn.Module):
    """The network that `small_vit` makes."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
    ) -> None:
        super().__init__()
        if image_size % patch or dim % heads:
            raise ValueError(
                f"image_size={image_size} must be a multiple of patch={patch}, and dim={dim} of "
                f"heads={heads}"
            )
        tokens = (image_size // patch) ** 2 + 1
        self.patches = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.blocks = nn.Sequential(*(_Attention(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, image_size, image_size]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), tokens), 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def small_vit(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    image_size: int = 28,
    patch: int = 7,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    seed: int | None = None,
) -> SmallViT:
    """Make a vision transformer (Dosovitskiy et al. 2021) with a class token.

    Parameters
    ----------
    num_classes : int
        Number of classes.
    in_channels : int
        Number of channels of the images.
    image_size : int
        Side of the square images, in pixels.
    patch : int
        Side of a patch, in pixels; must divide `image_size`.
    dim : int
        Dimension of the tokens; must be a multiple of `heads`.
    depth : int
        Number of blocks.
    heads : int
        Number of attention heads of a block.
    seed : int, optional
        As in `small_resnet`.

    Returns
    -------
    SmallViT

    Raises
    ------
    ValueError
        If ``patch`` does not divide ``image_size``, or ``dim`` is not a multiple of ``heads``.
    """
    return _seeded(
        seed,
        SmallViT,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
    )


class SmallMLP(nn.Module):
    """The network that `small_mlp` makes."""

    def __init__(self, in_features: int, num_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [in_features, *widths]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.ReLU())
                for before, after in pairwise(sizes)
            )
        )
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of inputs [batch, ...] with in_features numbers a sample."""
        logits: Tensor = self.head(self.layers(x.flatten(1)))
        return logits


def small_mlp(
    in_features: int,
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (32, 32, 32),
    seed: int | None = None,
) -> SmallMLP:
    """Make a multilayer perceptron with hidden layers ``layers.0``, ``layers.1``, ...

    Parameters
    ----------
    in_features : int
        Number of input features of a sample.
    num_classes : int
        Number of classes.
    widths : sequence of int
        Widths of the hidden layers.
    seed : int, optional
        As in `small_resnet`.

    Returns
    -------
    SmallMLP
    """
    return _seeded(seed, SmallMLP, in_features=in_features, num_classes=num_classes, widths=widths)


def _seeded(seed: int | None, kind: type[M], **options: Any) -> M:
    if seed is None:
        made = kind(**options)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = kind(**options)
    return with_origin(made, _NAMES[kind], options)


#: The names of the functions that make the networks.
_NAMES: dict[type[nn.Module], str] = {
    SmallMLP: "small_mlp",
    SmallMSDNet: "small_msdnet",
    SmallResNet: "small_resnet",
    SmallViT: "small_vit",
}
