"""The terms of a covariance: one form a file, and `BaseTerm`, which all of them are."""

from __future__ import annotations

from collections.abc import Iterable

from .base import BaseTerm, TermSum
from .blocks import Block
from .celerite import Celerite
from .laplace import Term
from .matern import Matern32, Matern52
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
    "TermSum",
    "checked_terms",
]

#: The terms by name.
KINDS: dict[str, type[BaseTerm]] = {
    kind.__name__: kind for kind in (Term, SHO, Matern32, Matern52, Celerite, Rotation)
}


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
