"""Fit a Gaussian model of images that does not know where the pixels are.

    python examples/covariance_fashion_mnist.py [--data fashion-mnist] [--steps 600] [--out DIR]

The script fits a LaplaceCovariance from random anchors. Fashion-MNIST takes about a minute; --data
digits takes seconds and needs no files. It then draws the order that the model has learned,
samples, and test images in which a missing block is filled in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from laplex._support.image_datasets import load_images
from laplex.gram import LaplaceCovariance


def main() -> None:
    """Fit the model, print results and draw the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="fashion-mnist",
        help="images to use: fashion-mnist, digits, or a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--heads", type=int, default=4, help="number of heads of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=600, help="number of matching steps (default: %(default)s)"
    )
    parser.add_argument(
        "--polish", type=int, default=60, help="number of likelihood steps (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("covariance_fashion_mnist"),
        help="folder for figures and the checkpoint (default: %(default)s)",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    data = load_images(options.data)
    train, test = torch.tensor(data.train_images), torch.tensor(data.test_images)
    height, width = train.shape[1:]
    model = LaplaceCovariance(height * width, options.heads)
    print(model)
    model.fit(train, steps=options.steps, progress=True, checkpoint=options.out / "matched.pt")
    print("off-diagonal relative squared error:")
    print(f"  training images: {model.relative_error(train):.4f}")
    print(f"  held-out images: {model.relative_error(test):.4f}")
    model.fit(train, steps=0, likelihood_steps=options.polish, batch_size=1000, progress=True)
    density = float(model.log_prob(test).detach().mean())
    print(f"held-out log-likelihood: {density:.1f} nats per image")

    centre = (height // 2) * width + width // 2
    index, correlation = model.neighbours(centre, 4)
    print(f"pixels that correlate most with pixel ({height // 2}, {width // 2}):")
    for place, value in zip(index.tolist(), correlation.tolist(), strict=True):
        print(f"  pixel ({place // width}, {place % width}): correlation {value:.3f}")

    missing = torch.zeros(height, width, dtype=torch.bool)
    missing[height // 3 : -height // 3, width // 3 : -width // 3] = True
    seen = test[:8].masked_fill(missing, 0.5)
    lines = {
        "image": test[:8],
        "observed": seen,
        "inpainted": model.inpaint(seen, missing),
        "sample": model.sample(8).reshape(8, height, width),
    }
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    for axes, (name, pictures) in zip(figure.subplots(4, 8), lines.items(), strict=True):
        axes[0].set_ylabel(name)
        for ax, picture in zip(axes, pictures, strict=True):
            ax.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.savefig(options.out / "inpainting.png", dpi=110)
    model.plot_order((height, width)).savefig(options.out / "order.png", dpi=110)
    print(f"The figures are in {options.out}.")


if __name__ == "__main__":
    main()
