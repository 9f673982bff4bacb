"""The terms of a covariance: one form a file, and `BaseTerm`, which all of them are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .algebra import TermSum
from .base import BaseTerm
from .blocks import Block
from .celerite import Celerite
from .laplace import Term
from .matern import Matern32, Matern52
from .products import TermProduct
from .rotation import Rotation
from .sho import SHO

__all__ = [
    "KINDS",
    "SHO",
    "BaseTerm",
    "Block",
    "Celerite",
    "Matern32",
    "Matern52",
    "Rotation",
    "Term",
    "TermProduct",
    "TermSum",
    "checked_terms",
    "made",
]

#: The terms by name.
KINDS: dict[str, type[BaseTerm]] = {
    kind.__name__: kind for kind in (Term, SHO, Matern32, Matern52, Celerite, Rotation)
}


def made(kind: str, parameters: Mapping[str, Any]) -> BaseTerm:
    """The term of a `BaseTerm.kind` with the given `BaseTerm.parameters`."""
    factors = kind.split("*")
    if len(factors) == 1:
        return KINDS[kind](**parameters)
    own: list[dict[str, Any]] = [{} for _ in factors]
    for name, value in parameters.items():
        number, _, parameter = name.partition(".")
        own[int(number)][parameter] = value
    return TermProduct(*(KINDS[each](**given) for each, given in zip(factors, own, strict=True)))


def checked_terms(terms: object) -> tuple[BaseTerm, ...]:
    """A single term, or a sequence of at least one."""
    if isinstance(terms, BaseTerm):
        return (terms,)
    found = tuple(terms) if isinstance(terms, Iterable) else ()
    if not found or not all(isinstance(term, BaseTerm) for term in found):
        raise TypeError(
            "terms must be a sequence of at least one laplex.gram.Term: pass [Term(...)]"
        )
    return found
