"""The task of the study of large heads: a misspelt word to the word."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import wordfreq
from numpy.typing import NDArray
from torch import Tensor, nn

Letters = NDArray[np.int64]  # [words, LENGTH], 1 to 26, and 0 after the end

#: The longest word, and with two letters inserted.
LONGEST, LENGTH = 14, 16
#: Pairs and triples of letters, with blanks at both ends, and one place for nothing.
NUM_GRAMS = 27**2 + 27**3 + 1


@cache
def words(count: int) -> list[str]:
    """The most frequent English words of 4 to 14 letters a to z, most frequent first."""
    every = wordfreq.top_n_list("en", 400_000)
    kept = [
        each
        for each in every
        if 4 <= len(each) <= LONGEST and each.isascii() and each.isalpha() and each.islower()
    ]
    if count > len(kept):
        raise ValueError(f"there are {len(kept)} words, fewer than {count}")
    return kept[:count]


@cache
def letters(count: int) -> Letters:
    """The words as numbers of letters."""
    text = "".join(each.ljust(LENGTH, "`") for each in words(count)).encode()
    return (np.frombuffer(text, np.uint8).reshape(count, LENGTH) - ord("`")).astype(np.int64)


def misspelt(given: Letters, rng: np.random.Generator) -> Letters:
    """Change each word in one place: leave out, insert, replace or swap letters."""
    count = len(given)
    length = (given > 0).sum(1)
    kind = rng.integers(4, size=count)
    place = (rng.random(count) * (length - (kind == 3) + (kind == 1))).astype(np.int64)[:, None]
    new = rng.integers(1, 27, size=(count, 1))
    column = np.arange(LENGTH)[None, :]
    kind = kind[:, None]
    source = np.where((kind == 0) & (column >= place), column + 1, column)
    source = np.where((kind == 1) & (column > place), column - 1, source)
    source = np.where((kind == 3) & (column == place), column + 1, source)
    source = np.where((kind == 3) & (column == place + 1), column - 1, source)
    changed = np.take_along_axis(np.pad(given, ((0, 0), (0, 1))), source, axis=1)
    return np.where(((kind == 1) | (kind == 2)) & (column == place), new, changed)


def share_of(given: Letters) -> NDArray[np.str_]:
    """The set that a spelling belongs to, decided by its letters: an eighth is for tests."""
    weights = np.array([pow(31, power, 2**31 - 1) for power in range(LENGTH)])
    number = (given @ weights) % (2**31 - 1) % 8
    return np.select([number == 0, number == 1], ["test", "validation"], "training")


def samples(
    labels: NDArray[np.int64], num_words: int, rng: np.random.Generator, share: str
) -> tuple[Tensor, Tensor]:
    """Misspell each word in one or two places: grams ``[n, 2 LENGTH + 2]`` and labels ``[n]``.

    `share` is "training", "validation" or "test", which have no spelling in common. Words that
    got no spelling of the wanted share in 40 trials are left out.
    """
    correct = letters(num_words)[labels]
    found = correct.copy()
    open_ = np.arange(len(labels))
    for _ in range(40):
        tried = misspelt(correct[open_], rng)
        twice = rng.random(len(open_)) < 0.5
        tried[twice] = misspelt(tried[twice], rng)
        fits = (share_of(tried) == share) & (tried != correct[open_]).any(1)
        found[open_[fits]] = tried[fits]
        open_ = open_[~fits]
        if not len(open_):
            break
    kept = np.setdiff1d(np.arange(len(labels)), open_)
    return grams(found[kept]), torch.from_numpy(labels[kept])


def grams(given: Letters) -> Tensor:
    """The pairs and triples of letters of each word, as numbers below NUM_GRAMS."""
    padded = np.pad(given, ((0, 0), (1, 2)))
    first, second, third = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    pairs = np.where((first > 0) | (second > 0), first * 27 + second, NUM_GRAMS - 1)
    triples = np.where(second > 0, 27**2 + (first * 27 + second) * 27 + third, NUM_GRAMS - 1)
    return torch.from_numpy(np.concatenate([pairs, triples], axis=1))


class Encoder(nn.Module):
    """Features of a word: the sum of the vectors of its pairs and triples of letters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(NUM_GRAMS, width, mode="sum", padding_idx=NUM_GRAMS - 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, given: Tensor) -> Tensor:
        """Compute the features ``[n, width]`` of grams ``[n, k]``."""
        return torch.relu(self.norm(self.vectors(given)))


@torch.no_grad()
def names_of_features(encoder: Encoder, num_words: int, each: int = 2) -> list[str]:
    """Name every feature by the pairs and triples that raise it most, among frequent ones."""
    counts = torch.zeros(NUM_GRAMS)
    for some in grams(letters(num_words)).split(10_000):
        counts += torch.bincount(some.flatten(), minlength=NUM_GRAMS)
    rare = counts < num_words / 100
    rare[-1] = True  # the place for nothing
    vectors = encoder.vectors.weight.masked_fill(rare[:, None], -torch.inf)
    best = vectors.topk(each, dim=0).indices.T
    return [", ".join(_gram(int(number)) for number in row) for row in best]


def _gram(number: int) -> str:
    size = 2 if number < 27**2 else 3
    number -= 0 if size == 2 else 27**2
    places = (number // 27**power % 27 for power in reversed(range(size)))
    return "".join("_" if place == 0 else chr(ord("`") + place) for place in places)
