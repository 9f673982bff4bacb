"""The layers of a causal language model, called one at a time with the model's own code around.

What differs between families (embeddings, positions, masks, rotary tables, the final norm, scaled
logits) is never written again here: a copy of the model, which shares everything with it except
that stand-ins take the places of its layers, tells what each layer is called with, and turns a
hidden state into logits. The model itself is not touched, so that threads can share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._support.optional import require
from ..activations import map_tensors, tensors_of
from ..probing import structure_of
from ..reading import as_logits


class Call(NamedTuple):
    """The arguments of a layer besides the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


#: Where the sequences lie in a Tensor: their dimension, and how many entries in a row each has
#: (the heads, in the slopes of Bloom). None if all sequences share it.
_Place = tuple[int, int] | None


class Decoder:
    """The decoder layers of a model in evaluation mode, and the code before and after them.

    Parameters
    ----------
    model : Module
        A causal language model of transformers.
    layers : str
        Name of the list of its decoder layers.
    """

    def __init__(self, model: nn.Module, layers: str) -> None:
        self.model, self.name = model, layers
        self.layers: list[nn.Module] = [
            getattr(one, "_orig_mod", one)  # of a layer that torch.compile returned
            for one in model.get_submodule(layers).children()
        ]
        self._places: dict[Any, list[_Place]] = {}
        self._visits = _Visits(len(self.layers))
        stands = [_StandIn(one, partial(self._visits, i)) for i, one in enumerate(self.layers)]
        self._around = _replaced(model, layers, nn.ModuleList(stands))

    def new_cache(self) -> Any:
        """An empty cache of keys and values for this model."""
        transformers = require("transformers", "encoders", feature="laplex.early_exit.language")
        return transformers.DynamicCache(config=self.model.config)

    def begin(self, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, list[Call]]:
        """Run what the model does before its layers.

        Parameters
        ----------
        ids : Tensor [batch, tokens], int64
            The new tokens.
        mask : Tensor [batch, cached + tokens], int64
            1 for real tokens, 0 for padding.
        cache : Cache
            Keys and values of the tokens before.

        Returns
        -------
        hidden : Tensor [batch, tokens, width]
            What the first layer receives.
        calls : list of Call
            The other arguments of each layer.

        Raises
        ------
        ValueError
            If the model does more between its layers than to pass a hidden state on.
        """
        given: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        given["cache" if "cache" in self._takes else "past_key_values"] = cache
        given["attention_mask"] = None if mask.all() else mask
        if "position_ids" in self._takes:
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        self._visits.start(None)
        with suppress(_AllSeen):
            self._run(given)
        hidden = self._visits.passed
        if hidden is None or hidden.ndim != 3 or hidden.shape[:2] != ids.shape:
            raise self._refusal()
        return hidden, self._visits.calls

    def learn_places(self, ids: Tensor, mask: Tensor, cache: Any, calls: list[Call]) -> None:
        """Find out where the sequences lie in arguments of layers, so that `layer` can divide them.

        What `begin` gives for all sequences twice tells it: sizes that double are of sequences, and
        the entries of the second half must be those of the first. Sizes alone could mislead, as
        with as many sequences as heads.

        Parameters
        ----------
        ids, mask, cache
            What `begin` received.
        calls : list of Call
            What it returned.

        Raises
        ------
        ValueError
            If some argument cannot be divided by sequences.
        """
        batch = len(ids)
        if batch == 1 or all(_kind(call, batch, cache) in self._places for call in calls):
            return
        _, doubled = self.begin(torch.cat((ids, ids)), torch.cat((mask, mask)), cache)
        second = torch.arange(2 * batch, device=ids.device) >= batch
        for call, twice in zip(calls, doubled, strict=True):
            one, other = _tensors(call, cache), _tensors(twice, cache)
            places = [_place(a, b, batch) for a, b in zip(one, other, strict=True)]
            for here, there, place in zip(one, other, places, strict=True):
                half = _cut(there, second, place)
                if not torch.allclose(1.0 * half, 1.0 * here, rtol=1e-2):  # half precision rounds
                    raise _undivided(here, batch)
            if self._places.setdefault(_kind(call, batch, cache), places) != places:
                raise _undivided(one[0], batch)

    def logits(self, hidden: Tensor) -> Tensor:
        """Turn hidden states [batch, tokens, width] into logits [batch, tokens, vocabulary]."""
        self._visits.start(hidden)
        ids = hidden.new_zeros(hidden.shape[:2], dtype=torch.int64)  # they make no difference
        return as_logits(self._run({"input_ids": ids, "use_cache": False}), "the backbone")

    def layer(
        self, index: int, hidden: Tensor, call: Call, cache: Any, stays: Tensor | None = None
    ) -> Tensor:
        """Run one layer for some sequences of a batch; the others pass it by.

        The keys and values of the others, computed from their unchanged hidden states, enter the
        cache like those of the rest.

        Parameters
        ----------
        index : int
        hidden : Tensor [batch, tokens, width]
        call : Call
            Its arguments from `begin`.
        cache : Cache
            The cache that `begin` received.
        stays : Tensor [batch], bool, optional
            Which sequences the layer is computed for; by default all of them. For some of them,
            `learn_places` must have seen the arguments.

        Returns
        -------
        Tensor [batch, tokens, width]
        """
        if stays is None or bool(stays.all()):
            return _state(self.layers[index](hidden, *call.args, **call.kwargs))
        rows = _RowCache(cache, stays)
        gone = self._divided(call, ~stays, cache, rows)
        try:
            self._only_keys[index](hidden[~stays], *gone.args, **gone.kwargs)
        except _Kept:
            pass
        else:
            raise ValueError(
                f"layer {index} of {type(self.model).__name__} does not keep keys and values in "
                "the cache, so no token can skip it: use a model whose layers are all attention"
            )
        if not rows.some_stay:
            return hidden
        call = self._divided(call, stays, cache, rows)
        passed = hidden.clone()
        passed[stays] = _state(self.layers[index](hidden[stays], *call.args, **call.kwargs))
        return passed

    @cached_property
    def _takes(self) -> frozenset[str]:
        return _arguments(self.model, self.name)

    @cached_property
    def _only_keys(self) -> list[nn.Module]:
        return [_without_queries(layer) for layer in self.layers]

    def _run(self, given: dict[str, Any]) -> Any:
        """Call the model with stand-ins for its layers."""
        with suppress(_NotPassedOn):
            return self._around(**given)
        self._visits.tuples = not self._visits.tuples
        with suppress(_NotPassedOn):
            return self._around(**given)
        raise self._refusal()

    def _divided(self, call: Call, rows: Tensor, cache: Any, other: Any) -> Call:
        """The arguments of a layer for some sequences of a batch, with another cache."""
        everyone = bool(rows.all())
        places = iter([] if everyone else self._places[_kind(call, len(rows), cache)])

        def cut(tensor: Tensor) -> Tensor:
            return tensor if everyone else _cut(tensor, rows, next(places))

        def one(value: Any) -> Any:
            return other if value is cache else map_tensors(cut, value)

        return Call(
            tuple(one(value) for value in call.args),
            {key: one(value) for key, value in call.kwargs.items()},
        )

    def _refusal(self) -> ValueError:
        return ValueError(
            f"{type(self.model).__name__} does more between its layers than to pass a hidden state "
            "[batch, tokens, width] on, so no token can skip them: use a model such as GPT-2, "
            "Llama, Mistral, Qwen, Gemma or OPT, without a wrapper of its forward"
        )


def find_layers(model: Any) -> str:
    """The name of the list of decoder layers of a causal language model of transformers.

    Raises
    ------
    TypeError, ValueError
        If the model is not one, or has no such list, or several.
    """
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "get_text_config"):
        raise TypeError(
            "backbone must be a causal language model of transformers, such as a GPT2LMHeadModel, "
            f"got {type(model).__name__}"
        )
    assert config is not None
    output_layer = getattr(model, "get_output_embeddings", lambda: None)
    if getattr(config, "is_encoder_decoder", False) or output_layer() is None:
        raise ValueError(
            f"backbone must be a causal language model, got {type(model).__name__}: pass one "
            "without an encoder, and with its output layer (AutoModelForCausalLM)"
        )
    depth = config.get_text_config().num_hidden_layers
    found: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    found = [one for one in found if not any(one.startswith(f"{other}.") for other in found)]
    if len(found) != 1:
        raise ValueError(
            f"backbone must have one list of {depth} decoder layers, got {found or 'none'}: pass "
            "the part of the model that generates text"
        )
    if "_orig_mod" in found[0].split("."):
        raise ValueError(
            "backbone must not be a result of torch.compile, whose layers cannot be called one by "
            "one: pass the model itself"
        )
    return found[0]


class _Visits:
    """What the stand-ins for the layers do: note their arguments, or hand a hidden state on."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.tuples = False  # whether the layers of this family return tuples; `_run` finds out
        self.start(None)

    def start(self, given: Tensor | None) -> None:
        """Hand on a hidden state, or note arguments if it is None."""
        self.given = given
        self.passed: Tensor | None = None
        self.calls: list[Call] = []

    def __call__(self, index: int, hidden: Tensor, call: Call) -> Any:
        if index == 0:
            self.passed, self.calls = hidden if self.given is None else self.given, []
        elif hidden is not self.passed:
            raise _NotPassedOn
        self.calls.append(call)
        if self.given is None and index == self.depth - 1:
            raise _AllSeen
        return (self.passed, None, None) if self.tuples else self.passed


class _StandIn(nn.Module):
    """Takes the place of a layer."""

    def __init__(self, layer: nn.Module, visit: Callable[[Tensor, Call], Any]) -> None:
        super().__init__()
        self.__dict__.update(stood_in_for=layer, visit=visit)  # not as a submodule

    def __getattr__(self, name: str) -> Any:
        """Look up what some models ask of a layer, such as its kind of attention."""
        return getattr(self.__dict__["stood_in_for"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.visit(hidden_states, Call(args, kwargs))


class _RowCache:
    """A cache for the two calls of a layer: for sequences that pass it by, and for the rest."""

    def __init__(self, cache: Any, stays: Tensor) -> None:
        self.cache, self.stays = cache, stays
        self.some_stay = bool(stays.any())
        self.kept: tuple[Tensor, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.kept is None:
            self.kept = (keys, values)
            if not self.some_stay:
                self.cache.update(keys, values, *args, **kwargs)
            raise _Kept  # this is all that a layer computes for these sequences
        both = []
        for one, kept in zip((keys, values), self.kept, strict=True):
            whole = one.new_empty((len(self.stays), *one.shape[1:]))
            whole[self.stays], whole[~self.stays] = one, kept
            both.append(whole)
        return tuple(one[self.stays] for one in self.cache.update(*both, *args, **kwargs))


class _Kept(Exception):
    """The keys and values of the sequences that pass a layer by are in the cache."""


class _AllSeen(Exception):
    """The last layer has been asked for."""


class _NotPassedOn(Exception):
    """A layer received something else than the one before it returned."""


class _Zeros(nn.Module):
    """Takes the place of the projection to queries, which no one will ask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros((*hidden.shape[:-1], self.width))


def _without_queries(layer: nn.Module) -> nn.Module:
    """A copy of a layer that computes no queries, if they have a projection of their own."""
    for name, module in layer.named_modules():
        width = getattr(module, "out_features", None)
        if name.rpartition(".")[2] == "q_proj" and isinstance(width, int):
            layer = _replaced(layer, name, _Zeros(width))
    return layer


def _replaced(module: nn.Module, name: str, other: nn.Module) -> nn.Module:
    """A copy of a module that shares everything with it but one submodule."""
    first, _, rest = name.partition(".")
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__)
    copied.__dict__.pop("_compiled_call_impl", None)  # of module.compile(), which is the original's
    copied.__dict__["_modules"] = dict(module._modules)
    inner = getattr(module, first)
    copied._modules[first] = _replaced(inner, rest, other) if rest else other
    return copied


def _arguments(model: nn.Module, layers: str) -> frozenset[str]:
    """Names of the arguments of the language model that a wrapper may hold."""
    parts = layers.split(".")
    for owner in (model.get_submodule(".".join(parts[:i])) for i in range(len(parts))):
        names = frozenset(inspect.signature(type(owner).forward).parameters)
        if names & {"cache", "past_key_values"}:  # the second until transformers 5
            return names
    return frozenset()


def _state(output: Any) -> Tensor:
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


def _tensors(call: Call, cache: Any) -> list[Tensor]:
    """The Tensors among the arguments of a layer, except for the cache, in order."""
    try:
        return tensors_of([one for one in (*call.args, *call.kwargs.values()) if one is not cache])
    except TypeError as error:
        raise ValueError(
            "a layer receives an argument that cannot be divided by sequences: generate one "
            f"sequence at a time ({error})"
        ) from error


def _kind(call: Call, batch: int, cache: Any) -> Any:
    """What the arguments of layers have in common whose Tensors have sequences at equal places."""
    lead = tuple(tuple(one.shape[:1]) for one in _tensors(call, cache))
    given = [None if one is cache else one for one in (*call.args, *call.kwargs.values())]
    return batch, tuple(call.kwargs), structure_of(given), lead


def _place(one: Tensor, twice: Tensor, batch: int) -> _Place:
    """Where the sequences lie, from an argument for a batch and for twice as many sequences."""
    if one.ndim != twice.ndim:
        raise _undivided(one, batch)
    axes = [axis for axis in range(one.ndim) if one.shape[axis] != twice.shape[axis]]
    if not axes:
        return None
    size = one.shape[axes[0]]
    if len(axes) > 1 or size % batch or twice.shape[axes[0]] != 2 * size:
        raise _undivided(one, batch)
    return axes[0], size // batch


def _cut(tensor: Tensor, rows: Tensor, place: _Place) -> Tensor:
    """Select some sequences."""
    if place is None:
        return tensor
    axis, each = place
    if each > 1:
        rows = rows.repeat_interleave(each)
    return tensor.index_select(axis, rows.nonzero()[:, 0].to(tensor.device))


def _undivided(tensor: Tensor, batch: int) -> ValueError:
    return ValueError(
        f"a layer receives a Tensor {list(tensor.shape)} for {batch} sequences, whose rows cannot "
        "be told apart: generate one sequence at a time"
    )
