"""Disjoint, joint and mixed training of networks with exits, from scratch on Fashion-MNIST.

    python examples/exits_fashion_mnist.py [--quick] [--networks resnet msdnet] [--seeds 3]
                                           [--epochs 12] [--images 10000] [--out DIR]

A small residual network and a small MSDNet are trained by each strategy for the same total number
of epochs, from several seeds, on the same images. Each run is judged with three scores: the plain
softmax, the softmax with a temperature for each exit, and score heads that learn whether an exit is
right or no later exit is (in the style of arXiv 2508.21495). Thresholds are fitted on validation
images, and all results are for test images. Runs that DIR already holds are not repeated, so you
can stop the script and start it again. It needs laplex[exits] and Debian's dataset-fashion-mnist;
with --quick it takes a minute, in full about 40 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from laplex._support.image_datasets import load_images
from laplex.early_exit import (
    Evaluation,
    MaxSoftmax,
    MultiExitModel,
    Phase,
    collect,
    compare,
    count_costs,
    evaluate_outputs,
    networks,
    time_exits,
    train,
)

Loader = DataLoader[tuple[Tensor, ...]]
Judged = dict[str, Evaluation]

#: The scores that a run is judged with: the name in tables -> `calibration` of `evaluate`.
WAYS = {"softmax": None, "temperature": "temperature", "score heads": "eefp"}


@dataclass(frozen=True)
class Data:
    """Images around 0 with their labels, in loaders."""

    train: Loader
    validation: Loader
    test: Loader

    def images(self, count: int) -> Tensor:
        """The first images of the test set."""
        dataset = self.test.dataset
        assert isinstance(dataset, TensorDataset)
        return dataset.tensors[0][:count]

    def example(self) -> Tensor:
        """Two images."""
        return self.images(2)


def load(
    source: str,
    counts: tuple[int, int, int],
    prepare: Callable[[Tensor], Tensor] = lambda x: (x - 0.286) / 0.353,  # mean, deviation
    batch: int = 100,
) -> Data:
    """Load images for training, validation and testing, by their counts in this order."""
    found = load_images(source)
    images, validation, tests = counts

    def loader(pictures: Any, labels: Any, *, shuffle: bool = False) -> Loader:
        dataset = TensorDataset(
            prepare(torch.as_tensor(pictures)[:, None]), torch.as_tensor(labels)
        )
        return DataLoader(dataset, batch_size=batch, shuffle=shuffle, drop_last=shuffle)

    seen, after = slice(0, images), slice(images, images + validation)
    return Data(
        loader(found.train_images[seen], found.train_labels[seen], shuffle=True),
        loader(found.train_images[after], found.train_labels[after]),
        loader(found.test_images[:tests], found.test_labels[:tests]),
    )


def network(name: str, seed: int, example: Tensor) -> MultiExitModel:
    """Make a network with exits; a seed gives every strategy the same initial weights."""
    if name == "resnet":
        backbone: nn.Module = networks.small_resnet(width=8, seed=seed)
    elif name == "msdnet":
        backbone = networks.small_msdnet(width=6, growth=4, seed=seed)
    else:
        raise SystemExit(f"--networks must be resnet or msdnet, got {name}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        at = networks.EXITS[f"small_{name}"]
        return MultiExitModel.attach(backbone, at, num_classes=10, example=example)


def trained(
    model: MultiExitModel,
    file: Path,
    strategy: str | Sequence[Phase],
    epochs: int | None,
    data: Data,
    seed: int,
    **options: Any,
) -> MultiExitModel:
    """Train a model, or read the weights of a run that `file` already holds."""
    if not file.exists():
        start = time.process_time()
        result = train(
            model,
            data.train,
            data.validation,
            strategy=strategy,
            epochs=epochs,
            seed=seed,
            **options,
        )
        file.with_suffix(".history.json").write_text(result.to_json())
        torch.save(model.state_dict(), file)
        took = time.process_time() - start
        print(f"{file.stem}: {took:.0f} s of processor time; {result}", flush=True)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def judged(model: MultiExitModel, file: Path, data: Data) -> Judged:
    """Judge a run on test images with each score, or read the results of an earlier call."""
    if not file.exists():
        test, validation = collect(model, data.test), collect(model, data.validation)
        costs = count_costs(model, data.example())
        found = {
            way: evaluate_outputs(test, costs, calibration=calibration, validation=validation)
            for way, calibration in WAYS.items()
        }
        file.write_text(json.dumps({way: one.to_dict() for way, one in found.items()}))
    return {way: Evaluation.from_dict(one) for way, one in json.loads(file.read_text()).items()}


def timed(
    model: MultiExitModel,
    found: Evaluation,
    images: Tensor,
    *,
    budget: float = 0.75,
    repeats: int = 7,
) -> str:
    """Time real exits, with thresholds fitted to a budget, relative to the plain backbone."""
    # `found` comes from a file, which holds no policy. It is the evaluation without calibration.
    rule = MaxSoftmax(0.5).with_cuts(found.cuts_at(budget))
    timing = time_exits(model, images, rule, batch_sizes=(1, 64), repeats=repeats)
    parts = []
    for batch in (1, 64):
        plain, real = (timing.run(way, batch) for way in ("backbone", "predict"))
        parts.append(
            f"batch {batch}: {real.cpu_seconds_min / plain.cpu_seconds_min:.0%} measured "
            f"({1e3 * real.cpu_seconds_min:.3g} of {1e3 * plain.cpu_seconds_min:.3g} ms)"
        )
    return f"{real.counted:.0%} counted; {'; '.join(parts)}"


def show(name: str, runs: Mapping[str, Sequence[Judged]], out: Path) -> None:
    """Print tables and save a picture for one network: strategies, scores and correlations."""
    print(f"\n=== {name}: training strategies, judged by the plain softmax ===")
    strategies = compare({one: [run["softmax"] for run in found] for one, found in runs.items()})
    print(strategies.table())
    strategies.plot().savefig(out / f"{name}_strategies.png", dpi=110)
    print(f"\n=== {name}: training strategies and scores ===")
    ways = compare(
        {
            f"{strategy}, {way}": [run[way] for run in found]
            for strategy, found in runs.items()
            for way in WAYS
        }
    )
    print(ways.table())
    print(f"\n=== {name}: correlation of calibration and EEFP with the area under the curve ===")
    print(ways.correlations())
    (out / f"{name}.json").write_text(ways.to_json())


def show_times(
    models: Mapping[str, MultiExitModel],
    runs: Mapping[str, Sequence[Judged]],
    images: Tensor,
    repeats: int = 7,
) -> None:
    """Time the last seed's network of each strategy."""
    about = f"processor time relative to the plain backbone, minimum of {repeats} passes"
    print(f"\nTime of real exits at a budget of 75 %: {about}")
    for strategy, model in models.items():
        found = timed(model, runs[strategy][-1]["softmax"], images, repeats=repeats)
        print(f"{strategy:<10}{found}")


def options_of(about: str | None, images: int, epochs: int, seeds: int) -> argparse.ArgumentParser:
    """Make a parser with the options that all of these examples share."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="fashion-mnist",
        help="fashion-mnist, or a folder with its files (default: %(default)s)",
    )
    for name, default, what in (
        ("images", images, "number of training images"),
        ("epochs", epochs, "number of training epochs in total"),
        ("seeds", seeds, "number of seeds"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--quick", action="store_true", help="run a small version that takes a minute"
    )
    return parser


def main() -> None:
    """Train, judge, show."""
    parser = options_of(__doc__, images=10_000, epochs=12, seeds=3)
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["resnet", "msdnet"],
        help="networks to train: resnet, msdnet (default: both)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("exits-fashion-mnist"),
        metavar="DIR",
        help="folder for weights, results and pictures (default: %(default)s)",
    )
    options = parser.parse_args()
    counts = (options.images, 2000, 10_000)
    if options.quick:
        options.seeds, options.epochs, counts = 1, 2, (600, 300, 500)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data, counts)
    for name in options.networks:
        runs: dict[str, list[Judged]] = {}
        models: dict[str, MultiExitModel] = {}
        for seed in range(options.seeds):
            for strategy in ("disjoint", "joint", "mixed"):
                file = options.out / f"{name}-{strategy}-{seed}.pt"
                model = network(name, seed, data.example())
                model = trained(
                    model, file, strategy, options.epochs, data, seed, learning_rate=4e-3
                )
                runs.setdefault(strategy, []).append(judged(model, file.with_suffix(".json"), data))
                models[strategy] = model
        show(name, runs, options.out)
        if options.quick:
            show_times(models, runs, data.images(64), repeats=2)
        else:
            show_times(models, runs, data.images(256))


if __name__ == "__main__":
    main()
