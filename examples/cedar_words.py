"""What the axes of a language model's word embeddings stand for: CEDAR on a vocabulary of concepts.

    python examples/cedar_words.py [--quick] [--starts 5] [-k 16] [--out DIR]

Embeds some 6,800 concrete nouns with all-MiniLM-L6-v2, learns a rotation in which few coordinates
describe each, from several starts, names the axes that recur with the vocabulary itself, and
writes an HTML report. Needs laplex[examples] and WordNet (apt-get install wordnet-base). Five
minutes on one core; --quick takes one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from concept_vocabulary import load_vocabulary

from laplex.cedar import CEDAR, chance_scores, name_axes, report, stability
from laplex.cedar.baselines import PCA, RandomRotation
from laplex.cedar.encoders import SentenceEncoder
from laplex.cedar.metrics import fve
from laplex.cedar.naming import AxisNames


@dataclass
class Findings:
    """What the example found."""

    held_out: dict[str, float]  # method -> fraction of variance explained
    model: CEDAR
    names: AxisNames
    chance: float


def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four fifths to fit, one to judge."""
    order = np.random.default_rng(0).permutation(len(rows))
    cut = len(rows) * 4 // 5
    return rows[order[:cut]], rows[order[cut:]]


def study(embeddings: np.ndarray, words: list[str], k: int, starts: int) -> Findings:
    """Fit on four fifths and judge on the rest; then fit all, and name what recurs."""
    train, test = split(embeddings)
    held_out = {}
    for name, method in (
        ("random rotation", RandomRotation(random_state=0)),
        ("PCA, per-row top k", PCA()),
        ("CEDAR", CEDAR(k, random_state=0)),
    ):
        method.fit(train)
        held_out[name] = fve(test, method.inverse_transform(method.transform(test, k)))
    model = CEDAR(k, n_init=starts, random_state=0).fit(embeddings, progress=True)
    names = name_axes(model, embeddings, words)
    return Findings(held_out, model, names, float(chance_scores(embeddings).mean()))


def neighbours(rows: np.ndarray, words: list[str], z: np.ndarray, count: int = 5) -> list[str]:
    """The words nearest to z, by the cosine about the mean."""
    centre = rows.mean(0)
    unit = (rows - centre) / np.linalg.norm(rows - centre, axis=1, keepdims=True)
    return [words[i] for i in np.argsort(-unit @ (z - centre))[:count]]


def main() -> None:
    """Embed, fit, name, steer, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a thousand words, three starts")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("cedar-words"))
    options = parser.parse_args()
    starts = 3 if options.quick else options.starts
    options.out.mkdir(parents=True, exist_ok=True)
    vocabulary = load_vocabulary(limit=1000 if options.quick else None)
    words = [entry.word for entry in vocabulary]
    encoder = SentenceEncoder.mini_lm(normalize=False)
    cache = options.out / "embeddings"
    embeddings = np.array(encoder.encode_texts(words, batch_size=256, progress=True, cache=cache))

    found = study(embeddings, words, options.k, starts)
    print(f"\n{len(words)} words, {embeddings.shape[1]} columns, k = {options.k}")
    for name, value in found.held_out.items():
        print(f"  {value:.3f} of the variance of held-out words: {name}")
    print(stability(found.model.restarts_))
    print(found.names.table(12))
    print(f"a random direction's best word has a cosine of {found.chance:.2f} on average")

    codes = found.model.transform(embeddings)
    ranked = [axis for axis in found.names.ranked() if axis.named]
    if ranked:
        axis = ranked[0]
        name = axis.positive or axis.negative
        end = 1.0 if axis.positive else -1.0
        word = "dog" if "dog" in words else words[0]
        place = words.index(word)
        value = end * float(np.abs(codes[:, axis.axis]).max())
        moved = found.model.intervene(embeddings[place], {axis.axis: value})
        print(f"\n{word!r} is near {', '.join(neighbours(embeddings, words, embeddings[place]))};")
        print(f"with axis {axis.axis} at its {name.word if name else ''} end, near "
              f"{', '.join(neighbours(embeddings, words, moved))}")  # fmt: skip
    page = report(
        found.model,
        embeddings,
        out=options.out / "report.html",
        names=found.names,
        items=[f"{entry.word}: {entry.gloss}" for entry in vocabulary],
        compare=not options.quick,
        title="Axes of word embeddings",
        progress=True,
    )
    found.model.save(options.out / "model")
    print(f"\nwrote {page} and {options.out / 'model'}")


if __name__ == "__main__":
    main()
