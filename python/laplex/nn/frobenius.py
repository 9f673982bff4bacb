"""The Frobenius norm of a scaled Laplace kernel, whose squared entries form kernels again."""

from __future__ import annotations

from torch import Tensor

from laplex.torch.functional import matvec


def frobenius_norms(
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    source_factor: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
) -> Tensor:
    r"""Compute the Frobenius norm of Re(K_h) diag(s_h) for every head exactly, in O(n log n).

    .. math::
        (e^{-d/\ell} \cos(\theta - \phi))^2
        = \tfrac12 e^{-d/(\ell/2)} + \tfrac12 e^{-d/(\ell/2)} \cos(2\theta - 2\phi)

    so the sum over all entries takes one or two products with kernels of half the lengthscale.

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

    Returns
    -------
    Tensor ``[heads]``
        The norms, differentiable.
    """
    energy = source_factor.to(sources.dtype).square()
    half = lengthscale / 2
    total: Tensor = matvec(energy, targets, sources, lengthscale=half).sum(-1)
    if target_phase is None or source_phase is None:
        return total.sqrt()
    doubled: Tensor = matvec(
        energy,
        targets,
        sources,
        lengthscale=half,
        target_phase=2 * target_phase,
        source_phase=2 * source_phase,
        real_part=True,
    ).sum(-1)
    return ((total + doubled) / 2).sqrt()
