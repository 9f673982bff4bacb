"""The operator and the log density in JAX, as calls that XLA makes to the compiled core.

`matvec` and `log_prob` work under ``jax.jit``, ``jax.grad``, ``jax.jvp`` and ``jax.vmap``, on the
CPU. The core is the same as that of `laplex.matvec`, and so are the bits of the products.
"""

from __future__ import annotations

from .._support.optional import require

require("jax", extra="jax", feature="laplex.jax")

from .density import log_prob  # noqa: E402
from .functional import matvec  # noqa: E402

__all__ = ["log_prob", "matvec"]
