"""The same random numbers in an epoch, whether a run is interrupted and resumed or not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


class EpochSeeds:
    """Seeds torch, NumPy, Python and the generators of the loaders from (seed, phase, epoch).

    During a run, each loader and each of its samplers gets its own generator. It then does not
    matter how often an iterator is made (Lightning makes one more in a run that is not resumed).

    Parameters
    ----------
    seed : int
    loaders
        The loaders of training and validation. Only a DataLoader has generators to seed.
    """

    def __init__(self, seed: int, *loaders: Any) -> None:
        self.seed = seed
        self.owners = _owners(loaders)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend generators to the loaders, and restore these and the global ones afterwards."""
        before = [(one, one.generator) for one in self.owners]
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        cuda = _cuda_started()  # starting CUDA here would rule out forked processes
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
            Index of the process. All processes shuffle alike, so that each can take its share, but
            draw different numbers for dropout and augmentation.
        """
        shared = np.random.SeedSequence([self.seed, phase, epoch])
        own = np.random.SeedSequence([self.seed, phase, epoch], spawn_key=(rank,)).generate_state(2)
        torch.manual_seed(int(own[0]))
        np.random.seed(int(own[1]))  # noqa: NPY002
        random.seed(int(own[1]))
        for owner, state in zip(self.owners, shared.generate_state(len(self.owners)), strict=True):
            owner.generator.manual_seed(int(state))


class _LentGenerator(torch.Generator):
    """A generator that is pickled without its state; `EpochSeeds.start` sets the state.

    The state would be sent in a Tensor that is freed before the process starts (torch 2.13).
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _LentGenerator, ()


def _owners(loaders: Any) -> list[Any]:
    """The objects that draw random numbers for loaders: the loaders, and their samplers."""
    found: list[Any] = []
    for loader in loaders:
        if isinstance(loader, DataLoader):
            batches = loader.batch_sampler
            found += [loader, loader.sampler, batches, getattr(batches, "sampler", None)]
    owners = {id(one): one for one in found if _has_generator(one)}
    return list(owners.values())


def _has_generator(one: Any) -> bool:
    """Whether a torch.Generator can be lent; a custom sampler may have another kind."""
    return hasattr(one, "generator") and isinstance(one.generator, (torch.Generator, type(None)))


def _cuda_started() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
