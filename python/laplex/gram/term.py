"""`Term`: one summand of a covariance matrix of points on a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..torch.call import Scalar, as_scalar
from .checks import (
    ArrayLike,
    ScalarLike,
    all_finite,
    all_of,
    as_tensor,
    broadcast,
    expanded,
    positive,
)
from .rotation import rotation

#: Variances between these are squared and divided without leaving the range of a double.
_SMALLEST, _LARGEST = 1e-140, 1e140


@dataclass(frozen=True, eq=False, init=False)
class Term:
    r"""One summand of the covariance matrix of a `LaplaceGram`.

    .. math::

        k_{ij} = \sigma^2\, s_i s_j\; e^{-|x_i - x_j|/\ell}
                 \cos\bigl(\theta_i - \theta_j + \omega (x_i - x_j)\bigr)

    With the default phase, frequency and scale, this is the covariance of the Ornstein-Uhlenbeck
    process. With a frequency, it is the real part of the oscillating kernel; with phases, it is the
    real part of a Hermitian kernel. The matrix is always positive semidefinite.

    Parameters
    ----------
    lengthscale : float, Tensor or array, shape ``[*b]``
        The lengthscale :math:`\ell`, positive, in units of the anchors.
    variance : float, Tensor or array, shape ``[*b]``
        The variance :math:`\sigma^2`, positive.
    frequency : float, Tensor or array, shape ``[*b]``
        The frequency :math:`\omega`, in radians per unit of the anchors.
    phase : Tensor or array, shape ``[*b, n]``, optional
        The phase :math:`\theta` of each anchor, in radians. None stands for 0.
    scale : Tensor or array, shape ``[*b, n]``, optional
        The factor :math:`s` of each anchor, of either sign. None stands for 1.

    Notes
    -----
    NumPy arrays are copied into tensors; integers become float64.
    """

    #: The parameters whose last dimension numbers the anchors; the others have shape ``[*b]``.
    PER_ANCHOR: ClassVar[frozenset[str]] = frozenset({"phase", "scale"})

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
        given = {
            "lengthscale": lengthscale,
            "variance": variance,
            "frequency": frequency,
            "phase": phase,
            "scale": scale,
        }
        for name, value in given.items():
            if isinstance(value, np.ndarray) or (name in self.PER_ANCHOR and value is not None):
                given[name] = as_tensor(name, value)
        self.__dict__.update(given)  # frozen

    # --- what a LaplaceGram uses ------------------------------------------------------------------

    def is_default(self) -> bool:
        """Whether all parameters have their default values."""
        plain = (self.lengthscale, self.variance, self.frequency)
        given = any(isinstance(each, Tensor) for each in plain) or plain != (1.0, 1.0, 0.0)
        return not given and self.phase is None and self.scale is None

    def has_parameters_per_anchor(self) -> bool:
        """Whether the term has phases or scales, which belong to particular anchors."""
        return self.phase is not None or self.scale is not None

    def check(self, anchors: Tensor) -> None:
        """Raise an error that names the argument if the term does not fit these anchors.

        :meta private:
        """
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
        frequency = self._frequency(anchors)
        lengthscale = self._number("lengthscale", anchors)
        variance = self._number("variance", anchors)
        for name, value in (("variance", variance), ("lengthscale", lengthscale)):
            if not positive(value):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if frequency is not None:
            if not (
                all_finite(frequency) if isinstance(frequency, Tensor) else isfinite(frequency)
            ):
                raise ValueError(f"frequency must be finite, got {self.frequency}")
            if isinstance(frequency, Tensor) and frequency.numel() != 1:
                farthest = anchors.detach().double().abs()
                finite = not anchors.numel() or all_finite(frequency.detach() * farthest.amax(-1))
            else:
                number = frequency.item() if isinstance(frequency, Tensor) else frequency
                finite = all_finite(anchors, number)
            if not finite:
                raise ValueError(
                    "frequency times the largest anchor overflows a float: rescale the anchors"
                )
        sizes = variance
        if self.scale is not None:
            scale = self.scale.detach().double()
            sizes = (_root(_detached(variance)) * scale).square()
            sizes = sizes[scale.expand(sizes.shape) != 0]
        if not all_of(sizes, lambda size: (size >= _SMALLEST) & (size <= _LARGEST)):
            raise ValueError(
                f"variance times the square of scale must be 0 or between {_SMALLEST:g} and "
                f"{_LARGEST:g}: rescale the values"
            )

    def batch_shape(self) -> torch.Size:
        """The shape to which the leading dimensions of the parameters broadcast."""
        return broadcast(
            *(
                each.shape[:-1] if name in self.PER_ANCHOR else each.shape
                for name, each in vars(self).items()
                if isinstance(each, Tensor)
            )
        )

    def numbers(self, anchors: Tensor) -> tuple[Scalar, Scalar, Scalar | None]:
        """The current lengthscale, variance and frequency, each ``[*b]``; None for frequency 0.

        :meta private:
        """
        return (
            self._number("lengthscale", anchors),
            self._number("variance", anchors),
            self._frequency(anchors),
        )

    def columns(self, anchors: Tensor, origin: Tensor | None = None) -> tuple[Scalar, list[Tensor]]:
        """The current lengthscale ``[*b]`` and columns H of ``sum_k diag(H_k) E diag(H_k)``.

        There is one column, or a cosine and a sine, each ``[*b, n]`` for float64 anchors
        ``[*b, n]``. Angles of the frequency are 0 at `origin`, by default near the median.

        :meta private:
        """
        lead = self.variance.shape if isinstance(self.variance, Tensor) else ()
        root = _root(self._number("variance", anchors))
        amplitude = expanded(root, (*lead, anchors.shape[-1]), anchors)
        if self.scale is not None:
            amplitude = amplitude * self.scale.double()
        cosine, sine = None, None
        frequency = self._frequency(anchors)
        if frequency is not None:
            if not isinstance(frequency, Tensor):
                frequency = anchors.new_full((), frequency)
            cosine, sine = rotation(frequency[..., None], anchors, origin)
        if self.phase is not None:
            phase = self.phase.double()
            c, s = phase.cos(), phase.sin()
            cosine, sine = (
                (c, s)
                if cosine is None or sine is None
                else (cosine * c - sine * s, sine * c + cosine * s)
            )
        columns = [amplitude]
        if cosine is not None and sine is not None:
            columns = [amplitude * cosine, amplitude * sine]
        return self._number("lengthscale", anchors), columns

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Term:
        """A copy in which every tensor is replaced by the result of ``change``.

        :meta private:
        """
        return type(self)(
            **{
                name: change(name, each) if isinstance(each, Tensor) else each
                for name, each in vars(self).items()
            }
        )

    def times(self, factor: Tensor) -> Term:
        """The term multiplied by positive float64 numbers ``[*b]``.

        :meta private:
        """
        return replace(self, variance=self._number("variance", factor) * factor)

    def tensors(self, anchors: Tensor) -> dict[str, Tensor]:
        """The parameters that were given, as float64 tensors by name.

        :meta private:
        """
        given = {name: each for name, each in vars(self).items() if each is not None}
        if self._frequency(anchors) is None:
            del given["frequency"]
        return {name: as_scalar(name, each, anchors).double() for name, each in given.items()}

    # --- inside -----------------------------------------------------------------------------------

    def _number(self, name: str, anchors: Tensor) -> Scalar:
        """The current value ``[*b]`` of a parameter: a float, or a float64 tensor."""
        value = getattr(self, name)
        if type(value) is float:
            return value
        tensor = as_scalar(name, value, anchors).double()
        return tensor if isinstance(value, Tensor) else float(tensor)

    def _frequency(self, anchors: Tensor) -> Scalar | None:
        """The frequency, or None if it is the number 0 (a tensor of zeros still counts)."""
        if not isinstance(self.frequency, Tensor) and self.frequency == 0:
            return None
        return self._number("frequency", anchors)


def checked_terms(terms: object) -> tuple[Term, ...]:
    """A sequence of at least one term."""
    found = tuple(terms) if isinstance(terms, Iterable) else ()
    if not found or not all(isinstance(term, Term) for term in found):
        raise TypeError(
            "terms must be a sequence of at least one laplex.gram.Term: pass [Term(...)]"
        )
    return found


def _root(variance: Scalar) -> Scalar:
    """Square roots ``[*b, 1]``."""
    return variance.sqrt()[..., None] if isinstance(variance, Tensor) else sqrt(variance)


def _detached(value: Scalar) -> Scalar:
    return value.detach() if isinstance(value, Tensor) else value
