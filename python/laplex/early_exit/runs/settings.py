"""The settings of a training run of the command line, and the state of its folder, without torch.

A key has the type, the bounds and the help of its field. The YAML file and the options of ``laplex
exits train`` follow from the fields. What only the training knows, such as whether a learning rate
of 0 makes sense, `train` checks.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from laplex._support.optional import require
from laplex._support.options import setting

from ..heads import HEADS
from .sources import located, located_backbone

MAX_SEED = 2**31 - 1
CONFIG, HISTORY, WEIGHTS, CHECKPOINTS = "config.yaml", "history.json", "weights.pt", "checkpoints"


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
        "Total number of training epochs of all phases.",
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

    def differing(self, other: RunSettings) -> list[str]:
        """The keys whose values differ in `other`."""
        return [key for key in KEYS if getattr(self, key) != getattr(other, key)]

    def to_yaml(self) -> str:
        """Format all keys as YAML, with a comment about each; `read_settings` reads the result."""
        lines = ["# Settings of a run of `laplex exits train`."]
        for key, one in _FIELDS.items():
            value, known = getattr(self, key), one.metadata
            value = list(value) if isinstance(value, tuple) else value
            text = _yaml().safe_dump(value, default_flow_style=True, sort_keys=False, width=1e9)
            text = text.removesuffix("...\n").rstrip()  # the end mark after a scalar
            words = f"One of {', '.join(known['choices'])}." if known["choices"] else ""
            null = f"null: {known['unset']}." if known["unset"] else ""
            about = " ".join(filter(None, (known["about"], words, known["in_file"], null)))
            lines.append(f"\n# {about}\n{key}: {text}")
        return "\n".join(lines) + "\n"


_FIELDS: dict[str, Field[Any]] = {one.name: one for one in fields(RunSettings)}
_TYPES = get_type_hints(RunSettings)
#: The keys, in the order of the file.
KEYS = tuple(_FIELDS)


def changed(settings: RunSettings, values: Mapping[Any, Any], where: str) -> RunSettings:
    """Replace some values of the settings, as read from YAML, after checking them.

    Raises
    ------
    ValueError
        If a key does not exist (the message suggests the nearest one), or a value is invalid. The
        message begins with `where`.
    """
    checked = {}
    for key, given in values.items():
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
            raise ValueError(f"{where}: there is no key {str(key)!r}: {hint}")
        known = _FIELDS[key].metadata
        try:
            value = _converted(_TYPES[key], given, known)
        except (TypeError, ValueError):
            fits = _described(_TYPES[key], known)
            raise ValueError(f"{where}: {key} must be {fits}, got {given!r}") from None
        checked[key] = known["check"](value) if known["check"] and value is not None else value
    return replace(settings, **checked)


def read_settings(path: Path) -> RunSettings:
    """Read settings from a YAML file; missing keys get their defaults.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read or is not valid YAML, or as in `changed`.
    """
    if not path.is_file():
        there = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise FileNotFoundError(f"{there}: pass an existing settings file")
    try:
        values = _yaml().safe_load(path.read_text("utf-8"))
    except (_yaml().YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping | None):
        raise ValueError(f"{path} must hold keys with values, such as `epochs: 10`")
    return changed(RunSettings(), values or {}, str(path))  # nothing but comments is None


def check_finished(folder: Path) -> None:
    """Raise a ValueError if a folder does not hold a run, or one that is not finished."""
    if not (folder / CONFIG).is_file():
        there = "does not hold a run" if folder.is_dir() else "is not a folder"
        raise ValueError(f"{folder} {there}: pass one that `laplex exits train --out` wrote")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"the run in {folder} is not finished: continue it with `laplex exits train --out "
            f"{folder} --resume`"
        )


def _converted(kind: Any, value: Any, known: Mapping[str, Any]) -> Any:
    """A value from YAML in the type of its field; TypeError or ValueError if it does not fit."""
    kinds, origin = get_args(kind), get_origin(kind)
    if kind is Any or (value is None and NoneType in kinds):
        return value
    if origin is UnionType:
        plain = str in kinds and isinstance(value, str)
        kind = str if plain else next(one for one in reversed(kinds) if one is not NoneType)
        return _converted(kind, value, known)
    if origin is dict:
        if not isinstance(value, Mapping) or not set(value) <= set(known.get("keys", value)):
            raise TypeError
        return {_converted(str, k, {}): _converted(kinds[1], v, known) for k, v in value.items()}
    if origin is tuple:
        listed = value.split(",") if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not listed:
            raise TypeError
        if kinds[0] is str:  # modules of a Sequential have names such as 0, which YAML reads as int
            listed = [str(one).strip() for one in listed]
        return tuple(_converted(kinds[0], one, {**known, "choices": ()}) for one in listed)
    if isinstance(value, bool) != (kind is bool):
        raise TypeError
    if kind is float:  # YAML 1.1 reads 1e-3 as a text, because it has no decimal point
        value = float(value)
    if not isinstance(value, kind) or value == "":
        raise TypeError
    if (words := tuple(known.get("choices", ()))) and value not in words:
        raise ValueError
    least, most = known.get("min"), known.get("max")
    if kind in (int, float) and not (
        (-1e300 if least is None else least) <= value <= (1e300 if most is None else most)
    ):
        raise ValueError  # NaN and infinities are not between bounds, either
    return value


def _described(kind: Any, known: Mapping[str, Any]) -> str:
    """What fits a key, for messages."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    names |= {tuple: "a list", dict: "a mapping"}
    if known["choices"]:
        names[str] = f"one of {', '.join(known['choices'])}"
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    text = " or ".join(names[get_origin(one) or one] for one in kinds if one is not NoneType)
    if known.get("keys"):
        text += f" with the keys {', '.join(known['keys'])}"
    if known["max"] is not None:
        return f"{text} from {known['min']} to {known['max']}"
    return text if known["min"] is None else f"{text} of at least {known['min']}"


def _yaml() -> Any:
    return require("yaml", extra="exits", feature="laplex exits")
