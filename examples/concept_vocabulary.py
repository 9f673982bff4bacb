"""A vocabulary of concepts: frequent English nouns for things that can be seen or touched.

    python examples/concept_vocabulary.py [--limit 50] [--wordnet DIR] [--kind animal]

The program joins the word frequencies of wordfreq with the nouns of WordNet 3.0. It prints some
6,800 words, each with a gloss, the most frequent first. The words name the axes of a CEDAR model.

A word is taken if all of these hold:

- It has at least 3 letters and occurs at least once in 3 million words, which is a Zipf frequency
  of 2.5. Below that, the counts of wordfreq are small and most readers do not know the words.
- Its *first* sense in WordNet, the most frequent one, is of a concrete kind (`KINDS`) and written
  in lower case, which excludes names and abbreviations.
- It is a noun at least as often as any other part of speech, by the counts of the tagged texts of
  WordNet. "Will" and "like" are also nouns, but rarely.
- It is not offensive (see `is_offensive`).
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WORDNET = Path("/usr/share/wordnet")
#: The lexicographer files of WordNet with concrete nouns (lexnames(5WN)). This leaves out acts,
#: attributes, cognition, communication, events, feelings, groups, motives, possessions, processes,
#: quantities, relations, shapes, states, times and the tops of the hierarchy.
KINDS = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    15: "location",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    27: "substance",
}
LEAST_ZIPF = 2.5
LEAST_LETTERS = 3
#: Offensive usages that WordNet marks by a pointer ";u" to one of these; it marks only a few.
OFFENSIVE_USAGES = frozenset(("disparagement", "ethnic_slur", "obscenity"))
#: More words, from reading the list: profanity, slurs, and words whose first sense is an insult.
# fmt: off
OFFENSIVE = frozenset((
    "arse", "arsehole", "ass", "bimbo", "boob", "booby", "bugger", "bum", "clit", "commie",
    "coon", "crone", "cum", "cunt", "dick", "dildo", "doofus", "douche", "dumbass", "fanny",
    "fucker", "gipsy", "goon", "gringo", "gypsy", "hag", "harlot", "heathen", "hillbilly", "homo",
    "jackass", "lech", "midget", "moll", "mongrel", "moron", "mulatto", "pervert", "pimp", "pom",
    "ponce", "puss", "pussy", "pygmy", "redneck", "retard", "shag", "shit", "shithead", "shitter",
    "shrimp", "sissy", "skank", "slag", "slut", "spastic", "squaw", "tit", "twat", "twit", "wanker",
    "wench", "whore",
))
# fmt: on
#: Codes in the sense keys of cntlist.rev. Adjectives have two: 3, and 5 for satellites.
_PART_OF_SPEECH = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}


class Word(NamedTuple):
    """A word with its meaning and frequency.

    Attributes
    ----------
    word : str
        The word.
    gloss : str
        Definition of its most frequent sense, without examples.
    zipf : float
        Logarithm to base 10 of its number of uses in a billion words.
    lexname : str
        Kind of thing, such as "noun.animal".
    """

    word: str
    gloss: str
    zipf: float
    lexname: str


class Synset(NamedTuple):
    """A sense that several words share."""

    kind: int
    words: list[str]
    usages: list[str]
    gloss: str


def load_vocabulary(limit: int | None = None, wordnet: Path = WORDNET) -> list[Word]:
    """Return concrete nouns, the most frequent first.

    Parameters
    ----------
    limit : int, optional
        Largest number of words; by default all, about 6,800.
    wordnet : Path
        Folder with the files data.noun, index.noun and cntlist.rev of WordNet.

    Raises
    ------
    FileNotFoundError
        If WordNet is missing: ``apt-get install wordnet-base``.
    ImportError
        If wordfreq is missing: ``pip install "laplex[examples]"``.
    ValueError
        If the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    try:
        import wordfreq
    except ModuleNotFoundError as error:
        if error.name != "wordfreq":
            raise
        raise ImportError('wordfreq is missing: pip install "laplex[examples]"') from error
    synsets = dict(read_synsets(wordnet))
    first_senses = dict(read_first_senses(wordnet))
    uses = read_uses(wordnet)
    words = []
    for word, frequency in wordfreq.get_frequency_dict("en", wordlist="large").items():
        zipf = wordfreq.freq_to_zipf(frequency)
        synset = synsets.get(first_senses.get(word, ""))
        if (
            zipf >= LEAST_ZIPF
            and len(word) >= LEAST_LETTERS
            and word.isalpha()
            and synset is not None
            and synset.kind in KINDS
            and word in synset.words
            and uses[word]["noun"] == max(uses[word].values(), default=0)
            and not is_offensive(word, synset, synsets)
        ):
            definition = synset.gloss.split('; "')[0]
            words.append(Word(word, definition, round(zipf, 2), f"noun.{KINDS[synset.kind]}"))
    words.sort(key=lambda word: (-word.zipf, word.word))
    return words[:limit]


def is_offensive(word: str, synset: Synset, synsets: dict[str, Synset]) -> bool:
    """Whether a word is in the list of offensive words, or WordNet marks its sense."""
    usages = {usage for offset in synset.usages for usage in synsets[offset].words}
    return word in OFFENSIVE or not OFFENSIVE_USAGES.isdisjoint(usages)


def read_synsets(wordnet: Path) -> Iterator[tuple[str, Synset]]:
    """Yield the offset and content of each synset in data.noun; see wndb(5WN)."""
    for line in _lines(wordnet / "data.noun"):
        head, _, gloss = line.partition(" | ")
        offset, kind, _, count, *fields = head.split()
        words, rest = fields[: 2 * int(count, 16) : 2], fields[2 * int(count, 16) :]
        pointers = zip(rest[1::4], rest[2::4], strict=False)
        usages = [target for symbol, target in pointers if symbol == ";u"]
        yield offset, Synset(int(kind), words, usages, gloss.strip())


def read_first_senses(wordnet: Path) -> Iterator[tuple[str, str]]:
    """Yield each noun of index.noun with the offset of its most frequent sense."""
    for line in _lines(wordnet / "index.noun"):
        word, _, count, *fields = line.split()
        yield word, fields[-int(count)]


def read_uses(wordnet: Path) -> defaultdict[str, Counter[str]]:
    """Count each word's uses as a noun, verb, ... in WordNet's tagged texts, from cntlist.rev."""
    uses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in _lines(wordnet / "cntlist.rev"):
        key, _, count = line.split()
        word, _, sense = key.partition("%")
        uses[word][_PART_OF_SPEECH[sense[0]]] += int(count)
    return uses


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a WordNet file without its licence, which is indented."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {path}: apt-get install wordnet-base, or pass the folder of WordNet 3.0"
        ) from error
    with file:
        yield from (line for line in file if not line.startswith(" "))


def main() -> None:
    """Print the vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=50, help="largest number of words to print")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder of WordNet 3.0")
    parser.add_argument(
        "--kind", choices=sorted(KINDS.values()), help="print only words of this kind"
    )
    options = parser.parse_args()
    words = load_vocabulary(wordnet=options.wordnet)
    counts = Counter(word.lexname for word in words)
    print(f"{len(words)} words:", ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    shown = [word for word in words if options.kind in (None, word.lexname.removeprefix("noun."))]
    for word in shown[: options.limit]:
        print(f"{word.zipf:5.2f}  {word.word:15} {word.lexname:16} {word.gloss}")


if __name__ == "__main__":
    main()
