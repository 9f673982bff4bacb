"""A Gaussian model of images that is told nothing about where their pixels are.

    python examples/covariance_fashion_mnist.py [--data fashion-mnist] [--steps 600] [--out DIR]

Fits a LaplaceCovariance from random anchors (a minute for Fashion-MNIST; --data digits takes
seconds and no files), then draws the order it found, samples, and test images with a block missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from laplex._support.image_datasets import load_images
from laplex.gram import LaplaceCovariance


def main() -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist", help="or digits, or a folder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--polish", type=int, default=60, help="steps on the likelihood")
    parser.add_argument("--out", type=Path, default=Path("covariance_fashion_mnist"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    data = load_images(options.data)
    train, test = torch.tensor(data.train_images), torch.tensor(data.test_images)
    height, width = train.shape[1:]
    model = LaplaceCovariance(height * width, options.heads)
    print(model)
    model.fit(train, steps=options.steps, progress=True, checkpoint=options.out / "matched.pt")
    print(f"off-diagonal relative squared error, train: {model.relative_error(train):.4f}")
    print(f"                                  held out: {model.relative_error(test):.4f}")
    model.fit(train, steps=0, likelihood_steps=options.polish, batch_size=1000, progress=True)
    print(
        f"held-out log-likelihood: {float(model.log_prob(test).detach().mean()):.1f} nats an image"
    )

    centre = (height // 2) * width + width // 2
    index, correlation = model.neighbours(centre, 4)
    print(f"pixel ({height // 2}, {width // 2}) goes with:")
    for place, value in zip(index.tolist(), correlation.tolist(), strict=True):
        print(f"  ({place // width}, {place % width}), correlation {value:.3f}")

    missing = torch.zeros(height, width, dtype=torch.bool)
    missing[height // 3 : -height // 3, width // 3 : -width // 3] = True
    seen = test[:8].masked_fill(missing, 0.5)
    lines = {
        "image": test[:8],
        "seen": seen,
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
    print(f"pictures are in {options.out}")


if __name__ == "__main__":
    main()
