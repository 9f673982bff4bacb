"""One call of the operator on torch tensors: its arguments and their checks.

Every torch argument is checked here and nowhere else, from its metadata alone. So the message is
the same in eager mode, under ``torch.compile`` and on meta tensors, and it comes before any work.
The core checks what needs the numbers in tensors (NaN anchors, a lengthscale of 0); Python numbers
are checked here.
"""

from __future__ import annotations

from functools import lru_cache
from numbers import Real
from typing import Any, Final, NamedTuple

import torch
from numpy import broadcast_shapes as _numpy_broadcast_shapes
from torch import Tensor

from .. import _core
from .._support.arguments import kernel_number
from .._support.core import PRODUCT, Form, Term
from .._support.profiles import Profile
from .._support.sides import TURNED
from .._support.sum_family import check_degree
from ..numpy import checks as validation

PLAIN = PRODUCT.polynomial
"""The polynomial of the Laplace kernel."""

CUMULATIVE = 5
"""The parity of the cumulative sum, which the module `derivatives` defines."""

COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}

HALF = (torch.float16, torch.bfloat16)
"""The dtypes of values that are multiplied in float32, with float32 anchors."""

Scalar = float | Tensor

TENSORS: Final = 7

PLAIN_TYPES = (Tensor, torch.nn.Parameter)
"""The types of tensors that are nothing else: no instance of another subclass."""

# Torch has this interface from 2.10 on. Before, all calls take the longer way through Python.
DIRECT = _core.DirectCalls(getattr(Tensor, "__dlpack_c_exchange_api__", None), PLAIN_TYPES)
"""The core's own reading and checking of calls, which takes a fraction of the time of Python's."""


class Call(NamedTuple):
    """S(parity, polynomial) of the module `derivatives`: seven tensors and the kernel's form.

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
    polynomial: tuple[float, ...] = PLAIN
    side: int = 0

    @property
    def term(self) -> Term:
        """The member of the family of sums."""
        return Term(self.parity, self.polynomial)

    @property
    def form(self) -> Form:
        """What the call has beside its tensors, as the core takes it."""
        return Form(self.real_part, self.parity, self.polynomial, self.side)

    @property
    def is_plain(self) -> bool:
        """Whether this is the product with the Laplace kernel itself, or its sums of one side."""
        return self.parity == 0 and tuple(self.polynomial) == PLAIN

    @property
    def is_complex_kernel(self) -> bool:
        """Whether K has complex entries before `real_part` takes their real parts."""
        return not (self.frequency is None and self.target_phase is None is self.source_phase)

    def member(
        self,
        values: Tensor,
        parity: int,
        polynomial: tuple[float, ...],
        real_part: bool = False,
    ) -> Call:
        """Return another sum of the family with this kernel."""
        return Call(values, *self[1:TENSORS], real_part, parity, polynomial, self.side)

    def with_profile(self, profile: Profile) -> Call:
        """Return the call with another kernel, of the same lengthscale."""
        lengthscale = self.lengthscale.double() / profile.root
        return self._replace(
            lengthscale=lengthscale, parity=profile.parity, polynomial=profile.polynomial
        )

    def adjoint(self, values: Tensor) -> Call:
        """Return the call with the conjugate transpose: roles exchanged, the frequency negated.

        What lies to the left of a target has the target to its right.
        """
        frequency = None if self.frequency is None else -self.frequency
        return self._exchanged(values, frequency, self.source_phase, self.target_phase)

    def transpose(self, values: Tensor) -> Call:
        """Return the call with the transpose: roles exchanged, phases negated."""
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
        return Call._make((*own, *self[TENSORS:-1], TURNED[self.side]))


NAMES = Call._fields[:TENSORS]
SIDES = ("sources", "targets", "sources", None, None, "targets", "sources")
"""What the last dimension of each tensor counts; None if all dimensions belong to the batch."""
TRAILING = tuple(int(side is not None) for side in SIDES)
"""How many of each tensor's last dimensions are not batch dimensions."""

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
    side: int = 0,
) -> Call:
    """Make a call of the arguments of `laplex.matvec` and check their kinds; see `signature`."""
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
                check_operand(name, tensor)
    if real_part is not False:
        check_flag("real_part", real_part)
    if sources is targets:
        sources = None
    ell = as_scalar("lengthscale", lengthscale, targets)
    still = type(frequency) is float and frequency == 0.0
    omega = None if still else as_frequency(frequency, targets)
    real_part = real_part and not (omega is None and target_phase is None is source_phase)
    tensors = (values, targets, sources, ell, omega, target_phase, source_phase)
    return Call(*tensors, real_part, side=side)


def as_scalar(name: str, value: object, targets: Tensor) -> Tensor:
    """Return a tensor as it is, and a number as a 0-d float64 tensor, which keeps its digits."""
    if isinstance(value, Tensor):
        return value
    number = _as_float(name, value)
    return torch.scalar_tensor(number, dtype=torch.float64, device=targets.device)


def _as_float(name: str, value: object) -> float:
    """Check a number here, because on a GPU a check would have to wait for the device."""
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, (float, Real)):
            raise TypeError(f"{name} must be a float or a torch tensor, got {type(value).__name__}")
        if not torch.compiler.is_compiling():  # whose numbers may be symbols
            try:
                value = float(value)
            except OverflowError:
                raise ValueError(
                    f"{name} must be finite, got an integer too large for a float"
                ) from None
    kernel_number(name, value)  # type: ignore[arg-type]
    return value  # type: ignore[return-value]


def as_frequency(value: object, targets: Tensor) -> Tensor | None:
    """Return a frequency as a tensor, or None (no oscillation) for the number 0."""
    if isinstance(value, (float, Real)) and value == 0:
        return None
    return as_scalar("frequency", value, targets)


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True and False; a string would count as True."""
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")


def in_memory(tensor: Tensor) -> Tensor:
    """Return a tensor whose numbers can be read at its address.

    Autograd's zero tensors, such as the tangents of constants, have no memory.
    """
    if not torch._is_zerotensor(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def conversion_of(array: object) -> str:
    """Return the function that makes a tensor of an array, for a message.

    On a GPU, torch.as_tensor would ignore the stream on which the array is written.
    """
    on_gpu = validation.is_on_gpu(array) and hasattr(array, "__dlpack__")
    return "torch.from_dlpack" if on_gpu else "torch.as_tensor"


def check_tensor(name: str, argument: object) -> None:
    """Refuse lists and arrays with a message that names the argument."""
    if not isinstance(argument, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor, got {type(argument).__name__}: use "
            f"{conversion_of(argument)}"
        )


def check_operand(name: str, argument: object) -> None:
    """Refuse what is not a tensor in a call of the operator, which a plan also offers."""
    if not isinstance(argument, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor, got {type(argument).__name__}: use "
            f"{conversion_of(argument)}, or laplex.Plan for NumPy arrays"
        )


class Signature(NamedTuple):
    """The shapes and dtypes that follow from the arguments of one call."""

    batch: tuple[int, ...]
    """The leading dimensions of the result: those of all arguments, broadcast."""
    anchor_batch: tuple[int, ...]
    """The leading dimensions of everything but the values; one plan has their product as heads."""
    targets: int
    sources: int
    dtype: torch.dtype
    """The real dtype of the anchors, which is the precision of the call."""
    result_dtype: torch.dtype
    plain: bool = False
    """Whether all tensors have memory and none is an instance of a subclass."""
    direct: bool = False
    """Whether the core can read the tensors as they are: contiguous, all with the same heads.

    The anchors may have no heads instead.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return (*self.batch, self.targets)


def signature(call: Call) -> Signature:
    """Check the arguments of a call and derive the result's shape and dtype.

    Raises
    ------
    TypeError
        If the dtype of anchors, phases or values does not match; the message names the argument
        and the remedy.
    ValueError
        If shapes do not broadcast, a last dimension is missing, or tensors are on two devices.
    NotImplementedError
        If lengthscale and frequency are differentiated more than four times in total.
    """
    real_part, parity, polynomial, side = call[TENSORS:]
    check_degree(len(polynomial) - 1)
    if not 0 <= parity <= CUMULATIVE:
        raise ValueError(f"parity must be 0, 1, 2, 3, 4 or 5, got {parity}")
    if not 0 <= side <= 2:
        raise ValueError(f"side must be 0 (both), 1 (left) or 2 (right), got {side}")
    if parity == CUMULATIVE:
        _check_cumulative(call)
    if call.targets.is_cpu and not torch._C._are_functorch_transforms_active():
        found = DIRECT.signature(call[:TENSORS])
        if found is not None and not (real_part and found[-1]):
            _, _, _, _, frequency, target_phase, source_phase = call[:TENSORS]
            is_real = real_part or (frequency is None and target_phase is None is source_phase)
            return _of_direct(*found, not is_real)
    return signature_of_shapes(call)


def signature_of_shapes(call: Call) -> Signature:
    """Do what `signature` does for tensors, from what ``torch.compile`` can follow."""
    real_part = call.real_part
    values, targets, sources, lengthscale, frequency, target_phase, source_phase = call[:TENSORS]
    dtype = targets.dtype
    if dtype not in COMPLEX_OF:
        raise TypeError(
            f"targets has dtype {dtype}, but anchors must be float32 or float64, whatever the "
            "precision of the values: pass targets.float() or targets.double()"
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
        what = "targets (which are also the sources)" if sources is None else "sources"
        raise ValueError(
            f"values has {values.shape[-1]} entries in its last dimension, but there are {m} "
            f"{what}: pass one value per source"
        )
    complex_dtype = COMPLEX_OF[dtype]
    values_complex = values.dtype is complex_dtype
    is_half = values.dtype in HALF and dtype is torch.float32 and takes_half(targets)
    if not (values_complex or is_half) and values.dtype is not dtype:
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
            "values is complex, but the operator with real_part=True takes real values: call "
            "laplex.matvec, which applies it to the real and the imaginary part"
        )
    result_complex = values_complex or (call.is_complex_kernel and not real_part)
    result_dtype = complex_dtype if result_complex else values.dtype
    plain = _are_plain(call)
    batch, anchor_batch = broadcast_batch(call)
    return Signature(batch, anchor_batch, n, m, dtype, result_dtype, plain, direct=False)


def takes_half(targets: Tensor) -> bool:
    """Whether the core reads and writes half precision: on a GPU, where it widens each number."""
    return targets.is_cuda


def _check_cumulative(call: Call) -> None:
    """Refuse a cumulative sum of another kernel than the real Laplace kernel."""
    if (
        call.is_complex_kernel
        or call.values.is_complex()
        or call.side
        or tuple(call.polynomial) != PLAIN
    ):
        raise ValueError(
            "a cumulative sum (parity 5) takes real values and the plain Laplace kernel: leave out "
            "frequency and phases, side and polynomial"
        )


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
            f"{name} has shape {tuple(phase.shape)}, but its last dimension must be {size}: pass "
            "one phase per anchor"
        )


def check_dense(name: str, tensor: Tensor) -> None:
    """Refuse sparse tensors."""
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name} has the layout {tensor.layout}, but must be dense: pass {name}.to_dense()"
        )


def _are_plain(call: Call) -> bool:
    """Whether all are tensors in memory, of no subclass; refuse those that no backend takes."""
    device = call.targets.device
    if device.type == "cuda" and not _core.has_cuda:
        raise NotImplementedError(
            f"targets is on {device}, but this build of Laplex supports only the CPU: install it "
            "again with nvcc on the PATH, or move the arguments with .cpu()"
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"targets is on {device}, but Laplex takes only CPU and CUDA tensors: move the "
            "arguments with .cpu()"
        )
    plain = True
    for name, tensor in zip(NAMES, call[:TENSORS], strict=True):
        if tensor is None:
            continue
        check_dense(name, tensor)
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but targets is on {device}: move it with "
                f"{name}.to({str(device)!r})"
            )
        plain = plain and type(tensor) in PLAIN_TYPES and (tensor.is_cpu or tensor.is_cuda)
    return plain


def broadcast_batch(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the leading dimensions of the result, and of everything but the values."""
    shapes = [
        tuple(tensor.shape[: tensor.dim() - last])
        for tensor, last in zip(call[1:TENSORS], TRAILING[1:], strict=True)
        if tensor is not None
    ]
    own = tuple(call.values.shape[:-1])
    try:
        anchor_batch = broadcast_shapes(*shapes)
        return broadcast_shapes(own, anchor_batch), anchor_batch
    except RuntimeError:
        given = ", ".join(
            f"{name} {tuple(tensor.shape)}"
            for name, tensor in zip(NAMES, call[:TENSORS], strict=True)
            if tensor is not None
        )
        raise ValueError(
            f"leading dimensions do not broadcast: {given} (lengthscale and frequency have leading "
            "dimensions only; insert a dimension of size 1 where an argument is to be repeated)"
        ) from None


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Broadcast shapes; torch's slow function is called only if sizes are symbols."""
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
        f"{name} has dtype {dtype}, but must be a Python float, or a float32 or float64 tensor: "
        f"pass {name}.double()"
    )


def _other_dtype_message(name: str, dtype: torch.dtype, expected: torch.dtype) -> str:
    return f"{name} has dtype {dtype}, but targets has {expected}: pass {name}.to({expected})"


def _no_dimension_message(name: str, size: str) -> str:
    return f"{name} is a 0-d tensor, but must have shape [..., {size}]: pass {name}[None]"
