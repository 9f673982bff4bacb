"""Cases of `laplex.distributed.matvec`, each checked on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import laplex
from laplex._support.communicator import communicator
from laplex.distributed import ShardedPlan, matvec
from line_cases import shard

D = torch.float64
SIDES = ("sources", "targets", "sources", None, None, "targets", "sources")


class Case(NamedTuple):
    n: int = 26_000
    m: int | None = 14_000
    complex_values: bool = False
    phases: bool = False
    frequency: bool = False
    options: dict[str, Any] = {}  # noqa: RUF012 (not changed)
    shards: str = "uneven"


CASES = {
    "real": Case(),
    "self": Case(40_000, None, shards="empty"),
    "complex values": Case(complex_values=True),
    "carrier": Case(phases=True),
    "oscillating, self": Case(40_000, None, frequency=True),
    "cosine": Case(complex_values=True, phases=True, frequency=True, options={"real_part": True}),
    "all together, self": Case(40_000, None, True, True, True, shards="skewed"),
    "matern32": Case(options={"kernel": "matern32"}, shards="empty"),
    "matern52": Case(40_000, None, True, True, True, options={"kernel": "matern52"}),
}


def check(rank: int, size: int, names: list[str]) -> None:
    """Results, gradients and products with the Hessian are those of one process."""
    for name in names:
        case = CASES[name]
        torch.manual_seed(4)
        n, m = case.n, case.n if case.m is None else case.m
        v = torch.randn(2, m, dtype=torch.complex128 if case.complex_values else D)
        x, y = torch.rand(n, dtype=D), None if case.m is None else torch.rand(m, dtype=D)
        x[:50] = x[60]  # ties
        if y is not None:
            y[:50] = x[:50]
        theta, phi = (torch.randn(s, dtype=D) if case.phases else None for s in (n, m))
        omega = torch.tensor(300.0, dtype=D) if case.frequency else None
        tensors = [v, x, y, torch.tensor(0.01, dtype=D), omega, theta, phi]
        along = [None if each is None else torch.randn_like(each) for each in tensors]
        weights = torch.randn(2, n, dtype=D)

        at = {"targets": shard(n, size, case.shards)[rank], None: Ellipsis}
        at["sources"] = shard(m, size, case.shards)[rank]

        def mine(whole: list[Tensor | None], at: Any = at) -> list[Tensor | None]:
            return [
                None if each is None else each[..., at[side]] if side else each
                for each, side in zip(whole, SIDES, strict=True)
            ]

        own_along = mine(along)
        if rank > 0:  # of the two numbers that all ranks share, one rank's directions count
            own_along[3:5] = (None if each is None else 0 * each for each in own_along[3:5])
        wanted = derivatives(laplex.matvec, tensors, along, weights, case.options)
        got = derivatives(matvec, mine(tensors), own_along, weights[:, at["targets"]], case.options)
        assert torch.equal(got[0][0], wanted[0][0][:, at["targets"]]), name
        for order, tolerance in ((1, 1e-13), (2, 1e-11)):
            for whole, part, share in zip(
                wanted[order], got[order], mine(wanted[order]), strict=True
            ):
                assert (whole is None) == (part is None)
                if whole is not None:
                    # Sums of cancelling terms: their rounding is measured in the largest entry.
                    torch.testing.assert_close(
                        part, share, rtol=tolerance, atol=tolerance * float(whole.abs().max())
                    )


def derivatives(
    function: Callable[..., Tensor],
    tensors: list[Tensor | None],
    along: list[Tensor | None],
    weights: Tensor,
    options: dict[str, Any],
) -> tuple[list[Tensor | None], ...]:
    """The product, the gradients of a loss, and the derivatives of those along a direction."""
    leaves = [None if each is None else each.clone().requires_grad_() for each in tensors]
    v, x, y, ell, omega, theta, phi = leaves
    u = function(
        v,
        x,
        y,
        lengthscale=ell,
        frequency=0.0 if omega is None else omega,
        target_phase=theta,
        source_phase=phi,
        **options,
    )
    parts = u.real + 0.7 * u.imag if u.is_complex() else u
    given = [each for each in leaves if each is not None]
    first = torch.autograd.grad((weights * parts.square()).sum(), given, create_graph=True)
    directions = [each for each in along if each is not None]
    slope = sum(
        (gradient * direction.conj()).real.sum()
        for gradient, direction in zip(first, directions, strict=True)
    )
    second = torch.autograd.grad(slope, given)

    def filled(found: tuple[Tensor, ...]) -> list[Tensor | None]:
        left = iter(found)
        return [None if each is None else next(left).detach() for each in leaves]

    return [u.detach()], filled(first), filled(second)


class Part(torch.autograd.Function):
    """A rank's part of what all ranks know; the gradient is gathered from all."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, at: slice) -> Tensor:
        ctx.shape, ctx.at = whole.shape, at
        return whole[at].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return Whole.apply(grad, ctx.at, ctx.shape[0]), None


class Whole(torch.autograd.Function):
    """The parts of all ranks together; the gradient is a rank's part of that."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, at: slice, count: int) -> Tensor:
        ctx.at = at
        whole = np.zeros(count)
        whole[at] = part.detach().numpy()
        return torch.from_numpy(communicator().all_reduce(whole))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Part.apply(grad, ctx.at), None, None


class Once(torch.autograd.Function):
    """A number that all ranks share: its gradient, which all know, counts once and not per rank."""

    @staticmethod
    def forward(ctx: Any, number: Tensor) -> Tensor:
        return number.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Divided.apply(grad)


class Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent / communicator().size


def check_numerically(rank: int, size: int, real: bool) -> None:
    """gradcheck and gradgradcheck, with the same function of a few numbers on all ranks.

    Some anchors on either side of the boundary move; the other ones fill the segments.
    """
    torch.manual_seed(6)
    filling = torch.linspace(0, 1, 33_000, dtype=D)
    moving = 0.5 + 0.01 * torch.randn(6, dtype=D)
    x, y, v = moving[:4], moving[4:] + 0.003, torch.randn(2, dtype=D)
    ell = torch.tensor(0.02, dtype=D)
    at = [slice(0, 3), slice(3, 4)][rank], [slice(0, 1), slice(1, 2)][rank]

    def function(v: Tensor, x: Tensor, y: Tensor, ell: Tensor) -> Tensor:
        filled = torch.cat([Part.apply(x, at[0]), filling[rank::2]])
        u = matvec(
            Part.apply(v, at[1]),
            filled,
            Part.apply(y, at[1]),
            lengthscale=Once.apply(ell),
            target_phase=None if real else torch.linspace(0, 5, len(filled), dtype=D),
        )
        parts = u if real else u.real + 0.3 * u.imag
        return Whole.apply(parts[: at[0].stop - at[0].start], at[0], 4)

    given = tuple(each.requires_grad_() for each in (v, x, y, ell))
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def check_habits(rank: int, size: int) -> None:
    """Gradients that only some ranks need, empty shards, plans, line order, half precision."""
    torch.manual_seed(8)
    count = 40_000
    x, v = torch.rand(count), torch.randn(3, count)
    at = shard(count, size, "empty")[rank]
    reference = laplex.matvec(v, x, lengthscale=0.125)
    v_all = v.clone().requires_grad_()
    laplex.matvec(v_all, x, lengthscale=0.125).square().sum().backward()

    plan = ShardedPlan(x[at].numpy(), lengthscale=3)
    for given in (None, plan):
        mine = v[:, at].clone().requires_grad_(rank == 0)
        u = matvec(mine, x[at], lengthscale=0.125, plan=given)
        assert u.requires_grad
        assert torch.equal(u, reference[:, at])
        u.square().sum().backward()
        assert (mine.grad is None) == (rank != 0)
        if rank == 0:
            torch.testing.assert_close(mine.grad, v_all.grad[:, at])

    at = slice(10_000 * rank, 10_000 * (rank + 1))
    plan = ShardedPlan(x[at].numpy(), lengthscale=3)
    assert plan.line_shape[0] == [16_384, 0, 16_384, 7_232][rank]
    ell = torch.tensor(0.125, requires_grad=True)
    w = torch.from_numpy(plan.to_line(v[:, at].numpy())).requires_grad_()
    u = matvec(w, x[at], lengthscale=ell, plan=plan, order="line")
    assert torch.equal(torch.from_numpy(plan.from_line(u.detach().numpy())), reference[:, at])
    (d_w, d_ell) = torch.autograd.grad(u.square().sum(), (w, ell), create_graph=True)
    at_home = torch.from_numpy(plan.from_line(d_w.detach().numpy(), side="sources"))
    torch.testing.assert_close(at_home, v_all.grad[:, at])
    (second,) = torch.autograd.grad(d_w.sum() + d_ell, ell, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice, not three times"):
        second.backward(retain_graph=True)
    for by in (w, ell):  # a way to one tensor alone leads through the refusal, too
        with pytest.raises(NotImplementedError, match="twice, not three times"):
            torch.autograd.grad(second**2, by, retain_graph=True)

    for half in (torch.float16, torch.bfloat16):
        mine = v[:, at].to(half).requires_grad_()
        u = matvec(mine, x[at], lengthscale=0.125)
        assert torch.equal(u, laplex.matvec(v.to(half), x, lengthscale=0.125)[:, at])
        u.sum().backward()
        assert mine.grad.dtype is half

    with torch.no_grad():
        assert not matvec(w.detach(), x[at], plan=plan, order="line").requires_grad


def check_subgroup(rank: int, size: int) -> None:
    """Ranks of the group, not of the world, count; the others do not take part."""
    group = torch.distributed.new_group([2, 1])
    if rank == 0:
        return
    x = torch.from_numpy(np.random.default_rng(0).random(40_000))
    at = slice(0, 15_000) if group.rank() == 0 else slice(15_000, None)
    assert torch.equal(matvec(x[at], x[at], group=group), laplex.matvec(x, x)[at])


def check_errors(rank: int, size: int) -> list[str]:
    """What is wrong on rank 1 is the same error on all ranks; returns the messages."""
    x = torch.linspace(0, 1, 8)
    plan = ShardedPlan(x.numpy())

    def pick(bad: Any, good: Any) -> Any:
        return bad if rank == 1 else good

    calls: dict[str, Callable[[], Any]] = {
        "TypeError: rank 1: values must be a torch tensor": lambda: matvec(pick([1.0], x), x),
        "ValueError: rank 1: targets must be finite, but entry 7 is NaN": lambda: matvec(
            x, pick(torch.where(x < 1, x, torch.nan), x)
        ),
        "ValueError: rank 1: values has 7 entries in its last": lambda: matvec(pick(x[1:], x), x),
        "TypeError: rank 1: sources has dtype torch.float64": lambda: matvec(
            x, x, pick(x.double(), 2 * x)
        ),
        "ValueError: lengthscale is 1.0 on rank 0 but 2.0 on rank 1": lambda: matvec(
            x, x, lengthscale=pick(2.0, torch.tensor(1.0))
        ),
        "NotImplementedError: rank 1: values is on meta, but a line over": lambda: matvec(
            pick(x.to("meta"), x), x
        ),
        "ValueError: the leading shape of values is (1,) on rank 0 but (2,)": lambda: matvec(
            x.expand(pick(2, 1), 8), x
        ),
        "ValueError: rank 1: targets and sources are not the anchors of plan": lambda: matvec(
            x, pick(x + 1, x), plan=plan
        ),
        "ValueError: rank 1: lengthscale has shape [2], but a line over processes": lambda: matvec(
            x, x, lengthscale=pick(torch.ones(2), 1.0)
        ),
        "TypeError: rank 1: values has the layout torch.sparse_coo": lambda: matvec(
            pick(x.to_sparse(), x), x
        ),
        "TypeError: rank 1: plan must be a ShardedPlan, got Plan": lambda: matvec(
            x, x, plan=pick(laplex.Plan(x.numpy()), None)
        ),
        "ValueError: the call is 'matvec' on rank 0 but 'apply' on rank 1": lambda: pick(
            plan.apply, lambda v: matvec(v, x)
        )(x.numpy() if rank == 1 else x),
        "TypeError: rank 1: order='line' needs a plan": lambda: matvec(
            x, x, order=pick("line", "user")
        ),
    }
    messages = []
    for expected, call in calls.items():
        try:
            call()
            message = "no error"
        except (TypeError, ValueError, NotImplementedError) as error:
            message = f"{type(error).__name__}: {error}"
        assert message.startswith(expected), message
        messages.append(message)
    return messages
