"""Layers whose weight matrix is a sum of Laplace kernels between learnable anchors.

`LaplexLinear` is a drop-in replacement for ``torch.nn.Linear`` with O(heads * (in + out))
parameters. `LaplexHead` is a classification head that can be read as a soft routing of features to
classes. `initialize_from_data` puts correlated inputs next to each other on the line, and
`param_groups` keeps an optimiser's weight decay off the anchors. `sampled_cross_entropy`,
`blockwise_cross_entropy` and `blockwise_topk` are for so many classes that not all logits fit into
memory.

`shard_placement` and `mp_policy` are for FSDP; `HeadParallel` and `LineParallel` for tensor
parallelism.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from laplex._support.optional import require

require("torch", extra="torch", feature="laplex.nn")

from laplex.nn.data_initialization import initialize_from_data  # noqa: E402  (after the check)
from laplex.nn.head import LaplexHead  # noqa: E402
from laplex.nn.linear import LaplexLinear  # noqa: E402
from laplex.nn.many_classes import (  # noqa: E402
    blockwise_cross_entropy,
    blockwise_topk,
    sampled_cross_entropy,
)
from laplex.nn.parameter_groups import param_groups  # noqa: E402

if TYPE_CHECKING:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    from laplex.nn.parallel import HeadParallel, LineParallel, shard_placement

    #: FSDP's mixed precision for layers of Laplace kernels, an object for the argument of this name
    #: of ``fully_shard``. Parameters and the product stay in float32, because anchors that round to
    #: one place are tied for good. The output is bfloat16, and so may the input be. For another
    #: dtype, pass ``MixedPrecisionPolicy(output_dtype=...)`` of ``torch.distributed.fsdp``.
    mp_policy: MixedPrecisionPolicy

__all__ = [
    "HeadParallel",
    "LaplexHead",
    "LaplexLinear",
    "LineParallel",
    "blockwise_cross_entropy",
    "blockwise_topk",
    "initialize_from_data",
    "mp_policy",
    "param_groups",
    "sampled_cross_entropy",
    "shard_placement",
]


def __getattr__(name: str) -> Any:
    # torch.distributed takes a second to import.
    if name in ("HeadParallel", "LineParallel", "mp_policy", "shard_placement"):
        from laplex.nn import parallel

        return getattr(parallel, name)
    raise AttributeError(f"module 'laplex.nn' has no attribute {name!r}")
