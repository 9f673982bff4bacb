"""`laplex.distributed.matvec`: the operator on a line over processes, differentiable twice.

The collectives of a call are in three places: the product, its gradients and the gradients of
those. Each place does the same on all ranks, whatever a single rank needs, so the ranks always meet
in the same collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from .._support.arguments import kernel_number
from .._support.communicator import agree, communicator
from .._support.core import PRODUCT, Form, Term
from .._support.profiles import profile_of
from .._support.sides import BOTH
from .._support.sum_family import ODD
from ..numpy.checks import Array
from ..torch.call import (
    HALF,
    NAMES,
    SIDES,
    TENSORS,
    Call,
    Scalar,
    call_of,
    check_dense,
    signature,
)
from ..torch.derivatives import Primitive, real, vjp
from .line import Line
from .part import Part
from .plan import ShardedPlan, check_finite

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch.distributed import ProcessGroup


def matvec(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: Scalar = 1.0,
    frequency: Scalar = 0.0,
    target_phase: Tensor | None = None,
    source_phase: Tensor | None = None,
    real_part: bool = False,
    kernel: str = "matern12",
    group: ProcessGroup | None = None,
    comm: MPI.Comm | None = None,
    plan: ShardedPlan | None = None,
    order: str = "user",
) -> Tensor:
    r"""Multiply values by the kernel matrix of targets and sources that are spread over processes.

    It is `laplex.matvec` for the anchors of all ranks together, one after another in rank order:
    each rank passes its shard of values, targets and sources, of any size, and gets its shard of
    the result. Results and first derivatives have the same bits for any number of ranks. The result
    is differentiable twice with respect to every tensor argument.

    Parameters
    ----------
    values : Tensor, shape ``[..., m_local]``
        This rank's shard of the vectors to multiply, with the same leading dimensions and dtype on
        all ranks; real or complex, of the anchors' precision. Float32 anchors also take float16 and
        bfloat16 values.
    targets : Tensor, shape ``[n_local]``
        This rank's shard of the targets, float32 or float64, in any order; it may be empty.
    sources : Tensor, shape ``[m_local]``, optional
        This rank's shard of the sources. If no rank gives it, the targets are also the sources.
    lengthscale, frequency : float or Tensor, shape ``[]``
        As in `laplex.matvec`, and with the same value on all ranks.
    target_phase, source_phase : Tensor, shapes ``[n_local]`` and ``[m_local]``, optional
        Carrier phases in radians.
    real_part, kernel
        As in `laplex.matvec`, and the same on all ranks.
    group : torch.distributed.ProcessGroup, optional
        The processes. The default is torch's default group if torch.distributed is initialised, and
        otherwise this process alone.
    comm : mpi4py.MPI.Comm, optional
        The processes of MPI, instead of a group.
    plan : ShardedPlan, optional
        A plan of the same anchors, which saves sorting and sending them again, as in the steps of a
        training loop with fixed anchors. Its lengthscale, frequency, phases and kernel do not
        matter, its group does.
    order : {"user", "line"}
        The order of values and result. Line order, see `ShardedPlan.to_line`, needs a `plan`, and
        sends only some numbers for each segment of the line. Anchors and phases are always in user
        order.

    Returns
    -------
    Tensor, shape ``[..., n_local]``
        This rank's shard of the product.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `laplex.matvec` does, on all ranks with the same message, which names the rank; if
        arguments differ that must be the same on all ranks; if the anchors are not those of
        `plan`; or if a tensor is not on the CPU.
    laplex.distributed.RankDiedError
        If a process of the group dies (gloo only).

    Notes
    -----
    **Collective.** All ranks call the function, ``backward()`` and ``torch.autograd.grad`` in the
    same order, also ranks with empty shards, and each rank's loss depends on its result, if only by
    ``0 * result.sum()``. If a tensor requires gradients on one rank, this counts for all: the ranks
    agree on it in the forward pass.

    **Gradients** are those of the sum of the losses of all ranks. Each rank gets the gradients of
    its shards. Lengthscale and frequency are one number that all ranks share: each rank gets its
    whole derivative, with the same bits, so optimisers on all ranks take the same step without any
    communication. ``DistributedDataParallel`` averages gradients over ranks, which leaves this one
    as it is. If the loss that you mean is the *mean* of the ranks' losses, as it is with that
    wrapper, then divide each rank's loss by the number of ranks. Shards of anchors or values are
    different parameters on each rank, so they must stay outside that wrapper.

    **Second derivatives** are obtained with ``create_graph=True`` on all ranks; third derivatives
    raise a NotImplementedError.

    **GPUs.** The line is on the CPU. For CUDA tensors use `laplex.matvec` and shard the rows.
    ``torch.compile`` leaves the call as it is, with a break in the graph. The transforms of
    ``torch.func``, among them ``vmap`` and ``jvp``, are not supported.

    Examples
    --------
    On one process it is `laplex.matvec`:

    >>> import torch, laplex.distributed
    >>> x = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64)
    >>> laplex.distributed.matvec(torch.ones(3, dtype=torch.float64), x)
    tensor([1.5032, 1.5032, 1.7358], dtype=torch.float64)
    """
    planned = plan if isinstance(plan, ShardedPlan) else None
    where = communicator(group, comm) if planned is None else planned._comm
    error: Exception | None = None
    facts: dict[str, object] = {}
    needs = [False] * TENSORS
    try:
        call = call_of(
            values,
            targets,
            sources,
            lengthscale,
            frequency,
            target_phase,
            source_phase,
            real_part,
        )
        both = call.real_part and values.is_complex()
        if both:  # the parts form one more leading dimension
            call = call._replace(values=torch.stack((values.real, values.imag)))
        profile_of(kernel)
        if plan is not None and planned is None:
            raise TypeError(f"plan must be a ShardedPlan, got {type(plan).__name__}")
        if plan is not None and not (group is None and comm is None):
            raise TypeError("give group= or comm=, or a plan=, which has one, not both")
        _check(call, plan, order)
        facts = {
            "the call": "matvec",
            "order": order,
            "the leading shape of values": tuple(values.shape[:-1]),
            "the dtype of values": str(values.dtype),
            "the dtype of targets": str(targets.dtype),
            "whether sources is given": call.sources is not None,
            "lengthscale": _number(call.lengthscale),
            "frequency": None if call.frequency is None else _number(call.frequency),
            "whether target_phase is given": target_phase is not None,
            "whether source_phase is given": source_phase is not None,
            "real_part": call.real_part,
            "kernel": kernel,
            "whether plan is given": plan is not None,
            "whether gradients are enabled": torch.is_grad_enabled(),
        }
        if torch.is_grad_enabled():
            needs = [each is not None and each.requires_grad for each in call[:TENSORS]]
    except Exception as found:
        error = found
    needs = agree(where, error, facts, needs)

    threads = torch.get_num_threads()
    line = plan._line if plan is not None else Line(where, *_sides(call), threads)
    setting = _Setting(line, kernel, call.real_part, order == "line", needs)
    # Requires gradients where a rank's tensors do not, so that all ranks record the same graph.
    anchor = torch.empty(0, requires_grad=any(needs))
    result: Tensor = _product(setting, anchor, *call[:TENSORS])
    if plan is None:
        line.warn_of_ties()
    return torch.complex(result[0], result[1]) if both else result


if not TYPE_CHECKING:  # torch's decorator would hide the types
    matvec = torch.compiler.disable(matvec)


def _check(call: Call, plan: ShardedPlan | None, order: str) -> None:
    """Check what `call_of` does not: shapes and dtypes, devices, numbers, and the plan."""
    for name, tensor in zip(NAMES, call[:TENSORS], strict=True):
        if tensor is None:
            continue
        check_dense(name, tensor)
        if not tensor.is_cpu:
            raise NotImplementedError(
                f"{name} is on {tensor.device}, but a line over processes is computed on the CPU: "
                f"pass {name}.cpu(), or share out the rows of values instead, with laplex.matvec"
            )
        if hasattr(tensor, "to_local"):
            raise TypeError(f"{name} is a DTensor: pass this rank's shard, {name}.to_local()")
        wanted = {"values": None, "lengthscale": 0, "frequency": 0}.get(name, 1)
        if wanted is not None and tensor.dim() != wanted:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, but a line over processes has one head: "
                f"pass {'a number' if wanted == 0 else 'one dimension'}, and call it for each head"
            )
    if order not in ("user", "line"):
        raise ValueError(f"order must be 'user' or 'line', got {order!r}")
    values = call.values
    shape = values.shape
    if order == "line":
        if plan is None:
            raise TypeError("order='line' needs a plan: pass plan=ShardedPlan(...)")
        if values.dim() == 0 or values.shape[-1] != plan.line_shape[1]:
            raise ValueError(
                f"values has shape {list(values.shape)} but the last dimension must be "
                f"{plan.line_shape[1]}, the number of sources on this rank"
            )
        shape = torch.Size((*shape[:-1], plan.shape[1]))
    # The other checks see values in user order, and widened, as they will be on the line.
    widened = values.dtype in HALF and call.targets.dtype is torch.float32
    dtype = torch.float32 if widened else values.dtype
    signature(call._replace(values=torch.empty((), dtype=dtype).expand(shape)))
    for name in ("targets", "sources", "target_phase", "source_phase"):
        tensor = getattr(call, name)
        if tensor is not None:
            check_finite(name, _array(tensor))
    kernel_number("lengthscale", _number(call.lengthscale))
    if call.frequency is not None:
        kernel_number("frequency", _number(call.frequency))
    if plan is not None and not plan._line.holds(*_sides(call)):
        raise ValueError("targets and sources are not the anchors of plan: build a new plan")


class _Setting(NamedTuple):
    """What a call has beside its tensors, the same on all ranks."""

    line: Line
    kernel: str
    real_part: bool
    in_line: bool
    """Whether values and result are in line order."""
    needs: list[bool]
    """Which of the seven tensors require gradients on any rank."""

    def to_line(self, side: str, tensor: Tensor, is_vector: bool = True) -> Tensor:
        """Send a tensor of user order; values, results and their gradients are vectors."""
        if is_vector and self.in_line:
            return tensor
        return _moved(self.line.route(side).to_line, tensor)

    def from_line(self, side: str, tensor: Tensor, is_vector: bool = True) -> Tensor:
        """Send it back."""
        if is_vector and self.in_line:
            return tensor
        return _moved(self.line.route(side).from_line, tensor)

    def home(
        self, found: Sequence[Any], given: Sequence[torch.dtype | None]
    ) -> list[Tensor | None]:
        """Send the gradients home that any rank needs, and give them their tensors' dtypes."""
        found = [None if each is None else torch.as_tensor(each) for each in found]
        if self.line.y is None and self.needs[1]:
            found[1:3] = found[1] + found[2], None
        gradients: list[Tensor | None] = []
        for index, (each, dtype, need) in enumerate(zip(found, given, self.needs, strict=True)):
            side = SIDES[index]
            if each is None or dtype is None or not need:
                each = None
            else:
                each = each.to(dtype)
                if side is not None:
                    each = self.from_line(side, each, index == 0)
            gradients.append(each)
        return gradients


class _Kernel(NamedTuple):
    """The parameters of the matrix, with the phases in line order."""

    lengthscale: float
    frequency: float | None
    target_phase: Tensor | None
    source_phase: Tensor | None

    def part(self, line: Line, kernel: str, real_part: bool) -> Part:
        """Return this rank's part of the matrix."""
        theta, phi = (None if p is None else _array(p) for p in self[2:])
        threads = torch.get_num_threads()
        return Part(
            line, self.lengthscale, self.frequency, (theta, phi), real_part, kernel, threads
        )


class _Product(torch.autograd.Function):
    """The product, and its gradients."""

    @staticmethod
    def forward(ctx: Any, setting: _Setting, anchor: Tensor, *tensors: Any) -> Tensor:
        values, _, _, ell, omega, theta, phi = tensors
        kernel = _Kernel(
            _number(ell),
            None if omega is None else _number(omega),
            None if theta is None else setting.to_line("targets", theta, is_vector=False),
            None if phi is None else setting.to_line("sources", phi, is_vector=False),
        )
        part = kernel.part(setting.line, setting.kernel, setting.real_part)
        in_line = _widened(setting.to_line("sources", values))
        result = torch.from_numpy(part.sum(_array(in_line)))
        if values.dtype in HALF and not result.is_complex():
            result = result.to(values.dtype)
        ctx.kept = setting, kernel, part, in_line
        ctx.save_for_backward(anchor, *tensors)
        return setting.from_line("targets", result)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *_gradients(ctx.kept, grad, *ctx.saved_tensors))


class _Gradients(torch.autograd.Function):
    """The gradients of the product, and their gradients."""

    @staticmethod
    def forward(
        ctx: Any, kept: Any, grad: Tensor, anchor: Tensor, *tensors: Any
    ) -> tuple[Tensor | None, ...]:
        setting, _, part, values = ctx.kept = kept
        ctx.save_for_backward(anchor, grad, *tensors)
        ctx.cotangent = _widened(setting.to_line("targets", grad))
        ctx.dtypes = [None if each is None else each.dtype for each in tensors]
        ctx.grad_dtype = grad.dtype
        return tuple(setting.home(part.vjp(_array(values), _array(ctx.cotangent)), ctx.dtypes))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        setting, kernel, part, values = ctx.kept
        moved: list[Tensor | None] = []
        for index, (need, each) in enumerate(zip(setting.needs, cotangents, strict=True)):
            if not need or (index == 2 and setting.line.y is None):
                moved.append(moved[1] if index == 2 else None)
            elif (side := SIDES[index]) is not None:
                moved.append(_widened(setting.to_line(side, each, index == 0)))
            else:  # of a number that all ranks share, and use in their losses
                moved.append(_total(setting.line, each))
        is_real = kernel[1:] == (None, None, None) and not values.is_complex()
        if is_real and setting.kernel == "matern12":
            d_grad, *found = _second(part, values, ctx.cotangent, moved[:4])
        else:
            d_grad, *found = _composite(setting, kernel, values, ctx.cotangent, moved)
        d_grad = setting.from_line("targets", d_grad.to(ctx.grad_dtype))
        # Whatever a third derivative is taken by, its way back leads through here.
        given = (*ctx.saved_tensors, *cotangents)
        d_grad, *home = _last(len(given), *given, d_grad, *setting.home(found, ctx.dtypes))
        return None, d_grad, None, *home


class _Last(torch.autograd.Function):
    """Second derivatives, which cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, given: int, *tensors: Any) -> tuple[Tensor | None, ...]:
        return tuple(None if each is None else each.view_as(each) for each in tensors[given:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> NoReturn:
        raise NotImplementedError(
            "laplex.distributed.matvec can be differentiated twice, not three times: leave out "
            "create_graph=True for the second derivatives, or call laplex.matvec on one process"
        )


_product: Any = _Product.apply
_gradients: Any = _Gradients.apply
_last: Any = _Last.apply


def _second(part: Part, values: Tensor, grad: Tensor, cotangents: list[Tensor | None]) -> list[Any]:
    """Backpropagate through the gradients in one call of the core, for real Laplace kernels."""
    n, m = grad.shape[-1], values.shape[-1]
    zeros = (
        torch.zeros_like(values),
        grad.new_zeros(n),
        grad.new_zeros(m),
        torch.zeros(()).double(),
    )
    given = [z if c is None else c for z, c in zip(zeros, cotangents, strict=True)]
    found = part.second_vjp(_array(values), _array(grad), list(map(_array, given)))
    return [*map(torch.as_tensor, found), None, None, None]


def _composite(
    setting: _Setting,
    kernel: _Kernel,
    values: Tensor,
    grad: Tensor,
    cotangents: list[Tensor | None],
) -> list[Any]:
    """Backpropagate through the gradients by differentiating their formula.

    The formula is that of the module `laplex.torch.derivatives`, made of sums over the whole line
    of this rank's values. So its derivatives by lengthscale and frequency are shares of this rank.
    """
    line, profile = setting.line, profile_of(setting.kernel)
    x, y = torch.from_numpy(line.x), torch.from_numpy(line.x if line.y is None else line.y)
    omega = None if kernel.frequency is None else _double(kernel.frequency)
    ell = _double(kernel.lengthscale)
    tensors = (values, x, y, ell, omega, kernel.target_phase, kernel.source_phase)
    needs = list(setting.needs)
    needs[2] = needs[1] if line.y is None else needs[2]
    leaves = [
        None if tensor is None else tensor.detach().requires_grad_(need)
        for tensor, need in zip(tensors, needs, strict=True)
    ]
    cotangent = grad.detach().requires_grad_()
    part = kernel._replace(lengthscale=kernel.lengthscale / profile.root).part(
        line, "matern12", real_part=False
    )
    with torch.enable_grad():
        call = Call._make((*leaves, setting.real_part, *PRODUCT, BOTH))
        if setting.kernel != "matern12":
            call = call.with_profile(profile)
        outputs = vjp(_sums(part, call.targets), cotangent, call, needs)
        if outputs[3] is not None:
            outputs[3] = outputs[3] / profile.root
    pairs = [
        (output, each)
        for output, each in zip(outputs, cotangents, strict=True)
        if output is not None and each is not None
    ]
    wanted = [cotangent, *(each for each, need in zip(leaves, needs, strict=True) if need)]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,  # type: ignore[arg-type]
            [each for _, each in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    d_grad, *rest = [next(found), *(next(found) if need else None for need in needs)]
    return [d_grad] + [
        _total(line, each) if each is not None and side is None else each
        for each, side in zip(rest, SIDES, strict=True)
    ]


def _sums(part: Part, targets: Tensor, exchanged: bool = False) -> Primitive:
    """Return the family of sums over the whole line, of this matrix or of its adjoint.

    In the formula of a call's gradients, all calls that do not have its targets are those of the
    adjoint.
    """

    def primitive(call: Call) -> Tensor:
        other = call.targets is not targets
        result: Tensor = _sum(part, exchanged != other, call.form, *call[:TENSORS])
        return result

    return primitive


class _Sum(torch.autograd.Function):
    """A sum of the family, differentiable by its formula."""

    @staticmethod
    def forward(ctx: Any, part: Part, exchanged: bool, form: Form, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.kept = part, exchanged, form
        mode = 2 if exchanged else 0
        total = torch.from_numpy(
            part.sum(_array(tensors[0]), mode, Term(form.parity, form.polynomial))
        )
        if exchanged and form.parity in ODD:  # because sign(x - y) is
            total = -total
        return real(total) if form.real_part else total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        part, exchanged, form = ctx.kept
        call = Call(*ctx.saved_tensors, *form)
        found = vjp(_sums(part, call.targets, exchanged), grad, call, ctx.needs_input_grad[3:])
        return None, None, None, *found


_sum: Any = _Sum.apply


def _sides(call: Call) -> tuple[Array, Array | None]:
    return _array(call.targets), None if call.sources is None else _array(call.sources)


def _total(line: Line, tensor: Tensor) -> Tensor:
    """Sum a number over all ranks, in float64."""
    return torch.from_numpy(line.comm.all_reduce(_array(tensor.double())))


def _number(tensor: Tensor) -> float:
    return float(tensor.detach())


def _double(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _moved(move: Callable[[Array], Array], tensor: Tensor) -> Tensor:
    if tensor.dtype is torch.bfloat16:  # which NumPy does not know
        return torch.from_numpy(move(_array(tensor.view(torch.int16)))).view(tensor.dtype)
    return torch.from_numpy(move(_array(tensor)))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().resolve_conj().resolve_neg().contiguous().numpy()
    return array
