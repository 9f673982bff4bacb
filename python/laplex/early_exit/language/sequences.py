"""The sequences of a batch while they grow: new tokens, ends, and padding."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._support.arguments import whole
from ..model import MultiExitModel

#: Generation settings that change what greedy decoding gives, and their values that change nothing.
_NOT_APPLIED = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "repetition_penalty": 1,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "watermarking_config": None,
}


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

    Warns
    -----
    UserWarning
        If the generation settings ask for more than greedy decoding.
    """
    whole("max_new_tokens", max_new_tokens, 1)
    if (
        not isinstance(input_ids, Tensor)
        or input_ids.ndim != 2
        or not input_ids.numel()
        or not _whole_numbers(input_ids)
    ):
        got = list(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise ValueError(
            f"input_ids must be whole numbers [batch, tokens], got {got}: pass the input_ids of a "
            'tokenizer with return_tensors="pt"'
        )
    known: Any = model.backbone.get_input_embeddings()  # type: ignore[operator]
    vocabulary = len(known.weight)
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < 0 or highest >= vocabulary:
        raise ValueError(
            f"input_ids go from {lowest} to {highest}, but the model knows tokens 0 to "
            f"{vocabulary - 1}: use the tokenizer of the model"
        )
    settings: Any = getattr(model.backbone, "generation_config", None)
    if eos_token_id is None:
        eos_token_id = getattr(settings, "eos_token_id", None)
    else:
        several: Any = eos_token_id
        if isinstance(several, str) or not isinstance(several, (Sequence, Tensor)):
            several = [several]
        eos_token_id = [_token("eos_token_id", one, vocabulary) for one in several]
    if pad_token_id is None:
        pad_token_id = getattr(settings, "pad_token_id", None)
    else:
        pad_token_id = _token("pad_token_id", pad_token_id, vocabulary)
    if ignored := _not_applied(settings):
        warnings.warn(
            f"{', '.join(ignored)} of model.backbone.generation_config would change the text, but "
            "decoding here is plainly greedy and does not apply them: set them to None if that is "
            "meant",
            stacklevel=3,
        )
    ends = torch.tensor([] if eos_token_id is None else eos_token_id, dtype=torch.int64).flatten()
    if attention_mask is None:  # as transformers takes it
        attention_mask = torch.ones_like(input_ids)
        if pad_token_id is not None and pad_token_id not in ends.tolist():
            attention_mask = (input_ids != pad_token_id).long()
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
        is_tensor = isinstance(attention_mask, Tensor)
        got = list(attention_mask.shape) if is_tensor else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask must be a Tensor with the shape of input_ids, {list(input_ids.shape)},"
            f" got {got}: pass the attention_mask of the tokenizer"
        )
    if not ((attention_mask == 0) | (attention_mask == 1)).all():
        raise ValueError(
            "attention_mask must hold 1 for real tokens and 0 for padding, got other numbers: pass "
            "the attention_mask of the tokenizer"
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


def _whole_numbers(tensor: Tensor) -> bool:
    kind = tensor.dtype
    return not (kind.is_floating_point or kind.is_complex or kind == torch.bool)


def _token(name: str, value: Any, vocabulary: int) -> int:
    number = whole(name, value, 0, "the number of a token")
    if number >= vocabulary:
        raise ValueError(
            f"{name} must be less than {vocabulary}, the number of tokens that the model knows, "
            f"got {number}: use the tokenizer of the model"
        )
    return number


def _not_applied(settings: Any) -> list[str]:
    """The generation settings that change the text and are not applied, as ``name=value``."""
    found = {name: getattr(settings, name, None) for name in _NOT_APPLIED}
    return [
        f"{name}={value!r}"
        for name, value in found.items()
        if value is not None and value != _NOT_APPLIED[name]
    ]


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
