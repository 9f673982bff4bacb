"""The files of a model, ``config.json`` and ``model.safetensors``, read without trust in them.

Nothing in them is run or imported: the configuration is JSON, the tensors are numbers, and both are
checked before a model is made of them. The checks of the classes are in their own packages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from laplex import _core

from .complete_files import replacing
from .json_files import parse_json, read_text
from .optional import require

if TYPE_CHECKING:
    from torch import Tensor, nn

    M = TypeVar("M", bound=nn.Module)

CONFIG, TENSORS = "config.json", "model.safetensors"
_FORMAT = 1
#: The largest configuration that is read: that of a large model has a few megabytes.
_LARGEST_CONFIG = 2**26
_AGAIN = (
    "Copy both files of one model or save it again; if they are from a hub, download them again "
    "with force_download=True"
)


def write_model(
    folder: str | os.PathLike[str],
    model: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a model; each file replaces an older one when it is complete.

    Parameters
    ----------
    folder
        The folder, which is made if needed.
    model
        The full name of the class, which `read_config` compares.
    config, tensors
        What the class needs, as plain types of JSON and as tensors by name.

    Raises
    ------
    FileExistsError
        If ``folder`` is a file.
    """
    files = require("safetensors.torch", "hub", feature="saving a model")
    path = model_folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    whole = {"format": _FORMAT, "model": model, "laplex": _core.info()["version"], **config}
    with replacing(path / TENSORS) as part:
        files.save_file(_separate(tensors), part, metadata={"format": "pt"})
        whole["tensors"] = _digest(part)
        text = json.dumps(whole, indent=2, allow_nan=False)  # an error keeps the older model
    with replacing(path / CONFIG) as part:
        part.write_text(text + "\n", encoding="utf-8")


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path with ``~`` replaced; errors call the argument by its name."""
    try:
        text: Any = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError
    except TypeError:
        raise TypeError(f"{name} must be a str or a path, got {type(path).__name__}") from None
    if not text:
        raise ValueError(f"{name} is empty: for the current folder pass '.'")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{text} is in the folder of a user who is not known") from error


def model_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write to; a FileExistsError says that it is a file."""
    path = local_path(folder, "the folder of a model")
    if path.is_file():
        raise FileExistsError(f"{path} is a file: pass a folder")
    return path


def read_config(folder: Path, model: str, kind: str) -> dict[str, Any]:
    """Read the configuration of a model, which `read_tensors` also compares with the tensors.

    Parameters
    ----------
    folder
        The folder.
    model
        The full name of the class.
    kind
        What the model is called in messages, such as ``"CEDAR model"``.

    Raises
    ------
    FileNotFoundError
        If the folder has no such file.
    ValueError
        If it describes no such model, or one of a newer version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {kind}: there is no {CONFIG} in it")
    try:
        config = parse_json(read_text(path, _LARGEST_CONFIG), parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(
            f"{path} does not describe a {kind}, or is damaged: {error}. {_AGAIN}"
        ) from error
    try:
        form, found = config["format"], config["model"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a {kind}: {error}") from error
    if found != model:
        other = f": it is one of a {found:.80}" if isinstance(found, str) else ""
        raise ValueError(f"{path} does not describe a {kind}{other}")
    if form != _FORMAT:
        raise ValueError(
            f"{folder} was saved in format {form!s:.20}, but this version of Laplex reads format "
            f"{_FORMAT}: use version {config.get('laplex')!s:.20}, which saved it, or a newer "
            "one"
        )
    return config  # type: ignore[no-any-return]


def read_tensors(
    folder: Path,
    config: Mapping[str, Any],
    kind: str,
    check: Callable[[Mapping[str, tuple[int, ...]]], None] = lambda shapes: None,
) -> dict[str, Tensor]:
    """Read the tensors of a model, after a look at their names and shapes.

    The library safetensors compares the sizes in the file with its length before it reads a tensor.

    Parameters
    ----------
    folder, kind
        As in `read_config`.
    config
        What `read_config` returned.
    check
        Gets the shape of each tensor by name before any is read; it raises a ValueError if they are
        not those of the model.

    Raises
    ------
    FileNotFoundError
        If the folder has no such file.
    ValueError
        If the file is damaged, or not the one that was saved with the configuration.
    """
    path = folder / TENSORS
    library = require("safetensors", "hub", feature="loading a model")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {kind}: there is no {TENSORS} in it")
    if "tensors" in config and config["tensors"] != _digest(path):  # absent in older models
        raise ValueError(
            f"{folder} holds a damaged {kind}: {TENSORS} is not the one that {CONFIG} was saved "
            f"with. {_AGAIN}"
        )
    try:
        with library.safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
            check({name: tuple(opened.get_slice(name).get_shape()) for name in names})
            # Copied to aligned memory, as in a fit: products with a mapped file may round
            # differently, depending on where its header ends.
            return {name: opened.get_tensor(name).clone() for name in names}
    except (library.SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} holds a damaged {kind}: {error}") from error


def fill(module: M, tensors: Mapping[str, Tensor]) -> M:
    """Give a module on the meta device its parameters and buffers, whose shapes are compared.

    Raises
    ------
    ValueError
        If names, shapes or dtypes differ from those of the module.
    """
    for name, place in module.state_dict().items():
        if name in tensors and tensors[name].dtype != place.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype}, but should be {place.dtype}")
    try:
        module.load_state_dict(dict(tensors), assign=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return module


def same_shapes(
    state: Mapping[str, Tensor], kind: str
) -> Callable[[Mapping[str, tuple[int, ...]]], None]:
    """Return a check for `read_tensors` that a file has the tensors of a module.

    Parameters
    ----------
    state
        The state dict of the module, perhaps on the meta device.
    kind
        What the module is called in messages.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def check(shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in sorted(wanted.keys() ^ shapes.keys()):
            raise ValueError(
                f"there is no tensor {name}, which the {kind} has"
                if name in wanted
                else f"the {kind} has no tensor {name:.80}"
            )
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise ValueError(
                    f"{name} has shape {list(shapes[name])}, but that of the {kind} is "
                    f"{list(shape)}"
                )

    return check


def values_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the parameters and buffers of a state dict on the CPU.

    Raises
    ------
    TypeError, ValueError
        If the state is more than tensors with values.
    """
    found = {}
    for name, value in state.items():
        if not hasattr(value, "is_meta"):
            raise TypeError(
                f"{name} of the state_dict is a {type(value).__name__}, but a saved model holds "
                "tensors only: save this part yourself"
            )
        if value.is_meta:
            raise ValueError(f"{name} is on the meta device and has no values: load them first")
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[name] = whole.detach().cpu().contiguous()
        if found[name].is_inference():  # such a tensor cannot become a parameter
            found[name] = found[name].clone()
    return found


# --- inside ---------------------------------------------------------------------------------------


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory with others, which safetensors does not write."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _digest(file: Path) -> str:
    """Return a hash of the contents of a file."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            found.update(block)
    return found.hexdigest()
