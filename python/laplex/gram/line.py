"""The factor of covariances on a line that is spread over ranks, by the Markov property.

Each rank has a part of the line; the parts follow one another. The state of the process at a point
is a vector of J independent numbers of variance 1, and given the state at the last anchor of a part
everything before it is independent of everything after it. What the ranks to the left know of that
state is its mean and its covariance P, given their values; what the ranks to the right know is the
likelihood of their values, exp(-x^T K x / 2 + x^T k). Both are what J *pseudo-observations* of the
state say, in the directions of the eigenvectors of P or K, with suitable noise and values. So a
part between pseudo-observations is a line like any other, and only their numbers are exchanged.

To find them, a part is first factorised as if the state before it were known. That gives what the
part does to any state x before it,

    x  ->  F x + v  with covariance C,  and the likelihood exp(-x^T S x / 2 + x^T s),

which every rank chains for itself over the parts of all ranks. For one column all of this is made
of sums and products of positive numbers, and so has the accuracy of the filter on one rank. These
are the elements of the parallel Kalman filter (Sarkka and Garcia-Fernandez, arXiv 1905.13002).
"""

from __future__ import annotations

from functools import cached_property
from math import inf, log, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.communicator import Communicator, together
from .factor import Covariance, Factor, Gram

#: What is known of a state, relative to its variance of 1, does not get less than this.
_LEAST = torch.finfo(torch.float64).eps


class PseudoObservations(NamedTuple):
    """Observations of the state at one place, besides those at the anchors.

    Attributes
    ----------
    place : Tensor ``[B]``
    loadings : Tensor ``[B, K, J]``
        The directions in which the state is observed.
    noise : Tensor ``[B, K]``
    """

    place: Tensor
    loadings: Tensor
    noise: Tensor


class Part:
    """The covariance of a rank's anchors between pseudo-observations before and behind them.

    Parameters
    ----------
    covariance
        That of the anchors alone. Derivatives reach its tensors.
    before, behind
        At most at the first anchor, and at least at the last one.
    gram
        The factor, where it is there already.
    """

    def __init__(
        self,
        covariance: Covariance,
        before: PseudoObservations,
        behind: PseudoObservations,
        gram: Gram | None = None,
    ) -> None:
        anchors, lengthscale, loadings, noise = covariance[:4]
        self.first = before.noise.shape[-1]
        self.last = self.first + anchors.shape[-1]
        # Equal anchors are taken in the order of their numbers: these stay outside.
        self.covariance = Covariance(
            torch.cat((_places(before, anchors), anchors, _places(behind, anchors)), -1),
            lengthscale,
            torch.cat((before.loadings.to(loadings), loadings, behind.loadings.to(loadings)), 1),
            torch.cat((before.noise.to(noise), noise, behind.noise.to(noise)), -1),
            *covariance[4:],
        )
        self._gram = gram

    @property
    def gram(self) -> Gram:
        """The factor, which is computed at its first use."""
        if self._gram is None:
            detached = self.covariance.map(torch.Tensor.detach)
            try:
                self._gram = Gram(detached)
            except np.linalg.LinAlgError:
                own = slice(self.first, self.last)
                anchors, lengthscale, loadings, noise = detached[:4]
                # Mostly the anchors of the part are to blame, in the numbers that the caller knows.
                Gram(
                    Covariance(
                        anchors[:, own].contiguous(),
                        lengthscale,
                        loadings[:, own].contiguous(),
                        noise[:, own].contiguous(),
                        *detached[4:],
                    )
                )
                raise np.linalg.LinAlgError(
                    "the covariance matrix is singular to working precision at the first anchors "
                    "of this rank, given those of the ranks before: add noise > 0"
                ) from None
        return self._gram

    def joined(self, before: Tensor | None, own: Tensor, behind: Tensor | None) -> Tensor:
        """Rows ``[B, R, n]`` between entries of the pseudo-observations; None stands for 0."""
        lead, count = own.shape[:2], self.covariance.noise.shape[-1]
        left = own.new_zeros(*lead, self.first) if before is None else before.to(own)
        right = own.new_zeros(*lead, count - self.last) if behind is None else behind.to(own)
        return torch.cat((left, own, right), -1)

    def whitened(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """D^-1/2 L^-1 times rows: at the anchors, and at what is behind them, on the CPU.

        What was not observed has D = 1 in the core; among the anchors, it becomes 0.
        """
        found = self.gram.apply(Factor.LOWER_INVERSE, rows, scaled=True)
        own, behind = found[..., self.first : self.last], found[..., self.last :].cpu()
        if self._hidden is not None:
            own = own.masked_fill(self._hidden[:, None], 0.0)
        return own, behind

    def log_variances(self) -> Tensor:
        """Log D ``[B, n + K]`` of the anchors and behind them; 0 where nothing was observed."""
        return self.gram.log_variances()[:, self.first :]

    @cached_property
    def _hidden(self) -> Tensor | None:
        """The anchors that were not observed ``[B, n]``, if there are any."""
        hidden = self.covariance.noise[:, self.first : self.last] == inf
        return hidden if bool(hidden.any()) else None


class Boundaries(NamedTuple):
    """All that the other ranks know of a part, given which it is independent of them.

    Attributes
    ----------
    before, behind : PseudoObservations
    values_before, values_behind : Tensor ``[B, R, J]``
        What was observed there.
    """

    before: PseudoObservations
    behind: PseudoObservations
    values_before: Tensor
    values_behind: Tensor

    def part(self, covariance: Covariance, gram: Gram | None = None) -> Part:
        """The part of all anchors of this rank, or of some of them."""
        return Part(covariance, self.before, self.behind, gram)

    def rows(self, part: Part, own: Tensor) -> Tensor:
        """Values ``[B, R, n]`` at the anchors, with those of the pseudo-observations."""
        return part.joined(self.values_before, own, self.values_behind)


class Line:
    """Covariances whose anchors lie on several ranks; every method is collective.

    Parameters
    ----------
    comm
    covariance
        This rank's part, without derivatives. Infinite noise marks what was not observed.

    Raises
    ------
    ValueError
        If a rank has an anchor below one of a rank before it, or one without noise that equals the
        last one there.
    numpy.linalg.LinAlgError
        If the matrix is singular.
    """

    def __init__(self, comm: Communicator, covariance: Covariance) -> None:
        self._comm = comm
        self._own = covariance
        self._batch, n, self._columns = covariance.loadings.shape
        self._eye = torch.eye(self._columns, dtype=torch.float64).expand(self._batch, -1, -1)
        self._find_cuts(covariance.anchors, covariance.noise)
        self.n = sum(int(count) for (count,) in comm.all_gather(np.array([n]), [1] * comm.size))
        self._find_passages()
        self._find_boundaries()
        self._part: Part | None = None
        self._logdet: Tensor | None = None

    # --- the factor -------------------------------------------------------------------------------

    def _find_cuts(self, anchors: Tensor, noise: Tensor) -> None:
        """Where the parts before this one end, and where this one does."""
        batch, n = anchors.shape
        lowest, highest = np.full(batch, inf), np.full(batch, -inf)
        if n:
            lowest, highest = (each.cpu().numpy() for each in anchors.aminmax(dim=-1))
        ends = everywhere(self._comm, torch.from_numpy(highest)).numpy()
        before = np.max(ends[: self._comm.rank], axis=0, initial=-inf)

        def check() -> None:
            if (lowest < before).any():
                b = int((lowest < before).argmax())
                raise ValueError(
                    f"anchors must follow those of the ranks before, but the least is {lowest[b]} "
                    f"and the largest before is {before[b]}: sort them over the ranks first"
                )
            tied = anchors == torch.from_numpy(before).to(anchors)[:, None]
            if bool((tied & (noise == 0)).any()):
                raise ValueError(
                    f"anchors has {before[int(tied.any(-1).int().argmax())]}, without noise, like "
                    "a rank before: give it noise > 0, or keep equal anchors on one rank"
                )

        together(self._comm, check)
        #: Whether this rank has the first anchors; the batch agrees on that.
        self._is_first = bool((before == -inf).all())
        own = np.where(np.isfinite(lowest), lowest, 0.0)
        before = own if self._is_first else before
        self._before = torch.from_numpy(before)
        self._behind = torch.from_numpy(np.maximum(before, highest))

    def _find_passages(self) -> None:
        """What every part does to the state before it, from a state that is known."""
        columns = self._columns
        known = self._eye.new_full((self._batch, columns), inf if self._is_first else 0.0)
        before = PseudoObservations(self._before, self._eye, known)
        # Whether the state behind the part is known, too, so that nothing else can observe it.
        anchors, noise = self._own.anchors, self._own.noise
        last = anchors == self._behind.to(anchors)[:, None]
        is_known = bool(((noise == 0) & last).any()) or not (self._is_first or noise.shape[-1])
        # Variances of the numbers of the state, and of sums of two of them, give its covariance.
        one, two = np.triu_indices(columns, 1)
        directions = torch.cat((self._eye, self._eye[:, one] + self._eye[:, two]), 1)
        is_seen = columns == 1 and not is_known
        unseen = known.new_full(directions.shape[:2], 0.0 if is_seen else inf)
        part = Part(self._own, before, PseudoObservations(self._behind, directions, unseen))
        together(self._comm, lambda: part.gram)
        if is_seen:  # what it would have been told: at half the cost
            variances = part.log_variances()[:, part.last - part.first :].exp().cpu()
        else:
            ones = torch.ones_like(part.covariance.noise)
            by_noise = part.gram.vjp(None, None, ones, (False, False, False, True, False))[3]
            assert by_noise is not None
            variances = by_noise[:, part.last :].cpu()
        left = torch.diag_embed(variances[:, :columns])
        mixed = (variances[:, columns:] - variances[:, one] - variances[:, two]) / 2
        left[:, one, two] = left[:, two, one] = mixed
        nothing = noise.new_zeros(self._batch, columns, noise.shape[-1])
        self._responses, behind = part.whitened(part.joined(self._eye, nothing, None))
        #: By what numbers behind the part are divided there.
        self._scale = variances[:, :columns].sqrt() if is_seen else torch.ones_like(known)
        moved = -(behind[..., :columns] * self._scale[:, None]).mT
        seen = (self._responses @ self._responses.mT).cpu()
        passages = everywhere(self._comm, torch.stack((moved, seen, left)))
        self._maps, self._seen, self._left = passages.unbind(1)
        self._pinned = part

    def _find_boundaries(self) -> None:
        """What the other ranks know of the states at both ends, as pseudo-observations."""
        size, rank = self._comm.size, self._comm.rank
        #: Before each rank up to this one, the covariance of the state given what is before it.
        self._states = [self._eye]
        for r in range(rank):
            seen = _observed(self._states[r], self._seen[r])
            self._states.append(self._left[r] + _conjugated(self._maps[r], seen))
        #: Behind each rank down to this one, what the ranks behind it know of the state there.
        self._known = {size - 1: torch.zeros_like(self._eye)}
        for r in reversed(range(rank + 1, size)):
            left = _observed(self._known[r], self._left[r])
            self._known[r - 1] = self._seen[r] + _conjugated(self._maps[r].mT, left)
        variances, self._axes = torch.linalg.eigh(self._states[rank])
        variances = variances.clamp(0.0, 1.0)
        self._gains = (1.0 - variances).clamp(min=_LEAST)
        noise = (
            variances.new_full(variances.shape, inf) if self._is_first else variances / self._gains
        )
        precisions, self._axes_behind = torch.linalg.eigh(self._known[rank])
        self._precisions = precisions.clamp(min=_LEAST)
        self.before = PseudoObservations(self._before, self._axes.mT, noise)
        self.behind = PseudoObservations(self._behind, self._axes_behind.mT, 1.0 / self._precisions)

    def part(self) -> Part:
        """The anchors of this rank between their pseudo-observations, factorised."""
        if self._part is None:
            part = Part(self._own, self.before, self.behind)
            together(self._comm, lambda: part.gram)
            self._part = part
        return self._part

    # --- results ----------------------------------------------------------------------------------

    def boundaries(self, rows: Tensor) -> Boundaries:
        """What the other ranks know of this one, given values ``[B, R, n]`` on all of them."""
        size, rank = self._comm.size, self._comm.rank
        pinned = self._pinned
        own, behind = pinned.whitened(pinned.joined(None, rows, None))
        told = -(own @ self._responses.mT).cpu()
        added = -behind[..., : self._columns] * self._scale[:, None]
        told, added = everywhere(self._comm, torch.stack((told, added))).unbind(1)
        mean = torch.zeros_like(told[0])
        for r in range(rank):
            gain = _observed(self._states[r], self._seen[r])
            mean = mean + (told[r] - mean @ self._seen[r]) @ gain
            mean = mean @ self._maps[r].mT + added[r]
        likely = torch.zeros_like(told[0])
        for r in reversed(range(rank + 1, size)):
            surprise = likely - added[r] @ self._known[r]
            inner = self._eye + self._left[r] @ self._known[r]
            likely = told[r] + torch.linalg.solve(inner, surprise, left=False) @ self._maps[r]
        return Boundaries(
            self.before,
            self.behind,
            (mean @ self._axes) / self._gains[:, None],
            (likely @ self._axes_behind) / self._precisions[:, None],
        )

    def logdet(self) -> Tensor:
        """Log det A ``[B]``."""
        part = self.part()
        if self._logdet is None:
            logs = part.log_variances()[:, : part.last - part.first]
            self._logdet = total(self._comm, logs.sum(-1))
        return self._logdet

    def squares(self, rows: Tensor, boundaries: Boundaries) -> Tensor:
        """Row^T A^-1 row ``[B, R]`` of rows ``[B, R, n]``."""
        part = self.part()
        white, _ = part.whitened(boundaries.rows(part, rows))
        return total(self._comm, white.square().sum(-1))

    def log_prob(self, rows: Tensor, boundaries: Boundaries) -> Tensor:
        """Log density ``[B, R]`` at rows ``[B, R, n]``."""
        squares = self.squares(rows, boundaries)
        return -0.5 * (squares + self.logdet()[:, None] + self.n * log(2 * pi))

    def solve(self, rows: Tensor) -> Tensor:
        """A^-1 times rows ``[B, R, n]``."""
        part, boundaries = self.part(), self.boundaries(rows)
        return part.gram.solve(boundaries.rows(part, rows))[..., part.first : part.last]

    def refuse_ties(self) -> None:
        """Raise an error if anchors coincide, on one rank or on two."""
        anchors = self._own.anchors

        def check() -> None:
            place = [] if self._is_first else [self._before.to(anchors)[:, None]]
            everything = torch.cat((*place, anchors), -1)
            if bool((everything.sort(dim=-1).values.diff(dim=-1) == 0).any()):
                raise NotImplementedError(
                    "anchors that coincide have no derivatives over ranks: detach the anchors, or "
                    "move them apart"
                )

        together(self._comm, check)


def everywhere(comm: Communicator, numbers: Tensor) -> Tensor:
    """Stack equally shaped float64 tensors of all ranks, on the CPU."""
    vector = numbers.detach().cpu().numpy().ravel()
    parts = comm.all_gather(vector, [vector.size] * comm.size)
    return torch.from_numpy(np.array(parts)).reshape(comm.size, *numbers.shape)


def total(comm: Communicator, numbers: Tensor) -> Tensor:
    """The sum of the float64 tensors of all ranks, with the same bits on each."""
    return everywhere(comm, numbers).sum(0).to(numbers)


def _places(pseudo: PseudoObservations, like: Tensor) -> Tensor:
    return pseudo.place.to(like)[:, None].expand(pseudo.noise.shape)


def _observed(state: Tensor, seen: Tensor) -> Tensor:
    """(state^-1 + seen)^-1 ``[B, J, J]``, for a covariance that may be singular."""
    variances, axes = torch.linalg.eigh(state)
    root = axes * variances.clamp(min=0.0).sqrt()[:, None]
    inner = torch.eye(state.shape[-1], dtype=state.dtype) + root.mT @ seen @ root
    result: Tensor = root @ torch.linalg.solve(inner, root.mT)
    return result


def _conjugated(matrix: Tensor, inner: Tensor) -> Tensor:
    """M X M^T, symmetric to the last bit."""
    product: Tensor = matrix @ inner @ matrix.mT
    return (product + product.mT) / 2
