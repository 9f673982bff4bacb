"""The operators ``laplex::matvec`` and ``laplex::matvec_vjp`` of PyTorch's registry.

``laplex::matvec`` is the primitive of the module ``derivatives``; ``laplex::matvec_vjp`` computes
its seven first-order gradients in one call of the core. The registry serves
``torch.compile``, fake and meta tensors, and dispatch modes. The module ``autograd`` adds the
derivatives and ``batching`` the rules for vmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor

from . import execution
from .call import TENSORS, Call, signature

_KINDS: dict[Any, str] = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool", int: "int"}
_KINDS[tuple[float, ...]] = "float[]"
_FIELDS = [f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(Call).items()]
# Inductor's CUDA graphs own all memory allocated during their warm-up, but orders must outlive it.
TAGS = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "cudagraph_unsafe"):
    TAGS.append(torch.Tag.cudagraph_unsafe)
LIBRARY: Any = torch.library.Library("laplex", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define(f"matvec({', '.join(_FIELDS)}=0) -> Tensor", tags=TAGS)
LIBRARY.define(
    f"matvec_vjp(Tensor grad, {', '.join(_FIELDS)}, bool[{TENSORS}] needs) "
    f"-> ({', '.join(['Tensor'] * TENSORS)})",
    tags=TAGS,
)
MATVEC = torch.ops.laplex.matvec.default
MATVEC_VJP = torch.ops.laplex.matvec_vjp.default


def filled(gradients: Sequence[Tensor | None], targets: Tensor) -> tuple[Tensor, ...]:
    """Replace every gradient that is not needed by an empty tensor: the schema has no None."""
    return tuple(targets.new_empty(0) if each is None else each for each in gradients)


def _matvec(*args: Any) -> Tensor:
    call = Call(*args)
    return execution.product(call, signature(call))[0]


def _matvec_vjp(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    call, needs = Call(*args[:-1]), args[-1]
    sig = signature(call)
    execution.check_gradient(grad, sig)
    return filled(execution.gradients(grad, call, sig, needs), call.targets)


# Registered for every backend, so that other devices get the error message of `signature`.
LIBRARY.impl("matvec", _matvec, "CompositeExplicitAutograd")
LIBRARY.impl("matvec_vjp", _matvec_vjp, "CompositeExplicitAutograd")


# Keyword arguments have the names of the schema.


def _matvec_fake(*args: Any, **named: Any) -> Tensor:
    call = Call(*args, **named)
    sig = signature(call)
    return call.targets.new_empty(sig.shape, dtype=sig.result_dtype)


def _matvec_vjp_fake(grad: Tensor, *args: Any) -> list[Tensor]:
    call, needs = Call(*args[:-1]), args[-1]
    execution.check_gradient(grad, signature(call))
    return [
        call.targets.new_empty(tensor.shape, dtype=tensor.dtype)
        if needed and tensor is not None
        else call.targets.new_empty(0)
        for tensor, needed in zip(call[:TENSORS], needs, strict=True)
    ]


torch.library.register_fake("laplex::matvec", _matvec_fake, lib=LIBRARY)
torch.library.register_fake("laplex::matvec_vjp", _matvec_vjp_fake, lib=LIBRARY)
