"""`GramParameters`: the parameters of a covariance matrix of points on a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from numpy.linalg import LinAlgError
from torch import Tensor

from ..numpy.layout import layout_of
from .checks import (
    all_finite,
    as_tensor,
    broadcast,
    checked_anchors,
    checked_noise,
    expanded,
    no_transforms,
    same_device,
)
from .factor import Covariance, plain
from .terms import KINDS, BaseTerm, Block, Term, checked_terms


class GramParameters(NamedTuple):
    """The checked tensors that a caller gave; results use the numbers they hold at that time.

    Attributes
    ----------
    anchors : Tensor ``[*b, n]``
        Their dtype and device are those of the matrix.
    terms : tuple of BaseTerm
    noise : Tensor ``[*b, n]`` or ``[*b, 1]``, or None
    batch : torch.Size
        The broadcast leading dimensions of all parameters, ``[*b]``.
    """

    anchors: Tensor
    terms: tuple[BaseTerm, ...]
    noise: Tensor | None
    batch: torch.Size

    @classmethod
    def checked(cls, anchors: object, terms: object, noise: object) -> GramParameters:
        """Check a caller's arguments.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.
        """
        no_transforms()
        anchors = checked_anchors(anchors)
        terms = checked_terms(terms)
        same_device({"noise": noise}, anchors.device)
        for term in terms:
            same_device(vars(term), anchors.device)
        noise = checked_noise(noise, anchors)
        for term in terms:
            term.check(anchors)
        try:
            return cls.of(anchors, terms, noise)
        except RuntimeError:
            raise ValueError(
                "the leading dimensions of anchors, terms and noise do not broadcast"
            ) from None

    @classmethod
    def of(
        cls, anchors: Tensor, terms: tuple[BaseTerm, ...], noise: Tensor | None
    ) -> GramParameters:
        """Make an object from parameters that were already checked."""
        lead = [term.batch_shape() for term in terms]
        if noise is not None:
            lead.append(noise.shape[:-1])
        return cls(anchors, terms, noise, broadcast(anchors.shape[:-1], *lead))

    @property
    def n(self) -> int:
        """The number of anchors."""
        return self.anchors.shape[-1]

    # --- tensors ----------------------------------------------------------------------------------

    def contents(self) -> list[object]:
        """All parameters of the matrix: tensors, numbers and None."""
        found: list[object] = [self.anchors, self.noise]
        for term in self.terms:
            found += vars(term).values()
        return found

    def tensors(self) -> list[Tensor]:
        """The tensors among the parameters."""
        return [each for each in self.contents() if isinstance(each, Tensor)]

    def named(self) -> dict[str, Tensor]:
        """The tensors by name: ``anchors``, ``noise``, for term 0 ``0.lengthscale`` and so on.

        Names of terms other than `Term` tell their kind, as in ``0.SHO.sigma``.
        Tensors of terms are converted to float64, and parameters that are None are left out.
        """
        found = {"anchors": self.anchors}
        if self.noise is not None:
            found["noise"] = self.noise
        for number, term in enumerate(self.terms):
            tensors = term.tensors(self.anchors)
            kind = "" if isinstance(term, Term) else f"{type(term).__name__}."
            found |= {f"{number}.{kind}{name}": tensor for name, tensor in tensors.items()}
        return found

    @classmethod
    def from_named(cls, named: dict[str, Tensor]) -> GramParameters:
        """The reverse of `named`."""
        terms: dict[str, tuple[str, dict[str, Tensor]]] = {}
        for name, tensor in named.items():
            if "." in name:
                number, *kind, parameter = name.split(".")
                terms.setdefault(number, ("".join(kind), {}))[1][parameter] = tensor
        made = [KINDS[kind or "Term"](**parameters) for kind, parameters in terms.values()]
        return cls.checked(named["anchors"], made, named.get("noise"))

    @staticmethod
    def is_per_anchor(name: str) -> bool:
        """Whether the last dimension of a named tensor numbers the anchors."""
        own = name.rpartition(".")[-1]
        return own in ("anchors", "noise", *Term.PER_ANCHOR)

    def map(self, change: Callable[[str, Tensor], Tensor]) -> GramParameters:
        """A copy in which every tensor is replaced by the result of `change`."""
        return self.of(
            change("anchors", self.anchors),
            tuple(term.map(change) for term in self.terms),
            None if self.noise is None else change("noise", self.noise),
        )

    # --- other matrices ---------------------------------------------------------------------------

    def take(self, index: Tensor) -> GramParameters:
        """The parameters of the submatrix with the rows and columns `index`."""
        n = self.n

        def taken(name: str, tensor: Tensor) -> Tensor:
            along = self.is_per_anchor(name) and tensor.shape[-1] == n  # noise may be [*b, 1]
            return tensor[..., index] if along else tensor

        return self.map(taken)

    def extended(self, targets: Tensor) -> GramParameters:
        """A copy with further anchors ``[*b, m]`` at the end, which have no noise."""
        n, m = self.n, targets.shape[-1]
        batch = broadcast(self.anchors.shape[:-1], targets.shape[:-1])
        anchors = torch.cat((self.anchors.expand(*batch, n), targets.expand(*batch, m)), -1)
        noise = self.noise
        if noise is not None:
            lead = noise.shape[:-1]
            noise = torch.cat((noise.expand(*lead, n), noise.new_zeros(*lead, m)), -1)
        return self.checked(anchors, self.terms, noise)

    def checked_targets(self, targets: object) -> Tensor:
        """Check new points ``[*b, m]`` for a prediction and return them as a tensor."""
        dtype = self.anchors.dtype
        targets = as_tensor("targets", targets, integers=dtype)
        if targets.dtype is not dtype or targets.dim() == 0:
            raise TypeError(
                f"targets must be {dtype}, like the anchors, and of shape [..., m]; got "
                f"{targets.dtype} {list(targets.shape)}"
            )
        if not all_finite(targets):
            raise ValueError("targets must be finite, but have a NaN or an infinity")
        if any(term.has_parameters_per_anchor() for term in self.terms):
            raise ValueError(
                "predict has no phase or scale for the targets: build one LaplaceGram over anchors "
                "and targets together, and call its condition()"
            )
        return targets

    def matrices(self) -> Iterator[GramParameters]:
        """The parameters of each matrix of the batch, in float64."""
        for index in product(*map(range, self.batch)):

            def taken(name: str, tensor: Tensor) -> Tensor:
                trailing = tensor.shape[-1:] if self.is_per_anchor(name) else ()
                return tensor.double().expand(*self.batch, *trailing)[index]  # noqa: B023

            yield self.map(taken)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of a matrix that is not positive definite which terms alone are not either."""
        try:
            yield
        except LinAlgError as error:
            reasons = [term.indefinite() for term in self.terms]
            found = [f"term {k}, {each}" for k, each in enumerate(reasons) if each is not None]
            if not found:
                raise
            raise LinAlgError(
                f"{error}. Not positive semidefinite by itself: {'; '.join(found)}"
            ) from None

    # --- numbers ----------------------------------------------------------------------------------

    def as_values(self, values: object) -> Tensor:
        """Values as a tensor; an array of integers is converted to the anchors' dtype."""
        return as_tensor("values", values, integers=self.anchors.dtype, exact=False)

    def broadcast_values(self, values: object, what: str = "anchors") -> Tensor:
        """Expand values ``[..., n]`` to all dimensions of the batch; n is the number of `what`.

        Raises
        ------
        TypeError, ValueError, NotImplementedError
            If values have another dtype, device or shape, or under a transform of ``torch.func``.
        """
        no_transforms()
        values, anchors = self.as_values(values), self.anchors
        if values.dtype is not anchors.dtype:
            raise TypeError(
                f"values are {values.dtype} but the anchors are {anchors.dtype}: convert one with "
                ".to()"
            )
        if values.device != anchors.device:
            raise ValueError(
                f"values are on {values.device} but the anchors are on {anchors.device}: move one "
                "with .to()"
            )
        n = self.n
        if values.dim() == 0 or values.shape[-1] != n:
            raise ValueError(
                f"values have shape {list(values.shape)} but the last dimension must be {n}, the "
                f"number of {what}"
            )
        if not self.batch:
            return values
        try:
            return values.expand(*broadcast(values.shape[:-1], self.batch), n)
        except RuntimeError:
            raise ValueError(
                f"values have shape {list(values.shape)}, which does not broadcast with the batch "
                f"{list(self.batch)}"
            ) from None

    def flattened(self, values: object) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Values as float64 ``[B, R, n]``, and a function that restores the shape of results.

        Rows are the dimensions that the batch does not have; see `layout_of`.
        """
        values = self.broadcast_values(values).double()
        lead = tuple(values.shape[:-1])
        layout = layout_of(lead, tuple(self.batch))
        moved = values if layout.in_order else values.permute(*layout.order, len(lead))
        flat = moved.reshape(layout.heads, layout.rows, self.n)

        def restore(result: Tensor) -> Tensor:
            shaped = result.reshape((*layout.sizes, *result.shape[2:]))
            if not layout.in_order:
                shaped = shaped.permute(*layout.back, *range(len(lead), shaped.dim()))
            return self.restored(shaped)

        return flat, restore

    def restored(self, result: Tensor) -> Tensor:
        """A float64 result in the anchors' dtype."""
        return result if self.anchors.dtype is torch.float64 else result.float()

    def covariance(self, origin: Tensor | None = None) -> Covariance:
        """The matrices in the layout of the compiled core, with the batch as one dimension.

        Parts of one line need an `origin` in common, see `Term.columns`.
        """
        anchors, n, batch = self.anchors.double(), self.n, self.batch
        blocks: list[Block] = []
        columns: list[Tensor] = []
        for term in self.terms:
            for part, column in term.parts(anchors, origin):
                for block in part.blocks(anchors):
                    blocks.append(block)
                    first = anchors.new_ones(()) if column is None else column
                    rest = len(block.lengthscales) - 1
                    columns += [_expand(first, (*batch, n))]
                    columns += rest * [anchors.new_zeros(()).expand(*batch, n)]
        lengthscales = [expanded(each, batch, anchors) for b in blocks for each in b.lengthscales]
        weights = [each for block in blocks for each in block.weights]
        noise = 0.0 if self.noise is None else self.noise.double()
        lead = batch or (1,)

        def flat(tensor: Tensor) -> Tensor:
            if len(lead) > 1:
                tensor = tensor.reshape(prod(lead), *tensor.shape[len(lead) :])
            return plain(tensor)

        covariance = Covariance(
            flat(anchors.expand(*lead, n)),
            flat(_stacked(lengthscales, lead)),
            flat(_stacked(columns, (*lead, n))),
            flat(expanded(noise, (*lead, n), anchors)),
        )
        if all(type(each) is float and each == 1.0 for each in weights):
            return covariance
        return covariance._replace(
            weights=flat(_stacked([expanded(each, batch, anchors) for each in weights], lead)),
            blocks=tuple(len(block.weights) for block in blocks),
        )


def shared(one: Tensor, two: Tensor) -> Tensor:
    """Merge two equal tensors into one that passes half of its derivatives to each."""
    return one if one is two or not (one.requires_grad or two.requires_grad) else (one + two) / 2


def _expand(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return tensor if tensor.shape == shape else tensor.expand(shape)


def _stacked(tensors: list[Tensor], shape: Sequence[int]) -> Tensor:
    """Stack tensors along a new last dimension and expand them to a shape."""
    if len(tensors) == 1:
        return tensors[0].expand(shape)[..., None]
    return torch.stack(tensors, -1).expand(*shape, len(tensors))
