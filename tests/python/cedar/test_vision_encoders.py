"""Encoders of patches and layers, NaFlex, BLIP and half precision, on tiny models with RANDOM
weights, built from configs: what they encode means nothing, but has to be what the model returns.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from laplex.cedar import CEDAR, decode_captions
from laplex.cedar.encoders import BlipEncoder, ClipEncoder, VisionEncoder

transformers = pytest.importorskip("transformers")

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 11, 14, 3), dtype=np.uint8)
# As in test_encoders.py: batches change the order of float32 sums.
BATCH_TOLERANCE = 1e-5


def processor(side):
    return transformers.ViTImageProcessorPil(size={"height": side, "width": side})


def random_model(kind):
    torch.manual_seed(0)
    patches = {"image_size": 8, "patch_size": 4}
    small = {**SIZE, **patches}
    if kind == "clip":  # of two towers
        text = {**SIZE, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config=small, projection_dim=6)
        return transformers.CLIPModel(config)
    if kind == "siglip":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**small))
    if kind == "dinov2":
        sizes = {name: SIZE[name] for name in SIZE if name != "intermediate_size"}
        config = transformers.Dinov2WithRegistersConfig(
            **sizes, image_size=12, patch_size=4, num_register_tokens=3
        )
        return transformers.Dinov2WithRegistersModel(config)
    if kind == "deit":
        return transformers.DeiTModel(transformers.DeiTConfig(**small))
    if kind == "swin":
        config = transformers.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, image_size=8, patch_size=2
        )
        return transformers.SwinModel(config)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetModel(config)


def hidden_of(encoder, layer=None):
    """The hidden states of all pictures, from the model itself."""
    pixels = encoder.processor(images=list(PICTURES), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = encoder.model(pixel_values=pixels, output_hidden_states=True)
    return output.last_hidden_state if layer is None else output.hidden_states[layer]


@pytest.mark.parametrize(
    ("kind", "before"), [("clip", 1), ("siglip", 0), ("dinov2", 4), ("deit", 2), ("swin", 0)]
)
@pytest.mark.parametrize("layer", [None, 1, -2])
def test_tokens_are_those_of_the_model(kind, before, layer):
    made = {
        tokens: VisionEncoder(
            random_model(kind), processor(8), normalize=False, tokens=tokens, layer=layer
        )
        for tokens in ("patches", "mean", "cls")
    }
    states = hidden_of(made["mean"], layer).numpy()
    patches = states[:, before:]
    rows = made["patches"].encode_images(PICTURES, batch_size=2)
    assert rows.shape == (patches.shape[0] * patches.shape[1], states.shape[2])
    np.testing.assert_allclose(rows.reshape(patches.shape), patches, rtol=0, atol=BATCH_TOLERANCE)
    np.testing.assert_allclose(
        made["mean"].encode_images(PICTURES), patches.mean(1), rtol=0, atol=BATCH_TOLERANCE
    )
    height, width = made["patches"].grid(PICTURES[0])
    assert height * width == patches.shape[1]
    if before:
        rows = made["cls"].encode_images(PICTURES)
        np.testing.assert_allclose(rows, states[:, 0], rtol=0, atol=BATCH_TOLERANCE)
    else:
        with pytest.raises(ValueError, match=r"needs a class token.*pass tokens='mean'"):
            made["cls"].encode_images(PICTURES)


def test_maps_of_a_convolutional_network():
    encoder = VisionEncoder(
        random_model("resnet"), processor(32), normalize=False, tokens="patches"
    )
    maps = hidden_of(encoder).numpy()  # [n, d, height, width]
    rows = encoder.encode_images(PICTURES)
    grid = encoder.grid(PICTURES[0])
    assert grid == maps.shape[2:]
    for axis in (0, 7):
        np.testing.assert_allclose(
            rows[:, axis].reshape(5, *grid), maps[:, axis], rtol=0, atol=BATCH_TOLERANCE
        )


def test_patches_come_back_to_their_places():
    """A change in one corner of a picture changes the patch that is there: conv without context."""
    encoder = VisionEncoder(
        random_model("siglip"), processor(8), normalize=False, tokens="patches", layer=0
    )
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[1, :4, 4:] = 255
    rows = encoder.encode_images(pictures).reshape(2, *encoder.grid(pictures[0]), -1)
    moved = np.abs(rows[1] - rows[0]).max(2) > 1e-3
    assert moved.tolist() == [[False, True], [False, False]]
    assert np.array_equal(encoder.seen(pictures), pictures)  # of the size of the model already


def test_patches_in_the_cache(tmp_path):
    encoder = VisionEncoder(random_model("deit"), processor(8), normalize=True, tokens="patches")
    rows = encoder.encode_images(PICTURES, cache=tmp_path)
    assert rows.shape == (20, 16)
    (path,) = tmp_path.iterdir()
    assert np.load(path).shape == (5, 4, 16)
    encoder.model.forward = None  # not called again
    assert np.array_equal(encoder.encode_images(PICTURES, cache=tmp_path), rows)
    for other in (
        VisionEncoder(random_model("deit"), processor(8), normalize=True, tokens="mean"),
        VisionEncoder(
            random_model("deit"), processor(8), normalize=True, tokens="patches", layer=1
        ),
    ):
        other.encode_images(PICTURES, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_small(dtype, tmp_path):
    encoder = VisionEncoder(
        random_model("siglip").to(dtype), processor(8), normalize=False, tokens="mean"
    )
    rows = encoder.encode_images(PICTURES, cache=tmp_path)
    assert rows.dtype == np.float16
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 128 + 32 + 5 * 16 * 2 + 64
    exact = VisionEncoder(
        random_model("siglip"), processor(8), normalize=False, tokens="mean"
    ).encode_images(PICTURES)
    # Some ten roundings of numbers of order 1, in the network.
    assert np.abs(rows - exact).max() < 20 * float(torch.finfo(dtype).eps)
    assert np.array_equal(encoder.encode_images(PICTURES, cache=tmp_path), rows)
    codes = CEDAR(k=2, random_state=0).fit(rows).transform(rows)
    assert codes.dtype == np.float32


def test_half_precision_that_overflows():
    class Large(VisionEncoder):
        def _embed_images(self, pictures):
            return torch.full((len(pictures), 4), 1e5, dtype=torch.bfloat16)

    settings = {"tokens": "mean", "normalize": False}
    with pytest.raises(ValueError, match=r"images\[0\] is not finite.*load the model in float32"):
        Large(random_model("siglip"), processor(8), **settings).encode_images(PICTURES)
    settings["normalize"] = True
    rows = Large(random_model("siglip"), processor(8), **settings).encode_images(PICTURES)
    assert (rows == 0.5).all()


def test_what_a_vision_encoder_refuses():
    model = random_model("siglip")
    with pytest.raises(ValueError, match="tokens must be one of"):
        VisionEncoder(model, processor(8), normalize=False, tokens="all")
    with pytest.raises(TypeError, match="layer must be a whole number"):
        VisionEncoder(model, processor(8), normalize=False, tokens="mean", layer="last")
    for layer in (3, -4):
        encoder = VisionEncoder(model, processor(8), normalize=False, tokens="mean", layer=layer)
        with pytest.raises(ValueError, match=rf"layer must be in -3\.\.2.*got {layer}"):
            encoder.encode_images(PICTURES)
    with pytest.raises(TypeError, match="missing a required argument: 'tokens'"):
        VisionEncoder.from_pretrained("nowhere", normalize=False)


def siglip2():
    """A SigLIP 2 whose pictures have grids of their own."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    text = {**SIZE, "vocab_size": 20, "max_position_embeddings": 12, "projection_size": 16}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**SIZE, "patch_size": 4, "num_patches": 9}
    torch.manual_seed(0)
    model = transformers.Siglip2Model(
        transformers.Siglip2Config(text_config={**text, **tokens}, vision_config=vision)
    )
    return model, Siglip2ImageProcessorPil(patch_size=4, max_num_patches=8)


def test_siglip_2_of_variable_resolution():
    model, made = siglip2()
    pictures = [PICTURES[0], PICTURES[1, :, :5], PICTURES[2, :3]]  # of three shapes
    inputs = made(images=[Image.fromarray(one) for one in pictures], return_tensors="pt")
    assert len({tuple(shape) for shape in inputs["spatial_shapes"].tolist()}) > 1
    encoder = ClipEncoder(model, SimpleNamespace(image_processor=made), normalize=False)
    with torch.no_grad():
        pooled = model.get_image_features(**inputs).pooler_output.numpy()
        states = model.vision_model(**inputs).last_hidden_state
    for batch_size in (1, 3):
        rows = encoder.encode_images(pictures, batch_size=batch_size)
        np.testing.assert_allclose(rows, pooled, rtol=0, atol=BATCH_TOLERANCE)
    means = [
        one[: int(mask.sum())].mean(0).numpy()
        for one, mask in zip(states, inputs["pixel_attention_mask"], strict=True)
    ]
    rows = VisionEncoder(model, made, normalize=False, tokens="mean").encode_images(pictures)
    np.testing.assert_allclose(rows, means, rtol=0, atol=BATCH_TOLERANCE)
    with pytest.raises(ValueError, match=r"has a grid for each: pass tokens='mean'"):
        VisionEncoder(model, made, normalize=False, tokens="patches").encode_images(pictures)


# --- BLIP and BLIP-2 ------------------------------------------------------------------------------

WORDS = ["<pad>", "<s>", "</s>", "<image>", *"abcdefghijklmnopqrstuvwxyz"]
VISION = {**SIZE, "image_size": 8, "patch_size": 4}


class Letters:
    """In place of the processors: letters for tokens, and the image processor of transformers."""

    image_processor = transformers.BlipImageProcessorPil(size={"height": 8, "width": 8})

    def decode(self, row, skip_special_tokens):
        return "".join(WORDS[int(token)] for token in row if token > 3)


def excited(model):
    """Weights so large that what the language model reads decides about its words."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_()
    return model.eval()


def blip():
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 24}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config={**text, **ids}, vision_config=VISION)
    return excited(transformers.BlipForConditionalGeneration(config))


def blip2(language):
    """A BLIP-2 around a random OPT, which only decodes, or T5, which encodes and decodes."""
    ids = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if language == "opt":
        text = {**SIZE, **ids, "ffn_dim": 16, "word_embed_proj_dim": 16, "model_type": "opt"}
        text["max_position_embeddings"] = 64
    else:
        text = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, **ids}
        text |= {"decoder_start_token_id": 0, "model_type": "t5"}
    former = {**SIZE, "hidden_size": 12, "encoder_hidden_size": 16, "vocab_size": 20}
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config=former,
        text_config=text,
        num_query_tokens=5,
        image_token_index=3,
    )
    torch.manual_seed(1)
    return excited(transformers.Blip2ForConditionalGeneration(config))


MODELS = {"blip": blip(), "opt": blip2("opt"), "t5": blip2("t5")}


@pytest.fixture(params=list(MODELS))
def language(request):
    return MODELS[request.param]


def own_captions(model, pictures):
    """What the model's own ``generate`` makes of pictures, without the tokens of the prompt."""
    pixels = Letters.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = model.generate(pixel_values=pixels, max_new_tokens=6)
    return [Letters().decode(row, True) for row in tokens]


def test_from_pictures_to_captions(language):
    encoder = BlipEncoder(language, Letters())
    rows = encoder.encode_images(PICTURES, batch_size=2)
    states = rows.reshape(5, -1, rows.shape[1])
    assert states.shape[1:] == ((5, 16) if language is MODELS["blip"] else (5, 12))
    mean = BlipEncoder(language, Letters(), tokens="mean").encode_images(PICTURES)
    np.testing.assert_allclose(mean, states.mean(1), rtol=0, atol=1e-4)
    cedar = CEDAR(k=3, random_state=0).fit(rows)
    settings = {"cedar": cedar, "max_new_tokens": 6}
    steered = set()
    for picture, sequence, own in zip(
        PICTURES, states, own_captions(language, PICTURES), strict=True
    ):
        plain, far = decode_captions(language, Letters(), 2, [0.0, 40.0], image=picture, **settings)
        assert plain.text == own
        based = decode_captions(language, Letters(), 2, [0.0], base=sequence, **settings)
        assert based[0].text == own
        steered.add(far.text)
    assert steered != set(own_captions(language, PICTURES))
    (mean,) = decode_captions(language, Letters(), 0, [0.0], **settings)
    # BLIP-2 reads the mean once for each of its five queries.
    repeated = np.tile(cedar.mean_, (5, 1))
    assert decode_captions(language, Letters(), 0, [0.0], base=repeated, **settings) == [mean]


def test_what_cannot_be_captioned():
    model = MODELS["opt"]
    cedar = SimpleNamespace(mean_=np.zeros(12), atoms_=np.eye(12))
    with pytest.raises(ValueError, match="pass image or base, not both"):
        decode_captions(
            model, Letters(), 0, [1.0], cedar=cedar, image=PICTURES[0], base=np.zeros(12)
        )
    other = SimpleNamespace(mean_=np.zeros(16), atoms_=np.eye(16))
    with pytest.raises(ValueError, match=r"cedar's atoms must have d=12.*got d=16"):
        decode_captions(model, Letters(), 0, [1.0], cedar=other)
    with pytest.raises(ValueError, match="tokens must be one of"):
        BlipEncoder(model, Letters(), tokens="cls")
