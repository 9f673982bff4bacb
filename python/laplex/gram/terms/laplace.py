"""`Term`: the Laplace kernel, with a frequency, phases and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...torch.call import Scalar
from ..checks import ArrayLike, ScalarLike, all_finite, as_tensor, expanded, is_array_like
from ..rotation import rotation
from .base import BaseTerm, root, square_root
from .blocks import Block


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Term(BaseTerm):
    r"""One summand of the covariance matrix of a `LaplaceGram`.

    .. math::

        k_{ij} = \sigma^2\, s_i s_j\; e^{-|x_i - x_j|/\ell}
                 \cos\bigl(\theta_i - \theta_j + \omega (x_i - x_j)\bigr)

    With the default phase, frequency and scale, this is the covariance of the Ornstein-Uhlenbeck
    process. With a frequency, it is the real part of the oscillating kernel; with phases, it is the
    real part of a Hermitian kernel. The matrix is always positive semidefinite; for a negative
    amplitude, use `Celerite`.

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
    DOMAINS: ClassVar[dict[str, str]] = {
        "lengthscale": "positive",
        "variance": "positive",
        "frequency": "finite",
    }
    REMEDIES: ClassVar[dict[str, str]] = {
        "variance": " (a negative amplitude a is Celerite(a, 0, 1 / lengthscale, 0))"
    }

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
            if is_array_like(value) or (name in self.PER_ANCHOR and value is not None):
                given[name] = as_tensor(name, value)
        self.__dict__.update(given)  # frozen

    def is_default(self) -> bool:
        """Whether all parameters have their default values."""
        plain = (self.lengthscale, self.variance, self.frequency)
        given = any(isinstance(each, Tensor) for each in plain) or plain != (1.0, 1.0, 0.0)
        return not given and self.phase is None and self.scale is None

    def check(self, anchors: Tensor) -> None:
        """Raise an error that names the argument if the term does not fit these anchors.

        :meta private:
        """
        self.check_per_anchor(anchors)
        self.check_numbers(anchors)
        _, variance, frequency = self.numbers(anchors)
        if frequency is not None:
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
        self.check_size(variance, "variance", self.scale)

    def numbers(self, anchors: Tensor) -> tuple[Scalar, Scalar, Scalar | None]:
        """The current lengthscale, variance and frequency, each ``[*b]``; None for frequency 0.

        :meta private:
        """
        return (
            self.number("lengthscale", anchors),
            self.number("variance", anchors),
            self._frequency(anchors),
        )

    def columns(self, anchors: Tensor, origin: Tensor | None = None) -> tuple[Scalar, list[Tensor]]:
        """The current lengthscale ``[*b]`` and columns H of ``sum_k diag(H_k) E diag(H_k)``.

        There is one column, or a cosine and a sine, each ``[*b, n]`` for float64 anchors
        ``[*b, n]``. Angles of the frequency are 0 at `origin`, by default near the median.

        :meta private:
        """
        lead = self.variance.shape if isinstance(self.variance, Tensor) else ()
        deviation = root(self.number("variance", anchors))
        amplitude = expanded(deviation, (*lead, anchors.shape[-1]), anchors)
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
        return self.number("lengthscale", anchors), columns

    def times(self, factor: Scalar) -> Term:
        """See `BaseTerm.times`.

        :meta private:
        """
        return self.replaced(variance=self.multiplied("variance", factor))

    def tensors(self, anchors: Tensor) -> dict[str, Tensor]:
        """See `BaseTerm.tensors`.

        :meta private:
        """
        found = super().tensors(anchors)
        if self._frequency(anchors) is None:
            del found["frequency"]  # which must remain a number
        return found

    def parts(
        self, anchors: Tensor, origin: Tensor | None = None
    ) -> list[tuple[BaseTerm, Tensor | None]]:
        """See `BaseTerm.parts`; there is one for each of the columns.

        :meta private:
        """
        lengthscale, columns = self.columns(anchors, origin)
        part = Term(lengthscale)
        return [(part, column) for column in columns]

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`; a frequency needs two columns of state here.

        :meta private:
        """
        lengthscale, variance, frequency = self.numbers(like)
        if frequency is None:
            return [Block((lengthscale,), (variance,))]
        undamped = lengthscale / square_root(1 + (lengthscale * frequency) ** 2)
        return [Block((lengthscale, undamped), (variance, variance))]

    def has_frequency(self) -> bool:
        """Whether the frequency is not the number 0 (a tensor of zeros counts as a frequency).

        :meta private:
        """
        return isinstance(self.frequency, Tensor) or self.frequency != 0

    def _frequency(self, anchors: Tensor) -> Scalar | None:
        return self.number("frequency", anchors) if self.has_frequency() else None
