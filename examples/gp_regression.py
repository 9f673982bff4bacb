"""Restore a row of a photograph with missing pixels by an exact Gaussian process on a line.

    python examples/gp_regression.py [--row 150] [--missing 0.33] [--noise 15] [--out DIR]

The script adds noise to the row and removes pixels. It fits an Ornstein-Uhlenbeck kernel to the
remaining pixels by maximum likelihood, predicts all pixels with their uncertainty, and compares the
result with linear interpolation. It writes gp_regression.png.
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
    """Mark about the given share of n pixels as missing, in gaps of 1 to 24 pixels."""
    missing = np.zeros(n, dtype=bool)
    while missing.mean() < share:
        start = generator.integers(1, n - 1)
        missing[start : start + generator.integers(1, 25)] = True
    missing[[0, -1]] = False  # so that linear interpolation has both ends
    return missing


def main() -> None:
    """Fit the model, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--row", type=int, default=150, help="row of the photograph (default: %(default)s)"
    )
    parser.add_argument(
        "--missing", type=float, default=0.33, help="share of missing pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=15.0,
        help="standard deviation of the added noise, in grey levels (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
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
    print(f"{(~missing).sum()} pixels observed, {missing.sum()} missing; took {seconds:.2f} s")
    print(
        f"lengthscale: {model.lengthscale_:.1f} pixels; standard deviations in grey levels: "
        f"process {model.variance_**0.5 * unit:.1f}, noise {model.noise_**0.5 * unit:.1f}"
    )

    lines = np.interp(pixels[:, 0], pixels[~missing, 0], seen[~missing])
    for name, guess in (("Gaussian process", mean), ("linear interpolation", lines)):
        errors = [np.sqrt(np.mean((guess - truth)[part] ** 2)) for part in (missing, ~missing)]
        print(
            f"{name}: RMS error {errors[0]:.1f} at missing pixels, {errors[1]:.1f} at observed ones"
        )
    inside = np.abs(mean - truth) < 2 * std
    print(f"{inside[missing].mean():.0%} of the missing pixels are within two standard deviations")

    figure = Figure(figsize=(10, 4), layout="constrained")
    ax = figure.subplots()
    ax.fill_between(
        pixels[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.25, label="two standard deviations"
    )
    for sample in model.sample_y(pixels, 3).T:
        ax.plot(pixels, sample, color="C0", alpha=0.3, linewidth=0.7)
    ax.plot(pixels, mean, color="C0", label="expectation (thin lines: samples)")
    ax.plot(pixels[~missing], seen[~missing], ".", color="black", markersize=3, label="observed")
    ax.plot(pixels[missing], truth[missing], ".", color="C3", markersize=3, label="missing")
    ax.set(
        xlabel="column", ylabel="grey level", title=f"Row {options.row} of scikit-image's camera"
    )
    ax.legend(loc="lower right", ncols=2)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "gp_regression.png", dpi=110)


if __name__ == "__main__":
    main()
