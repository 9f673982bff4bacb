"""`Term`: one summand of a covariance on a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..torch.call import Scalar, as_scalar
from .checks import ArrayLike, ScalarLike, all_finite, as_tensor, broadcast
from .rotation import rotation

#: Variances between these are squared and divided without leaving the range of a double.
_SMALLEST, _LARGEST = 1e-140, 1e140


@dataclass(frozen=True, eq=False, init=False)
class Term:
    r"""One Laplace kernel of a sum that `LaplaceGram` holds.

    .. math::

        k_{ij} = \sigma^2\, s_i s_j\; e^{-|x_i - x_j|/\ell}
                 \cos\bigl(\theta_i - \theta_j + \omega (x_i - x_j)\bigr)

    With the default phase, frequency and scale, the Ornstein-Uhlenbeck covariance; with a
    frequency, the real part of the oscillating form; with phases, that of a Hermitian kernel.
    Positive semidefinite always.

    Parameters
    ----------
    lengthscale : float, Tensor or array, shape ``[*b]``
        Positive.
    variance : float, Tensor or array, shape ``[*b]``
        sigma^2, positive.
    frequency : float, Tensor or array, shape ``[*b]``
        omega, radians per unit of the anchors.
    phase : Tensor or array, shape ``[*b, n]``, optional
        theta, radians.
    scale : Tensor or array, shape ``[*b, n]``, optional
        s, a factor for each anchor, of any sign.

    Notes
    -----
    Arrays are copied into tensors, integers as float64.
    """

    lengthscale: Scalar
    variance: Scalar
    frequency: Scalar
    phase: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        lengthscale: ScalarLike = 1.0,
        variance: ScalarLike = 1.0,
        frequency: ScalarLike = 0.0,
        phase: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ) -> None:
        given = {"lengthscale": lengthscale, "variance": variance, "frequency": frequency}
        for name, number in given.items():
            if isinstance(number, np.ndarray):
                number = as_tensor(name, number)
            object.__setattr__(self, name, number)
        for name, numbers in (("phase", phase), ("scale", scale)):
            object.__setattr__(self, name, None if numbers is None else as_tensor(name, numbers))

    def is_default(self) -> bool:
        """Whether nothing was given."""
        plain = (self.lengthscale, self.variance, self.frequency)
        given = any(isinstance(each, Tensor) for each in plain) or plain != (1.0, 1.0, 0.0)
        return not given and self.phase is None and self.scale is None

    def check(self, anchors: Tensor) -> None:
        """Refuse what is no term of these anchors, naming the argument."""
        for name, tensor in (("phase", self.phase), ("scale", self.scale)):
            if tensor is None:
                continue
            if not tensor.is_floating_point():
                raise TypeError(f"{name} must be float32 or float64, got {tensor.dtype}")
            if tensor.dim() == 0 or tensor.shape[-1] != anchors.shape[-1]:
                raise ValueError(
                    f"{name} has shape {list(tensor.shape)} but its last dimension must be "
                    f"{anchors.shape[-1]}, the number of anchors"
                )
            if not all_finite(tensor):
                raise ValueError(f"{name} must be finite, but has a NaN or an infinity")
        tensors = self.tensors(anchors)
        for name, value in (("variance", tensors.variance), ("lengthscale", tensors.lengthscale)):
            if not bool(((value > 0) & value.isfinite()).all()):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if tensors.frequency is not None:
            if not bool(tensors.frequency.isfinite().all()):
                raise ValueError(f"frequency must be finite, got {self.frequency}")
            farthest = anchors.detach().abs().amax(-1) if anchors.numel() else anchors.new_zeros(())
            if not bool((tensors.frequency.detach() * farthest.double()).isfinite().all()):
                raise ValueError(
                    "frequency times the farthest anchor is beyond any float: there is no such "
                    "angle; rescale the anchors"
                )
        sizes = tensors.variance.detach()[..., None]
        if tensors.scale is not None:
            sizes = sizes.sqrt() * tensors.scale.detach()
            sizes = sizes.square()[tensors.scale.detach().expand(sizes.shape) != 0]
        if not bool(((sizes >= _SMALLEST) & (sizes <= _LARGEST)).all()):
            raise ValueError(
                f"variance times the square of scale must be between {_SMALLEST:g} and "
                f"{_LARGEST:g}, where it is not 0: rescale the values"
            )

    def tensors(self, anchors: Tensor) -> TermTensors:
        """The parameters as they are now, as float64 tensors; None for what is not given."""
        frequency = None
        if isinstance(self.frequency, Tensor) or self.frequency != 0:
            frequency = as_scalar("frequency", self.frequency, anchors).double()
        return TermTensors(
            as_scalar("lengthscale", self.lengthscale, anchors).double(),
            as_scalar("variance", self.variance, anchors).double(),
            frequency,
            None if self.phase is None else self.phase.double(),
            None if self.scale is None else self.scale.double(),
        )


@dataclass(frozen=True, eq=False)
class TermTensors:
    """A term's parameters as float64 tensors."""

    lengthscale: Tensor
    variance: Tensor
    frequency: Tensor | None
    phase: Tensor | None
    scale: Tensor | None

    def batch_shape(self) -> torch.Size:
        """What the parameters' leading dimensions broadcast to."""
        return broadcast(
            self.lengthscale.shape,
            self.variance.shape,
            *(() if self.frequency is None else (self.frequency.shape,)),
            *(each.shape[:-1] for each in (self.phase, self.scale) if each is not None),
        )

    def loadings(self, anchors: Tensor) -> list[Tensor]:
        """The term as columns H of `sum_k diag(H_k) E diag(H_k)`: one, or cosine and sine.

        Float64 anchors ``[*b, n]``; a column ``[*b, n]``.
        """
        amplitude = self.variance.sqrt()[..., None].expand(*self.variance.shape, anchors.shape[-1])
        if self.scale is not None:
            amplitude = amplitude * self.scale
        cosine, sine = None, None
        if self.frequency is not None:
            cosine, sine = rotation(self.frequency[..., None], anchors)
        if self.phase is not None:
            c, s = self.phase.cos(), self.phase.sin()
            cosine, sine = (
                (c, s)
                if cosine is None or sine is None
                else (cosine * c - sine * s, sine * c + cosine * s)
            )
        if cosine is None or sine is None:
            return [amplitude]
        return [amplitude * cosine, amplitude * sine]
