"""One call of the operator on torch tensors: its arguments, and what they say together.

Every torch argument is checked here and nowhere else, from metadata alone, so that the same
sentence comes in eager mode, under ``torch.compile`` and on meta tensors, and before any work.
What needs the numbers themselves (NaN anchors, a lengthscale of 0) is checked by the core.
"""

from __future__ import annotations

from functools import lru_cache
from numbers import Real
from typing import Any, Final, NamedTuple

import torch
from numpy import broadcast_shapes as _numpy_broadcast_shapes
from torch import Tensor

from .. import _core

MAX_MOMENT = 4
"""Highest power of |x - y| in the core: each derivative by lengthscale or frequency takes one."""

COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}

Scalar = float | Tensor

TENSORS: Final = 7

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)

DIRECT = _core.DirectCalls(Tensor.__dlpack_c_exchange_api__, _PLAIN_TYPES)
"""Calls that the core reads and checks itself, in a fraction of the time that Python takes."""


class Call(NamedTuple):
    """S(parity, moment) of the module `derivatives`: seven tensors and the kernel's form.

    The fields are the arguments of ``torch.ops.laplex.matvec``, in its order.
    """

    values: Tensor
    targets: Tensor
    sources: Tensor | None
    lengthscale: Tensor
    frequency: Tensor | None
    target_phase: Tensor | None
    source_phase: Tensor | None
    real_part: bool = False
    parity: int = 0
    moment: int = 0

    @property
    def flags(self) -> tuple[bool]:
        """Those of the kernel."""
        return (self.real_part,)

    @property
    def is_complex_kernel(self) -> bool:
        """Whether K has complex entries before `real_part` takes their real parts."""
        return not (self.frequency is None and self.target_phase is None is self.source_phase)

    def member(self, values: Tensor, parity: int, moment: int, real_part: bool = False) -> Call:
        """Another sum of the family with this kernel."""
        return Call(values, *self[1:TENSORS], real_part, parity, moment)

    def adjoint(self, values: Tensor) -> Call:
        """The call with the conjugate transpose: roles exchanged, the frequency negated."""
        frequency = None if self.frequency is None else -self.frequency
        return self._exchanged(values, frequency, self.source_phase, self.target_phase)

    def transpose(self, values: Tensor) -> Call:
        """The call with the transpose: roles exchanged, phases negated."""
        phases = (None if p is None else -p for p in (self.source_phase, self.target_phase))
        return self._exchanged(values, self.frequency, *phases)

    def _exchanged(
        self,
        values: Tensor,
        frequency: Tensor | None,
        target_phase: Tensor | None,
        source_phase: Tensor | None,
    ) -> Call:
        anchors = (self.targets, None) if self.sources is None else (self.sources, self.targets)
        phases = (target_phase, source_phase)
        own = (values, *anchors, self.lengthscale, frequency, *phases)
        return Call._make((*own, *self[TENSORS:]))


NAMES = Call._fields[:TENSORS]
SIDES = ("sources", "targets", "sources", None, None, "targets", "sources")
"""What the last dimension of each tensor numbers; None where all dimensions are the batch's."""
TRAILING = tuple(int(side is not None) for side in SIDES)
"""How many of each tensor's last dimensions are not batch dimensions."""
FLAGS: Final = 8
"""The fields before it describe values and kernel, those from it the member of the family."""


_TENSORS_GIVEN = ("values", "targets", "sources", "target_phase", "source_phase")


def call_of(
    values: Any,
    targets: Any,
    sources: Any,
    lengthscale: Scalar,
    frequency: Scalar,
    target_phase: Any,
    source_phase: Any,
    real_part: bool,
) -> Call:
    """The call of the arguments of `laplex.matvec`, their kinds checked; see `signature`."""
    if not (
        isinstance(values, Tensor)
        and isinstance(targets, Tensor)
        and (sources is None or isinstance(sources, Tensor))
        and (target_phase is None or isinstance(target_phase, Tensor))
        and (source_phase is None or isinstance(source_phase, Tensor))
    ):
        given = (values, targets, sources, target_phase, source_phase)
        for name, tensor in zip(_TENSORS_GIVEN, given, strict=True):
            if tensor is not None or name in ("values", "targets"):
                check_tensor(name, tensor)
    if real_part is not False:
        check_flag("real_part", real_part)
    if sources is targets:
        sources = None
    ell = as_scalar("lengthscale", lengthscale, targets)
    still = type(frequency) is float and frequency == 0.0
    omega = None if still else as_frequency(frequency, targets)
    real_part = real_part and not (omega is None and target_phase is None is source_phase)
    return Call(values, targets, sources, ell, omega, target_phase, source_phase, real_part)


def as_scalar(name: str, value: object, targets: Tensor) -> Tensor:
    """Return a tensor as it is, a number as double-precision 0-d: float32 would lose its digits."""
    if isinstance(value, Tensor):
        return value
    if type(value) is float:
        return torch.scalar_tensor(value, dtype=torch.float64, device=targets.device)
    if isinstance(value, bool) or not isinstance(value, (float, Real)):
        raise TypeError(f"{name} must be a float or a torch tensor, got {type(value).__name__}")
    if not torch.compiler.is_compiling():  # which follows numbers that it does not know yet
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite, got an integer beyond any float") from None
    return torch.scalar_tensor(value, dtype=torch.float64, device=targets.device)  # type: ignore[arg-type]


def as_frequency(value: object, targets: Tensor) -> Tensor | None:
    """Return a frequency as a tensor; None, a kernel that does not oscillate, for the number 0."""
    if isinstance(value, (float, Real)) and value == 0:
        return None
    return as_scalar("frequency", value, targets)


def check_flag(name: str, value: object) -> None:
    """Refuse what is not True or False: a word would count as True."""
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_tensor(name: str, argument: object) -> None:
    """Refuse lists and arrays with a sentence that names the argument."""
    if not isinstance(argument, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor, got {type(argument).__name__}: use torch.as_tensor, "
            "or laplex.Plan for NumPy arrays"
        )


class Signature(NamedTuple):
    """What the arguments of one call say together."""

    batch: tuple[int, ...]
    """Leading dimensions of the result: all arguments' broadcast."""
    anchor_batch: tuple[int, ...]
    """Leading dimensions of everything but the values: one plan holds their product as heads."""
    targets: int
    sources: int
    dtype: torch.dtype
    """Of the anchors, real; the precision of the call."""
    result_dtype: torch.dtype
    plain: bool = False
    """Whether all tensors have memory and none is of a subclass."""
    direct: bool = False
    """Whether the core reads them as they are: contiguous, all of the same heads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return (*self.batch, self.targets)


def signature(call: Call) -> Signature:
    """Check the arguments of a call and derive the result's shape and dtype.

    Raises
    ------
    TypeError
        Anchors, phases or values whose dtype does not fit, naming the argument and the remedy.
    ValueError
        Shapes that do not broadcast, missing last dimensions, tensors on two devices.
    NotImplementedError
        More than four derivatives by lengthscale and frequency together.
    """
    real_part, parity, moment = call[TENSORS:]
    if not (0 <= moment <= MAX_MOMENT and 0 <= parity <= 2):
        if moment > MAX_MOMENT:
            raise NotImplementedError(
                f"lengthscale and frequency can be differentiated {MAX_MOMENT} times together, "
                "and this is one time more"
            )
        raise ValueError(
            f"parity is 0, 1 or 2 and moment 0 to {MAX_MOMENT}, got {parity} and {moment}"
        )
    if call.targets.is_cpu and not torch._C._are_functorch_transforms_active():
        found = DIRECT.signature(call[:TENSORS])
        if found is not None and not (real_part and found[-1]):
            _, _, _, _, frequency, target_phase, source_phase = call[:TENSORS]
            is_real = real_part or (frequency is None and target_phase is None is source_phase)
            return _of_direct(*found, not is_real)
    values, targets, sources, lengthscale, frequency, target_phase, source_phase = call[:TENSORS]
    dtype = targets.dtype
    if dtype not in COMPLEX_OF:
        raise TypeError(
            f"targets has dtype {dtype}: anchors must be float32 or float64, whatever the values' "
            "precision; pass targets.float() or targets.double()"
        )
    if targets.dim() == 0:
        raise ValueError(_no_dimension_message("targets", "n"))
    n = m = targets.shape[-1]
    if sources is not None:
        if sources.dtype is not dtype:
            raise TypeError(_other_dtype_message("sources", sources.dtype, dtype))
        if sources.dim() == 0:
            raise ValueError(_no_dimension_message("sources", "m"))
        m = sources.shape[-1]

    if values.dim() == 0:
        raise ValueError(_no_dimension_message("values", "m"))
    if values.shape[-1] != m:
        what = "targets (the sources are the targets here)" if sources is None else "sources"
        raise ValueError(
            f"values has {values.shape[-1]} entries in its last dimension, but {what} has {m}: "
            "give one value per source"
        )
    complex_dtype = COMPLEX_OF[dtype]
    values_complex = values.dtype is complex_dtype
    if not values_complex and values.dtype is not dtype:
        raise TypeError(
            f"values has dtype {values.dtype}, but the anchors are {dtype}: convert one side, "
            f"for instance values.to({dtype if not values.is_complex() else complex_dtype})"
        )

    if target_phase is not None:
        _check_phase("target_phase", target_phase, n, dtype)
    if source_phase is not None:
        _check_phase("source_phase", source_phase, m, dtype)
    if lengthscale.dtype not in COMPLEX_OF:
        raise TypeError(_scalar_dtype_message("lengthscale", lengthscale.dtype))
    if frequency is not None and frequency.dtype not in COMPLEX_OF:
        raise TypeError(_scalar_dtype_message("frequency", frequency.dtype))
    if real_part and values_complex:
        raise TypeError(
            "values is complex, and the operator with real_part=True takes real values: call "
            "laplex.matvec, which applies it to real and imaginary parts"
        )
    result_complex = values_complex or (call.is_complex_kernel and not real_part)
    result_dtype = complex_dtype if result_complex else dtype
    plain = _are_plain(call)
    batch, anchor_batch = _broadcast(call)
    return Signature(batch, anchor_batch, n, m, dtype, result_dtype, plain, direct=False)


@lru_cache(maxsize=256)
def _of_direct(
    batch: tuple[int, ...],
    anchor_batch: tuple[int, ...],
    n: int,
    m: int,
    is_double: bool,
    values_complex: bool,
    kernel_complex: bool,
) -> Signature:
    dtype = torch.float64 if is_double else torch.float32
    result_dtype = COMPLEX_OF[dtype] if values_complex or kernel_complex else dtype
    return Signature(batch, anchor_batch, n, m, dtype, result_dtype, plain=True, direct=True)


def _check_phase(name: str, phase: Tensor, size: int, dtype: torch.dtype) -> None:
    if phase.dtype is not dtype:
        raise TypeError(_other_dtype_message(name, phase.dtype, dtype))
    if phase.dim() == 0 or phase.size(-1) != size:
        raise ValueError(
            f"{name} has shape {tuple(phase.shape)}: its last dimension must be {size}, one phase "
            "per anchor"
        )


def _are_plain(call: Call) -> bool:
    """Whether all are tensors in memory, of no subclass; refuses what no backend takes."""
    device = call.targets.device
    if device.type == "cuda" and not _core.has_cuda:
        raise NotImplementedError(
            f"targets is on {device}: this build of Laplex is for the CPU alone; install it again "
            "where nvcc is on the PATH, or move the arguments with .cpu()"
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"targets is on {device}: Laplex computes on CPU and CUDA tensors; move the arguments "
            "with .cpu()"
        )
    plain = True
    for name, tensor in zip(NAMES, call[:TENSORS], strict=True):
        if tensor is None:
            continue
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name} is a tensor of layout {tensor.layout}: pass {name}.to_dense()")
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but targets is on {device}: move it with "
                f"{name}.to({str(device)!r})"
            )
        plain = plain and type(tensor) in _PLAIN_TYPES and (tensor.is_cpu or tensor.is_cuda)
    return plain


def _broadcast(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading dimensions of the result, and of the anchors with all that belongs to them."""
    shapes = [
        tuple(tensor.shape[: tensor.dim() - last])
        for tensor, last in zip(call[1:TENSORS], TRAILING[1:], strict=True)
        if tensor is not None
    ]
    own = tuple(call.values.shape[:-1])
    try:
        anchor_batch = _broadcast_shapes(*shapes)
        return _broadcast_shapes(own, anchor_batch), anchor_batch
    except RuntimeError:
        given = ", ".join(
            f"{name} {tuple(tensor.shape)}"
            for name, tensor in zip(NAMES, call[:TENSORS], strict=True)
            if tensor is not None
        )
        raise ValueError(
            f"leading dimensions do not broadcast: {given} (lengthscale and frequency have leading "
            "dimensions only; put a dimension of size 1 where an argument is to be repeated)"
        ) from None


def _broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """As torch's, which costs more than a small product, and is asked where sizes are symbols."""
    given = [shape for shape in shapes if shape]
    if not given:
        return ()
    if len(given) == 1:
        return given[0]
    if all(type(size) is int for shape in given for size in shape):
        try:
            return _numpy_broadcast_shapes(*given)
        except ValueError:
            raise RuntimeError from None
    return tuple(torch.broadcast_shapes(*given))  # type: ignore[no-untyped-call]


def _scalar_dtype_message(name: str, dtype: torch.dtype) -> str:
    return (
        f"{name} has dtype {dtype}: give a Python float, or a float32 or float64 tensor "
        f"({name}.double())"
    )


def _other_dtype_message(name: str, dtype: torch.dtype, expected: torch.dtype) -> str:
    return f"{name} has dtype {dtype}, but targets has {expected}: pass {name}.to({expected})"


def _no_dimension_message(name: str, size: str) -> str:
    return f"{name} is a 0-d tensor: give at least one dimension, {name}[..., {size}]"
