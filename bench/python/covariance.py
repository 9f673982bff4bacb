"""Write the tables and pictures of docs/measurements/covariance.md.

    python bench/python/covariance.py [--quick] [--only order fashion patches]

The script compares covariance models of real images. Fashion-MNIST comes from Debian's package
dataset-fashion-mnist, and the photographs come from scikit-image. It takes about twenty minutes on
one core. With --quick it takes four minutes and writes into build/covariance.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from matplotlib.figure import Figure
from torch import Tensor

import laplex
from laplex._support.image_datasets import load_images
from laplex.gram import LaplaceCovariance
from laplex.gram.covariance.matching import NOISE_FLOOR
from machine import processor

PAGE = Path(__file__).parents[2] / "docs" / "measurements" / "covariance.md"
PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "immunohistochemistry")
HELD_OUT = ("chelsea",)
FASHION, PATCH = (28, 28), (16, 16, 3)
FORMS = ((1, False), (1, True), (4, False), (4, True))  # heads, phased
EARLIER = ("0.72 / 11.2", "0.58 / 8.3", "0.31 / 7.5", "0.19 / 5.8")


# --- models of standardised pixels, ours and others', as dense matrices -------------------------


@dataclass
class Model:
    """Covariance `shared` + diag(noise) of standardised pixels."""

    name: str
    parameters: int
    shared: Tensor
    noise: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.shared + torch.diag(self.noise)


def ours(name: str, model: LaplaceCovariance) -> Model:
    heads = model.parts()
    shared = heads.rows(torch.arange(model.dim)).detach().double()
    parameters = sum(p.numel() for p in model.parameters())
    return Model(name, parameters, shared, model.noise.detach().double())


def with_noise(name: str, numbers: int, shared: Tensor, sample: Tensor) -> Model:
    noise = (sample.diagonal() - shared.diagonal()).clamp_min(NOISE_FLOOR)
    return Model(name, numbers + len(sample), shared, noise)


def principal(sample: Tensor, rank: int) -> Model:
    """Principal components, and on the diagonal what they leave."""
    values, vectors = torch.linalg.eigh(sample)
    shared = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    return with_noise(f"PCA, rank {rank}, + diagonal", rank * len(sample), shared, sample)


def matched_low_rank(sample: Tensor, rank: int, iterations: int = 100) -> Model:
    """Low rank + diagonal nearest in Frobenius norm: principal factors, iterated (MINRES)."""
    communality = sample.diagonal().clone()
    for _ in range(iterations):
        reduced = sample - torch.diag(sample.diagonal() - communality)
        values, vectors = torch.linalg.eigh(reduced)
        kept = values[-rank:].clamp_min(0)
        shared = (vectors[:, -rank:] * kept) @ vectors[:, -rank:].T
        communality = torch.minimum(shared.diagonal(), sample.diagonal())
    name = f"low rank {rank} + diagonal, matched"
    return with_noise(name, rank * len(sample), shared, sample)


def factor_analysis(sample: Tensor, rank: int, iterations: int = 300) -> Model:
    """Low rank + diagonal of largest likelihood, by expectation maximisation."""
    start = principal(sample, rank)
    values, vectors = torch.linalg.eigh(start.shared)
    loadings = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    noise = start.noise
    for _ in range(iterations):
        weighted = loadings / noise[:, None]
        inner = torch.eye(rank, dtype=sample.dtype) + loadings.T @ weighted
        regression = torch.linalg.solve(inner, weighted.T)  # E[factors | z] = regression z
        product = sample @ regression.T
        second = torch.linalg.inv(inner) + regression @ product
        loadings = torch.linalg.solve(second, product.T).T
        noise = (sample.diagonal() - (loadings * product).sum(1)).clamp_min(NOISE_FLOOR)
    name = f"factor analysis (EM), rank {rank}"
    return Model(name, (rank + 1) * len(sample), loadings @ loadings.T, noise)


def stationary(sample: Tensor, places: Tensor, channels: int) -> Model:
    """A exp(-(d / ell)^p) of the pixels' distance, times a channel covariance; knows the places."""
    pixels = len(sample) // channels
    blocks = sample.reshape(pixels, channels, pixels, channels)
    colour = blocks.diagonal(dim1=0, dim2=2).mean(-1)
    stretch = torch.tensor([0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([stretch], lr=0.05)

    def shared() -> Tensor:
        scaled = places / (3 * stretch[:2].exp())
        gaps = (scaled[:, None] - scaled).square().sum(-1) + 1e-12
        decay = stretch[2].exp() * torch.exp(-(gaps ** torch.sigmoid(stretch[3])))
        return torch.kron(decay, colour)

    off = ~torch.eye(len(sample), dtype=torch.bool)
    for _ in range(200):
        optimiser.zero_grad()
        (sample - shared())[off].square().sum().div(sample[off].square().sum()).backward()
        optimiser.step()
    numbers = 4 + (channels * (channels + 1) // 2 if channels > 1 else 0)
    return with_noise(
        "stationary 2-D kernel (knows the places)", numbers, shared().detach(), sample
    )


# --- what is measured ---------------------------------------------------------------------------


def grid(shape: tuple[int, ...]) -> Tensor:
    rows, columns = torch.meshgrid(*(torch.arange(float(s)) for s in shape[:2]), indexing="ij")
    return torch.stack([rows.flatten(), columns.flatten()], 1).double()


def off_diagonal_error(sample: Tensor, shared: Tensor) -> float:
    off = ~torch.eye(len(sample), dtype=torch.bool)
    return float((sample - shared)[off].square().sum() / sample[off].square().sum())


def frobenius_error(sample: Tensor, model: Model) -> float:
    return float((sample - model.covariance).norm() / sample.norm())


def neighbour_distance(shared: Tensor, shape: tuple[int, ...]) -> float:
    """Mean distance in pixels of each entry's 4 most correlated entries of its channel."""
    channels = math.prod(shape[2:])
    places, distances = grid(shape), []
    for channel in range(channels):
        part = shared[channel::channels, channel::channels]
        deviation = part.diagonal().clamp_min(1e-12).sqrt()
        strength = (part / (deviation[:, None] * deviation)).abs()
        strength.fill_diagonal_(-1)
        nearest = strength.topk(4, dim=1).indices
        distances.append(float(torch.cdist(places, places).gather(1, nearest).mean()))
    return float(np.mean(distances))


def log_likelihood(model: Model, rows: Tensor, deviation: Tensor) -> float:
    factor = torch.linalg.cholesky(model.covariance)
    whitened = torch.linalg.solve_triangular(factor, rows.T, upper=False)
    logdet = 2 * factor.diagonal().log().sum() + 2 * deviation.log().sum()
    square = whitened.square().sum(0).mean()
    return float(-0.5 * (square + logdet + len(deviation) * math.log(2 * math.pi)))


def inpainted(model: Model, rows: Tensor, missing: Tensor) -> Tensor:
    seen = ~missing
    weights = torch.linalg.solve(model.covariance[seen][:, seen], rows[:, seen].T)
    filled = rows.clone()
    filled[:, missing] = (model.shared[missing][:, seen] @ weights).T
    return filled


def psnr(filled: Tensor, rows: Tensor, missing: Tensor, deviation: Tensor) -> float:
    """Mean over images, of missing pixels alone, for pixels in [0, 1]."""
    error = ((filled - rows) * deviation)[:, missing].square().mean(1).clamp_min(1e-10)
    return float(-10 * error.log10().mean())


def masks(shape: tuple[int, ...]) -> dict[str, Tensor]:
    height, width = shape[:2]
    block = torch.zeros(shape, dtype=torch.bool)
    block[height // 3 : height - height // 3, width // 3 : width - width // 3] = True
    generator = torch.Generator().manual_seed(4)
    half = (torch.rand(height, width, generator=generator) < 0.5).reshape(
        height, width, *(1,) * len(shape[2:])
    )
    return {"centre block": block.flatten(), "half at random": half.expand(shape).flatten()}


def compare(
    train: Tensor, test: Tensor, shape: tuple[int, ...], fitted: list[tuple[str, LaplaceCovariance]]
) -> tuple[list[str], list[Model], LaplaceCovariance]:
    """Return a Markdown table of our models and their rivals, and the models."""
    scale = fitted[0][1]
    rows, held_out = scale.standardise(train).double(), scale.standardise(test).double()
    sample, other = rows.T @ rows / len(rows), held_out.T @ held_out / len(held_out)
    deviation = scale.deviation.double()
    largest = max(sum(p.numel() for p in model.parameters()) for _, model in fitted)
    rank = largest // len(sample) - 1
    models = [ours(name, model) for name, model in fitted]
    models += [
        principal(sample, rank),
        matched_low_rank(sample, rank),
        factor_analysis(sample, rank),
        stationary(sample, grid(shape), math.prod(shape[2:])),
    ]
    lines = [
        "| model | parameters | off-diagonal error², train | held out | Frobenius error, train "
        "| held out | neighbours, px | log-likelihood, nats | PSNR centre, dB | PSNR half, dB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        quality = [
            psnr(inpainted(model, held_out[:500], mask), held_out[:500], mask, deviation)
            for mask in masks(shape).values()
        ]
        cells = [
            model.name,
            f"{model.parameters:,}",
            *(f"{off_diagonal_error(matrix, model.shared):.4f}" for matrix in (sample, other)),
            *(f"{frobenius_error(matrix, model):.3f}" for matrix in (sample, other)),
            f"{neighbour_distance(model.shared, shape):.2f}",
            f"{log_likelihood(model, held_out, deviation):.1f}",
            *(f"{decibels:.2f}" for decibels in quality),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    nothing = Model("", 0, torch.zeros_like(sample), torch.ones(len(sample)).double())
    quality = [
        psnr(inpainted(nothing, held_out[:500], mask), held_out[:500], mask, deviation)
        for mask in masks(shape).values()
    ]
    lines.append(f"| the mean image | 0 | 1 | 1 | | | | | {quality[0]:.2f} | {quality[1]:.2f} |")
    between = off_diagonal_error(other, sample)
    lines.append(f"| the training covariance itself | | 0 | {between:.4f} | | | | | | |")
    return lines, models, scale


# --- pictures -----------------------------------------------------------------------------------


def show(ax, picture: Tensor, shape: tuple[int, ...], title: str = "") -> None:  # type: ignore[no-untyped-def]
    ax.imshow(picture.reshape(shape).float().clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def draw_inpainting(
    models: list[Model], scale: LaplaceCovariance, test: Tensor, shape: tuple[int, ...], path: Path
) -> None:
    chosen = [models[1], models[-4], *models[-2:]]
    names = ["image", "seen", "Laplace kernels", "PCA", "factor analysis", "stationary"]
    rows = scale.standardise(test).double()
    figure = Figure(figsize=(8.6, 6), layout="constrained")
    axes = figure.subplots(4, len(names))
    for line, (image, mask) in enumerate(
        (image, mask) for mask in masks(shape).values() for image in range(2)
    ):
        picture = rows[image : image + 1]
        seen = test[image].float().clone()
        seen[mask] = 0.45
        filled = [scale.mean + scale.deviation * inpainted(m, picture, mask)[0] for m in chosen]
        for column, values in enumerate([test[image], seen, *filled]):
            show(axes[line][column], values, shape, names[column] if line == 0 else "")
    figure.savefig(path, dpi=110)


def draw_samples(
    models: list[Model], scale: LaplaceCovariance, test: Tensor, shape: tuple[int, ...], path: Path
) -> None:
    torch.manual_seed(0)
    chosen = {"images": None, "Laplace kernels": models[1], "factor analysis": models[-2],
              "stationary": models[-1]}  # fmt: skip
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.subplots(len(chosen), 8)
    for line, (name, model) in zip(axes, chosen.items(), strict=True):
        if model is None:
            pictures = test[:8].double()
        else:
            factor = torch.linalg.cholesky(model.covariance)
            drawn = torch.randn(8, len(factor), dtype=torch.float64) @ factor.T
            pictures = scale.mean + scale.deviation * drawn
        for ax, picture in zip(line, pictures, strict=True):
            show(ax, picture, shape)
        line[0].set_ylabel(name, fontsize=9)
    figure.savefig(path, dpi=110)


def draw_covariance(models: list[Model], sample: Tensor, path: Path) -> None:
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    pictures = {"sample": sample, "Laplace kernels": models[0].covariance,
                "PCA + diagonal": models[-4].covariance,
                "stationary": models[-1].covariance}  # fmt: skip
    for ax, (name, matrix) in zip(axes, pictures.items(), strict=True):
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_title(name, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(image, ax=axes, shrink=0.9)
    figure.savefig(path, dpi=110)


# --- the parts of the page ----------------------------------------------------------------------


def order(quick: bool, folder: Path) -> list[str]:
    """From random anchors on 5,000 standardised images of Fashion-MNIST."""
    images = torch.tensor(load_images("fashion-mnist").train_images[:5000]).reshape(5000, -1)
    deviation, mean = torch.std_mean(images, dim=0, correction=0)
    images = (images - mean) / deviation.clamp_min(1e-8)
    sample = (images.T @ images / len(images)).double()
    lines = [
        "| model | prototype | 600 steps: error² / px | 2000 steps: error² / px "
        "| seconds per step | low rank at equal size: error² / px |",
        "|---|---|---|---|---|---|",
    ]
    for (heads, phased), earlier in zip(FORMS, EARLIER, strict=True):
        cells = []
        for steps in (60, 120) if quick else (600, 2000):
            torch.manual_seed(0)
            model = LaplaceCovariance(784, heads, phased)
            start = time.perf_counter()
            model.fit(images, steps=steps)
            seconds = (time.perf_counter() - start) / steps
            distance = neighbour_distance(ours("", model).shared, FASHION)
            cells.append(f"{model.relative_error(images):.4f} / {distance:.2f}")
        rival = matched_low_rank(sample, heads * (3 if phased else 2))
        error = off_diagonal_error(sample, rival.shared)
        lines.append(
            f"| {heads} {'phased' if phased else 'real'} head{'s' if heads > 1 else ''} "
            f"| {earlier} | {' | '.join(cells)} | {seconds:.3f} "
            f"| {error:.4f} / {neighbour_distance(rival.shared, FASHION):.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def fashion(quick: bool, folder: Path) -> list[str]:
    """All of Fashion-MNIST, tested on its own test images."""
    data = load_images("fashion-mnist")
    train, test = (
        torch.tensor(part).reshape(-1, 784) for part in (data.train_images, data.test_images)
    )
    if quick:
        train = train[:5000]
    fitted = fit_both(train, 4, 100 if quick else 700, 10 if quick else 200)
    lines, models, scale = compare(train, test, FASHION, fitted)
    draw_inpainting(models, scale, test, FASHION, folder / "covariance_inpainting.png")
    draw_samples(models, scale, test, FASHION, folder / "covariance_samples.png")
    rows = scale.standardise(train)
    draw_covariance(
        models, (rows.T @ rows / len(rows)).double(), folder / "covariance_matrices.png"
    )
    figure = fitted[0][1].plot_order(FASHION)
    figure.savefig(folder / "covariance_order.png", dpi=110)
    return lines


def fit_both(
    train: Tensor, heads: int, steps: int, polish: int
) -> list[tuple[str, LaplaceCovariance]]:
    """Fit a model by matching; polish a copy of it by likelihood."""
    torch.manual_seed(0)
    matched = LaplaceCovariance(train.shape[1], heads)
    start = time.perf_counter()
    matched.fit(train, steps=steps)
    polished = copy.deepcopy(matched)
    middle = time.perf_counter()
    polished.fit(train, steps=0, likelihood_steps=polish, batch_size=2000)
    stop = time.perf_counter()
    print(f"matched in {middle - start:.0f} s, polished in {stop - middle:.0f} s", flush=True)
    name = f"Laplace kernels, {heads} phased heads"
    return [(f"{name}, matched", matched), (f"{name}, matched, then likelihood", polished)]


def patches_of(names: tuple[str, ...], count: int, seed: int) -> Tensor:
    generator = np.random.default_rng(seed)
    patches = []
    for name in names:
        picture = getattr(skimage.data, name)()[..., :3].astype(np.float32) / 255
        for _ in range(count // len(names)):
            row, column = (generator.integers(s - 16) for s in picture.shape[:2])
            patches.append(picture[row : row + 16, column : column + 16].reshape(-1))
    return torch.tensor(np.stack(patches))


def patches(quick: bool, folder: Path) -> list[str]:
    """Patches 16 x 16 x 3 of photographs, tested on another photograph."""
    count = 2000 if quick else 20_000
    train, test = patches_of(PHOTOGRAPHS, count, 0), patches_of(HELD_OUT, 4000, 1)
    fitted = fit_both(train, 4, 100 if quick else 700, 10 if quick else 200)
    lines, models, scale = compare(train, test, PATCH, fitted)
    lively = test[test.std(1).argsort(descending=True)[[40, 400]]]
    draw_inpainting(models, scale, lively, PATCH, folder / "covariance_patches.png")
    return lines


PARTS = {"order": order, "fashion": fashion, "patches": patches}


def main() -> None:
    """Measure, and write the tables between their marks in the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="use small sizes; write to build/covariance"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these sections only"
    )
    parser.add_argument("--out", type=Path, help="write to this page instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out or (
        PAGE.parents[2] / "build" / "covariance" / PAGE.name if options.quick else PAGE
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    text = (out if out.exists() else PAGE).read_text()
    for name in options.only:
        print(f"--- {name}", flush=True)
        lines = PARTS[name](options.quick, out.parent)
        stamp = (
            f"laplex {laplex.__version__}, torch {torch.__version__}, one thread, {processor()}."
        )
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        table = "\n".join([*lines, "", stamp, ""])
        text = re.sub(marked, lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
        out.write_text(text)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
