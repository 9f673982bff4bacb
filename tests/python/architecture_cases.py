"""Networks that people have, small and with random weights, each with places for two exits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5
WORDS = 60
PAD = 0


if importlib.util.find_spec("torchvision") is not None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Its wheel on PyPI is a CUDA build. Beside torch's CPU build its operators do not load, and
        # the import fails because two of them have no names then. No network here needs them.
        _OPERATORS = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401


@dataclass(frozen=True)
class Case:
    """A network, the modules to attach exits to, and a batch of samples for it."""

    make: Callable[[], nn.Module]
    at: Mapping[str, int]  # with the number of features, or channels, of their activations
    inputs: Callable[[int], Any]
    package: str = "torch"
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


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.output = nn.Linear(16, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        logits: Tensor = self.output(x.mean(1 if self.batch_first else 0))
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


def _mixer() -> nn.Module:
    patches = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Flatten(2))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = patches
            self.layers = nn.Sequential(Mixer(16, 16), Mixer(16, 16), Mixer(16, 16))
            self.output = nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.output(self.layers(self.patches(x).mT).mean(1))
            return logits

    return Network()


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
    "TransformerEncoder": Case(
        lambda: Encoder(True), {"encoder.layers.0": 16, "encoder.layers.1": 16}, normal(7, 16)
    ),
    "TransformerEncoder, tokens first": Case(
        lambda: Encoder(False), {"encoder.layers.0": 16, "encoder.layers.1": 16}, normal(7, 16)
    ),
    "Conv1d": Case(_conv1d, {"1": 8, "3": 16}, normal(3, 50)),
    "Conv3d": Case(_conv3d, {"1": 8, "3": 16}, normal(2, 6, 8, 8)),
    "MLP-Mixer": Case(_mixer, {"layers.0": 16, "layers.1": 16}, normal(3, 32, 32)),
    "a layer that runs three times": Case(Shared, {"layer@0": 16, "layer@1": 16}, normal(16)),
    "compiled MLP": Case(_compiled, {"0": 8, "1": 8}, normal(8)),
}


# ------------------------------------------------------------------------------------- torchvision


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        network: nn.Module = getattr(models, name)(num_classes=CLASSES, weights=None, **options)
        return network

    return make


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4],
        window_size=[4, 4], num_classes=CLASSES,
    )  # fmt: skip


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=CLASSES,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight)  # zero when new: all logits would be equal
    return network


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2, 2), 16, num_classes=CLASSES)


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]
    return ConvNeXt(blocks, num_classes=CLASSES)


def _maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit(
        (64, 64), stem_channels=8, partition_size=4, block_channels=[8, 16, 16],
        block_layers=[1, 1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=CLASSES,
    )  # fmt: skip


def _images(size: int = 32) -> Callable[[int], Tensor]:
    return normal(3, size, size)


TORCHVISION = {
    "resnet18": Case(_torchvision("resnet18"), {"layer1": 64, "layer2": 128}, _images()),
    "mobilenet_v3_small": Case(
        _torchvision("mobilenet_v3_small"), {"features.3": 24, "features.8": 48}, _images()
    ),
    "efficientnet_b0": Case(
        _torchvision("efficientnet_b0"), {"features.2": 24, "features.4": 80}, _images()
    ),
    "ConvNeXt": Case(_convnext, {"features.1": 16, "features.3": 32}, _images()),
    "SwinTransformer": Case(_swin, {"features.1": 16, "features.3": 32}, _images()),
    "VisionTransformer": Case(
        _vit,
        {"encoder.layers.encoder_layer_0": 16, "encoder.layers.encoder_layer_1": 16},
        _images(),
    ),
    "DenseNet": Case(
        _densenet, {"features.denseblock1": 32, "features.denseblock2": 32}, _images()
    ),
    "regnet_x_400mf": Case(
        _torchvision("regnet_x_400mf"),
        {"trunk_output.block1": 32, "trunk_output.block2": 64},
        _images(),
    ),
    "shufflenet_v2_x0_5": Case(
        _torchvision("shufflenet_v2_x0_5"), {"stage2": 48, "stage3": 96}, _images()
    ),
    "squeezenet1_1": Case(
        _torchvision("squeezenet1_1"), {"features.4": 128, "features.7": 256}, _images()
    ),
    "googlenet": Case(
        _torchvision("googlenet", init_weights=False, aux_logits=True),
        {"inception3a": 256, "inception4a": 512},
        _images(),
    ),
    "MaxVit": Case(_maxvit, {"blocks.0": 8, "blocks.1": 16}, _images(64)),
}


# -------------------------------------------------------------------------------------------- timm


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=CLASSES, **options
        )
        return network

    return make


def _timm_class(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm.models

        network: nn.Module = getattr(timm.models, name)(num_classes=CLASSES, **options)
        return network

    return make


_SMALL_VIT: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 16, "num_heads": 2
}  # fmt: skip

TIMM = {
    "resnet18": Case(_timm("resnet18"), {"layer1": 64, "layer2": 128}, _images()),
    "vit_tiny_patch16_224": Case(
        _timm("vit_tiny_patch16_224", **_SMALL_VIT), {"blocks.0": 16, "blocks.1": 16}, _images()
    ),
    "deit_tiny_distilled_patch16_224": Case(
        _timm("deit_tiny_distilled_patch16_224", **_SMALL_VIT),
        {"blocks.0": 16, "blocks.1": 16},
        _images(),
    ),
    "cait_xxs24_224": Case(
        _timm("cait_xxs24_224", **_SMALL_VIT), {"blocks.0": 16, "blocks.1": 16}, _images()
    ),
    "swin_tiny_patch4_window7_224": Case(
        _timm(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=16,
            depths=(1, 1, 1),
            num_heads=(2, 2, 4),
        ),
        {"layers.0": 16, "layers.1": 32},
        _images(),
    ),  # fmt: skip
    "FocalNet": Case(
        _timm_class("FocalNet", depths=(1, 1, 1), embed_dim=16),
        {"layers.0": 16, "layers.1": 32},
        _images(),
    ),
    "convnext_atto": Case(_timm("convnext_atto"), {"stages.0": 40, "stages.1": 80}, _images()),
    "MlpMixer": Case(
        _timm_class("MlpMixer", img_size=32, patch_size=8, num_blocks=3, embed_dim=16),
        {"blocks.0": 16, "blocks.1": 16},
        _images(),
    ),
    "mobilevit_xxs": Case(_timm("mobilevit_xxs"), {"stages.1": 24, "stages.2": 48}, _images()),
    "EfficientFormerV2": Case(
        _timm_class(
            "EfficientFormerV2",
            depths=(1, 1, 1, 1),
            img_size=64,
            embed_dims=(8, 16, 16, 32),
            num_vit=1,
        ),
        {"stages.0": 8, "stages.1": 16},
        _images(64),
    ),
    "levit_128s": Case(
        _timm("levit_128s", img_size=64), {"stages.0": 128, "stages.1": 256}, _images(64)
    ),
    "pvt_v2_b0": Case(_timm("pvt_v2_b0"), {"stages.0": 32, "stages.1": 64}, _images()),
    "MetaFormer (PoolFormer)": Case(
        _timm_class("MetaFormer", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)),
        {"stages.0": 8, "stages.1": 16},
        _images(),
    ),
    "CoaT": Case(
        _timm_class(
            "CoaT",
            img_size=64,
            patch_size=4,
            embed_dims=(32, 32, 32, 32),
            serial_depths=(2, 2, 2, 2),
            parallel_depth=2,
            num_heads=8,
            mlp_ratios=(2, 2, 2, 2),
        ),
        {"serial_blocks1.0": 32, "serial_blocks2.0": 32},
        _images(64),
    ),
    "CrossVit": Case(
        _timm_class(
            "CrossVit",
            img_size=32,
            embed_dim=(16, 16),
            depth=((1, 1, 0), (1, 1, 0), (1, 1, 0)),
            num_heads=(2, 2),
            mlp_ratio=(2.0, 2.0, 1.0),
        ),
        {"blocks.0": 16, "blocks.1": 16},
        _images(),
    ),
    "xcit_nano_12_p16_224": Case(
        _timm("xcit_nano_12_p16_224", img_size=32, depth=3, embed_dim=16, num_heads=2),
        {"blocks.0": 16, "blocks.1": 16},
        _images(),
    ),
    "sequencer2d_s": Case(
        _timm(
            "sequencer2d_s", layers=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8), hidden_sizes=(4, 4, 4, 4)
        ),
        {"stages.0": 8, "stages.1": 8},
        _images(56),
    ),
    "mambaout_femto": Case(
        _timm("mambaout_femto", depths=(1, 1, 1), dims=(8, 16, 16)),
        {"stages.0": 8, "stages.1": 16},
        _images(),
    ),
}


# ------------------------------------------------------------------------------------ transformers

_TINY: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": PAD, "num_labels": CLASSES,
}  # fmt: skip


def _transformers(
    kind: str, task: str = "SequenceClassification", **options: Any
) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**options)
        network: nn.Module = getattr(transformers, f"{kind}For{task}")(config)
        return network

    return make


def _layers(place: str, *widths: int) -> dict[str, int]:
    return {f"{place}.{k}": width for k, width in enumerate(widths or (16, 16))}


def _t5() -> nn.Module:
    import transformers

    config = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, pad_token_id=PAD
    )
    return Averaged(transformers.T5EncoderModel(config), 16)


def _peft() -> nn.Module:
    import peft

    model = _transformers("Bert", **_TINY)()
    network: nn.Module = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    )
    return network


_FEW_HEADS = {"num_key_value_heads": 1}
TRANSFORMERS = {
    "Bert": Case(_transformers("Bert", **_TINY), _layers("bert.encoder.layer"), text),
    "Roberta": Case(_transformers("Roberta", **_TINY), _layers("roberta.encoder.layer"), text),
    "DistilBert": Case(
        _transformers(
            "DistilBert",
            vocab_size=WORDS,
            dim=16,
            n_layers=3,
            n_heads=2,
            hidden_dim=32,
            max_position_embeddings=64,
            pad_token_id=PAD,
            num_labels=CLASSES,
        ),
        _layers("distilbert.transformer.layer"),
        text,
    ),  # fmt: skip
    "Albert": Case(
        _transformers("Albert", **_TINY, embedding_size=8),
        {f"albert.encoder.albert_layer_groups.0@{run}": 16 for run in (0, 1)},
        text,
    ),
    "DebertaV2": Case(
        _transformers(
            "DebertaV2",
            **_TINY,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            type_vocab_size=0,
        ),
        _layers("deberta.encoder.layer"),
        text,
    ),
    "Electra": Case(
        _transformers("Electra", **_TINY, embedding_size=8), _layers("electra.encoder.layer"), text
    ),
    "ModernBert": Case(
        _transformers("ModernBert", **_TINY, global_attn_every_n_layers=2, local_attention=8),
        _layers("model.layers"),
        text,
    ),
    "MPNet": Case(_transformers("MPNet", **_TINY), _layers("mpnet.encoder.layer"), text),
    "XLNet": Case(
        _transformers(
            "XLNet",
            vocab_size=WORDS,
            d_model=16,
            n_layer=3,
            n_head=2,
            d_inner=32,
            pad_token_id=PAD,
            num_labels=CLASSES,
        ),
        _layers("transformer.layer"),
        left_padded_text,
    ),  # fmt: skip
    "GPT2": Case(
        _transformers(
            "GPT2",
            vocab_size=WORDS,
            n_embd=16,
            n_layer=3,
            n_head=2,
            n_positions=64,
            pad_token_id=PAD,
            num_labels=CLASSES,
        ),
        _layers("transformer.h"),
        text,
    ),  # fmt: skip
    "Llama": Case(_transformers("Llama", **_TINY, **_FEW_HEADS), _layers("model.layers"), text),
    "Qwen2": Case(_transformers("Qwen2", **_TINY, **_FEW_HEADS), _layers("model.layers"), text),
    "Gemma2": Case(
        _transformers("Gemma2", **_TINY, **_FEW_HEADS, head_dim=8), _layers("model.layers"), text
    ),
    "OPT": Case(
        _transformers(
            "OPT",
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            ffn_dim=32,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
            pad_token_id=PAD,
            num_labels=CLASSES,
        ),
        _layers("model.decoder.layers"),
        text,
    ),  # fmt: skip
    "T5 encoder": Case(_t5, _layers("encoder.encoder.block"), text),
    "ViT": Case(
        _transformers(
            "ViT",
            "ImageClassification",
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            num_labels=CLASSES,
        ),
        _layers("vit.layers"),
        _images(),
    ),  # fmt: skip
    "Swin": Case(
        _transformers(
            "Swin",
            "ImageClassification",
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[1, 1, 1],
            num_heads=[2, 2, 4],
            window_size=4,
            num_labels=CLASSES,
        ),
        _layers("swin.encoder.layers", 32, 64),
        _images(),
    ),  # fmt: skip
    "ConvNext": Case(
        _transformers(
            "ConvNext",
            "ImageClassification",
            num_stages=3,
            hidden_sizes=[8, 16, 16],
            depths=[1, 1, 1],
            num_labels=CLASSES,
        ),
        _layers("convnext.encoder.stages", 8, 16),
        _images(),
    ),  # fmt: skip
    "Wav2Vec2": Case(
        _transformers(
            "Wav2Vec2",
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8),
            conv_stride=(5, 4),
            conv_kernel=(10, 8),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=8,
            num_labels=CLASSES,
        ),
        _layers("wav2vec2.encoder.layers"),
        normal(400),
    ),  # fmt: skip
    "Whisper": Case(
        _transformers(
            "Whisper",
            "AudioClassification",
            vocab_size=WORDS,
            d_model=16,
            encoder_layers=3,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            num_mel_bins=8,
            max_source_positions=20,
            classifier_proj_size=8,
            num_labels=CLASSES,
            pad_token_id=PAD,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        _layers("encoder.layers"),
        normal(8, 40),
    ),  # fmt: skip
}
PEFT = {"Bert with LoRA": Case(_peft, _layers("bert.encoder.layer"), text, package="peft")}

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
