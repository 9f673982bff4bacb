"""The images of the demo: scikit-learn's digits, or Fashion-MNIST from files on this machine."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplex._support.optional import require

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_FOLDER = Path("FashionMNIST/raw")
FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_HOW_TO_GET_IT = (
    "To get Fashion-MNIST, run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu; 31 MB) and "
    "pass `--data fashion-mnist`, or run `torchvision.datasets.FashionMNIST(DIR, download=True)` "
    f"and pass `--data DIR`. Any folder with {', '.join(_FILES.values())}, raw or .gz, will do. "
    "`--data digits` needs no files."
)


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, split for training and testing.

    Attributes
    ----------
    name : str
        The name of the data set.
    train_images, test_images : array ``[count, height, width]``
        The images, in float32 between 0 and 1.
    train_labels, test_labels : array ``[count]``
        The labels, int64 from 0 to ``len(class_names) - 1``.
    class_names : tuple of str
        The names of the classes.
    """

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def load_images(source: str) -> ImageDataset:
    """Load the data set that ``source`` names.

    Parameters
    ----------
    source : str
        ``"digits"``, ``"fashion-mnist"`` (the Debian package's files), or a folder with
        Fashion-MNIST's four files, raw or gzipped, in the folder itself or in torchvision's
        ``FashionMNIST/raw``.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message says how to get the data set.
    ValueError
        If a file is not in the IDX format, or the files do not belong together.
    """
    folder = find_images(source)
    return _digits() if folder is None else _fashion_mnist(folder)


def find_images(source: str) -> Path | None:
    """Find the folder of the files that `load_images` would read, without reading them.

    Returns
    -------
    Path or None
        None for the digits, which are part of scikit-learn.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message says how to get the data set.
    """
    if source == "digits":
        return None
    if not source:
        raise FileNotFoundError(f"the name of the data set is empty. {_HOW_TO_GET_IT}")
    folder = DEBIAN_FOLDER if source == "fashion-mnist" else Path(source).expanduser()
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file: pass the folder that contains it")
    if (folder / TORCHVISION_FOLDER).is_dir():
        folder = folder / TORCHVISION_FOLDER
    for name in _FILES.values():
        _find(folder, name)
    return folder


def idx_folder(folder: Path) -> bool:
    """Whether a folder holds one of the files of Fashion-MNIST, perhaps not all of them."""
    names = [f"{name}{end}" for name in _FILES.values() for end in ("", ".gz")]
    places = (folder, folder / TORCHVISION_FOLDER)
    return any((place / name).is_file() for place in places for name in names)


def _digits() -> ImageDataset:
    digits = require("sklearn.datasets", extra="demo", feature="the digits data set").load_digits()
    # A fixed random draw puts three quarters into training; the file itself is ordered by writer.
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = (digits.images[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    cut = 3 * len(order) // 4
    return ImageDataset(
        name="digits (8 x 8, scikit-learn)",
        train_images=images[:cut],
        train_labels=labels[:cut],
        test_images=images[cut:],
        test_labels=labels[cut:],
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _fashion_mnist(folder: Path) -> ImageDataset:
    arrays = {part: read_idx(_find(folder, name)) for part, name in _FILES.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
            raise ValueError(
                f"{folder}: {_FILES[f'{part}_images']} {images.shape} and "
                f"{_FILES[f'{part}_labels']} {labels.shape} are not images with their labels"
            )
        if labels.max() >= len(FASHION_CLASSES):
            raise ValueError(f"{folder}: {_FILES[f'{part}_labels']} has labels above 9")
    return ImageDataset(
        name=f"Fashion-MNIST ({folder})",
        train_images=arrays["train_images"].astype(np.float32) / np.float32(255),
        train_labels=arrays["train_labels"].astype(np.int64),
        test_images=arrays["test_images"].astype(np.float32) / np.float32(255),
        test_labels=arrays["test_labels"].astype(np.int64),
        class_names=FASHION_CLASSES,
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder}. {_HOW_TO_GET_IT}")


def read_idx(path: Path) -> NDArray[Any]:
    """Read a file of unsigned bytes in the IDX format, raw or gzipped.

    The format is two zero bytes, a type code (8 for unsigned bytes), the number of dimensions, each
    dimension as a big-endian 32-bit integer, and then the data.

    Raises
    ------
    ValueError
        If the file is broken or holds another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a broken gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(shape) != content[3] or len(content) - start != int(np.prod(shape)):
        raise ValueError(f"{path} should hold {shape} bytes but holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
