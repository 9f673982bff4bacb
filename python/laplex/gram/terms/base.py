"""`BaseTerm`: what all terms of a covariance have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...torch.call import Scalar, as_scalar
from ..checks import ScalarLike, all_finite, all_of, as_tensor, broadcast, is_array_like, positive
from .algebra import Operand
from .blocks import Block

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


#: Variances between these are squared and divided without leaving the range of a double.
SMALLEST, LARGEST = 1e-140, 1e140

_DOMAINS: dict[str, Callable[[float | Tensor], bool]] = {
    "positive": positive,
    "not negative": lambda value: all_of(value, lambda each: (each >= 0) & (each < torch.inf)),
    "finite": lambda value: all_of(value, lambda each: abs(each) < torch.inf),
}


class BaseTerm(Operand):
    """A summand of the covariance matrix of a `LaplaceGram`.

    Subclasses are frozen dataclasses. Their `blocks` define them.
    """

    #: The parameters whose last dimension numbers the anchors; the others have shape ``[*b]``.
    PER_ANCHOR: ClassVar[frozenset[str]] = frozenset({"scale"})
    #: What the numbers have to be: positive, not negative or finite.
    DOMAINS: ClassVar[dict[str, str]] = {}
    #: What to do about other numbers, for the end of a message.
    REMEDIES: ClassVar[dict[str, str]] = {}

    scale: Tensor | None

    def __init__(self, **parameters: ScalarLike | None) -> None:
        for name, value in parameters.items():
            per_anchor = name in self.PER_ANCHOR
            if value is None or (isinstance(value, Tensor) and not per_anchor):
                pass
            elif per_anchor or is_array_like(value):
                value = as_tensor(name, value)
            else:
                value = float(as_scalar(name, value, torch.empty(0)))
                self._check_number(name, value)
            self.__dict__[name] = value  # frozen

    # --- the covariance function ------------------------------------------------------------------

    def value(self, distance: ScalarLike) -> Tensor:
        """Return the covariance function at distances, without scales and phases.

        Parameters
        ----------
        distance : float, Tensor or array, shape ``[*b, m]``
            Distances of either sign. Their leading dimensions broadcast with the parameters.

        Returns
        -------
        Tensor ``[*b, m]``
            The covariances, in the dtype of `distance`, or float64 for a number.
        """
        return self._evaluated("distance", distance, Block.value)

    def psd(self, frequency: ScalarLike) -> Tensor:
        r"""Return the power spectral density of the covariance function k.

        .. math:: S(\omega) = \frac{1}{\sqrt{2\pi}} \int k(t)\, e^{-i \omega t}\, dt

        This is the convention of celerite2.

        Parameters
        ----------
        frequency : float, Tensor or array, shape ``[*b, m]``
            Angular frequencies. Their leading dimensions broadcast with the parameters.

        Returns
        -------
        Tensor ``[*b, m]``
            The densities, in the dtype of `frequency`, or float64 for a number.
        """
        return self._evaluated("frequency", frequency, Block.psd)

    def _evaluated(
        self, name: str, at: ScalarLike, function: Callable[[Block, Tensor], Tensor]
    ) -> Tensor:
        has_many = hasattr(at, "__array__") or is_array_like(at)
        given = as_tensor(name, at) if has_many else as_scalar(name, at, torch.ones(0))
        self.check_numbers(given)
        return self._sum(given.double(), function, _lifted(min(given.dim(), 1))).to(given.dtype)

    def covariance(self, distance: Tensor, trailing: int) -> Tensor:
        """The covariances at float64 distances ``[*b, ...]`` with some trailing dimensions.

        :meta private:
        """
        return self._sum(distance, Block.value, _lifted(trailing))

    def covariance_at(
        self, distance: Tensor, batch: torch.Size, index: tuple[Tensor, ...]
    ) -> Tensor:
        """The covariances at float64 distances, each for one index of the batch.

        :meta private:
        """

        def taken(number: Scalar) -> Scalar:
            return number.expand(batch)[index] if isinstance(number, Tensor) else number

        return self._sum(distance, Block.value, taken)

    def _sum(
        self,
        at: Tensor,
        function: Callable[[Block, Tensor], Tensor],
        change: Callable[[Scalar], Scalar],
    ) -> Tensor:
        """The sum over the blocks of a function of a block whose numbers were changed."""
        total = at.new_zeros(())
        for block in self.blocks(at):
            total = total + function(block.map(change), at)
        return total

    def __repr__(self) -> str:
        shown = {
            name: f"Tensor{list(each.shape)}"
            if isinstance(each, Tensor) and each.numel() != 1
            else f"{float(each.detach() if isinstance(each, Tensor) else each):.6g}"
            for name, each in self.parameters().items()
            if each is not None
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"

    def parameters(self) -> dict[str, Any]:
        """All parameters by name: tensors, numbers and None."""
        return vars(self)

    def kind(self) -> str:
        """The name with which `made` of this folder makes such a term.

        :meta private:
        """
        return type(self).__name__

    # --- what subclasses define -------------------------------------------------------------------

    def blocks(self, like: Tensor) -> list[Block]:
        """The independent processes whose sum this term is, without scales.

        :meta private:
        """
        raise NotImplementedError

    def times(self, factor: Scalar) -> Self:
        """The term multiplied by a positive number, or by float64 numbers ``[*b]``.

        :meta private:
        """
        raise NotImplementedError

    def indefinite(self) -> str | None:
        """Why the term is not positive semidefinite by itself, or None if it is.

        :meta private:
        """
        return None

    def matvec_kernel(self, like: Tensor) -> tuple[str, Scalar, Scalar] | None:
        """The kernel, lengthscale and factor with which `laplex.matvec` multiplies, if any does.

        :meta private:
        """
        return None

    # --- what a LaplaceGram uses ------------------------------------------------------------------

    def parts(
        self, anchors: Tensor, origin: Tensor | None = None
    ) -> list[tuple[BaseTerm, Tensor | None]]:
        """Independent stationary terms, and the factors ``[*b, n]`` by which anchors observe them.

        None stands for factors of 1.

        :meta private:
        """
        if self.scale is None:
            return [(self, None)]
        return [(self.replaced(scale=None), self.scale.double())]

    def has_parameters_per_anchor(self) -> bool:
        """Whether the term has parameters that belong to particular anchors."""
        return any(getattr(self, name) is not None for name in self.PER_ANCHOR)

    def check(self, anchors: Tensor) -> None:
        """Raise an error that names the argument if the term does not fit these anchors.

        :meta private:
        """
        self.check_per_anchor(anchors)
        self.check_numbers(anchors)
        self.check_blocks(anchors, type(self).__name__, self.scale)

    def check_blocks(self, anchors: Tensor, name: str, scale: Tensor | None) -> None:
        """Check that the core can represent the blocks, whose first columns have a scale.

        :meta private:
        """
        try:
            with torch.no_grad():
                blocks = self._with_floats().blocks(anchors)
        except (OverflowError, ZeroDivisionError):
            blocks = [Block((0.0,), (1.0,))]
        for block in blocks:
            for lengthscale in block.lengthscales:
                if not positive(lengthscale):
                    raise ValueError(
                        f"{self!r} has a time scale that is not a positive, finite float: rescale "
                        "the anchors"
                    )
            for weight in block.weights:
                self.check_size(weight, name, scale)

    def _with_floats(self) -> Self:
        """A copy in which tensors ``[]`` are floats: arithmetic with these is ten times as fast."""
        return self.with_numbers(
            {
                name: float(each.item())
                for name, each in vars(self).items()
                if isinstance(each, Tensor) and each.dim() == 0
            }
        )

    def with_numbers(self, numbers: Mapping[str, Scalar]) -> Self:
        """A copy with other parameters, which are known to be right.

        :meta private:
        """
        copy = object.__new__(type(self))
        copy.__dict__.update(vars(self))
        copy.__dict__.update(numbers)
        return copy

    def check_per_anchor(self, anchors: Tensor) -> None:
        """Check the phases and scales.

        :meta private:
        """
        for name in sorted(self.PER_ANCHOR):
            tensor = getattr(self, name)
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

    def check_numbers(self, like: Tensor) -> None:
        """Check the parameters that do not belong to anchors.

        :meta private:
        """
        for name in self.DOMAINS:
            if getattr(self, name) is not None:
                self._check_number(name, self.number(name, like))

    def _check_number(self, name: str, value: Scalar) -> None:
        domain = self.DOMAINS[name]
        if not _DOMAINS[domain](value):
            wanted = domain if domain == "finite" else f"{domain} and finite"
            remedy = self.REMEDIES.get(name, "")
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name, value)}{remedy}")

    def check_size(self, variance: Scalar, name: str, scale: Tensor | None) -> None:
        """Refuse variances whose squares would leave the range of a double.

        :meta private:
        """
        sizes = variance
        if scale is not None:
            scale = scale.detach().double()
            deviation = root(
                variance.detach().abs() if isinstance(variance, Tensor) else abs(variance)
            )
            sizes = (deviation * scale).square()
            sizes = torch.where(scale * deviation != 0, sizes, 1.0)
        if not all_of(
            sizes, lambda size: (size == 0) | (abs(size) >= SMALLEST) & (abs(size) <= LARGEST)
        ):
            raise ValueError(
                f"{name} times the square of scale must be 0 or between {SMALLEST:g} and "
                f"{LARGEST:g}: rescale the values"
            )

    def batch_shape(self) -> torch.Size:
        """The shape to which the leading dimensions of the parameters broadcast."""
        return broadcast(
            *(
                each.shape[:-1] if name.rpartition(".")[-1] in self.PER_ANCHOR else each.shape
                for name, each in self.parameters().items()
                if isinstance(each, Tensor)
            )
        )

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        """A copy in which every tensor is replaced by the result of ``change``.

        :meta private:
        """
        return self.replaced(
            **{
                name: change(name, each)
                for name, each in self.parameters().items()
                if isinstance(each, Tensor)
            }
        )

    def replaced(self, **changes: ScalarLike | None) -> Self:
        """A copy with other parameters.

        :meta private:
        """
        return type(self)(**{**self.parameters(), **changes})

    def tensors(self, anchors: Tensor) -> dict[str, Tensor]:
        """The parameters that were given, as float64 tensors by name.

        :meta private:
        """
        given = {name: each for name, each in self.parameters().items() if each is not None}
        return {name: as_scalar(name, each, anchors).double() for name, each in given.items()}

    def multiplied(self, name: str, factor: Scalar) -> Scalar:
        """A parameter times a number.

        :meta private:
        """
        value = getattr(self, name)
        product: Scalar = factor * (value.double() if isinstance(value, Tensor) else value)
        return product

    def number(self, name: str, like: Tensor) -> Scalar:
        """The current value ``[*b]`` of a parameter: a float, or a float64 tensor.

        :meta private:
        """
        value = getattr(self, name)
        if type(value) is float:
            return value
        tensor = as_scalar(name, value, like).double()
        return tensor if isinstance(value, Tensor) else float(tensor)


def _lifted(trailing: int) -> Callable[[Scalar], Scalar]:
    """The function that appends dimensions to tensors ``[*b]``."""
    index = (..., *(trailing * (None,)))

    def lifted(number: Scalar) -> Scalar:
        return number[index] if isinstance(number, Tensor) else number

    return lifted


def root(variance: Scalar) -> Scalar:
    """Square roots ``[*b, 1]``."""
    return variance.sqrt()[..., None] if isinstance(variance, Tensor) else sqrt(variance)


def square_root(number: Scalar) -> Scalar:
    """Square roots ``[*b]``."""
    return number.sqrt() if isinstance(number, Tensor) else sqrt(number)


def one_of(term: str, **given: ScalarLike | None) -> None:
    """Raise an error unless exactly one of two alternative parameters is given."""
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        raise ValueError(
            f"{term} needs exactly one of {' and '.join(given)}, got "
            f"{' and '.join(found) or 'neither'}"
        )
