"""Starting anchors of `LaplaceRotations`, from planes that make a sample of the data sparse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .laplace_rotation import Rotation

#: Largest number of coordinates that are compared with each other: 4 MiB per float32 matrix.
_BLOCK = 1024
#: Largest numbers of rows and of entries that a start uses: 8192 x 8192 or 1024 x 65536.
_ROWS, _ENTRIES = 2**13, 2**26
#: Lengths of the runs that a start tries. Pairs are best for images: on Fashion-MNIST with 8 heads
#: and k = 32, the FVE is .83 against .76 for runs of 8. Runs of 8 are best for embeddings of words:
#: .447 against .438; longer runs gain .002 more.
_RUNS = (2, 8)
#: Gap between runs, and largest gap within a run, in lengthscales: e^-6 of a state passes. Larger
#: gaps would get no gradient, and float32 anchors of a long line would run out of digits.
_WIDEST = 6.0


@torch.no_grad()
def starting_anchors(sample: Tensor, heads: int, random: torch.Generator) -> Tensor:
    r"""Find anchors [heads, d] of rotations that make a sample sparse, head by head.

    Each head couples the coordinates that earlier heads produced, in runs of neighbours, such that
    plane rotations raise :math:`\sum_i \langle u_i^4 \rangle` the most. The best angle of a plane
    has a closed form (Comon, 1994):

    .. math::
        \langle u_1^4 + u_2^4 \rangle = \text{const} + A \cos 4\theta + B \sin 4\theta,\qquad
        A = \tfrac14 \langle a^4 + b^4 - 6 a^2 b^2 \rangle,\quad
        B = \langle a^3 b - a b^3 \rangle

    A greedy matching chooses the pairs by their gain. Angles matter only modulo a right angle, and
    the one in :math:`[\pi/4, \pi/2]` is taken. Neighbours are then at least :math:`\ln(2)/2`
    lengthscales apart and do not change places during learning, which would undo what was learned.

    Parameters
    ----------
    sample : Tensor [m, d]
        Centred rows, at least 1.
    heads : int
        Number of rotations.
    random : torch.Generator
        Draws rows with replacement, so that several starts differ. Above 1024 coordinates it also
        draws which of them are compared.

    Returns
    -------
    Tensor [heads, d]
        Anchors in float64, on the CPU.

    Notes
    -----
    The time is O(heads m d min(d, 1024)), and the memory is O(m d + d).
    """
    count = min(len(sample), _ROWS, max(1, _ENTRIES // sample.shape[1]))
    rows = sample[torch.randint(len(sample), (count,), generator=random).to(sample.device)]
    rows = rows / rows.abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)
    rows = rows / rows.square().mean().sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
    best: tuple[float, Tensor] | None = None
    for run in _RUNS:
        z, lines = rows, []
        for head in range(heads):
            lines.append(_line(z, run, random, shuffled=head % 2 == 1))
            z = Rotation(lines[-1].to(z.device, z.dtype)).apply(z)
        reached = float(z.double().pow(4).mean())
        if best is None or reached > best[0]:
            best = reached, torch.stack(lines)
    assert best is not None
    return best[1]


def _line(z: Tensor, run: int, random: torch.Generator, *, shuffled: bool) -> Tensor:
    """Return anchors [d] of one head for rows [n, d], in runs of ``run`` coordinates.

    Coordinates are compared within blocks, which hold neighbours (often alike) or a random choice.
    """
    dim = z.shape[1]
    numbers = torch.randperm(dim, generator=random) if shuffled else torch.arange(dim)
    anchors = torch.empty(dim, dtype=torch.float64)
    end = 0.0
    for block in torch.split(numbers, _BLOCK):
        order, gaps = _runs(z[:, block.to(z.device)], run)
        places = end + gaps.cumsum(0)
        anchors[block[order]] = places
        end = float(places[-1])
    return anchors - end / 2


def _runs(z: Tensor, run: int) -> tuple[Tensor, Tensor]:
    """Return an order of the coordinates of rows [n, b] and the gap before each, both [b]."""
    dim = z.shape[1]
    count = dim // run
    if count == 0:
        return torch.arange(dim), torch.full((dim,), _WIDEST, dtype=torch.float64)
    # The pairs with the largest gain; the order within a pair decides the sign of the angle.
    gain, angle = _planes(z, z)
    upper = gain.triu(1)
    first, second = _matching((upper + upper.T).fill_diagonal_(-1.0), count)
    turn = angle[first, second]
    first, second = torch.where(turn > 0, second, first), torch.where(turn > 0, first, second)
    members = [first, second]
    angles = [math.pi / 2 - turn.abs()]
    states = _states(z[:, first], z[:, second], angles[0])
    free = z.new_ones(dim, dtype=torch.bool)
    free[first] = free[second] = False
    for _ in range(run - 2):
        left = free.nonzero()[:, 0]
        gain, angle = _planes(states, z[:, left])
        chosen = _assignment(gain.where(angle < 0, -1.0))
        turn = angle.gather(1, chosen[:, None])[:, 0].clamp_max(0)
        members.append(left[chosen])
        angles.append(math.pi / 2 + turn)
        states = _states(states, z[:, members[-1]], angles[-1])
        free[members[-1]] = False
    within = -torch.stack(angles, 1).double().cos().clamp_min(math.exp(-_WIDEST)).log()
    gaps = torch.cat((within.new_full((count, 1), _WIDEST), within), 1).flatten()
    left = free.nonzero()[:, 0]
    order = torch.cat((torch.stack(members, 1).flatten(), left))
    return order.cpu(), torch.cat((gaps, gaps.new_full((len(left),), _WIDEST))).cpu()


def _states(states: Tensor, values: Tensor, angles: Tensor) -> Tensor:
    return angles.cos() * states + angles.sin() * values


def _planes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gain of the best rotation of each pair of columns, and its angle, both [p, q]."""
    squares_a, squares_b = a.square(), b.square()
    mixed = squares_a.T @ squares_b / len(a)
    odd = ((squares_a * a).T @ b - a.T @ (squares_b * b)) / len(a)
    fourth = squares_a.square().mean(0)[:, None] + squares_b.square().mean(0)
    even = fourth / 4 - 1.5 * mixed
    return torch.hypot(even, odd) - even, torch.atan2(odd, even) / 4


def _matching(gain: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` disjoint pairs of b numbers by descending gain [b, b], a symmetric matrix.

    Pairs that are each other's best belong to the greedy matching and are taken together.
    """
    numbers = torch.arange(len(gain), device=gain.device)
    firsts, seconds, gains = [], [], []
    while len(numbers):
        best, partner = gain.max(1)
        places = torch.arange(len(numbers), device=gain.device)
        mutual = (best > 0) & (partner[partner] == places)
        if not bool(mutual.any()):
            break
        once = mutual & (places < partner)
        firsts.append(numbers[once])
        seconds.append(numbers[partner[once]])
        gains.append(best[once])
        numbers, gain = numbers[~mutual], gain[~mutual][:, ~mutual]
    half = len(numbers) // 2  # nothing to gain: any pairs
    firsts.append(numbers[:half])
    seconds.append(numbers[half : 2 * half])
    gains.append(gain.new_zeros(half))
    most = torch.cat(gains).argsort(descending=True, stable=True)[:count]
    return torch.cat(firsts)[most], torch.cat(seconds)[most]


def _assignment(gain: Tensor) -> Tensor:
    """Assign a column to each row of gain [p, q], q at least p, greedily as in ``_matching``."""
    rows = torch.arange(len(gain), device=gain.device)
    columns = torch.arange(gain.shape[1], device=gain.device)
    chosen = torch.empty_like(rows)
    while len(rows):
        best, column = gain.max(1)
        places = torch.arange(len(rows), device=gain.device)
        mutual = (best > 0) & (gain.argmax(0)[column] == places)
        if not bool(mutual.any()):
            break
        taken = torch.zeros_like(columns, dtype=torch.bool)
        taken[column[mutual]] = True
        chosen[rows[mutual]] = columns[column[mutual]]
        rows, columns, gain = rows[~mutual], columns[~taken], gain[~mutual][:, ~taken]
    chosen[rows] = columns[: len(rows)]  # nothing to gain: any columns
    return chosen
