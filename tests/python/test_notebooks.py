"""The notebooks of the tutorials are stripped and well formed; the build of the docs runs them."""

from __future__ import annotations

import ast
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
HEADING = re.compile(r"^(#+) ", re.MULTILINE)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in read(path)["cells"] if c["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {
        "cedar_embeddings",
        "early_exit_network",
        "first_layer",
        "light_curve",
    }


@each
def test_is_stripped(path: Path) -> None:
    notebook = read(path)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        alone: dict[str, Any] = {"mystnb": {"image": {"alt": alt}}} if alt is not None else {}
        assert cell["metadata"] == alone, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]


@each
def test_figures_have_alternative_texts(path: Path) -> None:
    for cell in read(path)["cells"]:
        shows = cell["cell_type"] == "code" and "plt.show()" in "".join(cell["source"])
        alt = cell["metadata"]["mystnb"]["image"]["alt"] if shows else None
        assert (cell["metadata"] != {}) == shows, cell["id"]
        assert alt is None or re.fullmatch(r"[A-Z].{40,}\.", alt), cell["id"]


@each
def test_cells_have_speaking_ids_and_text(path: Path) -> None:
    notebook = read(path)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-z][a-z-]+", cell["id"])  # stable under editors that draw new ones
        assert "".join(cell["source"]).strip(), cell["id"]


@each
def test_headings(path: Path) -> None:
    levels = [len(marks) for marks in HEADING.findall("\n\n".join(cells(path, "markdown")))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@each
def test_says_how_to_install_and_what_it_cannot_do(path: Path) -> None:
    text = "\n\n".join(cells(path, "markdown"))
    assert 'pip install "laplex[' in text
    assert "## What the method cannot do" in text
    assert "## Where to go next" in text


@each
def test_uses_the_public_interface_alone(path: Path) -> None:
    for source in cells(path, "code"):
        for node in ast.walk(ast.parse(source)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(alias.name for alias in node.names)]
            for module in modules:
                assert not any(part.startswith("_") for part in module.split(".")), module


def test_index_names_every_notebook() -> None:
    index = (TUTORIALS / "index.md").read_text()
    for path in NOTEBOOKS:
        assert f"({path.name})" in index
        assert f"\n{path.stem}\n" in index
