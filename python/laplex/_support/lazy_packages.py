"""Packages whose names are imported when first used, and ask for what they need then."""

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
    """The ``__all__``, ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    names
        Its ``globals()``, where a value is put when it was found.
    homes
        Modules, relative to the package, and the names that come from each.
    modules
        Submodules that are names too.
    needed, extra
        Packages to ask for, and the extra of Laplex that brings them.
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
