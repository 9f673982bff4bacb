"""Draws idea.png, the picture of the README: anchors on a line, and the matrix they stand for.

python docs/pictures/idea.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import laplex

TARGETS, SOURCES = "#0d7377", "#e07a1f"

rng = np.random.default_rng(6)
x, y = np.sort(rng.random(12)), np.sort(rng.random(16))
lengthscale = 0.12
plan = laplex.Plan(x, y, lengthscale=lengthscale)

figure, (line, matrix, sweep) = plt.subplots(
    1, 3, figsize=(11, 3.1), width_ratios=(1.25, 1, 1.25), layout="constrained"
)

line.set_title("1. Learn anchors on a line")
grid = np.linspace(0, 1, 800)
chosen = 7
line.plot(grid, np.exp(-np.abs(grid - x[chosen]) / lengthscale), color=TARGETS)
line.vlines(y, 0, np.exp(-np.abs(y - x[chosen]) / lengthscale), color=SOURCES, alpha=0.5, lw=1)
line.plot(x, np.full(x.size, -0.12), "^", color=TARGETS, label=f"{x.size} targets $x_i$")
line.plot(y, np.zeros(y.size), "o", color=SOURCES, label=f"{y.size} sources $y_j$")
line.text(x[chosen] + 0.05, 0.88, r"$e^{-|x_i - y_j| / \ell}$", color=TARGETS, fontsize=13)
line.legend(loc="upper left", fontsize=9, frameon=False)
line.set(ylim=(-0.25, 1.1), yticks=[], xticks=[])
line.spines[["left", "right", "top"]].set_visible(False)

matrix.set_title("2. They are a dense matrix")
matrix.imshow(plan.to_dense(), cmap="YlGnBu", vmin=0, vmax=1)
matrix.add_patch(
    plt.Rectangle((-0.5, chosen - 0.5), y.size, 1, fill=False, edgecolor=TARGETS, lw=2)
)
matrix.set(xlabel="source j", ylabel="target i", xticks=[], yticks=[])

sweep.set_title("3. Two sweeps multiply by it, exactly")
values = np.ones(y.size)
left, right = plan.half_sums(values)
for place, sums, arrow, name in (
    (1, left, "→", "from the left"),
    (0, right, "←", "from the right"),
):
    sweep.scatter(x, np.full(x.size, place), s=30 + 110 * sums, color=TARGETS, alpha=0.75)
    sweep.text(0.5, place + 0.3, f"sums {name}  {arrow}", ha="center", color=TARGETS)
sweep.text(
    0.5,
    -0.62,
    "O(n log n) to sort, then O(n)\nn² entries from 2n numbers",
    ha="center",
    fontsize=10,
)
sweep.set(ylim=(-0.8, 1.6), xlim=(-0.05, 1.05))
sweep.axis("off")

figure.savefig(Path(__file__).with_name("idea.png"), dpi=110, facecolor="white")
