"""Find out what the axes of word embeddings stand for: CEDAR on a vocabulary of concepts.

    python examples/cedar_words.py [--quick] [--text gloss] [--starts 3] [-k 4] [--out DIR]

The program embeds some 6,800 concrete nouns with all-MiniLM-L6-v2. It learns a rotation in which
few coordinates describe each noun. It names the axes that disjoint parts of the nouns confirm by
words of the vocabulary itself, and writes an HTML report. It needs laplex[examples] and WordNet
(apt-get install wordnet-base) and takes five minutes on one core; --quick takes one minute.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from concept_vocabulary import load_vocabulary

from laplex.cedar import CEDAR, chance_scores, name_axes, report, top_examples
from laplex.cedar.baselines import PCA, RandomRotation
from laplex.cedar.encoders import SentenceEncoder
from laplex.cedar.metrics import fve
from laplex.cedar.naming import AxisNames


@dataclass
class Findings:
    """Results of the example."""

    held_out: dict[str, float]  # method -> fraction of variance explained
    model: CEDAR
    names: AxisNames
    chance: float


def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split rows at random: four fifths to fit to, one fifth to judge by."""
    order = np.random.default_rng(0).permutation(len(rows))
    cut = len(rows) * 4 // 5
    return rows[order[:cut]], rows[order[cut:]]


def study(embeddings: np.ndarray, words: list[str], k: int, starts: int) -> Findings:
    """Fit to four fifths and judge on the rest; then fit to all and name the confirmed axes."""
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


def rotation_error(restarts: np.ndarray) -> float:
    """Return the largest entry of U U^T - I over the restarts [r, d, d]."""
    exact = restarts.astype(np.float64)
    return float(np.abs(exact @ exact.transpose(0, 2, 1) - np.eye(exact.shape[-1])).max())


def both_ends(model: CEDAR, rows: np.ndarray, words: list[str], names: AxisNames) -> list[str]:
    """List the named ends of the best axes, each with the words that have the largest codes."""
    examples = top_examples(model, rows, 6)
    lines = []
    for axis in [axis for axis in names.ranked() if axis.named][:8]:
        for sign, name, found in (
            ("+", axis.positive, examples.positive[axis.axis]),
            ("-", axis.negative, examples.negative[axis.axis]),
        ):
            if name is not None:
                listed = ", ".join(words[row] for row in found if row >= 0)
                lines.append(f"{axis.axis:4d}{sign} {name.word} ({name.score:.2f}): {listed}")
    return lines


def spelled_alike(
    model: CEDAR, rows: np.ndarray, words: list[str], axes: np.ndarray
) -> tuple[int, int]:
    """Count the ends of axes where 4 of the first 6 words begin with the same two letters.

    Word embeddings also encode the spelling, and an axis of "st..." gets a name like any other. The
    second number returned is that of all ends with 6 words.
    """
    examples = top_examples(model, rows, 6)
    ends = [found for end in (examples.positive, examples.negative) for found in end[axes]]
    full = [[words[row][:2] for row in found] for found in ends if (found >= 0).all()]
    return sum(max(map(letters.count, letters)) >= 4 for letters in full), len(full)


def neighbours(
    rows: np.ndarray, words: list[str], z: np.ndarray, count: int | None = 5
) -> list[str]:
    """Return the words nearest to z by the cosine about the mean; all words for None."""
    centre = rows.mean(0)
    unit = (rows - centre) / np.linalg.norm(rows - centre, axis=1, keepdims=True)
    return [words[i] for i in np.argsort(-unit @ (z - centre))[:count]]


def main() -> None:
    """Embed the words, fit CEDAR, name its axes, steer a word, and write a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use only a thousand words")
    parser.add_argument(
        "--text",
        choices=("word", "gloss"),
        default="word",
        help='text to embed: the word alone, or "word: gloss"',
    )
    parser.add_argument("--starts", type=int, default=3, help="number of starts")
    parser.add_argument("-k", type=int, default=4, help="number of nonzero entries of a code")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("cedar-words"),
        help="folder for the report and the model",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    vocabulary = load_vocabulary(limit=1000 if options.quick else None)
    words = [entry.word for entry in vocabulary]
    glossed = [f"{entry.word}: {entry.gloss}" for entry in vocabulary]
    texts = glossed if options.text == "gloss" else words
    encoder = SentenceEncoder.mini_lm(normalize=False)
    cache = options.out / "embeddings"
    embeddings = np.array(encoder.encode_texts(texts, batch_size=64, progress=True, cache=cache))

    found = study(embeddings, words, options.k, options.starts)
    print(f"\n{len(words)} words, {embeddings.shape[1]} columns, k = {options.k}:")
    for name, value in found.held_out.items():
        print(f"  {value:.3f} of the variance of held-out words: {name}")
    print(
        f"  {rotation_error(found.model.restarts_):.0e}: the largest entry of U U^T - I, all starts"
    )
    print(found.model.confirmation_.table(12))
    print(found.names.table(12))
    print("\n".join(both_ends(found.model, embeddings, words, found.names)))
    confirmed = np.flatnonzero(found.model.confirmed_)
    alike, ends = spelled_alike(found.model, embeddings, words, confirmed)
    print(
        f"at {alike} of {ends} ends of confirmed axes, most words begin with the same two letters"
    )
    print(f"the best word of a random direction has a cosine of {found.chance:.2f} on average")

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
        print(f"moved along axis {axis.axis} to its {name.word if name else ''} end, it is near "
              f"{', '.join(neighbours(embeddings, words, moved))};")  # fmt: skip
        if name:
            before, after = (
                1 + neighbours(embeddings, words, z, None).index(name.word)
                for z in (embeddings[place], moved)
            )
            print(f"{name.word} moved from rank {before} to rank {after} among its nearest words")
    page = report(
        found.model,
        embeddings,
        out=options.out / "report.html",
        names=found.names,
        items=glossed,
        compare=not options.quick,
        title="Axes of word embeddings",
        progress=True,
    )
    found.model.save(options.out / "model")
    print(f"\nwrote {page} and {options.out / 'model'}")


if __name__ == "__main__":
    main()
