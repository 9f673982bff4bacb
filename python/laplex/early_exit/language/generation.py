"""Greedy decoding in which each token leaves at the first exit that is sure enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._support.arguments import positive
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned
from ..activations import map_tensors
from ..model import MultiExitModel, evaluating
from ..policies.base import Policy
from ..reading import Reader
from .decoder import Decoder
from .exits import StateSaturation, layers_of
from .sequences import Sequences, checked_prompt
from .token_costs import token_costs


@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    """Result of `generate`. Printing it prints the table.

    Attributes
    ----------
    sequences : Tensor [batch, prompt + new], int64
        The prompts and the new tokens; after the end of a sequence, padding.
    exit_index : Tensor [batch, new], int64
        The exit that gave each new token; -1 for padding.
    layers : Tensor [batch, new], int64
        Number of layers that were computed for each new token; 0 for padding.
    multiply_adds : Tensor [batch, new], float64
        Counted cost of each new token: the layers that were computed, the keys and values of those
        that were skipped, and every head that was read. 0 for padding.
    plain_multiply_adds : Tensor [batch, new], float64
        The same for the model without exits, at the same places.
    layers_by_exit : tuple of int
        Number of layers before each exit.
    """

    sequences: Tensor
    exit_index: Tensor
    layers: Tensor
    multiply_adds: Tensor
    plain_multiply_adds: Tensor
    layers_by_exit: tuple[int, ...]

    @property
    def new_tokens(self) -> Tensor:
        """The new tokens, Tensor [batch, new], int64."""
        return self.sequences[:, self.sequences.shape[1] - self.exit_index.shape[1] :]

    @property
    def mean_cost(self) -> float:
        """Mean cost of the new tokens, divided by that of the model without exits."""
        return float(self.multiply_adds.sum() / self.plain_multiply_adds.sum())

    def table(self) -> str:
        """Format the tokens by exit as aligned text."""
        total = int((self.exit_index >= 0).sum())
        body = []
        for k, layers in enumerate(self.layers_by_exit):
            left = self.exit_index == k
            count = int(left.sum())
            cost = f"{self.multiply_adds[left].mean():,.0f}" if count else "-"
            body.append([str(k), str(layers), str(count), f"{count / total:.1%}", cost])
        head = ["exit", "after layers", "tokens", "share", "multiply-adds a token"]
        return f"{self!r}\n{aligned(head, body)}"

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        counts = [int((self.exit_index == k).sum()) for k in range(len(self.layers_by_exit))]
        return (
            f"Generation({sum(counts)} new tokens in {len(self.sequences)} sequences; by exit "
            f"{counts}; mean cost {self.mean_cost:.1%} of the model without exits)"
        )


def generate(
    model: MultiExitModel,
    input_ids: Tensor,
    policy: Policy,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    decay: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    progress: bool = False,
) -> Generation:
    r"""Decode greedily; each token leaves at the first exit where its score reaches the threshold.

    The layers after its exit are not computed for a token, except for their keys and values, which
    later tokens attend to. Sequences of a batch leave one by one.

    Parameters
    ----------
    model : MultiExitModel
        A causal language model with exits at decoder layers, such as `attach` returns.
    input_ids : Tensor [batch, tokens], int64
        The prompts, padded on the left.
    policy : Policy
        The exit policy, such as `MaxSoftmax` or `StateSaturation`. It scores the logits
        [sequences, vocabulary] of the new tokens.
    max_new_tokens : int
        Maximum number of new tokens.
    attention_mask : Tensor [batch, tokens], optional
        1 for real tokens, 0 for padding. By default the tokens other than `pad_token_id` are real,
        or all if that token also ends sequences.
    decay : float, optional
        Rate at which the thresholds fall, see the notes. It needs a policy with scores from 0 to 1.
    eos_token_id, pad_token_id : int, or sequence of int, optional
        Tokens that end a sequence, and the one that pads it afterwards. By default those of
        ``model.backbone.generation_config``.
    progress : bool
        Draw a progress bar.

    Returns
    -------
    Generation

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or tokens cannot skip the layers of this model.

    Notes
    -----
    The keys and values of skipped layers are computed from the hidden state at the exit, unchanged:
    the state propagation of CALM (Schuster et al., *Confident adaptive language modeling*, NeurIPS
    2022). CALM is built on an encoder and a decoder; for a decoder alone we compute the prompt in
    full, except for its last token, which predicts the first new one.

    With `decay` = tau, the thresholds of new token t = 0, 1, ... are

    .. math:: \mathrm{clip}(\tfrac{9}{10} \lambda + \tfrac{1}{10} e^{-\tau t / N}, 0, 1)

    where lambda are the policy's own and N is `max_new_tokens`: early mistakes spread to all later
    tokens, so it is harder to leave at first. This is our reading of CALM's decaying threshold.

    If nobody leaves, the tokens equal those of ``model.backbone.generate(do_sample=False)`` up to
    rounding. Settings in ``generation_config`` that change the text, such as a repetition penalty,
    are not applied; a warning names them.
    """
    name, exits = layers_of(model)
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
        )
    saturation = isinstance(policy, StateSaturation)
    if saturation and any(getattr(head, "carries", False) for head in model.heads):
        raise ValueError(
            "StateSaturation passes exits without reading their heads, but heads of this model "
            "read the outputs of earlier ones: pass a policy such as MaxSoftmax(0.9)"
        )
    cuts = policy.cuts(model.num_exits)
    if decay is not None:
        positive("decay", decay)
        if cuts.numel() and not 0 <= float(cuts.min()) <= float(cuts.max()) <= 1:
            raise ValueError(
                "decay needs a policy with thresholds from 0 to 1, such as MaxSoftmax or Margin, "
                f"got {policy!r}"
            )
    prompt = checked_prompt(
        model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id
    )
    with evaluating(model), torch.no_grad(), progress_bar(progress, extra="exits") as report:
        decoder = Decoder(model.backbone, name)
        costs = token_costs(model, decoder)
        cache = decoder.new_cache()
        sequences = Sequences(prompt)
        read_prompt(decoder, prompt.input_ids, sequences.mask, cache)
        answered = torch.full_like(sequences.tokens, -1)
        stopped = torch.full_like(sequences.tokens, -1)
        while sequences.running:
            t, rows = sequences.length, sequences.rows
            now = cuts
            if decay is not None:
                fading = math.exp(-decay * t / prompt.max_new_tokens)
                now = (0.9 * cuts + 0.1 * fading).clamp(0, 1)
            step = _Token(model, policy, now, sequences.last)
            hidden, calls = decoder.begin(step.ids, sequences.mask, cache)
            decoder.learn_places(step.ids, sequences.mask, cache, calls)
            for index, call in enumerate(calls):
                before = hidden
                hidden = decoder.layer(index, hidden, call, cache, step.stays)
                if index in exits and step.stays.any():
                    step.at_exit(exits[index], before, hidden)
            if step.stays.any():
                step.at_end(decoder, hidden)
            answered[rows, t], stopped[rows, t] = step.exit_index, step.stopped_at
            sequences.add(step.tokens[:, None], cache)
            report("tokens", sequences.length, prompt.max_new_tokens, "")
    answered, stopped = answered[:, : sequences.length], stopped[:, : sequences.length]
    last_layers = [*exits, len(decoder.layers) - 1]
    first = prompt.input_ids.shape[1]
    lengths = range(first, first + sequences.length)
    read = costs.heads if saturation else costs.heads.cumsum(0)
    table = costs.table(lengths, last_layers, read).to(stopped.device)
    plain = costs.table(lengths, last_layers[-1:], costs.heads[-1:]).T.to(stopped.device)
    real = stopped >= 0
    chosen = stopped.clamp(min=0)
    layers = torch.tensor(last_layers, device=stopped.device) + 1
    return Generation(
        sequences.whole,
        answered,
        torch.where(real, layers[chosen], 0),
        torch.where(real, table.expand(len(real), -1, -1).gather(2, chosen[..., None])[..., 0], 0),
        torch.where(real, plain, 0),
        tuple(layers.tolist()),
    )


def read_prompt(decoder: Decoder, ids: Tensor, mask: Tensor, cache: Any) -> None:
    """Run all layers on the tokens [batch, tokens] of prompts, except for the last token."""
    if ids.shape[1] > 1:
        hidden, calls = decoder.begin(ids[:, :-1], mask[:, :-1], cache)
        for index, call in enumerate(calls):
            hidden = decoder.layer(index, hidden, call, cache)


class _Token:
    """The next token of each sequence of a batch, while it goes through the layers."""

    def __init__(self, model: MultiExitModel, policy: Policy, cuts: Tensor, ids: Tensor) -> None:
        self.policy, self.cuts, self.ids, self.end = policy, cuts, ids, model.num_exits - 1
        self.reader: Reader = model.reader({"input_ids": ids})
        self.memory: Any = None
        self.stays = torch.ones_like(ids[:, 0], dtype=torch.bool)
        self.tokens = torch.zeros_like(ids[:, 0])
        self.exit_index = torch.full_like(self.tokens, self.end)
        self.stopped_at = torch.full_like(self.tokens, self.end)
        # Highest score of each sequence so far, if the most confident exit is to answer.
        self.best: Tensor | None = None
        if policy.fallback == "most_confident":
            self.best = torch.full_like(self.tokens, -torch.inf, dtype=torch.float64)

    def at_exit(self, k: int, before: Tensor, hidden: Tensor) -> None:
        """Let tokens leave at exit k, from the hidden states before and after its layer."""
        rows = self.stays.nonzero()[:, 0]
        logits = None
        if isinstance(self.policy, StateSaturation):
            seen = torch.cat((before[rows], hidden[rows]), 1)
        else:
            seen = logits = self.reader.logits(k, hidden[rows])[:, -1]
        score, memory = self.policy.score(k, seen, self.memory)
        leaves = self.policy.reached(score, self.cuts[k].to(score.device))
        if logits is None and leaves.any():
            answers = self.reader.logits(k, hidden[rows[leaves]])[:, -1].argmax(-1)
        elif logits is not None:
            answers = logits[leaves].argmax(-1)
            self._note_best(k, rows, score, logits)
        gone = rows[leaves]
        if len(gone):
            self.tokens[gone], self.exit_index[gone], self.stopped_at[gone] = answers, k, k
            self.stays[gone] = False
        self.memory = map_tensors(lambda tensor: tensor[~leaves], memory)
        self.reader.keep(~leaves)

    def at_end(self, decoder: Decoder, hidden: Tensor) -> None:
        """Answer for the tokens that no exit let go."""
        rows = self.stays.nonzero()[:, 0]
        logits = self.reader.output(decoder.logits(hidden[rows]))[:, -1]
        if self.best is None:
            self.tokens[rows] = logits.argmax(-1)
        else:
            score, _ = self.policy.score(self.end, logits, self.memory)
            self._note_best(self.end, rows, score, logits)

    def _note_best(self, k: int, rows: Tensor, score: Tensor, logits: Tensor) -> None:
        if self.best is not None:
            ahead = score > self.best[rows]
            better = rows[ahead]
            self.best[better] = score[ahead]
            self.tokens[better], self.exit_index[better] = logits[ahead].argmax(-1), k
