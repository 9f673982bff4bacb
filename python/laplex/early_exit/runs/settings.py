"""What a training run of the command line is asked for: documented keys, read from YAML."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from laplex._support.optional import require

from . import setting_values as value

MAX_SEED = 2**31 - 1


def _key(check: Callable[[Any], Any], about: str) -> dict[str, Any]:
    return {"check": check, "about": about}


@dataclass(frozen=True)
class RunSettings:
    """A training run: data, network, strategy. Each field is a key of the YAML file."""

    data: str = field(
        default="digits",
        metadata=_key(
            value.source, "digits, fashion-mnist, or a folder with Fashion-MNIST's four files"
        ),
    )
    images: int | None = field(
        default=None,
        metadata=_key(
            value.optional(value.whole(10)),
            "training images to take, validation included; null: all",
        ),
    )
    validation: float = field(
        default=0.2,
        metadata=_key(value.fraction, "part of the training images kept for fitting thresholds"),
    )
    backbone: str = field(
        default="small_resnet",
        metadata=_key(
            value.text,
            "small_mlp, small_msdnet, small_resnet, small_vit, or package.module:function",
        ),
    )
    backbone_options: dict[str, Any] = field(
        default_factory=dict,
        metadata=_key(value.mapping, "arguments of the backbone's function, such as {width: 8}"),
    )
    exits: tuple[str, ...] | None = field(
        default=None,
        metadata=_key(
            value.optional(value.names),
            "modules to attach exits at, in depth order; null: the usual ones",
        ),
    )
    head: str = field(
        default="pooled",
        metadata=_key(
            value.one_of("pooled", "linear", "mlp", "conv", "token", "laplex"),
            "of each exit: pooled, linear, mlp, conv, token or laplex",
        ),
    )
    strategy: str | tuple[dict[str, Any], ...] = field(
        default="mixed",
        metadata=_key(
            value.strategy,
            "mixed (backbone, then all), joint (all), disjoint (backbone, then heads), or "
            "phases: [{train: backbone, epochs: 5}, {train: all, epochs: 5, learning_rate: 0.001}]",
        ),
    )
    epochs: int | None = field(
        default=None,
        metadata=_key(
            value.optional(value.whole(1)),
            "of all phases together, for a strategy by name; null: 10",
        ),
    )
    batch_size: int = field(default=64, metadata=_key(value.whole(2), "images in a step"))
    learning_rate: float = field(
        default=0.003, metadata=_key(value.positive, "of AdamW, at the start of each phase")
    )
    weight_decay: float = field(default=0.01, metadata=_key(value.not_negative, "of AdamW"))
    scheduler: str = field(
        default="cosine",
        metadata=_key(
            value.one_of("cosine", "none"),
            "cosine: the learning rate falls to 0 in each phase; or none",
        ),
    )
    weights: str | tuple[float, ...] = field(
        default="equal",
        metadata=_key(
            value.weights,
            "of the exits' losses: equal, linear, sdn (a ramp), or a number for each exit",
        ),
    )
    gradient_equilibrium: bool = field(
        default=False,
        metadata=_key(value.flag, "scale gradients so that many exits don't outweigh the last one"),
    )
    detach: bool = field(
        default=False, metadata=_key(value.flag, "the backbone learns from its own output alone")
    )
    distillation: dict[str, float] | None = field(
        default=None,
        metadata=_key(
            value.optional(value.distillation),
            "null, or {weight: 0.5, temperature: 2}: exits learn from the last one too",
        ),
    )
    label_smoothing: float = field(
        default=0.0,
        metadata=_key(
            value.number("a number from 0 to below 1", lambda one: 0 <= one < 1),
            "of the losses, 0 for none",
        ),
    )
    patience: int | None = field(
        default=None,
        metadata=_key(
            value.optional(value.whole(1)),
            "end a phase when no exit's validation loss has fallen for so many epochs; null: never",
        ),
    )
    precision: str = field(
        default="32-true", metadata=_key(value.text, "Lightning's, such as bf16-mixed")
    )
    accelerator: str = field(
        default="auto", metadata=_key(value.text, "Lightning's: auto, cpu, gpu, ...; one device")
    )
    seed: int = field(
        default=0,
        metadata=_key(value.whole(0, MAX_SEED), "of initial weights and of the order of images"),
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
            lines.append(f"\n# {one.metadata['about']}\n{one.name}: {text}")
        return "\n".join(lines) + "\n"


#: The keys, in the order of the file.
KEYS = tuple(one.name for one in fields(RunSettings))
#: What each key is about, one line.
ABOUT: dict[str, str] = {one.name: one.metadata["about"] for one in fields(RunSettings)}
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


def _as_yaml(given: Any) -> Any:
    return [_as_yaml(one) for one in given] if isinstance(given, tuple) else given


def _yaml() -> Any:
    return require("yaml", extra="exits", feature="laplex exits")
