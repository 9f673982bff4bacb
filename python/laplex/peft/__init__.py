"""Adapters made of Laplace kernels, for Hugging Face PEFT.

Importing this module registers `LaplexConfig` with PEFT. Import it before
``PeftModel.from_pretrained`` loads such an adapter.
"""

from __future__ import annotations

from typing import Any

from laplex._support.optional import require

require("torch", extra="peft", feature="laplex.peft")
require("peft", extra="peft", feature="laplex.peft")

from peft.mapping import (  # noqa: E402
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from laplex.peft.config import LaplexConfig, LaplexType  # noqa: E402  (after the checks)
from laplex.peft.layer import LaplexLayer  # noqa: E402
from laplex.peft.model import LaplexModel  # noqa: E402

__all__ = ["LaplexConfig", "LaplexLayer", "LaplexModel"]

# PEFT's register_peft_method takes only the names of its own enumeration.
_REGISTRY: tuple[tuple[dict[Any, Any], object], ...] = (
    (PEFT_TYPE_TO_CONFIG_MAPPING, LaplexConfig),
    (PEFT_TYPE_TO_TUNER_MAPPING, LaplexModel),
    (PEFT_TYPE_TO_PREFIX_MAPPING, LaplexModel.prefix),
)
for _mapping, _value in _REGISTRY:
    _mapping[LaplexType.LAPLEX] = _value
