"""Regression that outliers do not disturb, by soft selection and soft quantiles.

    python examples/robust_regression.py [--outliers 0.2] [--splits 20] [--quick] [--out DIR]

The table is scikit-learn's diabetes, of 442 patients. In the part for training, the targets of
some patients are replaced by large wrong ones, of patients with a high body mass index first, so
that they pull the line to one side. Linear models are fitted with torch, and judged on patients
whose targets are right:

  trimmed        mean of the squared residuals, weighted by laplex.order.soft_topk of the 70 %
                 smallest (least trimmed squares)
  quantile       laplex.order.soft_quantile of the absolute residuals at 70 % (least quantile of
                 residuals, as in least median of squares)

beside scikit-learn's least squares, Huber, RANSAC, Theil-Sen and QuantileRegressor (of the median).
Both losses are not convex: they start from the fit of least absolute residuals, and the temperature
falls from the spread of the losses to a hundredth of it.

Over 20 splits, the mean errors are 0.80 (trimmed) and 0.81 (quantile) standard deviations of the
target, against 0.72 for least squares without outliers, 1.60 with them, 1.49 for Huber, 1.45 for
Theil-Sen, 1.26 for the median and 1.69 for RANSAC, all with their defaults. Each of ours went to a
wrong line in one split. A split takes 0.7 s here, more than all but Theil-Sen.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.base import RegressorMixin
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    HuberRegressor,
    LinearRegression,
    QuantileRegressor,
    RANSACRegressor,
    TheilSenRegressor,
)
from torch import Tensor

from laplex.order import soft_quantile, soft_topk

BMI = 2  # column of the body mass index
KEPT = 0.7  # share of residuals that count


def trimmed(residuals: Tensor, softness: float) -> Tensor:
    """Return the mean of the smallest squares of residuals [splits, n], summed over splits."""
    losses = residuals.square()
    tau = softness * losses.detach().median(-1).values
    count = KEPT * losses.shape[-1]
    return (soft_topk(losses, count, tau, largest=False) * losses).sum() / count


def quantile(residuals: Tensor, softness: float) -> Tensor:
    """Return a quantile of the absolute residuals, summed over splits."""
    sizes = residuals.abs()
    tau = softness * sizes.detach().median(-1).values
    level = torch.tensor([KEPT * sizes.shape[-1]], dtype=sizes.dtype)
    return soft_quantile(sizes, level, tau).sum()


def absolute(residuals: Tensor, _: float) -> Tensor:
    """Return the mean of the absolute residuals, summed over splits."""
    return residuals.abs().mean(-1).sum()


def minimised(
    loss: Callable[[Tensor, float], Tensor], x: Tensor, y: Tensor, start: Tensor, steps: int = 300
) -> Tensor:
    """Return the coefficients [splits, features] that minimise a loss of the residuals."""
    coefficients = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([coefficients], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        residuals = y - (x @ coefficients.unsqueeze(-1)).squeeze(-1)
        loss(residuals, 0.01 ** (step / steps)).backward()
        optimiser.step()
        schedule.step()
    return coefficients.detach()


def by_torch(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Fit our models to all splits: coefficients, intercept first, and CPU seconds a split."""
    features = torch.tensor(np.concatenate((np.ones((*y.shape, 1)), x), axis=-1))
    targets = torch.tensor(y)
    begin = time.process_time()
    start = minimised(absolute, features, targets, torch.zeros_like(features[:, 0]))
    shared = time.process_time() - begin
    fits = {}
    for name, loss in (("trimmed", trimmed), ("quantile", quantile)):
        begin = time.process_time()
        fitted = minimised(loss, features, targets, start).numpy()
        fits[name] = (fitted, (shared + time.process_time() - begin) / len(y))
    return fits


def by_scikit_learn(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Fit scikit-learn's models to one split after the other."""
    models: dict[str, RegressorMixin] = {
        "least squares": LinearRegression(),
        "Huber": HuberRegressor(max_iter=1000),
        "RANSAC": RANSACRegressor(random_state=0),
        "Theil-Sen": TheilSenRegressor(random_state=0),
        "median": QuantileRegressor(quantile=0.5, alpha=0),
    }
    fits = {}
    for name, model in models.items():
        begin = time.process_time()
        fitted = []
        for features, targets in zip(x, y, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(features, targets)
            linear = getattr(model, "estimator_", model)
            fitted.append(np.append(linear.intercept_, linear.coef_))
        fits[name] = (np.array(fitted), (time.process_time() - begin) / len(y))
    return fits


def wrong_targets(x: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Choose a share of the patients, those with a high body mass index first."""
    ranking = np.argsort(generator.standard_normal(len(x)) - x[:, BMI])
    return ranking[: round(share * len(x))]


def main() -> None:
    """Fit the models, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--outliers", type=float, default=0.2, help="share of wrong targets (default: %(default)s)"
    )
    parser.add_argument(
        "--splits", type=int, default=20, help="random splits (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="two splits")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    splits = 2 if options.quick else options.splits
    orders = np.stack([np.random.default_rng(split).permutation(len(y)) for split in range(splits)])
    train, test = orders[:, : 3 * len(y) // 4], orders[:, 3 * len(y) // 4 :]
    seen = y[train]
    generator = np.random.default_rng(0)
    for targets, features in zip(seen, x[train], strict=True):
        wrong = wrong_targets(features, options.outliers, generator)
        targets[wrong] = -4 + 0.3 * generator.standard_normal(len(wrong))
    fits = by_torch(x[train], seen) | by_scikit_learn(x[train], seen)
    fits["without outliers"] = by_scikit_learn(x[train], y[train])["least squares"]

    print(f"{len(wrong)} of {train.shape[1]} targets are wrong; error of the others, held out, in")
    print(
        "standard deviations of the target: mean over splits, standard error, CPU seconds a split"
    )
    errors = {}
    for name, (fitted, seconds) in fits.items():
        predicted = fitted[:, :1] + np.einsum("snp,sp->sn", x[test], fitted[:, 1:])
        errors[name] = np.sqrt(np.mean((y[test] - predicted) ** 2, axis=1))
        deviation = np.std(errors[name], ddof=1) / splits**0.5
        print(f"  {name:17s}{errors[name].mean():.3f} ± {deviation:.3f}   {seconds:.3f}")

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    bmi = x[train[-1], BMI]
    left.plot(bmi, seen[-1], ".", color="#999999", markersize=4, label="targets")
    left.plot(bmi[wrong], seen[-1, wrong], "x", color="C3", markersize=4, label="wrong targets")
    grid = np.array([bmi.min(), bmi.max()])
    for name in ("trimmed", "quantile", "least squares", "Huber", "without outliers"):
        line = fits[name][0][-1]
        style = "k--" if name == "without outliers" else "-"
        left.plot(grid, line[0] + line[1 + BMI] * grid, style, label=name)
    left.set(xlabel="body mass index (standardised)", ylabel="target (standardised)")
    left.legend(fontsize=8)
    right.boxplot(list(errors.values()), tick_labels=list(errors))
    right.tick_params(axis="x", rotation=30)
    right.set(ylabel="error, held out")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "robust_regression.png", dpi=110)


if __name__ == "__main__":
    main()
