"""Networks that people have, small and with random weights, each with places for two exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5
WORDS = 60
PAD = 0


@dataclass(frozen=True)
class Case:
    """A network, the modules to attach exits to, and a batch of samples for it."""

    make: Callable[[], nn.Module]
    at: Mapping[str, int]  # with the number of features, or channels, of their activations
    inputs: Callable[[int], Any]
    head: str = "pooled"
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of attach
    refuses: Mapping[str, str] = field(default_factory=dict)  # words of the message, by column


# ------------------------------------------------------------------------------------------ inputs


def normal(*shape: int) -> Callable[[int], Tensor]:
    """Batches of normal numbers; the first samples are the same for every size."""

    return lambda count: torch.stack(
        [torch.randn(shape, generator=_generator(sample)) for sample in range(count)]
    )


def sequence_first(length: int, width: int) -> Callable[[int], Tensor]:
    """As `normal`, but the batch is the second dimension."""
    return lambda count: normal(length, width)(count).transpose(0, 1)


def text(count: int, more: int = 0) -> dict[str, Tensor]:
    """Texts of 4 to 12 tokens, padded at the right to 12 and `more`."""
    tokens = torch.full((count, 12 + more), PAD)
    mask = torch.zeros(count, 12 + more, dtype=torch.long)
    for sample in range(count):
        length = 12 - 5 * sample % 9
        drawn = torch.randint(3, WORDS, (length,), generator=_generator(sample))
        tokens[sample, :length], mask[sample, :length] = drawn, 1
    return {"input_ids": tokens, "attention_mask": mask}


def left_padded_text(count: int, more: int = 0) -> dict[str, Tensor]:
    """As `text`, padded at the left."""
    return {name: tokens.flip(1) for name, tokens in text(count, more).items()}


def padded_vectors(count: int, more: int = 0) -> dict[str, Tensor]:
    """Vectors by token, with a mask that is True where there is padding, of other numbers."""
    padding = text(count, more)["attention_mask"] == 0
    x = torch.cat((normal(12, 16)(count), torch.full((count, more, 16), 7.0)), 1)
    return {"x": x, "padding_mask": padding}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


#: Inputs that take a number of tokens of padding.
PADDED = (text, left_padded_text, padded_vectors)


# --------------------------------------------------------------------------------- networks of nn


class Recurrent(nn.Module):
    """An LSTM or a GRU after another; the last step gives the logits."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        self.first = kind(6, 8, batch_first=batch_first)
        self.second = kind(8, 8, batch_first=batch_first)
        self.output = nn.Linear(8, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_first:
            x = x.transpose(0, 1)
        x = self.second(self.first(x)[0])[0]
        logits: Tensor = self.output(x[:, -1] if self.batch_first else x[-1])
        return logits


class Encoder(nn.Module):
    """nn.TransformerEncoder, whose tokens come first unless told otherwise."""

    def __init__(self, batch_first: bool, nested: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=nested)
        self.output = nn.Linear(16, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        logits: Tensor = self.output(x.mean(1 if self.batch_first else 0))
        return logits


class MaskedEncoder(Encoder):
    """The same with a mask in the manner of torch, where padding is True."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:  # type: ignore[override]
        x = self.encoder(x, src_key_padding_mask=padding_mask)
        real = ~padding_mask[..., None]
        logits: Tensor = self.output((x * real).sum(1) / real.sum(1))
        return logits


class Mixer(nn.Module):
    """A layer of an MLP-Mixer."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 16), nn.GELU(), nn.Linear(16, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norms[0](x).mT).mT
        return x + self.channels(self.norms[1](x))


class Shared(nn.Module):
    """A layer that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.output = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.layer(x).tanh()
        logits: Tensor = self.output(x)
        return logits


class Averaged(nn.Module):
    """An encoder of transformers, whose tokens are averaged for the logits."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(hidden.dtype)
        logits: Tensor = self.output((hidden * real).sum(1) / real.sum(1))
        return logits


class MixerNetwork(nn.Module):
    """An MLP-Mixer of 16 patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Flatten(2))
        self.layers = nn.Sequential(*[Mixer(16, width) for _ in range(3)])
        self.output = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.layers(self.patches(x).mT).mean(1))
        return logits


def _layers(place: str) -> dict[str, int]:
    return {f"{place}.{k}": 16 for k in (0, 1)}


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def _conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def _compiled() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)]
    network: nn.Module = torch.compile(  # type: ignore[assignment]
        nn.Sequential(*layers, nn.Linear(8, CLASSES)), backend="eager"
    )
    return network


TORCH = {
    "LSTM": Case(lambda: Recurrent(nn.LSTM, True), {"first": 8, "second": 8}, normal(7, 6)),
    "LSTM, time first": Case(
        lambda: Recurrent(nn.LSTM, False), {"first": 8, "second": 8}, normal(7, 6)
    ),
    "GRU": Case(lambda: Recurrent(nn.GRU, True), {"first": 8, "second": 8}, normal(7, 6)),
    "GRU, time first": Case(
        lambda: Recurrent(nn.GRU, False), {"first": 8, "second": 8}, normal(7, 6)
    ),
    "TransformerEncoder": Case(lambda: Encoder(True), _layers("encoder.layers"), normal(7, 16)),
    "TransformerEncoder, tokens first": Case(
        lambda: Encoder(False), _layers("encoder.layers"), normal(7, 16)
    ),
    "TransformerEncoder, padded": Case(
        lambda: MaskedEncoder(True),
        _layers("encoder.layers"),
        padded_vectors,
        options={"mask": "padding_mask"},
    ),
    "TransformerEncoder, nested tensors": Case(
        lambda: MaskedEncoder(True, nested=True),
        _layers("encoder.layers"),
        padded_vectors,
        options={"mask": "padding_mask"},
        refuses={"attach": "nn.TransformerEncoder with enable_nested_tensor=False"},
    ),
    "samples that depend on each other": Case(
        lambda: nn.Sequential(nn.Linear(8, 8), Centred(), nn.Linear(8, 8), nn.Linear(8, CLASSES)),
        {"0": 8, "2": 8},
        normal(8),
        refuses=dict.fromkeys(("real exits", "time"), "depend on the other samples of its batch"),
    ),
    "Conv1d": Case(_conv1d, {"1": 8, "3": 16}, normal(3, 50)),
    "Conv3d": Case(_conv3d, {"1": 8, "3": 16}, normal(2, 6, 8, 8)),
    "MLP-Mixer": Case(
        lambda: MixerNetwork(24), {"layers.0": 24, "layers.1": 24}, normal(3, 32, 32)
    ),
    "MLP-Mixer, as many tokens as channels": Case(
        lambda: MixerNetwork(16),
        {"layers.0": 16, "layers.1": 16},
        normal(3, 32, 32),
        refuses={"attach": r"1 \(size 16\) or 2 \(size 16\): pass channel_axis={'layers.0': "},
    ),
    "a layer that runs three times": Case(Shared, {"layer@0": 16, "layer@1": 16}, normal(16)),
    "compiled MLP": Case(_compiled, {"0": 8, "1": 8}, normal(8)),
}


# ------------------------------------------------------------------------ torchvision and timm


def _torchvision(kind: str, at: Mapping[str, int], size: int = 32, **options: Any) -> Case:
    """A network by the name of its function or class in torchvision.models."""

    def make() -> nn.Module:
        from torchvision import models

        network: nn.Module = getattr(models, kind)(num_classes=CLASSES, **options)
        for name, layer in network.named_modules():
            if name == "heads.head":  # zero when new: all logits would be equal
                nn.init.normal_(layer.weight)
        return network

    return Case(make, at, normal(3, size, size))


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]
    return ConvNeXt(blocks, num_classes=CLASSES)


_FEW: dict[str, Any] = {"depths": (1, 1, 1), "embed_dim": 16, "num_heads": (2, 2, 4)}
TORCHVISION = {
    "resnet18": _torchvision("resnet18", {"layer1": 64, "layer2": 128}),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", {"features.3": 24, "features.8": 48}),
    "efficientnet_b0": _torchvision("efficientnet_b0", {"features.2": 24, "features.4": 80}),
    "ConvNeXt": Case(_convnext, {"features.1": 16, "features.3": 32}, normal(3, 32, 32)),
    "SwinTransformer": _torchvision(
        "SwinTransformer", {"features.1": 16, "features.3": 32},
        patch_size=[2, 2], window_size=[4, 4], **_FEW,
    ),
    "VisionTransformer": _torchvision(
        "VisionTransformer", {f"encoder.layers.encoder_layer_{k}": 16 for k in (0, 1)},
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
    ),
    "DenseNet": _torchvision(
        "DenseNet", {"features.denseblock1": 32, "features.denseblock2": 32},
        growth_rate=8, block_config=(2, 2, 2), num_init_features=16,
    ),
    "regnet_x_400mf": _torchvision(
        "regnet_x_400mf", {"trunk_output.block1": 32, "trunk_output.block2": 64}
    ),
    "shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5", {"stage2": 48, "stage3": 96}),
    "squeezenet1_1": _torchvision("squeezenet1_1", {"features.4": 128, "features.7": 256}),
    "googlenet, auxiliary outputs": _torchvision(
        "googlenet", {"inception3a": 256, "inception4a": 512}, init_weights=False, aux_logits=True
    ),
    "MaxVit": _torchvision(
        "MaxVit", {"blocks.0": 8, "blocks.1": 16}, size=64,
        input_size=(64, 64), stem_channels=8, partition_size=4, block_channels=[8, 16, 16],
        block_layers=[1, 1, 1], head_dim=8, stochastic_depth_prob=0.0,
    ),
}  # fmt: skip


def _timm(kind: str, at: Mapping[str, int], size: int = 32, **options: Any) -> Case:
    """A network by its name for timm.create_model, or by its class in timm.models."""

    def make() -> nn.Module:
        import timm

        known = getattr(timm.models, kind) if kind[0].isupper() else None
        network: nn.Module = (
            known(num_classes=CLASSES, **options)
            if known
            else timm.create_model(kind, num_classes=CLASSES, **options)
        )
        return network

    return Case(make, at, normal(3, size, size))


def _stages(place: str, first: int, second: int) -> dict[str, int]:
    return {f"{place}.0": first, f"{place}.1": second}


_BLOCKS = _stages("blocks", 24, 24)
_PATCHES: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2
}  # fmt: skip
TIMM = {
    "resnet18": _timm("resnet18", {"layer1": 64, "layer2": 128}),
    "vit_tiny_patch16_224": _timm("vit_tiny_patch16_224", _BLOCKS, **_PATCHES),
    "deit_tiny_distilled_patch16_224": _timm(
        "deit_tiny_distilled_patch16_224", _BLOCKS, **_PATCHES
    ),
    "cait_xxs24_224": _timm("cait_xxs24_224", _BLOCKS, **_PATCHES),
    "xcit_nano_12_p16_224": _timm("xcit_nano_12_p16_224", _BLOCKS, **_PATCHES),
    "swin_tiny_patch4_window7_224": _timm(
        "swin_tiny_patch4_window7_224", _stages("layers", 16, 32),
        img_size=32, patch_size=2, window_size=4, **_FEW,
    ),
    "FocalNet": _timm("FocalNet", _stages("layers", 16, 32), depths=(1, 1, 1), embed_dim=16),
    "convnext_atto": _timm("convnext_atto", _stages("stages", 40, 80)),
    "MlpMixer": _timm(
        "MlpMixer", _BLOCKS, img_size=32, patch_size=8, num_blocks=3, embed_dim=24
    ),
    "mobilevit_xxs": _timm("mobilevit_xxs", {"stages.1": 24, "stages.2": 48}),
    "EfficientFormerV2": _timm(
        "EfficientFormerV2", _stages("stages", 8, 16), size=64,
        img_size=64, depths=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32), num_vit=1,
    ),
    "levit_128s": _timm("levit_128s", _stages("stages", 128, 256), size=64, img_size=64),
    "pvt_v2_b0": _timm("pvt_v2_b0", _stages("stages", 32, 64)),
    "MetaFormer (PoolFormer)": _timm(
        "MetaFormer", _stages("stages", 8, 16), depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)
    ),
    "CoaT": _timm(
        "CoaT", {"serial_blocks1.0": 16, "serial_blocks2.0": 16}, size=64,
        img_size=64, patch_size=4, embed_dims=(16, 16, 16, 16), serial_depths=(2, 2, 2, 2),
        parallel_depth=1, num_heads=8, mlp_ratios=(2, 2, 2, 2),
    ),
    "CrossVit": _timm(
        "CrossVit", _BLOCKS, img_size=32, embed_dim=(24, 24), num_heads=(2, 2),
        depth=((1, 1, 0), (1, 1, 0), (1, 1, 0)), mlp_ratio=(2.0, 2.0, 1.0),
    ),
    "sequencer2d_s": _timm(
        "sequencer2d_s", _stages("stages", 8, 8), size=56,
        layers=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8), hidden_sizes=(4, 4, 4, 4),
    ),
    "mambaout_femto": _timm(
        "mambaout_femto", _stages("stages", 8, 16), depths=(1, 1, 1), dims=(8, 16, 16)
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------- transformers and peft


def _transformers(
    kind: str,
    place: str,
    inputs: Callable[..., Any] = text,
    widths: tuple[int, int] = (16, 16),
    task: str = "SequenceClassification",
    head: str = "pooled",
    **options: Any,
) -> Case:
    """A tiny network by the name of its configuration, with exits at two layers of `place`."""

    def make() -> nn.Module:
        import transformers

        chosen = {name: one for name, one in {**_TINY, **options}.items() if one is not None}
        config = getattr(transformers, f"{kind}Config")(**chosen)
        network: nn.Module = getattr(transformers, f"{kind}For{task}")(config)
        return network

    return Case(make, _stages(place, *widths), inputs, head=head)


def _t5() -> nn.Module:
    import transformers

    config = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, pad_token_id=PAD
    )
    return Averaged(transformers.T5EncoderModel(config), 16)


def _lora() -> nn.Module:
    import peft

    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    network: nn.Module = peft.get_peft_model(TRANSFORMERS["Bert"].make(), config)
    return network


_TINY: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "num_labels": CLASSES,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
_DECODER: dict[str, Any] = {"head": "last-token", "num_key_value_heads": 1, "head_dim": 8}
_IMAGES: dict[str, Any] = {"inputs": normal(3, 32, 32), "task": "ImageClassification"}
TRANSFORMERS = {
    "Bert": _transformers("Bert", "bert.encoder.layer"),
    "Roberta": _transformers("Roberta", "roberta.encoder.layer"),
    "DistilBert": _transformers("DistilBert", "distilbert.transformer.layer", hidden_dim=32),
    "Albert, a layer that runs three times": Case(
        _transformers("Albert", "", embedding_size=8).make,
        {f"albert.encoder.albert_layer_groups.0@{run}": 16 for run in (0, 1)},
        text,
    ),
    "DebertaV2": _transformers(
        "DebertaV2", "deberta.encoder.layer", relative_attention=True,
        pos_att_type=["p2c", "c2p"], type_vocab_size=0,
    ),
    "Electra": _transformers("Electra", "electra.encoder.layer", embedding_size=8),
    "ModernBert": _transformers(
        "ModernBert", "model.layers", global_attn_every_n_layers=2, local_attention=8
    ),
    "MPNet": _transformers("MPNet", "mpnet.encoder.layer"),
    "XLNet, padded at the left": _transformers(
        "XLNet", "transformer.layer", left_padded_text, d_model=16, n_layer=3, n_head=2, d_inner=32,
        hidden_size=None, num_hidden_layers=None, num_attention_heads=None,
        max_position_embeddings=None,
    ),
    "GPT2": _transformers("GPT2", "transformer.h", head="last-token", n_positions=64),
    "Llama": _transformers("Llama", "model.layers", **_DECODER),
    "Qwen2": _transformers("Qwen2", "model.layers", **_DECODER),
    "Gemma2": _transformers("Gemma2", "model.layers", **_DECODER),
    "OPT": _transformers(
        "OPT", "model.decoder.layers", head="last-token", ffn_dim=32, word_embed_proj_dim=16
    ),
    "T5 encoder": Case(_t5, _stages("encoder.encoder.block", 16, 16), text),
    "ViT": _transformers("ViT", "vit.layers", image_size=32, patch_size=8, **_IMAGES),
    "Swin": _transformers(
        "Swin", "swin.encoder.layers", widths=(32, 64), image_size=32, patch_size=2, embed_dim=16,
        depths=[1, 1, 1], num_heads=[2, 2, 4], window_size=4, num_attention_heads=None,
        **_IMAGES,
    ),
    "ConvNext": _transformers(
        "ConvNext", "convnext.encoder.stages", widths=(8, 16), num_stages=3,
        hidden_sizes=[8, 16, 16], depths=[1, 1, 1], **_IMAGES,
    ),
    "Wav2Vec2": _transformers(
        "Wav2Vec2", "wav2vec2.encoder.layers", normal(400), num_feat_extract_layers=2,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8,
    ),
    "Whisper encoder": _transformers(
        "Whisper", "encoder.layers", normal(8, 40), task="AudioClassification",
        d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=1, num_mel_bins=8, max_source_positions=20, classifier_proj_size=8,
        decoder_start_token_id=1,
    ),
}  # fmt: skip
PEFT = {"Bert with LoRA": Case(_lora, TRANSFORMERS["Bert"].at, text)}

#: All cases, by "package: name".
CASES = {
    f"{package}: {name}": case
    for package, cases in {
        "torch": TORCH,
        "torchvision": TORCHVISION,
        "timm": TIMM,
        "transformers": TRANSFORMERS,
        "peft": PEFT,
    }.items()
    for name, case in cases.items()
}
