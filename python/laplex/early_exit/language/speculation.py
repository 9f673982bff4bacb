"""Self-speculative decoding: an early exit drafts tokens, and the whole model verifies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._support.arguments import whole
from ..model import MultiExitModel, evaluating
from .decoder import Decoder
from .exits import layers_of
from .generation import read_prompt
from .sequences import Sequences, checked_prompt
from .token_costs import token_costs


@dataclass(frozen=True, eq=False, repr=False)
class Speculation:
    """Result of `speculate`.

    Attributes
    ----------
    sequences : Tensor [batch, prompt + new], int64
        The prompts and the new tokens; after the end of a sequence, padding.
    drafted : tuple of int
        Number of tokens that the exit drafted in each round.
    accepted : tuple of int
        Number of these that the whole model agreed to. Each round adds this number of tokens, and
        one more if there was a disagreement.
    mean_cost : float
        Counted multiply-adds per new token, rejected drafts included, divided by that of the model
        without exits.
    """

    sequences: Tensor
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    mean_cost: float

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that the whole model agreed to."""
        return sum(self.accepted) / sum(self.drafted)

    def __repr__(self) -> str:
        return (
            f"Speculation({len(self.sequences)} sequences; {sum(self.drafted)} tokens drafted in "
            f"{len(self.drafted)} rounds, {self.acceptance:.1%} accepted; mean cost "
            f"{self.mean_cost:.1%} of the model without exits)"
        )


def speculate(
    model: MultiExitModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    draft_exit: int = 0,
    draft_tokens: int = 4,
) -> Speculation:
    """Decode greedily as the whole model does, with drafts from one of its exits.

    In each round the layers before the exit draft tokens one by one. The layers after it then run
    once on all of them, and the drafts are kept up to the first with which the whole model
    disagrees; its own token follows. The tokens equal those of the model without exits up to
    rounding, whatever the exit drafts.

    Parameters
    ----------
    model : MultiExitModel
        A causal language model with exits at decoder layers, such as `attach` returns.
    input_ids, max_new_tokens, attention_mask, eos_token_id, pad_token_id
        As in `generate`.
    draft_exit : int
        Index of the exit that drafts.
    draft_tokens : int
        Number of tokens to draft in a round, at least 1.

    Returns
    -------
    Speculation

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or tokens cannot skip the layers of this model.

    Notes
    -----
    This is the decoding of LayerSkip (Elhoushi et al., *LayerSkip: enabling early exit inference
    and self-speculative decoding*, ACL 2024), whose drafts and verification share the cache and
    the hidden states of the early layers. In a batch, a round keeps as many drafts as are right in
    all sequences, so one sequence at a time gains most. The gain is time, as the later layers read
    their weights once for several tokens: rejected drafts add multiply-adds.
    """
    name, exits = layers_of(model)
    whole("draft_tokens", draft_tokens, 1)
    if whole("draft_exit", draft_exit, 0) >= len(exits):
        raise ValueError(f"draft_exit must be less than {len(exits)}, got {draft_exit}")
    if any(getattr(head, "carries", False) for head in model.heads):
        raise ValueError(
            "model has heads that read the outputs of earlier heads, which cannot draft: use heads "
            "such as those of language.attach"
        )
    prompt = checked_prompt(
        model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id
    )
    early = list(exits)[draft_exit] + 1
    drafted: list[int] = []
    accepted: list[int] = []
    with evaluating(model), torch.no_grad():
        decoder = Decoder(model.backbone, name)
        costs = token_costs(model, decoder)
        cache = decoder.new_cache()
        if hasattr(cache, "activate_past_recording"):
            cache.activate_past_recording()  # sliding windows must be able to go back
        sequences = Sequences(prompt)
        read_prompt(decoder, prompt.input_ids, sequences.mask, cache)
        spent, plain = 0.0, 0.0
        while sequences.running:
            count = min(draft_tokens, prompt.max_new_tokens - sequences.length)
            mask, tokens = sequences.mask, sequences.last
            longer = torch.cat((mask, mask.new_ones((len(mask), count - 1))), 1)
            # What the later layers receive besides the states; the tokens make no difference.
            _, later = decoder.begin(tokens.expand(-1, count), longer, cache)
            reader = model.reader({"input_ids": tokens})
            states: list[Tensor] = []
            drafts: list[Tensor] = []
            for place in range(mask.shape[1], mask.shape[1] + count):
                hidden, calls = decoder.begin(tokens, longer[:, :place], cache)
                for index in range(early):
                    hidden = decoder.layer(index, hidden, calls[index], cache)
                tokens = reader.logits(draft_exit, hidden).argmax(-1)
                states.append(hidden)
                drafts.append(tokens)
            hidden = torch.cat(states, 1)
            for index in range(early, len(decoder.layers)):
                hidden = decoder.layer(index, hidden, later[index], cache)
            right = reader.output(decoder.logits(hidden)).argmax(-1)
            agree = (torch.cat(drafts, 1) == right).all(0)
            drafted.append(count)
            accepted.append(int(agree.int().cumprod(0).sum()))
            kept = min(accepted[-1] + 1, count)
            lengths = range(mask.shape[1], mask.shape[1] + count)
            table = costs.table(lengths, [len(decoder.layers) - 1], costs.heads[-1:])
            draft_head = float(costs.heads[draft_exit])
            spent += len(mask) * (float(table.sum()) + count * draft_head)
            plain += len(mask) * float(table[:kept].sum())
            cache.crop(kept - count)
            sequences.add(right[:, :kept], cache)
    return Speculation(sequences.whole, tuple(drafted), tuple(accepted), spent / plain)
