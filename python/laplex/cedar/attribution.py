"""What each axis contributes to a result of a network, by gradients and by trying it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laplex._support.text_tables import aligned

from .settings import whole
from .steering import module_of

if TYPE_CHECKING:
    from .estimator import CEDAR
    from .module import CedarModule


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Result of `attribute`: how much each axis contributes to the change of a metric.

    Attributes
    ----------
    effects : Tensor [..., axes]
        The effect of each axis for each vector.
    error : Tensor [...]
        The effect of the part of each vector that its code omits.
    before, after : float
        The metric of z and that of the vectors that replace it.
    """

    effects: Tensor
    error: Tensor
    before: float
    after: float

    @property
    def by_axis(self) -> Tensor:
        """The effect of each axis on all vectors together [axes]."""
        return self.effects.reshape(-1, self.effects.shape[-1]).sum(0)

    @property
    def unexplained(self) -> float:
        """The change of the metric that the effects do not add up to: 0 if it is linear."""
        return self.after - self.before - float(self.by_axis.sum() + self.error.sum())

    def table(self, n: int = 10) -> str:
        """Return a text table of the axes with the largest effects.

        Parameters
        ----------
        n : int
            Number of axes, at least 1.
        """
        effects = self.by_axis
        order = effects.abs().argsort(descending=True, stable=True)[: whole("n", n)].tolist()
        body = [[str(axis), f"{float(effects[axis]):+.4g}"] for axis in order]
        body.append(["error", f"{float(self.error.sum()):+.4g}"])
        return f"{self!r}\n{aligned(['axis', 'effect'], body, rule='none')}"

    def __repr__(self) -> str:
        return (
            f"metric {self.before:.4g} -> {self.after:.4g}: axes {float(self.by_axis.sum()):+.4g}, "
            f"error {float(self.error.sum()):+.4g}, not linear {self.unexplained:+.4g}"
        )


def attribute(
    cedar: CEDAR | CedarModule,
    z: Tensor,
    metric: Callable[[Tensor], Tensor],
    *,
    patch: Tensor | None = None,
    steps: int = 1,
) -> Attribution:
    r"""Attribute the change of a metric to the axes, by gradients.

    A vector is the reconstruction from its code plus an error, :math:`z = b + \sum_i s_i a_i +
    e`. Replaced by another vector with code s' and error e', it changes the metric m by about

    .. math::
        m(z') - m(z) \approx \sum_i \frac{\partial m}{\partial s_i}\,(s'_i - s_i)
        + \frac{\partial m}{\partial e} \cdot (e' - e)

    The effect of axis i is its term of the sum; the error has a term of its own. This is
    attribution patching on codes, as in "Sparse Feature Circuits" (Marks et al., arXiv
    2403.19647). With several steps the gradients are averaged along the line from z to z'
    (integrated gradients, Sundararajan et al., arXiv 1703.01365), at the midpoints of equal parts.
    If the metric is linear, the terms add up to its change.

    Parameters
    ----------
    cedar : CEDAR or CedarModule
        A fitted model.
    z : Tensor [..., d]
        The vectors.
    metric : callable
        Takes vectors like z and returns one number with gradients. For a layer of a network,
        `split_at` gives z and the metric.
    patch : Tensor [..., d], optional
        The vectors z' that replace z. By default all are the centre b, with neither a code nor an
        error: the effects are then those of leaving axes out.
    steps : int
        Number of gradients. One is the gradient at z.

    Returns
    -------
    Attribution

    Raises
    ------
    ValueError
        If z or ``patch`` do not have d columns or differ in shape, or the metric returns more than
        one number or one that is not finite, or does not depend on z.
    TypeError
        If z or ``patch`` is not a Tensor of a floating type.
    """
    steps = whole("steps", steps)
    module = module_of(cedar)
    z = _vectors("z", z)
    codes, error = _parts(module, z)
    other_codes, other_error, patch = _replacement(module, z, patch)
    slopes, error_slopes = torch.zeros_like(codes), torch.zeros_like(error)
    for step in range(steps):
        at = 0.0 if steps == 1 else (step + 0.5) / steps
        s = (codes + at * (other_codes - codes)).requires_grad_()
        e = (error + at * (other_error - error)).requires_grad_()
        with torch.enable_grad():
            value = _one_number(metric((module.decode(s) + e).to(z.dtype)))
            if not value.requires_grad:
                raise ValueError(
                    "metric must depend on its argument, with gradients: compute it from there, "
                    "without detach or no_grad"
                )
            found = torch.autograd.grad(value, (s, e))
        slopes += found[0] / steps
        error_slopes += found[1] / steps
    with torch.no_grad():
        before, after = float(_one_number(metric(z))), float(_one_number(metric(patch)))
    return Attribution(
        slopes * (other_codes - codes),
        (error_slopes * (other_error - error)).sum(-1),
        before,
        after,
    )


def measure_effects(
    cedar: CEDAR | CedarModule,
    z: Tensor,
    metric: Callable[[Tensor], Tensor],
    axes: Iterable[int],
    *,
    patch: Tensor | None = None,
) -> Tensor:
    r"""Measure the effect of axes on a metric by patching one after the other.

    .. math:: m(z + (s'_i - s_i)\, a_i) - m(z)

    This is what `attribute` estimates for all axes together: check it for the axes that matter.

    Parameters
    ----------
    cedar, z, metric
        As for `attribute`; the metric needs no gradients.
    axes : iterable of int
        The axes; each costs a call of the metric.
    patch : Tensor [..., d], optional
        As for `attribute`.

    Returns
    -------
    Tensor [m]
        The effect of each axis on all vectors together.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `attribute`, and if ``axes`` are not numbers of axes.
    """
    module = module_of(cedar)
    z = _vectors("z", z)
    if not isinstance(axes, Iterable):
        raise TypeError(f"axes must be a list of numbers of axes, got {axes!r}: pass [{axes!r}]")
    with torch.no_grad():
        codes, _ = _parts(module, z)
        axes = [_axis(axis, codes.shape[-1]) for axis in axes]
        other_codes, _, _ = _replacement(module, z, patch)
        before = _one_number(metric(z))
        effects = []
        for axis in axes:
            step = torch.zeros_like(codes)
            step[..., axis] = (other_codes - codes)[..., axis]
            moved = z + (module.decode(step) - module.mean).to(z.dtype)
            effects.append(_one_number(metric(moved)) - before)
        return torch.stack(effects) if effects else before.new_zeros(0)


@torch.no_grad()
def _parts(module: CedarModule, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code and the error of vectors."""
    codes = module.encode(z)
    return codes, z - module.decode(codes)


def _replacement(
    module: CedarModule, z: Tensor, patch: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the code and the error of what replaces z, and the vectors themselves."""
    if patch is None:
        nothing = torch.zeros_like(z, dtype=module.mean.dtype)
        no_code = nothing.new_zeros(*z.shape[:-1], module.axes)
        return no_code, nothing, module.mean.to(z.dtype).expand(z.shape)
    patch = _vectors("patch", patch)
    if patch.shape != z.shape:
        raise ValueError(
            f"patch must have the shape of z, {list(z.shape)}, got {list(patch.shape)}"
        )
    return *_parts(module, patch), patch


def _vectors(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{name} must be a Tensor of a floating type, got {got}: pass "
            f"torch.as_tensor({name}).float()"
        )
    return value.detach()


def _axis(axis: Any, count: int) -> int:
    try:
        place = operator.index(axis)
    except TypeError:
        raise TypeError(f"axes must be integers, got {axis!r}") from None
    if not 0 <= place < count:
        raise IndexError(f"axis {place} is not one of 0..{count - 1}")
    return place


def _one_number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"metric must return a Tensor with one number, got {got}: sum it over the vectors"
        )
    if not bool(value.isfinite()):
        raise ValueError(f"metric must return a finite number, got {value.item()}")
    return value.reshape(())
