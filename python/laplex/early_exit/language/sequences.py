"""The sequences of a batch while they grow: new tokens, ends, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._support.arguments import whole
from ..model import MultiExitModel


@dataclass(frozen=True)
class Prompt:
    """The checked arguments that `generate` and `speculate` share."""

    input_ids: Tensor
    attention_mask: Tensor
    max_new_tokens: int
    ends: Tensor
    pad: int


def checked_prompt(
    model: MultiExitModel,
    input_ids: Any,
    attention_mask: Any,
    max_new_tokens: Any,
    eos_token_id: int | Sequence[int] | None,
    pad_token_id: int | None,
) -> Prompt:
    """Check the arguments; what is None is taken from the model's generation settings.

    Raises
    ------
    TypeError, ValueError
        If one of them is invalid.
    """
    whole("max_new_tokens", max_new_tokens, 1)
    if (
        not isinstance(input_ids, Tensor)
        or input_ids.ndim != 2
        or not input_ids.numel()
        or input_ids.is_floating_point()
    ):
        got = list(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise ValueError(
            f"input_ids must be whole numbers [batch, tokens], got {got}: pass the input_ids of a "
            'tokenizer with return_tensors="pt"'
        )
    settings: Any = getattr(model.backbone, "generation_config", None)
    if eos_token_id is None:
        eos_token_id = getattr(settings, "eos_token_id", None)
    if pad_token_id is None:
        pad_token_id = getattr(settings, "pad_token_id", None)
    ends = torch.tensor([] if eos_token_id is None else eos_token_id, dtype=torch.int64).flatten()
    if attention_mask is None:  # as transformers takes it
        attention_mask = torch.ones_like(input_ids)
        if pad_token_id is not None and pad_token_id not in ends.tolist():
            attention_mask = (input_ids != pad_token_id).long()
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {list(input_ids.shape)}, got "
            f"{list(attention_mask.shape)}"
        )
    if not attention_mask[:, -1].all():
        raise ValueError(
            "attention_mask ends with padding: pad on the left (padding_side='left' of the "
            "tokenizer), so that new tokens follow real ones"
        )
    longest = getattr(model.backbone.config, "max_position_embeddings", None)
    if longest is not None and input_ids.shape[1] + max_new_tokens - 1 > longest:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, but the model takes {longest} tokens, and the "
            f"prompt has {input_ids.shape[1]}: pass at most {longest - input_ids.shape[1] + 1}"
        )
    pad = pad_token_id if pad_token_id is not None else int(ends[0]) if len(ends) else 0
    device = next(model.parameters()).device
    return Prompt(
        input_ids.to(device),
        attention_mask.to(device, torch.int64),
        int(max_new_tokens),
        ends.to(device),
        pad,
    )


class Sequences:
    """New tokens of a batch. Sequences that have ended leave the batch.

    Attributes
    ----------
    tokens : Tensor [batch, max_new_tokens], int64
        The new tokens, padded.
    length : int
        How many there are.
    rows : Tensor [running], int64
        Which sequences have not ended.
    mask : Tensor [running, prompt + length], int64
        Their attention masks.
    """

    def __init__(self, prompt: Prompt) -> None:
        ids = prompt.input_ids
        self.prompt, self.mask, self.length = prompt, prompt.attention_mask, 0
        self.tokens = ids.new_full((len(ids), prompt.max_new_tokens), prompt.pad)
        self.rows = torch.arange(len(ids), device=ids.device)

    @property
    def running(self) -> bool:
        """Whether any tokens are missing."""
        return bool(len(self.rows)) and self.length < self.prompt.max_new_tokens

    @property
    def last(self) -> Tensor:
        """The last token of each sequence that has not ended, Tensor [running, 1]."""
        tokens = self.tokens if self.length else self.prompt.input_ids
        return tokens[self.rows, self.length - 1, None]

    @property
    def whole(self) -> Tensor:
        """Prompts and new tokens, Tensor [batch, prompt + length]."""
        return torch.cat((self.prompt.input_ids, self.tokens[:, : self.length]), 1)

    def add(self, tokens: Tensor, cache: Any) -> None:
        """Append tokens [running, count], and take sequences that end out of the cache."""
        ends = torch.isin(tokens, self.prompt.ends)
        after = ends.cumsum(1) - ends.long() > 0  # tokens that follow the end of their sequence
        count = tokens.shape[1]
        tokens = tokens.masked_fill(after, self.prompt.pad)
        self.tokens[self.rows, self.length : self.length + count] = tokens
        self.mask = torch.cat((self.mask, self.mask.new_ones(tokens.shape)), 1)
        self.length += count
        goes_on = ~ends.any(1)
        if not goes_on.all():
            self.rows, self.mask = self.rows[goes_on], self.mask[goes_on]
            cache.batch_select_indices(goes_on)
