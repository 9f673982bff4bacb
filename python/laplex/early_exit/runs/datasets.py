"""Data by name for the command line, split for training, validation and testing.

Folders and tables are read by the library datasets, which knows the layouts of torchvision's
``ImageFolder`` and of Hugging Face.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from laplex._support.image_datasets import load_images
from laplex._support.optional import require

from ..activations import first_rows
from ..batches import check_loader, inputs_and_labels
from .settings import RunSettings
from .sources import TABLES, call_named, is_built_in, is_function

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

#: Random seed of the splits. It is fixed, so that runs with other seeds share them.
_SPLIT_SEED = 0
#: Number of training samples of a table whose mean and standard deviation scale all of it.
_SCALED_BY = 1000
#: Texts whose tokens are looked at, and the share of unknown ones above which something is wrong.
_TOKENIZED, _UNKNOWN = 100, 0.9
_GREY = ("1", "L", "LA", "F", "I", "I;16")


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled samples in three parts, each a Dataset or what a function of the user made.

    Images (over all pixels) and numbers (by column) are scaled to mean 0 and standard deviation 1
    over training samples. `about` says which columns of a table were chosen.
    """

    name: str
    class_names: tuple[str, ...]
    parts: Mapping[Split, Any]
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    about: str = ""

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(
                f"data {self.name} has one class only, {', '.join(self.class_names)}: a "
                "classifier needs at least two; --label-column names the column of a table"
            )

    def loader(self, split: Split, batch_size: int, *, shuffle: bool = False) -> Iterable[Any]:
        """Batches of a split with labels, in a fixed or a random order, or those of the user."""
        part = self.parts[split]
        if not isinstance(part, Dataset):
            return part  # type: ignore[no-any-return]
        # BatchNorm cannot train on a last batch of one sample.
        drop = shuffle and _length(part) % batch_size == 1 and _length(part) > 1
        more = {"drop_last": drop, "collate_fn": self.collate, "num_workers": self.workers}
        return DataLoader(part, batch_size, shuffle, **more)  # type: ignore[arg-type]

    def example(self, count: int = 2, split: Split = "train") -> Any:
        """The inputs of the first samples of a split, as many as its first batch has."""
        x, _ = inputs_and_labels(next(iter(self.loader(split, count))), split)
        return first_rows(x, count, "x")

    def samples(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {split: _length(part) for split, part in self.parts.items()}


def load_splits(settings: RunSettings) -> Splits:
    """Load data; parts that they lack are set apart from the training samples, at a fixed seed."""
    data = settings.data
    if is_function(data):
        return _from_function(settings)
    if settings.data_options:
        raise ValueError("data_options are for functions that return loaders: leave them out")
    if is_built_in(data):
        return _built_in(settings)
    tables = _tables(data)
    rows = _rows({split: len(table) for split, table in tables.items()}, settings)
    train, names = _train_rows(tables, rows["train"][1], settings)
    chosen = f"{', '.join(train.columns)}; label: {train.label}, {len(names)} classes"
    about = "" if train.kind == "image" else f"Input of {train.kind}: {chosen}"
    collate = None
    if train.kind == "text":
        train.tokenizer = _tokenizer(settings)
        train.check_tokens()
        collate = require("transformers", "transformers").DataCollatorWithPadding(train.tokenizer)
    else:
        train.fit()
    parts = {split: replace(train, table=tables[of], rows=at) for split, (of, at) in rows.items()}
    return Splits(data, names, parts, collate, settings.workers, about)


def _rows(
    counts: Mapping[Split, int], settings: RunSettings
) -> dict[Split, tuple[Split, NDArray[np.int64]]]:
    """The rows of each split: the part of the data that they are from, and their numbers."""
    found = {split: (split, np.arange(count)) for split, count in counts.items()}
    kept = np.random.default_rng(_SPLIT_SEED).permutation(counts["train"])[: settings.images]
    total, share = len(kept), settings.validation
    for split in ("test", "validation"):
        if split not in counts:
            cut = max(len(kept) - max(1, round(share * total)), 0)
            found[split], kept = ("train", kept[cut:]), kept[:cut]
    if len(kept) < 2:
        raise ValueError(
            f"{total} samples and validation={share} leave only {len(kept)} to train on: pass a "
            "smaller fraction, or more samples"
        )
    return {**found, "train": ("train", kept)}


def _built_in(settings: RunSettings) -> Splits:
    found = load_images(settings.data)
    rows = _rows({"train": len(found.train_labels), "test": len(found.test_labels)}, settings)
    pixels = found.train_images[rows["train"][1]]
    mean, deviation = np.float32(pixels.mean()), np.float32(pixels.std() or 1.0)

    def scaled(values: NDArray[np.float32], labels: NDArray[np.int64]) -> TensorDataset:
        x = torch.from_numpy((values[:, None] - mean) / deviation)
        if (side := settings.image_size) is not None:
            x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear")
        x = x.expand(-1, settings.image_channels or 1, -1, -1)
        return TensorDataset(x, torch.from_numpy(labels))

    train = scaled(found.train_images, found.train_labels)
    whole = {"train": train, "test": scaled(found.test_images, found.test_labels)}
    parts = {split: Subset(whole[of], numbers.tolist()) for split, (of, numbers) in rows.items()}
    return Splits(found.name, found.class_names, parts, workers=settings.workers)


@dataclass(eq=False)
class _Rows(Dataset[Any]):
    """Samples of some rows of a table: ``(x, label)``, or tokens with "labels"."""

    table: Any
    rows: NDArray[np.int64]
    kind: str
    columns: tuple[str, ...]
    label: str
    numbers: dict[Any, int]
    side: int | None
    channels: int | None
    size: tuple[int, int] = (0, 0)
    tokenizer: Any = None
    mean: Any = 0.0
    deviation: Any = 1.0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self._row(int(self.rows[index]))
        label = self.numbers[row[self.label]]
        if self.kind == "text":
            texts = [row[column] or "" for column in self.columns]
            return {**self.tokenizer(*texts, truncation=True), "labels": label}
        return (self._values(row) - self.mean) / self.deviation, label

    def fit(self) -> None:
        """Take the shape of images from the first row, and the scale from the first ones."""
        rows = [self._row(int(row)) for row in self.rows[:_SCALED_BY]]
        if self.kind == "image":
            first = rows[0][self.columns[0]]
            self.channels = self.channels or (1 if first.mode in _GREY else 3)
            self.size = (self.side, self.side) if self.side else first.size
        values = torch.stack([self._values(row) for row in rows])
        axes = 0 if self.kind == "numbers" else tuple(range(values.ndim))
        self.mean, deviation = values.mean(axes), values.std(axes, correction=0)
        self.deviation = torch.where(deviation > 0, deviation, 1.0)

    def check_tokens(self) -> None:
        """Check that the tokenizer knows the words of the first samples."""
        unknown = self.tokenizer.unk_token_id
        special = set(self.tokenizer.all_special_ids) - {unknown}
        found = [self[index]["input_ids"] for index in range(min(len(self), _TOKENIZED))]
        tokens = [token for one in found for token in one if token not in special]
        share = sum(token == unknown for token in tokens) / max(len(tokens), 1)
        if share > _UNKNOWN:
            raise ValueError(
                f"the tokenizer does not know {share:.0%} of the tokens of the first "
                f"{len(found)} texts: pass --tokenizer, or a backbone for this language"
            )

    def _row(self, number: int) -> Any:
        try:
            row = self.table[number]
            if self.kind == "image" and row[self.columns[0]] is None:
                raise ValueError("there is none")
            return row
        except (OSError, SyntaxError, ValueError) as error:  # of Pillow
            if self.kind != "image":
                raise
            as_is = require("datasets", "datasets").Image(decode=False)
            column = self.columns[0]
            found = self.table.cast_column(column, as_is)[number][column] or {}
            place = found.get("path") or f"row {number + 1}"
            raise ValueError(
                f"--data: {place} cannot be read as an image: remove or replace it ({error})"
            ) from error

    def _values(self, row: Mapping[str, Any]) -> Tensor:
        if self.kind == "numbers":
            return torch.tensor([float(row[column]) for column in self.columns])
        picture = row[self.columns[0]].convert("L" if self.channels == 1 else "RGB")
        if self.side:
            picture = require("PIL.ImageOps", "datasets").fit(picture, self.size)
        elif picture.size != self.size:
            raise ValueError(
                f"images have sizes {self.size} and {picture.size}: pass --image-size SIDE to "
                "resize and crop them"
            )
        values = torch.from_numpy(np.asarray(picture, np.float32) / np.float32(255))
        return values[None] if self.channels == 1 else values.permute(2, 0, 1)


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
    if len(tables) == 1:  # whatever its name is
        tables = {"train": next(iter(tables.values()))}
    if "train" not in tables or not set(tables) <= set(SPLITS):
        raise ValueError(
            f"{data} has the parts {', '.join(tables)}: name them train, validation and test"
        )
    return tables


def _train_rows(
    tables: Mapping[Split, Any], rows: NDArray[np.int64], settings: RunSettings
) -> tuple[_Rows, tuple[str, ...]]:
    """The samples to train on, and the names of their classes."""
    features = tables["train"].features
    label = settings.label_column or ("labels" if "labels" in features else "label")
    kinds = {name: _kind(one) for name, one in features.items() if name != label}
    by_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in kinds.values()}
    columns = settings.columns or tuple(
        by_kind.get("image", [])[:1] or by_kind.get("text") or by_kind.get("numbers", [])
    )
    among = {kinds.get(name) for name in columns}
    many = among == {"text"} and len(columns) > 2
    if label not in features or len(among) != 1 or None in among or many:
        raise ValueError(
            f"the input and the label must be columns of the data, which are "
            f"{', '.join(features)}: name them with --columns (an image, one or two texts, or "
            "numbers) and --label-column"
        )
    values = [value for table in tables.values() for value in table.unique(label)]
    for real in [one for one in values if isinstance(one, float) and not one.is_integer()]:
        raise ValueError(
            f"the column {label} has {real:g}, but labels must be classes: name another with "
            "--label-column, or put the numbers into classes (there is no regression)"
        )
    for split, table in tables.items() if among == {"numbers"} else ():
        for column in columns:
            finite = np.isfinite(np.array(table[column][:], np.float64))  # NaN where there is none
            for row in np.flatnonzero(~finite):
                raise ValueError(
                    f"the column {column} has no finite number in row {row + 1} of the part "
                    f"{split}: fill it in, leave the row out, or choose other --columns"
                )
    names = getattr(features[label], "names", None)
    known = range(len(names)) if names else sorted(set(tables["train"].unique(label)) - {None})
    numbers = {value: number for number, value in enumerate(known)}
    for split, table in tables.items():
        for value in set(table.unique(label)) - set(numbers):
            raise ValueError(
                f"the column {label} has {value!r} in the part {split}, which is none of the "
                "classes to train on: leave these rows out"
            )
    sizes = settings.image_size, settings.image_channels
    train = _Rows(tables["train"], rows, str(among.pop()), columns, label, numbers, *sizes)
    return train, tuple(map(str, names or known))


def _kind(feature: Any) -> str | None:
    if type(feature).__name__ == "Image":
        return "image"
    dtype = str(getattr(feature, "dtype", ""))
    if "string" in dtype:
        return "text"
    return "numbers" if dtype.startswith(("int", "uint", "float", "double", "bool")) else None


def _tokenizer(settings: RunSettings) -> Any:
    transformers = require("transformers", "transformers", feature="reading texts")
    library, _, model = settings.backbone.partition(":")
    if library != "transformers" and settings.tokenizer is None:
        raise ValueError(
            "texts need a tokenizer: choose a backbone transformers:MODEL, or pass --tokenizer"
        )
    folder = str(Path(model).parent) if model.endswith(".json") else model
    found = transformers.AutoTokenizer.from_pretrained(settings.tokenizer or folder)
    # Without its files, a tokenizer is made of the special tokens alone.
    if len(found) <= len(set(found.all_special_ids)):
        raise ValueError(
            f"{settings.tokenizer or folder} has no tokenizer files: pass --tokenizer, a folder or "
            "the name of a model that has them"
        )
    if found.pad_token is None:  # such as that of GPT-2
        found.pad_token = found.eos_token
    most = [settings.max_length or found.model_max_length]
    if library == "transformers":
        config = transformers.AutoConfig.from_pretrained(model)
        most.append(getattr(config, "max_position_embeddings", most[0]))
        if len(found) > (known := getattr(config, "vocab_size", len(found))):
            raise ValueError(
                f"the tokenizer has {len(found)} tokens, but the backbone only {known}: pass the "
                "--tokenizer that belongs to the backbone"
            )
    found.model_max_length = min(most)
    return found


def _from_function(settings: RunSettings) -> Splits:
    data = settings.data
    given = call_named(data, vars(settings), settings.data_options, "data")
    if isinstance(given, (tuple, list)) and len(given) == len(SPLITS):
        given = dict(zip(SPLITS, given, strict=True))
    if not isinstance(given, Mapping) or not {"train", "test"} <= set(given):
        raise ValueError(
            f"data {data!r} returned a {type(given).__name__}: the function must return the "
            "loaders (train, validation, test), or a dict with these keys"
        )
    given = {("validation" if key == "val" else key): value for key, value in given.items()}
    parts: dict[Split, Any] = {split: given.get(split) for split in SPLITS}
    for split, part in parts.items():
        check_loader(part, split)
        if iter(part) is part:
            raise ValueError(
                f"data {data!r}: {split} can be read only once: return a DataLoader or a list"
            )
    dataset = getattr(parts["train"], "dataset", None)
    names = given.get("class_names") or getattr(dataset, "classes", None)
    if not names:
        labels = (inputs_and_labels(batch, "train")[1] for batch in given["train"])
        names = range(given.get("num_classes") or 1 + max(int(one.max()) for one in labels))
    return Splits(data, tuple(map(str, names)), parts)


def _length(part: Any) -> int:
    try:
        return len(part if isinstance(part, Dataset) else part.dataset)  # type: ignore[arg-type]
    except (AttributeError, TypeError):  # a list of batches, or a data set without a length
        return sum(len(inputs_and_labels(batch, "data")[1]) for batch in part)
