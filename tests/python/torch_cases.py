"""Cases shared by the torch tests: every form of the operator, and its dense formula in torch.

The dense formula is differentiated by autograd. ``torch.abs`` has derivative 0 at 0 and its second
derivative is 0 everywhere, so this reference follows the operator's tie convention to every order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAMES = ("values", "targets", "sources", "lengthscale", "frequency", "target_phase", "source_phase")

# form -> (oscillates, has phases, real part)
FORMS = {
    "real": (False, False, False),
    "carrier": (False, True, False),
    "oscillating": (True, False, False),
    "cosine": (True, True, True),
    "cosine-phases": (False, True, True),
    "cosine-frequency": (True, False, True),
    "all": (True, True, False),
}


def dense_matrix(
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None = None,
    target_phase: Tensor | None = None,
    source_phase: Tensor | None = None,
    real_part: bool = False,
    side: str = "both",
) -> Tensor:
    """K[..., n, m] by its formula."""
    sources = targets if sources is None else sources
    difference = targets[..., :, None] - sources[..., None, :]
    distance = difference.abs()
    dtype = distance.dtype
    matrix = torch.exp(-distance / lengthscale.to(dtype)[..., None, None])
    if side != "both":
        matrix = matrix * (difference >= 0 if side == "left" else difference <= 0)
    phase = None
    if frequency is not None:
        phase = frequency.to(dtype)[..., None, None] * distance
    if target_phase is not None:
        phase = target_phase[..., :, None] + (0 if phase is None else phase)
    if source_phase is not None:
        phase = (0 if phase is None else phase) - source_phase[..., None, :]
    if phase is None:
        return matrix
    if real_part:
        return matrix * torch.cos(phase)
    return torch.complex(matrix * torch.cos(phase), matrix * torch.sin(phase))


def dense(values: Tensor, *kernel: Any, real_part: bool = False) -> Tensor:
    """K v by the dense formula, of the same arguments as the operator, batched like it."""
    matrix = dense_matrix(*kernel, real_part=real_part)
    if matrix.is_complex() != values.is_complex():
        complex_dtype = matrix.dtype if matrix.is_complex() else values.dtype
        matrix, values = matrix.to(complex_dtype), values.to(complex_dtype)
    return (matrix @ values[..., None])[..., 0]


def case(
    form: str,
    *,
    n: int = 5,
    m: int = 4,
    complex_values: bool = False,
    self_case: bool = False,
    ties: bool = False,
    values_batch: tuple[int, ...] = (),
    batch: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = True,
    seed: int = 0,
) -> tuple[list[Tensor | None], bool]:
    """The seven inputs of one form, and whether the real part is taken.

    Unless ties are asked for, neighbouring anchors are at least 0.02 apart: far more than the step
    of gradcheck's finite differences.
    """
    generator = torch.Generator().manual_seed(seed)
    oscillates, phases, real_part = FORMS[form]
    if self_case:
        m = n

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    if ties:
        grid = torch.randint(0, 3, (*batch, n + m), generator=generator).to(dtype) * 0.5
        anchors = grid
    else:
        order = torch.argsort(uniform(*batch, n + m), dim=-1)
        anchors = (order + 0.9 * uniform(*batch, n + m)) * 0.2
    values = normal(*values_batch, m)
    if complex_values:
        values = torch.complex(values, normal(*values_batch, m))
    inputs: list[Tensor | None] = [
        values,
        anchors[..., :n].clone(),
        None if self_case else anchors[..., n:].clone(),
        0.5 + uniform(*batch),
        0.5 + 2 * uniform(*batch) if oscillates else None,
        3 * normal(*batch, n) if phases else None,
        3 * normal(*batch, m) if phases else None,
    ]
    if requires_grad:
        for each in inputs:
            if each is not None:
                each.requires_grad_()
    return inputs, real_part


def function(which: Any, inputs: list[Tensor | None], real_part: bool) -> tuple[Any, list[Tensor]]:
    """`which` as a function of the inputs that are there, and those inputs."""
    present = [position for position, each in enumerate(inputs) if each is not None]

    def call(*tensors: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * len(inputs)
        for position, tensor in zip(present, tensors, strict=True):
            full[position] = tensor
        return which(*full, real_part=real_part)

    return call, [inputs[position] for position in present]  # type: ignore[misc]


def _named(*kernel: Any) -> dict[str, Any]:
    """The arguments of `dense_matrix` by name, as the operator takes them."""
    named = dict(zip(NAMES[1:], kernel, strict=False))
    if named.get("frequency") is None:
        named["frequency"] = 0.0
    return named


def operator(values: Tensor, *kernel: Any, real_part: bool = False) -> Tensor:
    """`laplex.matvec` with the positional arguments of `dense`."""
    import laplex

    return laplex.matvec(values, **_named(*kernel), real_part=real_part)


def build(form: str, **options: Any) -> tuple[Any, Tensor]:
    """A `laplex.LaplaceOperator` of a form, and its dense matrix."""
    import laplex

    inputs, real_part = case(form, **options)
    operator = laplex.LaplaceOperator(**_named(*inputs[1:]), real_part=real_part)
    return operator, dense_matrix(*inputs[1:], real_part=real_part)  # type: ignore[arg-type]
