"""`GramParameters`: the parameters of a covariance matrix of points on a line."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from numpy.linalg import LinAlgError
from torch import Tensor

from ..numpy.layout import layout_of
from .arrays import covariance_of
from .checks import (
    all_finite,
    as_tensor,
    broadcast,
    checked_anchors,
    no_transforms,
    same_device,
)
from .factor import Covariance
from .given import deep_copied, floats, has_integers, no_scalar, noise_of, note_of_column
from .terms import BaseTerm, Term, checked_terms, made
from .trend import Basis, Detached, Function, checked_mean, mean_at, mean_at_targets


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
    basis : Basis, optional
        Known functions with unknown coefficients.
    means : tuple of functions, or of tensors ``[*b, n]`` or ``[*b, 1]``
        The mean is their sum.
    """

    anchors: Tensor
    terms: tuple[BaseTerm, ...]
    noise: Tensor | None
    batch: torch.Size
    basis: Basis | None = None
    means: tuple[Function | Tensor, ...] = ()

    @classmethod
    def checked(
        cls,
        anchors: object,
        terms: object,
        noise: object,
        basis: object = None,
        prior: object = None,
        mean: object = None,
    ) -> GramParameters:
        """Check a caller's arguments.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong shape, dtype or value.
        """
        no_transforms()
        anchors = checked_anchors(floats("anchors", anchors))
        terms = checked_terms(terms)
        same_device({"noise": noise}, anchors.device)
        for term in terms:
            same_device(term.parameters(), anchors.device)
        noise = noise_of(noise, anchors)
        for term in terms:
            term.check(anchors)
        known = Basis.checked(basis, prior, anchors)
        means = checked_mean(mean, anchors)
        try:
            return cls.of(anchors, terms, noise, known, means)
        except RuntimeError:
            others = "terms and noise"
            if known is not None or means:
                others = "terms, noise, mean, basis and prior"
            raise ValueError(
                f"the leading dimensions of anchors, {others} do not broadcast"
            ) from None

    @classmethod
    def of(
        cls,
        anchors: Tensor,
        terms: tuple[BaseTerm, ...],
        noise: Tensor | None,
        basis: Basis | None = None,
        means: tuple[Function | Tensor, ...] = (),
    ) -> GramParameters:
        """Make an object from parameters that were already checked."""
        lead = [term.batch_shape() for term in terms]
        if noise is not None:
            lead.append(noise.shape[:-1])
        lead += [mean.shape[:-1] for mean in means if isinstance(mean, Tensor)]
        if basis is not None:
            lead += [part.shape[:-2] for part in basis.parts if isinstance(part, Tensor)]
            lead.append(basis.prior.shape[:-1])
        return cls(anchors, terms, noise, broadcast(anchors.shape[:-1], *lead), basis, means)

    @property
    def n(self) -> int:
        """The number of anchors."""
        return self.anchors.shape[-1]

    # --- tensors ----------------------------------------------------------------------------------

    def contents(self) -> list[object]:
        """All parameters of terms and noise: tensors, numbers and None."""
        found: list[object] = [self.anchors, self.noise]
        for term in self.terms:
            found += term.parameters().values()
        return found

    def all_contents(self) -> list[object]:
        """All parameters; in place of functions, their values at the anchors."""
        found = [*self.contents(), self.mean()]
        return found if self.basis is None else [*found, self.basis_rows(), self.basis.prior]

    def tensors(self) -> list[Tensor]:
        """The tensors among the parameters of terms and noise."""
        return [each for each in self.contents() if isinstance(each, Tensor)]

    def mean(self) -> Tensor | None:
        """The mean at the anchors, float64 ``[*b, n]`` or ``[*b, 1]``; None stands for 0."""
        return mean_at(self.means, self.anchors)

    def basis_rows(self) -> Tensor:
        """The basis at the anchors, float64 ``[*b, p, n]``."""
        assert self.basis is not None
        return self.basis.rows(self.anchors)

    def named(self) -> dict[str, Tensor]:
        """The tensors by name: ``anchors``, ``noise``, for term 0 ``0.lengthscale`` and so on.

        Names of terms other than `Term` tell their kind, as in ``0.SHO.sigma``, or the kinds and
        the number of a factor, as in ``0.Term*SHO.1.sigma``.
        Tensors of terms are converted to float64, and parameters that are None are left out. A
        basis becomes ``basis``, its rows ``[*b, p, n]``, and ``prior``; there is no mean.
        """
        found = {"anchors": self.anchors}
        if self.noise is not None:
            found["noise"] = self.noise
        if self.basis is not None:
            found |= {"basis": self.basis_rows(), "prior": self.basis.prior.double()}
        for number, term in enumerate(self.terms):
            tensors = term.tensors(self.anchors)
            kind = "" if isinstance(term, Term) else f"{term.kind()}."
            found |= {f"{number}.{kind}{name}": tensor for name, tensor in tensors.items()}
        return found

    @classmethod
    def from_named(cls, named: dict[str, Tensor]) -> GramParameters:
        """The reverse of `named`."""
        terms: dict[str, tuple[str, dict[str, Tensor]]] = {}
        for name, tensor in named.items():
            number, dot, rest = name.partition(".")
            kind, own, parameter = rest.partition(".")
            if dot:
                kind, parameter = (kind, parameter) if own else ("Term", kind)
                terms.setdefault(number, (kind, {}))[1][parameter] = tensor
        terms_made = [made(*each) for each in terms.values()]
        basis = named["basis"].mT if "basis" in named else None
        return cls.checked(
            named["anchors"], terms_made, named.get("noise"), basis, named.get("prior")
        )

    @staticmethod
    def is_per_anchor(name: str) -> bool:
        """Whether the last dimension of a named tensor numbers the anchors."""
        own = name.rpartition(".")[-1]
        return own in ("anchors", "noise", "basis", "mean", *Term.PER_ANCHOR)

    @classmethod
    def trailing(cls, name: str) -> int:
        """How many dimensions of a named tensor follow those of the batch."""
        return 2 if name == "basis" else int(name == "prior" or cls.is_per_anchor(name))

    def map(self, change: Callable[[str, Tensor], Tensor]) -> GramParameters:
        """A copy in which every tensor is replaced by the result of `change`."""

        def changed(term: BaseTerm) -> BaseTerm:
            has_tensors = any(isinstance(each, Tensor) for each in term.parameters().values())
            return term.map(change) if has_tensors else term

        return self.of(
            change("anchors", self.anchors),
            tuple(changed(term) for term in self.terms),
            None if self.noise is None else change("noise", self.noise),
            None if self.basis is None else self.basis.map(change),
            tuple(change("mean", m) if isinstance(m, Tensor) else m for m in self.means),
        )

    def deep_copied(self, memo: dict[int, Any]) -> GramParameters:
        """A copy of its own memory, for `copy.deepcopy`."""
        made = self.map(lambda _, tensor: deep_copied(tensor, memo))

        def copied(part: Function | Tensor) -> Function | Tensor:
            return part if isinstance(part, Tensor) else deepcopy(part, memo)

        basis = made.basis and made.basis._replace(parts=tuple(map(copied, made.basis.parts)))
        return made._replace(basis=basis, means=tuple(map(copied, made.means)))

    def detached(self) -> GramParameters:
        """A copy without gradients, which shares memory."""
        made = self.map(lambda _, tensor: tensor.detach())

        def without(part: Function | Tensor) -> Function | Tensor:
            return part if isinstance(part, Tensor) else Detached(part)

        basis = made.basis and made.basis._replace(parts=tuple(map(without, made.basis.parts)))
        return made._replace(basis=basis, means=tuple(map(without, made.means)))

    def resolved(self) -> GramParameters:
        """A copy in which functions are replaced by their values at the anchors."""
        mean, basis = self.mean(), self.basis
        if basis is not None:
            basis = Basis((self.basis_rows(),), basis.prior)
        return self._replace(basis=basis, means=() if mean is None else (mean,))

    def double(self) -> GramParameters:
        """A copy in float64."""
        return self.map(lambda _, tensor: tensor.double())

    def with_trend(
        self, basis: Basis | None, means: tuple[Function | Tensor, ...]
    ) -> GramParameters:
        """A copy with another basis and mean, already checked."""
        return self.of(self.anchors, self.terms, self.noise, basis, means)

    def without_trend(self) -> GramParameters:
        """A copy without basis and mean, of the same batch."""
        return self._replace(basis=None, means=())

    # --- other matrices ---------------------------------------------------------------------------

    def take(self, index: Tensor) -> GramParameters:
        """The parameters of the submatrix with the rows and columns `index`."""
        n = self.n

        def taken(name: str, tensor: Tensor) -> Tensor:
            # Noise and mean may be [*b, 1].
            along = self.is_per_anchor(name) and tensor.shape[-1] == n
            return tensor[..., index] if along else tensor

        return self.resolved().map(taken)

    def extended(
        self, targets: Tensor, basis_targets: object = None, mean_targets: object = None
    ) -> GramParameters:
        """A copy with further anchors ``[*b, m]`` at the end, which have no noise.

        Functions are replaced by their values. Where they are no functions, the values at the
        targets are needed: `basis_targets` ``[*b, m, p]`` and `mean_targets` ``[*b, m]``.
        """
        for name, given, is_there in (
            ("basis", basis_targets, self.basis is not None),
            ("mean", mean_targets, bool(self.means)),
        ):
            if given is not None and not is_there:
                raise ValueError(f"{name}_targets belongs to a {name}, but there is none")
        n, m = self.n, targets.shape[-1]
        batch = broadcast(self.anchors.shape[:-1], targets.shape[:-1])
        anchors = torch.cat((self.anchors.expand(*batch, n), targets.expand(*batch, m)), -1)
        noise = self.noise
        if noise is not None:
            lead = noise.shape[:-1]
            noise = torch.cat((noise.expand(*lead, n), noise.new_zeros(*lead, m)), -1)
        matrix = prior = None
        if self.basis is not None:
            at_targets = self.basis.at_targets(targets, basis_targets)
            matrix, prior = _joined(self.basis_rows(), at_targets).mT, self.basis.prior
        mean, mean_new = self.mean(), mean_at_targets(self.means, n, targets, mean_targets)
        if mean is not None and mean_new is not None:
            old = mean.expand(*mean.shape[:-1], n)
            mean = _joined(old, mean_new.expand(*mean_new.shape[:-1], m))
        return self.checked(anchors, self.terms, noise, matrix, prior, mean)

    def showing(self, components: Container[int | str], n: int) -> GramParameters:
        """A copy of which only some components reach the anchors from number `n` on.

        The components are numbers of terms, and "basis" and "mean". All functions must be resolved.
        """
        shown = torch.arange(self.n, device=self.anchors.device) < n

        def hidden(tensor: Tensor, name: str) -> Tensor:
            return tensor if name in components else tensor * shown

        terms = tuple(
            term if k in components else term.replaced(scale=_masked(term.scale, shown))
            for k, term in enumerate(self.terms)
        )
        basis = self.basis
        if basis is not None:
            basis = basis._replace(parts=(hidden(self.basis_rows(), "basis"),))
        mean = self.mean()
        means = () if mean is None else (hidden(mean, "mean"),)
        return self.of(self.anchors, terms, self.noise, basis, means)

    def checked_targets(self, targets: object) -> Tensor:
        """Check new points ``[*b, m]`` for a prediction and return them as a tensor."""
        dtype = self.anchors.dtype
        no_scalar("targets", targets)
        targets = as_tensor("targets", floats("targets", targets, dtype), integers=dtype)
        if targets.dtype is not dtype:
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
                return tensor.double().expand((*self.batch, *trailing))[index]  # noqa: B023

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
        """Values as a tensor; integers are converted to the anchors' dtype."""
        dtype = self.anchors.dtype
        if has_integers(values):
            values = values.to(dtype)
        return as_tensor("values", values, integers=dtype, exact=False)

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
                f"number of {what}{note_of_column(anchors)}"
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

    def centered(self, values: object) -> Tensor:
        """Values ``[..., n]`` minus the mean."""
        values, mean = self.broadcast_values(values), self.mean()
        return values if mean is None else self.restored(values.double() - mean)

    def shifted(self, values: Tensor) -> Tensor:
        """Values ``[..., n]`` plus the mean."""
        mean = self.mean()
        return values if mean is None else self.restored(values.double() + mean)

    def flat_basis(self) -> tuple[Tensor, Tensor]:
        """The basis ``[B, p, n]`` at the anchors, and the priors ``[B, p]``, in float64."""
        assert self.basis is not None
        rows, prior, size = self.basis_rows(), self.basis.prior.double(), prod(self.batch)
        shape = (*self.batch, *rows.shape[-2:])
        prior = prior.expand(*self.batch, rows.shape[-2])
        return rows.expand(shape).reshape(size, *shape[-2:]), prior.reshape(size, -1)

    def restored(self, result: Tensor) -> Tensor:
        """A float64 result in the anchors' dtype."""
        return result if self.anchors.dtype is torch.float64 else result.float()

    def covariance(self, origin: Tensor | None = None) -> Covariance:
        """The matrices in the layout of the compiled core, with the batch as one dimension.

        Parts of one line need an `origin` in common, see `Term.columns`.
        """
        noise = 0.0 if self.noise is None else self.noise.double()
        return covariance_of(self.terms, self.anchors.double(), noise, self.batch, origin)


def _masked(scale: Tensor | None, shown: Tensor) -> Tensor:
    return shown.double() if scale is None else scale * shown


def _joined(one: Tensor, two: Tensor) -> Tensor:
    """Two tensors side by side along their last dimension."""
    lead = broadcast(one.shape[:-1], two.shape[:-1])
    return torch.cat((one.expand(*lead, -1), two.expand(*lead, -1)), -1)


def shared(one: Tensor, two: Tensor) -> Tensor:
    """Merge two equal tensors into one that passes half of its derivatives to each."""
    return one if one is two or not (one.requires_grad or two.requires_grad) else (one + two) / 2
