"""tools/release.py: the version of a release in every file that names it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("release", ROOT / "tools/release.py")
assert spec is not None
assert spec.loader is not None
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

FILES = (
    *release.VERSIONS,
    *release.WITH_PLACEHOLDER,
    release.CHANGELOG,
    "pyproject.toml",
    "README.md",
)
ADDRESS = "https://example.org/laplex"
URLS = "".join(
    f'{name} = "{ADDRESS}"\n' for name in ("Repository", "Documentation", "Changelog", "Issues")
)
CURRENT = release.versions(ROOT)["CMakeLists.txt"]
VERSIONS = st.tuples(*3 * [st.integers(0, 30)]).map(lambda parts: ".".join(map(str, parts)))
HIGHER = VERSIONS.filter(lambda version: release.numbers(version) > release.numbers(CURRENT))
DATES = st.dates().map(str)


@contextmanager
def project() -> Iterator[Path]:
    """The files of a project that has an address and something new."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in FILES:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        for name in release.WITH_PLACEHOLDER:
            release.edit(root / name, lambda text: text.replace(release.PLACEHOLDER, "somebody"))
        release.edit(root / "pyproject.toml", lambda text: f"{text}\n[project.urls]\n{URLS}")
        release.edit(root / "CITATION.cff", lambda text: f"{text}repository-code: {ADDRESS}\n")
        release.edit(
            root / "README.md", lambda text: re.sub(release.RELATIVE, rf"]({ADDRESS}/\1)", text)
        )
        news = f"{release.UNRELEASED}\n\n- News.\n"
        release.edit(
            root / release.CHANGELOG, lambda text: text.replace(release.UNRELEASED, news, 1)
        )
        yield root


def contents(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text(encoding="utf-8") for name in FILES}


def test_the_files_of_this_revision_agree() -> None:
    assert set(release.versions(ROOT).values()) == {CURRENT}
    assert next(iter(release.sections(ROOT))) == release.UNRELEASED


@quick
@given(HIGHER, DATES)
def test_a_version_that_is_written_passes_the_check(version: str, date: str) -> None:
    with project() as root:
        news = release.sections(root)[release.UNRELEASED]
        release.write(root, version, date)
        release.check(root, f"v{version}")
        assert release.section(root, version) == (date, news)
        assert release.sections(root)[release.UNRELEASED] == ""


@quick
@given(HIGHER, VERSIONS, DATES)
def test_a_tag_that_is_not_the_version_is_refused(version: str, tag: str, date: str) -> None:
    with project() as root:
        release.write(root, version, date)
        if tag != version:
            with pytest.raises(SystemExit, match=re.escape(f"the tag is v{tag}, but")):
                release.check(root, f"v{tag}")
        with pytest.raises(SystemExit, match="starts with v"):
            release.check(root, version)


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("CITATION.cff", "date-released: ", "# ", "lacks the line 'date-released"),
        ("CITATION.cff", "version: 99.0.0", "version: 99.0.1", "CITATION.cff has 99.0.1"),
        ("CMakeLists.txt", "VERSION 99.0.0", "VERSION 98.0.0", "CMakeLists.txt has 98.0.0"),
        ("tools/conda/recipe.yaml", '"99.0.0"', '"98.0.0"', "recipe.yaml has 98.0.0"),
        ("tools/conda/recipe.yaml", "- somebody", "- OWNER", "has the placeholder"),
        ("CHANGELOG.md", "## 99.0.0 (", "## 99.0.1 (", "has no section 99.0.0"),
        ("pyproject.toml", "[project.urls]", "# [project.urls]", "has no Repository"),
        ("pyproject.toml", "Changelog = ", "Changes = ", "has no Changelog"),
        ("CITATION.cff", "repository-code", "repository", "has no repository-code"),
        ("README.md", f"]({ADDRESS}/SECURITY.md)", "](SECURITY.md)", "links to SECURITY.md"),
    ],
)
def test_a_file_that_disagrees_is_refused(name: str, before: str, after: str, message: str) -> None:
    with project() as root:
        release.write(root, "99.0.0", "2030-01-02")
        assert before in (root / name).read_text(encoding="utf-8")
        release.edit(root / name, lambda text: text.replace(before, after))
        with pytest.raises(SystemExit, match=message):
            release.check(root, "v99.0.0")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("0.0.0", "lower than"),
        ("99.0", "not a version"),
        ("v99.0.0", "not a version"),
        ("99.0.01", "not a version"),
        ("99.0.0", "has nothing below"),
    ],
)
def test_a_version_that_cannot_be_released_changes_no_file(version: str, message: str) -> None:
    with project() as root:
        release.write(root, "98.0.0", "2030-01-02")  # now there is nothing new
        before = contents(root)
        with pytest.raises(SystemExit, match=message):
            release.write(root, version, "2030-01-03")
        assert contents(root) == before


def test_a_version_cannot_be_released_twice() -> None:
    with project() as root:
        release.write(root, "98.0.0", "2030-01-02")
        with pytest.raises(SystemExit, match=r"has a section .* already"):
            release.write(root, "98.0.0", "2030-01-03")


def test_links_of_the_notes_lead_to_the_files_of_the_tag() -> None:
    with project() as root:
        news = "[a](docs/a.md#b), [c](https://example.com), [d](#e)"
        release.edit(root / release.CHANGELOG, lambda text: text.replace("- News.", news, 1))
        release.write(root, "99.0.0", "2030-01-02")
        found = release.notes(root, "v99.0.0")
        assert found.startswith(
            f"[a]({ADDRESS}/blob/v99.0.0/docs/a.md#b), [c](https://example.com), [d](#e)"
        )
