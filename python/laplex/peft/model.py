"""The tuner that PEFT creates for a `LaplexConfig`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, AuxiliaryTrainingWrapper
from peft.utils.other import get_pattern_key
from torch import nn

from laplex.peft.config import LaplexConfig
from laplex.peft.layer import BASE, LaplexLayer


class LaplexModel(BaseTuner):
    """A model whose layers have updates of Laplace kernels; ``peft.get_peft_model`` creates it.

    Parameters
    ----------
    model : nn.Module
        The model to adapt, in place.
    config : LaplexConfig
        The configuration of the first adapter.
    adapter_name : str
        Its name.

    Attributes
    ----------
    model : nn.Module
        The adapted model.
    peft_config : dict of str to LaplexConfig
        The configuration of each adapter.
    """

    prefix = "laplex_"
    tuner_layer_cls = LaplexLayer
    target_module_mapping: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Adapt the layers of a model, and warn of names in ``heads_pattern`` that none has.

        :meta private:
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = cast(LaplexConfig, self.peft_config[adapter_name])
        left = set(config.heads_pattern or {})
        left -= {get_pattern_key(list(left), name) for name in self.targeted_module_names}
        if left:
            warnings.warn(
                f"no adapted module has a name of heads_pattern: {sorted(left)}", stacklevel=3
            )

    def add_weighted_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Raise an error; a sum of adapters needs no adapter of its own.

        :meta private:
        """
        raise NotImplementedError(
            "laplex.peft has no add_weighted_adapter: to add adapters up, make several active by "
            "model.base_model.set_adapter([...]), or merge them by model.merge_adapter([...])"
        )

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **_: Any,
    ) -> None:
        config = cast(LaplexConfig, peft_config)
        pattern = config.heads_pattern or {}
        heads = pattern.get(get_pattern_key(list(pattern), current_key), config.heads)
        if isinstance(target, LaplexLayer):
            target.update_layer(adapter_name, config, heads)
            return
        layer = LaplexLayer(target, adapter_name, config, heads)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter; set_adapter makes it trainable
        if isinstance(parent, nn.TransformerEncoderLayer):
            warnings.warn(
                "in evaluation, torch's fast path of nn.TransformerEncoderLayer reads the weights "
                "of linear1 and linear2 without their adapters: call "
                "torch.backends.mha.set_fastpath_enabled(False), or merge the adapters before",
                stacklevel=2,
            )
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Tell every adapted layer the adapters of a mixed batch, for one call of the model."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names is for inference: call model.eval() first")
        unknown = set(names) - set(self.peft_config) - {BASE}
        if unknown:
            raise ValueError(
                f"adapter_names has {sorted(unknown)}, but the adapters are "
                f"{sorted(self.peft_config)}, and {BASE!r} for none"
            )
        if (kwargs.get("num_beams") or 1) > 1:  # the batch grows inside of generate()
            names = [name for name in names for _ in range(kwargs["num_beams"])]
        hook = partial(_with_names, names)
        handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, (LaplexLayer, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _with_names(
    names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": names}
