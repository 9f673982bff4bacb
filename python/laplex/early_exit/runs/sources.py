"""What the names of data and of backbones refer to: checked, and found, without importing torch."""

from __future__ import annotations

import difflib
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplex._support.image_datasets import find_images, idx_folder
from laplex._support.optional import require_installed

if TYPE_CHECKING:
    from .settings import RunSettings

#: Backbones of these libraries are named ``LIBRARY:NAME``; the extra of each has its name.
LIBRARIES = ("timm", "torchvision", "transformers")
BUILT_IN = ("digits", "fashion-mnist")
TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def located(name: str) -> str:
    """The absolute path of a file or folder, so that it is valid anywhere; other names stay."""
    if name in BUILT_IN or not (_is_path(name) or Path(name).exists()):
        return name
    return str(Path(name).expanduser().resolve())


def located_backbone(name: str) -> str:
    """As `located`, for the part after ``transformers:``; other backbones are not files."""
    library, colon, rest = name.partition(":")
    return f"{library}:{located(rest)}" if colon and library == "transformers" else name


def check_sources(settings: RunSettings) -> None:
    """Check that the files and packages exist that the settings name; nothing is read."""
    data, (library, _, name) = settings.data, settings.backbone.partition(":")
    if library in LIBRARIES:
        require_installed(library, library, feature=f"backbone {settings.backbone}")
        if _is_path(name) and not Path(name).exists():
            raise FileNotFoundError(f"backbone: there is no {name}: pass a folder or a config.json")
    if is_built_in(data):
        find_images(data)
    elif not is_function(data):
        if not (path := Path(data)).exists():
            raise FileNotFoundError(
                f"data: there is no {data}: pass digits, fashion-mnist, an existing folder or file "
                "of images, texts or numbers, or package.module:function"
            )
        if path.is_file() and path.suffix not in TABLES:
            raise ValueError(f"data: {data} must be a folder, or end in {', '.join(TABLES)}")
        require_installed("datasets", "datasets", feature="reading folders and tables")


def is_built_in(data: str) -> bool:
    """Whether data are those of `image_datasets.load_images`."""
    return data in BUILT_IN or idx_folder(Path(data))


def check_trusted(settings: RunSettings, folder: Path) -> None:
    """Refuse to call the functions that the settings of a run name."""
    for name in filter(is_function, (settings.data, settings.backbone)):
        raise ValueError(
            f"the settings of the run in {folder} name the Python function {name}, which would be "
            "called: pass --trusted (from Python: trusted=True) if you trust whoever made the run"
        )


def is_function(name: str) -> bool:
    """Whether a name is ``package.module:function``."""
    return _FUNCTION.fullmatch(name) is not None and name.partition(":")[0] not in LIBRARIES


def call_named(name: str, known: Mapping[str, Any], options: Mapping[str, Any], what: str) -> Any:
    """Call ``package.module:function``, perhaps of the current folder; what it raises is told."""
    sys.path.insert(0, folder := os.getcwd())  # which is not there for an installed command
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r}: {error}: name an existing function") from error
    except Exception as error:
        raise ValueError(f"{what} {name!r}: its module {_raised(error)}") from error
    finally:
        sys.path.remove(folder)
    given = arguments(function, known, options, what)
    try:
        return function(**given)
    except Exception as error:  # of the user's code
        raise ValueError(f"{what} function {name} {_raised(error)}") from error


def arguments(
    function: Callable[..., Any], known: Mapping[str, Any], options: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """Options of the user for a function, and the known values that it has names for."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except ValueError:  # some functions written in C have none
        return dict(options)
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        for key in set(options) - set(parameters):
            raise ValueError(
                f"{what}_options has {key!r}, but {function.__name__} takes "
                f"{', '.join(parameters)}: {did_you_mean(key, parameters)}Remove or rename it"
            )
    return {**{key: one for key, one in known.items() if key in parameters}, **options}


def _raised(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return f"raised {type(error).__name__}: {error} ({where})"


def did_you_mean(name: str, known: Any) -> str:
    """A hint with the nearest of the known names, or an empty one."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}? " if near else ""


def _is_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or Path(name).suffix in TABLES
