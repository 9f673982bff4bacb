"""DTensors: products of them, their whole values, and new values for them.

Each device multiplies its rows or heads by an ordinary product of its local tensors. Around it are
DTensor's own conversions, which autograd differentiates twice. So nothing is registered with
torch.distributed, and nothing of it is imported before somebody has a DTensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .call import NAMES, PLAIN_TYPES, TENSORS, TRAILING, Call, broadcast_batch

if TYPE_CHECKING:
    from typing import TypeGuard

    from torch.distributed.tensor import DTensor, Placement


def is_distributed(tensor: object) -> TypeGuard[DTensor]:
    """Whether this is a DTensor, without importing them: nobody has one before they are."""
    if type(tensor) in PLAIN_TYPES:
        return False
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Gather a DTensor from all ranks, which call this together; return others as they are.

    Its gradient is the mean of the ranks' gradients, as FSDP has it.
    """
    if not is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)


def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy whole values into a tensor; a DTensor takes its parts of those of the first rank."""
    if is_distributed(tensor):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values.to(tensor.dtype), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)


def product(local_product: Callable[[Call], Tensor], call: Call) -> Tensor:
    """Compute `local_product` of a call with DTensors, on every device of their mesh.

    On each dimension of the mesh, the result is sharded in the first of its leading dimensions in
    which an argument is; arguments without that dimension are replicated, and their gradients are
    summed over the mesh. An argument sharded along the line is gathered.

    Raises
    ------
    TypeError
        If an argument is an ordinary tensor, unless it is a number that needs no gradient.
    ValueError
        If the meshes differ, or leading dimensions do not broadcast.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    tensors = call[:TENSORS]
    name, mesh = next(
        (name, tensor.device_mesh)
        for name, tensor in zip(NAMES, tensors, strict=True)
        if is_distributed(tensor)
    )
    for other, tensor in zip(NAMES, tensors, strict=True):
        if tensor is None:
            continue
        if not is_distributed(tensor):
            if tensor.dim() > 0 or tensor.requires_grad:
                raise TypeError(
                    f"{other} is an ordinary tensor, but {name} is a DTensor: distribute it with "
                    f"distribute_tensor({other}, mesh, [Replicate()])"
                )
        elif tensor.device_mesh != mesh:
            raise ValueError(
                f"{other} is on {tensor.device_mesh}, but {name} is on {mesh}: distribute all "
                "arguments over one mesh"
            )
    batch, _ = broadcast_batch(call)
    given = [
        # The tensor, and how many leading dimensions of the result come before its own.
        (tensor, len(batch) - (tensor.dim() - last), tensor.dim() - last)
        for tensor, last in zip(tensors, TRAILING, strict=True)
        if tensor is not None
    ]

    def sharded_dimension(along: int) -> int | None:
        """The dimension of the result that is sharded along this one of the mesh."""
        for tensor, before, leading in given:
            placement: Any = tensor.placements[along] if is_distributed(tensor) else Replicate()
            if placement.is_shard():
                dimension: int = placement.dim % tensor.dim()
                if dimension < leading and tensor.shape[dimension] > 1:
                    return before + dimension
        return None

    dimensions = [sharded_dimension(along) for along in range(mesh.ndim)]

    def local(tensor: Tensor, before: int, leading: int) -> Tensor:
        if not is_distributed(tensor):
            return tensor
        placements: list[Placement] = []
        of_gradient: list[Placement] = []
        for dimension in dimensions:
            own = -1 if dimension is None else dimension - before
            has_it = 0 <= own < leading and tensor.shape[own] > 1  # otherwise it is repeated there
            placements.append(Shard(own) if has_it else Replicate())
            of_gradient.append(placements[-1] if has_it or dimension is None else Partial())
        return tensor.redistribute(placements=placements).to_local(grad_placements=of_gradient)

    locals_ = iter([local(*one) for one in given])
    own_tensors = [None if tensor is None else next(locals_) for tensor in tensors]
    result = local_product(Call._make((*own_tensors, *call[TENSORS:])))
    shape = torch.Size((*batch, call.targets.shape[-1]))
    return DTensor.from_local(
        result.contiguous(),
        mesh,
        [Replicate() if dimension is None else Shard(dimension) for dimension in dimensions],
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )
