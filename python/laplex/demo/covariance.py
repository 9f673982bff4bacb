"""Covariance models of images that do not know where pixels are, compared with PCA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laplex._support.image_datasets import ImageDataset
from laplex.gram import LaplaceCovariance

_MOST_IMAGES = 5000
_MOST_FILLED = 300
_SHOWN = 6
_NEIGHBOURS = 4


@dataclass(frozen=True)
class CovarianceFit:
    """The quality of one model of the images.

    Attributes
    ----------
    name : str
        The name of the model.
    parameters : int
        The number of its parameters.
    error : float
        The squared error of the model's off-diagonal covariances on test images, relative to the
        squares of these covariances. Pixels are divided by their standard deviation.
    distance : float
        The mean distance, in pixels, between a pixel and the four pixels that are most correlated
        with it. It measures how much of the plane of the image the model has found.
    psnr : float
        The peak signal-to-noise ratio, in decibels, of test images in which the model has filled in
        a missing half of the pixels.
    """

    name: str
    parameters: int
    error: float
    distance: float
    psnr: float


@dataclass(frozen=True)
class CovarianceStudy:
    """The results of `fit_covariances`.

    Attributes
    ----------
    fits : list of CovarianceFit
        One entry per model.
    model : LaplaceCovariance
        The model with a single phased head.
    completions : dict of str to array ``[shown, height, width]``
        The test images, their known pixels (NaN elsewhere), and the completions by the models.
    """

    fits: list[CovarianceFit]
    model: LaplaceCovariance
    completions: dict[str, np.ndarray]


def fit_covariances(
    images: ImageDataset, steps: int, seed: int, advance: Callable[[], None] = lambda: None
) -> CovarianceStudy:
    """Fit models with 1 and 4 heads and PCA to training images, and measure them on test images."""
    height, width = images.train_images.shape[1:]
    train, test = (
        torch.from_numpy(part[:_MOST_IMAGES].reshape(-1, height * width)).double()
        for part in (images.train_images, images.test_images)
    )
    dim = height * width
    generator = torch.Generator().manual_seed(seed)
    incomplete = test[:_MOST_FILLED]
    missing = torch.rand(incomplete.shape, generator=generator) < 0.5

    covariances: dict[str, tuple[Tensor, int]] = {}
    models = {}
    for name, heads, phased in MODELS:
        torch.manual_seed(seed)
        model = LaplaceCovariance(dim, heads=heads, phased=phased)
        model.fit(train, steps=steps, seed=seed)
        advance()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        covariances[name] = (model.covariance().double(), parameters)
        models[name] = model
    # Standardised by the same deviations as in the models, because some pixels hardly vary.
    deviation = models[ONE_HEAD].deviation.double()
    mean = train.mean(0)
    standard = (train - mean) / deviation
    sample = standard.T @ standard / len(train)
    for name in (ONE_HEAD, LARGEST):
        rank = max(1, covariances[name][1] // dim - 1)
        covariances[f"PCA, rank {rank}"] = (
            deviation[:, None] * _principal(sample, rank) * deviation,
            dim * (rank + 1),
        )
    covariances[NO_MODEL] = (torch.diag(sample.diagonal() * deviation.square()), dim)

    held_out = (test - mean) / deviation
    truth = held_out.T @ held_out / len(test)
    fits = []
    completions = {
        "image": test[:_SHOWN],
        "known": torch.where(missing[:_SHOWN], torch.nan, test[:_SHOWN]),
    }
    for name, (covariance, parameters) in covariances.items():
        filled = _fill(incomplete, missing, mean, covariance)
        if name in (ONE_HEAD, LARGEST) or name.startswith("PCA"):
            completions[name] = filled[:_SHOWN]
        error = (filled - incomplete)[missing].square().mean()
        fits.append(
            CovarianceFit(
                name,
                parameters,
                _off_diagonal_error(truth, covariance / deviation[:, None] / deviation),
                _pixel_distance(covariance, height, width),
                float(-10 * torch.log10(error)),
            )
        )
    shown = {
        name: values.reshape(-1, height, width).clamp(0, 1).numpy()
        for name, values in completions.items()
    }
    return CovarianceStudy(fits, models[ONE_HEAD], shown)


ONE_HEAD = "1 head, phased"
LARGEST = "4 heads, phased"
NO_MODEL = "independent pixels"
MODELS = (("1 head, real", 1, False), (ONE_HEAD, 1, True), (LARGEST, 4, True))


def _principal(sample: Tensor, rank: int) -> Tensor:
    """Return the covariance of probabilistic PCA: the leading part and a diagonal remainder."""
    values, vectors = torch.linalg.eigh(sample)
    leading = vectors[:, -rank:] * values[-rank:] @ vectors[:, -rank:].T
    rest = (sample.diagonal() - leading.diagonal()).clamp(min=1e-3)
    model: Tensor = leading + torch.diag(rest)
    return model


def _fill(images: Tensor, missing: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Fill in missing pixels, different ones in each image, with their conditional means."""
    result = images.clone()
    for k in range(len(images)):
        lost, known = missing[k], ~missing[k]
        if bool(known.any()) and bool(lost.any()):
            block = covariance[known][:, known]
            # Keeps every model's matrix invertible, although some pixels never vary.
            block = block + 1e-6 * torch.eye(len(block), dtype=block.dtype)
            weights = torch.linalg.solve(block, (images[k] - mean)[known])
            result[k, lost] = mean[lost] + covariance[lost][:, known] @ weights
    return result.clamp(0, 1)


def _off_diagonal_error(truth: Tensor, model: Tensor) -> float:
    difference = truth - model
    difference.fill_diagonal_(0)
    size = truth.square().sum() - truth.diagonal().square().sum()
    return float(difference.square().sum() / size)


def _pixel_distance(covariance: Tensor, height: int, width: int) -> float:
    """Return the mean distance between a pixel and those most correlated with it."""
    spread = covariance.diagonal().clamp(min=1e-12).sqrt()
    strength = (covariance / spread[:, None] / spread).abs()
    strength.fill_diagonal_(-1)
    nearest = strength.topk(_NEIGHBOURS, dim=1).indices
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((y.flatten(), x.flatten()), -1).double()
    return float((places[nearest] - places[:, None]).norm(dim=-1).mean())
