"""Terms that are one damped oscillator: the derivatives of its block by their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from torch import Tensor

from ..torch.call import Scalar
from .terms import SHO, BaseTerm, Block, Celerite, Matern32


def parameters_of(term: BaseTerm) -> tuple[str, ...] | None:
    """The names of the parameters that a term has, or None if it is no damped oscillator."""
    if isinstance(term, SHO):
        return tuple(name for name in SHO.DOMAINS if getattr(term, name) is not None)
    if isinstance(term, Matern32) or (isinstance(term, Celerite) and not term.is_real()):
        return tuple(term.DOMAINS)
    return None


def with_numbers(term: BaseTerm, numbers: Sequence[Scalar]) -> BaseTerm:
    """A copy with other values of the parameters."""
    return term.with_numbers(dict(zip(parameters_of(term) or (), numbers, strict=True)))


def block_of(term: BaseTerm, numbers: Sequence[Scalar], anchors: Tensor) -> Block:
    """The damped oscillator with these values of the parameters."""
    (block,) = with_numbers(term, numbers).blocks(anchors)
    if len(block.weights) == 1:  # a frequency that happens to be 0
        block = Block(2 * block.lengthscales, 2 * block.weights)
    return block


def chain(
    term: BaseTerm, numbers: Sequence[Scalar], block: Block, gradients: Sequence[Scalar]
) -> list[Scalar]:
    """The gradients by a term's parameters from those by the two lengthscales and weights.

    Parameters
    ----------
    term
    numbers
        The values of its parameters, in the order of `parameters_of`.
    block
        The oscillator.
    gradients
        By its lengthscales and weights.
    """
    damping, undamped, one, two = gradients
    if isinstance(term, Matern32):
        return [(damping + undamped) / sqrt(3), 2 * two]
    if isinstance(term, Celerite):
        _, b, c, d = numbers
        odd, cube = two - one, block.lengthscales[1] ** 3 * undamped
        return [
            one + two,
            odd * d / c,
            -damping / c**2 - c * cube - odd * b * d / c**2,
            odd * b / c - d * cube,
        ]
    # The lengthscales and the second weight of an SHO are powers of its parameters, of exponents
    # that depend on which of them are given. These are the derivatives by their logarithms.
    damping = damping * block.lengthscales[0]
    undamped = undamped * block.lengthscales[1]
    two = two * block.weights[1]
    names = parameters_of(term) or ()
    if "S0" in names:
        damping, undamped = damping + two, undamped - 2 * two
    if "Q" in names:
        undamped = undamped + damping
    by_logarithm = {
        "sigma": 2 * two,
        "S0": two,
        "w0": -undamped,
        "rho": undamped,
        "Q": damping,
        "tau": damping,
    }
    return [by_logarithm[name] / each for name, each in zip(names, numbers, strict=True)]
