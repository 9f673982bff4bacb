r"""`LaplaceRotations`: an orthogonal change of basis by products with Laplace kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laplex.gram import LaplaceGram

from .basis import Basis

#: Coordinates that are compared with each other for a start: 16 MiB a matrix in float32.
_BLOCK = 2048
#: Rows, and entries of them, that a start is made from: 8192 x 16384 or 2048 x 65536.
_ROWS, _ENTRIES = 2**13, 2**27
#: Coordinates of a run, in the starts that are tried. Pairs are best for images: FVE .83 against
#: .76 for runs of 8, of Fashion-MNIST with 8 heads and k = 32. Runs of 8 are best for embeddings
#: of words: .450 against .439; longer ones gain .002 more.
_RUNS = (2, 8)
#: Gap between runs and the largest within one, in lengthscales: e^-6 of a state passes. Larger
#: ones would get no gradient, and leave float32 anchors of a long line without digits.
_WIDEST = 6.0


class LaplaceRotations(Basis):
    r"""U = :math:`R_H \cdots R_1`, each R orthogonal and given by an anchor for each coordinate.

    With coordinates in the order of their anchors, gaps g between neighbours, in lengthscales,
    :math:`c_i = e^{-g_i}` and :math:`s_i = \sqrt{1 - c_i^2}`, a chain of plane rotations carries a
    state h along the line:

    .. math::
        h_1 = v_1,\qquad
        \begin{pmatrix} h_{i+1} \\ u_i \end{pmatrix} =
        \begin{pmatrix} c_i & s_i \\ -s_i & c_i \end{pmatrix}
        \begin{pmatrix} h_i \\ v_{i+1} \end{pmatrix},\qquad
        u_n = h_n

    The states are h = S v, with S the square-root factor of the Laplace kernel between the
    anchors, :math:`S S^T = K,\; K_{ij} = e^{-|x_i - x_j|}`: R completes S to an orthogonal matrix,
    :math:`R_{ij} = -s_i\, s_{j-1}\, e^{-(x_i - x_j)}` below its upper diagonal. So a product costs
    O(n) after a sort, and R stays orthogonal whatever the anchors are: equal ones pass on their
    values, distant ones only change a sign.

    Parameters
    ----------
    anchors : Tensor [heads, d]
        In lengthscales. d numbers a head in place of d (d - 1) / 2 of a rotation.

    Notes
    -----
    Ours: neither abstract has it. Gradients flow to the anchors, given their order.
    """

    def __init__(self, anchors: Tensor) -> None:
        self.anchors = anchors
        self.dim = anchors.shape[1]
        self._heads = [_Rotation(line) for line in anchors]

    def analyse(self, z: Tensor) -> Tensor:
        r"""Coordinates :math:`U z` of rows z [n, d]."""
        for head in self._heads:
            z = head.apply(z)
        return z

    def synthesise(self, codes: Tensor) -> Tensor:
        r"""Embeddings :math:`U^T s` of rows s [n, d]."""
        for head in reversed(self._heads):
            codes = head.transpose(codes)
        return codes

    @property
    def atom_norms(self) -> None:
        """All are 1."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The anchors."""
        return {"anchors": self.anchors}

    def to(self, device: torch.device, dtype: torch.dtype) -> LaplaceRotations:
        """The same rotations elsewhere, or in another precision."""
        return LaplaceRotations(self.anchors.to(device, dtype))

    def _identity(self) -> Tensor:
        return torch.eye(self.dim, device=self.anchors.device, dtype=self.anchors.dtype)


class _Rotation:
    """One chain of plane rotations."""

    def __init__(self, anchors: Tensor) -> None:
        self.order = torch.argsort(anchors.detach(), stable=True)
        ordered = anchors[self.order]
        gaps = ordered.diff()
        self.cosine = torch.exp(-gaps)
        # The square root has no derivative at 0, where anchors coincide.
        wide = gaps > 0
        spread = -torch.expm1(-2 * torch.where(wide, gaps, 1.0))
        self.sine = torch.where(wide, spread.sqrt(), 0.0)
        # A kernel between equal anchors is singular: they are one place, which has the first's
        # value, as the others' do not reach the state (their sine is 0).
        first = torch.cat((wide.new_ones(1), wide))
        self.place = first.cumsum(0) - 1
        self.first = first.nonzero()[:, 0]
        self.gram = LaplaceGram(ordered[self.first])
        self.inverse = torch.argsort(self.order)

    def apply(self, z: Tensor) -> Tensor:
        """R z for rows [n, d]."""
        values = z[:, self.order]
        states = self.gram.color(values[:, self.first])[:, self.place]
        turned = self.cosine * values[:, 1:] - self.sine * states[:, :-1]
        return torch.cat((turned, states[:, -1:]), 1)[:, self.inverse]

    def transpose(self, u: Tensor) -> Tensor:
        """R^T u for rows [n, d]."""
        turned = u[:, self.order]
        into = torch.cat((-self.sine * turned[:, :-1], turned[:, -1:]), 1)
        # The adjoint of reading a place's state several times is to add there.
        places = into.new_zeros(len(into), len(self.first)).index_add(1, self.place, into)
        drawn = self.gram.color(places, transpose=True)
        values = torch.cat((turned.new_zeros(len(turned), 1), self.cosine * turned[:, :-1]), 1)
        return values.index_add(1, self.first, drawn)[:, self.inverse]


# --- anchors to start from ------------------------------------------------------------------------


@torch.no_grad()
def starting_anchors(sample: Tensor, heads: int, random: torch.Generator) -> Tensor:
    r"""Anchors [heads, d] of rotations that make a sample sparse, found head by head.

    Each head couples the coordinates that its predecessors left, in runs of neighbours, so that
    plane rotations raise :math:`\sum_i \langle u_i^4 \rangle` the most. A plane's best angle is
    known in closed form (Comon, 1994):

    .. math::
        \langle u_1^4 + u_2^4 \rangle = \text{const} + A \cos 4\theta + B \sin 4\theta,\qquad
        A = \tfrac14 \langle a^4 + b^4 - 6 a^2 b^2 \rangle,\quad
        B = \langle a^3 b - a b^3 \rangle

    and the pairs are a greedy matching by what they gain. Of a rotation's angles, which matter
    modulo a right angle, the one in :math:`[\pi/4, \pi/2]` is taken: neighbours are then
    :math:`\ln(2)/2` lengthscales apart or more, and do not change places when they learn, which
    would undo what was learned.

    Parameters
    ----------
    sample : Tensor [m, d]
        Centred rows, m at least 1.
    random : torch.Generator
        Draws rows with replacement, so that several starts differ, and, from 2048 coordinates on,
        which of them are compared.

    Returns
    -------
    Tensor [heads, d]
        float64, on the CPU.

    Notes
    -----
    Time O(heads * m * d * min(d, 2048)), memory O(m * d + d).
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
            z = _Rotation(lines[-1].to(z.device, z.dtype)).apply(z)
        reached = float(z.double().pow(4).mean())
        if best is None or reached > best[0]:
            best = reached, torch.stack(lines)
    assert best is not None
    return best[1]


def _line(z: Tensor, run: int, random: torch.Generator, *, shuffled: bool) -> Tensor:
    """Anchors [d] of one head for rows [n, d], in runs of `run` coordinates.

    Blocks of coordinates are compared: of neighbours, which are often alike, or of any.
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
    """An order of the coordinates of rows [n, b], and the gap before each, [b] both."""
    dim = z.shape[1]
    count = dim // run
    if count == 0:
        return torch.arange(dim), torch.full((dim,), _WIDEST, dtype=torch.float64)
    # Pairs, the ones that gain the most; which of the two is first decides the angle's sign.
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
    """What the best rotation of each pair of columns gains, and its angle, [p, q] both."""
    squares_a, squares_b = a.square(), b.square()
    mixed = squares_a.T @ squares_b / len(a)
    odd = ((squares_a * a).T @ b - a.T @ (squares_b * b)) / len(a)
    fourth = squares_a.square().mean(0)[:, None] + squares_b.square().mean(0)
    even = fourth / 4 - 1.5 * mixed
    return torch.hypot(even, odd) - even, torch.atan2(odd, even) / 4


def _matching(gain: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` disjoint pairs of b numbers, those with most gain [b, b], symmetric, first.

    Pairs that are each other's best belong to the greedy matching, and go all at once.
    """
    gain = gain.clone()
    numbers = torch.arange(len(gain), device=gain.device)
    free = torch.ones_like(numbers, dtype=torch.bool)
    firsts, seconds, gains = [], [], []
    while True:
        best, partner = gain.max(1)
        mutual = (best > 0) & (partner[partner] == numbers) & (numbers < partner)
        if not bool(mutual.any()):
            break
        first, second = numbers[mutual], partner[mutual]
        firsts.append(first)
        seconds.append(second)
        gains.append(best[mutual])
        for taken in (first, second):
            free[taken] = False
            gain[taken] = -1.0
            gain[:, taken] = -1.0
    rest = numbers[free]  # nothing to gain: any pairs
    half = len(rest) // 2
    firsts.append(rest[:half])
    seconds.append(rest[half : 2 * half])
    gains.append(gain.new_zeros(half))
    most = torch.cat(gains).argsort(descending=True, stable=True)[:count]
    return torch.cat(firsts)[most], torch.cat(seconds)[most]


def _assignment(gain: Tensor) -> Tensor:
    """A column of its own for each row of gain [p, q], q at least p: greedy, as `_matching`."""
    gain = gain.clone()
    rows = torch.arange(len(gain), device=gain.device)
    chosen = torch.full_like(rows, -1)
    free = gain.new_ones(gain.shape[1], dtype=torch.bool)
    while True:
        best, column = gain.max(1)
        mutual = (best > 0) & (gain.argmax(0)[column] == rows)
        if not bool(mutual.any()):
            break
        row, taken = rows[mutual], column[mutual]
        chosen[row] = taken
        free[taken] = False
        gain[row] = -1.0
        gain[:, taken] = -1.0
    without = chosen < 0
    chosen[without] = free.nonzero()[: int(without.sum()), 0]
    return chosen
