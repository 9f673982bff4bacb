"""`TermProduct`: the product of terms, as a sum of the processes that the compiled core has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...torch.call import Scalar
from ..checks import ScalarLike, all_of
from .algebra import Operand
from .base import BaseTerm, square_root
from .blocks import Block
from .laplace import Term

#: Below this ratio of ``|kappa|`` to the squared frequency, an oscillator counts as critical. Just
#: above it, the two waves of a product may be 1000 times larger than their sum.
_CRITICAL = 1e-3


@dataclass(frozen=True, eq=False, init=False, repr=False)
class TermProduct(BaseTerm):
    r"""The product of terms: what ``*`` returns, see the table of products in the guide.

    Its covariance function is the product of those of its factors, and so are its scales and
    phases. It is exact: every product that is allowed is again a sum of linear processes.

    Parameters
    ----------
    *factors : Term, SHO, Matern32, Celerite, Rotation or TermProduct
        The factors. Their parameters remain the parameters of the product.

    Notes
    -----
    * A `Term` adds its rate to that of the other factor. Its frequency and phases turn that into
      two copies with the scales of a cosine and a sine.
    * Two oscillators are two general terms of celerite at the sum and the difference of their
      frequencies, with the sum of their rates. One of these two need not be positive semidefinite
      by itself. They cancel at short distances: without noise, gaps d lose about
      :math:`(\omega d)^{-2}` of the digits, as celerite2's products do.
    * A `Matern52` cannot be multiplied by a term, and a critical oscillator (`Matern32`, or
      ``abs(Q - 1/2)`` < 0.00025) not by an oscillator: these products need a larger state.

    Raises
    ------
    NotImplementedError
        If there is no such sum. Factors with tensors are checked when they are used.
    """

    PER_ANCHOR: ClassVar[frozenset[str]] = Term.PER_ANCHOR

    factors: tuple[BaseTerm, ...]

    def __init__(self, *factors: BaseTerm) -> None:
        flat: list[BaseTerm] = []
        for factor in factors:
            flat += factor.factors if isinstance(factor, TermProduct) else [factor]
        self.__dict__["factors"] = tuple(flat)  # frozen

    @property
    def scale(self) -> Tensor | None:  # type: ignore[override]
        """The scale of the first factor."""
        return self.factors[0].scale

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))

    # --- parameters -------------------------------------------------------------------------------

    def kind(self) -> str:
        """See `BaseTerm.kind`.

        :meta private:
        """
        return "*".join(factor.kind() for factor in self.factors)

    def parameters(self) -> dict[str, Any]:
        """The parameters of the factors, as ``0.lengthscale`` and so on."""
        return self._named(BaseTerm.parameters)

    def tensors(self, anchors: Tensor) -> dict[str, Tensor]:
        """See `BaseTerm.tensors`.

        :meta private:
        """
        return self._named(lambda factor: factor.tensors(anchors))

    def _named(self, of: Callable[[BaseTerm], dict[str, Any]]) -> dict[str, Any]:
        return {
            f"{number}.{name}": each
            for number, factor in enumerate(self.factors)
            for name, each in of(factor).items()
        }

    def replaced(self, **changes: ScalarLike | None) -> TermProduct:
        """A copy with other parameters; a scale without a number is that of the first factor.

        :meta private:
        """
        own: list[dict[str, ScalarLike | None]] = [{} for _ in self.factors]
        for name, value in changes.items():
            number, _, parameter = name.rpartition(".")
            own[int(number or 0)][parameter] = value
        pairs = zip(self.factors, own, strict=True)
        return TermProduct(*(factor.replaced(**changed) for factor, changed in pairs))

    def times(self, factor: Scalar) -> TermProduct:
        """See `BaseTerm.times`.

        :meta private:
        """
        return TermProduct(self.factors[0].times(factor), *self.factors[1:])

    def has_parameters_per_anchor(self) -> bool:
        """Whether a factor has parameters that belong to particular anchors."""
        return any(factor.has_parameters_per_anchor() for factor in self.factors)

    def check(self, anchors: Tensor) -> None:
        """See `BaseTerm.check`.

        :meta private:
        """
        for factor in self.factors:
            factor.check(anchors)
        try:
            with torch.no_grad():
                parts = self.parts(anchors.double())
                # The sizes of the factors, since cosines and sines may be as small as they like.
                columns = [column for _, column in parts if column is not None]
                scale = reduce(torch.hypot, columns) if columns else None
                for part, _ in parts:
                    part.check_blocks(anchors, "the product", scale)
        except NotImplementedError as error:
            raise NotImplementedError(f"there is no {self!r}: {error}") from None

    def check_numbers(self, like: Tensor) -> None:
        """See `BaseTerm.check_numbers`.

        :meta private:
        """
        for factor in self.factors:
            factor.check_numbers(like)

    def indefinite(self) -> str | None:
        """See `BaseTerm.indefinite`.

        :meta private:
        """
        reasons = [factor.indefinite() for factor in self.factors]
        found = [each for each in reasons if each is not None]
        return f"{self!r}, with the factor {found[0]}" if found else None

    # --- the covariance ---------------------------------------------------------------------------

    def parts(
        self, anchors: Tensor, origin: Tensor | None = None
    ) -> list[tuple[BaseTerm, Tensor | None]]:
        """See `BaseTerm.parts`: there is one for each choice of a part of every factor.

        :meta private:
        """
        found: list[tuple[BaseTerm, Tensor | None]] = []
        for chosen in product(*(factor.parts(anchors, origin) for factor in self.factors)):
            columns = [column for _, column in chosen if column is not None]
            column = reduce(torch.mul, columns) if columns else None
            found.append((TermProduct(*(part for part, _ in chosen)), column))
        return found

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        first, *others = self.factors
        found = first.blocks(like)
        for other in others:
            pairs = product(found, other.blocks(like))
            found = [block for one, two in pairs for block in _block_product(one, two)]
        return found

    def _sum(
        self,
        at: Tensor,
        function: Callable[[Block, Tensor], Tensor],
        change: Callable[[Scalar], Scalar],
    ) -> Tensor:
        if function is Block.value:
            factors = [factor._sum(at, function, change) for factor in self.factors]
            return reduce(torch.mul, factors)
        # A cosine moves one half of the spectrum to the left and one to the right.
        still: list[BaseTerm] = []
        frequencies = [at]
        for factor in self.factors:
            if isinstance(factor, Term) and factor.has_frequency():
                wave = change(factor.number("frequency", at))
                frequencies = [each + way * wave for each in frequencies for way in (1, -1)]
                factor = factor.replaced(frequency=0.0)
            still.append(factor)
        plain = TermProduct(*still)
        moved = [super(TermProduct, plain)._sum(each, function, change) for each in frequencies]
        return sum(moved[1:], moved[0]) / len(moved)

    def matvec_kernel(self, like: Tensor) -> tuple[str, Scalar, Scalar] | None:
        """See `BaseTerm.matvec_kernel`.

        :meta private:
        """
        blocks = self.blocks(like)
        if len(blocks) > 1 or len(blocks[0].weights) > 1:
            return None
        return "matern12", blocks[0].lengthscales[0], blocks[0].weights[0]


def multiplied(one: BaseTerm, two: BaseTerm) -> TermProduct:
    """The product of two terms; without tensors, it is checked at once."""
    made = TermProduct(one, two)
    if not any(isinstance(each, Tensor) for each in made.parameters().values()):
        made.check(torch.zeros(1, dtype=torch.float64))
    return made


Operand._product = staticmethod(multiplied)


def _block_product(one: Block, two: Block) -> list[Block]:
    """Blocks whose covariances add up to the product of those of two blocks."""
    if len(one.weights) > len(two.weights):
        one, two = two, one
    if len(two.weights) == 3:
        raise NotImplementedError(
            "a Matern52 cannot be multiplied by another term; use Matern32 in its place, which a "
            "Term can multiply"
        )
    if len(one.weights) == 1:
        return [_damped(two, 1 / one.lengthscales[0], one.weights[0])]
    first, second = _Wave(one), _Wave(two)
    if not (first.sign and second.sign):
        raise NotImplementedError(
            "a critical oscillator (Matern32, or SHO with Q near 1/2) cannot be multiplied by "
            "another oscillator, nor can a batch with Q on both sides of 1/2; use a Term in place "
            "of one of them, with a frequency if it oscillates"
        )
    if first.sign == second.sign:
        return [_beat(first, second, 1), _beat(first, second, -1)]
    over, block = (first, two) if first.sign < 0 else (second, one)
    return [_damped(block, rate, weight) for rate, weight in over.exponentials()]


def _damped(block: Block, rate: Scalar, weight: Scalar) -> Block:
    """The product of a block of size 1 or 2 and an exponential."""
    gamma = 1 / block.lengthscales[0]
    total = gamma + rate
    if len(block.weights) == 1:
        return Block((1 / total,), (weight * block.weights[0],))
    undamped = square_root((1 / block.lengthscales[1]) ** 2 + rate * (rate + 2 * gamma))
    one, two = (0.5 * weight * each for each in block.weights)
    less, more = rate / total, 1 + gamma / total
    return Block((1 / total, 1 / undamped), (one * more + two * less, one * less + two * more))


class _Wave:
    """A block of size 2: e^{-gamma t} (a c(root t) + odd s(root t)), c and s as `sign` says.

    For the sign 1, these are cosine and sine; for -1, their hyperbolic counterparts. The sign is 0
    for a critical oscillator, and for batches that have both.
    """

    def __init__(self, block: Block) -> None:
        self.gamma, self.omega = (1 / each for each in block.lengthscales)
        kappa = (self.omega - self.gamma) * (self.omega + self.gamma)
        least, sign = _CRITICAL * self.omega**2, 0
        if all_of(kappa - least, lambda each: each > 0):
            sign = 1
        elif all_of(kappa + least, lambda each: each < 0):
            sign = -1
        self.sign = sign
        if sign:
            one, two = block.weights
            self.root = square_root(sign * kappa)
            self.even = 0.5 * (one + two)
            self.odd = 0.5 * self.gamma * (two - one) / self.root

    def slow(self) -> Scalar:
        """Gamma - root of an overdamped oscillator."""
        return self.omega**2 / (self.gamma + self.root)

    def exponentials(self) -> list[tuple[Scalar, Scalar]]:
        """Rates and weights of the two exponentials of an overdamped oscillator."""
        return [
            (self.slow(), 0.5 * (self.even + self.odd)),
            (self.gamma + self.root, 0.5 * (self.even - self.odd)),
        ]


def _beat(one: _Wave, two: _Wave, way: int) -> Block:
    """The sum (way 1) or the difference (-1) of the frequencies of a product of two waves."""
    gamma, root = one.gamma + two.gamma, one.root + way * two.root
    even = 0.5 * (one.even * two.even - one.sign * way * one.odd * two.odd)
    tilt = 0.5 * (one.odd * two.even + way * one.even * two.odd) * root / gamma
    if one.sign > 0:
        undamped = square_root(gamma**2 + root**2)
    elif way > 0:
        undamped = square_root((one.slow() + two.slow()) * (gamma + root))
    else:
        left = one.slow() + two.gamma + two.root
        undamped = square_root(left * (two.slow() + one.gamma + one.root))
    return Block((1 / gamma, 1 / undamped), (even - tilt, even + tilt))
