"""The points in messages about singular matrices, as the caller knows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numpy.linalg import LinAlgError

_POINTS = re.compile(r"\banchors? (\d+)(?: and (\d+))?")

#: What to do about targets, which have no noise.
_OF_TARGETS = {
    "Give them noise > 0, or keep one of them": (
        "The process, which has no noise, has one value at a place: leave out targets that repeat "
        "a point"
    ),
    "given the anchors before it": "given the points before it",
    "Add noise > 0, or a scale that is not 0": (
        "Leave out targets that are so close to other points"
    ),
}


@contextmanager
def points_named(name: Callable[[int], tuple[str, int]]) -> Iterator[None]:
    """Replace the numbers of anchors in the message of a LinAlgError.

    Parameters
    ----------
    name
        From the number of an anchor of the matrix to what the caller calls it, such as
        ``("target", 2)``.
    """
    try:
        yield
    except LinAlgError as error:

        def replaced(match: re.Match[str]) -> str:
            found = [name(int(each)) for each in match.groups() if each is not None]
            kinds = [kind for kind, _ in found]
            if len(found) == 2 and kinds[0] == kinds[1]:
                return f"{kinds[0]}s {found[0][1]} and {found[1][1]}"
            return " and ".join(f"{kind} {number}" for kind, number in found)

        message = _POINTS.sub(replaced, str(error))
        if re.search(r"\btargets? \d", message):
            for old, new in _OF_TARGETS.items():
                message = message.replace(old, new)
        raise LinAlgError(message) from None
