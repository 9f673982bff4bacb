"""Networks of timm, torchvision and transformers by name."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from torch import nn

from .._support.optional import require
from .origins import with_origin

__all__ = ["library_network"]

LIBRARIES = ("timm", "torchvision", "transformers")


class _Sizes(NamedTuple):
    classes: int
    channels: int | None
    image: int


def library_network(
    name: str,
    num_classes: int,
    *,
    in_channels: int | None = 3,
    image_size: int = 224,
    pretrained: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Make a classifier of another library.

    Parameters
    ----------
    name : str
        ``"timm:NAME"``, ``"torchvision:NAME"``, or ``"transformers:MODEL"`` with a folder, the name
        of a model on the Hugging Face hub, or the path of a ``config.json``.
    num_classes : int
        Number of classes. Where the weights are those of another number, the last layer is new.
    in_channels : int or None
        Number of channels of the images; None for a network of texts, from transformers.
    image_size : int
        Side of the images, in pixels, for networks of timm that depend on it.
    pretrained : bool, optional
        Whether to load pretrained weights, which may be downloaded. By default, those of
        transformers are loaded unless there is only a ``config.json``; timm and torchvision draw
        random ones from torch's global generator.
    **options
        More arguments of ``timm.create_model`` or ``torchvision.models.get_model``, or fields of
        the configuration of transformers.

    Returns
    -------
    Module

    Raises
    ------
    ImportError
        If the library is not installed.
    ValueError
        If there is no such network, or it does not take these images.
    """
    library, _, rest = name.partition(":")
    make = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}.get(library)
    if make is None:
        raise ValueError(f"name must begin with one of {', '.join(LIBRARIES)} and :, got {name!r}")
    if pretrained is None:
        pretrained = library == "transformers" and not rest.endswith(".json")
    sizes = _Sizes(num_classes, in_channels, image_size)
    made: nn.Module = make(rest, sizes, {**options, "pretrained": pretrained})
    return with_origin(made, name, {"num_classes": num_classes})


def _timm(name: str, sizes: _Sizes, options: dict[str, Any]) -> Any:
    timm = require("timm", "timm")
    _check_known(name, timm.list_models() if ":" not in name else [name], "timm")
    given = {"num_classes": sizes.classes, "in_chans": sizes.channels}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        given["img_size"] = sizes.image
    return timm.create_model(name, **{**given, **options})


def _torchvision(name: str, sizes: _Sizes, options: dict[str, Any]) -> Any:
    models = require("torchvision", "torchvision").models
    _check_known(name, models.list_models(module=models), "torchvision")
    if sizes.channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, got {sizes.channels}: convert the "
            "images (--image-channels 3)"
        )
    pretrained = options.pop("pretrained")
    made = models.get_model(name, num_classes=sizes.classes, **options)
    if pretrained:
        found = models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True)
        shapes = {key: value.shape for key, value in made.state_dict().items()}
        fitting = {key: one for key, one in found.items() if shapes.get(key) == one.shape}
        made.load_state_dict(fitting, strict=False)  # all but the classifier
    return made


def _transformers(name: str, sizes: _Sizes, options: dict[str, Any]) -> Any:
    library = require("transformers", "transformers")
    pretrained = options.pop("pretrained")
    options = {"num_labels": sizes.classes, **options}
    config = library.AutoConfig.from_pretrained(name, **options)
    if sizes.channels is not None:
        kind = library.AutoModelForImageClassification
    else:
        kind = library.AutoModelForSequenceClassification
        if config.pad_token_id is None:  # such as that of GPT-2
            config.pad_token_id = config.eos_token_id
    if pretrained:
        return kind.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    return kind.from_config(config)


def _check_known(name: str, names: list[str], library: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"{library} has no {name!r}: {hint}`list_models()` of {library} lists its names"
        )
