"""Tasks with 10^5 to 10^6 inputs: glosses as hashed n-grams, and crops of photographs.

Glosses come from Debian's package wordnet-base, photographs from scikit-image and scikit-learn. A
small form of each task needs neither more than these two packages nor files of the system.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import TypeAlias

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from torch import Tensor

WORDNET = Path("/usr/share/wordnet/data.noun")
#: Photographs with three colours; the last two are large, and shrunk by half for small crops.
PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket", "stereo_motorcycle",
    "hubble_deep_field", "retina",
)  # fmt: skip

Matrix: TypeAlias = scipy.sparse.csr_matrix | NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Rows of inputs and their classes: `to_learn` from, `to_choose` rates by, and `to_test`."""

    inputs: Matrix
    labels: Tensor
    to_learn: range
    to_choose: range
    to_test: range
    classes: int
    #: Height and width of images whose pixels have three colours each, or None for text.
    size: tuple[int, int] | None = None

    @property
    def features(self) -> int:
        return int(self.inputs.shape[1])


def batch(inputs: Matrix, rows: NDArray[np.int64]) -> Tensor:
    """Rows as a tensor: sparse for text; for images, each of mean 0 and variance 1 by colour."""
    if scipy.sparse.issparse(inputs):
        part = inputs[rows]
        owners = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
        places = torch.from_numpy(np.stack((owners, part.indices.astype(np.int64))))
        values = torch.from_numpy(part.data)
        return torch.sparse_coo_tensor(
            places, values, part.shape, is_coalesced=True, check_invariants=False
        )
    taken = torch.from_numpy(inputs[rows])
    if taken.dtype is torch.float32:
        return taken
    pixels = taken.view(len(rows), -1, 3).float()
    spread, mean = torch.std_mean(pixels, 1, keepdim=True)
    return pixels.sub_(mean).div_(spread.clamp_min(1.0)).view(len(rows), -1)


# --- text -----------------------------------------------------------------------------------------


@functools.cache
def glosses(quick: bool) -> Split:
    """Glosses of nouns and the lexicographer files they stand in, 26 classes.

    The small form has paragraphs of Python's manual and their topics instead.
    """
    texts, names = manual() if quick else wordnet()
    order = np.random.default_rng(0).permutation(len(texts))
    learn, choose, test = (300, 100, 100) if quick else (20_000, 4_000, 8_000)
    order = order[: learn + choose + test]
    kinds = sorted(set(names))
    labels = torch.tensor([kinds.index(names[i]) for i in order])
    chosen = [texts[i] for i in order]
    parts = []
    for analyzer, lengths in (("word", (1, 2)), ("char_wb", (3, 4))):
        hashed = HashingVectorizer(
            n_features=2**10 if quick else 2**18,
            analyzer=analyzer,
            ngram_range=lengths,
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )
        parts.append(hashed.transform(chosen))
    counts = parts[0] + parts[1]
    scale = TfidfTransformer(sublinear_tf=True).fit(counts[:learn])
    inputs = scale.transform(counts).tocsr().astype(np.float32)
    inputs.sort_indices()
    inputs *= np.sqrt(inputs.nnz / inputs.shape[0])  # so that stored entries have mean square 1
    ends = np.cumsum([0, learn, choose, test]).tolist()
    return Split(inputs, labels, *map(range, ends[:-1], ends[1:]), classes=len(kinds))


def wordnet() -> tuple[list[str], list[str]]:
    """The glosses of WordNet's nouns, and the numbers of their lexicographer files."""
    if not WORDNET.exists():
        raise FileNotFoundError(
            f"{WORDNET} is missing: run apt-get install wordnet-base, or pass --quick"
        )
    lines = [each for each in WORDNET.read_text().splitlines() if not each.startswith("  ")]
    return [each.split("|", 1)[1].strip() for each in lines], [each[9:11] for each in lines]


def manual() -> tuple[list[str], list[str]]:
    """Paragraphs of the longest topics of Python's manual, which Python brings along."""
    longest = sorted(topics, key=lambda name: -len(topics[name]))[:4]
    pairs = [
        (each, name)
        for name in longest
        for each in re.split(r"\n\s*\n", topics[name])
        if len(each) > 40
    ]
    texts, names = zip(*pairs, strict=True)
    return list(texts), list(names)


# --- photographs ----------------------------------------------------------------------------------


@functools.cache
def photographs(side: int, quick: bool) -> Split:
    """Square crops of photographs; the class is the photograph and the quarter of its places.

    A crop lies at a random place, and has random contrast, brightness and noise.
    """
    if quick:
        images = [np.asarray(each)[::8, ::8] for each in load_sample_images().images]
        learn, choose, test = 64, 32, 32
    else:
        images = small_images() if side < 500 else large_images()
        learn, choose, test = (512, 192, 384) if side < 500 else (160, 0, 120)
    random = np.random.default_rng(0)
    count = learn + choose + test
    crops = np.empty((count, side * side * 3), np.uint8)
    labels = np.empty(count, np.int64)
    for i in range(count):
        which = int(random.integers(len(images)))
        free = np.array(images[which].shape[:2]) - side
        place = random.integers(0, free + 1)
        quarter = (2 * place > free) @ np.array([2, 1])
        labels[i] = 4 * which + quarter
        top, left = place
        crop = images[which][top : top + side, left : left + side].astype(np.float32)
        crop = (crop - 128) * random.uniform(0.5, 1.0) + 128 + random.uniform(-30, 30)
        crop = crop + 15 * random.standard_normal(crop.shape, np.float32)
        crops[i] = np.clip(crop, 0, 255).astype(np.uint8).ravel()
    ends = np.cumsum([0, learn, choose, test]).tolist()
    return Split(
        crops,
        torch.from_numpy(labels),
        *map(range, ends[:-1], ends[1:]),
        classes=4 * len(images),
        size=(side, side),
    )


def photograph(name: str) -> NDArray[np.uint8]:
    """A photograph of scikit-image; of a pair, the first."""
    import skimage.data  # the small form needs none of them

    found = getattr(skimage.data, name)()
    return np.asarray(found[0] if isinstance(found, tuple) else found)[..., :3]


def small_images() -> list[NDArray[np.uint8]]:
    """Ten photographs with 300 to 741 pixels a side."""
    found = [photograph(name) for name in PHOTOGRAPHS]
    return [each[::2, ::2] if min(each.shape[:2]) > 800 else each for each in found] + [
        np.asarray(each) for each in load_sample_images().images
    ]


def large_images() -> list[NDArray[np.uint8]]:
    """The photographs that are larger than 800 pixels, and three that are enlarged twofold."""
    found = [photograph(name) for name in ("hubble_deep_field", "retina")]
    enlarged = [photograph(name) for name in ("astronaut", "coffee", "immunohistochemistry")]
    return found + [each.repeat(2, 0).repeat(2, 1) for each in enlarged]
