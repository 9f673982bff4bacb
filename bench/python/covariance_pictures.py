"""Pictures of the models of whole photographs, from what their trainings have kept."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional

from laplex.gram import LaplaceCovariance
from sections import ROOT
from studies import Record

FOLDER = ROOT / "build" / "covariance_large_pictures"
SHOWN = 320  # pixels along the side of a drawn picture
DRAWN = {
    "Laplace, 1 head, matched": "Laplace, matched",
    "Laplace, 2 heads, matched": "Laplace, 2 heads",
    "Laplace, 1 head, likelihood": "Laplace, likelihood",
    "PCA, rank 3, + diagonal": "PCA, rank 3",
    "factor analysis in tiles, rank 3": "tiles, rank 3",
    "stationary kernel": "stationary",
    "mean of known neighbours": "neighbours",
}


def _path(side: int, quick: bool, name: str) -> Path:
    kind = "quick_" if quick else ""
    return FOLDER / f"{kind}{side}_{re.sub('[^a-z0-9]+', '_', name.lower())}.pt"


def keep(
    settings: dict[str, Any], panels: dict[str, Tensor], model: LaplaceCovariance | None
) -> None:
    """Keep pictures [side, side, 3] of a training, and the order of a model's pixels."""
    side = settings["side"]
    kept: dict[str, Tensor] = {}
    for name, panel in panels.items():
        image = panel.detach().clamp(0, 255)
        planes = image.permute(2, 0, 1)[None]
        small = functional.interpolate(planes, size=(min(side, SHOWN),) * 2, mode="area")
        kept[name] = small[0].permute(1, 2, 0).byte()
        kept[f"{name}, detail"] = image[_detail(side)].byte().clone()
    if model is not None:
        rank = model.anchors[0].detach().argsort().argsort().reshape(side, side, 3)[..., 1]
        phase = model.phases[0].detach() if model.phases is not None else model.scales[0]
        step = max(1, side // SHOWN)
        kept["rank"] = rank[::step, ::step] / model.dim
        kept["phase"] = phase.reshape(side, side, 3)[::step, ::step, 1].clone()
        kept["scale"] = model.scales[0].detach().reshape(side, side, 3)[::step, ::step, 1].clone()
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(kept, _path(side, settings["quick"], settings["model"]))


def _detail(side: int) -> tuple[slice, slice]:
    """A sixteenth of the picture, at the edge of the missing block, where there are vessels."""
    first, size = side // 4 - side // 16, side // 4
    return slice(first, first + size), slice(first, first + size)


def draw(side: int, quick: bool, names: list[str], records: list[Record], folder: Path) -> None:
    """Draw what has been kept of the models at a size."""
    found = {
        name: torch.load(path)
        for name in ("photograph", *names)
        if (path := _path(side, quick, name)).exists()
    }
    if not quick and side != 1024:
        return
    if "mean" not in found.get("photograph", {}):
        return
    _fillings(found, folder / "covariance_large_inpainting.png", side)
    _samples(found, folder / "covariance_large_samples.png")
    _orders(found, folder / "covariance_large_order.png")
    _curves(records, folder / "covariance_large_curves.png")


def _show(ax: Any, picture: Tensor, title: str = "") -> None:
    ax.imshow(picture.numpy())
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])


def _save(figure: Figure, path: Path) -> None:
    """Save with a palette and dither, which takes half of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    image = Image.open(buffer).convert("RGB")
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE)
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def _departure(picture: Tensor, mean: Tensor) -> Tensor:
    """Four times the difference from the mean photograph, on grey."""
    return (128 + 4 * (picture.float() - mean.float())).clamp(0, 255).byte()


def _samples(found: dict[str, dict[str, Tensor]], path: Path) -> None:
    names = ["photograph", *(name for name in DRAWN if "sample" in found.get(name, {}))]
    figure = Figure(figsize=(1.8 * len(names), 5.7), layout="constrained")
    axes = figure.subplots(3, len(names))
    mean = found["photograph"]
    for name, column in zip(names, axes.T, strict=True):
        sample, detail = (found[name][kind] for kind in ("sample", "sample, detail"))
        _show(column[0], sample, DRAWN.get(name, "a photograph"))
        _show(column[1], _departure(sample, mean["mean"]))
        _show(column[2], _departure(detail, mean["mean, detail"]))
    for ax, label in zip(axes[:, 0], ("image", "4 x departure", "a part of it"), strict=True):
        ax.set_ylabel(label, fontsize=9)
    _save(figure, path)


def _fillings(found: dict[str, dict[str, Tensor]], path: Path, side: int) -> None:
    names = [name for name in DRAWN if "block" in found.get(name, {})]
    figure = Figure(figsize=(1.8 * (len(names) + 2), 3.9), layout="constrained")
    axes = figure.subplots(2, len(names) + 2)
    true, mean = (found["photograph"][f"{kind}, detail"] for kind in ("sample", "mean"))
    missing = torch.zeros(len(true), len(true), 1, dtype=torch.bool)
    missing[side // 16 :, side // 16 :] = True
    shown = {"the photograph": true, "seen": None} | {
        DRAWN[name]: found[name]["block, detail"] for name in names
    }
    for (title, picture), column in zip(shown.items(), axes.T, strict=True):
        image = true if picture is None else picture
        for ax, part in zip(column, (image, _departure(image, mean)), strict=True):
            _show(ax, part.masked_fill(missing, 60) if picture is None else part)
        column[0].set_title(title, fontsize=9)
    for ax, label in zip(axes[:, 0], ("image", "4 x departure"), strict=True):
        ax.set_ylabel(label, fontsize=9)
    _save(figure, path)


def _orders(found: dict[str, dict[str, Tensor]], path: Path) -> None:
    names = [name for name in DRAWN if "rank" in found.get(name, {})]
    figure = Figure(figsize=(9, 2.9 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 3, squeeze=False), names, strict=True):
        for ax, kind in zip(axes, ("rank", "phase", "scale"), strict=True):
            options: dict[str, Any] = {
                "rank": {"cmap": "turbo"},
                "phase": {"cmap": "twilight", "vmin": -math.pi, "vmax": math.pi},
                "scale": {"cmap": "viridis", "vmin": 0, "vmax": 1},
            }[kind]
            image = ax.imshow(found[name][kind].numpy(), **options)
            title = {"rank": "place in the order", "phase": "phase", "scale": "scale"}[kind]
            ax.set_title(f"{DRAWN[name]}: {title}", fontsize=9)
            ax.set(xticks=[], yticks=[])
            figure.colorbar(image, ax=ax, shrink=0.85)
    _save(figure, path)


def _curves(records: list[Record], path: Path) -> None:
    record = next(each for each in records if each["model"] == "Laplace, 1 head, matched")
    curve = record["curve"]
    figure = Figure(figsize=(6, 3), layout="constrained")
    ax = figure.subplots()
    # Sweeps 1, 2 and 4 stand behind the size, at quarters of the way to the next.
    places = [math.log2(side) + math.log2(max(sweeps, 1)) / 4 for side, sweeps, *_ in curve]
    for number, label in ((3, "held out"), (2, "training")):
        ax.plot(places, [point[number] for point in curve], "o-", ms=3, label=label)
    sides = sorted({point[0] for point in curve})
    ax.set_xticks([math.log2(side) for side in sides], [str(side) for side in sides])
    ax.grid(axis="x", color="0.9")
    ax.set(xlabel="side of the photographs in pixels; then 1, 2 and 4 sweeps")
    ax.set(ylabel="error²", ylim=(0, None))
    ax.legend(loc="upper left")
    _save(figure, path)
