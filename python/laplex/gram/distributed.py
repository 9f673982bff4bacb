"""`GaussianOnRanks`: the algebra of N(0, A) for anchors that are spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log, pi
from typing import Any

import torch
from torch import Tensor

from .._support.communicator import Communicator, together
from ..torch.functional import matvec
from . import factor as factors
from .checks import ArrayLike, copied, same_contents, split
from .conditional import Conditional
from .factor import Covariance
from .gaussian import Gaussian
from .line import Boundaries, Line, total
from .parameters import GramParameters
from .rotation import middle
from .terms import Term
from .unobserved import variances


class GaussianOnRanks(Gaussian):
    """A `Gaussian` of the anchors of all ranks, of which this one has a part in `parameters`.

    Every method is collective, and returns what belongs to this rank's anchors.
    """

    _comm: Communicator

    def start(self, comm: Communicator) -> None:
        """Compare the parameters with those of the other ranks.

        :meta private:
        """
        self._comm = comm
        together(comm, self._check)
        # [*b, 1] is one noise for all anchors, unless another rank has one for each.
        one_noise = self.noise is None or self.noise.shape[-1] == 1
        (everyone,) = self._everyone([one_noise])
        self._one_noise = all(everyone)
        self._same(
            {
                "the dtype of anchors": str(self.dtype),
                "the device of anchors": self.device.type,
                "the batch": list(self._batch),
                "the list of parameters": list(self.parameters.named()),
            }
        )
        self._kept_line: tuple[list[object], Line] | None = (
            copied(self.parameters.contents()),
            self._factorised(),
        )

    def _check(self) -> None:
        if self._basis is not None or self._means:
            raise NotImplementedError(
                "a LaplaceGram over ranks takes no mean and no basis: subtract a mean from the "
                "values, or build a LaplaceGram of one process, without group and comm"
            )
        for term in self.terms:
            if not isinstance(term, Term):
                raise NotImplementedError(
                    f"terms has {term!r}, but anchors over ranks can have only laplex.gram.Term: "
                    "build a LaplaceGram of one process, without group and comm"
                )

    # --- results ----------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape ``(*b, n, n)``, where n counts the anchors of all ranks."""
        return torch.Size((*self._batch, self._n, self._n))

    def solve(self, values: ArrayLike) -> Tensor:
        """As `Gaussian.solve`, without derivatives."""
        rows, restore, line, recorded = self._entered(values)
        _refuse_derivatives("solve", recorded)
        return restore(line.solve(rows))

    def logdet(self) -> Tensor:
        """As `Gaussian.logdet`, with first derivatives."""
        zeros = self.anchors.new_zeros((*self._batch, self.anchors.shape[-1]))
        rows, _, line, recorded = self._entered(zeros)
        if recorded:
            result = -2.0 * self._log_prob(line, rows, True)[:, 0] - self._n * log(2 * pi)
        else:
            result = line.logdet().clone()
        return self.parameters.restored(result.reshape(self._batch))

    def log_prob(self, values: ArrayLike) -> Tensor:
        """As `Gaussian.log_prob`, with first derivatives."""
        rows, restore, line, recorded = self._entered(values)
        return restore(self._log_prob(line, rows, recorded))

    def inv_quad_logdet(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """As `Gaussian.inv_quad_logdet`, without derivatives."""
        rows, restore, line, recorded = self._entered(values)
        _refuse_derivatives("inv_quad_logdet", recorded)
        logdet = self.parameters.restored(line.logdet().clone().reshape(self._batch))
        return restore(line.squares(rows, line.boundaries(rows))), logdet

    def diagonal(self) -> Tensor:
        """As `Gaussian.diagonal`, at this rank's anchors."""
        covariance = self.parameters.covariance()
        variances = covariance.loadings.square().sum(-1) + covariance.noise
        return self.parameters.restored(variances.reshape(*self._batch, -1))

    def condition(self, observed_index: ArrayLike, values: ArrayLike) -> Conditional:
        """As `LaplaceGram.condition`, without derivatives; indices count this rank's anchors."""
        n = self.anchors.shape[-1]
        observed, rest = together(self._comm, lambda: split(observed_index, n, self.device))
        return self._condition(self.parameters, observed, rest, values)

    def predict(
        self,
        targets: ArrayLike,
        values: ArrayLike,
        *,
        term: object = None,
        basis_targets: object = None,
        mean_targets: object = None,
    ) -> Conditional:
        """As `LaplaceGram.predict`, without derivatives; targets are in line order."""
        parameters = self.parameters

        def checked() -> GramParameters:
            if term is not None:
                raise NotImplementedError(
                    "over ranks, predict takes no term: leave group and comm out"
                )
            new = parameters.checked_targets(targets)
            return parameters.extended(new, basis_targets, mean_targets)

        whole = together(self._comm, checked)
        numbers = torch.arange(whole.n, device=self.device)
        observed, rest = numbers.tensor_split([parameters.n])
        return self._condition(whole, observed, rest, values)

    # --- inside -----------------------------------------------------------------------------------

    def _entered(self, values: ArrayLike) -> tuple[Tensor, Callable[[Tensor], Tensor], Line, bool]:
        """Values as rows, how to restore their shape, the factor, and whether autograd records.

        The factor is computed again if a number of any rank has changed.
        """
        parameters = self.parameters

        def checked() -> tuple[Tensor, Callable[[Tensor], Tensor], bool, bool]:
            rows, restore = parameters.flattened(values)
            recorded = self._is_recorded(rows)
            kept = self._kept_line
            stale = kept is None or not same_contents(kept[0], parameters.contents())
            return rows, restore, recorded, stale

        rows, restore, recorded, stale = together(self._comm, checked)
        shared = self._shared()
        summed = [name for name in shared if recorded and shared[name].requires_grad]
        self._same(
            {
                "the leading shape of values": list(restore(rows).shape[:-1]),
                "the list of shared parameters that require gradients": summed,
            }
        )
        recorded, stale = (any(flags) for flags in self._everyone((recorded, stale)))
        if stale or self._kept_line is None:
            self._kept_line = (copied(parameters.contents()), self._factorised())
        return rows, restore, self._kept_line[1], recorded

    def _factorised(self) -> Line:
        single = len(self.terms) == 1
        self._same(
            {
                name.removeprefix("0.") if single else name: number.tolist()
                for name, number in self._shared().items()
            }
        )
        own = middle(self.anchors).double()
        some = self._everyone([own.tolist() if self.anchors.shape[-1] else None])[0]
        known = [each for each in some if each is not None] or [own.tolist()]
        origins = torch.tensor(known, dtype=torch.float64)
        self._origin = origins.median(0).values.to(own)
        covariance = self.parameters.covariance(self._origin)
        line = Line(self._comm, covariance.map(torch.Tensor.detach))
        self._n = line.n
        return line

    def _shared(self) -> dict[str, Tensor]:
        """The parameters that belong to the anchors of all ranks."""
        return {
            name: tensor
            for name, tensor in self.parameters.named().items()
            if not GramParameters.is_per_anchor(name) or (name == "noise" and self._one_noise)
        }

    def _everyone(self, mine: Sequence[Any]) -> list[tuple[Any, ...]]:
        """For each of some things, what all ranks have."""
        return list(zip(*self._comm.all_gather_object(mine), strict=True))

    def _same(self, mine: dict[str, object]) -> None:
        """Raise an error unless some things are the same on every rank."""
        for name, everyone in zip(mine, self._everyone(list(mine.values())), strict=True):
            for rank, other in enumerate(everyone):
                if other != everyone[0]:
                    raise ValueError(
                        f"rank {rank}: {name} is {other}, but {everyone[0]} on rank 0: pass the "
                        "same on every rank"
                    )

    def _log_prob(self, line: Line, rows: Tensor, recorded: bool) -> Tensor:
        """The density ``[B, R]``, with its derivatives if recorded."""
        anchors_too = recorded and any(self._everyone([self.anchors.requires_grad])[0])
        if anchors_too:
            line.refuse_ties()
        columns = line.before.noise.shape[-1]
        is_simple = (
            len(self.terms) == len(rows) == rows.shape[1] == columns == 1
            and not self._batch
            and not self.terms[0].has_parameters_per_anchor()
            and not anchors_too
        )
        boundaries = line.boundaries(rows)
        gram = None if is_simple else line.part().gram
        if is_simple:
            with torch.no_grad():
                own = together(
                    self._comm, lambda: _one_process(self.parameters, rows, boundaries, False)
                )
            density = total(self._comm, own)
        else:
            density = line.log_prob(rows, boundaries)
        if not recorded:
            return density
        named, shared = self.parameters.named(), self._shared()
        names, origin = list(named), self._origin

        def local(rows: Tensor, *tensors: Tensor) -> Tensor:
            parameters = GramParameters.from_named(dict(zip(names, tensors, strict=True)))
            if is_simple:
                return _one_process(parameters, rows, boundaries, True)
            part = boundaries.part(parameters.covariance(origin), gram)
            return factors.log_prob(part.gram, boundaries.rows(part, rows), part.covariance)

        summed = [False, *(name in shared for name in names)]
        result: Tensor = _LogProb.apply(  # type: ignore[no-untyped-call]
            self._comm, local, summed, density, rows, *named.values()
        )
        return result

    def _condition(
        self, parameters: GramParameters, observed: Tensor, rest: Tensor, values: ArrayLike
    ) -> Conditional:
        made = together(
            self._comm,
            lambda: ConditionalOnRanks(
                Gaussian.of(parameters), observed, rest, values, made_of=self
            ),
        )
        made.look_around(self._comm, self._origin)
        return made


class ConditionalOnRanks(Conditional):
    """A `Conditional` of this rank's entries, given those of all ranks; not differentiable.

    Once it has looked around, nothing else in it is collective.
    """

    _boundaries: Boundaries
    _origin: Tensor

    def look_around(self, comm: Communicator, origin: Tensor) -> None:
        """Find what the other ranks know.

        :meta private:
        """
        own, values, self._origin = self._gram, self._values, origin
        together(comm, lambda: _refuse_derivatives("condition", own._is_recorded(values)))
        everything = values.new_zeros(*values.shape[:-1], own.anchors.shape[-1])
        everything[..., self.observed] = values
        rows, _ = own.parameters.flattened(everything)
        self._boundaries = Line(comm, self._observed_covariance()).boundaries(rows)

    @torch.no_grad()
    def _observed_covariance(self) -> Covariance:
        """The covariance of all entries, of which the rest was not observed."""
        covariance = self._gram.parameters.covariance(self._origin)
        noise = covariance.noise.clone()
        noise[:, self.rest] = inf
        return covariance._replace(noise=noise)

    @torch.no_grad()
    def _expectation(self, values: Tensor) -> Tensor:
        rows, restore = self._given.parameters.flattened(values)
        part = self._boundaries.part(self._given.parameters.covariance(self._origin))
        weights = part.gram.solve(self._boundaries.rows(part, rows))
        anchors, lengthscale, loadings = part.covariance[:3]
        whole = self._gram.parameters.covariance(self._origin)
        targets = whole.anchors[:, self.rest]
        total = rows.new_zeros(*rows.shape[:2], targets.shape[-1])
        for j in range(loadings.shape[-1]):
            product = matvec(
                (loadings[:, None, :, j] * weights).movedim(1, 0),
                targets,
                anchors,
                lengthscale=lengthscale[:, j],
            ).movedim(0, 1)
            total += whole.loadings[:, None, self.rest, j] * product
        return restore(total)

    @torch.no_grad()
    def _latent_variance(self) -> Tensor:
        part = self._boundaries.part(self._observed_covariance())
        result = variances(part.covariance, part.first + self.rest)
        result = result.reshape(*self._gram.shape[:-2], self.rest.numel())
        return self._gram.parameters.restored(result.clamp(min=0))

    def sample(self, *_: Any, **__: Any) -> Tensor:
        """Not available over ranks."""
        raise NotImplementedError(_MISSING.format("Conditional.sample"))

    def log_prob(self, *_: Any) -> Tensor:
        """Not available over ranks."""
        raise NotImplementedError(_MISSING.format("Conditional.log_prob"))

    def _covariance(self) -> Tensor:
        raise NotImplementedError(_MISSING.format("Conditional.covariance"))


def _one_process(
    parameters: GramParameters, rows: Tensor, boundaries: Boundaries, both: bool
) -> Tensor:
    """The density ``[1, 1]`` of a part of one real process, by the way that keeps no factor.

    Either given the pseudo-observations before it, or together with those at `both` ends, up to a
    constant.
    """
    anchors, (term,), noise, *_ = parameters
    assert isinstance(term, Term)
    variance = torch.as_tensor(term.variance, dtype=torch.float64).to(rows)
    own = rows.new_zeros(1) if noise is None else noise.double()
    places, variances, values = [anchors.double()], [own.expand(anchors.shape)], [rows[0, 0]]
    constant = rows.new_zeros(())
    ends = [(boundaries.before, boundaries.values_before)]
    if both:
        ends.append((boundaries.behind, boundaries.values_behind))
    for pseudo, observed in ends:
        if bool(pseudo.noise.isfinite().all()):  # not before the first anchors
            # They are of the state, whose variance is 1. Here, they are made of the process.
            own_noise, value = pseudo.noise[0].to(rows), (observed * pseudo.loadings)[0, 0].to(rows)
            places.append(pseudo.place.to(rows))
            variances.append(own_noise * variance)
            values.append(value * variance.sqrt())
            spread = 1.0 + own_noise[0]
            given = -0.5 * (value[0].square() / spread + (2 * pi * spread).log())
            constant = constant + 0.5 * variance.log() - (0.0 if both else given)
    extended = GramParameters.of(torch.cat(places), (term,), torch.cat(variances))
    density = Gaussian.of(extended).log_prob(torch.cat(values))
    return (density + constant)[None, None]


class _LogProb(torch.autograd.Function):
    """The density of all ranks, with the derivatives of the part between its boundaries.

    By Fisher's identity: the derivative of log p(values) is the expectation, given the values, of
    that of the log density of values and states, which is a sum over the parts. What the other
    ranks know of the states stays as it is.
    """

    @staticmethod
    def forward(
        ctx: Any,
        comm: Communicator,
        local: Callable[..., Tensor],
        summed: list[bool],
        density: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.comm, ctx.local, ctx.summed = comm, local, summed
        ctx.save_for_backward(*tensors)
        return density.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "a LaplaceGram over ranks has first derivatives only: a second one was requested"
            )
        tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        with torch.enable_grad():
            views = [
                each.detach().requires_grad_(needed)
                for each, needed in zip(tensors, needs, strict=True)
            ]
            density = ctx.local(*views)
            needed = [each for each in views if each.requires_grad]
            found = torch.autograd.grad(density, needed, grads[0], materialize_grads=True)
        results: list[Tensor | None] = []
        own = iter(found)
        for view, summed in zip(views, ctx.summed, strict=True):
            grad = next(own) if view.requires_grad else None
            if grad is not None and summed:
                grad = total(ctx.comm, grad.double()).to(grad)
            results.append(grad)
        return (None, None, None, None, *results)


_MISSING = (
    "a LaplaceGram over ranks has no {}: it has solve, logdet, log_prob, inv_quad_logdet, "
    "diagonal, condition and predict"
)


def _missing(name: str) -> Callable[..., Any]:
    def method(self: object, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(_MISSING.format(name))

    method.__doc__ = ":meta private:"
    return method


def _refuse_derivatives(what: str, recorded: bool) -> None:
    if recorded:
        raise NotImplementedError(
            f"{what} has no derivatives over ranks, only log_prob and logdet have them: call it "
            "under torch.no_grad()"
        )


# Everything else of a `LaplaceGram`.
for _names in (
    ("matvec", "__matmul__", "__rmatmul__", "color", "whiten", "sample"),
    ("__add__", "__radd__", "__mul__", "__rmul__", "to", "detach"),
    ("coefficients", "precision", "to_dense", "__array__", "to_scipy", "to_linear_operator"),
):
    for _name in _names:
        setattr(GaussianOnRanks, _name, _missing(_name))
