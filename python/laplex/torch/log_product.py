"""`laplex.logmatvec`: products with the Laplace kernel whose values and results are logarithms.

The sums are scanned in the order of the anchors. What a scan carries is a pair (log scale, sum):
the largest term so far, and all terms relative to it. So no number leaves the range of its type,
however far the anchors are apart, and exponents are made of distances between neighbours.

The scales are constants of the derivatives, because the result does not depend on them. Neither
does the order: the scan runs over positions that are not differentiated, and the derivatives by
the anchors come from factors of 1 that move a source or a target from its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .._support.sides import LEFT, RIGHT, side_number
from .autograd import _recording, is_concrete
from .call import Scalar, call_of, check_operand, signature_of_shapes

_INF = float("inf")


_FAR = 1e300
"""A distance in lengthscales that stands for larger ones, too."""


class _Sums(NamedTuple):
    """Sums ``sum * exp(scale)``, where a scale of -inf goes with a sum of 0."""

    scale: Tensor
    sum: Tensor

    @classmethod
    def of(cls, values: Tensor, moved: Tensor | None = None) -> _Sums:
        """Sums of single values; `moved` is 0 and has derivatives."""
        scale = values.detach()
        leaves = cls(scale, (values - _finite(scale)).exp())
        return leaves if moved is None else leaves.times(moved)

    def map(self, function: Callable[[Tensor], Tensor]) -> _Sums:
        """Apply a function to both."""
        return _Sums(function(self.scale), function(self.sum))

    def times(self, log_factor: Tensor) -> _Sums:
        """Multiply by the exponential of something that is 0 and has derivatives."""
        return self._replace(sum=self.sum * log_factor.exp())

    def moved(self, steps: Tensor) -> _Sums:
        """Divide by the exponential of steps."""
        constant = steps.detach()
        return self._replace(scale=self.scale - constant).times(constant - steps)

    def where(self, condition: Tensor) -> _Sums:
        """Replace the others by empty sums."""
        return _Sums(self.scale.where(condition, -_INF), self.sum.where(condition, 0.0))

    def __add__(self, other: _Sums) -> _Sums:  # type: ignore[override]
        scale = torch.maximum(self.scale, other.scale)
        base = _finite(scale)
        one, two = (each.sum * (each.scale - base).exp() for each in (self, other))
        return _Sums(scale, one + two)

    def log(self) -> Tensor:
        """Return the logarithm, whose derivatives are 0 where it is -inf."""
        empty = self.sum == 0
        logarithm = self.scale + self.sum.masked_fill(empty, 1.0).log()
        return logarithm.masked_fill(empty, -_INF)


class _Logs(NamedTuple):
    """Sums by their logarithms alone, where nothing is differentiated; in a third of the time.

    In derivatives of ``logaddexp``, two empty sums would give NaN.
    """

    value: Tensor

    @classmethod
    def of(cls, values: Tensor, moved: Tensor | None = None) -> _Logs:
        """Sums of single values."""
        return cls(values)

    def map(self, function: Callable[[Tensor], Tensor]) -> _Logs:
        """Apply a function to the logarithms."""
        return _Logs(function(self.value))

    def times(self, log_factor: Tensor) -> _Logs:
        """Multiply by the exponential of something that is 0."""
        return self

    def moved(self, steps: Tensor) -> _Logs:
        """Divide by the exponential of steps."""
        return _Logs(self.value - steps)

    def where(self, condition: Tensor) -> _Logs:
        """Replace the others by empty sums."""
        return _Logs(self.value.where(condition, -_INF))

    def __add__(self, other: _Logs) -> _Logs:  # type: ignore[override]
        return _Logs(torch.logaddexp(self.value, other.value))

    def log(self) -> Tensor:
        """Return the logarithm."""
        return self.value


_AnySums = TypeVar("_AnySums", _Sums, _Logs)


def logmatvec(
    log_values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: Scalar = 1.0,
    side: str = "both",
) -> Tensor:
    r"""Multiply exponentials of values by the Laplace kernel, and take the logarithm.

    .. math::

        u_i = \log \sum_j e^{-|x_i - y_j| / \ell + w_j}

    The exponents are never formed as numbers of their own, so the result is right where the sum
    itself under- or overflows: it is the ``logsumexp`` of all pairs, in :math:`O((n + m) \log m)`.
    It has derivatives by every tensor to any order.

    It takes the Laplace kernel alone. The logarithm of a sum with a Matern kernel would need the
    moments of the distances beside each partial sum, with rules of their own for derivatives at
    ties. For those kernels, take the logarithm of `laplex.matvec`, where it does not underflow.

    Parameters
    ----------
    log_values : Tensor, shape ``[*b, m]``
        The logarithms :math:`w` of the values, real and of the anchors' precision; ``-inf`` stands
        for a value of 0.
    targets : Tensor, shape ``[*b, n]``
        The targets :math:`x`: float32 or float64, finite, in any order.
    sources : Tensor, shape ``[*b, m]``, optional
        The sources :math:`y`, like the targets. If it is not given, the targets are also the
        sources.
    lengthscale : float or Tensor, shape ``[*b]``
        The lengthscale, positive.
    side : {"both", "left", "right"}
        The sources that count for each target, as in `laplex.matvec`.

    Returns
    -------
    Tensor, shape ``[*b, n]``
        The logarithms :math:`u`. A result is ``-inf``, with derivatives 0, if all of its values are
        0 or there are no sources on its side.

    Raises
    ------
    TypeError
        If an argument is not a tensor, values are complex, or dtypes do not match.
    ValueError
        If shapes do not match, ``side`` is unknown, or numbers are out of range: anchors that are
        not finite, values that are NaN or ``inf``, a lengthscale that is not positive. In compiled
        code, under transforms and on a GPU, numbers are not looked at, and give NaN.

    Notes
    -----
    Sums are formed in double precision. The error of a result is a few units in the last place of
    the largest number among the result and its exponents :math:`|x_i - y_j| / \ell` and
    :math:`w_j`.

    A million points at random places take 0.6 s of one core, 1.3 s with derivatives by values and
    points, where `laplex.matvec` takes 0.08 s and 0.2 s: use it where the sums neither over- nor
    underflow. Results with and without derivatives differ by rounding.

    Derivatives follow the conventions of `laplex.matvec`: at :math:`x_i = y_j` they use
    sign(0) = 0, and the jump of a one-sided sum is not differentiated.

    With ``log_values`` of :math:`-\log(2 m \ell)`, the result is the log density of a kernel
    density estimate, also far from all of its points.

    Examples
    --------
    >>> import torch, laplex
    >>> points = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> far = torch.tensor([-900.0, 1000.0], dtype=torch.float64)
    >>> laplex.logmatvec(torch.zeros(2, dtype=torch.float64), far, points)
    tensor([-899.6867, -998.6867], dtype=torch.float64)
    """
    number = side_number(side)
    check_operand("log_values", log_values)
    call = call_of(log_values, targets, sources, lengthscale, 0.0, None, None, False, number)
    try:
        sig = signature_of_shapes(call)
    except (TypeError, ValueError) as error:  # which calls them by the name in laplex.matvec
        raise type(error)(re.sub(r"(?<!the )\bvalues\b", "log_values", str(error))) from None
    if log_values.is_complex() or log_values.dtype is not targets.dtype:
        raise TypeError(
            f"log_values has dtype {log_values.dtype}, but must be real and of the anchors' dtype: "
            f"pass log_values.to({targets.dtype})"
        )
    ell = call.lengthscale.double().unsqueeze(-1)
    y = call.targets if call.sources is None else call.sources
    tensors = (call.values, call.targets, y, ell)
    readable = all(map(is_concrete, tensors))
    if readable:
        _check_numbers(*tensors)
    if sig.sources == 0:
        return log_values.new_full(sig.shape, -_INF)
    values, x, y = (
        each.double().expand(*sig.batch, each.shape[-1]) for each in (call.values, call.targets, y)
    )
    places, order = y.detach().sort(stable=True)
    # In their order, targets are found among the sources, and read what they find, much faster.
    at, rank = (places, order) if call.sources is None else x.detach().sort(stable=True)
    values, moved = values.gather(-1, order), (y.gather(-1, order) - places) / ell
    x = x.gather(-1, rank)
    below, upto = (torch.searchsorted(places, at, right=right) for right in (False, True))
    sums: Callable[..., Any] = _Sums.of if not readable or _recording(tensors) else _Logs.of
    # Tied sources neither move with their own places nor with the targets': sign(0) = 0.
    total = sums(values)
    if not (readable and bool((places[..., 1:] > places[..., :-1]).all())):
        total = _scan(total, places, _of_one_place)
    total = _last(total, upto).where(upto > below)
    if number != RIGHT:
        left = _at_targets(sums(values, moved), places, at, below, _over(ell))
        total = total + left.times((at - x) / ell)
    if number != LEFT:
        mirrored = sums(values.flip(-1), -moved.flip(-1))
        above = places.shape[-1] - upto
        right = _at_targets(mirrored, -places.flip(-1), -at, above, _over(ell))
        total = total + right.times((x - at) / ell)
    result = total.log()
    return torch.zeros_like(result).scatter(-1, rank, result).to(log_values.dtype)


def _check_numbers(log_values: Tensor, x: Tensor, y: Tensor, lengthscale: Tensor) -> None:
    if not bool((log_values < _INF).all()):
        raise ValueError("log_values must be finite or -inf, but some are NaN or inf")
    for name, anchors in (("targets", x), ("sources", y)):
        if not bool(anchors.isfinite().all()):
            raise ValueError(f"{name} must be finite, but some are NaN or infinite")
    if not bool(((lengthscale > 0) & (lengthscale < _INF)).all()):
        raise ValueError("lengthscale must be positive and finite")


Moves = Callable[[Any, Tensor], Any]
"""What becomes of sums on their way over distances along the line, which are not negative."""


def _over(lengthscale: Tensor) -> Moves:
    """Take distances in lengthscales, so large at most that their differences are numbers."""
    largest = (_FAR * lengthscale.detach()).clamp_max(torch.finfo(lengthscale.dtype).max)
    return lambda sums, distance: sums.moved(torch.minimum(distance, largest) / lengthscale)


def _of_one_place(sums: _AnySums, distance: Tensor) -> _AnySums:
    """Leave only what is at the same place."""
    return sums.where(distance == 0)


def _at_targets(
    leaves: _AnySums, places: Tensor, at: Tensor, counts: Tensor, move: Moves
) -> _AnySums:
    """The sums of the first `counts` leaves, whose places ascend, as they come to `at`."""
    last = (counts - 1).clamp_min(0)
    distance = (at - places.gather(-1, last)).clamp_min(0)
    sums: _AnySums = move(_last(_scan(leaves, places, move), counts), distance)
    return sums.where(counts > 0)


def _last(sums: _AnySums, counts: Tensor) -> _AnySums:
    """The last of the first `counts` sums."""
    last = (counts - 1).clamp_min(0)
    return sums.map(lambda each: each.gather(-1, last))


def _scan(sums: _AnySums, places: Tensor, move: Moves) -> _AnySums:
    """The sum at each place of what is there and before it: first of pairs, then of the others."""
    size = places.shape[-1]
    if size == 1:
        return sums
    half, rest = size // 2, (size - 1) // 2
    odd_places = places[..., 1::2]
    first = sums.map(lambda each: each[..., : 2 * half : 2])
    pairs = move(first, odd_places - places[..., : 2 * half : 2])
    odd = _scan(pairs + sums.map(lambda each: each[..., 1::2]), odd_places, move)
    before = odd.map(lambda each: each[..., :rest])
    later = move(before, places[..., 2::2] - odd_places[..., :rest])
    later = later + sums.map(lambda each: each[..., 2::2])

    def interleaved(first: Tensor, later: Tensor, odd: Tensor) -> Tensor:
        even = torch.cat((first[..., :1], later), -1)
        both = torch.stack((even[..., :half], odd), -1).flatten(-2)
        return both if size == 2 * half else torch.cat((both, even[..., half:]), -1)

    return type(sums)(*map(interleaved, sums, later, odd))


def _finite(scale: Tensor) -> Tensor:
    """The scale to which sums are reduced: 0 in place of that of an empty sum."""
    return scale.masked_fill(scale == -_INF, 0.0)
