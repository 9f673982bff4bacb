"""Layers of Laplace kernels on several devices: FSDP, and tensor parallelism by heads."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ParallelStyle

from laplex._support.arguments import integer
from laplex.nn.kernel_layer import KernelLayer

mp_policy = MixedPrecisionPolicy(output_dtype=torch.bfloat16)  # described in laplex.nn


def shard_placement(parameter: nn.Parameter, ranks: int | None = None) -> Shard | None:
    """Choose the dimension in which ``fully_shard`` splits a parameter, for any model.

    By default FSDP splits the first dimension. In a layer of Laplace kernels that is the heads, so
    a layer of one head would be whole on one rank. This function chooses the largest other
    dimension, the features, where the first has fewer entries than there are ranks.

    Parameters
    ----------
    parameter : Parameter
        A parameter of the model.
    ranks : int, optional
        The number of ranks over which FSDP splits; by default, that of all processes. Bind it by
        ``functools.partial`` for a mesh that is smaller.

    Returns
    -------
    Shard or None
        The placement, or None for FSDP's default.

    Warns
    -----
    UserWarning
        On the first rank, if such a parameter has no dimension that is a multiple of ``ranks``,
        because FSDP splits only the first dimension unevenly.

    Raises
    ------
    TypeError, ValueError
        If ``ranks`` is not an integer, or below 1.

    Examples
    --------
    >>> import laplex
    >>> layer = laplex.nn.LaplexLinear(32, 64)
    >>> laplex.nn.shard_placement(layer.targets, ranks=4)  # of shape [1, 64]
    Shard(dim=1)
    """
    ranks = dist.get_world_size() if ranks is None else integer("ranks", ranks)
    shape = parameter.shape
    if parameter.dim() < 2 or shape[0] >= ranks:
        return None
    even = [dim for dim in range(1, parameter.dim()) if shape[dim] % ranks == 0 < shape[dim]]
    if even:
        return Shard(max(even, key=lambda dim: shape[dim]))
    if max(shape) >= ranks and (not dist.is_initialized() or dist.get_rank() == 0):
        warnings.warn(
            f"a parameter of shape {tuple(shape)} is held by {shape[0]} of {ranks} ranks, because "
            "FSDP splits only its first dimension unevenly: make the number of features a multiple "
            f"of {ranks}, or pass functools.partial(shard_placement, ranks=...) for a smaller mesh",
            stacklevel=2,
        )
    return None


class HeadParallel(ParallelStyle):
    """Tensor parallelism of a `LaplexLinear` or `LaplexHead` by its heads.

    Each device of the mesh has the parameters of its share of the heads, and multiplies the whole
    input by them. The output is the sum over the devices. A style for
    ``torch.distributed.tensor.parallel.parallelize_module``.

    Parameters
    ----------
    input_layouts : Placement, optional
        How the input is distributed, if it is not a DTensor. The default is ``Replicate()``.
    output_layouts : Placement, optional
        How to distribute the output. The default is ``Replicate()``.
    use_local_output : bool
        Return the local part of the output instead of a DTensor.

    Raises
    ------
    TypeError
        If the module is not a layer of Laplace kernels.
    ValueError
        If the number of its heads is not a multiple of the size of the mesh.

    Notes
    -----
    Outputs and gradients differ from those of one process by rounding, because the sum over the
    heads has another order. With one or two heads in total they have the same bits.

    Examples
    --------
    >>> import laplex
    >>> from torch.distributed.tensor.parallel import parallelize_module
    >>> styles = {"layer": laplex.nn.HeadParallel()}
    >>> model = parallelize_module(model, mesh, styles)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.input_layouts = input_layouts or Replicate()
        self.output_layouts = output_layouts or Replicate()
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, KernelLayer):
            raise TypeError(
                f"HeadParallel is for laplex.nn.LaplexLinear and LaplexHead, got "
                f"{type(module).__name__}: use torch's own styles for it"
            )
        if module.heads % device_mesh.size():
            raise ValueError(
                f"the layer has {module.heads} heads, which {device_mesh.size()} devices cannot "
                "share equally: give it a multiple of that, or use a smaller mesh"
            )
        return distribute_module(
            module,
            device_mesh,
            self._partition,
            self._prepare_input,  # type: ignore[arg-type]  # torch says they return nothing
            self._prepare_output,  # type: ignore[arg-type]
        )

    def _partition(self, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            placement = Replicate() if key == "bias" else Shard(0)
            distributed = distribute_tensor(
                parameter.detach(), mesh, [placement], src_data_rank=self.src_data_rank
            )
            module.register_parameter(key, nn.Parameter(distributed, parameter.requires_grad))

    def _prepare_input(self, module: nn.Module, inputs: Any, mesh: DeviceMesh) -> DTensor:
        (given,) = inputs
        if not isinstance(given, DTensor):
            given = DTensor.from_local(given, mesh, [self.input_layouts], run_check=False)
        return given.redistribute(placements=[Replicate()])

    def _prepare_output(self, module: nn.Module, output: Any, mesh: DeviceMesh) -> torch.Tensor:
        output = output.redistribute(placements=[self.output_layouts])
        return output.to_local() if self.use_local_output else output  # type: ignore[no-any-return]
