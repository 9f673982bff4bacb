"""The heads that the study of large heads compares, their initial values, losses and rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from laplex.nn import LaplexHead, blockwise_topk, param_groups, sampled_cross_entropy


class LowRank(nn.Module):
    """A weight of low rank: ``in -> rank -> classes``."""

    def __init__(self, in_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, num_classes
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, num_classes)

    def logits(self, given: Tensor, classes: Tensor) -> Tensor:
        """Compute the logits of some classes."""
        weight, bias = self.second.weight[classes], self.second.bias[classes]
        return nn.functional.linear(self.first(given), weight, bias)

    @torch.no_grad()
    def place_classes(self, means: Tensor) -> None:
        """Start at the principal components of the means."""
        centre, residual, scale = _centred(means)
        vectors = torch.linalg.eigh(residual.T @ residual)[1][:, -self.first.out_features :]
        codes = residual @ vectors
        scale = (scale * residual.square().sum() / codes.square().sum()).sqrt()
        self.first.weight.copy_(vectors.T * scale)
        self.second.weight.copy_(codes * scale)
        own = codes.square().sum(dim=1) * scale.square()
        self.second.bias.copy_(-self.second.weight @ self.first(centre) - own / 2)


class Hashed(nn.Module):
    """The weight of a class is the sum of a few signed rows of a table, chosen by chance."""

    def __init__(self, in_features: int, num_classes: int, rows: int, each: int = 4) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, num_classes
        self.table = nn.Parameter(torch.randn(rows, in_features) / math.sqrt(each * in_features))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("chosen", torch.randint(rows, (num_classes, each)))
        self.register_buffer("signs", torch.randint(2, (num_classes, each)) * 2.0 - 1)

    def weight(self, classes: Tensor) -> Tensor:
        """Compute the weight of some classes."""
        return nn.functional.embedding_bag(
            self.chosen[classes], self.table, mode="sum", per_sample_weights=self.signs[classes]
        )

    def logits(self, given: Tensor, classes: Tensor) -> Tensor:
        """Compute the logits of some classes."""
        return nn.functional.linear(given, self.weight(classes), self.bias[classes])

    @torch.no_grad()
    def place_classes(self, means: Tensor) -> None:
        """Start at the mean of the signed means that share a row."""
        centre, residual, scale = _centred(means)
        sums, counts = torch.zeros_like(self.table), torch.zeros(len(self.table))
        for chosen, sign in zip(self.chosen.T, self.signs.T, strict=True):
            sums.index_add_(0, chosen, residual * sign[:, None])
            counts.index_add_(0, chosen, torch.ones(len(chosen)))
        self.table.copy_(sums / counts.clamp(min=1)[:, None])
        every = self.weight(torch.arange(self.out_features))
        scale = scale * residual.square().sum() / (every * residual).sum()
        self.table.mul_(scale)
        own = scale * (every * residual).sum(dim=1)
        self.bias.copy_(-scale * every @ centre - own / 2)


class Hierarchical(nn.Module):
    """torch's adaptive softmax, with the rarer words in two clusters of smaller vectors."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, num_classes
        self.centre = nn.Parameter(torch.zeros(in_features))
        cutoffs = [max(num_classes // 200, 2), max(num_classes // 20, 4)]
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            in_features, num_classes, cutoffs, head_bias=True
        )

    @torch.no_grad()
    def place_classes(self, means: Tensor) -> None:
        """Start at the means, and in the clusters at their principal components."""
        centre, residual, scale = _centred(means)
        self.centre.copy_(centre)
        ends = self.softmax.cutoffs
        rows = [residual[: ends[0]]]
        for first, last, tail in zip(ends, ends[1:], self.softmax.tail, strict=False):
            own = residual[first:last]
            rows.append(own.mean(dim=0, keepdim=True))
            size = tail[0].out_features
            vectors = torch.linalg.eigh(own.T @ own)[1][:, -size:]
            tail[0].weight.copy_(vectors.T * scale.sqrt())
            tail[1].weight.copy_(own @ vectors * scale.sqrt())
        self.softmax.head.weight.copy_(torch.cat(rows) * scale)
        # A cluster competes with single words: about as high as its best word, halfway to 2 log C.
        own = scale * residual[: ends[0]].square().sum(dim=1)
        clusters = torch.full((len(ends) - 1,), math.log(len(means)) / 2)
        self.softmax.head.bias.copy_(torch.cat([-own / 2, clusters]))


class Dense(nn.Linear):
    """A dense head."""

    @torch.no_grad()
    def place_classes(self, means: Tensor) -> None:
        """Start at the means, as a classifier by the nearest mean does."""
        centre, residual, scale = _centred(means)
        self.weight.copy_(residual * scale)
        self.bias.copy_(-(self.weight * (means + centre)).sum(dim=1) / 2)


def _centred(means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centre, the differences, and the factor that gives a class 2 log C at its own mean."""
    centre = means.mean(dim=0)
    residual = means - centre
    return centre, residual, 2 * math.log(len(means)) * len(means) / residual.square().sum()


@dataclass(frozen=True)
class Method:
    """A head; the methods of a family share the learning rate that was chosen for one of them."""

    family: str
    make: Callable[[int, int], nn.Module]
    longer: int = 1  # times the steps of the others


def _laplex(heads: int, phased: bool = True) -> Method:
    def make(width: int, classes: int) -> nn.Module:
        return LaplexHead(width, classes, heads=heads, phased=phased)

    return Method("Laplex" if phased else "Laplex, real", make)


def _low_rank(rank: int, longer: int = 1) -> Method:
    return Method("low rank", lambda width, classes: LowRank(width, classes, rank), longer)


#: "Laplex, 8 heads" has 17 numbers a class, as "low rank, 16" and "Laplex, 16 real heads" have.
METHODS = {
    "dense": Method("dense", Dense),
    "low rank, 16": _low_rank(16),
    "low rank, 16, 3 times as long": _low_rank(16, 3),
    "low rank, 32": _low_rank(32),
    "low rank, 64": _low_rank(64),
    "hashed": Method(
        "hashed", lambda width, classes: Hashed(width, classes, max(16 * classes // width, 4))
    ),
    "hierarchical": Method("hierarchical", Hierarchical),
    **{f"Laplex, {heads} head{'s' * (heads > 1)}": _laplex(heads) for heads in (1, 2, 4, 8, 16)},
    **{f"Laplex, {heads} real heads": _laplex(heads, False) for heads in (8, 16, 32)},
}

#: The method of each family for which the learning rate is chosen.
TUNED = (
    "dense",
    "low rank, 16",
    "hashed",
    "hierarchical",
    "Laplex, 8 heads",
    "Laplex, 16 real heads",
)


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(each.numel() for each in module.parameters())


def loss_of(head: Any, features: Tensor, labels: Tensor, num_sampled: int) -> Tensor:
    """The loss by a sample of classes; the hierarchical head has its own."""
    if isinstance(head, Hierarchical):
        loss: Tensor = head.softmax(features - head.centre, labels).loss
        return loss
    return sampled_cross_entropy(head, features, labels, num_sampled=num_sampled)


@torch.no_grad()
def best_classes(head: Any, features: Tensor, k: int) -> Tensor:
    """The classes of the k largest logits, ``[batch, k]``."""
    if isinstance(head, Hierarchical):
        rows = (features - head.centre).split(50)
        return torch.cat([head.softmax.log_prob(each).topk(k).indices for each in rows])
    return torch.cat([blockwise_topk(head, each, k)[1] for each in features.split(250)])


def groups(head: nn.Module, rate: float, by_length: bool = True) -> list[dict[str, Any]]:
    """Parameter groups of a head at a learning rate, for anchors and gains in their own units."""
    if by_length:
        return param_groups(head, weight_decay=0.0, lr=rate)
    return [{"params": list(head.parameters()), "lr": rate}]
