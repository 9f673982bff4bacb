"""The same random numbers for an epoch, whether a run came to it or goes on from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


class EpochSeeds:
    """Seeds torch, NumPy, Python and the loaders' generators from (seed, phase, epoch).

    A loader's shuffling gets a generator of its own for the length of a run, and each of its
    samplers another one, so that it does not matter how often an iterator is made (Lightning makes
    one more in a run that was not resumed).

    Parameters
    ----------
    seed : int
    loaders
        For training and validation; what is no DataLoader has no generators to seed.
    """

    def __init__(self, seed: int, *loaders: Any) -> None:
        self.seed = seed
        self.owners = _owners(loaders)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend generators to the loaders; put everything back afterwards, the global ones too."""
        before = [(one, one.generator) for one in self.owners]
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        cuda = _cuda_started()  # starting it here would forbid forking processes
        try:
            for owner, _ in before:
                owner.generator = _LentGenerator()
            with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []):
                yield
        finally:
            if not cuda and _cuda_started():
                torch.cuda.manual_seed_all(torch.initial_seed())  # as it would have started
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            for owner, generator in before:
                owner.generator = generator

    def start(self, phase: int, epoch: int, rank: int = 0) -> None:
        """Seed everything for an epoch.

        Parameters
        ----------
        phase, epoch : int
        rank : int
            Of the process. All shuffle alike, so that each can take its share, but draw other
            numbers for dropout and augmentation.
        """
        shared = np.random.SeedSequence([self.seed, phase, epoch])
        own = np.random.SeedSequence([self.seed, phase, epoch], spawn_key=(rank,)).generate_state(2)
        torch.manual_seed(int(own[0]))
        np.random.seed(int(own[1]))  # noqa: NPY002
        random.seed(int(own[1]))
        for owner, state in zip(self.owners, shared.generate_state(len(self.owners)), strict=True):
            owner.generator.manual_seed(int(state))


class _LentGenerator(torch.Generator):
    """A generator that goes to other processes without its state, which `EpochSeeds.start` sets.

    The state would go in a Tensor that is gone before the process starts (torch 2.13).
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _LentGenerator, ()


def _owners(loaders: Any) -> list[Any]:
    """What draws numbers to go through loaders: themselves, for their workers; their samplers."""
    found: list[Any] = []
    for loader in loaders:
        if isinstance(loader, DataLoader):
            batches = loader.batch_sampler
            found += [loader, loader.sampler, batches, getattr(batches, "sampler", None)]
    owners = {id(one): one for one in found if _has_generator(one)}
    return list(owners.values())


def _has_generator(one: Any) -> bool:
    """Whether a torch.Generator can be lent; a sampler of the user's may have another kind."""
    return hasattr(one, "generator") and isinstance(one.generator, (torch.Generator, type(None)))


def _cuda_started() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
