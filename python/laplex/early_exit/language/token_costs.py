"""Counted multiply-adds of a token, by the exit where it leaves and by its place in the text."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..flop_counting import counting_flops
from ..model import MultiExitModel
from .decoder import Decoder

_known: WeakKeyDictionary[MultiExitModel, tuple[list[torch.Size], TokenCosts]] = WeakKeyDictionary()


def token_costs(model: MultiExitModel, decoder: Decoder) -> TokenCosts:
    """Count as `TokenCosts` does, unless it is known for the sizes that the model has."""
    sizes = [one.shape for one in model.parameters()]
    if model not in _known or _known[model][0] != sizes:
        _known[model] = sizes, TokenCosts(model, decoder)
    return _known[model][1]


class TokenCosts:
    """What the parts of a model cost for one token.

    The constructor counts them on two tokens: the cost of a layer is linear in the number of tokens
    that it attends to.

    Parameters
    ----------
    model : MultiExitModel
        In evaluation mode.
    decoder : Decoder
        The layers of its backbone.

    Raises
    ------
    ValueError
        If tokens cannot skip the layers of this model.
    """

    def __init__(self, model: MultiExitModel, decoder: Decoder) -> None:
        device = next(model.parameters()).device
        ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
        nobody = torch.zeros(1, dtype=torch.bool, device=device)
        cache = decoder.new_cache()
        layers: list[list[int]] = [[], [], []]  # of the first token, of the second, skipped
        with counting_flops() as total:
            for place, stays in enumerate((None, None, nobody)):
                mask = ids.new_ones((1, place + 1))
                hidden, calls = decoder.begin(ids, mask, cache)
                for index, call in enumerate(calls):
                    before = total()
                    hidden = decoder.layer(index, hidden, call, cache, stays)
                    layers[place].append((total() - before) // 2)
            reader = model.reader({"input_ids": ids})
            marks = [total()]
            for k in range(model.num_exits - 1):
                reader.logits(k, hidden)
                marks.append(total())
            reader.output(decoder.logits(hidden))
            marks.append(total())
        first, second, skipped = (torch.tensor(one, dtype=torch.float64) for one in layers)
        #: Of the layers for a token that attends to itself only, and for each token more.
        self.alone, self.each = first, second - first
        #: Of the layers for a token that passes them by: its keys and values.
        self.skipped = skipped
        #: Of the heads, that of the model itself included.
        self.heads = torch.tensor(marks, dtype=torch.float64).diff() / 2
        #: The greatest number of tokens that a layer attends to.
        self.windows = [getattr(one, "sliding_window", None) or torch.inf for one in cache.layers]

    def table(self, lengths: range, last_layers: list[int], heads: Tensor) -> Tensor:
        """Cost of a token that leaves at each exit, Tensor [lengths, exits], float64.

        Parameters
        ----------
        lengths : range
            Numbers of tokens that are attended to.
        last_layers : list of int
            Index of the last layer before each exit.
        heads : Tensor [exits]
            Cost of the heads that are read for a token that leaves at each exit.
        """
        attended = torch.tensor(self.windows).minimum(torch.tensor(lengths)[:, None])
        layers = self.alone + self.each * (attended - 1)
        computed = layers.cumsum(1)[:, last_layers]
        skipped = self.skipped.sum() - self.skipped.cumsum(0)[last_layers]
        return computed + skipped + heads
