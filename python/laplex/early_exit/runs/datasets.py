"""Data by name for the command line, split for training, validation and testing.

Folders and tables are read by the library datasets, which knows the layouts of torchvision's
``ImageFolder`` and of Hugging Face.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from laplex._support.image_datasets import load_images
from laplex._support.optional import require

from ..activations import map_tensors
from ..batches import check_loader, inputs_and_labels
from .sources import TABLES, arguments_for, function_named, is_built_in, is_function

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

#: Random seed of the splits. It is fixed, so that runs with other seeds share them.
_SPLIT_SEED = 0
#: Number of training samples of a table whose mean and standard deviation scale all of it.
_SCALED_BY = 1000
_GREY = ("1", "L", "LA", "F", "I", "I;16")


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled samples in three parts.

    Attributes
    ----------
    name : str
    class_names : tuple of str
    parts : dict of Dataset, or of iterables of batches from a function of the user
        Samples by split. Images and numbers are scaled to mean 0 and standard deviation 1 over
        training samples: images over all pixels, numbers by column.
    collate : callable, optional
        Makes a batch of samples, such as of texts, which have to be padded.
    workers : int
        Number of processes that load samples.
    """

    name: str
    class_names: tuple[str, ...]
    parts: Mapping[Split, Any]
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0

    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False) -> Iterable[Any]:
        """Batches of a split with labels, in a fixed or a random order, or those of the user."""
        part = self.parts[split]
        if not isinstance(part, Dataset):
            return part  # type: ignore[no-any-return]
        # BatchNorm cannot train on a last batch of one sample.
        drop = shuffle and _length(part) % batch_size == 1 and _length(part) > 1
        return DataLoader(
            part,
            batch_size,
            shuffle,
            drop_last=drop,
            collate_fn=self.collate,
            num_workers=self.workers,
        )

    def example(self, count: int = 2, split: Split = "train") -> Any:
        """The inputs of the first samples of a split, as many as its first batch has."""
        x, _ = inputs_and_labels(next(iter(self.loader(split, count))), split)
        return map_tensors(lambda tensor: tensor[:count], x)

    def samples(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {split: _length(part) for split, part in self.parts.items()}


def load_splits(
    data: str,
    *,
    validation: float = 0.2,
    images: int | None = None,
    columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    image_channels: int | None = None,
    backbone: str = "",
    tokenizer: str | None = None,
    max_length: int | None = None,
    data_options: Mapping[str, Any] | None = None,
    workers: int = 0,
    batch_size: int = 64,
    seed: int = 0,
) -> Splits:
    """Load data and split them. The arguments are the settings of these names.

    Parts that the data do not have are set apart from the training samples by a fixed random draw.

    Raises
    ------
    OSError, ImportError
        If the data, or a package that reads them, do not exist.
    ValueError
        If a file is broken, a column is not known, or a split would be empty.
    """
    if image_channels not in (None, 1, 3):
        raise ValueError(f"image_channels must be 1 or 3, got {image_channels}")
    if is_function(data):
        known = {"batch_size": batch_size, "seed": seed, "validation": validation, "images": images}
        return _from_function(data, known, data_options or {})
    if data_options:
        raise ValueError("data_options are for functions that return loaders: leave them out")
    if is_built_in(data):
        return _built_in(data, validation, images, image_size, image_channels)
    tables = _tables(data)
    rows = _rows({split: len(table) for split, table in tables.items()}, validation, images)
    reader, names = _reader(tables, columns, label_column)
    collate = None
    if reader.kind == "text":
        reader.tokenizer = _tokenizer(tokenizer, backbone, max_length)
        collate = require("transformers", "transformers").DataCollatorWithPadding(reader.tokenizer)
    else:
        reader.size, reader.channels = image_size, image_channels
        reader.fit([tables["train"][int(row)] for row in rows["train"][1][:_SCALED_BY]])
    parts = {split: _Part(tables[of], numbers, reader) for split, (of, numbers) in rows.items()}
    return Splits(data, names, parts, collate, workers)


def _rows(
    counts: Mapping[Split, int], validation: float, images: int | None
) -> dict[Split, tuple[Split, NDArray[np.int64]]]:
    """The rows of each split: the part of the data that they are from, and their numbers."""
    found = {split: (split, np.arange(count)) for split, count in counts.items()}
    kept = np.random.default_rng(_SPLIT_SEED).permutation(counts["train"])[:images]
    total = len(kept)
    for split in ("test", "validation"):
        if split not in counts:
            cut = len(kept) - max(1, round(validation * total))
            found[split], kept = ("train", kept[cut:]), kept[: max(cut, 0)]
    if len(kept) < 2:
        raise ValueError(
            f"{total} samples and validation={validation} leave only {len(kept)} to train on: pass "
            "a smaller fraction, or more samples"
        )
    found["train"] = ("train", kept)
    return found


def _built_in(
    data: str, validation: float, images: int | None, size: int | None, channels: int | None
) -> Splits:
    found = load_images(data)
    counts: dict[Split, int] = {"train": len(found.train_labels), "test": len(found.test_labels)}
    rows = _rows(counts, validation, images)
    pixels = found.train_images[rows["train"][1]]
    mean, deviation = np.float32(pixels.mean()), np.float32(pixels.std() or 1.0)
    whole: dict[Split, TensorDataset] = {}
    for split, values, labels in (
        ("train", found.train_images, found.train_labels),
        ("test", found.test_images, found.test_labels),
    ):
        x = torch.from_numpy((values[:, None] - mean) / deviation)
        if size is not None:
            x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear")
        x = x.expand(-1, channels or 1, -1, -1)
        whole[split] = TensorDataset(x, torch.from_numpy(labels))  # type: ignore[index]
    parts = {split: Subset(whole[of], numbers.tolist()) for split, (of, numbers) in rows.items()}
    return Splits(found.name, found.class_names, parts)


# --- tables ---------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Makes a sample of a row of a table: ``(x, label)``, or tokens with "labels"."""

    kind: str
    columns: tuple[str, ...]
    label: str
    numbers: dict[Any, int]
    size: int | None = None
    channels: int | None = None
    tokenizer: Any = None
    mean: Any = 0.0
    deviation: Any = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Any:
        label = self.numbers[row[self.label]]
        if self.kind == "text":
            texts = [row[column] or "" for column in self.columns]
            return {**self.tokenizer(*texts, truncation=True), "labels": label}
        return (self._values(row) - self.mean) / self.deviation, label

    def fit(self, rows: list[Mapping[str, Any]]) -> None:
        """Take the shape of images from the first row, and the scale from all of them."""
        if self.kind == "image":
            first = rows[0][self.columns[0]]
            self.channels = self.channels or (1 if first.mode in _GREY else 3)
            self._shape = None if self.size else first.size
        values = torch.stack([self._values(row) for row in rows])
        axes = 0 if self.kind == "numbers" else tuple(range(values.ndim))
        self.mean, deviation = values.mean(axes), values.std(axes, correction=0)
        self.deviation = torch.where(deviation > 0, deviation, 1.0)

    def _values(self, row: Mapping[str, Any]) -> Tensor:
        if self.kind == "numbers":
            return torch.tensor([float(row[column]) for column in self.columns])
        picture = row[self.columns[0]].convert("L" if self.channels == 1 else "RGB")
        if self.size:
            fit = require("PIL.ImageOps", "datasets").fit
            picture = fit(picture, (self.size, self.size))
        elif picture.size != self._shape:
            raise ValueError(
                f"images have sizes {self._shape} and {picture.size}: pass --image-size SIDE to "
                "resize and crop them"
            )
        values = torch.from_numpy(np.asarray(picture, np.float32) / np.float32(255))
        return values[None] if self.channels == 1 else values.permute(2, 0, 1)


class _Part(Dataset[Any]):
    """Some rows of a table, read and prepared when they are needed."""

    def __init__(self, table: Any, rows: NDArray[np.int64], reader: _Reader) -> None:
        self.table, self.rows, self.reader = table, rows, reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.reader(self.table[int(self.rows[index])])


def _tables(data: str) -> dict[Split, Any]:
    library = require("datasets", "datasets", feature="reading folders and tables")
    if not sys.stdout.isatty():
        library.disable_progress_bars()
    path = Path(data)
    try:
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = library.load_from_disk(data)
        elif path.is_file():
            found = library.load_dataset(TABLES[path.suffix], data_files=data)
        else:
            found = library.load_dataset(data)
    except (library.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"{data} cannot be read as a folder or file of data: {error}") from error
    tables: dict[Any, Any] = dict(found) if isinstance(found, dict) else {"train": found}
    if len(tables) == 1:
        tables = {"train": next(iter(tables.values()))}
    if "train" not in tables or not set(tables) <= set(SPLITS):
        raise ValueError(
            f"{data} has the parts {', '.join(tables)}: name them train, validation and test"
        )
    return tables


def _reader(
    tables: Mapping[Split, Any], columns: tuple[str, ...] | None, label: str | None
) -> tuple[_Reader, tuple[str, ...]]:
    """The reader for the columns of tables, and the names of the classes."""
    features = tables["train"].features
    label = label or ("labels" if "labels" in features else "label")
    kinds = {name: _kind(one) for name, one in features.items() if name != label}
    if columns is None:
        by_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in kinds.values()}
        chosen = by_kind.get("image", [])[:1] or by_kind.get("text") or by_kind.get("numbers", [])
        columns = tuple(chosen)
    among = {kinds.get(name) for name in columns}
    many = among == {"text"} and len(columns) > 2
    if label not in features or len(among) != 1 or None in among or many:
        raise ValueError(
            f"the input and the label must be columns of the data, which are "
            f"{', '.join(features)}: name them with --columns (an image, one or two texts, or "
            "numbers) and --label-column"
        )
    (kind,) = among
    names = getattr(features[label], "names", None)
    known = range(len(names)) if names else sorted(set(tables["train"].unique(label)) - {None})
    numbers = {value: number for number, value in enumerate(known)}
    for split, table in tables.items():
        for value in table.unique(label):
            if value not in numbers:
                raise ValueError(
                    f"the column {label} has {value!r} in the part {split}, which is none of the "
                    "classes to train on: leave these rows out"
                )
    return _Reader(str(kind), columns, label, numbers), tuple(map(str, names or known))


def _kind(feature: Any) -> str | None:
    if type(feature).__name__ == "Image":
        return "image"
    dtype = str(getattr(feature, "dtype", ""))
    if "string" in dtype:
        return "text"
    return "numbers" if dtype.startswith(("int", "uint", "float", "double", "bool")) else None


def _tokenizer(tokenizer: str | None, backbone: str, max_length: int | None) -> Any:
    transformers = require("transformers", "transformers", feature="reading texts")
    library, _, model = backbone.partition(":")
    if library != "transformers" and tokenizer is None:
        raise ValueError(
            "texts need a tokenizer: choose a backbone transformers:MODEL, or pass --tokenizer"
        )
    folder = str(Path(model).parent) if model.endswith(".json") else model
    found = transformers.AutoTokenizer.from_pretrained(tokenizer or folder)
    if found.pad_token is None:  # such as that of GPT-2
        found.pad_token = found.eos_token
    if library == "transformers":
        config = transformers.AutoConfig.from_pretrained(model)
        most = getattr(config, "max_position_embeddings", found.model_max_length)
        found.model_max_length = min(found.model_max_length, most)
    found.model_max_length = max_length or found.model_max_length
    return found


# --- functions of the user ------------------------------------------------------------------------


def _from_function(data: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> Splits:
    function = function_named(data, "data")
    given = function(**arguments_for(function, known, options, "data_options"))
    if isinstance(given, (tuple, list)) and len(given) == len(SPLITS):
        given = dict(zip(SPLITS, given, strict=True))
    if not isinstance(given, Mapping) or not {"train", "test"} <= set(given):
        raise ValueError(
            f"data {data!r} returned a {type(given).__name__}: the function must return the "
            "loaders (train, validation, test), or a dict with these keys"
        )
    given = {("validation" if key == "val" else key): value for key, value in given.items()}
    parts = {}
    for split in SPLITS:
        check_loader(given.get(split), split)
        if iter(given[split]) is given[split]:
            raise ValueError(
                f"data {data!r}: {split} can be read only once: return a DataLoader or a list"
            )
        parts[split] = given[split]
    names = given.get("class_names") or getattr(
        getattr(parts["train"], "dataset", None), "classes", None
    )
    if not names:
        count = given.get("num_classes") or 1 + max(
            int(inputs_and_labels(batch, "train")[1].max()) for batch in parts["train"]
        )
        names = range(count)
    return Splits(data, tuple(map(str, names)), parts)


def _length(part: Any) -> int:
    try:
        return len(part if isinstance(part, Dataset) else part.dataset)  # type: ignore[arg-type]
    except (AttributeError, TypeError):  # a list of batches, or a data set without a length
        return sum(len(inputs_and_labels(batch, "data")[1]) for batch in part)
