"""Learn to rank patients: a loss of ranks beside squared errors and pairs.

    python examples/ranking.py [--hidden 16] [--splits 10] [--quick] [--out DIR]

The table is scikit-learn's diabetes: ten measurements of 442 patients, and the progression of
their disease a year later. A network of one hidden layer (or none: --hidden 0) scores patients so
that the order of the scores is that of the progressions. Judged is Spearman's correlation on
patients held out. The losses are

  squared error   of the standardised target
  pairs           logistic loss of all pairs of patients (RankNet); O(n^2)
  softmax         cross-entropy of the softmax of scores and targets (ListNet)
  Spearman        laplex.order.spearman_loss; O(n log n)
  torchsort       1 - correlation of its soft ranks, if that library is installed

Of each, nine learning rates and weight decays are tried in each split; the one with the best
correlation on the validation part is kept, and so is the step. The experiment is run twice: with
the target as it is, and with its exponential, as a target that grows by factors would be. The
order of patients is the same in both. Losses that see only the order, all but the squared error and
the softmax, learn the same.

Over ten splits, with a hidden layer, the correlation is 0.684 ± 0.009 (squared error), 0.688 ± 0.011
(pairs), 0.677 ± 0.009 (softmax), 0.675 ± 0.015 (Spearman) and 0.675 ± 0.013 (torchsort): no loss is
better than another beyond chance, because the target is nearly linear. With its exponential, the
squared error falls to 0.606 and the softmax to 0.519, and the others stay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import Tensor
from torch.nn.functional import softplus

from laplex.order import soft_rank, spearman_loss

try:
    import torchsort
except ImportError:
    torchsort = None

Loss = Callable[[Tensor, Tensor], Tensor]  # scores and targets [splits, n] to a number
RATES = (0.003, 0.01, 0.03)
DECAYS = (0.001, 0.03, 1.0)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlations [splits] of lines [splits, n]."""
    first = first - first.mean(-1, keepdim=True)
    second = second - second.mean(-1, keepdim=True)
    return (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1)).clamp(min=1e-12)


def spearman(scores: Tensor, targets: Tensor) -> Tensor:
    """Return Spearman's correlations [splits]."""
    return correlation(soft_rank(scores, hard=True), soft_rank(targets, hard=True))


def squared_error(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over splits of the mean squared error."""
    return (scores - targets).square().mean(-1).sum()


def pairs(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the logistic loss of all pairs, of which the first target is higher."""
    higher = targets.unsqueeze(-1) > targets.unsqueeze(-2)
    differences = scores.unsqueeze(-1) - scores.unsqueeze(-2)
    return (softplus(-differences) * higher).sum((-2, -1)).div(higher.sum((-2, -1))).sum()


def softmax(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the softmax of scores and targets."""
    return -(targets.softmax(-1) * scores.log_softmax(-1)).sum()


def torchsort_spearman(scores: Tensor, targets: Tensor) -> Tensor:
    """Return 1 minus the correlation of torchsort's soft ranks with the ranks of the targets."""
    return (1 - correlation(torchsort.soft_rank(scores), soft_rank(targets, hard=True))).sum()


LOSSES: dict[str, Loss] = {
    "squared error": squared_error,
    "pairs": pairs,
    "softmax": softmax,
    "Spearman": partial(spearman_loss, reduction="sum"),
}
if torchsort is not None:
    LOSSES["torchsort"] = torchsort_spearman


class Networks:
    """One network for each split, trained together."""

    def __init__(self, splits: int, inputs: int, hidden: int) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = [inputs, hidden, 1] if hidden else [inputs, 1]
        self.weights = [
            (torch.randn(splits, a, b, generator=generator) / a**0.5).requires_grad_()
            for a, b in pairwise(sizes)
        ]
        self.biases = [torch.zeros(splits, 1, b, requires_grad=True) for b in sizes[1:]]

    def __call__(self, features: Tensor) -> Tensor:
        """Score features [splits, n, inputs]."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            features = (features @ weight + bias).relu()
        return (features @ self.weights[-1] + self.biases[-1]).squeeze(-1)


def tuned(
    loss: Loss, parts: list[tuple[Tensor, Tensor]], hidden: int, steps: int
) -> tuple[Tensor, float]:
    """Return the correlations [splits] on the test parts, and milliseconds of CPU time a step."""
    (features, targets), (some, known), (others, unknown) = parts
    splits = len(features)
    best = torch.full((splits,), -1.0)
    kept = torch.zeros(splits)
    start = time.process_time()
    for rate, decay in product(RATES, DECAYS):
        networks = Networks(splits, features.shape[-1], hidden)
        optimiser = torch.optim.AdamW(
            networks.weights + networks.biases, lr=rate, weight_decay=decay
        )
        for step in range(steps):
            optimiser.zero_grad()
            loss(networks(features), targets).backward()
            optimiser.step()
            if step % 10 == 9:
                with torch.no_grad():
                    validated = spearman(networks(some), known)
                    tested = spearman(networks(others), unknown)
                better = validated > best
                best = torch.where(better, validated, best)
                kept = torch.where(better, tested, kept)
    took = time.process_time() - start
    return kept, 1e3 * took / (len(RATES) * len(DECAYS) * steps)


def divided(exponential: bool, splits: int) -> list[tuple[Tensor, Tensor]]:
    """Return features and targets for training (half of the patients), validation and test."""
    features, targets = load_diabetes(return_X_y=True, scaled=False)
    x, y = torch.tensor(features).float(), torch.tensor(targets).float()
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    if exponential:
        y = (2 * y).exp()
        y = (y - y.mean()) / y.std()
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(len(y), generator=generator) for _ in range(splits)])
    quarter = len(y) // 4
    parts = orders.split((len(y) - 2 * quarter, quarter, quarter), dim=1)
    return [(x[part], y[part]) for part in parts]


def main() -> None:
    """Train with each loss, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden", type=int, default=16, help="hidden units; 0 for none (default: %(default)s)"
    )
    parser.add_argument(
        "--splits", type=int, default=10, help="random splits (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two splits of 30 steps")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    if options.quick:
        options.splits, options.steps = 2, 30
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, exponential in zip(axes, (False, True), strict=True):
        title = "exponential of the target" if exponential else "target as it is"
        print(
            f"{title}: Spearman's correlation, mean and its standard error; against squared error"
        )
        parts = divided(exponential, options.splits)
        results = {}
        for name, loss in LOSSES.items():
            results[name], took = tuned(loss, parts, options.hidden, options.steps)
            gain = results[name] - results["squared error"]
            numbers = [
                f"{values.mean():+.3f} ± {values.std() / len(values) ** 0.5:.3f}"
                for values in (results[name], gain)
            ]
            print(f"  {name:15s}{numbers[0]}   {numbers[1]}   {took:.2f} ms of CPU time a step")
        ax.boxplot(list(results.values()), tick_labels=list(results))
        ax.set(title=title)
        ax.tick_params(axis="x", rotation=20)
    axes[0].set_ylabel("Spearman's correlation, held out")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "ranking.png", dpi=110)


if __name__ == "__main__":
    main()
