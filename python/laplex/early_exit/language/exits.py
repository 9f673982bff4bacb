"""Exits of a causal language model: how they are attached, trained, and scored by their states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._support.arguments import whole
from ..batches import IGNORED
from ..model import MultiExitModel
from ..policies.base import Policy
from ..training.objectives import Objective
from .decoder import Decoder, find_layers


class SharedHead(nn.Module):
    """The head of an exit that uses the model's own final norm and output layer.

    Parameters
    ----------
    backbone : Module
        The causal language model. Its parameters stay its own: the head has none but those of the
        adapter.
    adapter : Module, optional
        Is applied to the hidden state first, such as a norm or a linear layer of this exit.

    Notes
    -----
    Whatever the model does after its last layer is done here too, as it runs in the model's own
    code: a projection, a scale, or a soft cap on the logits.
    """

    def __init__(self, backbone: nn.Module, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self._layers = find_layers(backbone)
        self._backbone = (backbone,)  # in a tuple, so that it is no submodule

    def forward(self, activation: Any) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        activation : Tensor [batch, tokens, width], or a tuple that starts with it
            The output of a decoder layer.

        Returns
        -------
        Tensor [batch, tokens, vocabulary]
        """
        hidden = activation[0] if isinstance(activation, tuple) else activation
        if self.adapter is not None:
            hidden = self.adapter(hidden)
        return Decoder(self._backbone[0], self._layers).logits(hidden)


def attach(
    backbone: nn.Module,
    after: Sequence[int],
    *,
    adapters: Mapping[int, nn.Module] | None = None,
) -> MultiExitModel:
    """Attach exits to decoder layers of a causal language model.

    Parameters
    ----------
    backbone : Module
        A causal language model of transformers, such as ``GPT2LMHeadModel``.
    after : sequence of int
        The number of layers that are computed before each exit, in increasing order: 2 is an exit
        after the second layer. All must be less than the number of layers.
    adapters : mapping of int to Module, optional
        A module by the number of layers of an exit. It is applied to the hidden states
        ``[batch, tokens, width]`` before the shared norm and output layer.

    Returns
    -------
    MultiExitModel
        The model. Each exit has a `SharedHead`.

    Raises
    ------
    TypeError, ValueError
        If the backbone is not a causal language model of transformers, or `after` does not fit it.

    Examples
    --------
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from laplex.early_exit import language
    >>> config = GPT2Config(n_layer=4, n_embd=32, n_head=2, vocab_size=97)
    >>> model = language.attach(GPT2LMHeadModel(config), [1, 2])
    >>> [list(logits.shape) for logits in model(torch.zeros(1, 5, dtype=int))]
    [[1, 5, 97], [1, 5, 97], [1, 5, 97]]
    """
    name = find_layers(backbone)
    depth = len(backbone.get_submodule(name))  # type: ignore[arg-type]
    if not isinstance(after, Iterable):
        raise TypeError(f"after must be numbers of layers, such as [2], got {after!r}")
    numbers = [whole("after", one, 1) for one in after]
    if not numbers or numbers != sorted(set(numbers)) or numbers[-1] >= depth:
        raise ValueError(
            f"after must be increasing numbers of layers from 1 to {depth - 1}, got {numbers}"
        )
    if not isinstance(adapters or {}, Mapping):
        raise TypeError(
            "adapters must map numbers of layers to modules, such as {2: nn.Linear(64, 64)}, got "
            f"{type(adapters).__name__}"
        )
    adapters = dict(adapters or {})
    if unknown := set(adapters) - set(numbers):
        raise ValueError(f"adapters has {sorted(unknown)}, but there are exits after {numbers}")
    heads = {
        f"{name}.{number - 1}": SharedHead(backbone, adapters.get(number)) for number in numbers
    }
    return MultiExitModel(backbone, heads)


def layers_of(model: MultiExitModel) -> tuple[str, dict[int, int]]:
    """The list of decoder layers of a model, and the exits by the indices of their layers.

    Raises
    ------
    TypeError, ValueError
        If the model is no causal language model with exits at its decoder layers.
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(
            f"model must be a MultiExitModel, got {type(model).__name__}: attach exits with "
            "language.attach"
        )
    name = find_layers(model.backbone)
    found = {}
    for k, exit_name in enumerate(model.exit_names):
        parent, _, index = exit_name.rpartition(".")
        if parent != name or not index.isdigit():
            raise ValueError(
                f"exit {exit_name!r} is not at a decoder layer: attach exits at {name}.0, "
                f"{name}.1, ..., as language.attach does"
            )
        found[int(index)] = k
    if list(found) != sorted(found):
        raise ValueError(f"exits are out of order: list them as their layers run: {sorted(found)}")
    return name, found


def next_tokens(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The labels of a causal language model: the next token of each token.

    `train`, `evaluate` and `collect` take these labels, which lie beside the logits that predict
    them. `exit_loss` shifts its own.

    Parameters
    ----------
    input_ids : Tensor [batch, tokens], int64
        The tokens; -100 in place of those that are not to be predicted, such as those of a prompt.
    attention_mask : Tensor [batch, tokens], optional
        1 for real tokens, 0 for padding.

    Returns
    -------
    Tensor [batch, tokens], int64
        The tokens shifted by one place; -100, which losses leave out, where there is no next token.
    """
    labels = functional.pad(input_ids[:, 1:], (0, 1), value=IGNORED)
    if attention_mask is not None:
        real = attention_mask.bool()
        labels = labels.masked_fill(~(real & functional.pad(real[:, 1:], (0, 1))), IGNORED)
    return labels


def exit_loss(
    model: MultiExitModel, batch: Mapping[str, Any], *, weights: Any = "linear"
) -> Tensor:
    """Compute the loss of all exits for predicting the next tokens.

    Parameters
    ----------
    model : MultiExitModel
        A model from `attach`.
    batch : mapping
        The arguments of the backbone: ``input_ids`` [batch, tokens], and ``attention_mask`` if
        there is padding. ``labels`` [batch, tokens] are the tokens to predict, by default
        `input_ids`, with -100 in place of those that do not count, such as those of a prompt. As in
        transformers they are not shifted: they are not what `next_tokens` returns.
    weights : "equal", "linear" or sequence of float
        Weights of the exits, as in `Objective`. With ``"linear"`` the weight of exit k is
        proportional to k + 1.

    Returns
    -------
    Tensor, scalar
        The weighted mean of the cross-entropies of the exits, each a mean over all tokens whose
        next token counts.

    Raises
    ------
    TypeError, ValueError
        If the batch is not such a mapping, or no token counts.

    Notes
    -----
    CALM (Schuster et al. 2022) trains with a weighted mean of this kind, the weights proportional
    to the layers. Ours are proportional to the exits' places, as exits are after chosen layers.
    """
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
        got = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(
            "batch must be a mapping with the Tensor input_ids [batch, tokens], such as what a "
            f'tokenizer returns with return_tensors="pt", got {got}'
        )
    given = dict(batch)
    tokens = given.pop("labels", None)
    if tokens is None:
        tokens = given["input_ids"]
    if tokens.shape != given["input_ids"].shape:
        raise ValueError(
            f"labels must have the shape of input_ids, {list(given['input_ids'].shape)}, got "
            f"{list(tokens.shape)}: pass the tokens, with {IGNORED} where they do not count"
        )
    labels = next_tokens(tokens, given.get("attention_mask")).flatten()
    if not (labels != IGNORED).any():
        raise ValueError(
            "batch has no next token to predict: pass sequences of at least two tokens, not all of "
            f"whose labels are {IGNORED}"
        )
    logits = model(**{"use_cache": False, **given})
    each = torch.stack([functional.cross_entropy(one.flatten(0, 1), labels) for one in logits])
    shares = each.new_tensor(Objective(weights).exit_weights(len(each)))
    return (shares / shares.sum()) @ each


class StateSaturation(Policy):
    """Leave when an exit's layer has hardly changed the hidden state.

    The score is the cosine of the angle between the hidden states of a token before and after the
    layer of the exit, from -1 to 1. It needs no logits, so the output layer runs only where a token
    leaves. `generate` accepts this policy; `MultiExitModel.predict` and `evaluate` have no hidden
    states for it.

    Parameters
    ----------
    threshold : float or sequence of float
        Cosines.
    strict
        As in `Policy`.

    Notes
    -----
    This is the hidden-state saturation of CALM (Schuster et al. 2022).
    """

    def __init__(self, threshold: Any, *, strict: bool = False) -> None:
        super().__init__(threshold, strict=strict)

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Score the samples of a batch at one exit, as in `Policy.score`, by their hidden states.

        Parameters
        ----------
        k : int
            Index of the exit.
        logits : Tensor [batch, 2, width]
            In place of logits, the hidden states before and after the layer of the exit.
        memory : None

        Returns
        -------
        scores : Tensor [batch], float64
        memory : None

        Raises
        ------
        ValueError
            If these are logits.
        """
        if logits.ndim != 3:
            raise ValueError(
                "StateSaturation compares hidden states and cannot score logits: pass it to "
                "language.generate, or use MaxSoftmax"
            )
        before, after = logits.double().unbind(1)
        return functional.cosine_similarity(before, after, dim=-1), None
