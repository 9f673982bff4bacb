"""`LaplaceCovariance`: a Gaussian model of images with learnable anchors."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laplex.numpy import checks as validation
from laplex.torch.call import check_flag

from . import checks, completion, likelihood, refining, starting, training
from .heads import Heads
from .matching import NOISE_FLOOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Standard deviation of the initial anchors, in lengthscales, so that all pairs start coupled.
INITIAL_SPREAD = 0.3
#: The smallest divisor of a pixel, as a fraction of the largest standard deviation.
_LEAST_DEVIATION = 0.02
_ENTRIES_AT_ONCE = 2**22


class LaplaceCovariance(nn.Module):
    r"""Gaussian model of flattened images whose covariance is a sum of Laplace kernels.

    .. math::
        \Sigma = B \Bigl( \sum_h D_h\,\mathrm{Re}(K_h)\,D_h + \mathrm{diag}(\nu) \Bigr) B, \qquad
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - x_{hj}|} \cos(\theta_{hi} - \theta_{hj})

    Each head h gives every pixel (and channel) i an anchor :math:`x_{hi}` on its line, measured in
    lengthscales, a phase :math:`\theta_{hi}`, and a scale on the diagonal of :math:`D_h`. The
    vector :math:`\nu` holds the variance of each pixel's own noise, and the diagonal matrix
    :math:`B` holds the standard deviations of the pixels. Only ``mean`` and ``deviation`` have the
    units of the images. The model does not know where a pixel is; anchors start at random. The
    dense matrix is never formed.

    Parameters
    ----------
    dim : int
        The size of an image: pixels times channels.
    heads : int
        The number of kernels in the sum.
    phased : bool
        Give every anchor a phase. If False, all phases are 0.
    device : torch.device, str or int, optional
        The device of the parameters.
    dtype : torch.dtype, optional
        The dtype of the parameters, float32 or float64. By default, torch's default dtype.

    Attributes
    ----------
    anchors, scales : Parameter ``[heads, dim]``
        The anchors and scales of every head.
    phases : Parameter ``[heads, dim]`` or None
        The phases in radians, or None if ``phased=False``.
    log_noise : Parameter ``[dim]``
        The logarithm of the noise variance of each standardised pixel.
    mean, deviation : buffer ``[dim]``
        The mean and the standard deviation of each pixel, set by `fit`.

    Notes
    -----
    The model is our reading of the Gram operators of arXiv 2605.24584, which we know by its
    abstract only. Gradients flow through `log_prob`; other results are detached from the
    parameters.

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
        """Draw new anchors and phases from torch's global generator, and reset everything else.

        Anchors are normal with a standard deviation of 0.3 lengthscales. Every pair of pixels is
        thus coupled at first, so that gradients can bring any two together. Phases are uniform. The
        heads share the variance equally and leave almost none to the noise.
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
        """The noise variance of each standardised pixel, Tensor ``[dim]``."""
        return self.log_noise.exp()

    def parts(self) -> Heads:
        """Return the sum of kernels on standardised pixels, with the current parameters."""
        return Heads(self.anchors, self.scales, self.phases)

    def standardise(self, rows: Tensor) -> Tensor:
        """Subtract the mean of each pixel, and divide by its standard deviation.

        Parameters
        ----------
        rows : Tensor ``[n, dim]``
            The images.

        Returns
        -------
        Tensor ``[n, dim]``
            The standardised images, in the dtype of the model.
        """
        return (rows.to(self.mean) - self.mean) / self.deviation

    @torch.no_grad()
    def set_pixels(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the mean and the standard deviation of the pixels.

        Deviations below 2 % of the largest one are raised to that value. Otherwise rare values of
        pixels that hardly vary would dominate.

        Parameters
        ----------
        mean : Tensor ``[dim]``
            The means.
        deviation : Tensor ``[dim]``
            The standard deviations.

        Raises
        ------
        ValueError
            If all deviations are 0.
        """
        largest = float(deviation.max())
        if largest == 0:
            raise ValueError("images are all the same: there is no covariance to fit")
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp_min(_LEAST_DEVIATION * largest))

    # ---------------------------------------------------------------------------------- fitting

    def initialise(self, images: Tensor, *, length: float = 1.0) -> None:
        r"""Start from the principal components of images instead of random values.

        A phased head whose anchors are all at one place has rank 2. Head h gets the scales and
        phases that make it the components 2h and 2h + 1 of the standardised images (without phases,
        one component), so a fit starts near a low-rank model. The anchors follow a Hilbert curve
        through the image, a different one for each head, so that neighbours on the line are
        neighbours in the image. Those of flat images, whose shape is unknown, are random.

        Parameters
        ----------
        images : Tensor ``[count, height, width]`` or ``[count, height, width, channels]``
            At least 2 images of any real dtype; or flat, ``[count, dim]``.
        length : float
            The length of the line in lengthscales, between the first and the last anchor. About 1
            for covariances; for likelihood steps on large images about a tenth for each pixel.
        """
        rows = checks.sample("images", images, self.dim)
        shape = images.shape[1:] if images.dim() > 2 else None
        shape = None if shape is None else checks.image_shape("images", shape, self.dim)
        starting.initialise(self, rows, shape, checks.positive("length", length))

    def refined(self, shape: Sequence[int], new_shape: Sequence[int]) -> LaplaceCovariance:
        """Return a model of larger images, in which every pixel takes the place of its parent.

        A number of the larger image has the mean, deviation, noise, scales and phases of the one
        that covers its place in the smaller image, so the covariances of images keep their
        meaning. Their anchors are spread around that of the parent, in the order in which a curve
        through the larger image visits them, because equal anchors could not be separated by
        gradients. What the larger images show between the old pixels is still unknown: continue
        with `refit_amplitudes` and `fit`.

        Parameters
        ----------
        shape : (height, width) or (height, width, channels)
            The shape of an image of this model.
        new_shape : (height, width) or (height, width, channels)
            The shape of the larger images, with the same channels.
        """
        shape = checks.image_shape("shape", shape, self.dim)
        new_shape = checks.image_shape("new_shape", new_shape)
        larger = all(old <= new for old, new in zip(shape, new_shape, strict=False))
        if len(shape) != len(new_shape) or shape[2:] != new_shape[2:] or not larger:
            raise ValueError(
                f"new_shape must be at least {tuple(shape)} with the same channels, "
                f"got {tuple(new_shape)}"
            )
        return refining.refined(self, shape, new_shape)

    def refit_amplitudes(self, images: Tensor, *, sweeps: int = 4) -> None:
        """Fit scales and phases to the covariance of images at the present anchors.

        Each sweep solves a least-squares problem of one or two unknowns for every number of the
        image, given all the others, in O(count dim) after a sort: without gradients, and less time
        than a step of `fit`. Four sweeps after `refined` reach what needs about 20 such steps. With
        several heads, each is fitted to what the others leave, as far as the images span it.

        Parameters
        ----------
        images : Tensor ``[count, dim]`` or ``[count, height, width, ...]``
            At least 2 images of any real dtype. Their means and deviations become the model's.
        sweeps : int
            The number of sweeps.
        """
        rows = checks.sample("images", images, self.dim)
        refining.refit_amplitudes(self, rows, checks.count("sweeps", sweeps))

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
        r"""Fit the model to the sample covariance of images, from the current parameters.

        Adam minimises the squared Frobenius distance to the sample covariance, relative to the
        squared norm of the latter. The learning rate decays to 0 as a cosine. No matrix of dim x
        dim entries is formed if there are fewer images than pixels. After a sort, a step costs
        O((batch_size + probes) heads dim). The loss counts every pair of pixels, so anchors can
        pass each other and find an order.

        Parameters
        ----------
        images : Tensor ``[count, dim]`` or ``[count, height, width, ...]``
            At least 2 images of any real dtype.
        steps : int
            The number of matching steps.
        batch_size : int, optional
            The number of images in each step, drawn without replacement. By default, all images;
            more images than pixels are replaced by a square root of their covariance, which gives
            the same loss.
        probes : int, optional
            The number of random sign vectors that estimate the cross terms of different heads. By
            default, exact sums up to 2048 pixels, and 8 vectors above. One head needs none.
        learning_rate : float
            The learning rate of Adam for all parameters.
        likelihood_steps : int
            The number of Adam steps on `log_prob` after matching, at a tenth of the learning rate.
            The likelihood depends mainly on pixels that are close to each other, so these steps
            refine an order that is already there.
        seed : int
            The seed for drawing images and probes. Initial anchors come from torch's global
            generator instead.
        progress : bool
            Show a progress bar, which needs rich.
        checkpoint : path, optional
            A file to which the state is saved every ``checkpoint_every`` steps and at the end. It
            is written completely or not at all.
        checkpoint_every : int
            The number of steps between two checkpoints.
        resume : bool
            Continue from ``checkpoint`` if the file exists. On the same machine and with the same
            number of threads, the result is bit for bit that of an uninterrupted run.

        Returns
        -------
        laplex.gram.History
            The loss of every matching step, and the log density of every likelihood step.

        Raises
        ------
        TypeError, ValueError
            If images are not finite, have a wrong size or are fewer than 2, or if the checkpoint
            belongs to another run.
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
        r"""Off-diagonal relative squared error against the sample covariance of images.

        .. math:: \sum_{i \ne j} (S - \Sigma)_{ij}^2 \Big/ \sum_{i \ne j} S_{ij}^2

        Pixels are standardised by the model's own ``mean`` and ``deviation``. The diagonal is left
        out, because the noise matches it in any model.

        Parameters
        ----------
        images : Tensor ``[count, dim]`` or ``[count, height, width, ...]``
            The images whose sample covariance is the reference.
        probes : int, optional
            As for `fit`, but 64 vectors by default above 2048 pixels.
        """
        return training.relative_error(self, images, probes)

    # ----------------------------------------------------------------------------- the Gaussian

    def log_prob(self, images: Tensor) -> Tensor:
        """Return the log density of each image, differentiable by the parameters.

        With one head, the density is exact and costs O(dim). With several heads, GPyTorch's
        ``linear_operator`` computes it. Up to its setting ``max_cholesky_size`` (800 pixels) it
        uses a Cholesky factor. Above that it uses preconditioned conjugate gradients and stochastic
        Lanczos quadrature, so the log determinant is a random estimate; a larger setting
        ``num_trace_samples`` (10) makes it more accurate.

        Parameters
        ----------
        images : Tensor ``[*b, dim]`` or ``[*b, height, width, ...]``
            The images.

        Returns
        -------
        Tensor ``[*b]``, float64
            The log densities, in nats.
        """
        rows = self._rows("images", images)
        values = likelihood.log_prob(self, rows)
        return values.reshape(self._lead(images))

    @torch.no_grad()
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw exact samples of the model, in O(heads dim) each.

        Parameters
        ----------
        count : int
            Number of samples, at least 1.
        generator : torch.Generator, optional
            The source of random numbers; by default, that of PyTorch.

        Returns
        -------
        Tensor ``[count, dim]``
            The samples, flattened and not clipped to the range of the images.

        Raises
        ------
        TypeError
            If ``count`` is not an integer.
        ValueError
            If ``count`` is less than 1.
        """
        checks.count("count", count)
        drawn = likelihood.sample(self, count, generator).to(self.mean)
        return self.mean + self.deviation * drawn

    @torch.no_grad()
    def inpaint(self, image: Tensor, mask: Tensor) -> Tensor:
        """Replace missing pixels by their posterior mean, given the other pixels.

        This is the conditional mean only; it does not draw samples of the missing pixels.
        With one head, the result is exact. With several heads, conjugate gradients compute it to a
        relative residual of 1e-4.

        Parameters
        ----------
        image : Tensor ``[*b, dim]`` or ``[*b, height, width, ...]``
            The images. Missing pixels may hold any value, NaN included.
        mask : Tensor of bool
            True where a pixel is missing. Pass one mask for all images, or one for each.

        Returns
        -------
        Tensor
            The completed images, in the shape of ``image`` and of the model's dtype.
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
        """Return the posterior mean of images that were observed with white noise.

        Parameters
        ----------
        image : Tensor ``[*b, dim]`` or ``[*b, height, width, ...]``
            The noisy images.
        variance : float
            The variance of the white noise, in squared units of the images.
        """
        rows = self._rows("image", image)
        added = checks.positive("variance", variance) / self.deviation.square()
        clean = completion.denoise(self, self.standardise(rows), added)
        return (self.mean + self.deviation * clean).reshape(image.shape)

    # --------------------------------------------------------------------------- the covariance

    @torch.no_grad()
    def neighbours(self, pixel: int, k: int = 8) -> tuple[Tensor, Tensor]:
        """Return the pixels that correlate most with a given one, by the heads without noise.

        Parameters
        ----------
        pixel : int
            The index of the pixel in a flattened image.
        k : int
            The number of pixels to return.

        Returns
        -------
        index : Tensor ``[k]``, int64
            The pixels, in descending order of absolute correlation.
        correlation : Tensor ``[k]``
            Their correlations with the given pixel.
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
        """Return the covariance of images, noise included, as a ``LinearOperator`` in float64.

        It belongs to GPyTorch's ``linear_operator`` package and supports ``@``, ``solve`` and
        ``inv_quad_logdet``.
        """
        return likelihood.operator(self, self.deviation.double())

    @torch.no_grad()
    def covariance(self) -> Tensor:
        """Return the dense covariance ``[dim, dim]`` of images, noise included.

        Raises
        ------
        MemoryError
            If the matrix has more than 2**28 entries.
        """
        validation.dense_size(1, self.dim, self.dim)
        every = torch.arange(self.dim, device=self.anchors.device)
        blocks = torch.split(every, max(1, _ENTRIES_AT_ONCE // self.dim))
        heads = self.parts()
        dense = torch.cat([heads.rows(block) for block in blocks])
        dense.diagonal().add_(self.noise)
        return dense * self.deviation[:, None] * self.deviation

    def plot_order(self, shape: Sequence[int] | None = None, *, head: int = 0) -> Figure:
        """Draw the order of the pixels in one head, which needs matplotlib.

        The figure shows the rank and the phase of each pixel's anchor, and the head's covariance
        with pixels sorted by anchor.

        Parameters
        ----------
        shape : (height, width) or (height, width, channels), optional
            The shape of an image. By default, a square.
        head : int
            The index of the head.
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
        """Return the text between the parentheses of ``repr``."""
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return f"dim={self.dim}, heads={self.heads}, phased={self.phased}, parameters={numbers:,}"
