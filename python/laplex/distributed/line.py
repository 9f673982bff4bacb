"""Who owns which part of a line of anchors, and how entries travel there and back.

The anchors of all ranks, targets and sources together, form one line. Each rank has a shard of it,
in any order (user order), and owns an interval of it (line order). The anchors that rank 0 owns,
then those of rank 1 and so on, are sorted; equal ones are in the order of the ranks and positions
that they came from. So the order is that of one process, and no index has to travel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._support.communicator import Communicator
from ..numpy.checks import Array

#: The whole line is cut at multiples of this many anchors, where the core's segments end.
SEGMENT = _core.line_segment

#: The most anchors of a rank, targets and sources together: the core numbers them with 32 bits.
MOST_ANCHORS = 2**32 - 2


class Sorted:
    """The sorted order of anchors ``[k]``, equal ones by position, and the way there and back.

    `run`: where the anchors are a few sorted runs, the size of the first.
    """

    def __init__(self, anchors: Array, threads: int, run: int | None = None) -> None:
        address, is_double = anchors.ctypes.data, anchors.dtype == np.float64
        self._core = _core.Order(address, is_double, len(anchors), run, threads)
        self.threads = threads

    @property
    def nbytes(self) -> int:
        """The number of bytes held."""
        return self._core.nbytes

    def sort(self, entries: Array) -> Array:
        """Return ``[..., k]`` in sorted order; uncopied if that is the order as given."""
        return self._moved(self._core.to_sorted, entries)

    def unsort(self, entries: Array) -> Array:
        """Return ``[..., k]`` in the order as given; uncopied if that is the sorted order."""
        return self._moved(self._core.to_given, entries)

    def _moved(self, move: Callable[[int, int, int, int, int], None], entries: Array) -> Array:
        if self._core.as_given:
            return entries
        entries = np.ascontiguousarray(entries)
        moved = np.empty(entries.shape, entries.dtype)
        rows, width = prod(entries.shape[:-1]), entries.itemsize
        move(entries.ctypes.data, moved.ctypes.data, rows, width, self.threads)
        return moved


class Route:
    """How the entries of one side, targets or sources, travel to their owners and back.

    Parameters
    ----------
    order
        That of the shard: sorted, the entries of an owner are together.
    anchors
        The sorted shard.
    there, here
        How many entries go to each rank, and come from each.
    """

    def __init__(
        self, comm: Communicator, order: Sorted, anchors: Array, there: list[int], here: list[int]
    ) -> None:
        self._comm = comm
        self._order = order
        self._there = there
        self._here = here
        arrived = self._exchange(anchors, there, here)
        self._arrival = Sorted(arrived, order.threads, run=here[0])  # of what each rank sorted
        self.anchors = self._arrival.sort(arrived)

    @property
    def shard_size(self) -> int:
        """How many entries this rank has in user order."""
        return sum(self._there)

    @property
    def line_size(self) -> int:
        """How many entries this rank has in line order."""
        return sum(self._here)

    @property
    def nbytes(self) -> int:
        """The number of bytes held."""
        return self._order.nbytes + self._arrival.nbytes + self.anchors.nbytes

    def to_line(self, entries: Array) -> Array:
        """Send ``[..., shard_size]`` to the owners; returns ``[..., line_size]``."""
        sent = self._order.sort(entries)
        return self._arrival.sort(self._exchange(sent, self._there, self._here))

    def from_line(self, entries: Array) -> Array:
        """Send ``[..., line_size]`` home; returns ``[..., shard_size]``."""
        sent = self._arrival.unsort(entries)
        return self._order.unsort(self._exchange(sent, self._here, self._there))

    def _exchange(self, entries: Array, there: list[int], here: list[int]) -> Array:
        rows, shape = prod(entries.shape[:-1]), (*entries.shape[:-1], sum(here))
        if rows == 1:
            return self._comm.exchange(entries.ravel(), there, here).reshape(shape)
        parts = np.split(entries.reshape(rows, sum(there)), np.cumsum(there)[:-1], axis=1)
        given = np.concatenate(parts, axis=None)
        sizes, counts = ([rows * each for each in many] for many in (there, here))
        arrived = np.split(self._comm.exchange(given, sizes, counts), np.cumsum(counts)[:-1])
        matrices = [part.reshape(rows, count) for part, count in zip(arrived, here, strict=True)]
        return np.concatenate(matrices, axis=1).reshape(shape)


class Line:
    """The line of the anchors of all ranks, and this rank's part of it.

    Collective; the anchors ``[n]`` and ``[m]`` are finite and of one dtype on all ranks. Without
    sources, targets and sources are the same anchors.

    Attributes
    ----------
    comm
        The group.
    targets, sources
        The routes of both sides; one and the same in the self case.
    x, y
        This rank's part of the line, sorted; `y` is None in the self case.
    share
        What the core has to know of the other ranks; None on one process.
    """

    def __init__(
        self, comm: Communicator, targets: Array, sources: Array | None, threads: int
    ) -> None:
        self.comm = comm
        sides = [targets] if sources is None else [targets, sources]
        sizes = np.array([side.size for side in sides])
        shards = np.stack(comm.all_gather(sizes, [len(sides)] * comm.size))
        _check_counts(shards.sum(1), "passes")
        self._checksums = [crc32(side.data) for side in sides]
        orders = [Sorted(side, threads) for side in sides]
        anchors = [order.sort(side) for order, side in zip(orders, sides, strict=True)]
        ends, before = _cuts(comm, anchors, int(shards.sum()))
        self._counts = np.diff(before)
        _check_counts(self._counts, "owns")
        there = np.stack(
            [np.diff(e, prepend=0, append=n) for e, n in zip(ends, sizes, strict=True)]
        )
        here = np.array(comm.all_to_all(list(there.T), [len(sides)] * comm.size)).T
        routes = [
            Route(comm, *each)
            for each in zip(orders, anchors, there.tolist(), here.tolist(), strict=True)
        ]
        self.targets, self.sources = routes[0], routes[-1]
        held = [route.anchors for route in routes]
        self.x, self.y = held[0], None if sources is None else held[1]
        self.share: tuple[Any, ...] | None = None
        if comm.size > 1:
            firsts = [side[0] for side in held if side.size]
            mine = np.array([min(firsts, default=np.nan)], np.float64)
            later = np.concatenate(comm.all_gather(mine, [1] * comm.size)[comm.rank :])[1:]
            next_anchor = next((float(each) for each in later if not np.isnan(each)), None)
            offset, total = int(before[comm.rank]), int(before[-1])
            self.share = (comm.rank, comm.size, offset, total, next_anchor, self.gather)

    def route(self, side: str) -> Route:
        """Return the route of the ``"targets"`` or the ``"sources"``."""
        return self.targets if side == "targets" else self.sources

    @property
    def nbytes(self) -> int:
        """The number of bytes held on this rank."""
        routes = {id(route): route for route in (self.targets, self.sources)}.values()
        return sum(route.nbytes for route in routes)

    def holds(self, targets: Array, sources: Array | None) -> bool:
        """Whether these are the anchors ``[n]`` and ``[m]`` of this rank's shard."""
        sides = [targets] if sources is None else [targets, sources]
        return targets.dtype == self.x.dtype and self._checksums == [crc32(s.data) for s in sides]

    def warn_of_ties(self) -> None:
        """Warn on the first rank if one has far more than its share.

        The last step of a collective call: a warning may be an error, on this rank alone.
        """
        counts, rank = self._counts, int(np.argmax(self._counts))
        fair = counts.sum() / self.comm.size
        if self.comm.rank == 0 and counts[rank] > 1.5 * fair + SEGMENT:
            warnings.warn(
                f"rank {rank} gets {counts[rank]} of the {counts.sum()} anchors, whose fair share "
                f"is {fair:.0f}, because equal anchors stay together: products take as long as "
                "this rank needs; merge equal anchors, or use fewer processes",
                UserWarning,
                stacklevel=3,
            )

    def gather(self, mine: NDArray[np.float64], counts: list[int]) -> NDArray[np.float64]:
        """Return the vectors of all ranks in one, for the core."""
        return np.concatenate(self.comm.all_gather(mine, counts))


def _check_counts(counts: Array, what: str) -> None:
    """Refuse more anchors on a rank than the core can number; all ranks know the counts ``[P]``."""
    rank = int(np.argmax(counts))
    if counts[rank] > MOST_ANCHORS:
        raise ValueError(
            f"rank {rank} {what} {counts[rank]} anchors, targets and sources together, but can "
            f"number only {MOST_ANCHORS}: spread them over more processes"
        )


def _values(keys: Array, dtype: np.dtype[Any]) -> Array:
    """Return the numbers that the keys, unsigned integers in the same order, stand for.

    What lies beyond the infinities gives them: no anchor does.
    """
    infinity = np.array(np.inf, dtype).view(f"u{dtype.itemsize}")
    sign = infinity.dtype.type(1) << infinity.dtype.type(8 * dtype.itemsize - 1)
    keys = keys.astype(infinity.dtype).clip(~(infinity | sign), infinity | sign)
    values: Array = np.where(keys & sign, keys ^ sign, ~keys).view(dtype)
    return values


def _cuts(comm: Communicator, anchors: Sequence[Array], total: int) -> tuple[list[Array], Array]:
    """Cut the line at the multiples of a segment that are nearest to equal shares.

    Parameters
    ----------
    comm
        The group.
    anchors
        The sorted shard ``[k]`` of each side.
    total
        The number of anchors of all ranks.

    Returns
    -------
    list
        Where the anchors of each side are cut, ``[size - 1]``.
    array
        The number of anchors before each rank, and their total, ``[size + 1]``.

    Notes
    -----
    A cut is the least number with at least so many anchors at or below it, which go to its left. So
    equal anchors stay together. Its key, an unsigned integer, is found byte by byte, from the
    counts of all 256 values of a byte.
    """
    dtype = anchors[0].dtype

    def ends(keys: Array) -> list[Array]:
        values = _values(keys, dtype)
        return [np.searchsorted(side, values, "right") for side in anchors]

    shares = np.arange(1, comm.size) * (total / comm.size)
    wanted = np.minimum(np.rint(shares / SEGMENT).astype(np.int64) * SEGMENT, total)
    cut = np.zeros(comm.size - 1, np.uint64)
    counts = np.zeros(comm.size - 1, np.int64)
    if comm.size > 1 and total:
        for shift in range(8 * (dtype.itemsize - 1), -1, -8):
            steps = np.arange(256, dtype=np.uint64) << np.uint64(shift)
            lasts = cut[:, None] + steps + np.uint64((1 << shift) - 1)  # the last key of each byte
            found = comm.all_reduce(np.sum(ends(lasts), 0, np.int64))
            byte = np.argmax(found >= wanted[:, None], axis=1)
            cut += steps[byte]
            counts = np.take_along_axis(found, byte[:, None], axis=1)[:, 0]
    counts = np.where(wanted > 0, counts, 0)
    cuts = [np.where(wanted > 0, each, 0) for each in ends(cut)]
    return cuts, np.concatenate([[0], counts, [total]])
