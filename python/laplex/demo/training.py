"""Train one small network on images with Laplace-kernel, dense or low-rank layers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from laplex._support.image_datasets import ImageDataset
from laplex.demo.timing import one_thread
from laplex.nn import LaplexHead, LaplexLinear

BATCH = 64


@dataclass(frozen=True)
class Variant:
    """A network to compare: the kind of its layers, their initial anchors and phases."""

    name: str
    kind: str
    init: str = "interlaced"
    phased: bool = True


LAPLEX = Variant("Laplex", "laplex")
RANDOM_START = Variant("Laplex, random anchors", "laplex", init="random")
DENSE = Variant("dense", "dense")
LOW_RANK = Variant("low-rank", "low-rank")
VARIANTS = (LAPLEX, RANDOM_START, LOW_RANK, DENSE)


@dataclass(frozen=True)
class Settings:
    """The size, length and peak learning rates of the training runs.

    The learning rates were chosen from 1e-3, 3e-3, 1e-2, 2e-2, 4e-2 and 8e-2. Each is the best on
    held-out *training* images, or differs from the best by less than the noise; see
    docs/measurements/learning_rates.md.
    """

    hidden: int
    heads: int
    epochs: int
    seeds: int
    learning_rates: dict[str, float]


SMALL = Settings(  # tuned on digits
    hidden=128,
    heads=2,
    epochs=30,
    seeds=8,
    learning_rates={"laplex": 4e-2, "low-rank": 2e-2, "dense": 1e-2},
)
LARGE = Settings(  # tuned on Fashion-MNIST
    hidden=256,
    heads=2,
    epochs=3,
    seeds=3,
    learning_rates={"laplex": 2e-2, "low-rank": 3e-3, "dense": 3e-3},
)


@dataclass
class Run:
    """One training run.

    Attributes
    ----------
    accuracy : float
        The per cent of test images that are classified correctly after the last epoch.
    parameters : int
        The number of parameters.
    seconds : float
        The CPU time of the training without the evaluation.
    losses, accuracies : list of float
        The mean training loss of each epoch, and the test accuracy after it.
    before, network : nn.Sequential
        The network before and after training.
    """

    accuracy: float
    parameters: int
    seconds: float
    losses: list[float]
    accuracies: list[float]
    before: nn.Sequential
    network: nn.Sequential


@dataclass
class Comparison:
    """The runs of one variant with different seeds."""

    variant: Variant
    runs: list[Run] = field(default_factory=list)

    @property
    def accuracy(self) -> tuple[float, float]:
        """The mean and sample standard deviation over seeds, in per cent; 0 for one seed."""
        values = torch.tensor([run.accuracy for run in self.runs], dtype=torch.float64)
        spread = float(values.std()) if len(self.runs) > 1 else 0.0
        return float(values.mean()), spread

    @property
    def seconds(self) -> float:
        """The mean training time."""
        return sum(run.seconds for run in self.runs) / len(self.runs)


def build_network(variant: Variant, inputs: int, classes: int, settings: Settings) -> nn.Sequential:
    """Build a network inputs -> hidden -> hidden -> classes with ReLU between its layers.

    Low-rank layers have the smallest rank that gives them at least as many parameters as the
    Laplace-kernel layer of that size. A layer stays dense if that takes fewer parameters.
    """
    sizes = [inputs, settings.hidden, settings.hidden, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for position, (wide, narrow) in enumerate(pairwise(sizes)):
        is_head = position == len(sizes) - 2
        if variant.kind == "dense":
            layers.append(nn.Linear(wide, narrow))
        elif variant.kind == "low-rank":
            layers.append(low_rank(wide, narrow, laplex_parameters(wide, narrow, settings.heads)))
        else:
            layer = LaplexHead if is_head else LaplexLinear
            layers.append(
                layer(wide, narrow, heads=settings.heads, phased=variant.phased, init=variant.init)
            )
        if not is_head:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def laplex_parameters(inputs: int, outputs: int, heads: int) -> int:
    """Return the number of parameters of a phased LaplexLinear or LaplexHead with bias."""
    return heads * (3 * inputs + 2 * outputs + 1) + outputs


def low_rank(inputs: int, outputs: int, parameters: int) -> nn.Module:
    """Return a factorised linear layer of the smallest rank with at least that many parameters."""
    rank = math.ceil((parameters - outputs) / (inputs + outputs))
    if rank * (inputs + outputs) >= inputs * outputs:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


def train(
    variant: Variant,
    images: ImageDataset,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
) -> Run:
    """Train with Adam under a one-cycle schedule, cross-entropy, batches of 64, no augmentation.

    Parameters
    ----------
    variant, images, settings
        The network, the data and the settings of the run.
    seed : int
        The seed of the initial values and of the order of batches.
    on_epoch
        Called after every epoch.

    Returns
    -------
    Run
    """
    with one_thread():  # threads would slow down layers this small
        return _train(variant, images, settings, seed, on_epoch)


def _train(
    variant: Variant,
    images: ImageDataset,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[], None],
) -> Run:
    shift, scale = float(images.train_images.mean()), float(images.train_images.std())
    inputs, test_inputs = (
        (torch.from_numpy(pixels).flatten(1) - shift) / scale
        for pixels in (images.train_images, images.test_images)
    )
    labels, test_labels = (
        torch.from_numpy(images.train_labels),
        torch.from_numpy(images.test_labels),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(variant, inputs.shape[1], len(images.class_names), settings)
        torch.manual_seed(seed)
        before = build_network(variant, inputs.shape[1], len(images.class_names), settings)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rates[variant.kind])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=settings.learning_rates[variant.kind],
        total_steps=settings.epochs * math.ceil(len(labels) / BATCH),
        pct_start=0.2,
    )
    losses: list[float] = []
    accuracies: list[float] = []
    seconds = 0.0
    for _ in range(settings.epochs):
        start = time.process_time()
        total = 0.0
        for batch in torch.split(torch.randperm(len(labels), generator=order), BATCH):
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        seconds += time.process_time() - start
        losses.append(total / len(labels))
        accuracies.append(accuracy(network, test_inputs, test_labels))
        on_epoch()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Run(accuracies[-1], parameters, seconds, losses, accuracies, before, network)


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the per cent of inputs that are classified correctly."""
    right = sum(
        (network(some).argmax(-1) == truth).sum().item()
        for some, truth in zip(torch.split(inputs, 1000), torch.split(labels, 1000), strict=True)
    )
    return float(100 * right / len(labels))


@dataclass(frozen=True)
class Ranks:
    """The rank of a layer before training.

    Attributes
    ----------
    init, layer : str
        The kind of initial anchors, and the layer's inputs -> outputs.
    full : int
        The full rank of a matrix of that shape.
    kernel : float
        The rank of one head's kernel without phases, as a mean over heads.
    weight : int
        The rank of the weight with all heads, phases and gains.
    """

    init: str
    layer: str
    full: int
    kernel: float
    weight: int


def initial_ranks(images: ImageDataset, settings: Settings, seed: int) -> list[Ranks]:
    """Compute the initial ranks of the Laplace-kernel layers for both kinds of anchors."""
    pixels = int(images.train_images[0].size)
    rows = []
    for variant in (LAPLEX, RANDOM_START):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(variant, pixels, len(images.class_names), settings)
        for layer in network:
            if isinstance(layer, (LaplexLinear, LaplexHead)):
                outputs, inputs = layer.targets.shape[-1], layer.sources.shape[-1]
                ranks = layer.rank()
                layer.double()  # in float32, rounding errors of the entries would count as rank
                rows.append(
                    Ranks(
                        variant.init,
                        f"{inputs} -> {outputs}",
                        min(inputs, outputs),
                        sum(ranks) / len(ranks),
                        int(torch.linalg.matrix_rank(layer.weight.detach())),
                    )
                )
    return rows
