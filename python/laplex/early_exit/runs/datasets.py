"""Images by name for the command line, split for training, validation and testing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from laplex._support.image_datasets import load_images

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

#: Random seed of the validation split. It is fixed, so that runs with other seeds share the split.
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """Labelled images in three parts.

    Attributes
    ----------
    name : str
    class_names : tuple of str
    images : dict of Tensor [count, 1, height, width], float32
        Images by split, scaled to mean 0 and standard deviation 1 over all pixels of the training
        images.
    labels : dict of Tensor [count], int64
        Labels by split.
    """

    name: str
    class_names: tuple[str, ...]
    images: dict[Split, Tensor]
    labels: dict[Split, Tensor]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images["train"].shape[1:]
        return channels, height, width

    def loader(
        self, split: Split, batch_size: int, *, shuffle: bool = False
    ) -> DataLoader[tuple[Tensor, ...]]:
        """Batches ``(images, labels)`` of a split, in a fixed or a random order."""
        dataset = TensorDataset(self.images[split], self.labels[split])
        # BatchNorm cannot train on a last batch of one sample.
        drop = shuffle and len(dataset) % batch_size == 1 and len(dataset) > 1
        return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop)

    def example(self, count: int = 2) -> Tensor:
        """The first training images."""
        return self.images["train"][:count]


def load_splits(source: str, *, validation: float = 0.2, images: int | None = None) -> ImageSplits:
    """Load a data set of images and split it.

    Parameters
    ----------
    source : str
        ``"digits"``, ``"fashion-mnist"`` or a folder; see `load_images`.
    validation : float
        Fraction of the training images that is set apart, by a fixed random draw. The test images
        are those of the source.
    images : int, optional
        Number of training images to use, validation included; by default all.

    Raises
    ------
    FileNotFoundError
        If the source does not exist; the message says how to get it.
    ValueError
        If a file is broken, `validation` is not between 0 and 1, or a split would be empty.
    """
    if not 0 < validation < 1:
        raise ValueError(
            f"validation must be a fraction between 0 and 1, got {validation}: thresholds are "
            "fitted on the validation images"
        )
    if images is not None and images < 10:
        raise ValueError(f"images must be at least 10, got {images}")
    found = load_images(source)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(found.train_labels))[:images]
    cut = len(order) - max(1, round(validation * len(order)))
    if cut < 2:
        raise ValueError(
            f"{len(order)} images and validation={validation} leave only {cut} to train on: pass a "
            "smaller fraction, or more images"
        )
    pixels = found.train_images[order[:cut]]
    mean, deviation = float(pixels.mean()), float(pixels.std()) or 1.0

    def tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
        return torch.from_numpy((values[:, None] - np.float32(mean)) / np.float32(deviation))

    kept, apart = order[:cut], order[cut:]
    return ImageSplits(
        name=found.name,
        class_names=found.class_names,
        images={
            "train": tensor(pixels),
            "validation": tensor(found.train_images[apart]),
            "test": tensor(found.test_images),
        },
        labels={
            "train": torch.from_numpy(found.train_labels[kept]),
            "validation": torch.from_numpy(found.train_labels[apart]),
            "test": torch.from_numpy(found.test_labels),
        },
    )
