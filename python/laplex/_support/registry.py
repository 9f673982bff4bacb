"""Registries of classes by name; each class registers itself in its own file."""

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

#: The module of a folder that holds the shared code of the members and is not a member itself.
BASE = "base"


class Registry(Mapping[str, T]):
    """A mapping of names to the members of a folder and to members registered from outside.

    The decorator ``@registry.register("name")`` registers a class. The modules of the folder are
    imported when a member is first looked up, so a new member only needs a new file.

    Parameters
    ----------
    argument : str
        The name of the argument that selects a member, for messages, such as ``"policy"``.
    package : str
        The name of the package that contains the members.
    default : str, optional
        The member that is listed first.
    by_file : bool
        Whether each module of the folder, except ``base``, is the member of the same name (with
        ``-`` for ``_``). The names are then known without importing the members.

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
        #: What the reference says of this registry.
        self.__doc__ = (
            f"A mapping from the name of each {argument} to its class.\n\n"
            f'The decorator ``register("name")`` before a class adds a {argument} of your own, and '
            f'``unregister("name")`` removes it.'
        )
        self.argument = argument
        self.default = default
        self._package = package
        self._by_file = by_file
        self._members: dict[str, T] = {}
        self._order: dict[str, float] = {}
        self._imported = False

    def register(self, name: str, *, order: float = math.inf) -> Callable[[C], C]:
        """Return a decorator that registers a class or function.

        Parameters
        ----------
        name : str
            The name of the member.
        order : float
            The position in listings; members with equal positions are listed by name.

        Raises
        ------
        TypeError
            If the name is not a string, or is empty.
        ValueError
            If another definition has this name. The same definition may be run again.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"a {self.argument} must be registered by a name, got {name!r}: write "
                "@registry.register('name') before its class"
            )

        def put(member: C) -> C:
            if not self._is_inside(member):
                self._import()
            there = self._members.get(name)
            if there is not None and _place(there) != _place(member):
                raise ValueError(
                    f"{self.argument} {name!r} is already registered as {_place(there)}: choose "
                    "another name"
                )
            self._members[name] = member  # type: ignore[assignment]
            self._order[name] = order
            return member

        return put

    def unregister(self, name: str) -> None:
        """Remove a member.

        Raises
        ------
        ValueError
            If there is no member of this name.
        """
        self.find(name)
        del self._members[name], self._order[name]

    def names(self) -> tuple[str, ...]:
        """Return all names: the default, then the others in order."""
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
        """Return the member of a name.

        Parameters
        ----------
        name
            The name to look up.
        among : sequence of str, optional
            The names that are allowed; by default all are.
        also : str
            What else the argument may be, for the message.

        Raises
        ------
        ValueError
            If there is no such member; the message lists the names and suggests the nearest one.
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
        """Return the members of the folder, without those registered from outside."""
        return {name: member for name, member in self.items() if self._is_inside(member)}

    def attribute(self, name: str) -> Any:
        """Look up a name for the package's ``__getattr__``: a member or an export of ``base``."""
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
