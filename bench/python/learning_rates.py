"""Writes docs/measurements/learning_rates.md: accuracy of the demo's networks by learning rate.

    python bench/python/learning_rates.py [--out docs/measurements/learning_rates.md]

The demo trains each kind of network at the rate that this script finds for it. The script holds out
training images, different ones for each seed, and does not use the test images. It takes about ten
minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

import laplex
from laplex._support.image_datasets import ImageDataset, load_images
from laplex.demo.training import DENSE, LAPLEX, LARGE, LOW_RANK, SMALL, Comparison, Settings, train
from machine import processor

ROOT = Path(__file__).parents[2]
RATES = (1e-3, 3e-3, 1e-2, 2e-2, 4e-2, 8e-2)
KINDS = (LAPLEX, LOW_RANK, DENSE)


def held_out(images: ImageDataset, most: int, seed: int) -> ImageDataset:
    """Return at most `most` training images: four fifths to learn from, one fifth to test on."""
    order = np.random.default_rng(seed).permutation(len(images.train_labels))[:most]
    cut = 4 * len(order) // 5
    learn, test = order[:cut], order[cut:]
    return dataclasses.replace(
        images,
        train_images=images.train_images[learn],
        train_labels=images.train_labels[learn],
        test_images=images.train_images[test],
        test_labels=images.train_labels[test],
    )


def rows(images: ImageDataset, most: int, settings: Settings) -> list[str]:
    """Return a row of Markdown per kind of network."""
    lines = []
    splits = [held_out(images, most, seed) for seed in range(settings.seeds)]
    for variant in KINDS:
        means = []
        for rate in RATES:
            at_rate = dataclasses.replace(settings, learning_rates={variant.kind: rate})
            runs = [train(variant, split, at_rate, seed) for seed, split in enumerate(splits)]
            means.append(Comparison(variant, runs).accuracy[0])
        best = max(means)
        used = RATES.index(settings.learning_rates[variant.kind])
        cells = [f"**{mean:.2f}**" if mean == best else f"{mean:.2f}" for mean in means]
        cells[used] += " (demo)"
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Train, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "measurements" / "learning_rates.md",
        help="file to write (default: %(default)s)",
    )
    options = parser.parse_args()
    lines = [
        "# Learning rates of the demo's networks",
        "",
        "The tables show the accuracy in per cent on held-out *training* images, as a mean",
        "over seeds, by the peak learning rate of Adam (with a one-cycle schedule). Test",
        "images are not used. The best rate of a row is bold. The rate that the demo uses is",
        "marked: it is the best, or one that differs from it by less than the noise. (About",
        "270 images are held out of the digits, so a mean over eight splits has a standard",
        "error of 0.4.)",
    ]
    sets = (
        ("digits", 10**9, dataclasses.replace(SMALL, seeds=8)),
        ("fashion-mnist", 25_000, dataclasses.replace(LARGE, seeds=2)),
    )
    for source, most, settings in sets:
        images = load_images(source)
        example = held_out(images, most, 0)
        lines += [
            "",
            f"{images.name.split(' (')[0]}: {len(example.train_labels):,} training images, "
            f"{len(example.test_labels):,} held-out images",
            f"(different ones for each seed), {settings.epochs} epochs, {settings.seeds} seeds.",
            "",
            f"| layers | {' | '.join(f'{rate:g}' for rate in RATES)} |",
            "|---|" + "---|" * len(RATES),
            *rows(images, most, settings),
        ]
    lines += [
        "",
        f"laplex {laplex.__version__}, torch {torch.__version__}, {processor()};",
        "`python bench/python/learning_rates.py`.",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
