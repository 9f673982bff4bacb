"""Tiny models of transformers with a layer of Laplace kernels for every nn.Linear in them."""

import copy

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from drop_in_cases import (  # noqa: E402  (transformers has to be there)
    CLOSE,
    assert_gradients_reach_the_anchors,
    kernel_layers,
    made_dense,
    with_kernels,
)
from laplex.nn import LaplexHead, LaplexLinear  # noqa: E402

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 4, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}
SMALL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def pixels():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def bert():
    config = transformers.BertConfig(**SMALL, **NO_DROPOUT)
    return transformers.BertForSequenceClassification(config), TEXT


def roberta():
    config = transformers.RobertaConfig(**SMALL, **NO_DROPOUT, pad_token_id=1)
    return transformers.RobertaForTokenClassification(config), TEXT


def electra():
    config = transformers.ElectraConfig(**SMALL, **NO_DROPOUT, embedding_size=12)
    return transformers.ElectraForPreTraining(config), TEXT


def distilbert():
    config = transformers.DistilBertConfig(
        vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=32,
        dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    )  # fmt: skip
    return transformers.DistilBertForSequenceClassification(config), TEXT


def vit():
    config = transformers.ViTConfig(**SMALL, **NO_DROPOUT, **IMAGE)
    return transformers.ViTForImageClassification(config), {"pixel_values": pixels()}


def clip():
    shape = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    shape.pop("max_position_embeddings")
    config = transformers.CLIPConfig(
        text_config={**SMALL, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0},
        vision_config={**shape, **IMAGE},
        projection_dim=8,
    )
    return transformers.CLIPModel(config), {**TEXT, "pixel_values": pixels()}


def llama():
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=1, pad_token_id=0)
    return transformers.LlamaForCausalLM(config), TEXT


def mistral():
    config = transformers.MistralConfig(**SMALL, num_key_value_heads=1, pad_token_id=0)
    return transformers.MistralForCausalLM(config), TEXT


def qwen2():
    config = transformers.Qwen2Config(**SMALL, num_key_value_heads=1, pad_token_id=0)
    return transformers.Qwen2ForCausalLM(config), TEXT


def opt():
    config = transformers.OPTConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
        max_position_embeddings=32, word_embed_proj_dim=12, dropout=0.0, pad_token_id=1,
        bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config), TEXT


def t5():
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config), {**TEXT, "decoder_input_ids": IDS}


def whisper():
    config = transformers.WhisperConfig(
        vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=6,
        max_source_positions=8, max_target_positions=16, dropout=0.0, pad_token_id=1,
        bos_token_id=2, eos_token_id=2, decoder_start_token_id=2, begin_suppress_tokens=None,
    )  # fmt: skip
    sound = torch.randn(2, 6, 16, dtype=torch.float64)
    model = transformers.WhisperForConditionalGeneration(config)
    return model, {"input_features": sound, "decoder_input_ids": IDS}


MODELS = [
    bert, roberta, electra, distilbert, vit, clip, llama, mistral, qwen2, opt, t5, whisper,
]  # fmt: skip
CAUSAL = [llama, mistral, qwen2, opt]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(build):
    model, inputs = build()
    return with_kernels(model.double()), inputs


def tensors(output):
    """The floating point tensors of a model's output, in their order."""
    return [value for value in output.values() if torch.is_tensor(value)]


@pytest.mark.parametrize("build", MODELS)
def test_models_compute_what_they_do_with_the_dense_layers(build):
    model, inputs = made(build)
    assert not any(type(module) is nn.Linear for module in model.modules())
    dense = made_dense(model)
    for training in (True, False):
        model.train(training)
        dense.train(training)
        output = model(**inputs)
        for ours, theirs in zip(tensors(output), tensors(dense(**inputs)), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        model.zero_grad()
        sum((each * torch.randn_like(each)).sum() for each in tensors(output)).backward()
        assert_gradients_reach_the_anchors(model)


@pytest.mark.parametrize("build", MODELS)
def test_state_is_saved_and_loaded(build):
    model, inputs = made(build)
    other, _ = made(build)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    model.eval()
    other.eval()
    with torch.no_grad():
        for ours, theirs in zip(tensors(model(**inputs)), tensors(other(**inputs)), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("build", [bert, distilbert, vit])
def test_a_head_of_laplace_kernels_classifies(build):
    model, inputs = build()
    model.classifier = LaplexHead(16, 2, heads=2)
    model.double()
    output = model(**inputs)
    torch.testing.assert_close(output.logits, made_dense(model)(**inputs).logits, **CLOSE)
    output.logits.square().sum().backward()
    assert_gradients_reach_the_anchors(model)


@pytest.mark.parametrize("build", CAUSAL)
def test_causal_models_generate_the_same(build):
    model, _ = made(build)
    dense = made_dense(model)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    found, expected = (
        each.eval().generate(IDS[:1], output_logits=True, **options) for each in (model, dense)
    )
    # Greedy: the same tokens as long as the two best logits are apart by more than their error.
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("build", [bert, vit, llama])
def test_blocks_can_start_from_the_dense_weights(build):
    model, inputs = build()
    model.double().eval()
    before = len(list(model.parameters()))
    block = next(each for each in model.modules() if isinstance(each, nn.ModuleList))[0]
    for name, linear in [*block.named_modules()]:
        if isinstance(linear, nn.Linear):
            block.set_submodule(name, LaplexLinear.from_linear(linear, heads=4, rounds=1))
    layers = kernel_layers(model)
    assert len(layers) >= 6
    assert len(list(model.parameters())) > before
    # Eight terms of a decomposition of rank 16 are where the fit starts; it only goes down.
    assert max(layer.fit_error for layer in layers) < 0.6
    output = model(**inputs)
    for ours, theirs in zip(tensors(output), tensors(made_dense(model)(**inputs)), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_tied_head_of_t5_is_refused_when_it_is_tied_again():
    model, _ = made(t5)
    with pytest.raises(AttributeError, match=r"weight of a LaplexLinear .* cannot be set, tied"):
        model.tie_weights()


def test_a_tied_head_is_refused_by_a_sentence():
    config = transformers.LlamaConfig(
        **SMALL, num_key_value_heads=1, pad_token_id=0, tie_word_embeddings=True
    )
    model = transformers.LlamaForCausalLM(config)
    model.lm_head = LaplexLinear(16, 30, bias=False)
    assert model(**TEXT).logits.shape == (2, 5, 30)  # untied: it has a weight of its own
    with pytest.raises(AttributeError, match=r"weight of a LaplexLinear .* cannot be set, tied"):
        model.tie_weights()
    model.config.tie_word_embeddings = False
    model.tie_weights()


def test_conv1d_of_gpt2_is_no_linear():
    from transformers.pytorch_utils import Conv1D

    with pytest.raises(TypeError, match=r"linear must be a torch\.nn\.Linear, got Conv1D"):
        LaplexLinear.from_linear(Conv1D(4, 8))
