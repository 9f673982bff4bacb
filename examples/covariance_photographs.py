"""Fit covariance models to photographs from scikit-image: small patches, or whole photographs.

    python examples/covariance_photographs.py [--steps 600] [--out DIR]
    python examples/covariance_photographs.py --whole [--steps 300] [--side 256]

Without --whole, the script fits a model to 16 x 16 x 3 patches of four photographs. It then
restores half the pixels of a fifth photograph, tile by tile. With --whole, it fits one model to
photographs of a retina from coarse to fine, each side x side x 3, which are moved against each
other by a few pixels. A side of 1024 (3,145,728 numbers) takes a few minutes and 4 GiB of memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage.data
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from laplex.gram import LaplaceCovariance, fit_coarse_to_fine

SIDE = 16


def crops(picture: Tensor, side: int, count: int) -> Tensor:
    """Draw crops [count, side, side, 3] of a picture [height, width, 3]."""
    height, width = picture.shape[:2]
    rows = torch.randint(height - side + 1, (count,)).tolist()
    columns = torch.randint(width - side + 1, (count,)).tolist()
    return torch.stack(
        [picture[r : r + side, c : c + side] for r, c in zip(rows, columns, strict=True)]
    )


def tiles(picture: Tensor) -> Tensor:
    """Cut [height, width, 3] into tiles [count, SIDE, SIDE, 3]."""
    height, width = picture.shape[0] // SIDE, picture.shape[1] // SIDE
    return picture.reshape(height, SIDE, width, SIDE, 3).transpose(1, 2).reshape(-1, SIDE, SIDE, 3)


def joined(parts: Tensor, shape: torch.Size) -> Tensor:
    """Put tiles together again."""
    parts = parts.reshape(shape[0] // SIDE, shape[1] // SIDE, SIDE, SIDE, 3)
    return parts.transpose(1, 2).reshape(shape)


def restore(steps: int, out: Path) -> None:
    """Fit patches of four photographs, and fill in half the pixels of another one."""
    photographs = ("astronaut", "coffee", "rocket", "immunohistochemistry")
    train = torch.cat(
        [crops(torch.tensor(getattr(skimage.data, name)()), SIDE, 4000) for name in photographs]
    )
    model = LaplaceCovariance(SIDE * SIDE * 3, heads=4)
    print(model)
    model.fit(train, steps=steps, likelihood_steps=steps // 5, batch_size=2000, progress=True)
    print(f"off-diagonal relative squared error: {model.relative_error(train):.4f}")

    photograph = torch.tensor(skimage.data.chelsea())[:288, :448].float()
    missing = (torch.rand(photograph.shape[:2]) < 0.5)[..., None].expand(photograph.shape)
    seen = photograph.masked_fill(missing, 128)
    filled = joined(model.inpaint(tiles(seen), tiles(missing)), photograph.shape).clamp(0, 255)
    error = (filled - photograph)[missing].square().mean()
    print(f"PSNR of the missing pixels: {float(10 * (255**2 / error).log10()):.1f} dB")
    figure = Figure(figsize=(12, 3), layout="constrained")
    pictures = {"photograph": photograph, "observed half": seen, "inpainted by tiles": filled}
    for ax, (name, picture) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        ax.imshow(picture.to(torch.uint8).numpy())
        ax.set(title=name, xticks=[], yticks=[])
    figure.savefig(out / "restored.png", dpi=110)
    model.plot_order((SIDE, SIDE, 3)).savefig(out / "order.png", dpi=110)


def whole(steps: int, side: int, out: Path) -> None:
    """Fit one model to photographs from coarse to fine, and draw a sample of the model."""
    picture = torch.tensor(skimage.data.retina())[200:1200, 200:1200].permute(2, 0, 1)[None].float()
    large = interpolate(picture, size=(side + 16, side + 16), mode="area")[0].permute(1, 2, 0)
    train = crops(large, side, 32)
    model, history = fit_coarse_to_fine(train, steps=steps, sweeps=4, progress=True)
    print(model)
    print(f"loss of the smallest images: {history.losses[0]:.3f} at first, "
          f"{history.losses[-1]:.3f} at the end")  # fmt: skip
    print(f"off-diagonal relative squared error at full size: {model.relative_error(train):.3f}")
    sample = model.sample(1).reshape(side, side, 3).clamp(0, 255)
    figure = Figure(figsize=(8, 4), layout="constrained")
    pictures = {"a photograph": train[0], "a sample": sample}
    for ax, (name, image) in zip(figure.subplots(1, 2), pictures.items(), strict=True):
        ax.imshow(image.to(torch.uint8).numpy())
        ax.set(title=name, xticks=[], yticks=[])
    figure.savefig(out / "whole.png", dpi=110)


def main() -> None:
    """Fit a model, print results and draw the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--whole", action="store_true", help="fit whole photographs of a retina, not patches"
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="number of matching steps (default: 600 for patches, 300 with --whole)",
    )
    parser.add_argument(
        "--side",
        type=int,
        default=256,
        help="side of the photographs in pixels, with --whole (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("covariance_photographs"),
        help="folder for the figures (default: %(default)s)",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if options.whole:
        whole(options.steps or 300, options.side, options.out)
    else:
        restore(options.steps or 600, options.out)
    print(f"The figures are in {options.out}.")


if __name__ == "__main__":
    main()
