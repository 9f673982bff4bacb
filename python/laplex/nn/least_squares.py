"""The least-squares fit of a sum of kernels to a matrix, as a start for training."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laplex._support.progress import Report
from laplex.nn.kernel_product import cosines
from laplex.nn.kernel_shape import KernelShape

#: The number of places tried for each anchor, and of angles for each target's phase.
PLACES = 64
ANGLES = 48
#: The passes over the heads in a round, and the steps of Adam that follow them. Measured on five
#: matrices, four rounds of 3 and 75 end with an error up to a fifth lower than one of 3 and 300.
PASSES = 3
STEPS = 75
LEARNING_RATE = 0.03
#: The factors by which each pass tries to change a head's lengthscale.
STRETCHES = (0.7, 1.0, 1.4)
#: The smallest initial amplitude of a row relative to the largest, about five lengthscales.
LEAST_AMPLITUDE = 5e-3


@dataclass
class KernelSum:
    r"""The matrix :math:`\sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(s_h)` with n rows and m columns.

    ``targets`` and ``target_phase`` have shape ``[heads, n]``; ``sources``, ``source_phase`` and
    ``factor`` have shape ``[heads, m]``; ``log_lengthscale`` has shape ``[heads]``. ``shape`` says
    which kernels they are.
    """

    targets: Tensor
    sources: Tensor
    log_lengthscale: Tensor
    target_phase: Tensor
    source_phase: Tensor
    factor: Tensor
    shape: KernelShape

    @property
    def heads(self) -> int:
        """The number of kernels."""
        return self.targets.shape[0]

    def kernel(self, head: int) -> Tensor:
        """Return Re(K_h), a tensor [n, m]."""
        lengthscale = self.log_lengthscale[head].exp()
        modulus = self.shape.matrix(self.targets[head], self.sources[head], lengthscale)
        return modulus * cosines(self.target_phase[head], self.source_phase[head])

    def part(self, head: int) -> Tensor:
        """Return Re(K_h) diag(s_h), a tensor [n, m]."""
        return self.kernel(head) * self.factor[head]


def nearest_kernels(
    weight: Tensor, heads: int, *, phased: bool, rounds: int, report: Report, shape: KernelShape
) -> KernelSum:
    r"""Fit :math:`\sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(s_h)` to a matrix, by descent.

    The fit starts at the truncated singular value decomposition. With all sources at one place
    below all targets, the columns of every kernel are equal, and its rows can have any positive
    amplitudes. A head with phases can therefore be any matrix of rank 2; a head without phases can
    be any matrix of rank 1 whose rows do not differ in sign.

    The descent then alternates between two kinds of moves. The first moves the sources of one head,
    each column to the best of `PLACES` places with its best phase and factor, and then its targets
    in the same way, for several lengthscales. The second moves all heads together by Adam, with the
    factors at their least-squares optimum (variable projection, which is separable by columns).
    Every accepted move lowers the error. No random numbers are drawn.

    Parameters
    ----------
    weight : Tensor ``[n, m]``
        The matrix: float32 or float64, finite, scaled so that its entries are about 1 or smaller.
    heads : int
        The number of kernels.
    phased : bool
        Fit the phases as well; otherwise they are 0.
    rounds : int
        The number of rounds; 0 keeps the start.
    report : Report
        Called before and after each round.
    shape : KernelShape
        Which kernels to fit.

    Returns
    -------
    KernelSum
        The fit. Sources of Laplace kernels of both sides lie between the outermost targets.
    """
    if shape.side == "right":  # the mirror image of a fit to the left
        fit = nearest_kernels(
            weight,
            heads,
            phased=phased,
            rounds=rounds,
            report=report,
            shape=shape._replace(side="left"),
        )
        return replace(fit, targets=-fit.targets, sources=-fit.sources, shape=shape)
    fit = _singular_start(weight, heads, phased, shape)
    for done in range(rounds):
        report("fit", done, rounds, "")
        for _ in range(PASSES):
            for head in range(heads):
                fit = _best_head(weight, fit, head, phased)
        _descend(weight, fit, phased)
        report("fit", done + 1, rounds, f"error {relative_error(weight, fit):.3f}")
    if shape == KernelShape():
        _draw_in(fit)
    return fit


def relative_error(weight: Tensor, fit: KernelSum) -> float:
    """Return the Frobenius norm of the difference relative to the weight's; 0 if that is 0."""
    norm = torch.linalg.norm(weight).clamp(min=torch.finfo(weight.dtype).tiny)
    return float(torch.linalg.norm(_residual(weight, fit)) / norm)


def _residual(weight: Tensor, fit: KernelSum, without: int | None = None) -> Tensor:
    """Return the weight minus the parts of all heads, or of all heads but one."""
    rest = weight.clone()
    for head in range(fit.heads):
        if head != without:
            rest -= fit.part(head)
    return rest


def _singular_start(weight: Tensor, heads: int, phased: bool, shape: KernelShape) -> KernelSum:
    """Start each head at two singular triples, or at one without phases."""
    n, m = weight.shape
    take = 2 if phased else 1
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    missing = max(take * heads - len(s), 0)
    u = torch.nn.functional.pad(u, (0, missing))
    s = torch.nn.functional.pad(s, (0, missing))
    v = torch.nn.functional.pad(vh.mT, (0, missing))
    fit = KernelSum(
        targets=weight.new_zeros(heads, n),
        sources=weight.new_full((heads, m), -1.0),
        log_lengthscale=weight.new_zeros(heads),
        target_phase=weight.new_zeros(heads, n),
        source_phase=weight.new_zeros(heads, m),
        factor=weight.new_zeros(heads, m),
        shape=shape,
    )
    for head in range(heads):
        triples = slice(take * head, take * (head + 1))
        rows, columns = u[:, triples], v[:, triples] * s[triples]
        if phased:
            amplitude, factor = (torch.linalg.norm(each, dim=1) for each in (rows, columns))
            fit.target_phase[head] = torch.atan2(rows[:, 1], rows[:, 0])
            fit.source_phase[head] = torch.atan2(columns[:, 1], columns[:, 0])
        else:
            up, down = rows.clamp(min=0), rows.clamp(max=0)
            sign = 1.0 if up.square().sum() >= down.square().sum() else -1.0
            amplitude, factor = (rows[:, 0] * sign).clamp(min=0), columns[:, 0] * sign
        largest = amplitude.max().clamp(min=torch.finfo(weight.dtype).tiny)
        depth = _depth((amplitude / largest).clamp(min=LEAST_AMPLITUDE), shape)
        span = depth.max().clamp(min=1.0)
        fit.targets[head] = 2 * depth / span - 1  # on [-1, 1], as the anchors of other layers
        fit.log_lengthscale[head] = torch.log(2 / span)
        fit.factor[head] = factor * largest
    return fit


def _depth(amplitude: Tensor, shape: KernelShape) -> Tensor:
    """The distances in lengthscales, at most 10, at which the kernel has some amplitudes."""
    if shape.kernel == "matern12":
        return -amplitude.log()
    low, high = torch.zeros_like(amplitude), torch.full_like(amplitude, 10.0)
    for _ in range(-math.frexp(torch.finfo(amplitude.dtype).eps)[1]):  # bisection, to rounding
        middle = (low + high) / 2
        is_near = shape.matrix(middle, middle.new_zeros(1), middle.new_ones(()))[:, 0] > amplitude
        low, high = torch.where(is_near, middle, low), torch.where(is_near, high, middle)
    return low


def _best_head(weight: Tensor, fit: KernelSum, head: int, phased: bool) -> KernelSum:
    """Move one head's anchors, with the best of several lengthscales."""
    rest = _residual(weight, fit, without=head)
    best, least = fit, math.inf
    for stretch in STRETCHES:
        tried = copy.deepcopy(fit)
        if stretch != 1.0:
            tried.log_lengthscale[head] += math.log(stretch)
            tried.factor[head] = 0  # so that every column gets a new place
        _move_sources(rest, tried, head, phased)
        _move_targets(rest, tried, head, phased)
        _move_sources(rest, tried, head, phased)
        error = float(torch.linalg.norm(rest - tried.part(head)))
        if error < least:
            best, least = tried, error
    return best


def _move_sources(rest: Tensor, fit: KernelSum, head: int, phased: bool) -> None:
    """Give each column the best place among the targets, with its best phase and factor.

    At a place y a column is ``e^{-|x_i - y|/ell} (a cos(theta_i) + b sin(theta_i))``: a
    least-squares problem in a and b that all columns share.
    """
    targets, phase = fit.targets[head], fit.target_phase[head]
    lengthscale = fit.log_lengthscale[head].exp()
    share = torch.linspace(0, 1, PLACES, dtype=rest.dtype, device=rest.device)
    places = torch.quantile(targets, share)
    kernel = fit.shape.matrix(targets, places, lengthscale).mT.contiguous()
    waves = (
        torch.stack([phase.cos(), phase.sin()], -1) if phased else torch.ones_like(phase[:, None])
    )
    basis = kernel[..., None] * waves  # [places, n, 1 or 2]
    gram = basis.mT @ basis
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    # If few rows are near, or all have one phase, cos and sin may be linearly dependent.
    ridge = 8 * torch.finfo(rest.dtype).eps * size + torch.finfo(rest.dtype).tiny
    gram += torch.diag_embed(ridge[:, None].expand(-1, gram.shape[-1]))
    moments = basis.mT @ rest  # [places, 1 or 2, m]
    solution = torch.linalg.solve(gram, moments)
    gained, place = (moments * solution).sum(1).max(0)
    chosen = solution[place, :, torch.arange(rest.shape[1], device=rest.device)].mT
    before = rest.square().sum(0) - (rest - fit.part(head)).square().sum(0)
    better = gained > before
    factor = torch.linalg.norm(chosen, dim=0) if phased else chosen[0]
    fit.sources[head] = torch.where(better, places[place], fit.sources[head])
    fit.factor[head] = torch.where(better, factor, fit.factor[head])
    if phased:
        angle = torch.atan2(chosen[1], chosen[0])
        fit.source_phase[head] = torch.where(better, angle, fit.source_phase[head])


def _move_targets(rest: Tensor, fit: KernelSum, head: int, phased: bool) -> None:
    """Move each row to its best place among the sources or beside them, with its best phase."""
    sources, phase = fit.sources[head], fit.source_phase[head]
    lengthscale = fit.log_lengthscale[head].exp()
    both = torch.cat([sources, fit.targets[head]])
    share = torch.linspace(0, 1, PLACES // 2, dtype=rest.dtype, device=rest.device)
    lowest, highest = both.min() - lengthscale, both.max() + lengthscale
    places = torch.cat([torch.quantile(sources, share), lowest + (highest - lowest) * share])
    modulus = fit.shape.matrix(places, sources, lengthscale) * fit.factor[head]
    if phased:
        basis = modulus[..., None] * torch.stack([phase.cos(), phase.sin()], -1)
        angles = 2 * math.pi / ANGLES * torch.arange(ANGLES, device=rest.device) - math.pi
        angles = angles.to(rest.dtype)
    else:
        basis, angles = modulus[..., None], rest.new_zeros(1)
    units = torch.stack([angles.cos(), angles.sin()])[: basis.shape[-1]]  # [1 or 2, angles]
    moments = torch.einsum("nm,pmk->npk", rest, basis)
    energy = torch.einsum("ka,pkl,la->pa", units, basis.mT @ basis, units)
    gained, index = (2 * moments @ units - energy).flatten(1).max(1)
    before = rest.square().sum(1) - (rest - fit.part(head)).square().sum(1)
    better = gained > before
    place = places[torch.div(index, len(angles), rounding_mode="floor")]
    fit.targets[head] = torch.where(better, place, fit.targets[head])
    if phased:
        angle = angles[index % len(angles)]
        fit.target_phase[head] = torch.where(better, angle, fit.target_phase[head])


def _best_factors(weight: Tensor, kernels: Tensor) -> Tensor:
    """Solve for the factors [heads, m] by least squares, with one unknown per head and column."""
    gram = torch.einsum("hnm,gnm->mhg", kernels, kernels)
    moments = torch.einsum("hnm,nm->mh", kernels, weight)
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    ridge = 8 * torch.finfo(weight.dtype).eps * size + torch.finfo(weight.dtype).tiny
    gram += torch.diag_embed(ridge[:, None].expand(-1, gram.shape[-1]))
    solution: Tensor = torch.linalg.solve(gram, moments)
    return solution.mT.contiguous()


def _descend(weight: Tensor, fit: KernelSum, phased: bool) -> None:
    """Move the geometry of all heads by Adam, and keep the best step."""
    names = ["targets", "sources", "log_lengthscale"]
    names += ["target_phase", "source_phase"] if phased else []
    geometry = [getattr(fit, name).requires_grad_() for name in names]
    optimiser = torch.optim.Adam(geometry, lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, LEARNING_RATE / 100)
    # Scaled so that gradients stay above Adam's epsilon, however small the entries are.
    scale = weight.square().sum().clamp(min=torch.finfo(weight.dtype).tiny)
    best: list[Tensor] = []
    least = math.inf
    for _ in range(STEPS):
        with torch.no_grad():
            kernels = torch.stack([fit.kernel(head) for head in range(fit.heads)])
            factor = _best_factors(weight, kernels)
            rest = weight - torch.einsum("hnm,hm->nm", kernels, factor)
            error = float(rest.square().sum())
            if error < least:
                least, best = error, [factor, *(each.detach().clone() for each in geometry)]
        optimiser.zero_grad()
        with torch.enable_grad():
            for head in range(fit.heads):  # one graph at a time: each is several matrices
                (fit.kernel(head) * factor[head] * rest).sum().mul(-2 / scale).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    fit.factor, *values = best
    for name, value in zip(names, values, strict=True):
        setattr(fit, name, value)


def _draw_in(fit: KernelSum) -> None:
    """Move sources beyond the outermost target to that target, which keeps the matrix."""
    lowest, highest = fit.targets.aminmax(dim=-1, keepdim=True)
    inside = fit.sources.clamp(lowest, highest)
    beyond = (fit.sources - inside).abs()
    fit.factor = fit.factor * torch.exp(-beyond / fit.log_lengthscale.exp()[:, None])
    fit.sources = inside
