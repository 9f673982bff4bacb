"""`LaplaceCovariance`: a Gaussian model of images with one learnable anchor per pixel."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laplex.numpy import checks as validation
from laplex.torch.call import check_flag

from . import checks, completion, likelihood, training
from .heads import Heads
from .matching import NOISE_FLOOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Standard deviation of the initial anchors, in lengthscales: every pair starts coupled.
INITIAL_SPREAD = 0.3
#: Least standard deviation of a pixel that is divided by, as a part of the largest.
_LEAST_DEVIATION = 0.02
_ENTRIES_AT_ONCE = 2**22


class LaplaceCovariance(nn.Module):
    r"""Gaussian model of flattened images with a covariance that is never formed.

    .. math::
        \Sigma = B \Bigl( \sum_h D_h\,\mathrm{Re}(K_h)\,D_h + \mathrm{diag}(\nu) \Bigr) B, \qquad
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - x_{hj}|} \cos(\theta_{hi} - \theta_{hj})

    Each head h gives every pixel (and channel) an anchor :math:`x_{hi}` on its line, in
    lengthscales, a phase :math:`\theta_{hi}` and a scale, the diagonal of :math:`D_h`;
    :math:`\nu` is each pixel's own noise, :math:`B` the diagonal of the pixels' standard
    deviations, so that all but `mean` and `deviation` is free of units. Nothing tells the model
    where a pixel is: anchors start at random.

    Parameters
    ----------
    dim : int
        Numbers in an image: pixels times channels.
    heads : int
    phased : bool
        False leaves out the phases.
    device, dtype
        Of the parameters; float32 unless torch's default dtype is another.

    Attributes
    ----------
    anchors, phases, scales : Parameter [heads, dim]
        phases is None without them.
    log_noise : Parameter [dim]
    mean, deviation : buffer [dim]
        Of the images' pixels, from `fit`.

    Notes
    -----
    Our reading of the Gram operators of arXiv 2605.24584, which we know by its abstract. Gradients
    flow through `log_prob`; what else is computed from a model is detached from it.

    Examples
    --------
    >>> import torch
    >>> from laplex.gram import LaplaceCovariance
    >>> waves = torch.sin(torch.rand(200, 1) * 6 + torch.linspace(0, 3, 30))
    >>> model = LaplaceCovariance(30, heads=2)
    >>> history = model.fit(waves, steps=50)
    >>> model.sample(3).shape
    torch.Size([3, 30])
    """

    anchors: nn.Parameter
    phases: nn.Parameter | None
    scales: nn.Parameter
    log_noise: nn.Parameter
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        phased: bool = True,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = checks.count("dim", dim)
        self.heads = checks.count("heads", heads)
        check_flag("phased", phased)
        self.phased = phased
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.anchors = nn.Parameter(empty(heads, dim))
        if phased:
            self.phases = nn.Parameter(empty(heads, dim))
        else:
            self.register_parameter("phases", None)
        self.scales = nn.Parameter(empty(heads, dim))
        self.log_noise = nn.Parameter(empty(dim))
        self.register_buffer("mean", empty(dim))
        self.register_buffer("deviation", empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new anchors and phases from torch's global generator and forget the images.

        Anchors are normal with a standard deviation of 0.3 lengthscales: every pair of pixels is
        coupled at first, so that a gradient can bring any two together. Phases are
        uniform; the heads share the variance equally and leave none to the noise.
        """
        self.anchors.copy_(INITIAL_SPREAD * torch.randn(self.anchors.shape))
        if self.phases is not None:
            self.phases.copy_(math.pi * (2 * torch.rand(self.phases.shape) - 1))
        self.scales.fill_(self.heads**-0.5)
        self.log_noise.fill_(math.log(NOISE_FLOOR))
        self.mean.zero_()
        self.deviation.fill_(1.0)

    # ------------------------------------------------------------------------------------ parts

    @property
    def noise(self) -> Tensor:
        """Variance of each standardised pixel's own noise, Tensor [dim]."""
        return self.log_noise.exp()

    def parts(self) -> Heads:
        """Return the sum of kernels on standardised pixels, with the parameters as they are."""
        return Heads(self.anchors, self.scales, self.phases)

    def standardise(self, rows: Tensor) -> Tensor:
        """Turn images [n, dim] into standardised pixels, of the model's dtype."""
        return (rows.to(self.mean) - self.mean) / self.deviation

    @torch.no_grad()
    def set_pixels(self, mean: Tensor, deviation: Tensor) -> None:
        """Take mean and standard deviation [dim] of the pixels from images.

        Pixels that hardly vary are divided by 2 % of the largest deviation instead, lest their
        rare values count thousandfold.
        """
        largest = float(deviation.max())
        if largest == 0:
            raise ValueError("images are all the same: there is no covariance to fit")
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp_min(_LEAST_DEVIATION * largest))

    # ---------------------------------------------------------------------------------- fitting

    def fit(
        self,
        images: Tensor,
        *,
        steps: int = 1000,
        batch_size: int | None = None,
        probes: int | None = None,
        learning_rate: float = 0.1,
        likelihood_steps: int = 0,
        seed: int = 0,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
        resume: bool = False,
    ) -> training.History:
        r"""Match the sample covariance of images, from wherever the parameters are.

        Adam on the squared Frobenius distance (see `matching.squared_distance`), relative to that
        of the sample covariance, with a learning rate that falls to 0 as a cosine. No matrix of
        dim x dim numbers is formed when there are fewer images than pixels; a step costs
        O((batch_size + probes) heads dim) after a sort. Every pair of pixels counts, so anchors can
        pass each other and find an order.

        Parameters
        ----------
        images : Tensor [count, dim] or [count, height, width, ...]
            At least 2, of any real dtype.
        steps : int
            Of matching.
        batch_size : int, optional
            Images a step, drawn without replacement. None: all of them (of more images than pixels
            a square root of their covariance, which is the same).
        probes : int, optional
            Random sign vectors that estimate the cross terms of different heads. None: exact sums
            up to 2048 pixels, 8 vectors above. One head needs none.
        learning_rate : float
            Adam's, for anchors, phases and scales alike.
        likelihood_steps : int
            Steps of Adam on `log_prob` after matching, at a tenth of the learning rate: the
            likelihood sees near pixels only, which polishes an order that is already there.
        seed : int
            Of the draws of images and probes. (Initial anchors are torch's global generator's.)
        progress : bool
            Draw a progress bar with rich.
        checkpoint : path, optional
            File to write every `checkpoint_every` steps and at the end, at once or not at all.
        resume : bool
            Go on from `checkpoint` if it is there: on the same machine, with the same number of
            threads, to the same bits as without interruption.

        Returns
        -------
        History
            Loss of every step.

        Raises
        ------
        TypeError, ValueError
            Images that are not finite, of a wrong size or fewer than 2; a checkpoint of another
            run.
        """
        return training.fit(
            self,
            images,
            training.Settings(
                steps=checks.count("steps", steps, 0),
                batch_size=None if batch_size is None else checks.count("batch_size", batch_size),
                probes=None if probes is None else checks.count("probes", probes),
                learning_rate=checks.positive("learning_rate", learning_rate),
                likelihood_steps=checks.count("likelihood_steps", likelihood_steps, 0),
                seed=checks.count("seed", seed, 0),
            ),
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_every=checks.count("checkpoint_every", checkpoint_every),
            resume=resume,
        )

    def relative_error(self, images: Tensor, *, probes: int | None = None) -> float:
        r"""Off-diagonal relative squared error against the sample covariance of `images`.

        .. math:: \sum_{i \ne j} (S - \Sigma)_{ij}^2 \Big/ \sum_{i \ne j} S_{ij}^2

        of pixels standardised by the model's own `mean` and `deviation`. The diagonal is left out:
        noise matches it in any model.

        Parameters
        ----------
        images : Tensor [count, ...]
        probes : int, optional
            As for `fit`; 64 vectors above 2048 pixels unless given.
        """
        return training.relative_error(self, images, probes)

    # ----------------------------------------------------------------------------- the Gaussian

    def log_prob(self, images: Tensor) -> Tensor:
        """Log density of each image, Tensor float64 [*b], differentiable in the parameters.

        Exact for one head, in O(dim). For a sum of heads by GPyTorch's linear_operator: a Cholesky
        factor up to its setting ``max_cholesky_size`` (800) of pixels; above it preconditioned
        conjugate gradients and stochastic Lanczos quadrature, whose log determinant is random and
        the more exact the larger the setting ``num_trace_samples`` (10).

        Parameters
        ----------
        images : Tensor [*b, dim] or [*b, height, width, ...]
        """
        rows = self._rows("images", images)
        values = likelihood.log_prob(self, rows)
        return values.reshape(self._lead(images))

    @torch.no_grad()
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw images [count, dim], exactly and in O(heads dim) each."""
        checks.count("count", count)
        drawn = likelihood.sample(self, count, generator).to(self.mean)
        return self.mean + self.deviation * drawn

    @torch.no_grad()
    def inpaint(self, image: Tensor, mask: Tensor) -> Tensor:
        """Posterior mean of missing pixels given the others, in the shape of `image`.

        Exact for one head; conjugate gradients for a sum, to a relative residual of 1e-4.

        Parameters
        ----------
        image : Tensor [*b, dim] or [*b, height, width, ...]
            Missing pixels may hold anything.
        mask : Tensor of bool
            True where a pixel is missing; one mask for all images, or one for each.

        Returns
        -------
        Tensor
            The images with missing pixels filled in, of the model's dtype.
        """
        rows = checks.flat_images("image", image, self.dim)
        missing = checks.missing_pixels(mask, image, self.dim)
        known = torch.where(missing, self.mean, rows.to(self.mean))
        checks.finite("image", known)
        filled = completion.inpaint(self, self.standardise(known), missing)
        restored = torch.where(missing, self.mean + self.deviation * filled, known)
        return restored.reshape(image.shape)

    @torch.no_grad()
    def denoise(self, image: Tensor, variance: float) -> Tensor:
        """Posterior mean of images seen through white noise of a variance, in their own units.

        Parameters
        ----------
        image : Tensor [*b, dim] or [*b, height, width, ...]
        variance : float
        """
        rows = self._rows("image", image)
        added = checks.positive("variance", variance) / self.deviation.square()
        clean = completion.denoise(self, self.standardise(rows), added)
        return (self.mean + self.deviation * clean).reshape(image.shape)

    # --------------------------------------------------------------------------- the covariance

    @torch.no_grad()
    def neighbours(self, pixel: int, k: int = 8) -> tuple[Tensor, Tensor]:
        """Pixels most correlated with one, by the heads without noise.

        Returns
        -------
        index, correlation : Tensor [k], int64 and float
            By falling absolute correlation.
        """
        if isinstance(pixel, bool):
            raise TypeError("pixel must be an integer, got a bool")
        pixel = checks.count("pixel", pixel, -self.dim)
        if not -self.dim <= pixel < self.dim:
            raise ValueError(f"pixel must be in 0..{self.dim - 1}, got {pixel}")
        if checks.count("k", k) >= self.dim:
            raise ValueError(f"k must be less than dim={self.dim}, got {k}")
        heads = self.parts()
        pixel = pixel % self.dim
        covariances = heads.rows(torch.tensor([pixel], device=self.anchors.device))[0]
        diagonal = heads.diagonal()
        least = torch.finfo(diagonal.dtype).tiny
        correlation = covariances / (diagonal * diagonal[pixel]).sqrt().clamp_min(least)
        strength = correlation.abs()
        strength[pixel] = -1
        index = strength.topk(k).indices
        return index, correlation[index]

    def operator(self) -> Any:
        """Return the covariance, noise included, in the images' units as a ``LinearOperator``.

        Of GPyTorch's linear_operator package: ``@``, ``solve``, ``inv_quad_logdet``; float64.
        """
        return likelihood.operator(self, self.deviation.double())

    @torch.no_grad()
    def covariance(self) -> Tensor:
        """Return the dense covariance [dim, dim], noise included, in the images' units.

        Raises
        ------
        MemoryError
            Above 2**28 entries.
        """
        validation.dense_size(1, self.dim, self.dim)
        every = torch.arange(self.dim, device=self.anchors.device)
        blocks = torch.split(every, max(1, _ENTRIES_AT_ONCE // self.dim))
        heads = self.parts()
        dense = torch.cat([heads.rows(block) for block in blocks])
        dense.diagonal().add_(self.noise)
        return dense * self.deviation[:, None] * self.deviation

    def plot_order(self, shape: Sequence[int] | None = None, *, head: int = 0) -> Figure:
        """Draw where a head put the pixels: rank and phase of each, its covariance when sorted.

        Parameters
        ----------
        shape : (height, width) or (height, width, channels), optional
            Of an image; a square when not given.
        head : int
        """
        from .plots import draw_order

        return draw_order(self, shape, head)

    # ----------------------------------------------------------------------------- small helpers

    def _rows(self, name: str, images: Tensor) -> Tensor:
        rows = checks.flat_images(name, images, self.dim)
        checks.finite(name, rows)
        return rows

    def _lead(self, images: Tensor) -> torch.Size:
        """Leading dimensions of images whose tail holds `dim` numbers."""
        return images.shape[: checks.lead_dims(images, self.dim)]

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return f"dim={self.dim}, heads={self.heads}, phased={self.phased}, parameters={numbers:,}"
