"""Pages: what is put into a template is escaped, and what it names must be there."""

from __future__ import annotations

import sys
from importlib import import_module

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
        numbers=[(evil, evil)],
        terms={evil: evil},
        image=b"png",
        about=evil,
    )
    assert page.count("&lt;script&gt;&#34;&#39;&amp;") == 10
    assert "<script" not in page
    assert page.count("<td class=best>") == 1
    assert 'src="data:image/png;base64,cG5n" class=plot>' in page


def test_a_value_that_is_missing_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render_page(package, "page.html", extra="demo")


def test_without_jinja_the_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'needs jinja2: pip install "laplex\[demo\]"'):
        render_page(package, "page.html", extra="demo")
