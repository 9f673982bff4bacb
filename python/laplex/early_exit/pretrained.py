"""Networks with exits in folders and on the hub: how they are made again, and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .._support.hub import Pretrained
from .._support.model_cards import Card
from .._support.model_files import (
    fill,
    read_config,
    read_tensors,
    same_shapes,
    values_of,
    write_model,
)
from . import networks
from .heads import HEADS
from .layouts import Layout
from .model_card import model_card
from .origins import Origin, origin_of, with_origin

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from .model import MultiExitModel

_DTYPES = {
    str(one).removeprefix("torch."): one
    for one in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}
#: Options of our networks that say how many modules there are; a file cannot ask for more of them
#: than it has tensors.
_COUNTS = ("blocks", "scales", "depth", "widths")


class PretrainedExits(Pretrained):
    """The methods of a network with exits for files and the hub."""

    _saved_as, _saved_kind = "laplex.early_exit.MultiExitModel", "network with exits"

    def _write(self, folder: Path) -> None:
        from . import policy_files

        model = cast("MultiExitModel", self)
        backbone = unwrapped(model.backbone)
        dtype = dtype_of(backbone)
        config: dict[str, Any] = {
            "backbone": {"class": type(backbone).__qualname__, **_remade(backbone, dtype)},
            "dtype": str(dtype).removeprefix("torch."),
            "exits": [
                {
                    "at": name,
                    "head": _remade(head, dtype),
                    "layout": layout,
                    "mask": mask,
                }
                for name, head, layout, mask in zip(
                    model.exit_names, model.heads, model.layouts, model.masks, strict=True
                )
            ],
            "output_head": model.output_head is not None,
            "policy": None
            if model.policy is None
            else policy_files.to_dict(model.policy, model.num_exits),
            "class_names": _names(model.class_names),
        }
        _counted(config)
        write_model(folder, self._saved_as, config, values_of(_state(model)))

    @classmethod
    def _read(cls, folder: Path, **parts: Any) -> Self:
        from . import policy_files  # which needs a second to import scikit-learn

        kind, config = cls._saved_kind, read_config(folder, cls._saved_as, cls._saved_kind)
        made: list[MultiExitModel] = []

        def check(shapes: Mapping[str, tuple[int, ...]]) -> None:
            try:
                made.append(_built(cls, config, len(shapes), **parts))
                same_shapes(_state(made[0]), kind)(shapes)
            except _NotOurs:
                raise
            except Exception as error:  # torch has many for sizes that cannot be
                if any(one is not None for one in parts.values()):
                    raise _NotOurs(
                        f"a model that the modules that were passed do not fit: {error}"
                    ) from error
                raise ValueError(f"{type(error).__name__}: {error}") from error

        try:
            tensors = read_tensors(folder, config, kind, check)
        except _NotOurs as error:
            raise ValueError(f"{folder} holds {error}") from error.__cause__
        model = made[0]
        try:
            for at, module in _parts(model).items():
                start = f"{at}."
                _load(
                    module,
                    {
                        key.removeprefix(start): one
                        for key, one in tensors.items()
                        if key.startswith(start)
                    },
                )
            if config["policy"] is not None:
                model.policy = policy_files.from_dict(config["policy"], model.num_exits)
            model.class_names = _counted(config)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{folder} holds a damaged {kind}: {error}") from error
        like_backbone(model.backbone, model.heads)
        return cast("Self", model.eval())

    def _card(self, results: Sequence[Any]) -> Card:
        model = cast("MultiExitModel", self)
        _names(model.class_names)
        backbone = unwrapped(model.backbone)
        dtype = dtype_of(backbone)
        own = {
            "backbone": "options" not in _remade(backbone, dtype),
            "exits": not all("options" in _remade(head, dtype) for head in model.heads),
            "output_head": model.output_head is not None,
        }
        return model_card(model, backbone, [name for name, one in own.items() if one], results)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        backbone: nn.Module | None = None,
        exits: Mapping[str, nn.Module] | None = None,
        output_head: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a network with exits from a folder or from the Hugging Face hub.

        A network of `laplex.early_exit.networks` is made again from its options. For any other one
        pass a module like the backbone, which gets the weights: files never choose what is
        imported. The heads that `MultiExitModel.attach` makes by name are made again; pass others
        in ``exits``.

        Parameters
        ----------
        name_or_path : str or path
            A folder or a repository, as in `laplex.nn.LaplexLinear.from_pretrained`.
        backbone : Module, optional
            A module like the backbone of the saved model, which is filled with its weights, in the
            precision and on the device that it has.
        exits : mapping of str to Module, optional
            Modules like those heads that were not made by a name, by the name of the exit.
        output_head : Module, optional
            A module like the ``output_head`` of the saved model, if it has one.
        revision, token, cache_dir, local_files_only, force_download
            As in `laplex.nn.LaplexLinear.from_pretrained`.

        Returns
        -------
        MultiExitModel
            The model, in evaluation mode, with its ``policy`` and its ``class_names``.

        Raises
        ------
        ImportError, FileNotFoundError, OSError
            As in `laplex.nn.LaplexLinear.from_pretrained`.
        ValueError
            If the files are damaged, of another class, or newer than this version of Laplex; or if
            a module must be passed, or does not fit.
        """
        passed = {"backbone": backbone, "output_head": output_head}
        passed |= {f"exits[{name!r}]": one for name, one in (exits or {}).items()}
        for what, module in passed.items():
            if module is not None and not isinstance(module, nn.Module):
                raise TypeError(f"{what} must be a torch.nn.Module, got {type(module).__name__}")
        folder = cls._located(
            name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls._read(folder, backbone=backbone, exits=exits, output_head=output_head)


class _NotOurs(Exception):
    """A module cannot be made again from a file: it must be passed."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside of torch.compile or DistributedDataParallel."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    inner = module.module if isinstance(module, parallel) else getattr(module, "_orig_mod", module)
    return module if inner is module else unwrapped(inner)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the precision of the first parameter of a module."""
    kinds = (one.dtype for one in module.parameters() if one.dtype.is_floating_point)
    return next(kinds, torch.get_default_dtype())


def _names(names: Any) -> list[str] | None:
    """Return the names of the classes as a list of JSON."""
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise TypeError(f"class_names must be a tuple of texts or None, got {names!r:.80}")
    return list(names)


def _counted(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes, as many as the modules that a file makes have classes."""
    names = _names(config["class_names"])
    if names is None:
        return None
    made = [config["backbone"]]
    if not config["output_head"]:  # else heads return features for it
        made += [one["head"] for one in config["exits"]]
    for options in (one.get("options", {}) for one in made):
        classes = options.get("classes", options.get("num_classes", len(names)))
        if classes != len(names):
            raise ValueError(f"class_names has {len(names)} entries for {classes} classes")
    return tuple(names)


def _parts(model: MultiExitModel) -> dict[str, nn.Module]:
    """The modules of a model that hold its state, by their names."""
    found = {"backbone": unwrapped(model.backbone)}
    found |= {f"heads.{k}": head for k, head in enumerate(model.heads)}
    return found if model.output_head is None else {**found, "output_head": model.output_head}


def _state(model: MultiExitModel) -> dict[str, Any]:
    """The state dict of a model, without what wraps its backbone."""
    return {
        f"{at}.{name}": value
        for at, module in _parts(model).items()
        for name, value in module.state_dict().items()
    }


def _remade(module: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """What a file says of a module: its origin, and whether it can be made again from that."""
    origin = origin_of(module)
    if origin is None:
        return {"name": None}
    try:
        fill(_empty(origin, dtype, math.inf), values_of(module.state_dict()))
        return {"name": origin.name, "options": origin.options}
    except (ValueError, _NotOurs):  # changed since it was made, or not ours
        return {"name": origin.name}


def _empty(origin: Origin, dtype: torch.dtype, most: float) -> nn.Module:
    """Make a network or a head without memory, from what may be a hostile file."""
    name, options = origin
    with torch.device("meta"):
        if name in networks.__all__:
            sizes = [one for value in options.values() for one in _listed(value)]
            if not all(type(one) is int and one >= 1 for one in sizes) or "seed" in options:
                raise ValueError(f"the sizes of {name} must be whole numbers of at least 1")
            if math.prod(_count(key, options[key]) for key in _COUNTS if key in options) > most:
                raise ValueError(f"{name} would have more modules than the file has tensors")
            made: nn.Module = getattr(networks, name)(**options)
        elif name in HEADS:
            made = HEADS[name](options["features"], options["classes"], **options["options"])
        else:
            raise _NotOurs
    return with_origin(made, name, options).to(dtype)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _count(key: str, value: Any) -> int:
    return len(value) if key == "widths" else sum(_listed(value))


def _built(
    cls: Any,
    config: Mapping[str, Any],
    tensors: int,
    backbone: nn.Module | None = None,
    exits: Mapping[str, nn.Module] | None = None,
    output_head: nn.Module | None = None,
) -> MultiExitModel:
    """Make a model whose own modules are on the meta device, from a checked configuration."""
    dtype, known = _DTYPES[config["dtype"]], config["backbone"]
    given, heads = dict(exits or {}), {}
    network = backbone
    if network is None:
        if known["name"] not in networks.__all__ or "options" not in known:
            named = known["name"] if isinstance(known["name"], str) else known["class"]
            raise _NotOurs(
                f"the exits of a backbone {str(named)[:80]!r}, which a file does not make: pass "
                "backbone=..., a module like it"
            )
        network = _empty(Origin(known["name"], known["options"]), dtype, tensors)
    if len(config["exits"]) > tensors:
        raise ValueError("there are more exits than tensors")
    for one in config["exits"]:
        at, head = one["at"], one["head"]
        if at in heads:
            raise ValueError(f"exit {at!r} is there twice")
        if at in given:
            heads[at] = given.pop(at)
        elif head["name"] in HEADS and "options" in head:
            heads[at] = _empty(Origin(head["name"], head["options"]), dtype, tensors)
        else:
            raise _NotOurs(
                f"a head of its owner at exit {str(at)[:80]!r}, which a file does not make: pass "
                f"exits={{{str(at)[:80]!r}: ...}}, a module like it"
            )
    if given:
        raise _NotOurs(f"no exit {next(iter(given))!r}: its exits are {', '.join(heads)}")
    if bool(config["output_head"]) != (output_head is not None):
        raise _NotOurs(
            "an output_head, which a file does not make: pass output_head=..., a module like it"
            if output_head is None
            else "no output_head: leave it out"
        )
    masks = {one["at"]: one["mask"] for one in config["exits"]}
    made: MultiExitModel = cls(network, heads, output_head, mask=masks)
    made.layouts = tuple(_layout(one["layout"]) for one in config["exits"])
    return made


def _layout(values: Any) -> Layout | None:
    if values is None:
        return None
    channel, batch = values
    if not all(type(one) is int and 0 <= one < 8 for one in (channel, batch)) or channel == batch:
        raise ValueError("a layout must be two different numbers of dimensions")
    return Layout(channel, batch)


def like_backbone(backbone: nn.Module, module: nn.Module) -> None:
    """Put a module on the device of a backbone, and in its precision and mode."""
    first = next(iter(backbone.parameters()), None)
    if first is not None:
        module.to(device=first.device, dtype=first.dtype)
    module.train(backbone.training)


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a module of ours, or copy into one that was passed."""
    if any(one.is_meta for one in module.state_dict().values()):
        fill(module, tensors)
    else:
        module.load_state_dict(dict(tensors))
