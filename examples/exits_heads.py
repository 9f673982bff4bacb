"""Heads of exits compared: linear layers, multilayer perceptrons, Laplace kernels.

    python examples/exits_heads.py [--quick] [--images 6000] [--epochs 6] [--seeds 2]

A small residual network is trained on Fashion-MNIST by its own output. Then its backbone is frozen,
and heads of each kind are trained. A head reads the mean of each channel, or the whole feature map
with one feature for each position. The tables give the accuracy on test images, the parameters and
the multiply-adds of each head, and mark the smallest head of its kind whose accuracy is within half
a point of the linear head's. It needs laplex[exits] and Debian's dataset-fashion-mnist; with
--quick it takes a minute, in full ten minutes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from exits_study import Data, split
from torch import Tensor, nn

from laplex._support.image_datasets import load_images
from laplex.early_exit import MultiExitModel, Phase, collect, count_costs, networks, train
from laplex.nn import LaplexHead

EXITS = networks.EXITS["small_resnet"]
Make = Callable[[int, int], nn.Module]


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def perceptron(hidden: int) -> Make:
    """Return a function that makes a perceptron with one hidden layer."""
    return lambda features, classes: nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


KINDS: dict[str, dict[str, Make]] = {
    "linear": {"linear": nn.Linear},
    "perceptron": {f"perceptron, {n} hidden": perceptron(n) for n in (4, 16, 64)},
    "Laplace": {
        f"LaplexHead, {n} kernel{'s' if n > 1 else ''}": lambda features, classes, n=n: LaplexHead(
            features, classes, heads=n
        )
        for n in (1, 2, 4)
    },
}


@dataclass(frozen=True)
class Row:
    """One head at one exit: test accuracies by seed, parameters, multiply-adds."""

    accuracies: list[float]
    parameters: int
    cost: float

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))


def measure(
    backbones: list[nn.Module], make: Make, flat: bool, epochs: int, data: Data
) -> list[Row]:
    """Train heads of one kind on frozen backbones; a row for each exit."""

    def head(activation: Tensor, classes: int) -> nn.Module:
        shape: nn.Module = nn.Flatten() if flat else _Mean()
        return nn.Sequential(shape, make(shape(activation).shape[1], classes))

    right = []
    for seed, backbone in enumerate(backbones):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MultiExitModel.attach(
                copy.deepcopy(backbone),
                EXITS,
                num_classes=10,
                example=data.test[0][0][:2],
                head=head,
            )
        train(model, data.train, strategy=[Phase("heads", epochs)], learning_rate=1e-2, seed=seed)
        found = collect(model, data.test)
        right.append((found.logits.argmax(-1) == found.labels).mean(1))
    costs = count_costs(model, data.test[0][0][:2])
    return [
        Row([float(one[k]) for one in right], costs.head_parameters[k], float(costs.heads[k]))
        for k in range(len(EXITS))
    ]


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="fashion-mnist",
        help="fashion-mnist, or a folder with its files (default: %(default)s)",
    )
    for name, default, what in (
        ("images", 6000, "number of training images"),
        ("epochs", 6, "number of training epochs"),
        ("seeds", 2, "number of seeds"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--quick", action="store_true", help="run a small version that takes a minute"
    )
    options = parser.parse_args()
    counts = (options.images, 0, 5000)
    if options.quick:
        options.epochs, options.seeds, counts = 1, 1, (500, 0, 300)
    torch.set_num_threads(1)
    given = load_images(options.data)
    images, labels = (
        torch.as_tensor(np.concatenate([first[: counts[0]], last[: counts[2]]]))
        for first, last in (
            (given.train_images, given.test_images),
            (given.train_labels, given.test_labels),
        )
    )
    data = split((images[:, None] - 0.286) / 0.353, labels, counts, lambda x: x, batch=100)
    backbones = []
    for seed in range(options.seeds):
        model = MultiExitModel.attach(
            networks.small_resnet(width=8, seed=seed),
            EXITS,
            num_classes=10,
            example=data.test[0][0][:2],
        )
        phases = [Phase("backbone", options.epochs)]
        train(model, data.train, strategy=phases, learning_rate=4e-3, seed=seed)
        backbones.append(model.backbone)
    for flat in (False, True):
        features = "every position of the feature map" if flat else "the mean of each channel"
        rows = {
            kind: {
                name: measure(backbones, make, flat, options.epochs, data)
                for name, make in variants.items()
            }
            for kind, variants in KINDS.items()
        }
        for k, exit_name in enumerate(EXITS):
            print(f"\n{exit_name}, {features}")
            print(
                f"{'head':<24}{'accuracy':>9}{'spread':>8}{'parameters':>12}{'multiply-adds':>15}"
            )
            linear = rows["linear"]["linear"][k]
            for variants in rows.values():
                enough = [
                    one[k].parameters
                    for one in variants.values()
                    if one[k].accuracy >= linear.accuracy - 0.005
                ]
                for name, found in variants.items():
                    row = found[k]
                    mark = " *" if enough and row.parameters == min(enough) else ""
                    spread = max(row.accuracies) - min(row.accuracies)
                    print(
                        f"{name:<24}{row.accuracy:>9.1%}{spread:>8.1%}{row.parameters:>12,}"
                        f"{row.cost:>15,.0f}{mark}"
                    )
            print("* fewest parameters of its kind with an accuracy within half a point of linear")


if __name__ == "__main__":
    main()
