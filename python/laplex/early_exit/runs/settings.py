"""The settings of a training run of the command line, and the state of its folder, without torch.

A key has the type, the bounds and the help of its field. The YAML file and the options of ``laplex
exits train`` follow from the fields. What only the training knows, such as whether a learning rate
of 0 makes sense, `train` checks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from laplex._support.options import setting
from laplex._support.settings_files import read_yaml

from ..heads import HEADS
from .sources import located, located_backbone

MAX_SEED = 2**31 - 1
CONFIG, WEIGHTS = "config.yaml", "weights.pt"


def _grey_or_colour(channels: int) -> int:
    if channels == 2:
        raise ValueError("image_channels must be 1 (grey) or 3 (colour), got 2")
    return channels


@dataclass(frozen=True)
class RunSettings:
    """The settings of a training run. Each field is a key of the YAML file.

    Fields that hold a number, a text or names are also options of ``laplex exits train``. A setting
    whose name is an argument of `train` is passed on to it.
    """

    data: str = setting(
        "digits",
        "Data to train on: digits, fashion-mnist, a folder with the files of Fashion-MNIST, a "
        "folder of images with a folder for each class (perhaps in train, val and test), another "
        "folder or file that datasets reads (metadata.csv, parquet, csv, jsonl, save_to_disk), or "
        "a function of your own that returns loaders, as package.module:function.",
        located,
        metavar="NAME|PATH|MODULE:FUNCTION",
    )
    data_options: dict[str, Any] = setting(
        dict, "More arguments for the function that returns loaders, such as {folder: /data}."
    )
    images: int | None = setting(
        None, "Number of training samples to use, with those set apart.", least=10, unset="all"
    )
    validation: float = setting(
        0.2,
        "Fraction of the training samples that is set apart for validation and for fitting "
        "thresholds, and again for testing, where the data do not have these parts.",
        least=0,
        most=1,
    )
    columns: tuple[str, ...] | None = setting(
        None,
        "Names of the columns of a table that are the input.",
        metavar="NAME,NAME",
        unset="the column of images, else the one or two of texts, else all of numbers",
    )
    label_column: str | None = setting(
        None, "Name of the column of labels of a table.", unset="label or labels"
    )
    image_size: int | None = setting(
        None,
        "Side in pixels of the square that images are resized and cropped to.",
        least=1,
        unset="images keep their size, which must be the same for all",
    )
    image_channels: int | None = setting(
        None,
        "Number of channels that images are converted to, 1 (grey) or 3 (colour).",
        _grey_or_colour,
        least=1,
        most=3,
        unset="as in the first image",
    )
    tokenizer: str | None = setting(
        None,
        "Folder or name of the tokenizer for texts.",
        located,
        unset="that of the backbone transformers:MODEL",
    )
    max_length: int | None = setting(
        None,
        "Number of tokens that texts are cut to.",
        least=1,
        unset="what the tokenizer and the backbone allow",
    )
    workers: int = setting(
        0, "Number of processes that load data; with 0, the training itself does.", least=0
    )
    backbone: str = setting(
        "small_resnet",
        "Backbone of the network: small_mlp, small_msdnet, small_resnet, small_vit; timm:NAME or "
        "torchvision:NAME, with random weights unless backbone_options has pretrained: true; "
        "transformers:MODEL, with the weights of that folder or model, or random ones for a "
        "config.json; or a function of your own as package.module:function.",
        located_backbone,
        metavar="NAME",
    )
    backbone_options: dict[str, Any] = setting(
        dict, "More arguments for what makes the backbone: {width: 8}, {pretrained: true}."
    )
    exits: tuple[str, ...] | None = setting(
        None,
        "Names of the modules of the backbone to attach exits to, in depth order; --list-exits "
        "prints those that can carry one.",
        metavar="NAME,NAME",
        unset="up to three blocks, evenly spaced",
    )
    head: str = setting(
        HEADS.default,
        "Kind of head that maps the activation at each exit to logits.",
        choices=HEADS,
    )
    strategy: str | tuple[dict[str, Any], ...] = setting(
        "mixed",
        "Training strategy: mixed (train the backbone, then everything), joint (train everything "
        "at once) or disjoint (train the backbone, then the heads).",
        choices=("mixed", "joint", "disjoint"),
        keys=("train", "epochs", "learning_rate"),
        in_file="Alternatively, a list of phases: [{train: backbone, epochs: 5}, {train: all, "
        "epochs: 5, learning_rate: 0.001}].",
    )
    epochs: int | None = setting(
        None,
        "Total number of training epochs of all phases, of which mixed and disjoint have two.",
        least=1,
        unset="10",
        in_file="If strategy is a list of phases, each phase has its own number.",
    )
    batch_size: int = setting(64, "Number of samples in a batch.", least=2)
    learning_rate: float = setting(
        0.003, "Learning rate of AdamW at the start of each phase.", least=0
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", least=0)
    scheduler: str = setting(
        "cosine",
        "Learning rate schedule within a phase: decrease to 0 along a cosine, or keep it constant "
        "(none).",
        choices=("cosine", "none"),
    )
    weights: str | tuple[float, ...] = setting(
        "equal",
        "Weights of the losses of the exits: equal, increasing linearly with depth (linear), or "
        "the ramp of shallow-deep networks (sdn).",
        choices=("equal", "linear", "sdn"),
        least=0,
        in_file="Alternatively, a list with one number for each exit.",
    )
    gradient_equilibrium: bool = setting(
        False, "Scale gradients in the backbone so that many exits do not outweigh the last one."
    )
    detach: bool = setting(
        False, "Train the backbone from its own output only, not from the other exits."
    )
    distillation: dict[str, float] | None = setting(
        None,
        "Train the exits from the probabilities of the last exit, too, with settings such as "
        "{weight: 0.5, temperature: 2}.",
        keys=("weight", "temperature"),
        least=0,
        unset="no distillation",
    )
    label_smoothing: float = setting(
        0.0, "Amount of label smoothing in the losses, at least 0 and below 1.", least=0, most=1
    )
    patience: int | None = setting(
        None,
        "Early stopping: end a phase after this number of epochs in which the validation loss of "
        "no exit improved.",
        least=1,
        unset="no early stopping",
    )
    precision: str = setting("32-true", "Numerical precision for Lightning, such as bf16-mixed.")
    accelerator: str = setting(
        "auto", "Accelerator for Lightning, such as auto, cpu or gpu. The run uses one device."
    )
    seed: int = setting(
        0,
        "Random seed of the initial weights and of the order of the samples.",
        least=0,
        most=MAX_SEED,
    )


#: The keys, in the order of the file.
KEYS = tuple(one.name for one in fields(RunSettings))


def read_settings(path: Path) -> RunSettings:
    """Read settings from a YAML file; missing keys get their defaults."""
    return read_yaml(path, RunSettings())


def check_finished(*folders: Path) -> None:
    """Raise a ValueError if a folder is given twice, or does not hold a finished run."""
    for folder in folders:
        if not (folder / CONFIG).is_file():
            there = "does not hold a run" if folder.is_dir() else "is not a folder"
            raise ValueError(f"{folder} {there}: pass one that `laplex exits train --out` wrote")
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"the run in {folder} is not finished: continue it with `laplex exits train --out "
                f"{folder} --resume`"
            )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"a run is named twice: {', '.join(map(str, folders))}: name each once")
