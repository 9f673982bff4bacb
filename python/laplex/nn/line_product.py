"""The product of a layer whose features are spread over processes: a line over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laplex._support.communicator import communicator, together
from laplex.distributed import matvec
from laplex.torch.sharded import is_distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


def applies(anchors: Tensor) -> bool:
    """Whether anchors ``[heads, n]`` are spread over processes along the line."""
    return is_distributed(anchors) and any(each.is_shard(1) for each in anchors.placements)


def line_product(
    check: Callable[[], None],
    input: Tensor,  # noqa: A002  (nn.Linear's name for it)
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    gain: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    bias: Tensor | None,
    kernel: str,
) -> Tensor:
    """Compute the product of `kernel_product`, head by head, if `check` finds no fault on any rank.

    All tensors are DTensors on a mesh of one dimension and sharded in their features, but for the
    lengthscales, of which each process has all. So is the result.
    """
    from torch.distributed.tensor import Shard

    mesh = _of_mesh(targets).device_mesh
    placement, num_targets = Shard(input.dim() - 1), targets.shape[1]

    def local(tensor: Tensor) -> Tensor:
        return _of_mesh(tensor).to_local()

    values, x, y = local(input), local(targets), local(sources)

    def checked() -> None:
        check()
        if values.dim() == 0 or values.shape[-1] != y.shape[-1]:
            raise ValueError(
                f"input has shape {list(values.shape)}, but this rank has {y.shape[-1]} of the "
                "layer's input features: pass the part that torch.chunk gives to it"
            )

    together(communicator(mesh.get_group()), checked)
    ell, own_gain = local(lengthscale), local(gain)
    theta = None if target_phase is None else local(target_phase)
    phi = None if source_phase is None else local(source_phase)
    heads = [
        matvec(
            values * own_gain[head],
            x[head],
            y[head],
            lengthscale=ell[head],
            target_phase=None if theta is None else theta[head],
            source_phase=None if phi is None else phi[head],
            real_part=theta is not None,
            kernel=kernel,
            group=mesh.get_group(),
        )
        for head in range(len(x))
    ]
    output = torch.stack(heads).sum(0) if len(heads) > 1 else heads[0]
    output = output if bias is None else output + local(bias)
    return from_local(output, mesh, placement, num_targets)


def _of_mesh(tensor: Tensor) -> DTensor:
    if not is_distributed(tensor):
        raise TypeError(
            "the layer's features are spread over processes, but a tensor is not: distribute all "
            "parameters by laplex.nn.LineParallel"
        )
    return tensor


def from_local(local: Tensor, mesh: DeviceMesh, placement: Placement, features: int) -> DTensor:
    """Make a DTensor of local tensors, sharded in the features or replicated."""
    from torch.distributed.tensor import DTensor

    shape = torch.Size((*local.shape[:-1], features))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, mesh, [placement], run_check=False, shape=shape, stride=stride)
