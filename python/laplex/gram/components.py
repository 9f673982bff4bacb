"""What `term=` of `LaplaceGram.predict` stands for: some of the summands of a process."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

from .checks import same_contents
from .terms import BaseTerm

#: A summand of the process as a caller names it, and several of them.
Component: TypeAlias = "int | BaseTerm | Literal['basis', 'mean']"
Components: TypeAlias = "Component | Sequence[Component]"


def components(
    term: object, terms: Sequence[BaseTerm], *, basis: bool, mean: bool
) -> tuple[int | str, ...] | None:
    """The numbers of terms, and "basis" and "mean"; None stands for the whole.

    Raises
    ------
    TypeError, ValueError, IndexError
        If `term` is not one of the summands, or twice the same.
    """
    if term is None:
        return None
    several = isinstance(term, Sequence) and not isinstance(term, str)
    given = list(cast("Sequence[object]", term)) if several else [term]
    if not given:
        raise ValueError("term is an empty list: pass None for the whole process")
    has = {"basis": basis, "mean": mean}
    found = [_component(each, terms, has) for each in given]
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"term has {each!r} twice: pass each summand once")
    return tuple(found)


def _component(term: object, terms: Sequence[BaseTerm], has: dict[str, bool]) -> int | str:
    if isinstance(term, str):
        if term not in has:
            raise ValueError(
                f'term must be a term, its number in terms, "basis" or "mean", got {term!r}'
            )
        if not has[term]:
            raise ValueError(f"term is {term!r}, but there is no {term}: pass {term}= to the model")
        return term
    if isinstance(term, BaseTerm):
        return _number(term, terms)
    try:
        if isinstance(term, bool):
            raise TypeError
        number = operator.index(cast("int", term))
    except TypeError:
        raise TypeError(
            'term must be a term, its number in terms, "basis", "mean" or a list of these, got '
            f"{term!r}"
        ) from None
    if not -len(terms) <= number < len(terms):
        raise IndexError(f"term is {term}, but there are {len(terms)} terms")
    return number % len(terms)


def _number(term: BaseTerm, terms: Sequence[BaseTerm]) -> int:
    """The number of a term, or of the one that is equal to it."""
    found = [k for k, each in enumerate(terms) if each is term]
    found = found or [k for k, each in enumerate(terms) if _equal(each, term)]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = f"{', '.join(map(str, found[:-1]))} and {found[-1]}"
        raise ValueError(
            f"the terms number {numbers} are all {term!r}: pass term={found[0]} for one of them, "
            f"or term={found} for their sum"
        )
    known = "; ".join(f"{k}: {each!r}" for k, each in enumerate(terms))
    raise ValueError(f"term is {term!r}, which is not one of the terms ({known})")


def _equal(one: BaseTerm, two: BaseTerm) -> bool:
    """Whether two terms are of one kind and have the same numbers."""
    if one.kind() != two.kind():
        return False
    first, second = one.parameters(), two.parameters()
    return list(first) == list(second) and same_contents([*first.values()], [*second.values()])
