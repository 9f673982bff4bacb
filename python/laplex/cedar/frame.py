"""Frames: more axes than columns, with codes by orthogonal matching pursuit."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .basis import DenseBasis

#: A pursuit chooses its atoms in at most this many rounds: one atom a round up to k = 16.
_ROUNDS = 16
#: The same in the second part of the search for a frame; in the first it is 1.
_LATE_ROUNDS = 4
#: Number of rows that are coded together.
_TOGETHER = 256
#: An atom is replaced if it is used less than this fraction of the mean, or if its absolute cosine
#: with another is above `_SAME`.
_LEAST_USE, _SAME = 0.05, 0.9
#: Number of passes whose gain decides whether the search has converged.
_PATIENCE = 5
#: They gain much if they lower the loss by more than this fraction of it.
_MUCH = 0.05
#: Weight of the old atoms in the least squares problem, as a fraction of the mean energy of the
#: codes; it decides where the data do not.
_PROXIMITY = 1e-6


class FrameBasis(DenseBasis):
    r"""Atoms :math:`a_i` that span the space and are more than its d dimensions: a frame.

    The readouts are those of the canonical dual frame, :math:`u_i = (A^T A)^{-1} a_i` for the
    matrix A [axes, d] of the atoms (Duffin and Schaeffer, 1952). So
    :math:`z = \sum_i (u_i \cdot z)\, a_i` holds exactly, as for a basis. These coordinates are not
    sparse, because the least squares solution spreads over all atoms. A code is therefore not cut
    out of them, but comes from `pursue`.

    Parameters
    ----------
    atoms : Tensor [axes, d]
        The atoms as rows, of norm 1.
    dual : Tensor [axes, d], optional
        The readouts, if they are known.
    """

    def __init__(self, atoms: Tensor, dual: Tensor | None = None) -> None:
        if dual is None:
            dual = torch.linalg.pinv(atoms.double()).T.to(atoms.dtype).contiguous()
        super().__init__(dual, atoms)

    @property
    def axes(self) -> int:
        """Number of atoms."""
        return len(self.atoms)

    @property
    def atom_norms(self) -> None:
        """All atoms have norm 1."""
        return None

    def encode(self, z: Tensor, k: int) -> Tensor:
        """Return codes [n, axes] of centred rows z [n, d], with at most k nonzero entries."""
        return pursue(z, self.atoms, k)

    def steps(self, axes: list[int]) -> Tensor:
        r"""Return as rows [m, d] what each of some coordinates grows by 1 along, alone among these.

        To set the coordinates :math:`u_i \cdot z` of m axes, z moves by :math:`\sum_j c_j a_j`
        over the same axes, where :math:`\sum_j (u_i \cdot a_j)\, c_j` is the change of coordinate
        i. If these atoms depend on each other, as more than d of them do, c is the least squares
        solution.
        """
        atoms = self.atoms[axes].double()
        change = self.readouts[axes].double() @ atoms.T
        steps: Tensor = torch.linalg.pinv(change).T @ atoms
        return steps.to(self.atoms.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return the atoms and their readouts."""
        return {"frame": self.atoms, "dual": self.readouts}

    def arranged(self, order: Tensor, signs: Tensor) -> FrameBasis:
        """Return the frame whose axis i is ``signs[i]`` times axis ``order[i]`` of this one."""
        flips = signs[:, None].to(self.atoms)
        return FrameBasis(self.atoms[order] * flips, self.readouts[order] * flips)

    def to(self, device: torch.device, dtype: torch.dtype) -> FrameBasis:
        """Return the same frame on another device or in another precision."""
        return FrameBasis(self.atoms.to(device, dtype), self.readouts.to(device, dtype))


def pursue(z: Tensor, atoms: Tensor, k: int, rounds: int = _ROUNDS) -> Tensor:
    r"""Return codes by orthogonal matching pursuit, for many rows at once.

    Each round adds the atoms with the largest :math:`|a_i \cdot r|` to those of a row, where r is
    what the atoms so far leave of it, and then fits the row to all of its atoms by least squares
    (Pati, Rezaiifar and Krishnaprasad, 1993; with several atoms a round, Wang, Kwon and Shim,
    "Generalized orthogonal matching pursuit", arXiv 1111.6664).

    Parameters
    ----------
    z : Tensor [n, d]
        Rows.
    atoms : Tensor [axes, d]
        Atoms of norm 1.
    k : int
        Number of atoms for each row; no more than d are used.
    rounds : int
        Number of rounds, which share the k atoms evenly; at most k.

    Returns
    -------
    Tensor [n, axes]
        Codes s with at most k nonzero entries, for which ``s @ atoms`` is near z; fewer where
        these leave nothing of z but rounding errors. The choice of the atoms is constant almost
        everywhere, so gradients pass through the least squares solution only.
    """
    if z.dtype not in (torch.float32, torch.float64):  # LAPACK knows no others
        return pursue(z.float(), atoms.float(), k, rounds).to(z.dtype)
    k = min(k, atoms.shape[1])
    rounds = min(k, rounds)
    # bfloat16 would ruin least squares
    with nullcontext() if z.is_meta else torch.autocast(z.device.type, enabled=False):
        gram = atoms @ atoms.T
        # A traced number of rows may not decide about the number of parts.
        if torch.compiler.is_compiling() or len(z) <= _TOGETHER:
            return _pursue(z, atoms, gram, k, rounds)
        parts = torch.split(z, _TOGETHER)
        return torch.cat([_pursue(part, atoms, gram, k, rounds) for part in parts])


def _pursue(z: Tensor, atoms: Tensor, gram: Tensor, k: int, rounds: int) -> Tensor:
    products = z @ atoms.T
    tiny = 8 * k * torch.finfo(z.dtype).eps
    ridge = tiny * torch.eye(k, dtype=z.dtype, device=z.device)
    chosen = torch.empty(z.shape[0], 0, dtype=torch.long, device=z.device)
    live = torch.empty_like(chosen, dtype=torch.bool)
    rest = z.detach()
    least = 16 * tiny * rest.norm(dim=1, keepdim=True)
    for done in range(1, rounds + 1):
        with torch.no_grad():
            size = (rest @ atoms.T).abs().scatter(1, chosen, -1.0)
            new = size.topk(k * done // rounds - chosen.shape[1], dim=1).indices
            chosen = torch.cat((chosen, new), 1)
            left = rest.norm(dim=1, keepdim=True) > least  # else the row is complete
            live = torch.cat((live, left.expand(new.shape)), 1)
        count = chosen.shape[1]
        near = gram[chosen[:, :, None], chosen[:, None, :]] + ridge[:count, :count]
        factor = torch.linalg.cholesky_ex(near).L
        values = torch.cholesky_solve(products.gather(1, chosen)[:, :, None], factor)[:, :, 0]
        if done < rounds:
            rest = z.detach() - (values.detach()[:, None] @ atoms[chosen])[:, 0]
    codes = torch.zeros_like(products).scatter(1, chosen, torch.where(live, values, 0.0))
    # As in other bases, a NaN or an infinity does not vanish from a network.
    return torch.where(z.isfinite().all(1, keepdim=True), codes, torch.nan)


class FrameSearch:
    r"""The alternating search for a frame: codes, then the atoms that fit them best.

    For codes S of rows Z, the best atoms are the least squares solution :math:`(S^T S)^{-1} S^T Z`
    (the method of optimal directions; Engan, Aase and Husoy, 1999), scaled to norm 1. At first,
    codes take all k atoms in one round, and then, when `late` is set, in four. That is faster than
    a round for each atom, and on embeddings of words the atoms are better, also for the codes of
    `FrameBasis`, which take more rounds.

    At first, too, an atom that hardly any code uses, or that repeats another one, is replaced by
    what the codes leave of the row that they explain worst. Otherwise two atoms may share a cause
    and leave another one without an atom.

    Parameters
    ----------
    atoms : Tensor [axes, d]
        Where to start.

    Attributes
    ----------
    best : Tensor [axes, d]
        The atoms with the smallest loss so far.
    losses : list of float
        The mean squared error of each pass, before its update.
    calm : int
        Number of passes since an atom was replaced.
    late : bool
        Whether the second part of the search has begun.
    """

    def __init__(self, atoms: Tensor) -> None:
        self.atoms = self.best = atoms
        self.losses: list[float] = []
        self.calm = 0
        self.late = False

    def state(self) -> dict[str, Any]:
        """Return the state, for a checkpoint."""
        return dict(vars(self), losses=list(self.losses))

    @classmethod
    def restore(cls, state: dict[str, Any]) -> FrameSearch:
        """Return the search from its state."""
        found = cls(state["atoms"])
        vars(found).update(state, losses=list(state["losses"]))
        return found

    def converged(self, tolerance: float) -> bool:
        """Whether the last passes replaced no atom and lowered the loss by less than this."""
        return self.calm >= _PATIENCE and self.gain < tolerance

    @property
    def gain(self) -> float:
        """By how much the last passes lowered the loss; infinite if there are too few."""
        if len(self.losses) <= _PATIENCE:
            return math.inf
        return self.losses[-1 - _PATIENCE] - self.losses[-1]

    def unfinished(self, tolerance: float) -> str:
        """Return what was still to gain if the last passes gained much, else an empty text.

        They gain much above the tolerance and above 5 % of the loss. Smaller gains are usual to the
        end, as codes jump between atoms.
        """
        if not tolerance or self.gain <= max(tolerance, _MUCH * self.losses[-1]):
            return ""
        passes = len(self.losses)
        gained = (
            f"{passes} are too few to tell"
            if math.isinf(self.gain)
            else f"the last {_PATIENCE} lowered the loss by {self.gain:.2g} of the variance"
        )
        return (
            f"max_iter={passes} passes ended while the frame still improved: {gained}. Raise "
            "max_iter, or raise tol"
        )

    def finished(self) -> FrameBasis:
        """Return the best frame; the last loss becomes that of this frame."""
        self.losses[-1] = min(self.losses)
        return FrameBasis(self.best)

    def advance(self, rows: Tensor, ks: tuple[int, ...]) -> None:
        """Pass over rows [n, d] and update the atoms."""
        atoms, rounds = self.atoms, _LATE_ROUNDS if self.late else 1
        squares = torch.zeros(len(atoms), len(atoms), dtype=torch.float64, device=rows.device)
        products = torch.zeros_like(atoms, dtype=torch.float64)
        uses = torch.zeros(len(atoms), dtype=torch.long, device=rows.device)
        errors = []
        for part in torch.split(rows, 16 * _TOGETHER):
            error: Any = 0.0
            for k in ks:
                codes = pursue(part, atoms, k, rounds)
                squares += codes.T @ codes
                products += codes.T @ part
                uses += (codes != 0).sum(0)
                error = error + (part - codes @ atoms).double().square().sum(1)
            errors.append(error / len(ks))
        lost = torch.cat(errors)
        loss = float(lost.mean())
        if not self.losses or loss < min(self.losses):
            self.best = atoms
        self.losses.append(loss)
        self.atoms = updated(squares, products, atoms)
        self.calm += 1
        if not self.late:
            worst = rows[lost.argsort(descending=True, stable=True)[: len(atoms)]]
            self._replace(worst - pursue(worst, atoms, ks[-1], rounds) @ atoms, uses)

    def _replace(self, residuals: Tensor, uses: Tensor) -> None:
        least = max(1.0, _LEAST_USE * float(uses.double().mean()))
        bad = uses < least
        close = (self.atoms @ self.atoms.T).abs().tril(-1) > _SAME
        for first, second in close.nonzero().tolist():
            if not bad[first] and not bad[second]:
                bad[first if uses[first] <= uses[second] else second] = True
        places = bad.nonzero()[: len(residuals), 0]
        fresh = residuals[: len(places)]
        norms = fresh.norm(dim=1, keepdim=True)
        fresh = torch.where(norms > 0, fresh / norms, self.atoms[places])
        self.atoms = self.atoms.index_copy(0, places, fresh)
        if len(places):
            self.calm = 0


def updated(squares: Tensor, products: Tensor, atoms: Tensor) -> Tensor:
    r"""Return the atoms of norm 1 that fit codes best, from the sums over rows.

    Parameters
    ----------
    squares : Tensor [axes, axes]
        :math:`S^T S`, in float64.
    products : Tensor [axes, d]
        :math:`S^T Z`, in float64.
    atoms : Tensor [axes, d]
        The atoms of the codes.

    Returns
    -------
    Tensor [axes, d]
        The new atoms, in the type of the old ones.
    """
    weight = _PROXIMITY * squares.diagonal().mean().clamp_min(torch.finfo(squares.dtype).tiny)
    left = squares + weight * torch.eye(len(squares), dtype=squares.dtype, device=squares.device)
    found = torch.linalg.solve(left, products + weight * atoms.double())
    norms = found.norm(dim=1, keepdim=True)
    unit: Tensor = torch.where(norms > 0, found / norms, atoms.double()).to(atoms.dtype)
    return unit
