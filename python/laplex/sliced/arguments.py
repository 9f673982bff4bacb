"""The arguments that the functions of this package share, and their checks."""

from __future__ import annotations

import math
from numbers import Real
from operator import index
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._support.arguments import integer, kernel_number, one_of
from ..torch.autograd import is_concrete
from ..torch.call import COMPLEX_OF, check_flag, check_tensor
from .directions import GROUPS, KINDS, Rule, draw_rules
from .line_kernel import LineKernel, line_kernel

Kernel = Literal["laplace", "matern32", "energy"]

SCALE = {"laplace": 1.0, "matern32": math.sqrt(3.0), "energy": 1.0}
"""The factor of r / lengthscale in each kernel."""


class Slices(NamedTuple):
    """A kernel on a line, and the lines."""

    kernel: LineKernel
    rules: list[Rule]
    """Independent rules of the points' dtype and device, in the dimension of embedded points."""


def check_points(name: str, points: Any, like: Tensor | None = None, like_name: str = "") -> None:
    """Refuse anything but points ``[n, d]`` in float32 or float64; if given, as another tensor."""
    check_tensor(name, points)
    if points.dim() != 2 or points.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape [n, d], one point a row, got {tuple(points.shape)}"
        )
    if points.dtype not in COMPLEX_OF:
        raise TypeError(f"{name} must be float32 or float64, got {points.dtype}")
    if is_concrete(points) and not bool(points.isfinite().all()):
        row = int((~points.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"{name} must be finite, but point {row} is {points[row].tolist()}")
    if like is None:
        return
    if points.shape[1] != like.shape[1]:
        raise ValueError(
            f"{name} has points of {points.shape[1]} coordinates, but {like_name} of "
            f"{like.shape[1]}"
        )
    check_like(name, points, like, like_name)


def check_values(values: Any, count: int, points: Tensor, points_name: str) -> None:
    """Refuse values that are not one number a source."""
    check_tensor("values", values)
    if values.dim() == 0 or values.shape[-1] != count:
        raise ValueError(
            f"values must have shape [*b, m] with m = {count}, one number a point of "
            f"{points_name}, got {tuple(values.shape)}"
        )
    check_like("values", values.real if values.is_complex() else values, points, points_name)


def check_weights(name: str, weights: Any, points: Tensor, points_name: str) -> Tensor:
    """Return weights ``[n]`` divided by their sum; all the same if none are given."""
    if weights is None:
        return points.new_full((len(points),), 1 / max(len(points), 1))
    weights = check_distribution(name, weights, points, points_name)
    weights = weights / weights.detach().amax()  # the sum of large numbers would overflow
    shares: Tensor = weights / weights.sum()
    return shares


def check_distribution(name: str, weights: Any, points: Tensor, points_name: str) -> Tensor:
    """Refuse anything but weights ``[n]`` of at least 0, of which one is more."""
    check_tensor(name, weights)
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"{name} must have shape [{len(points)}], one number a point of {points_name}, got "
            f"{tuple(weights.shape)}"
        )
    check_like(name, weights, points, points_name)
    if is_concrete(weights):
        if not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError(f"{name} must be at least 0 and finite, but some are not")
        if not bool((weights > 0).any()):
            raise ValueError(f"{name} must have an entry above 0, but all are 0")
    checked: Tensor = weights
    return checked


def check_like(name: str, tensor: Tensor, like: Tensor, like_name: str) -> None:
    """Refuse another dtype or device than that of a tensor."""
    if tensor.dtype is not like.dtype:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}, but {like_name} has {like.dtype}: convert one of "
            "them"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"{name} is on {tensor.device}, but {like_name} is on {like.device}: move one of them"
        )


def check_kernel(kernel: Any, allowed: Any = Kernel) -> str:
    """Return the name of a kernel, or refuse it."""
    name: str = one_of("kernel", kernel, allowed)
    return name


def scaled(
    lengthscale: float | Tensor, kernel: str, targets: Tensor, sources: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Points in units of the kernel's lengthscale, from the mean of the targets.

    Small coordinates keep more digits. Kernels do not depend on the origin: it has no derivative.
    """
    origin = (targets.detach() / max(len(targets), 1)).sum(0)  # a sum of large ones would overflow
    factor = SCALE[kernel] / lengthscale
    both = [None if each is None else (each - origin) * factor for each in (targets, sources)]
    for each in both:
        # No projection is above the sum of a point's coordinates.
        if each is not None and is_concrete(each) and not bool(each.abs().sum(1).isfinite().all()):
            raise ValueError(
                f"points divided by the lengthscale exceed the range of {each.dtype}: pass points "
                "of another unit, or a larger lengthscale"
            )
    return both[0], both[1]  # type: ignore[return-value]


def projections_of(points: Tensor, directions: Tensor) -> Tensor:
    """The places ``[H, n]`` of points on the lines; embedded points have coordinates 0 more."""
    return directions[:, : points.shape[1]] @ points.T


def check_lengthscale(lengthscale: Any, points: Tensor, points_name: str) -> float | Tensor:
    """Return a positive number, or a tensor ``[]`` or ``[d]`` of the points' dtype.

    A tensor of one number may have any number of dimensions, as those of GPyTorch have.
    """
    if not isinstance(lengthscale, Tensor):
        if isinstance(lengthscale, bool) or not isinstance(lengthscale, Real):
            raise TypeError(
                f"lengthscale must be a number or a torch tensor, got {type(lengthscale).__name__}"
            )
        kernel_number("lengthscale", float(lengthscale))
        return float(lengthscale)
    if lengthscale.numel() == 1:
        lengthscale = lengthscale.reshape(())
    if lengthscale.shape not in ((), points.shape[1:]):
        raise ValueError(
            f"lengthscale must be a number or have shape [{points.shape[1]}], one number a "
            f"coordinate, got {tuple(lengthscale.shape)}"
        )
    if lengthscale.dtype not in COMPLEX_OF:
        raise TypeError(f"lengthscale must be float32 or float64, got {lengthscale.dtype}")
    if lengthscale.dim() > 0 and lengthscale.device != points.device:
        check_like("lengthscale", lengthscale.to(points.dtype), points, points_name)
    converted: Tensor = lengthscale.to(points.dtype)
    if is_concrete(lengthscale) and not bool(((converted > 0) & converted.isfinite()).all()):
        raise ValueError(
            f"lengthscale must be positive and finite in {points.dtype}, got {lengthscale.tolist()}"
        )
    return converted


def slices_of(
    kernel: str,
    points: Tensor,
    projections: Any,
    directions: Any,
    generator: Any,
    return_error: Any,
) -> Slices:
    """Check what selects the directions, and draw them."""
    check_flag("return_error", return_error)
    dimension = index(points.shape[1])  # a number even while a compiler traces
    line = line_kernel(kernel, dimension)
    if isinstance(directions, Tensor):
        directions = _given_directions(directions, line.dimension, dimension)
        parts = min(GROUPS, len(directions)) if return_error else 1
        rules = [Rule.of(part) for part in directions.tensor_split(parts)]
    else:
        if not isinstance(directions, str) or directions not in KINDS:
            raise ValueError(
                f"directions must be one of {KINDS} or a tensor [P, d], got {directions!r}"
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator or None, got {type(generator).__name__}"
            )
        if isinstance(projections, bool):
            raise TypeError(f"projections must be an integer, got {projections}")
        count = integer("projections", projections)
        parts = min(GROUPS, count) if return_error else 1
        rules = draw_rules(directions, count, line.dimension, generator, parts)
    if return_error and dimension > 1 and len(rules) < 2:
        raise ValueError(
            "return_error needs at least 2 directions, got 1: the error is their spread"
        )
    return Slices(line, [rule.to(points) for rule in rules])


def _given_directions(directions: Tensor, sphere: int, dimension: int) -> Tensor:
    if directions.dim() != 2 or len(directions) == 0 or directions.shape[1] != sphere:
        embedded = "" if sphere == dimension else f" (points [n, {dimension}] are embedded)"
        raise ValueError(
            f"directions must have shape [P, {sphere}]{embedded}, got {tuple(directions.shape)}"
        )
    if not directions.is_floating_point():
        raise TypeError(f"directions must be float32 or float64, got {directions.dtype}")
    directions = directions.detach()
    if is_concrete(directions):
        lengths = directions.double().norm(dim=1)
        if not bool(((lengths - 1).abs() < 1e-3).all()):
            raise ValueError(
                "directions must have length 1: pass torch.nn.functional.normalize(directions)"
            )
    return directions
