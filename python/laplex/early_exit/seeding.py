"""The same random numbers for an epoch, whether a run came to it or goes on from it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


class EpochSeeds:
    """Seeds torch, NumPy, Python and the loader's generators from (seed, phase, epoch).

    A loader's shuffling gets a generator of its own for the length of a run, and each of its
    samplers another one, so that it does not matter how often an iterator is made (Lightning makes
    one more in a run that was not resumed).
    """

    def __init__(self, seed: int, loader: Any) -> None:
        self.seed = seed
        self.owners = list(_owners(loader))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend generators to the loader; put everything back afterwards, the global ones too."""
        before = [(one, one.generator) for one in self.owners]
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            for owner, _ in before:
                owner.generator = torch.Generator()
            with torch.random.fork_rng():
                yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            for owner, generator in before:
                owner.generator = generator

    def start(self, phase: int, epoch: int) -> None:
        """Seed everything for an epoch."""
        state = np.random.SeedSequence([self.seed, phase, epoch]).generate_state(3)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))  # noqa: NPY002
        random.seed(int(state[1]))
        for place, owner in enumerate(self.owners):
            owner.generator.manual_seed(int(state[2]) + place)


def _owners(loader: Any) -> Iterable[Any]:
    """What draws numbers to go through a loader: itself, for its workers, and its samplers."""
    if not isinstance(loader, DataLoader):
        return
    found = [loader, loader.sampler, loader.batch_sampler]
    found.append(getattr(loader.batch_sampler, "sampler", None))
    seen = set()
    for one in found:
        if hasattr(one, "generator") and id(one) not in seen:
            seen.add(id(one))
            yield one
