"""Packages whose names are imported when they are first used, with checks of dependencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from .optional import require


def lazy_names(
    names: dict[str, Any],
    homes: Mapping[str, str],
    modules: Sequence[str] = (),
    *,
    needed: Sequence[str] = (),
    extra: str = "",
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__all__``, ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    names
        The package's ``globals()``, which receives every value that was looked up.
    homes
        The modules, relative to the package, with the names that each defines.
    modules
        The submodules that are public names themselves.
    needed, extra
        The packages that the names need, and the extra of Laplex that installs them.
    """
    package: str = names["__name__"]
    home_of = {name: module for module, listed in homes.items() for name in listed.split()}
    public = sorted([*home_of, *modules])

    def find(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for one in needed:
            require(one, extra=extra, feature=f"{package}.{name}")
        if name in modules:
            return import_module(f".{name}", package)
        value = getattr(import_module(home_of[name], package), name)
        names[name] = value
        return value

    return public, find, lambda: sorted({*names, *public})
