"""Covariances on a line as operators of GPyTorch's package ``linear_operator``.

Importing this package needs that one; `LaplaceGram.to_linear_operator` imports it when called.
Every operation costs O(n) and forms no matrix, where the package's own algebra would use conjugate
gradients or Lanczos iterations.
"""

from .block import LaplaceBlockLinearOperator as LaplaceBlockLinearOperator
from .conditional import LaplaceConditionalLinearOperator as LaplaceConditionalLinearOperator
from .gram import LaplaceGramLinearOperator as LaplaceGramLinearOperator

__all__ = [
    "LaplaceBlockLinearOperator",
    "LaplaceConditionalLinearOperator",
    "LaplaceGramLinearOperator",
]
