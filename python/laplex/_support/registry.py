"""Registries: classes by name, each of which registers itself in a file of its own."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

T = TypeVar("T")
C = TypeVar("C")

#: The module of a folder that has what its members share, and is none of them.
BASE = "base"


class Registry(Mapping[str, T]):
    """The members of a folder by their names, and others that are registered from outside.

    ``@registry.register("name")`` before a class registers it. The modules of the folder are
    imported when a member is first asked for, so that a new file is all that a new member takes.

    Parameters
    ----------
    argument : str
        What the members are for, as messages call it, such as ``"policy"``.
    package : str
        The folder, by the name of its package.
    default : str, optional
        The member that comes first.
    by_file : bool
        Each module of the folder, but ``base``, is the member of its own name (with ``-`` for
        ``_``). The names are then known without an import of what the members need.

    Examples
    --------
    >>> from laplex.early_exit.policies import POLICIES, Policy
    >>> @POLICIES.register("first-logit")
    ... class FirstLogit(Policy):
    ...     def score(self, k, logits, memory):
    ...         return logits[:, 0].double(), None
    >>> POLICIES["first-logit"].__name__
    'FirstLogit'
    >>> POLICIES.unregister("first-logit")
    """

    def __init__(
        self, argument: str, package: str, *, default: str | None = None, by_file: bool = False
    ) -> None:
        self.argument = argument
        self.default = default
        self._package = package
        self._by_file = by_file
        self._members: dict[str, T] = {}
        self._order: dict[str, float] = {}
        self._imported = False

    def register(self, name: str, *, order: float = math.inf) -> Callable[[C], C]:
        """A decorator that registers what it is put before.

        Parameters
        ----------
        name : str
        order : float
            Members are listed by it, and by their names where it is equal.

        Raises
        ------
        TypeError
            The name is no text.
        ValueError
            Something else has the name. The same definition, run again, replaces itself.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"a {self.argument} is registered by a name: write "
                f"@registry.register('name') before its class, got {name!r}"
            )

        def put(member: C) -> C:
            if not self._is_inside(member):
                self._import()
            there = self._members.get(name)
            if there is not None and _place(there) != _place(member):
                raise ValueError(
                    f"{self.argument} {name!r} is registered already, as {_place(there)}: take "
                    "another name"
                )
            self._members[name] = member  # type: ignore[assignment]
            self._order[name] = order
            return member

        return put

    def unregister(self, name: str) -> None:
        """Forget a member.

        Raises
        ------
        ValueError
            There is none of this name.
        """
        self.find(name)
        del self._members[name], self._order[name]

    def names(self) -> tuple[str, ...]:
        """All names: the default, then the others in order."""
        if self._by_file:
            files = {name.replace("_", "-") for name in self._modules() if name != BASE}
            return tuple(
                sorted(files | set(self._members), key=lambda one: (one != self.default, one))
            )
        self._import()
        return tuple(
            sorted(self._members, key=lambda one: (one != self.default, self._order[one], one))
        )

    def find(self, name: Any, among: Sequence[str] | None = None, *, also: str = "") -> T:
        """The member of a name.

        Parameters
        ----------
        name
        among : sequence of str, optional
            The names that will do; all when not given.
        also : str
            What else the argument may be, for the message.

        Raises
        ------
        ValueError
            There is none; the message lists the names, with the nearest one.
        """
        self._import()
        names = self.names() if among is None else among
        if isinstance(name, str) and name in names and name in self._members:
            return self._members[name]
        near = difflib.get_close_matches(str(name), names, 1)
        raise ValueError(
            f"{self.argument} must be one of {', '.join(map(repr, names))}{also}, got {name!r}"
            + (f": did you mean {near[0]!r}?" if near else "")
        )

    def built_in(self) -> dict[str, T]:
        """The members of the folder, without those from outside."""
        return {name: member for name, member in self.items() if self._is_inside(member)}

    def attribute(self, name: str) -> Any:
        """What the package's ``__getattr__`` gives: a member's class, or what ``base`` exports."""
        if not name.startswith("_"):
            self._import()
            for member in self.built_in().values():
                if getattr(member, "__name__", "") == name:
                    return member
            base = import_module(f"{self._package}.{BASE}")
            if name in base.__all__:
                return getattr(base, name)
        raise AttributeError(f"module {self._package!r} has no attribute {name!r}")

    def __getitem__(self, name: str) -> T:
        self._import()
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _modules(self) -> list[str]:
        return [one.name for one in iter_modules(sys.modules[self._package].__path__)]

    def _import(self) -> None:
        if not self._imported:
            for name in self._modules():
                import_module(f"{self._package}.{name}")
            self._imported = True

    def _is_inside(self, member: object) -> bool:
        return str(getattr(member, "__module__", "")).startswith(f"{self._package}.")


def _place(member: object) -> str:
    kind = member if hasattr(member, "__qualname__") else type(member)
    return f"{kind.__module__}.{kind.__qualname__}"
