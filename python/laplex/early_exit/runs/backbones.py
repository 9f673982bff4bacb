"""Backbones by name for the command line, and the modules of a backbone that can carry exits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from laplex._support.optional import require

from .. import networks
from ..activations import batch_of, main_tensor
from ..model import MultiExitModel, evaluating
from .datasets import Splits
from .settings import RunSettings
from .sources import LIBRARIES, call, call_named, did_you_mean, is_function

NAMES = tuple(networks.__all__)
#: The number of exits of a backbone for which none are named, without that of its output.
_EXITS = 3


def build_model(
    splits: Splits, settings: RunSettings, *, pretrained: bool = True
) -> MultiExitModel:
    """Make the backbone of the settings for data, and attach exits to it.

    All initial weights are drawn from the seed; torch's global generator is left alone. Without
    `pretrained`, pretrained weights are left out, because others will be loaded.

    Raises
    ------
    ValueError, TypeError
        If there is no such backbone, option, module or head; the message lists the valid ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        made = make_backbone(splits, settings, pretrained)
        x, name = splits.example(), settings.backbone
        at = settings.exits or networks.EXITS.get(name) or default_exits(made, x, name)
        classes = len(splits.class_names)
        return MultiExitModel.attach(made, at, head=settings.head, num_classes=classes, example=x)


def make_backbone(splits: Splits, settings: RunSettings, pretrained: bool = True) -> nn.Module:
    """Make a backbone without exits; see `build_model`.

    A function gets ``num_classes``, ``in_channels``, ``image_size`` and ``in_features``, if it has
    arguments of these names.
    """
    x, backbone, options = splits.example(), settings.backbone, settings.backbone_options
    known: dict[str, Any] = {"num_classes": len(splits.class_names)}
    if isinstance(x, Tensor):
        known |= {"in_channels": x.shape[1], "image_size": x.shape[-1], "in_features": x[0].numel()}
    library, _, name = backbone.partition(":")
    if library in LIBRARIES:
        with_weights = library == "transformers" and not name.endswith(".json")
        with_weights = bool(options.get("pretrained", with_weights)) and pretrained
        make = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[library]
        made = make(name, known, {**options, "pretrained": with_weights})
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
        made = call(getattr(networks, backbone), known, options, "backbone")
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"backbone {backbone!r} returned a {type(made).__name__}: the function must return "
            "a torch.nn.Module"
        )
    return made


def _timm(name: str, known: Mapping[str, Any], options: dict[str, Any]) -> Any:
    timm = require("timm", "timm")
    _check_known(name, timm.list_models() if ":" not in name else [name], "timm")
    sizes = {"num_classes": known["num_classes"], "in_chans": known.get("in_channels", 3)}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        sizes["img_size"] = known["image_size"]
    return timm.create_model(name, **{**sizes, **options})


def _torchvision(name: str, known: Mapping[str, Any], options: dict[str, Any]) -> Any:
    models = require("torchvision", "torchvision").models
    _check_known(name, models.list_models(module=models), "torchvision")
    if known.get("in_channels", 3) != 3:
        raise ValueError(
            f"backbone torchvision:{name} takes images of 3 channels, but these have "
            f"{known['in_channels']}: pass --image-channels 3"
        )
    pretrained = options.pop("pretrained")
    made = models.get_model(name, num_classes=known["num_classes"], **options)
    if pretrained:
        found = models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True)
        sizes = {key: value.shape for key, value in made.state_dict().items()}
        fitting = {key: one for key, one in found.items() if sizes.get(key) == one.shape}
        made.load_state_dict(fitting, strict=False)  # all but the classifier
    return made


def _transformers(name: str, known: Mapping[str, Any], options: dict[str, Any]) -> Any:
    library = require("transformers", "transformers")
    pretrained = options.pop("pretrained")
    options = {"num_labels": known["num_classes"], **options}
    config = library.AutoConfig.from_pretrained(name, **options)
    if "in_channels" in known:  # images
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
        raise ValueError(
            f"backbone: {library} has no {name!r}: {did_you_mean(name, names)}`list_models()` of "
            f"{library} lists its names"
        )


# --- exits ----------------------------------------------------------------------------------------


def default_exits(backbone: nn.Module, x: Any, name: str) -> tuple[str, ...]:
    """Up to three blocks of a backbone, evenly spaced in depth, to attach exits to.

    Blocks are the modules of one class that a list, a sequence or the network itself consists of.

    Raises
    ------
    ValueError
        If there are no such blocks; the message lists modules that can carry an exit.
    """
    can = exit_places(backbone, x)
    blocks = [one for one in _blocks(backbone) if one in can]
    count = min(_EXITS, len(blocks) - 1)  # after the last block, there is only the output
    if count < 1:
        raise ValueError(
            f"backbone {name!r} has no default exits: name some of its modules with `exits: "
            f"[name, ...]` in the settings file or --exits name,name, such as "
            f"{', '.join(list(can)[:8]) or 'one that runs once and returns a Tensor'}"
        )
    return tuple(blocks[len(blocks) * (k + 1) // (count + 1) - 1] for k in range(count))


def exit_places(backbone: nn.Module, x: Any) -> dict[str, list[int]]:
    """The modules that give a Tensor of the samples of a batch, in the order in which they run.

    Returns
    -------
    dict of str to list of int
        The shape of what each module gives, by name; ``name@0``, ``name@1``, ... for the runs of a
        module that runs several times.
    """
    ran: list[tuple[str, list[int]]] = []
    samples = batch_of(x, "x")

    def listen(name: str, output: Any) -> None:
        with suppress(TypeError):  # outputs of other kinds cannot be read by heads
            ran.append((name, list(main_tensor(output).shape)))

    named = [(name, one) for name, one in backbone.named_modules() if name]
    handles = [
        one.register_forward_hook(lambda _, __, output, name=name: listen(name, output))
        for name, one in named
    ]
    try:
        model = MultiExitModel(backbone, {name: nn.Identity() for name, _ in named[-1:]})
        args, kwargs = model._signature.arguments(x)
        with evaluating(model), torch.no_grad():
            backbone(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    times, runs = Counter(name for name, _ in ran), Counter[str]()
    found = {}
    for name, shape in ran:
        key = f"{name}@{runs[name]}" if times[name] > 1 else name
        runs[name] += 1
        if len(shape) > 1 and shape[0] == samples:
            found[key] = shape
    return found


def _blocks(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the blocks: the most common kind of the children, or of those of the largest."""
    children = [
        (f"{prefix}{name}", one)
        for name, one in module.named_children()
        if next(one.parameters(), None) is not None
    ]
    if not children:
        return []
    size = Counter[type]()
    for _, one in children:
        size[type(one)] += sum(1 for _ in one.modules())
    kind = size.most_common(1)[0][0]
    alike = [name for name, one in children if type(one) is kind]
    if len(alike) >= (2 if isinstance(module, (nn.Sequential, nn.ModuleList)) else 3):
        return alike
    name, largest = max(children, key=lambda one: sum(1 for _ in one[1].modules()))
    return _blocks(largest, f"{name}.")
