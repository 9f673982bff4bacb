"""Move the colours of one photograph to those of another along the gradient of a discrepancy.

    python examples/sliced_flow.py [--size 640] [--steps 20] [--quick] [--out DIR]

Two photographs are cut into patches of 2 x 2 pixels, 102,400 each. The features of a patch are its
first five principal components, of the twelve numbers that it has. The script moves the features
of the first photograph down the gradient of the energy distance to those of the second, computed
by laplex.sliced.mmd along 32 directions, drawn anew for each step. No pairs are formed, of which
there are 10^10, and no network is trained. At the end, both sets have nearly the same
distribution, and the first photograph has the colours, the contrast and the grain of the second.

Five dimensions are few enough for slices: the standard error of the choice of directions is printed
beside the distance, which is computed along 64 directions. The baseline is the linear map of the
first set that gives it the mean and the covariance of the second, which is the optimal transport of
Gaussian distributions. sliced_flow.png shows the photograph, the features and the distances before,
during and after.

RESULTS
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import trange

from laplex.sliced import mmd

DIMENSIONS = 5
SHOWN = (0, 0.1, 0.25, 1)  # shares of the steps that are drawn


def patches(name: str, size: int) -> Tensor:
    """Return the 2 x 2 patches [n, 12] of a photograph of scikit-image."""
    square = skimage.transform.resize(
        getattr(skimage.data, name)() / 255, (size, size, 3), anti_aliasing=True
    )
    half = size // 2
    cut = square.reshape(half, 2, half, 2, 3).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(cut.reshape(half * half, 12).astype(np.float32))


def photograph(pixels: Tensor) -> np.ndarray:
    """Put patches together."""
    half = round(len(pixels) ** 0.5)
    squares = pixels.numpy().reshape(half, half, 2, 2, 3).transpose(0, 2, 1, 3, 4)
    return squares.reshape(2 * half, 2 * half, 3).clip(0, 1)


def energy(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the energy distance along 64 directions, and its standard error."""
    distance, error = mmd(
        x.double(), y.double(), kernel="energy", unbiased=False, projections=64, return_error=True
    )
    return float(distance), float(error)


def flow(
    x: Tensor, y: Tensor, steps: int
) -> tuple[list[Tensor], list[tuple[int, float, float]], float]:
    """Move points x [n, d] towards y. Return them at the steps shown, distances, and seconds."""
    generator = torch.Generator().manual_seed(0)
    moved = x.clone().requires_grad_()
    rate = 0.5 * len(x) * float(y.std(0).norm())
    velocity = torch.zeros_like(x)
    shown, distances, seconds = [], [], 0.0
    for step in trange(steps + 1, desc="moving"):
        if step in [round(share * steps) for share in SHOWN]:
            shown.append(moved.detach().clone())
        if step % max(1, steps // 10) == 0:
            distances.append((step, *energy(moved.detach(), y)))
        start = time.process_time()
        (gradient,) = torch.autograd.grad(
            mmd(moved, y, kernel="energy", unbiased=False, projections=32, generator=generator),
            moved,
        )
        velocity = 0.5 * velocity - rate * (1 - step / (steps + 1)) * gradient
        with torch.no_grad():
            moved += velocity
        seconds += time.process_time() - start
    return shown, distances, seconds / (steps + 1)


def gaussian_map(x: Tensor, y: Tensor) -> Tensor:
    """Return x, moved linearly so that it has the mean and the covariance of y."""

    def root(matrix: Tensor, power: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.pow(power) @ vectors.T

    own = root(x.T.cov(), 0.5)
    inverse = root(x.T.cov(), -0.5)
    return (x - x.mean(0)) @ (inverse @ root(own @ y.T.cov() @ own, 0.5) @ inverse) + y.mean(0)


def main() -> None:
    """Move the features, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", default="astronaut", help="photograph (default: %(default)s)")
    parser.add_argument("--second", default="coffee", help="photograph (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=640, help="pixels a side, even (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a side of 64 pixels")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    if options.quick:
        options.size = 64
    first, second = patches(options.first, options.size), patches(options.second, options.size)
    both = torch.cat((first, second))
    centre = both.mean(0)
    components = torch.linalg.eigh((both - centre).T.cov()).eigenvectors[:, -DIMENSIONS:].flip(1)
    x, y = (first - centre) @ components, (second - centre) @ components
    kept = 1 - float((both - centre - torch.cat((x, y)) @ components.T).square().sum()) / float(
        (both - centre).square().sum()
    )
    print(f"{len(x)} patches each; {DIMENSIONS} components have {kept:.1%} of the variance")
    shown, distances, seconds = flow(x, y, options.steps)
    mapped = gaussian_map(x, y)
    for step, distance, error in distances:
        print(f"step {step:4d}: energy distance {distance:.2e} ± {error:.0e}")
    distance, error = energy(mapped, y)
    print(f"linear map: energy distance {distance:.2e} ± {error:.0e}")
    half = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    floor, _ = energy(y[half[: len(y) // 2]], y[half[len(y) // 2 :]])
    print(f"two halves of the second set: {floor:.0e}")
    print(f"{seconds:.2f} s of CPU time a step")

    figure = Figure(figsize=(2.4 * (len(SHOWN) + 2), 6.6), layout="constrained")
    grid = figure.add_gridspec(3, len(SHOWN) + 2, height_ratios=[1, 1, 0.8])
    names = [f"step {round(share * options.steps)}" for share in SHOWN]
    sets = dict(zip(names, shown, strict=True)) | {"linear map": mapped, options.second: y}
    for column, (name, points) in enumerate(sets.items()):
        base, own = (second, y) if name == options.second else (first, x)
        ax = figure.add_subplot(grid[0, column])
        ax.imshow(photograph(base + (points - own) @ components.T))
        ax.set(title=name, xticks=[], yticks=[])
        ax = figure.add_subplot(grid[1, column])
        range_ = [[float(both_.min()), float(both_.max())] for both_ in torch.cat((x, y)).T[:2]]
        counts = np.histogram2d(*points[:, :2].T.numpy(), bins=60, range=range_)[0]
        ax.imshow(np.log1p(counts.T), origin="lower", aspect="auto", cmap="magma")
        ax.set(
            xticks=[], yticks=[], xlabel="first component", ylabel="second" if not column else ""
        )
    ax = figure.add_subplot(grid[2, :])
    step, distance, error = np.array(distances).T
    ax.errorbar(step, distance, error, marker="o", label="flow")
    ax.axhline(energy(mapped, y)[0], color="C1", linestyle="--", label="linear map")
    ax.set(xlabel="step", ylabel="energy distance", yscale="log")
    ax.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "sliced_flow.png", dpi=90)


if __name__ == "__main__":
    main()
