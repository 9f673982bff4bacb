"""The Frobenius norm of a scaled kernel, whose squared entries form kernels again."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from laplex.nn.kernel_shape import KernelShape
from laplex.torch.call import call_of
from laplex.torch.functional import product


def frobenius_norms(
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    source_factor: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    shape: KernelShape,
) -> Tensor:
    r"""Compute the Frobenius norm of Re(K_h) diag(s_h) for every head exactly, in O(n log n).

    .. math::
        (e^{-d/\ell} \cos(\theta - \phi))^2
        = \tfrac12 e^{-d/(\ell/2)} + \tfrac12 e^{-d/(\ell/2)} \cos(2\theta - 2\phi)

    so the sum over all entries takes one or two products with kernels of half the lengthscale. The
    polynomial of a Matern kernel is squared, too.

    Parameters
    ----------
    targets, sources : Tensor ``[heads, n]``, Tensor ``[heads, m]``
        The anchors.
    lengthscale : Tensor ``[heads]``
        The lengthscales.
    source_factor : Tensor ``[heads, m]``
        The factors :math:`s_h`.
    target_phase, source_phase : Tensor ``[heads, n]``, Tensor ``[heads, m]``, or both None
        The phases.
    shape : KernelShape
        The kernel, and the sources that count for each target.

    Returns
    -------
    Tensor ``[heads]``
        The norms, differentiable.
    """
    energy = source_factor.to(sources.dtype).square()
    profile = shape.profile
    squared = np.polynomial.polynomial.polymul(profile.polynomial, profile.polynomial)
    # In powers of the distance over half of the length.
    polynomial = tuple(float(c) / 2**power for power, c in enumerate(squared))

    def total(theta: Tensor | None, phi: Tensor | None) -> Tensor:
        half = lengthscale / 2 if profile.root == 1.0 else lengthscale.double() / 2 / profile.root
        cosine = theta is not None
        call = call_of(energy, targets, sources, half, 0.0, theta, phi, cosine, shape.number)
        return product(call._replace(parity=profile.parity, polynomial=polynomial)).sum(-1)

    alone = total(None, None)
    if target_phase is None or source_phase is None:
        return alone.sqrt()
    return ((alone + total(2 * target_phase, 2 * source_phase)) / 2).sqrt()
