"""First layers that take 10^5 to 10^6 inputs to a few units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor, nn

from laplex.nn import LaplexLinear
from projection_tasks import Matrix, Split, batch

#: How fixed features are computed: `[rows, inputs]` to `[rows, features]`, from a seed.
Fixed = Callable[[Matrix, int], Matrix]
_TOGETHER = 64


class Dense(nn.Module):
    """A weight `[inputs, outputs]`, of which sparse rows read the lines that they name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))

    def forward(self, rows: Tensor) -> Tensor:
        if rows.layout is torch.strided:
            return rows @ self.weight
        owners, columns = rows.indices()
        starts = torch.searchsorted(owners, torch.arange(len(rows)))
        return nn.functional.embedding_bag(
            columns, self.weight, starts, mode="sum", per_sample_weights=rows.values()
        )


class Convolution(nn.Module):
    """Three convolutions with strides, and means over the image."""

    def __init__(self, size: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, outputs, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows.view(len(rows), *self.size, 3).permute(0, 3, 1, 2))


# --- Laplex: the order of the inputs --------------------------------------------------------------


def hilbert(height: int, width: int) -> NDArray[np.int64]:
    """The pixels of an image along a Hilbert curve, as flat indices."""
    side = 1 << (max(height, width) - 1).bit_length()
    y, x = np.mgrid[:height, :width].astype(np.int64)
    place = np.zeros((height, width), np.int64)
    step = side // 2
    while step:
        right, lower = (x & step) > 0, (y & step) > 0
        place += step * step * ((3 * right) ^ lower)
        mirrored = ~lower & right
        x, y = np.where(mirrored, side - 1 - x, x), np.where(mirrored, side - 1 - y, y)
        x, y = np.where(lower, x, y), np.where(lower, y, x)
        step //= 2
    return np.argsort(place.ravel(), kind="stable")


def order_of(split: Split, kind: str, head: int) -> NDArray[np.int64]:
    """The inputs in the order in which they stand on the line of a head."""
    if kind == "sample":
        return component_order(split, head)
    assert split.size is not None
    height, width = split.size
    pixels = hilbert(height, width)
    if head % 2:  # the curve of the transposed image, which is a square
        pixels = pixels % width * width + pixels // width
    return (3 * pixels[:, None] + np.arange(3)).ravel()


def component_order(split: Split, head: int, rows: int = 128) -> NDArray[np.int64]:
    """The inputs by their angle in the plane of two principal components of a sample.

    Inputs that vary alike have nearly one angle. The sample of text is all that is learned from,
    not centred, and its first component, the mean, is left out.
    """
    if scipy.sparse.issparse(split.inputs):
        count = 2 * head + 3
        start = np.ones(len(split.to_learn), np.float32)
        _, values, vectors = scipy.sparse.linalg.svds(
            split.inputs[: split.to_learn.stop], count, v0=start
        )
        first, second = vectors[np.argsort(-values)[-2:]]
        return np.argsort(np.arctan2(second, first), kind="stable")
    sample = batch(split.inputs, np.array(split.to_learn[:rows]))
    sample = sample - sample.mean(0)
    sample /= sample.norm(dim=0).clamp_min(1e-6)
    _, vectors = torch.linalg.eigh(sample @ sample.T)
    first, second = vectors[:, -1 - 2 * head] @ sample, vectors[:, -2 - 2 * head] @ sample
    return torch.atan2(second, first).argsort().numpy()


@torch.no_grad()
def laplex_layer(split: Split, hidden: int, settings: dict[str, Any]) -> LaplexLinear:
    """A layer whose initial order, phases and lengthscale are those of the settings.

    `order` is that of the inputs on the line. With `smooth` phases, all pixels of one colour have
    one phase and gains of one sign, so an output starts as a mean over pixels that are neighbours
    on the line. `reach` is the initial lengthscale in units of the distance between targets; 0 is
    the rule for layers of hidden units, 1 / sqrt(inputs + outputs).
    """
    layer = LaplexLinear(split.features, hidden, heads=settings["heads"])
    lengthscale = settings["reach"] * 2 / hidden or 1 / math.sqrt(split.features + hidden)
    # The norm of a head's weight grows as the root of the lengthscale; its gains make up for it.
    layer.source_gain.mul_((layer.lengthscale[0] / lengthscale).sqrt())
    layer.log_lengthscale.fill_(math.log(lengthscale))
    if settings["order"] != "random":
        for head in range(layer.heads):
            order = torch.from_numpy(order_of(split, settings["order"], head))
            layer.sources[head, order] = layer.sources[head].sort().values
    if settings["smooth"] and layer.source_phase is not None:
        layer.source_phase.copy_(torch.arange(3).repeat(split.features // 3) * (2 * math.pi / 3))
    return layer


# --- fixed features -------------------------------------------------------------------------------


def projected(inputs: Matrix, by: Any) -> Matrix:
    """The product of all rows with a matrix, a few rows at a time."""
    if scipy.sparse.issparse(inputs):
        return (inputs @ by).astype(np.float32)
    transposed = by.T.tocsr() if scipy.sparse.issparse(by) else None
    found = []
    for start in range(0, len(inputs), _TOGETHER):
        stop = min(start + _TOGETHER, len(inputs))
        rows = batch(inputs, np.arange(start, stop)).numpy()
        found.append((transposed @ rows.T).T if transposed is not None else rows @ by)
    return np.concatenate(found).astype(np.float32)


def gaussian(features: int) -> Fixed:
    """A matrix of independent normal numbers, made anew block by block of features."""

    def project(inputs: Matrix, seed: int) -> Matrix:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for start in range(0, features, 64):
            block = torch.randn(inputs.shape[1], min(64, features - start), generator=generator)
            found.append(projected(inputs, block.numpy() / np.float32(math.sqrt(inputs.shape[1]))))
        return np.concatenate(found, 1)

    return project


def sparse_projection(features: int) -> Fixed:
    """Scikit-learn's matrix, of which one entry among the root of the inputs is not zero."""

    def project(inputs: Matrix, seed: int) -> Matrix:
        random = SparseRandomProjection(features, random_state=seed)
        random.fit(scipy.sparse.csr_matrix((1, inputs.shape[1]), dtype=np.float32))
        by = random.components_.T.tocsr().astype(np.float32)
        found = projected(inputs, by)
        return np.asarray(found.todense()) if scipy.sparse.issparse(found) else found

    return project


def count_sketch(features: int) -> Fixed:
    """Each input is added to, or subtracted from, one feature: feature hashing."""

    def project(inputs: Matrix, seed: int) -> Matrix:
        random = np.random.default_rng(seed)
        count = inputs.shape[1]
        by = scipy.sparse.csr_matrix(
            (
                random.choice(np.array([-1, 1], np.float32), count),
                (np.arange(count), random.integers(features, size=count)),
            ),
            (count, features),
        )
        found = projected(inputs, by)
        if scipy.sparse.issparse(found):
            found.sort_indices()
        return found

    return project


def block_means(size: tuple[int, int], side: int) -> Fixed:
    """Means over blocks of an image, `side` x `side` of them."""

    def project(inputs: Matrix, seed: int) -> Matrix:
        found = []
        for start in range(0, len(inputs), _TOGETHER):
            rows = batch(inputs, np.arange(start, min(start + _TOGETHER, len(inputs))))
            images = rows.view(-1, *size, 3).permute(0, 3, 1, 2)
            found.append(nn.functional.adaptive_avg_pool2d(images, side).flatten(1))
        return torch.cat(found).numpy()

    return project
