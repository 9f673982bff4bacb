"""Every Python block of README and docs runs, in order, one namespace a page."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import laplex

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # what an example writes stays out of the tree
    namespace: dict[str, object] = {}
    for number, block in enumerate(BLOCK.findall(page.read_text()), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def test_readme_has_examples() -> None:
    assert len(BLOCK.findall(PAGES[0].read_text())) >= 2


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {name}"
        if anchor:
            headings = HEADING.findall(target.read_text())
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page.name} links to {name}#{anchor}"


ERROR_ROW = re.compile(r"^\| `(.+?)` \| `(\w+): (.+)` \|$", re.MULTILINE)


def test_errors_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    namespace: dict[str, object] = {}
    for block in BLOCK.findall(page):
        exec(block, namespace)
    rows = ERROR_ROW.findall(page)
    assert len(rows) == page.count("\n| `") > 50
    for call, kind, message in rows:
        pattern = re.escape(message).replace(r"\.\.\.\ GiB", r"[0-9.,]+\ GiB")
        with pytest.raises(Exception) as raised:  # noqa: PT011 (compared below)
            eval(call, namespace)
        assert (call, raised.type.__name__) == (call, kind)
        assert re.fullmatch(pattern, str(raised.value)), (call, str(raised.value))


def test_docstring_examples() -> None:
    tried = 0
    for info in pkgutil.walk_packages(laplex.__path__, "laplex."):
        if info.name == "laplex._core":
            continue
        result = doctest.testmod(importlib.import_module(info.name))
        assert result.failed == 0, info.name
        tried += result.attempted
    assert tried >= 4
