"""Exits for each token of causal language models: tiny models, built from configurations.

The weights are random, and logits are of size 1 to 10. In double precision rounding changes them by
about 1e-14, so it decides nothing. Where a family computes softmax in single precision (`SINGLE`),
it is 1e-6; the two largest of 97 logits, or a score and its threshold, are that close for less than
one token in 1e4, and a test has 100 tokens.
"""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from laplex.early_exit import (
    Entropy,
    LearnedScore,
    Margin,
    MaxSoftmax,
    MultiExitModel,
    Patience,
    Policy,
    collect,
    evaluate,
    evaluate_outputs,
    language,
)
from laplex.early_exit.language.decoder import Call, Decoder

DEPTH, PROMPT, NEW = 4, 7, 12
AFTER = (1, 3)
_TOKENS = {"vocab_size": 97, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_OLD = {**_TOKENS, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 64}
_WIDE = {
    **_TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_WIDE, "intermediate_size": 48, "num_key_value_heads": 2}

#: Models that differ in what the decoder must get right: queries, keys and values in one projection
#: (GPT-2, GPT-NeoX), positions learned (GPT-2, OPT), rotary (Llama) or as slopes (Bloom), windows
#: that slide (Mistral, Gemma 2), layers that return tuples (Bloom), and what follows the layers: a
#: projection (OPT) or a soft cap (Gemma 2).
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _OLD),
    "llama": ("Llama", _GROUPED),
    "qwen2": ("Qwen2", _GROUPED),
    "mistral": ("Mistral", {**_GROUPED, "head_dim": 8, "sliding_window": 5}),
    "gemma2": (
        "Gemma2",
        {**_GROUPED, "head_dim": 8, "sliding_window": 5, "final_logit_softcapping": 3.0},
    ),
    "opt": ("OPT", {**_WIDE, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "gpt_neox": ("GPTNeoX", {**_WIDE, "intermediate_size": 48}),
    "bloom": ("Bloom", {**_TOKENS, "hidden_size": 32, "n_layer": DEPTH, "n_head": 4}),
}

#: Of as many heads as the sequences of a test, and with a bias of the heads that all sequences
#: share. Padding changes its text, also without exits, so it is not in the tests of all families.
_MPT = ("Mpt", {**_TOKENS, "d_model": 32, "n_layers": DEPTH, "n_heads": 4, "max_seq_len": 64})

#: Their softmax is in single precision, which turns the masks of double precision into NaN.
SINGLE = ("gemma2", "bloom")


def backbone_of(family: str, seed: int = 0) -> Any:
    name, settings = {**FAMILIES, "mpt": _MPT}[family]
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = kind(config).to(torch.float32 if family in SINGLE else torch.float64).eval()
        for parameter in backbone.parameters():
            if parameter.ndim > 1:  # large enough for texts that vary
                nn.init.normal_(parameter, std=0.3)
    return backbone


def prompts(batch: int, padded: bool = False) -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, 97, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(batch):
            mask[row, :row] = 0
    return ids * mask, mask


def last_logits(model: MultiExitModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of all exits at the last token: [exits, batch, vocabulary]."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    slopes = type(model.backbone).__name__ in ("BloomForCausalLM", "MptForCausalLM")
    more = {} if slopes else {"position_ids": positions}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, use_cache=False, **more)
    return torch.stack([one[:, -1] for one in found])


def splitting(model: MultiExitModel, ids: Tensor, mask: Tensor) -> MaxSoftmax:
    """Thresholds half way between two scores, so that half of the sequences reach them."""
    scores = MaxSoftmax(0).scores(last_logits(model, ids, mask))[:-1].sort(1).values
    half = len(ids) // 2
    return MaxSoftmax(scores[:, half - 1 : half + 1].mean(1).tolist())


NOBODY = MaxSoftmax(1.0, strict=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nobody_leaves_the_tokens_are_those_of_the_model(family: str) -> None:
    backbone = backbone_of(family)
    model = language.attach(backbone, AFTER)
    for batch, padded in ((1, False), (4, False), (4, True)):
        ids, mask = prompts(batch, padded)
        wanted = backbone.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW)
        found = language.generate(model, ids, NOBODY, attention_mask=mask, max_new_tokens=NEW)
        assert torch.equal(found.sequences, wanted)
        assert (found.layers == DEPTH).all()
        assert (found.exit_index == 2).all()


def frozen_run(backbone: Any, name: str, ids: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
    """Run all tokens [1, n] at once, without a cache; each state stays after its layers [n].

    Returns the logits [n, vocabulary] of the states that stay, and all states [layers, n, width].
    """
    states: list[Tensor] = []

    def hook(index: int) -> Callable[..., Any]:
        def freeze(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            after = torch.where((layers > index)[None, :, None], after, before)
            states.append(after[0])
            return (after, *output[1:]) if isinstance(output, tuple) else after

        return freeze

    handles = [
        layer.register_forward_hook(hook(index), with_kwargs=True)
        for index, layer in enumerate(backbone.get_submodule(name))
    ]
    with torch.no_grad():
        logits = backbone(ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits, torch.stack(states)


@pytest.mark.parametrize("family", FAMILIES)
def test_skipped_layers_see_the_state_of_the_exit(family: str) -> None:
    """Every token and every exit follow from one run in which states stop changing at their exits.

    That run has no cache and no padding, so it also shows that padding changes nothing.
    """
    backbone = backbone_of(family)
    model = language.attach(backbone, AFTER)
    name = model.exit_names[0].rpartition(".")[0]
    ids, mask = prompts(4, padded=True)
    policy = splitting(model, ids, mask)
    found = language.generate(model, ids, policy, attention_mask=mask, max_new_tokens=NEW)
    assert set(found.exit_index.flatten().tolist()) == {0, 1, 2}
    for row in range(len(ids)):
        text = found.sequences[row, row:-1]  # the last token is never read
        layers = torch.full((len(text),), DEPTH)
        layers[-NEW:] = found.layers[row]
        logits, states = frozen_run(backbone, name, text[None], layers)
        logits = logits[-NEW:]
        assert torch.equal(found.new_tokens[row], logits.argmax(-1))
        at_exits = [
            head(states[None, after - 1])[0, -NEW:]
            for head, after in zip(model.heads, AFTER, strict=True)
        ]
        assert torch.equal(policy.exit_index([*at_exits, logits]), found.exit_index[row])


@pytest.mark.parametrize("family", FAMILIES)
def test_where_all_leave_at_once_the_network_is_truncated(family: str) -> None:
    backbone = backbone_of(family)
    model = language.attach(backbone, [2])
    short = copy.deepcopy(backbone)
    name = model.exit_names[0].rpartition(".")[0]
    parent, _, own = name.rpartition(".")
    setattr(short.get_submodule(parent), own, short.get_submodule(name)[:2])
    short.config.num_hidden_layers = 2
    if getattr(short.config, "layer_types", None):
        short.config.layer_types = short.config.layer_types[:2]
    ids, mask = prompts(4, padded=True)
    wanted = short.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW)
    found = language.generate(model, ids, MaxSoftmax(0.0), attention_mask=mask, max_new_tokens=NEW)
    assert torch.equal(found.sequences, wanted)
    assert (found.layers == 2).all()
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[0], short(ids).logits)


def test_computation_is_saved() -> None:
    """The rows that each layer's parts see are those of the tokens that reach it."""
    backbone = backbone_of("llama")
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(4)
    policy = splitting(model, ids, mask)
    parts = ("self_attn.q_proj", "self_attn.k_proj", "mlp")
    seen = torch.zeros(len(parts), DEPTH, dtype=int)

    def counter(part: int, index: int) -> Callable[..., None]:
        def count(module: nn.Module, args: Any, output: Tensor) -> None:
            seen[part, index] += output.shape[0] * output.shape[1]

        return count

    for index, layer in enumerate(backbone.model.layers):
        for part, name in enumerate(parts):
            layer.get_submodule(name).register_forward_hook(counter(part, index))
    found = language.generate(model, ids, policy, max_new_tokens=NEW)
    reached = torch.stack([(found.layers > index).sum() for index in range(DEPTH)])
    assert reached[0] > reached[1] > reached[3]
    always = 4 * (PROMPT - 1) + 2  # the prompts, and two tokens to count costs with
    assert torch.equal(seen[0], always + reached)
    assert (seen[1] == always + 1 + found.layers.numel()).all()
    assert torch.equal(seen[2], always + reached)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_costs_are_those_of_the_weights(family: str) -> None:
    backbone = backbone_of(family)
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(4)
    found = language.generate(model, ids, splitting(model, ids, mask), max_new_tokens=NEW)
    layer = backbone.model.layers[0]
    weights = sum(one.numel() for one in layer.parameters() if one.ndim == 2)
    keys = 2 * layer.self_attn.k_proj.weight.numel()
    head = backbone.lm_head.weight.numel()
    attended = (PROMPT + torch.arange(NEW)).clamp(max=5 if family == "mistral" else 64)
    of_layer = weights + 2 * 32 * attended  # scores and values: 4 heads of width 8 each
    wanted = found.layers * of_layer + (DEPTH - found.layers) * keys
    wanted = wanted + (found.exit_index + 1) * head
    assert torch.equal(found.multiply_adds, wanted.double())
    plain = (DEPTH * of_layer + head).double().expand(4, -1)
    assert torch.equal(found.plain_multiply_adds, plain)
    assert found.mean_cost == pytest.approx(float(wanted.sum() / plain.sum()), rel=1e-12)


class Last(nn.Module):
    """The score of a token, whatever the exit: its largest logit."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        return logits.amax(-1)


@pytest.mark.parametrize(
    "policy",
    [
        MaxSoftmax(0.3),
        MaxSoftmax(0.6, fallback="most_confident"),
        Margin(0.1),
        Entropy(3.2, strict=True),
        Patience(1),
        Patience(1, fallback="most_confident"),
        LearnedScore(Last(), 4.0),
    ],
    ids=repr,
)
def test_policies_decide_as_offline(policy: Policy) -> None:
    """For the first new token, no layer of an earlier one has been skipped."""
    model = language.attach(backbone_of("qwen2"), [1, 2, 3])
    ids, mask = prompts(32, padded=False)
    logits = last_logits(model, ids, mask)
    wanted = policy.exit_index(logits)
    assert len(wanted.unique()) > 1
    found = language.generate(model, ids, policy, max_new_tokens=1)
    assert torch.equal(found.exit_index[:, 0], wanted)
    assert torch.equal(found.new_tokens[:, 0], logits[wanted, torch.arange(32)].argmax(-1))


class Cascade(nn.Module):
    """Adds the logits of the exit before to its own."""

    carries = True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 97).double()

    def forward(self, activation: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = self.linear(activation) + (0 if carried is None else carried)
        return logits, logits


def test_heads_may_read_earlier_heads() -> None:
    model = MultiExitModel(backbone_of("llama"), {f"model.layers.{n}": Cascade() for n in range(3)})
    ids, mask = prompts(16)
    policy = splitting(model, ids, mask)
    wanted = policy.exit_index(last_logits(model, ids, mask))
    assert len(wanted.unique()) > 2
    found = language.generate(model, ids, policy, max_new_tokens=1)
    assert torch.equal(found.exit_index[:, 0], wanted)
    with pytest.raises(ValueError, match="read the outputs of earlier ones"):
        language.generate(model, ids, language.StateSaturation(0.9), max_new_tokens=1)
    with pytest.raises(ValueError, match="which cannot draft"):
        language.speculate(model, ids, max_new_tokens=1)


def test_saturated_states_leave() -> None:
    backbone = backbone_of("llama")
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(16)
    with torch.no_grad():
        states = backbone(ids, output_hidden_states=True).hidden_states
    cosines = torch.stack(
        [torch.cosine_similarity(states[n - 1][:, -1], states[n][:, -1], dim=-1) for n in AFTER]
    )
    cuts = cosines.sort(1).values[:, 7:9].mean(1)
    leaves = torch.cat((cosines >= cuts[:, None], torch.ones(1, 16, dtype=bool)))
    policy = language.StateSaturation(cuts.tolist())
    found = language.generate(model, ids, policy, max_new_tokens=1)
    exits = leaves.int().argmax(0)
    assert torch.equal(found.exit_index[:, 0], exits)
    logits = last_logits(model, ids, mask)[exits, torch.arange(16)]
    assert torch.equal(found.new_tokens[:, 0], logits.argmax(-1))
    # Only the head of the exit that answers is read.
    loud = language.generate(model, ids, MaxSoftmax(0.0), max_new_tokens=1)
    ends = found.exit_index[:, 0] == 0
    assert torch.equal(found.multiply_adds[ends], loud.multiply_adds[ends])
    full = found.exit_index[:, 0] == 2
    assert torch.equal(found.multiply_adds[full], found.plain_multiply_adds[full])


class Constant(nn.Module):
    def score(self, k: int, logits: Tensor) -> Tensor:
        return torch.full_like(logits[:, 0], 0.85)


def test_threshold_decays() -> None:
    """A score of 0.85 reaches 0.9 * 0.9 + 0.1 exp(-tau t / N) when t >= N log(2.5) / tau."""
    model = language.attach(backbone_of("gpt2"), [2])
    ids, _ = prompts(2)
    policy = LearnedScore(Constant(), 0.9)
    found = language.generate(model, ids, policy, max_new_tokens=NEW, decay=2.0)
    # 12 log(2.5) / 2 = 5.498
    assert found.exit_index.tolist() == [[1] * 6 + [0] * 6] * 2


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_sequences_end_alone(family: str) -> None:
    """A sequence that ends is padded; those that go on are as they would be without it."""
    backbone = backbone_of(family)
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(4, padded=True)
    full = backbone.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW)
    ends = [int(full[0, PROMPT + 4]), int(full[2, PROMPT + 1])]
    options = {"attention_mask": mask, "max_new_tokens": NEW, "eos_token_id": ends}
    wanted = backbone.generate(ids, do_sample=False, pad_token_id=0, **options)
    found = language.generate(model, ids, NOBODY, **options)
    assert torch.equal(found.sequences, wanted)
    drafted = language.speculate(model, ids, draft_tokens=3, **options)
    assert torch.equal(drafted.sequences, wanted)

    policy = splitting(model, ids, mask)
    free = language.generate(model, ids, policy, attention_mask=mask, max_new_tokens=NEW)
    ends = [int(free.new_tokens[0, 4]), int(free.new_tokens[2, 1])]
    found = language.generate(model, ids, policy, **{**options, "eos_token_id": ends})
    stopped = 0
    for row, tokens in enumerate(free.new_tokens):
        last = torch.isin(tokens, torch.tensor(ends)).nonzero().flatten()
        length = int(last[0]) + 1 if len(last) else NEW
        length = min(length, found.exit_index.shape[1])
        stopped += length < NEW
        assert torch.equal(found.new_tokens[row, :length], tokens[:length])
        assert torch.equal(found.exit_index[row, :length], free.exit_index[row, :length])
        assert (found.new_tokens[row, length:] == 0).all()
        assert (found.exit_index[row, length:] == -1).all()
        assert (found.layers[row, length:] == 0).all()
        assert (found.multiply_adds[row, length:] == 0).all()
    assert stopped >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_speculation_changes_no_token(family: str) -> None:
    backbone = backbone_of(family)
    model = language.attach(backbone, AFTER)
    with torch.no_grad():  # so that drafts are often right
        for parameter in backbone.get_submodule(model.exit_names[1]).parameters():
            parameter *= 0.5
    accepted = 0
    for batch, padded, count in ((1, False, 1), (1, False, 5), (4, True, 3)):
        ids, mask = prompts(batch, padded)
        options = {"attention_mask": mask, "max_new_tokens": NEW}
        wanted = backbone.generate(ids, do_sample=False, **options)
        found = language.speculate(model, ids, draft_exit=1, draft_tokens=count, **options)
        assert torch.equal(found.sequences, wanted)
        rounds = zip(found.drafted, found.accepted, strict=True)
        assert sum(min(right + 1, drafted) for drafted, right in rounds) == NEW
        accepted += sum(found.accepted)
    assert accepted > 0


def test_the_loss_is_that_of_the_model() -> None:
    backbone = backbone_of("llama")
    model = language.attach(backbone, AFTER, adapters={3: nn.Linear(32, 32).double()})
    ids, mask = prompts(4)
    batch = {"input_ids": ids, "attention_mask": mask}
    own = backbone(**batch, labels=ids).loss.detach()
    last = language.exit_loss(model, batch, weights=[0, 0, 1]).detach()
    assert float(last) == pytest.approx(float(own), rel=1e-5)  # theirs is in single precision
    each = [language.exit_loss(model, batch, weights=row) for row in torch.eye(3).tolist()]
    loss = language.exit_loss(model, batch)
    torch.testing.assert_close(loss, (each[0] + 2 * each[1] + 3 * each[2]) / 6)
    loss.backward()
    assert all(one.grad is not None and one.grad.any() for one in model.parameters())
    assert language.next_tokens(torch.tensor([[5, 6, 7]])).tolist() == [[6, 7, -100]]
    padded = language.next_tokens(torch.tensor([[0, 6, 7]]), torch.tensor([[0, 1, 1]]))
    assert padded.tolist() == [[-100, 7, -100]]


@pytest.mark.parametrize("family", ["mpt", "bloom"])
@pytest.mark.parametrize("batch", [2, 3, 4, 8])
def test_each_sequence_is_as_it_would_be_alone(family: str, batch: int) -> None:
    model = language.attach(backbone_of(family), AFTER)
    ids, mask = prompts(batch)
    policy = splitting(model, ids, mask)
    found = language.generate(model, ids, policy, max_new_tokens=NEW)
    assert len(found.exit_index.unique()) > 1
    for row in range(batch):
        alone = language.generate(model, ids[row : row + 1], policy, max_new_tokens=NEW)
        assert torch.equal(found.sequences[row], alone.sequences[0])
        assert torch.equal(found.exit_index[row], alone.exit_index[0])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch: torch.arange(4.0).repeat_interleave(batch),  # heads of all sequences in turn
        lambda batch: torch.zeros(batch, batch),
        lambda batch: torch.full((3,), float(batch)),
        lambda batch: object(),
    ],
)
def test_arguments_that_cannot_be_divided_are_refused(wrong: Callable[[int], Any]) -> None:
    model = language.attach(backbone_of("gpt2"), AFTER)
    ids, mask = prompts(4)
    decoder = Decoder(model.backbone, "transformer.h")
    cache = decoder.new_cache()
    begin = decoder.begin

    def more(ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, list[Call]]:
        hidden, calls = begin(ids, mask, cache)
        return hidden, [Call(one.args, {**one.kwargs, "x": wrong(len(ids))}) for one in calls]

    decoder.begin = more
    _, calls = decoder.begin(ids, mask, cache)
    with pytest.raises(ValueError, match="generate one sequence at a time"):
        decoder.learn_places(ids, mask, cache, calls)


def test_labels_of_a_batch_are_used() -> None:
    backbone = backbone_of("llama")
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(4)
    labels = ids.clone()
    labels[:, :4] = -100  # a prompt
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    own = backbone(**batch).loss.detach()
    last = language.exit_loss(model, batch, weights=[0, 0, 1]).detach()
    assert float(last) == pytest.approx(float(own), rel=1e-5)  # theirs is in single precision
    for wrong, message in (
        ({"input_ids": ids[:, :1]}, "no next token"),
        ({**batch, "labels": torch.full_like(ids, -100)}, "no next token"),
        ({**batch, "labels": labels[:, 1:]}, "labels must have the shape of input_ids"),
        (ids, "batch must be a mapping"),
        ({"labels": ids}, "batch must be a mapping"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            language.exit_loss(model, wrong)


def test_tokens_are_evaluated_as_samples() -> None:
    model = language.attach(backbone_of("gpt2"), AFTER)
    ids, _ = prompts(6)
    labels = language.next_tokens(ids)
    labels[:, :2] = -100
    batches = [
        {"input_ids": one, "labels": two}
        for one, two in zip(ids.split(4), labels.split(4), strict=True)
    ]
    tokens = collect(model, batches)
    with torch.no_grad():
        logits = torch.stack(model(ids))
    counts = labels != -100
    assert counts.sum() == 6 * (PROMPT - 3) == len(tokens)
    assert torch.equal(torch.from_numpy(tokens.labels), labels[counts])
    torch.testing.assert_close(torch.from_numpy(tokens.logits), logits[:, counts].float())
    costs = [0.3, 0.8, 1.0]
    found = evaluate(model, batches, costs=costs)
    assert found.samples == len(tokens)
    assert found.to_dict() == evaluate_outputs(tokens, costs).to_dict()
    empty = {"input_ids": ids, "labels": torch.full_like(ids, -100)}
    assert len(collect(model, [*batches, empty])) == len(tokens)
    with pytest.raises(ValueError, match="no samples"):
        collect(model, [empty])
    with pytest.raises(ValueError, match=r"a label for each token, got logits \[6, 7, 97\] and"):
        collect(model, [{"input_ids": ids, "labels": labels[:, 1:]}])


def test_compiled_models() -> None:
    """Layers may be compiled, and the model in place; its layers must not be out of reach."""
    ids, mask = prompts(4)
    backbone = backbone_of("llama")
    model = language.attach(backbone, AFTER)
    policy = splitting(model, ids, mask)
    wanted = language.generate(model, ids, policy, max_new_tokens=NEW)
    assert len(wanted.exit_index.unique()) > 1
    with pytest.raises(ValueError, match="must not be a result of"):
        language.attach(torch.compile(backbone, backend="eager"), AFTER)
    backbone.compile(backend="eager")
    backbone.model.compile(backend="eager")
    backbone.model.layers[1] = torch.compile(backbone.model.layers[1], backend="eager")
    found = language.generate(language.attach(backbone, AFTER), ids, policy, max_new_tokens=NEW)
    assert torch.equal(found.sequences, wanted.sequences)
    assert torch.equal(found.exit_index, wanted.exit_index)


def test_settings_that_are_not_applied_are_named() -> None:
    backbone = backbone_of("gpt2")
    model = language.attach(backbone, AFTER)
    ids, _ = prompts(2)
    backbone.generation_config.update(repetition_penalty=1.0, min_length=0, top_k=5)
    language.generate(model, ids, NOBODY, max_new_tokens=1)
    backbone.generation_config.update(repetition_penalty=1.2, suppress_tokens=[3])
    for call in (
        lambda: language.generate(model, ids, NOBODY, max_new_tokens=1),
        lambda: language.speculate(model, ids, max_new_tokens=1),
    ):
        with pytest.warns(UserWarning, match=r"repetition_penalty=1.2, suppress_tokens=\[3\] of"):
            call()


def test_copies_and_threads() -> None:
    model = language.attach(backbone_of("llama"), AFTER)
    ids, mask = prompts(4, padded=True)
    policy = splitting(model, ids, mask)

    def run(one: MultiExitModel) -> language.Generation:
        return language.generate(one, ids, policy, attention_mask=mask, max_new_tokens=NEW)

    wanted = run(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, [*copies, model, model, model, model]))
    for one in found:
        assert torch.equal(one.sequences, wanted.sequences)
        assert torch.equal(one.exit_index, wanted.exit_index)
    with torch.no_grad():
        copies[0].backbone.lm_head.weight.neg_()  # a copy reads its own output layer
    assert not torch.equal(copies[0](ids)[0], model(ids)[0])
    assert "Generation(48 new tokens in 4 sequences; by exit [" in repr(wanted)
    assert len(str(wanted).splitlines()) == 6
    assert torch.equal(pickle.loads(pickle.dumps(wanted)).layers, wanted.layers)


def test_nothing_is_held() -> None:
    """Hidden states are freed without a garbage collection, which GPUs would wait for in vain."""
    model = language.attach(backbone_of("gpt2"), AFTER)
    gc.collect()
    gc.disable()
    try:
        hidden = torch.zeros(1, 1, 32, dtype=torch.float64)
        held = weakref.ref(hidden)
        model.heads[0](hidden)
        del hidden
        assert held() is None
    finally:
        gc.enable()


def test_modes_are_restored() -> None:
    model = language.attach(backbone_of("gpt2"), AFTER).train()
    ids, _ = prompts(1)
    language.generate(model, ids, NOBODY, max_new_tokens=1)
    assert all(module.training for module in model.modules())
    assert not any(hasattr(one, "stood_in_for") for one in model.modules())


def test_transformers_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys; import laplex.early_exit as e; e.language.attach; "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors() -> None:
    backbone = backbone_of("gpt2")
    model = language.attach(backbone, AFTER)
    ids, mask = prompts(2, padded=True)
    go = language.generate
    other = MultiExitModel(backbone, {"transformer.h.1.mlp": language.SharedHead(backbone)})
    backwards = MultiExitModel(
        backbone, {f"transformer.h.{n}": language.SharedHead(backbone) for n in (2, 1)}
    )
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=4)
    )
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=97, d_model=32, num_layers=2, num_heads=4)
    )
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: go(backbone, ids, NOBODY, max_new_tokens=1), "attach exits with language.attach"),
        (lambda: go(other, ids, NOBODY, max_new_tokens=1), "is not at a decoder layer"),
        (lambda: go(backwards, ids, NOBODY, max_new_tokens=1), "exits are out of order"),
        (lambda: go(model, ids, 0.5, max_new_tokens=1), "policy must be a Policy"),
        (lambda: go(model, ids, MaxSoftmax([0.5]), max_new_tokens=1), "threshold has 1 entry"),
        (lambda: go(model, ids[0], NOBODY, max_new_tokens=1), "input_ids must be whole numbers"),
        (lambda: go(model, ids, NOBODY, max_new_tokens=0), "max_new_tokens must be at least 1"),
        (lambda: go(model, ids, NOBODY, max_new_tokens=59), "pass at most 58"),
        (
            lambda: go(model, ids, NOBODY, max_new_tokens=1, attention_mask=mask[:, :3]),
            "attention_mask must be a Tensor with the shape",
        ),
        (
            lambda: go(model, ids, NOBODY, max_new_tokens=1, attention_mask=mask.flip(1)),
            "pad on the left",
        ),
        (lambda: go(model, ids, Entropy(1.0), max_new_tokens=1, decay=1.0), "decay needs a policy"),
        (lambda: go(model, ids, NOBODY, max_new_tokens=1, decay=-1.0), "decay must be positive"),
        (lambda: go(model, ids > 3, NOBODY, max_new_tokens=1), "input_ids must be whole numbers"),
        (lambda: go(model, ids + 90, NOBODY, max_new_tokens=1), "the model knows tokens 0 to 96"),
        (
            lambda: go(model, ids, NOBODY, max_new_tokens=1, attention_mask=[[1]]),
            "attention_mask must be a Tensor",
        ),
        (
            lambda: go(model, ids, NOBODY, max_new_tokens=1, attention_mask=mask / 2),
            "attention_mask must hold 1 for real tokens",
        ),
        (lambda: go(model, ids, NOBODY, max_new_tokens=1, eos_token_id="x"), "eos_token_id must"),
        (lambda: go(model, ids, NOBODY, max_new_tokens=1, eos_token_id=[1, 97]), "less than 97"),
        (lambda: go(model, ids, NOBODY, max_new_tokens=1, pad_token_id=-1), "pad_token_id must be"),
        (lambda: language.attach(backbone, 2), "after must be numbers of layers"),
        (lambda: language.attach(backbone, [1], adapters=[1]), "adapters must map"),
        (lambda: language.attach(backbone, [0]), "after must be at least 1"),
        (lambda: language.attach(backbone, [2, 4]), "increasing numbers of layers from 1 to 3"),
        (lambda: language.attach(backbone, [1], adapters={2: nn.Identity()}), "adapters has"),
        (lambda: language.attach(nn.Linear(2, 2), [1]), "a causal language model of transformers"),
        (lambda: language.attach(t5, [1]), "must be a causal language model"),
        (lambda: language.attach(backbone.transformer, [1]), "with its output layer"),
        (
            lambda: go(language.attach(mamba, [1]), ids, NOBODY, max_new_tokens=1),
            "does not keep keys and values",
        ),
        (lambda: language.speculate(model, ids, max_new_tokens=1, draft_exit=2), "less than 2"),
        (lambda: language.speculate(model, ids, max_new_tokens=1, draft_tokens=0), "at least 1"),
        (
            lambda: language.StateSaturation(0.9).exit_index(torch.zeros(3, 2, 97)),
            "cannot score logits",
        ),
    ]
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
