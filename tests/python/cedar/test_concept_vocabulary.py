"""The vocabulary of the examples: what is in it, and what is not."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import concept_vocabulary
from concept_vocabulary import KINDS, OFFENSIVE, Word, load_vocabulary

# A WordNet of our own, in the format of wndb(5WN).
SYNSETS = """\
  1 This licence is indented.
00000001 05 n 01 cat 0 001 @ 00000009 n 0000 | feline mammal; small; "the cat sat"
00000002 06 n 02 car 0 auto 0 000 | a motor vehicle; "he needs a car"
00000003 04 n 01 run 0 000 | the act of running
00000004 18 n 01 run 0 000 | somebody
00000005 14 n 01 World_Health_Organization 0 001 ;u 00000008 n 0000 | not in small letters
00000006 06 n 01 will 0 000 | a document
00000007 18 n 01 dude 0 001 ;u 00000008 n 0000 | marked
00000008 10 n 01 disparagement 0 000 | a communication that belittles
00000010 15 n 01 Paris 0 000 | a name
00000011 17 n 01 sky 0 000 | the atmosphere
00000012 18 n 01 whore 0 000 | not marked
"""
INDEX = """\
  1 This licence is indented.
auto n 1 0 1 0 00000002
car n 1 0 1 1 00000002
cat n 2 1 @ 2 1 00000001 00000004
dude n 1 0 1 0 00000007
paris n 1 0 1 0 00000010
run n 2 0 2 2 00000003 00000004
sky n 1 0 1 0 00000011
whore n 1 0 1 0 00000012
will n 1 0 1 0 00000006
xqzjv n 1 0 1 0 00000001
"""
COUNTS = """\
car%1:06:00:: 1 70
cat%1:05:00:: 1 18
cat%2:35:00:: 1 18
will%1:06:00:: 1 2
will%2:41:00:: 1 90
"""


@pytest.fixture
def small(tmp_path):
    for name, text in (("data.noun", SYNSETS), ("index.noun", INDEX), ("cntlist.rev", COUNTS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_each_rule_on_a_small_wordnet(small):
    pytest.importorskip("wordfreq")
    words = load_vocabulary(wordnet=small)
    assert [word.word for word in words] == ["car", "cat", "sky", "auto"]  # the most frequent first
    assert [word.lexname for word in words] == [
        "noun.artifact",
        "noun.animal",
        "noun.object",
        "noun.artifact",
    ]
    assert words[1].gloss == "feline mammal; small"
    assert 4 < words[1].zipf < 6
    assert load_vocabulary(2, small) == words[:2]


def test_the_vocabulary():
    pytest.importorskip("wordfreq")
    if not concept_vocabulary.WORDNET.exists():
        pytest.skip("WordNet is not installed: apt-get install wordnet-base")
    words = load_vocabulary()
    assert 6500 < len(words) < 7200
    found = {word.word: word for word in words}
    assert len(found) == len(words)
    assert found["dog"].lexname == "noun.animal"
    assert found["bread"].gloss.startswith("food made from dough")
    assert {"house", "river", "nurse", "oak", "copper", "elbow", "rain"} <= found.keys()
    assert not {"will", "like", "idea", "who", "paris", "run"} & found.keys()
    assert not OFFENSIVE & found.keys()
    assert {word.lexname for word in words} == {f"noun.{kind}" for kind in KINDS.values()}
    frequencies = [word.zipf for word in words]
    assert frequencies == sorted(frequencies, reverse=True)
    assert frequencies[-1] >= 2.5
    assert all(isinstance(word, Word) and word.gloss and word.gloss[0] != '"' for word in words)


def test_what_is_missing_is_named(tmp_path, small, monkeypatch):
    pytest.importorskip("wordfreq")
    with pytest.raises(FileNotFoundError, match=r"data\.noun: apt-get install wordnet-base"):
        load_vocabulary(wordnet=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_vocabulary(0, small)
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(ImportError, match=r'pip install "laplex\[examples\]"'):
        load_vocabulary(wordnet=small)


def test_the_command(small, monkeypatch, capsys):
    pytest.importorskip("wordfreq")
    command = ["concept_vocabulary.py", "--wordnet", str(small), "--kind", "animal"]
    monkeypatch.setattr(sys, "argv", command)
    concept_vocabulary.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 words: noun.artifact 2")
    assert len(lines) == 2
    assert lines[1].split()[1] == "cat"
