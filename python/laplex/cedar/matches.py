"""Why two embeddings match: their inner product as a sum over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from laplex._support.arguments import one_of
from laplex._support.figure_text import figure_text
from laplex._support.optional import require
from laplex._support.text_tables import aligned

from .estimator import CEDAR
from .metrics.inputs import Array, float64
from .naming import AxisName
from .settings import checked_ks, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Literal["cosine", "inner"]


@dataclass(frozen=True, eq=False, repr=False)
class Match:
    """An inner product of two embeddings as a sum: the mean, each axis, and the residual.

    Attributes
    ----------
    total : float
        The cosine or the inner product, computed from the embeddings themselves. It equals
        ``mean + contributions.sum() + residual`` up to rounding.
    mean : float
        What the centres contribute: all of it that is not between the centred embeddings.
    residual : float
        What the parts contribute that the codes omit.
    axes : ndarray [m] of int64
        The axes that contribute, the largest contribution in absolute value first.
    contributions : ndarray [m]
        The contribution of each of these axes.
    codes_a, codes_b : ndarray [m]
        The codes of both embeddings on these axes.
    names : tuple of str [m]
        The names of these axes at the ends where the codes are; empty for axes without a name.
    """

    total: float
    mean: float
    residual: float
    axes: npt.NDArray[np.int64]
    contributions: Array
    codes_a: Array
    codes_b: Array
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"{self.total:.3f} = {self.mean:.3f} of the mean + {self.contributions.sum():.3f} of "
            f"{len(self.axes)} axes + {self.residual:.3f} of the residual"
        )

    def table(self, n: int = 10) -> str:
        """Return a text table of the axes that contribute most.

        Parameters
        ----------
        n : int
            Number of axes to list; the others are summed up in one line.

        Returns
        -------
        str
            A line for each axis, then the mean, the residual and the total.
        """
        n = whole("n", n)
        body = [
            [str(axis), name, f"{a:.3f}", f"{b:.3f}", f"{part:.4f}"]
            for axis, name, a, b, part in zip(
                self.axes[:n],
                self.names[:n],
                self.codes_a[:n],
                self.codes_b[:n],
                self.contributions[:n],
                strict=True,
            )
        ]
        body += [[label, "", "", "", f"{part:.4f}"] for label, part in self._rest(n)]
        body.append(["total", "", "", "", f"{self.total:.4f}"])
        head = ["axis", "name", "code of a", "code of b", "contribution"]
        return aligned(head, body, left=(0, 1))

    def plot(self, n: int = 10) -> Figure:
        """Draw the contributions as bars.

        Parameters
        ----------
        n : int
            Number of axes to draw; the others are summed up in one bar.

        Returns
        -------
        matplotlib.figure.Figure
        """
        n = whole("n", n)
        bars = [
            (f"{axis} {figure_text(name) if name else ''}".strip(), part)
            for axis, name, part in zip(
                self.axes[:n], self.names[:n], self.contributions[:n], strict=True
            )
        ]
        bars += self._rest(n)
        matplotlib = require("matplotlib.figure", extra="cedar", feature="Match.plot")
        figure: Figure = matplotlib.Figure(
            figsize=(6, 0.6 + 0.28 * len(bars)), layout="constrained"
        )
        ax = figure.subplots()
        places = np.arange(len(bars))
        values = [part for _, part in bars]
        ax.barh(places, values, color=["#1b9e77" if part >= 0 else "#d95f02" for part in values])
        ax.set_yticks(places, [label for label, _ in bars])
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set_xlabel(f"contribution to {self.total:.3f}")
        return figure

    def _rest(self, n: int) -> list[tuple[str, float]]:
        others = len(self.axes) - n
        rest = [(f"{others} others", float(self.contributions[n:].sum()))] if others > 0 else []
        return [*rest, ("mean", self.mean), ("residual", self.residual)]


def explain_match(
    cedar: CEDAR,
    a: Any,
    b: Any,
    *,
    k: int | None = None,
    measure: Measure = "cosine",
    centred: bool = False,
    modality_a: str | None = None,
    modality_b: str | None = None,
    names: Sequence[AxisName] | None = None,
) -> Match:
    r"""Write the similarity of two embeddings as a sum over axes, exactly.

    With :math:`z = b + w`, the code s of w, and :math:`\hat w = U^{-1} s`,

    .. math::
        z_a \cdot z_b = \underbrace{z_a \cdot z_b - w_a \cdot w_b}_\text{mean}
        + \sum_i \underbrace{\tfrac12 \bigl(s_{a,i}\, a_i \cdot \hat w_b
        + s_{b,i}\, a_i \cdot \hat w_a\bigr)}_\text{axis i}
        + \underbrace{w_a \cdot w_b - \hat w_a \cdot \hat w_b}_\text{residual}.

    For a rotation, axis i contributes :math:`s_{a,i}\, s_{b,i}`, so only axes in both codes count.
    For other bases the inner products of atoms are shared out evenly. A cosine divides all terms by
    :math:`|z_a|\,|z_b|`.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    a, b : array or Tensor [d]
        The two embeddings.
    k : int, optional
        Number of nonzero entries of the codes, by default that of the fit. With ``k=d`` there is no
        residual.
    measure : {"cosine", "inner"}
        The similarity.
    centred : bool
        Whether to take the similarity of the centred embeddings w in place of z. In spaces of the
        kind of CLIP, the mean is most of every cosine.
    modality_a, modality_b : str, optional
        Names of the kinds of rows of a and b: see ``CEDAR.add_modality``.
    names : AxisNames, optional
        Names of the axes, from `name_axes`.

    Returns
    -------
    Match
        The sum; print its ``table()``, or look at its ``plot()``.

    Raises
    ------
    TypeError, ValueError
        If an embedding is not of shape [d] or finite, or its length is 0 where a cosine is asked
        for, or another argument is not valid.
    """
    one_of("measure", measure, Measure)
    sides = []
    for name, given, modality in (("a", a, modality_a), ("b", b, modality_b)):
        fitted = cedar.fitted_.around(modality)
        if np.shape(given) != (fitted.dim,):
            raise ValueError(
                f"{name} must be one embedding [{fitted.dim}], got shape {list(np.shape(given))}: "
                f"pass a single row, as in {name}[0], by the encoder of the fit"
            )
        z = float64(name, given, ndim=1)
        (entries,) = checked_ks(fitted.k if k is None else k, fitted.dim)
        # In float64 whatever the model is in, so that the sum is right to the last digits.
        basis = fitted.basis.to(torch.device("cpu"), torch.float64)
        w = z - fitted.mean.double().numpy()
        code = basis.encode(torch.from_numpy(w)[None], entries)
        sides.append((w if centred else z, w, code[0].numpy(), basis.synthesise(code)[0].numpy()))
    if names is not None and len(names) != len(sides[0][2]):
        raise ValueError(f"names has {len(names)} axes, but the model {len(sides[0][2])}")
    (za, wa, code_a, near_a), (zb, wb, code_b, near_b) = sides
    unit = 1.0
    if measure == "cosine":
        unit = float(np.linalg.norm(za) * np.linalg.norm(zb))
        if unit == 0:
            raise ValueError(
                "an embedding of length 0 has no cosine: pass measure='inner', or centred=False"
            )
    # The inner products of the atoms with the approximations; for a rotation, the codes.
    along_a, along_b = (
        code if basis.orthogonal else basis.atoms.numpy() @ near
        for near, code in ((near_a, code_a), (near_b, code_b))
    )
    parts = (code_a * along_b + code_b * along_a) / (2 * unit)
    axes = np.flatnonzero(parts)
    axes = axes[np.argsort(-np.abs(parts[axes]), kind="stable")]
    return Match(
        total=float(za @ zb) / unit,
        mean=float(za @ zb - wa @ wb) / unit,
        # By subtraction, as a rotation in float32 is orthogonal up to its roundings only.
        residual=float(wa @ wb) / unit - float(parts.sum()),
        axes=axes,
        contributions=parts[axes],
        codes_a=code_a[axes],
        codes_b=code_b[axes],
        names=tuple(_named(names, int(axis), code_a[axis], code_b[axis]) for axis in axes),
    )


def axes_of(
    cedar: CEDAR,
    text_embedding: Any,
    *,
    k: int | None = None,
    modality: str | None = None,
    names: Sequence[AxisName] | None = None,
) -> Match:
    """Return the axes that a phrase excites: its match with itself.

    The contribution of an axis is its share of the squared length of the centred embedding, and the
    residual is the share that the code omits; together they are 1.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    text_embedding : array or Tensor [d]
        The embedding of the phrase, by the encoder of the fit.
    k : int, optional
        Number of axes, by default the k of the fit.
    modality : str, optional
        Name of the kind of rows, for instance "text" for a model of images.
    names : AxisNames, optional
        Names of the axes, from `name_axes`.

    Returns
    -------
    Match
        The axes, their codes (``codes_a``, the same as ``codes_b``) and their shares.

    Raises
    ------
    TypeError, ValueError
        As for `explain_match`.
    """
    return explain_match(
        cedar,
        text_embedding,
        text_embedding,
        k=k,
        centred=True,
        modality_a=modality,
        modality_b=modality,
        names=names,
    )


def _named(names: Sequence[AxisName] | None, axis: int, *codes: float) -> str:
    """Return the name of an axis, or of both its ends if the codes are at both."""
    if names is None:
        return ""
    ends = {"+": names[axis].positive, "-": names[axis].negative}
    signs = dict.fromkeys("+" if code > 0 else "-" for code in codes if code)
    words = [f"{sign}{name.word}" for sign in signs if (name := ends[sign]) is not None]
    return " / ".join(words)
