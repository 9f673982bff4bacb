"""Causal language models that decide for each token how many layers it needs.

`attach` puts exits after decoder layers of a Hugging Face model, which share the model's own final
norm and output layer. `generate` decodes greedily and lets each token leave at the first exit that
is sure enough (CALM). `speculate` drafts tokens with an early exit and verifies them with the whole
model (LayerSkip). `exit_loss` is the loss for training the exits.
"""

from __future__ import annotations

from .exits import SharedHead, StateSaturation, attach, exit_loss, next_tokens
from .generation import Generation, generate
from .speculation import Speculation, speculate

__all__ = [
    "Generation",
    "SharedHead",
    "Speculation",
    "StateSaturation",
    "attach",
    "exit_loss",
    "generate",
    "next_tokens",
    "speculate",
]
