"""The pictures of the report. Each function returns a matplotlib Figure and shows nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from laplex._support.image_datasets import ImageDataset
from laplex.demo.covariance import CovarianceStudy
from laplex.demo.timing import Timing
from laplex.demo.training import Comparison
from laplex.nn import LaplexHead, LaplexLinear

TARGETS, SOURCES = "#d95f02", "#1b9e77"
COLORS = {
    "Laplex": "#d95f02",
    "Laplex, random anchors": "#7570b3",
    "low-rank": "#1b9e77",
    "dense": "#666666",
}


def samples(images: ImageDataset, network: nn.Module, count: int = 20) -> Figure:
    """Draw test images with their labels and the network's prediction if it is wrong."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    shift, scale = float(images.train_images.mean()), float(images.train_images.std())
    pixels = torch.from_numpy(images.test_images[:count])
    with torch.no_grad():
        guesses = network((pixels - shift) / scale).argmax(-1).tolist()
    axes = figure.subplots(2, count // 2).flat
    for ax, image, label, guess in zip(
        axes, pixels.numpy(), images.test_labels.tolist(), guesses, strict=False
    ):
        ax.imshow(image, cmap="gray_r", interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        wrong = "" if guess == label else f"\npredicted: {images.class_names[guess]}"
        ax.set_title(
            images.class_names[label] + wrong, fontsize=8, color="#b2182b" if wrong else "black"
        )
    return figure


def kernel(layer: LaplexLinear) -> Figure:
    """Draw a layer's dense weight, and one head's kernel with rows and columns in anchor order."""
    with torch.no_grad():
        weight = layer.weight
        row_order, column_order = layer.targets[0].argsort(), layer.sources[0].argsort()
        distance = (layer.targets[0, :, None] - layer.sources[0]).abs()
        modulus = torch.exp(-distance / layer.lengthscale[0])
        part = modulus.clone()
        if layer.target_phase is not None and layer.source_phase is not None:
            part *= torch.cos(layer.target_phase[0, :, None] - layer.source_phase[0])
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    pictures = (
        ("weight matrix of the layer", weight),
        ("head 0: kernel in the order of the features", part),
        ("head 0: kernel in the order of the anchors", part[row_order][:, column_order]),
    )
    axes = figure.subplots(1, 3)
    for ax, (title, matrix) in zip(axes, pictures, strict=True):
        limit = float(matrix.abs().quantile(0.995)) or 1.0
        image = ax.imshow(
            matrix.numpy(),
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("source (input)")
        figure.colorbar(image, ax=ax, shrink=0.8)
    axes[0].set_ylabel("target (output)")
    return figure


def anchors(before: LaplexLinear, after: LaplexLinear, most: int = 200) -> Figure:
    """Draw the anchors of the first head before training (top) and after it (bottom)."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    kinds = (
        ("targets (outputs)", TARGETS, before.targets, after.targets),
        ("sources (inputs)", SOURCES, before.sources, after.sources),
    )
    for ax, (title, color, first, last) in zip(axes, kinds, strict=True):
        old, new = (anchor[0].detach().cpu().numpy() for anchor in (first, last))
        shown = np.linspace(0, len(old) - 1, min(most, len(old))).astype(int)
        paths = [[(old[k], 1.0), (new[k], 0.0)] for k in shown]
        ax.add_collection(LineCollection(paths, colors=color, linewidths=0.6, alpha=0.45))
        ax.plot(old, np.ones_like(old), "|", color=color, markersize=12)
        ax.plot(new, np.zeros_like(new), "|", color=color, markersize=12)
        ax.set_title(
            f"{title}: {len(old)}" + ("" if len(shown) == len(old) else f", {most} traced")
        )
        ax.set_ylim(-0.15, 1.15)
        ax.set_xlabel("position on the line")
        _without_box(ax)
    axes[0].set_yticks([1, 0], ["before training", "after training"])
    return figure


def routing(head: LaplexHead, class_names: Sequence[str]) -> Figure:
    """Draw every head's features and classes on their line, and its routing matrix."""
    figure = Figure(figsize=(11, 3.4 * head.heads), layout="constrained")
    grid = figure.subplots(head.heads, 2, width_ratios=(2, 1), squeeze=False)
    shares = head.routing().detach().cpu().numpy()
    for number, (line, matrix) in enumerate(grid):
        head.plot_routing(class_names=class_names, ax=line, head=number)
        line.set_title(f"head {number}: {line.get_title()}", fontsize=10)
        rows = head.targets[number].detach().argsort().cpu().numpy()
        columns = head.sources[number].detach().argsort().cpu().numpy()
        image = matrix.imshow(
            shares[number][rows][:, columns],
            cmap="Blues",
            vmin=0,
            aspect="auto",
            interpolation="nearest",
        )
        matrix.set_yticks(range(len(rows)), [class_names[row] for row in rows], fontsize=8)
        matrix.set_xlabel("features in the order of their anchors")
        matrix.set_title("share of each feature that goes to each class", fontsize=10)
        figure.colorbar(image, ax=matrix, shrink=0.8)
    return figure


def scaling(timings: Sequence[Timing]) -> Figure:
    """Plot the CPU time against n on logarithmic axes."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    ax = figure.subplots()
    sizes = np.array([row.n for row in timings], dtype=float)
    lines = (
        ("new plan and product", "#7570b3", "s-", [row.new_forward for row in timings]),
        ("anchor update and product", "#e7298a", "v-", [row.moved_forward for row in timings]),
        ("product", TARGETS, "o-", [row.forward for row in timings]),
        ("product and all gradients", "#a6761d", "^-", [row.forward_backward for row in timings]),
        ("torch.fft.rfft of n values", "#666666", "d--", [row.fft for row in timings]),
    )
    for label, color, style, seconds in lines:
        ax.loglog(sizes, np.array(seconds) * 1e3, style, color=color, label=label)
    dense = [(row.n, row.dense) for row in timings if row.dense is not None]
    if dense:
        largest, dense_seconds = dense[-1]
        guide = np.array([largest, sizes[-1]], dtype=float)
        ax.loglog(
            guide,
            dense_seconds * 1e3 * (guide / largest) ** 2,
            ":",
            color="black",
            label="extrapolation with n² (not measured)",
        )
        ax.loglog([largest], [dense_seconds * 1e3], "k*", markersize=12, label="dense product")
    ax.set_xlabel("n targets and n sources")
    ax.set_ylabel("CPU time of one thread, milliseconds")
    ax.grid(visible=True, which="major", alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def training_curves(comparisons: Sequence[Comparison]) -> Figure:
    """Plot training loss and test error by epoch, as mean and range over seeds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_ax, error_ax = figure.subplots(1, 2)
    for comparison in comparisons:
        name = comparison.variant.name
        for ax, curves in (
            (loss_ax, [run.losses for run in comparison.runs]),
            (error_ax, [[100 - value for value in run.accuracies] for run in comparison.runs]),
        ):
            values = np.array(curves)
            epochs = np.arange(1, values.shape[1] + 1)
            ax.plot(epochs, values.mean(0), color=COLORS[name], label=name)
            ax.fill_between(
                epochs, values.min(0), values.max(0), color=COLORS[name], alpha=0.15, linewidth=0
            )
    loss_ax.set_ylabel("training loss (cross-entropy)")
    error_ax.set_ylabel("test error, per cent")
    for ax in (loss_ax, error_ax):
        ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(visible=True, alpha=0.3)
    loss_ax.legend(fontsize=8)
    return figure


def completions(study: CovarianceStudy) -> Figure:
    """Draw test images, their known pixels, and the completion by each model."""
    shown = len(study.completions["image"])
    size = (1.2 * shown + 1.8, 1.25 * len(study.completions))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(study.completions), shown, squeeze=False)
    for row, (name, pictures) in zip(axes, study.completions.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            ax.set_facecolor("tab:blue")  # where a pixel is missing
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def _without_box(ax: Axes) -> None:
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
