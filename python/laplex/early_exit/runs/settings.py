"""What a training run of the command line is asked for: documented keys, read from YAML."""

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
    """A training run: data, network, strategy. Each field is a key of the YAML file.

    Those of numbers, texts and names are options of ``laplex exits train`` too.
    """

    data: str = setting(
        "digits",
        value.source,
        "Images: digits, fashion-mnist, or a folder with Fashion-MNIST's four files.",
        metavar="digits|fashion-mnist|DIR",
    )
    images: int | None = setting(
        None,
        value.optional(value.whole(10)),
        "Number of training images to take, validation included.",
        unset="all",
    )
    validation: float = setting(
        0.2, value.fraction, "Fraction of the training images that is kept for fitting thresholds."
    )
    backbone: str = setting(
        "small_resnet",
        value.text,
        "Network: small_mlp, small_msdnet, small_resnet, small_vit, or package.module:function.",
        metavar="NAME",
    )
    backbone_options: dict[str, Any] = setting(
        dict, value.mapping, "Arguments of the backbone's function, such as {width: 8}."
    )
    exits: tuple[str, ...] | None = setting(
        None,
        value.optional(value.names),
        "Modules of the backbone to attach exits at, in depth order.",
        metavar="NAME,NAME",
        unset="the usual ones",
    )
    head: str = setting(
        HEADS.default,
        value.one_of(HEADS),
        "Head of each exit, from an activation to logits.",
        choices=HEADS,
    )
    strategy: str | tuple[dict[str, Any], ...] = setting(
        "mixed",
        value.strategy,
        "What is trained in which order: mixed (the backbone, then all), joint (all), disjoint "
        "(the backbone, then the heads).",
        choices=value.STRATEGIES,
        in_file="Or phases: [{train: backbone, epochs: 5}, {train: all, epochs: 5, learning_rate: "
        "0.001}].",
    )
    epochs: int | None = setting(
        None,
        value.optional(value.whole(1)),
        "Number of epochs of all phases together.",
        unset="10",
        in_file="With phases, each has its own.",
    )
    batch_size: int = setting(64, value.whole(2), "Number of images in a training step.")
    learning_rate: float = setting(
        0.003, value.positive, "Learning rate of AdamW at the start of each phase."
    )
    weight_decay: float = setting(0.01, value.not_negative, "Weight decay of AdamW.")
    scheduler: str = setting(
        "cosine",
        value.one_of(value.SCHEDULERS),
        "Learning rate within a phase: it falls to 0 along a cosine, or stays.",
        choices=value.SCHEDULERS,
    )
    weights: str | tuple[float, ...] = setting(
        "equal",
        value.weights,
        "Weights of the exits' losses: equal, growing linearly, or the ramp of shallow-deep "
        "networks (sdn).",
        choices=value.WEIGHTS,
        in_file="Or a number for each exit.",
    )
    gradient_equilibrium: bool = setting(
        False, value.flag, "Scale gradients so that many exits don't outweigh the last one."
    )
    detach: bool = setting(False, value.flag, "Let the backbone learn from its own output alone.")
    distillation: dict[str, float] | None = setting(
        None,
        value.optional(value.distillation),
        "Let exits learn from the last one too, as {weight: 0.5, temperature: 2} says.",
        unset="no distillation",
    )
    label_smoothing: float = setting(
        0.0,
        value.number("a number from 0 to below 1", lambda one: 0 <= one < 1),
        "Label smoothing of the losses, from 0 to below 1.",
    )
    patience: int | None = setting(
        None,
        value.optional(value.whole(1)),
        "Number of epochs without a lower validation loss of any exit that ends a phase.",
        unset="phases are not ended early",
    )
    precision: str = setting("32-true", value.text, "Precision of Lightning, such as bf16-mixed.")
    accelerator: str = setting(
        "auto", value.text, "Accelerator of Lightning: auto, cpu, gpu, ...; one device of it."
    )
    seed: int = setting(
        0,
        value.whole(0, MAX_SEED),
        "Random seed of initial weights and of the order of images.",
        least=0,
        most=MAX_SEED,
    )

    def differing(self, other: RunSettings) -> list[str]:
        """The keys that `other` has otherwise."""
        return [key for key in KEYS if getattr(self, key) != getattr(other, key)]

    def to_yaml(self) -> str:
        """All keys, each with what it is about; `read_settings` reads it."""
        yaml = _yaml()
        lines = ["# A run of `laplex exits train`."]
        for one in fields(self):
            plain = _as_yaml(getattr(self, one.name))
            text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1e9)
            text = text.removesuffix("...\n").rstrip()  # what follows a scalar
            lines.append(f"\n# {_about(one)}\n{one.name}: {text}")
        return "\n".join(lines) + "\n"


#: The keys, in the order of the file.
KEYS = tuple(one.name for one in fields(RunSettings))
_CHECKS = {one.name: one.metadata["check"] for one in fields(RunSettings)}


def changed(settings: RunSettings, values: Mapping[Any, Any], where: str) -> RunSettings:
    """The settings with other values, checked.

    Parameters
    ----------
    settings : RunSettings
    values : mapping
        Keys to values, as YAML gives them.
    where : str
        Where they come from, with which messages begin.

    Raises
    ------
    ValueError
        A key that there is not, with the nearest one; a value that does not fit its key.
    """
    checked = {}
    for key, given in values.items():
        if key not in _CHECKS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(KEYS)}"
            raise ValueError(f"{where}: there is no key {str(key)!r}: {hint}")
        try:
            checked[key] = _CHECKS[key](given)
        except value.Unfit as error:
            raise ValueError(f"{where}: {key} must be {error}, got {given!r}") from None
    return replace(settings, **checked)


def read_settings(path: Path) -> RunSettings:
    """The settings of a YAML file; keys that it leaves out have their defaults.

    Raises
    ------
    OSError
        It can't be read.
    ValueError
        It is no YAML, or as in `changed`.
    """
    yaml = _yaml()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass a file of settings")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if values is None:  # nothing but comments
        values = {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must hold keys with values, such as `epochs: 10`")
    return changed(RunSettings(), values, str(path))


def _about(key: Field[Any]) -> str:
    """What a key is about, in one line."""
    known = key.metadata
    words = ", ".join(known["choices"])
    null = f"null: {known['unset']}." if known["unset"] else ""
    parts = (known["about"], words and f"One of {words}.", known["in_file"], null)
    return " ".join(part for part in parts if part)


def _as_yaml(given: Any) -> Any:
    return [_as_yaml(one) for one in given] if isinstance(given, tuple) else given


def _yaml() -> Any:
    return require("yaml", extra="exits", feature="laplex exits")
