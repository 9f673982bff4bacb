"""The adapted layer: a frozen layer, and an update of Laplace kernels for each adapter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

from laplex.nn import LaplexLinear
from laplex.peft.config import LaplexConfig

#: What pads nothing, if the kernel has one pixel.
_NO_PADDING = (0, (0, 0), "same", "valid")
#: The name of the model without adapters in `adapter_names`, as in PEFT.
BASE = "__base__"


class LaplexLayer(nn.Module, BaseTunerLayer):
    r"""A frozen layer and the updates of its weight.

    .. math::
        y = W v + b + \sum_{\mathrm{active}} s\,a \sum_h \mathrm{Re}(K_h)\,(g_h \odot v)

    Parameters
    ----------
    base_layer : nn.Module
        An ``nn.Linear``, a ``Conv1D`` of transformers, an ``nn.Conv2d`` with kernels of one pixel,
        or an adapted layer of PEFT around one of these.
    adapter_name : str
        The name of the first adapter.
    config : LaplexConfig
        Its configuration.
    heads : int
        Its number of heads.

    Attributes
    ----------
    laplex_kernels : nn.ModuleDict
        The `laplex.nn.LaplexLinear` of each adapter, :math:`\sum_h \mathrm{Re}(K_h)\,
        \mathrm{diag}(g_h)`.
    laplex_amplitude : nn.ParameterDict
        The amplitude :math:`a` of each adapter, of shape ``[1]``, because FSDP takes no scalars.

    Raises
    ------
    TypeError
        If the layer is of another type, or its weight is quantized.
    ValueError
        If a convolution has larger kernels, groups or padding.
    """

    adapter_layer_names = ("laplex_kernels", "laplex_amplitude")
    other_param_names = ("laplex_dropout", "scaling")

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: LaplexConfig, heads: int
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = features(self.get_base_layer())
        self.laplex_kernels = nn.ModuleDict()
        self.laplex_amplitude = nn.ParameterDict()
        self.laplex_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, heads)

    def update_layer(self, adapter_name: str, config: LaplexConfig, heads: int) -> None:
        """Add an adapter, whose update is zero.

        Parameters
        ----------
        adapter_name : str
            The name of the adapter.
        config : LaplexConfig
            Its configuration.
        heads : int
            Its number of heads.
        """
        weight = self._frozen().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.laplex_kernels[adapter_name] = LaplexLinear(
            self.in_features,
            self.out_features,
            bias=False,
            heads=heads,
            phased=config.phased,
            init=config.init,
            kernel=config.kernel,
            side=config.side,
            device=weight.device,
            dtype=dtype,
        )
        amplitude = torch.zeros(1, device=weight.device, dtype=dtype)
        self.laplex_amplitude[adapter_name] = nn.Parameter(amplitude)
        self.laplex_dropout[adapter_name] = (
            nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        )
        self.scaling[adapter_name] = float(config.scaling)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _frozen(self) -> nn.Linear | nn.Conv2d | Conv1D:
        return cast("nn.Linear | nn.Conv2d | Conv1D", self.get_base_layer())

    # --------------------------------------------------------------------------------- the product

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the layer and the updates of its active adapters.

        Parameters
        ----------
        x : Tensor
            The input of the layer, ``[..., m]``, or ``[batch, m, height, width]`` of a convolution.
        *args : Any
            What else the frozen layer takes.
        adapter_names : sequence of str, optional
            The adapter of each element of the batch, instead of the active ones; ``"__base__"``
            stands for none.
        **kwargs : Any
            What else the frozen layer takes.

        Returns
        -------
        Tensor
            The output, in the dtype of the frozen layer's output.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None:
            self._check_names(x, adapter_names)
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        if adapter_names is None:
            for name in self.active_adapters:
                if name in self.laplex_kernels:
                    result = result + self._update(name, x).to(result.dtype)
            return result
        for name in dict.fromkeys(adapter_names):
            if name in self.laplex_kernels:
                rows = [row for row, other in enumerate(adapter_names) if other == name]
                index = torch.tensor(rows, device=x.device)
                update = self._update(name, x[index]).to(result.dtype)
                result = result.index_add(0, index, update)
        return result

    def _update(self, name: str, x: Tensor) -> Tensor:
        """Multiply by the update of one adapter, in the adapter's dtype."""
        kernels, amplitude = self.laplex_kernels[name], self.laplex_amplitude[name]
        x = self.laplex_dropout[name](self._cast_input_dtype(x, amplitude.dtype))
        base = self._frozen()
        if isinstance(base, nn.Conv2d):
            down, right = base.stride
            x = x[..., ::down, ::right].movedim(-3, -1)
        output: Tensor = kernels(x) * (self.scaling[name] * amplitude)
        return output.movedim(-1, -3) if isinstance(base, nn.Conv2d) else output

    def _check_names(self, x: Tensor, adapter_names: Sequence[str]) -> None:
        if len(x) != len(adapter_names):
            raise ValueError(
                f"adapter_names must have one name for each of the {len(x)} elements of the batch, "
                f"got {len(adapter_names)}"
            )
        if self.merged:
            raise ValueError(
                "adapter_names cannot choose between adapters while some are merged: call "
                "unmerge_adapter() first"
            )

    # ----------------------------------------------------------------------------------- the weight

    def get_delta_weight(self, adapter: str) -> Tensor:
        r"""Return the dense update :math:`\Delta W`, differentiable.

        Parameters
        ----------
        adapter : str
            The name of the adapter.

        Returns
        -------
        Tensor
            In the shape of the frozen weight and the dtype of the adapter.

        Raises
        ------
        ValueError
            If the layer has no adapter of this name.
        """
        if adapter not in self.laplex_kernels:
            raise ValueError(f"there is no adapter {adapter!r}: it must be one of {self._names()}")
        factor = self.scaling[adapter] * self.laplex_amplitude[adapter]
        delta: Tensor = self.laplex_kernels[adapter].weight * factor
        base = self._frozen()
        return delta.T if isinstance(base, Conv1D) else delta.reshape(base.weight.shape)

    def _names(self) -> list[str]:
        return list(self.laplex_kernels)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add updates to the frozen weight, with one rounding to its dtype each.

        Parameters
        ----------
        safe_merge : bool
            Raise an error, and leave the weight as it was, if the sum is not finite.
        adapter_names : list of str, optional
            The adapters to merge; by default the active ones.

        Raises
        ------
        ValueError
            If ``safe_merge`` is true and a sum is not finite, or the weight is parametrized.
        """
        if is_parametrized(self._frozen(), "weight"):
            raise ValueError(
                "the frozen weight is parametrized, that is, computed from other parameters, so an "
                "update cannot be merged into it: call "
                "torch.nn.utils.parametrize.remove_parametrizations first"
            )
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.laplex_kernels:
                continue
            merged = self._shifted(name, 1.0)
            if safe_merge and not merged.isfinite().all():
                raise ValueError(
                    f"the weight merged with the adapter {name!r} would have NaN or infinite "
                    "entries: the adapter has diverged"
                )
            self._frozen().weight.data = merged
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the merged updates, which restores the weight up to rounding."""
        if not self.merged:
            warnings.warn("No adapter is merged, so there is nothing to unmerge.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.laplex_kernels:
                self._frozen().weight.data = self._shifted(name, -1.0)

    def _shifted(self, name: str, sign: float) -> Tensor:
        weight = self._frozen().weight.data
        return (weight + sign * self.get_delta_weight(name)).to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return whether PEFT can convert the adapter to LoRA, which it can from the dense update.

        :meta private:
        """
        return True

    def __repr__(self) -> str:
        return "laplex." + super().__repr__()


def features(layer: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a layer that can be adapted; refuse others."""
    if not isinstance(layer, (nn.Linear, Conv1D, nn.Conv2d)):
        raise TypeError(
            f"laplex.peft cannot adapt a {type(layer).__name__}: target_modules must name modules "
            "of type nn.Linear, transformers' Conv1D, or nn.Conv2d with kernels of one pixel"
        )
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        raise TypeError(
            "laplex.peft cannot adapt the out_proj of nn.MultiheadAttention, which reads its "
            "weight and never calls it: leave it out with exclude_modules"
        )
    if not layer.weight.is_floating_point():
        raise TypeError(
            f"laplex.peft cannot adapt a {type(layer).__name__} with a weight of "
            f"{layer.weight.dtype}: load the model without quantization"
        )
    if isinstance(layer, nn.Conv2d):
        if layer.kernel_size != (1, 1) or layer.groups != 1 or layer.padding not in _NO_PADDING:
            raise ValueError(
                f"laplex.peft cannot adapt {layer}: a convolution must have kernels of one pixel, "
                "one group and no padding. Leave it out with exclude_modules"
            )
        return layer.in_channels, layer.out_channels
    if isinstance(layer, Conv1D):
        inputs, outputs = layer.weight.shape
        return inputs, outputs
    return layer.in_features, layer.out_features
