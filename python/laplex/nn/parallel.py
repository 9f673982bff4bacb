"""Layers of Laplace kernels on several devices: FSDP, and parallelism by heads or features."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

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
from laplex.nn.line_product import from_local
from laplex.nn.linear import LaplexLinear

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


class _KernelParallel(ParallelStyle):
    """A style that distributes the parameters of a layer of Laplace kernels."""

    #: Where the input is, unless it is a DTensor, and where `forward` wants it.
    _inputs: ClassVar[Placement]
    #: Where the output is to be.
    _outputs: ClassVar[Placement]

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.input_layouts = input_layouts or self._inputs
        self.output_layouts = output_layouts or self._outputs
        self.use_local_output = use_local_output

    def _check(self, module: nn.Module, mesh: DeviceMesh) -> None:
        """Refuse what the style does not distribute."""
        raise NotImplementedError

    def _placement(self, name: str) -> Placement:
        """Return the placement of a parameter."""
        raise NotImplementedError

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        self._check(module, device_mesh)
        return distribute_module(
            module,
            device_mesh,
            self._partition,
            self._prepare_input,  # type: ignore[arg-type]  # torch says they return nothing
            self._prepare_output,  # type: ignore[arg-type]
        )

    def _partition(self, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            placements = [self._placement(key)]
            distributed = distribute_tensor(
                parameter.detach(), mesh, placements, src_data_rank=self.src_data_rank
            )
            module.register_parameter(key, nn.Parameter(distributed, parameter.requires_grad))

    def _prepare_input(self, module: KernelLayer, inputs: Any, mesh: DeviceMesh) -> DTensor:
        (given,) = inputs
        if not isinstance(given, DTensor):
            given = from_local(given, mesh, self.input_layouts, module.in_features)
        return given.redistribute(placements=[self._inputs])

    def _prepare_output(self, module: nn.Module, output: Any, mesh: DeviceMesh) -> torch.Tensor:
        output = output.redistribute(placements=[self.output_layouts])
        return output.to_local() if self.use_local_output else output  # type: ignore[no-any-return]


class HeadParallel(_KernelParallel):
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
    heads has another order. With two heads in total, the output has the same bits.

    Examples
    --------
    >>> import laplex
    >>> from torch.distributed.tensor.parallel import parallelize_module
    >>> styles = {"layer": laplex.nn.HeadParallel()}
    >>> model = parallelize_module(model, mesh, styles)  # doctest: +SKIP
    """

    _inputs = _outputs = Replicate()

    def _check(self, module: nn.Module, mesh: DeviceMesh) -> None:
        if not isinstance(module, KernelLayer):
            raise TypeError(
                f"HeadParallel is for laplex.nn.LaplexLinear and LaplexHead, got "
                f"{type(module).__name__}: use torch's own styles for it"
            )
        if module.heads % mesh.size():
            raise ValueError(
                f"the layer has {module.heads} heads, which {mesh.size()} devices cannot share "
                "equally: give it a multiple of that, or use a smaller mesh"
            )

    def _placement(self, name: str) -> Placement:
        return Replicate() if name == "bias" else Shard(0)


class LineParallel(_KernelParallel):
    """Tensor parallelism of a `LaplexLinear` by its features, of which a device holds a part.

    Each device of the mesh, a CPU, has the anchors, phases and gains of its part of the input and
    output features. No device needs to hold a whole row or the whole line: heads are multiplied one
    after another by `laplex.distributed.matvec`. A style for
    ``torch.distributed.tensor.parallel.parallelize_module``. For lines that one device cannot hold,
    or few rows; otherwise shard the batch.

    Parameters
    ----------
    input_layouts : Placement, optional
        How the input is distributed, if it is not a DTensor: ``Shard(-1)``, the default, or
        ``Replicate()``. A shard has the features that ``torch.chunk`` gives to a device.
    output_layouts : Placement, optional
        How to distribute the output. The default is ``Shard(-1)``.
    use_local_output : bool
        Return the local part of the output instead of a DTensor.

    Raises
    ------
    TypeError
        If the module is not a `LaplexLinear`.

    Notes
    -----
    The output has the same bits for any number of devices.

    Examples
    --------
    >>> import laplex
    >>> from torch.distributed.tensor.parallel import parallelize_module
    >>> styles = {"layer": laplex.nn.LineParallel()}
    >>> model = parallelize_module(model, mesh, styles)  # doctest: +SKIP
    """

    _inputs = _outputs = Shard(-1)

    def _check(self, module: nn.Module, mesh: DeviceMesh) -> None:
        if not isinstance(module, LaplexLinear):
            raise TypeError(
                f"LineParallel is for laplex.nn.LaplexLinear, got {type(module).__name__}: use "
                "HeadParallel for a LaplexHead, and torch's own styles for other modules"
            )

    def _placement(self, name: str) -> Placement:
        return {"bias": Shard(0), "log_lengthscale": Replicate()}.get(name, Shard(1))
