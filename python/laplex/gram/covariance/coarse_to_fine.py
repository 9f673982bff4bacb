"""`fit_coarse_to_fine`: the order of the pixels from small images, the rest from larger ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from laplex.torch.call import check_tensor

from . import checks
from .model import LaplaceCovariance
from .training import History


def fit_coarse_to_fine(
    images: Tensor,
    *,
    heads: int = 1,
    phased: bool = True,
    smallest: int = 16,
    length: float = 1.0,
    sweeps: int = 8,
    **options: Any,
) -> tuple[LaplaceCovariance, History]:
    """Fit a covariance model to large images by way of small ones.

    The images are averaged down until their shorter side is ``smallest``. There a model starts from
    their principal components (`LaplaceCovariance.initialise`) and is fitted by
    `LaplaceCovariance.fit`, which finds an order of the pixels in steps that cost little. Then the
    size doubles until it is that of the images. At each size the anchors are taken from the size
    before (`LaplaceCovariance.refined`), and only scales and phases are new
    (`LaplaceCovariance.refit_amplitudes`).

    Parameters
    ----------
    images : Tensor ``[count, height, width]`` or ``[count, height, width, channels]``
        At least 2 images of any real dtype.
    heads : int
        The number of kernels in the sum. Two heads leave less of the covariance than one, with 7
        instead of 4 parameters for each number of an image.
    phased : bool
        Give every anchor a phase.
    smallest : int
        The shorter side of the smallest images.
    length : float
        The length of the first line, in lengthscales.
    sweeps : int
        The number of sweeps at each larger size.
    **options
        Arguments of `LaplaceCovariance.fit` at the smallest size, such as ``steps``, ``progress``
        and ``checkpoint``. A resumed fit goes on from its checkpoint, whatever ``length`` is.

    Returns
    -------
    model : LaplaceCovariance
        The model of the images, in torch's default dtype and on the device of the images.
    history : laplex.gram.History
        The record of the fit at the smallest size.

    Raises
    ------
    TypeError, ValueError
        If the images have another shape, are not finite or fewer than 2, or if an argument is not
        positive.

    Examples
    --------
    >>> import torch
    >>> from laplex.gram import fit_coarse_to_fine
    >>> waves = torch.sin(6 * torch.rand(20, 1, 1) + torch.linspace(0, 3, 48)).expand(20, 64, 48)
    >>> model, history = fit_coarse_to_fine(waves, steps=30)
    >>> model.dim, model.relative_error(waves) < 0.05
    (3072, True)
    """
    check_tensor("images", images)
    shape = checks.image_shape("images", images.shape[1:])
    rows = checks.sample("images", images.flatten(1), shape.numel())
    smallest, sweeps = checks.count("smallest", smallest), checks.count("sweeps", sweeps)
    shapes = [shape]
    while min(shapes[0][:2]) >= 2 * smallest:
        height, width = shapes[0][:2]
        shapes.insert(0, torch.Size((-(-height // 2), -(-width // 2), *shape[2:])))
    model = LaplaceCovariance(shapes[0].numel(), heads, phased, device=images.device)
    small = averaged(images, shapes[0])
    model.initialise(small, length=length)
    history = model.fit(small, **options)
    for old, new in pairwise(shapes):
        model = model.refined(old, new)
        model.refit_amplitudes(rows if new == shape else averaged(images, new), sweeps=sweeps)
    return model, history


def averaged(images: Tensor, shape: torch.Size) -> Tensor:
    """Average images [count, height, width, ...] down to a shape."""
    if images.shape[1:] == shape:
        return images
    floats = images.to(torch.get_default_dtype())
    planes = floats.movedim(-1, 1) if len(shape) == 3 else floats[:, None]
    small = functional.interpolate(planes, size=shape[:2], mode="area")
    return small.movedim(1, -1) if len(shape) == 3 else small[:, 0]
