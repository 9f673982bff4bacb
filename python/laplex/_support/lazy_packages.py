"""Packages whose names are imported when first used, and ask for what they need then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from .optional import require


def importer(
    names: dict[str, Any],
    homes: Mapping[str, str],
    modules: Sequence[str],
    *,
    needed: Sequence[str],
    extra: str,
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Parameters
    ----------
    names
        Its ``globals()``, where a value is put when it was found.
    homes
        The module of a name, relative to the package.
    modules
        Submodules that are names too.
    needed, extra
        Packages to ask for, and the extra of Laplex that brings them.
    """
    package: str = names["__name__"]

    def find(name: str) -> Any:
        if name not in homes and name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for one in needed:
            require(one, extra=extra, feature=f"{package}.{name}")
        if name in modules:
            return import_module(f".{name}", package)
        value = getattr(import_module(homes[name], package), name)
        names[name] = value
        return value

    return find
