"""Frobenius norm of a scaled Laplace kernel: squaring the entries stays in the class of kernels."""

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
    r"""Frobenius norm of Re(K_h) diag(s_h) for every head, exactly and in O(n log n).

    .. math::
        (e^{-d/\ell} \cos(\theta - \phi))^2
        = \tfrac12 e^{-d/(\ell/2)} + \tfrac12 e^{-d/(\ell/2)} \cos(2\theta - 2\phi)

    so the sum over entries is one or two products with kernels of half the lengthscale.

    Parameters
    ----------
    targets, sources : Tensor [heads, n], [heads, m]
    lengthscale : Tensor [heads]
    source_factor : Tensor [heads, m]
        :math:`s_h`.
    target_phase, source_phase : Tensor [heads, n], [heads, m], or both None

    Returns
    -------
    Tensor [heads], differentiable
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
