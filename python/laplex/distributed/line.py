"""Who owns which part of a line of anchors, and how entries travel there and back.

The anchors of all ranks, targets and sources together, form one line. Each rank has a shard of it,
in any order (user order), and owns an interval of it (line order). The anchors that rank 0 owns,
then those of rank 1 and so on, are sorted; equal ones are in the order of the ranks and positions
that they came from. So the order is that of one process, and no index has to travel.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .._support.communicator import Communicator
from ..numpy.checks import Array

#: The whole line is cut at multiples of this many anchors, where the core's segments end.
SEGMENT = 16384


class Route:
    """How the entries of one side, targets or sources, travel to their owners and back."""

    def __init__(self, comm: Communicator, order: Array, there: list[int], here: list[int]) -> None:
        self._comm = comm
        self._order = order  # of the shard: sorted, so that the entries of an owner are together
        self._there = there  # how many go to each rank
        self._here = here  # how many come from each rank
        self._arrival: Array | None = None  # the order that sorts what arrived

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
        return self._order.nbytes + (0 if self._arrival is None else self._arrival.nbytes)

    def anchors(self, anchors: Array) -> Array:
        """Send the anchors, and remember the order in which they arrive."""
        arrived = self.to_line(anchors)
        self._arrival = np.argsort(arrived, kind="stable")
        return arrived[self._arrival]

    def to_line(self, entries: Array) -> Array:
        """Send ``[..., shard_size]`` to the owners; returns ``[..., line_size]``."""
        arrived = self._exchange(entries[..., self._order], self._there, self._here)
        return arrived if self._arrival is None else arrived[..., self._arrival]

    def from_line(self, entries: Array) -> Array:
        """Send ``[..., line_size]`` home; returns ``[..., shard_size]``."""
        assert self._arrival is not None
        as_arrived = np.empty_like(entries)
        as_arrived[..., self._arrival] = entries
        sent = self._exchange(as_arrived, self._here, self._there)
        home = np.empty_like(sent)
        home[..., self._order] = sent
        return home

    def _exchange(self, entries: Array, there: list[int], here: list[int]) -> Array:
        rows = entries.shape[:-1]
        flat = entries.reshape(int(np.prod(rows)), entries.shape[-1])
        parts = np.split(flat, np.cumsum(there)[:-1], axis=1)
        counts = [len(flat) * count for count in here]
        arrived = self._comm.all_to_all([part.ravel() for part in parts], counts)
        matrices = [
            part.reshape(len(flat), count) for part, count in zip(arrived, here, strict=True)
        ]
        return np.concatenate(matrices, axis=1).reshape(*rows, sum(here))


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
    offset, total
        The number of anchors on ranks before, and on all.
    next_anchor
        The first anchor on a later rank, or None.
    """

    def __init__(self, comm: Communicator, targets: Array, sources: Array | None) -> None:
        self.comm = comm
        sides = [targets] if sources is None else [targets, sources]
        self._checksums = [crc32(side.data) for side in sides]
        orders = [np.argsort(side, kind="stable") for side in sides]
        keys = [_keys(side[order]) for side, order in zip(sides, orders, strict=True)]
        ends, before = _cuts(comm, keys)
        there = [
            np.diff(each, prepend=0, append=len(k)) for each, k in zip(ends, keys, strict=True)
        ]
        del keys
        here = np.array(comm.all_to_all(list(np.stack(there, 1)), [len(sides)] * comm.size))
        routes = [
            Route(comm, order, list(map(int, go)), list(map(int, come)))
            for order, go, come in zip(orders, there, here.T, strict=True)
        ]
        held = [route.anchors(side) for route, side in zip(routes, sides, strict=True)]
        self.targets, self.sources = routes[0], routes[-1]
        self.x, self.y = held[0], None if sources is None else held[1]
        self.offset, self.total = int(before[comm.rank]), int(before[-1])
        firsts = [side[0] for side in held if side.size]
        first = np.array([min(firsts, default=np.nan)], np.float64)
        later = np.concatenate(comm.all_gather(first, [1] * comm.size)[comm.rank :])[1:]
        later = later[~np.isnan(later)]
        self.next_anchor = float(later[0]) if later.size else None
        if comm.rank == 0:
            _warn_of_ties(np.diff(before))

    def route(self, side: str) -> Route:
        """Return the route of the ``"targets"`` or the ``"sources"``."""
        return self.targets if side == "targets" else self.sources

    @property
    def nbytes(self) -> int:
        """The number of bytes held on this rank."""
        routes = {id(route): route for route in (self.targets, self.sources)}.values()
        held = self.x.nbytes + (0 if self.y is None else self.y.nbytes)
        return held + sum(route.nbytes for route in routes)

    def holds(self, targets: Array, sources: Array | None) -> bool:
        """Whether these are the anchors ``[n]`` and ``[m]`` of this rank's shard."""
        sides = [targets] if sources is None else [targets, sources]
        return targets.dtype == self.x.dtype and self._checksums == [crc32(s.data) for s in sides]

    def gather(self, mine: NDArray[np.float64], counts: list[int]) -> NDArray[np.float64]:
        """Return the vectors of all ranks in one, for the core."""
        return np.concatenate(self.comm.all_gather(mine, counts))


def _keys(anchors: Array) -> Array:
    """Return unsigned integers in the order of the anchors; 0.0 and -0.0 have the same one."""
    bits = (anchors + anchors.dtype.type(0)).view(f"u{anchors.dtype.itemsize}")
    sign = bits.dtype.type(1) << bits.dtype.type(8 * anchors.dtype.itemsize - 1)
    keys: Array = np.where(bits & sign, ~bits, bits | sign)
    return keys


def _cuts(comm: Communicator, keys: Sequence[Array]) -> tuple[list[Array], Array]:
    """Cut the line at the multiples of a segment that are nearest to equal shares.

    Returns
    -------
    list
        For each side, where its sorted keys ``[k]`` are cut, ``[size - 1]``.
    array
        The number of anchors before each rank, and their total, ``[size + 1]``.

    Notes
    -----
    A cut is the least key with at least so many keys at or below it, which go to its left. So equal
    keys stay together. It is found byte by byte, from the counts of all 256 values of a byte.
    """
    width = keys[0].dtype.itemsize
    total = int(comm.all_reduce(np.array([sum(map(len, keys))], np.int64))[0])
    shares = np.arange(1, comm.size) * (total / comm.size)
    wanted = np.minimum(np.rint(shares / SEGMENT).astype(np.int64) * SEGMENT, total)
    cut = np.zeros(comm.size - 1, np.uint64)
    counts = np.zeros(comm.size - 1, np.int64)
    if comm.size > 1 and total:
        for shift in range(8 * (width - 1), -1, -8):
            steps = np.arange(256, dtype=np.uint64) << np.uint64(shift)
            lasts = cut[:, None] + steps + np.uint64((1 << shift) - 1)  # the last key of each byte
            mine = sum(np.searchsorted(k, lasts.astype(k.dtype), "right") for k in keys)
            found = comm.all_reduce(np.asarray(mine, np.int64))
            byte = np.argmax(found >= wanted[:, None], axis=1)
            cut += steps[byte]
            counts = np.take_along_axis(found, byte[:, None], axis=1)[:, 0]
    counts = np.where(wanted > 0, counts, 0)
    ends = [np.where(wanted > 0, np.searchsorted(k, cut.astype(k.dtype), "right"), 0) for k in keys]
    return ends, np.concatenate([[0], counts, [total]])


def _warn_of_ties(counts: Array) -> None:
    fair = counts.sum() / len(counts)
    rank = int(np.argmax(counts))
    if counts[rank] > 1.5 * fair + SEGMENT:
        warnings.warn(
            f"rank {rank} gets {counts[rank]} of the {counts.sum()} anchors, whose fair share is "
            f"{fair:.0f}, because equal anchors stay together: products take as long as this rank "
            "needs; merge equal anchors, or use fewer processes",
            UserWarning,
            stacklevel=4,
        )
