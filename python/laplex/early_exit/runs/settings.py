"""The settings of a training run of the command line: documented keys, read from YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from laplex._support.optional import require
from laplex._support.options import setting

from ..heads import HEADS
from . import setting_values as value

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class RunSettings:
    """The settings of a training run. Each field is a key of the YAML file.

    Fields that hold a number, a text or names are also options of ``laplex exits train``.
    """

    data: str = setting(
        "digits",
        value.source,
        "Images to train on: digits, fashion-mnist, or a folder with the four files of "
        "Fashion-MNIST.",
        metavar="digits|fashion-mnist|DIR",
    )
    images: int | None = setting(
        None,
        value.optional(value.whole(10)),
        "Number of training images to use, validation images included.",
        unset="all",
    )
    validation: float = setting(
        0.2,
        value.fraction,
        "Fraction of the training images that is set apart for validation and for fitting "
        "thresholds.",
    )
    backbone: str = setting(
        "small_resnet",
        value.text,
        "Backbone of the network: small_mlp, small_msdnet, small_resnet, small_vit, or a function "
        "of your own as package.module:function.",
        metavar="NAME",
    )
    backbone_options: dict[str, Any] = setting(
        dict,
        value.mapping,
        "More arguments for the function that makes the backbone, such as {width: 8}.",
    )
    exits: tuple[str, ...] | None = setting(
        None,
        value.optional(value.names),
        "Names of the modules of the backbone to attach exits to, in depth order.",
        metavar="NAME,NAME",
        unset="the default exits of the backbone",
    )
    head: str = setting(
        HEADS.default,
        value.one_of(HEADS),
        "Kind of head that maps the activation at each exit to logits.",
        choices=HEADS,
    )
    strategy: str | tuple[dict[str, Any], ...] = setting(
        "mixed",
        value.strategy,
        "Training strategy: mixed (train the backbone, then everything), joint (train everything "
        "at once) or disjoint (train the backbone, then the heads).",
        choices=value.STRATEGIES,
        in_file="Alternatively, a list of phases: [{train: backbone, epochs: 5}, {train: all, "
        "epochs: 5, learning_rate: 0.001}].",
    )
    epochs: int | None = setting(
        None,
        value.optional(value.whole(1)),
        "Total number of training epochs of all phases.",
        unset="10",
        in_file="If strategy is a list of phases, each phase has its own number.",
    )
    batch_size: int = setting(64, value.whole(2), "Number of images in a training batch.")
    learning_rate: float = setting(
        0.003, value.positive, "Learning rate of AdamW at the start of each phase."
    )
    weight_decay: float = setting(0.01, value.not_negative, "Weight decay of AdamW.")
    scheduler: str = setting(
        "cosine",
        value.one_of(value.SCHEDULERS),
        "Learning rate schedule within a phase: decrease to 0 along a cosine, or keep it constant "
        "(none).",
        choices=value.SCHEDULERS,
    )
    weights: str | tuple[float, ...] = setting(
        "equal",
        value.weights,
        "Weights of the losses of the exits: equal, increasing linearly with depth (linear), or "
        "the ramp of shallow-deep networks (sdn).",
        choices=value.WEIGHTS,
        in_file="Alternatively, a list with one number for each exit.",
    )
    gradient_equilibrium: bool = setting(
        False,
        value.flag,
        "Scale gradients in the backbone so that many exits do not outweigh the last one.",
    )
    detach: bool = setting(
        False, value.flag, "Train the backbone from its own output only, not from the other exits."
    )
    distillation: dict[str, float] | None = setting(
        None,
        value.optional(value.distillation),
        "Train the exits from the probabilities of the last exit, too, with settings such as "
        "{weight: 0.5, temperature: 2}.",
        unset="no distillation",
    )
    label_smoothing: float = setting(
        0.0,
        value.number("a number from 0 to below 1", lambda one: 0 <= one < 1),
        "Amount of label smoothing in the losses, at least 0 and below 1.",
    )
    patience: int | None = setting(
        None,
        value.optional(value.whole(1)),
        "Early stopping: end a phase after this number of epochs in which the validation loss of "
        "no exit improved.",
        unset="no early stopping",
    )
    precision: str = setting(
        "32-true", value.text, "Numerical precision for Lightning, such as bf16-mixed."
    )
    accelerator: str = setting(
        "auto",
        value.text,
        "Accelerator for Lightning, such as auto, cpu or gpu. The run uses one device.",
    )
    seed: int = setting(
        0,
        value.whole(0, MAX_SEED),
        "Random seed of the initial weights and of the order of the images.",
        least=0,
        most=MAX_SEED,
    )

    def differing(self, other: RunSettings) -> list[str]:
        """The keys whose values differ in `other`."""
        return [key for key in KEYS if getattr(self, key) != getattr(other, key)]

    def to_yaml(self) -> str:
        """Format all keys as YAML, with a comment about each; `read_settings` reads the result."""
        yaml = _yaml()
        lines = ["# Settings of a run of `laplex exits train`."]
        for one in fields(self):
            plain = _as_yaml(getattr(self, one.name))
            text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1e9)
            text = text.removesuffix("...\n").rstrip()  # the end mark after a scalar
            lines.append(f"\n# {_about(one)}\n{one.name}: {text}")
        return "\n".join(lines) + "\n"


#: The keys, in the order of the file.
KEYS = tuple(one.name for one in fields(RunSettings))
_CHECKS = {one.name: one.metadata["check"] for one in fields(RunSettings)}


def changed(settings: RunSettings, values: Mapping[Any, Any], where: str) -> RunSettings:
    """Replace some values of the settings, after checking them.

    Parameters
    ----------
    settings : RunSettings
    values : mapping
        Values by key, as read from YAML.
    where : str
        The source of the values, with which messages begin.

    Raises
    ------
    ValueError
        If a key does not exist (the message suggests the nearest one), or a value is invalid.
    """
    checked = {}
    for key, given in values.items():
        if key not in _CHECKS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
            raise ValueError(f"{where}: there is no key {str(key)!r}: {hint}")
        try:
            checked[key] = _CHECKS[key](given)
        except value.Unfit as error:
            raise ValueError(f"{where}: {key} must be {error}, got {given!r}") from None
    return replace(settings, **checked)


def read_settings(path: Path) -> RunSettings:
    """Read settings from a YAML file; missing keys get their defaults.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not valid YAML, or as in `changed`.
    """
    yaml = _yaml()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass a settings file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: pass an existing settings file")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if values is None:  # nothing but comments
        values = {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must hold keys with values, such as `epochs: 10`")
    return changed(RunSettings(), values, str(path))


def _about(key: Field[Any]) -> str:
    """The comment about a key, in one line."""
    known = key.metadata
    words = ", ".join(known["choices"])
    null = f"null: {known['unset']}." if known["unset"] else ""
    parts = (known["about"], words and f"One of {words}.", known["in_file"], null)
    return " ".join(part for part in parts if part)


def _as_yaml(given: Any) -> Any:
    return [_as_yaml(one) for one in given] if isinstance(given, tuple) else given


def _yaml() -> Any:
    return require("yaml", extra="exits", feature="laplex exits")
