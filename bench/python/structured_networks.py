"""A small vision transformer and an MLP-Mixer whose linear layers are made by a given function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

#: Make a layer with so many inputs and outputs.
Make = Callable[[int, int], nn.Module]


def patches(images: Tensor, side: int) -> Tensor:
    """Cut images ``[count, h, w]`` into ``[count, tokens, side**2]``."""
    return images.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, make: Make) -> None:
        super().__init__()
        self.first, self.second = make(width, hidden), make(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.second(gelu(self.first(tokens)))


class Attention(nn.Module):
    """Self-attention with four made layers."""

    def __init__(self, width: int, heads: int, make: Make) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (make(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each after a layer norm and beside a skip."""

    def __init__(self, tokens: int, width: int, ratio: float, make: Make) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, 4, make)
        self.mlp = Mlp(width, round(ratio * width), make)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.attention(self.norms[0](values))
        return values + self.mlp(self.norms[1](values))


class MixerBlock(nn.Module):
    """An MLP over the tokens and one over the channels (Tolstikhin et al., 2021)."""

    def __init__(self, tokens: int, width: int, ratio: float, make: Make) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.over_tokens = Mlp(tokens, round(ratio * tokens), make)
        self.over_channels = Mlp(width, round(ratio * width), make)

    def forward(self, values: Tensor) -> Tensor:
        mixed = self.over_tokens(self.norms[0](values).transpose(1, 2)).transpose(1, 2)
        values = values + mixed
        return values + self.over_channels(self.norms[1](values))


class Network(nn.Module):
    """A dense embedding of patches, blocks, the mean over tokens, and a dense head.

    The MLPs have `ratio` times as many hidden values as inputs.
    """

    def __init__(
        self,
        block: type[TransformerBlock | MixerBlock],
        shape: tuple[int, int],
        width: int,
        depth: int,
        make: Make,
        ratio: float = 2,
    ) -> None:
        super().__init__()
        tokens, values = shape
        self.embedding = nn.Linear(values, width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(block(tokens, width, ratio, make) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        values = self.blocks(self.embedding(tokens) + self.place)
        return self.head(self.norm(values).mean(1))
