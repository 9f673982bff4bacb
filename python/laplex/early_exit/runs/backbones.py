"""Backbones by name for the command line, with exits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import networks
from ..library_networks import library_network
from ..model import MultiExitModel
from ..places import default_exits
from .datasets import Splits
from .settings import RunSettings
from .sources import LIBRARIES, arguments, call_named, did_you_mean, is_function

NAMES = tuple(networks.__all__)


def build_model(
    splits: Splits, settings: RunSettings, *, pretrained: bool = True
) -> MultiExitModel:
    """Make the backbone of the settings for data, and attach exits to it."""
    with torch.random.fork_rng(devices=[]):  # leaves torch's own generator alone
        torch.manual_seed(settings.seed)
        made = make_backbone(splits, settings, pretrained)
        x, name = splits.example(), settings.backbone
        at = settings.exits or networks.EXITS.get(name) or default_exits(made, x)
        classes = len(splits.class_names)
        return MultiExitModel.attach(made, at, head=settings.head, num_classes=classes, example=x)


def make_backbone(splits: Splits, settings: RunSettings, pretrained: bool = True) -> nn.Module:
    """Make a backbone without exits, and without pretrained weights where others will be loaded.

    A function gets ``num_classes``, ``in_channels``, ``image_size`` and ``in_features``, if it has
    arguments of these names.
    """
    x, backbone, options = splits.example(), settings.backbone, settings.backbone_options
    known: dict[str, Any] = {"num_classes": len(splits.class_names)}
    if isinstance(x, Tensor):
        known |= {"in_channels": x.shape[1], "image_size": x.shape[-1], "in_features": x[0].numel()}
    if backbone.partition(":")[0] in LIBRARIES:
        sizes = {"in_channels": known.get("in_channels"), "image_size": known.get("image_size", 0)}
        options = options if pretrained else {**options, "pretrained": False}
        made = library_network(backbone, known["num_classes"], **{**sizes, **options})
    elif is_function(backbone):
        made = call_named(backbone, known, options, "backbone")
    elif backbone not in NAMES:
        raise ValueError(
            f"backbone {backbone!r} is not one of {', '.join(NAMES)}: "
            f"{did_you_mean(backbone, NAMES)}Other networks are timm:NAME, torchvision:NAME, "
            "transformers:MODEL and functions of your own, package.module:function"
        )
    else:
        if backbone == "small_vit":
            if x.shape[-2] != x.shape[-1]:
                raise ValueError("small_vit needs square images: pass --image-size")
            known["patch"] = max(x.shape[-1] // 4, 1)
        function = getattr(networks, backbone)
        made = function(**arguments(function, known, options, "backbone"))
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"backbone {backbone!r} returned a {type(made).__name__}: the function must return "
            "a torch.nn.Module"
        )
    return made
