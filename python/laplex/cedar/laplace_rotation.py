r"""An orthogonal change of basis by products with Laplace kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from laplex.gram import LaplaceGram

from .basis import Basis


class LaplaceRotations(Basis):
    r"""A product of H orthogonal matrices, each given by one anchor per coordinate.

    U is the product :math:`R_H \cdots R_1`, one factor for each head. Take the coordinates in the
    order of their anchors, with gaps :math:`g_i` between neighbours in lengthscales,
    :math:`c_i = e^{-g_i}` and :math:`s_i = \sqrt{1 - c_i^2}`. A chain of plane rotations then
    carries a state h along the line:

    .. math::
        h_1 = v_1,\qquad
        \begin{pmatrix} h_{i+1} \\ u_i \end{pmatrix} =
        \begin{pmatrix} c_i & s_i \\ -s_i & c_i \end{pmatrix}
        \begin{pmatrix} h_i \\ v_{i+1} \end{pmatrix},\qquad
        u_n = h_n

    The states are h = S v, where S is the square-root factor of the Laplace kernel between the
    anchors, :math:`S S^T = K,\; K_{ij} = e^{-|x_i - x_j|}`. R completes S to an orthogonal matrix,
    with :math:`R_{ij} = -s_i\, s_{j-1}\, e^{-(x_i - x_j)}` below its upper diagonal. A product
    therefore costs O(n) after a sort, and R is orthogonal for any anchors: equal anchors pass their
    values on, and distant anchors only change a sign.

    Parameters
    ----------
    anchors : Tensor [heads, d]
        Anchors in lengthscales: d parameters per head, in place of d (d - 1) / 2 for a rotation.
    order : Tensor [d] of int64, optional
        Row i of U is row ``order[i]`` of the product.
    signs : Tensor [d], optional
        The factor of each row of U, 1 or -1.

    Notes
    -----
    This construction is ours; neither the CEDAR nor the LAPLEX abstract has it. Gradients flow to
    the anchors, given their order. On one core of a busy machine, ``analyse`` with 8 heads in
    float32 took about 100, 450, 2000 and 8000 microseconds per row of 1024, 4096, 16,384 and 65,536
    coordinates. A d x d matrix took 15, 240, 5800 and 91,000 (the last from a sixteenth of its
    rows). Use this basis for 10^4 coordinates or more.
    """

    def __init__(
        self, anchors: Tensor, order: Tensor | None = None, signs: Tensor | None = None
    ) -> None:
        self.anchors = anchors
        self.dim = anchors.shape[1]
        self.order = order
        self.signs = signs
        self._heads = [Rotation(line) for line in anchors]

    def analyse(self, z: Tensor) -> Tensor:
        r"""Return the coordinates :math:`U z` of rows z [n, d]."""
        for head in self._heads:
            z = head.apply(z)
        if self.order is None or self.signs is None:
            return z
        return z[:, self.order] * self.signs

    def synthesise(self, codes: Tensor) -> Tensor:
        r"""Return the embeddings :math:`U^T s` of rows s [n, d]."""
        if self.order is not None and self.signs is not None:
            codes = (codes * self.signs)[:, self.order.argsort()]
        for head in reversed(self._heads):
            codes = head.transpose(codes)
        return codes

    orthogonal = True

    @property
    def atom_norms(self) -> None:
        """None, because all atoms have norm 1."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return the anchors, and the order and signs of the rows if there are any, by name."""
        if self.order is None or self.signs is None:
            return {"anchors": self.anchors}
        return {"anchors": self.anchors, "order": self.order, "signs": self.signs}

    def arranged(self, order: Tensor, signs: Tensor) -> LaplaceRotations:
        """Return the basis whose axis i is ``signs[i]`` times axis ``order[i]`` of this one."""
        signs = signs.to(self.anchors)
        if self.order is not None and self.signs is not None:
            order, signs = self.order[order], self.signs[order] * signs
        return LaplaceRotations(self.anchors, order, signs)

    def to(self, device: torch.device, dtype: torch.dtype) -> LaplaceRotations:
        """Return the same rotations on another device or in another precision."""
        anchors = self.anchors.to(device, dtype)
        if anchors is self.anchors:
            return self
        order = None if self.order is None else self.order.to(device)
        signs = None if self.signs is None else self.signs.to(device, dtype)
        return LaplaceRotations(anchors, order, signs)

    def _identity(self) -> Tensor:
        return torch.eye(self.dim, device=self.anchors.device, dtype=self.anchors.dtype)


class Rotation:
    """One chain of plane rotations."""

    def __init__(self, anchors: Tensor) -> None:
        self.order = torch.argsort(anchors.detach(), stable=True)
        ordered = anchors[self.order]
        gaps = ordered.diff()
        self.cosine = torch.exp(-gaps)
        # The square root has no derivative at 0, where anchors coincide, and the factor of the
        # kernel has no digits at denormal gaps. Below eps^2 a plane turns by less than a rounding.
        wide = gaps > torch.finfo(gaps.dtype).eps ** 2
        spread = -torch.expm1(-2 * torch.where(wide, gaps, 1.0))
        self.sine = torch.where(wide, spread.sqrt(), 0.0)
        # The kernel between equal anchors is singular. They count as one place with the value of
        # the first, because the values of the others do not reach the state (their sine is 0).
        first = torch.cat((wide.new_ones(1), wide))
        self.place = first.cumsum(0) - 1
        self.first = first.nonzero()[:, 0]
        self.ties = len(self.first) < len(first)
        self.gram = LaplaceGram(ordered[self.first])
        self.inverse = torch.argsort(self.order)

    def apply(self, z: Tensor) -> Tensor:
        """Return R z for rows z [n, d]."""
        values = z[:, self.order]
        if self.ties:
            states = self.gram.color(values[:, self.first])[:, self.place]
        else:  # gathers would take a third of the time
            states = self.gram.color(values)
        turned = self.cosine * values[:, 1:] - self.sine * states[:, :-1]
        return torch.cat((turned, states[:, -1:]), 1)[:, self.inverse]

    def transpose(self, u: Tensor) -> Tensor:
        """Return R^T u for rows u [n, d]."""
        turned = u[:, self.order]
        into = torch.cat((-self.sine * turned[:, :-1], turned[:, -1:]), 1)
        values = torch.cat((turned.new_zeros(len(turned), 1), self.cosine * turned[:, :-1]), 1)
        if not self.ties:
            return (values + self.gram.color(into, transpose=True))[:, self.inverse]
        # The adjoint of reading the state of a place several times is a sum at that place.
        places = into.new_zeros(len(into), len(self.first)).index_add(1, self.place, into)
        drawn = self.gram.color(places, transpose=True)
        return values.index_add(1, self.first, drawn)[:, self.inverse]
