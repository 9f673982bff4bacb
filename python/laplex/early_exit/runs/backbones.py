"""Backbones by name for the command line: those of `networks`, or a function of the user."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .. import networks
from ..model import MultiExitModel
from .datasets import ImageSplits

#: The names of the built-in backbones.
NAMES = tuple(networks.EXITS)


def build_model(
    splits: ImageSplits,
    *,
    backbone: str,
    options: Mapping[str, Any],
    exits: tuple[str, ...] | None,
    head: str,
    seed: int,
) -> MultiExitModel:
    """Make a backbone for a data set of images and attach exits to it.

    Parameters
    ----------
    splits : ImageSplits
        The images. Their shape and number of classes are passed to the function of the backbone as
        ``num_classes``, ``in_channels``, ``image_size`` and ``in_features``, if it has arguments of
        these names.
    backbone : str
        A name from `NAMES`, or ``package.module:function``. Modules in the current folder are
        found.
    options : mapping
        More arguments of that function.
    exits : tuple of str, optional
        Names of modules; by default those of `networks.EXITS`.
    head : str
        As in `MultiExitModel.attach`.
    seed : int
        Random seed of all initial weights; torch's global generator is left alone.

    Raises
    ------
    ValueError, TypeError
        If there is no such backbone, option, module or head; the message lists the valid ones.
    """
    make = _function(backbone)
    if exits is None and backbone not in networks.EXITS:
        raise ValueError(
            f"backbone {backbone!r} has no default exits: name some of its modules with `exits: "
            "[name, ...]` in the settings file or --exits name,name"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make(**_arguments(make, backbone, options, splits))
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"backbone {backbone!r} returned a {type(made).__name__}: the function must return "
                "a torch.nn.Module"
            )
        at = networks.EXITS[backbone] if exits is None else exits
        return MultiExitModel.attach(
            made, at, head=head, num_classes=len(splits.class_names), example=splits.example()
        )


def _function(backbone: str) -> Callable[..., Any]:
    if backbone in networks.EXITS:
        found: Callable[..., Any] = getattr(networks, backbone)
        return found
    module_name, colon, name = backbone.partition(":")
    if not colon or not module_name or not name:
        near = difflib.get_close_matches(backbone, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"backbone {backbone!r} is not one of {', '.join(NAMES)}: {hint}To use a function of "
            "your own, pass package.module:function"
        )
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # a package that the module itself imports is missing
            raise ValueError(
                f"backbone {backbone!r}: there is no module {error.name!r}, neither installed nor "
                "in the current folder"
            ) from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        there = [key for key, one in vars(module).items() if callable(one) and key[0] != "_"]
        listed = f"its functions are {', '.join(there[:8])}" if there else "it has no functions"
        raise ValueError(f"backbone {backbone!r}: {module_name} has no function {name!r}; {listed}")
    made: Callable[..., Any] = function
    return made


def _arguments(
    make: Callable[..., Any], backbone: str, options: Mapping[str, Any], splits: ImageSplits
) -> dict[str, Any]:
    channels, height, width = splits.shape
    known = {
        "num_classes": len(splits.class_names),
        "in_channels": channels,
        "image_size": height,
        "in_features": channels * height * width,
    }
    if backbone == "small_vit":
        known["patch"] = max(height // 4, 1)
    try:
        parameters = dict(inspect.signature(make).parameters)
    except ValueError:  # some functions written in C have none
        return dict(options)
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for key in options:
        if key not in parameters and not takes_any:
            near = difflib.get_close_matches(str(key), list(parameters), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"backbone_options has {key!r}, but {backbone} takes {', '.join(parameters)}: "
                f"{hint}Remove or rename it"
            )
    if "image_size" in parameters and height != width:
        raise ValueError(
            f"{backbone} needs square images, but these are {height} x {width}: choose another "
            "backbone"
        )
    return {**{key: one for key, one in known.items() if key in parameters}, **options}


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Make modules in the current folder importable, which an installed command does not do."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
