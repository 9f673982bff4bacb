"""Captions of axes, by a tiny BLIP with RANDOM weights, built from a config.

Its sentences are nonsense, but they are the ones that the model's own `generate` makes.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laplex.cedar.captions import Caption, _decode, decode_captions

transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")

HIDDEN = 12  # of the image encoder; the text decoder has 16
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"abcdefghijklmnopqrstuvwxyz"]


def random_blip(seed):
    config = transformers.BlipConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 24,
            "pad_token_id": WORDS.index("[PAD]"),
            "bos_token_id": WORDS.index("[DEC]"),
            "sep_token_id": WORDS.index("[SEP]"),
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        initializer_range=1.0,
    )
    torch.manual_seed(seed)
    model = transformers.BlipForConditionalGeneration(config).eval()
    with torch.no_grad():  # so large that what the decoder attends to decides about the words
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_()
    return model


@pytest.fixture(scope="module")
def model():
    made = random_blip(3)
    made.text_decoder.generation_config.max_length = (
        20  # or `generate` warns that it is its default
    )
    return made


@pytest.fixture(scope="module")
def processor():
    tokenizer = transformers.BertTokenizer(
        vocab={word: number for number, word in enumerate(WORDS)}, bos_token="[DEC]"
    )
    image_processor = transformers.BlipImageProcessor(size={"height": 8, "width": 8})
    return transformers.BlipProcessor(image_processor, tokenizer)


@pytest.fixture(scope="module")
def cedar():
    """Whatever has a mean and atoms will do."""
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))[0]
    return SimpleNamespace(mean_=rng.standard_normal(HIDDEN), atoms_=atoms.astype(np.float32))


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, 8, 8))).float()


def hidden_of(vector):
    return torch.as_tensor(np.asarray(vector), dtype=torch.float32).reshape(1, -1, HIDDEN)


def logits_of(model, hidden):
    """Of the first word after bos."""
    ids = torch.full((len(hidden), 1), WORDS.index("[DEC]"))
    with torch.no_grad():
        return model.text_decoder(input_ids=ids, encoder_hidden_states=hidden).logits[:, -1]


def greedy(model, processor, hidden):
    """Decode by the definition, a word at a time, without `generate` and its cache."""
    ids = torch.tensor([[WORDS.index("[DEC]")]])
    while ids.shape[1] < model.text_decoder.generation_config.max_length:
        with torch.no_grad():
            output = model.text_decoder(input_ids=ids, encoder_hidden_states=hidden)
        word = output.logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, word], dim=1)
        if int(word) == WORDS.index("[SEP]"):
            break
    return processor.decode(ids[0], skip_special_tokens=True)


def test_equal_to_decoding_by_the_definition(model, processor, cedar):
    alphas = [-30.0, -3.0, 0.0, 3.0, 30.0]
    captions = decode_captions(model, processor, 4, alphas, cedar=cedar)
    assert [caption.alpha for caption in captions] == alphas
    for alpha, caption in zip(alphas, captions, strict=True):
        vector = cedar.mean_ + alpha * cedar.atoms_[4].astype(np.float64)
        assert caption == Caption(alpha, greedy(model, processor, hidden_of(vector)))
    assert len({caption.text for caption in captions}) >= 3  # or else nothing was decoded
    assert captions == decode_captions(model, processor, 4, np.array(alphas), cedar=cedar)


def test_alpha_zero_decodes_the_mean(model, processor, cedar):
    captions = {
        decode_captions(model, processor, axis, [0], cedar=cedar)[0].text for axis in range(3)
    }
    assert captions == {greedy(model, processor, hidden_of(cedar.mean_))}


def test_equal_to_the_models_own_generate(model, pixels):
    with torch.no_grad():
        hidden = model.vision_model(pixel_values=pixels)[0]
    for settings in ({}, {"max_new_tokens": 5}, {"num_beams": 3, "max_new_tokens": 8}):
        own = model.generate(pixel_values=pixels, **settings)
        assert torch.equal(_decode(model, hidden, **settings), own)
    assert len(torch.unique(own, dim=0)) > 1  # the pictures tell


def test_the_caption_of_an_image_is_steered(model, processor, cedar, pixels):
    with torch.no_grad():
        hidden = model.vision_model(pixel_values=pixels)[0]
    for image, own in zip(hidden, model.generate(pixel_values=pixels), strict=True):
        captions = decode_captions(model, processor, 7, [0, 20, -20], cedar=cedar, base=image)
        assert captions[0].text == processor.decode(own, skip_special_tokens=True)
        steered = image.double() + 20 * torch.from_numpy(cedar.atoms_[7]).double()
        assert captions[1].text == greedy(model, processor, hidden_of(steered))
        assert len(set(captions)) == 3


def test_the_decoder_attends_to_the_vector(model, cedar):
    mean, atom = cedar.mean_, cedar.atoms_[2]
    logits = torch.cat([logits_of(model, hidden_of(mean + a * atom)) for a in (0.0, 1.0, 10.0)])
    assert float(torch.pdist(logits).min()) > 0.1


def test_repeating_the_vector_changes_nothing(model, cedar):
    once = hidden_of(cedar.mean_)
    logits = logits_of(model, once)
    repeated = logits_of(model, once.repeat(1, 7, 1))
    # Some hundred roundings (6e-8 relative each) of sums of 16 terms, through two layers.
    torch.testing.assert_close(repeated, logits, rtol=0, atol=1e-4 * float(logits.abs().max()))


def test_generate_takes_its_settings(model, processor, cedar):
    (short,) = decode_captions(model, processor, 0, [5.0], cedar=cedar, max_new_tokens=2)
    assert len(short.text.split()) <= 2
    (long,) = decode_captions(
        model, processor, 0, [5.0], cedar=cedar, min_new_tokens=9, max_new_tokens=9
    )
    assert long.text.split()[:1] == short.text.split()[:1]
    assert long != short


@pytest.mark.parametrize("axis", [-1, HIDDEN, 1.0, True, "1"])
def test_axis(model, processor, cedar, axis):
    with pytest.raises((TypeError, ValueError), match=r"axis must be (in 0\.\.11|an integer), got"):
        decode_captions(model, processor, axis, [1.0], cedar=cedar)


@pytest.mark.parametrize("alphas", [[], 1.0, [[1.0]], [1.0, float("nan")], [float("inf")]])
def test_alphas(model, processor, cedar, alphas):
    with pytest.raises(ValueError, match="alphas must be"):
        decode_captions(model, processor, 0, alphas, cedar=cedar)


@pytest.mark.parametrize("base", [np.zeros((1, 2, HIDDEN)), np.zeros((0, HIDDEN)), 1.0])
def test_base(model, processor, cedar, base):
    with pytest.raises(ValueError, match=r"base must have shape \[d\] or \[t, d\]"):
        decode_captions(model, processor, 0, [1.0], cedar=cedar, base=base)


def test_a_base_that_is_not_finite(model, processor, cedar):
    with pytest.raises(ValueError, match="base must be finite"):
        decode_captions(model, processor, 0, [1.0], cedar=cedar, base=np.full(HIDDEN, np.nan))


def test_sizes_that_do_not_fit_are_both_named(model, processor, cedar):
    other = SimpleNamespace(mean_=np.zeros(16), atoms_=np.eye(16))
    with pytest.raises(ValueError, match=r"cedar's atoms must have d=12.*got d=16.*BlipEncoder"):
        decode_captions(model, processor, 0, [1.0], cedar=other)
    with pytest.raises(ValueError, match=r"base must have d=12.*got d=7"):
        decode_captions(model, processor, 0, [1.0], cedar=cedar, base=np.zeros(7))


def test_models_that_will_not_do(processor, cedar, model):
    with pytest.raises(TypeError, match=r"BlipForConditionalGeneration.*got BlipTextLMHeadModel"):
        decode_captions(model.text_decoder, processor, 0, [1.0], cedar=cedar)
    training = random_blip(0).train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        decode_captions(training, processor, 0, [1.0], cedar=cedar)


def test_transformers_is_named_when_missing(model, processor, cedar, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "laplex\[encoders\]"'):
        decode_captions(model, processor, 0, [1.0], cedar=cedar)
