"""Pages: what is put into a template is escaped, and what it names must be there."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html import unescape
from importlib import import_module
from pathlib import Path

import jinja2
import pytest

from laplex._support.html_pages import Table, render_page

PAGE = """{% extends "base.html" %}
{% from "elements.html" import definitions, picture, table, tiles %}
{% block content %}
{{ table(rows) }}{{ tiles(numbers) }}{{ definitions(terms) }}{{ picture(image, about) }}
{% endblock %}"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "page_package").mkdir()
    (tmp_path / "page_package" / "__init__.py").touch()
    (tmp_path / "page_package" / "page.html").write_text(PAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return import_module("page_package").__name__


def test_everything_is_escaped(package):
    evil = "<script>\"'&"
    page = render_page(
        package,
        "page.html",
        extra="demo",
        title=evil,
        rows=Table([evil], [[evil], [evil]], best={(1, 0)}),
        numbers=[(evil, evil + "\0\ud800")],
        terms={evil: evil},
        image=b"png",
        about=evil,
    )
    assert page.count("&lt;script&gt;&#34;&#39;&amp;") == 10
    assert "<script" not in page
    assert page.count("<td class=best>") == 1
    assert "\0" not in page
    assert 'src="data:image/png;base64,cG5n" class=figure>' in page


def test_sections_have_names_and_links(package):
    (Path(import_module(package).__file__).parent / "sections.html").write_text(
        '{% extends "base.html" %}{% block content %}<h2>One &amp; {{ about }}</h2>a'
        "<h2>Two</h2>{% endblock %}"
    )
    page = render_page(package, "sections.html", extra="demo", title="t", about="<h2>")
    assert '<a href="#section-1">One &amp; &lt;h2&gt;</a>' in page
    assert '<h2 id="section-1">One &amp; &lt;h2&gt;</h2>a<h2 id="section-2">Two</h2>' in page
    assert page.count("<h2") == 2


def test_nothing_but_the_style_of_the_page_is_allowed(package):
    values = {"rows": Table([], []), "numbers": [], "terms": {}, "image": b"", "about": ""}
    page = render_page(package, "page.html", extra="demo", title="t", **values)
    policy = unescape(re.search('Content-Security-Policy" content="([^"]+)"', page).group(1))
    style = re.search("<style>(.*?)</style>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; script-src 'none'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_value_that_is_missing_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="rows"):
        render_page(package, "page.html", extra="demo")


def test_without_jinja_the_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'needs jinja2: pip install "laplex\[demo\]"'):
        render_page(package, "page.html", extra="demo")
