"""A row of a photograph with missing pixels, restored by an exact Gaussian process on a line.

    python examples/gp_regression.py [--row 150] [--missing 0.33] [--noise 15] [--out DIR]

Fits the Ornstein-Uhlenbeck kernel by maximum likelihood to the pixels that are left, with noise
added to them, predicts all of them with their uncertainty, and compares with straight lines.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import skimage.data
from matplotlib.figure import Figure

from laplex.gram import LaplaceGPRegressor


def holes(n: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """Mark about a share of n pixels, in gaps of 1 to 24, as missing."""
    missing = np.zeros(n, dtype=bool)
    while missing.mean() < share:
        start = generator.integers(1, n - 1)
        missing[start : start + generator.integers(1, 25)] = True
    missing[[0, -1]] = False  # so that straight lines have two ends
    return missing


def main() -> None:
    """Fit, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", type=int, default=150)
    parser.add_argument("--missing", type=float, default=0.33)
    parser.add_argument("--noise", type=float, default=15.0, help="deviation, in grey levels")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    truth = skimage.data.camera()[options.row].astype(float)
    pixels = np.arange(len(truth), dtype=float)[:, None]
    missing = holes(len(truth), options.missing, generator)
    seen = truth + options.noise * generator.standard_normal(len(truth))

    start = time.perf_counter()
    model = LaplaceGPRegressor(normalize_y=True, n_restarts=3, random_state=0)
    model.fit(pixels[~missing], seen[~missing])
    mean, std = model.predict(pixels, return_std=True)
    seconds = time.perf_counter() - start
    unit = seen[~missing].std()
    print(f"{(~missing).sum()} pixels seen, {missing.sum()} missing; {seconds:.2f} s")
    print(
        f"lengthscale {model.lengthscale_:.1f} pixels, deviation "
        f"{model.variance_**0.5 * unit:.1f}, noise {model.noise_**0.5 * unit:.1f} grey levels"
    )

    lines = np.interp(pixels[:, 0], pixels[~missing, 0], seen[~missing])
    for name, guess in (("process", mean), ("straight lines", lines)):
        errors = [np.sqrt(np.mean((guess - truth)[part] ** 2)) for part in (missing, ~missing)]
        print(f"{name}: error {errors[0]:.1f} where missing, {errors[1]:.1f} where seen")
    inside = np.abs(mean - truth) < 2 * std
    print(f"within two deviations: {inside[missing].mean():.0%} of the missing pixels")

    figure = Figure(figsize=(10, 4), layout="constrained")
    ax = figure.subplots()
    ax.fill_between(
        pixels[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.25, label="two deviations"
    )
    for sample in model.sample_y(pixels, 3).T:
        ax.plot(pixels, sample, color="C0", alpha=0.3, linewidth=0.7)
    ax.plot(pixels, mean, color="C0", label="expectation (thin: samples)")
    ax.plot(pixels[~missing], seen[~missing], ".", color="black", markersize=3, label="seen")
    ax.plot(pixels[missing], truth[missing], ".", color="C3", markersize=3, label="missing")
    ax.set(xlabel="column", ylabel="grey level", title=f"Row {options.row} of skimage's camera")
    ax.legend(loc="lower right", ncols=2)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "gp_regression.png", dpi=110)


if __name__ == "__main__":
    main()
