"""Backbones by name for the command line: those of `networks`, or a function of the user's own."""

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

#: The backbones that have a name.
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
    """Make a backbone for some images and attach exits to it.

    Parameters
    ----------
    splits : ImageSplits
        The images; their shape and classes are passed to the backbone's function as
        ``num_classes``, ``in_channels``, ``image_size`` and ``in_features``, as far as it has
        arguments of these names.
    backbone : str
        A name of `NAMES`, or ``package.module:function``; modules of the current folder are found.
    options : mapping
        More arguments of that function.
    exits : tuple of str, optional
        Names of modules; those of `networks.EXITS` when not given.
    head : str
        As in `MultiExitModel.attach`.
    seed : int
        Of all initial weights, drawn without touching torch's own generator.

    Raises
    ------
    ValueError, TypeError
        No such backbone, option, module or head; the message lists what there is.
    """
    make = _function(backbone)
    if exits is None and backbone not in networks.EXITS:
        raise ValueError(
            f"backbone {backbone!r} needs exits: name modules of it, as `exits: [name, ...]` or "
            "--exits name,name"
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
            f"backbone {backbone!r} is none of {', '.join(NAMES)}: {hint}A function of your own is "
            "given as package.module:function"
        )
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # something that the module itself imports
            raise ValueError(
                f"backbone {backbone!r}: there is no module {error.name!r} among the installed "
                "ones or in the current folder"
            ) from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        there = [key for key, one in vars(module).items() if callable(one) and key[0] != "_"]
        raise ValueError(
            f"backbone {backbone!r}: {module_name} has no function {name!r}, but "
            f"{', '.join(there[:8]) or 'none at all'}"
        )
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
                f"{hint}Take it out, or rename it"
            )
    if "image_size" in parameters and height != width:
        raise ValueError(f"{backbone} takes square images, but these are {height} x {width}")
    return {**{key: one for key, one in known.items() if key in parameters}, **options}


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Find modules of the current folder, which an installed command alone does not."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
