"""Names of strangers in figures: drawn as they are written, and in the legend."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from laplex._support.figure_text import figure_text
from strategies import quick

#: Also halves of pairs, which UTF-8 cannot hold.
ANY = st.text(st.characters() | st.sampled_from("$\\_\0\ud800\u202e\n"), max_size=60)


@quick
@given(name=ANY)
def test_a_name_is_a_printable_line_without_formulae(name):
    text = figure_text(name)
    assert text.isprintable()
    assert not is_math_text(text)
    assert not text.startswith("_")
    drawn = text.replace(r"\$", "$").strip()
    assert 1 <= len(drawn) <= 34
    if name.isprintable() and name.strip() and len(name) <= 34:
        assert drawn == name.strip()


def test_matplotlib_draws_it():
    names = ("$x_{$", "_first", "a\0b\ud800c", "\u202eright", "", "x" * 100_000)
    figure = Figure()
    axes = figure.subplots()
    for name in names:
        axes.plot([0, 1], label=figure_text(name))
    assert len(axes.legend().get_texts()) == len(names)
    figure.savefig(io.BytesIO())
