"""Settings as fields of a dataclass, which also become options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, field, fields
from types import UnionType
from typing import Annotated, Any, Optional, Union, get_args, get_origin, get_type_hints


def setting(
    default: Any,
    about: str,
    check: Callable[..., Any] | None = None,
    *,
    choices: Iterable[str] = (),
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
    unset: str | None = None,
    in_file: str = "",
    former: str | None = None,
    **more: Any,
) -> Any:
    """Define a field of a dataclass of settings.

    The field also becomes an option of the command line if its type allows a number, a string or a
    bool, or if it has a ``metavar``. Otherwise it can only be set in a file.

    Parameters
    ----------
    default
        A value, or a function that returns one.
    about : str
        What the setting does, in sentences, for the help of the option and for files.
    check : callable, optional
        A function that checks and converts a value.
    choices : iterable of str
        The values that the option accepts, evaluated when a command is made.
    metavar : str, optional
        The name of the value in the help.
    least, most : number, optional
        Bounds that the command line checks before anything is read.
    unset : str, optional
        What the default None means.
    in_file : str
        What else a file may contain.
    former : str, optional
        The name of the option in an earlier version, which is still accepted.
    **more
        What else the metadata of the field hold.
    """
    metadata = {
        "check": check,
        "about": about,
        "choices": choices,
        "metavar": metavar,
        "min": least,
        "max": most,
        "unset": unset,
        "in_file": in_file,
        "names": (former,) if former else (),
        **more,
    }
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(words: Iterable[str], about: str, *names: str, **more: Any) -> Any:
    """Make an option of typer that accepts some strings, such as the names of a registry."""
    import typer

    known = tuple(words)

    def check(value: Any) -> Any:
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one not in known:
                raise typer.BadParameter(f"{one!r} is not one of {', '.join(map(repr, known))}.")
        return value

    metavar = f"[{'|'.join(known)}]"
    return typer.Option(*names, help=about, metavar=metavar, callback=check, **more)


def with_options(
    settings: type, defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass of settings.

    The last parameter of the command is ``**given``, which receives the options that were set.

    Parameters
    ----------
    settings : dataclass
        A dataclass whose fields are made by `setting`. Other fields, and those that only files can
        set, are ignored.
    defaults : mapping, optional
        Defaults of the command that differ from those of the settings; they are always given.
    """
    other = defaults or {}
    types = get_type_hints(settings)
    added = [
        _parameter(one, kind, other.get(one.name))
        for one in fields(settings)
        if one.metadata and (kind := _kind(types[one.name], one.metadata["metavar"]))
    ]

    def put(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = list(signature.parameters.values())[:-1]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for one in added:
                if values[one.name] is None:
                    del values[one.name]
            command(**values)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + added
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return put


def _kind(hint: Any, metavar: str | None) -> type | None:
    """Return the type to which the text of an option is converted."""
    union = get_origin(hint) in (Union, UnionType)
    for one in get_args(hint) if union else (hint,):
        if one in (bool, int, float, str):
            return one  # type: ignore[no-any-return]
    return str if metavar else None


def _parameter(one: Field[Any], kind: type, other: Any) -> inspect.Parameter:
    import typer

    known = one.metadata
    default = one.default if other is None else other
    if isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = known["unset"] if default is None else str(default)
    about = f"{known['about']} Default: {shown}."
    names = (f"--{one.name.replace('_', '-')}", *known["names"]) if known["names"] else ()
    if choices := known["choices"]:
        info = choice(choices, about, *names, show_default=False)
    else:
        more = {key: known[key] for key in ("metavar", "min", "max")}
        info = typer.Option(*names, help=about, show_default=False, **more)
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=other,
        annotation=Annotated[Optional[kind], info],  # noqa: UP045  (made at run time)
    )
