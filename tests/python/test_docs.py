"""Every Python block of README and docs runs, in order, one namespace a page."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from numpydoc.validate import validate

import laplex
from laplex._support.registry import Registry
from laplex.cli.commands import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
ALL_PAGES = [*PAGES, *NOTEBOOKS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


# torch's ONNX exporter copies such objects, and so warns of itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # what an example writes stays out of the tree
    namespace: dict[str, object] = {}
    for number, block in enumerate(BLOCK.findall(page.read_text()), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def test_readme_has_examples() -> None:
    assert len(BLOCK.findall(PAGES[0].read_text())) >= 2


def markdown(page: Path) -> str:
    """The text of a page, or of the cells of a notebook that are text."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(markdown(page)):
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {name}"
        if anchor:
            headings = HEADING.findall(markdown(target))
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


REFERENCE = ROOT / "docs" / "reference"
AUTOSUMMARY = re.compile(r"^\.\. currentmodule:: (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documented() -> dict[str, list[str]]:
    """The names of the Python reference, by their modules."""
    names: dict[str, list[str]] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for module, entries in AUTOSUMMARY.findall(page.read_text()):
            names.setdefault(module, []).extend(re.findall(r"^   (\w+)$", entries, re.MULTILINE))
    return names


@pytest.mark.parametrize("name", documented())
def test_every_public_name_is_in_the_reference(name: str) -> None:
    # A name is documented once, in the module where a user would look for it.
    objects = [getattr(importlib.import_module(m), n) for m, ns in documented().items() for n in ns]
    module = importlib.import_module(name)
    public = {n: getattr(module, n) for n in getattr(module, "__all__", [])}
    for registry in [one for one in vars(module).values() if isinstance(one, Registry)]:
        public.update({kind.__name__: kind for kind in registry.values() if callable(kind)})
    for n, value in public.items():
        if isinstance(value, ModuleType):
            assert value.__name__ in documented(), f"{name}.{n} has no section in the reference"
        elif n != "__version__":
            assert any(value is one for one in objects), f"{name}.{n} is not in the reference"


# Codes of numpydoc: an unknown section; parameters that are missing, unknown, or in another order.
FAULTS = {"GL06", "PR01", "PR02", "PR03"}
INHERITED = re.compile(r"\bas in `(\w+\.\w+)`")
SPECIAL = {"__call__", "__getitem__", "__matmul__"}  # as in the template of classes


def members(owner: type) -> Iterator[str]:
    """Methods and properties that the reference shows, also those that a base class of ours has."""
    for name in dir(owner):
        member = inspect.getattr_static(owner, name)
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        doc = getattr(function, "__doc__", None)  # without one, the reference shows that of a base
        ours = str(getattr(function, "__module__", "")).startswith("laplex.")
        shown = not name.startswith("_") or name in SPECIAL
        if inspect.isfunction(function) and ours and shown and doc and ":meta private:" not in doc:
            homes = [base.__module__ for base in owner.__mro__ if name in vars(base)]
            if not any(home.startswith(("gpytorch.", "linear_operator.")) for home in homes):
                yield name  # otherwise, the parameters are those of the other library


def faults(name: str, shown: set[str]) -> list[str]:
    """What numpydoc finds wrong with the parameters of a docstring."""
    found = validate(name)
    summary = found["docstring"].strip().split("\n")[0]
    inherited = not shown.isdisjoint(INHERITED.findall(summary))
    codes = FAULTS - {"PR01"} if inherited else FAULTS
    return [f"{name}: {message}" for code, message in found["errors"] if code in codes]


@pytest.mark.parametrize("module", documented())
def test_every_parameter_is_described(module: str) -> None:
    pages = [getattr(importlib.import_module(m), n) for m, ns in documented().items() for n in ns]
    classes = [one for one in pages if inspect.isclass(one)]
    shown = {f"{one.__name__}.{member}" for one in classes for member in members(one)}
    found = []
    for name in documented()[module]:
        value = getattr(importlib.import_module(module), name)
        if not callable(value):
            continue
        if inspect.isclass(value):
            for member in members(value):
                found += faults(f"{module}.{name}.{member}", shown)
            sections = re.findall(r"^ *(Parameters|Attributes)$", value.__doc__ or "", re.MULTILINE)
            if sections == ["Attributes"]:
                continue  # a result, which users read but do not make
            if not getattr(value.__init__, "__module__", "laplex.").startswith("laplex."):
                continue  # the constructor of another library
        found += faults(f"{module}.{name}", shown)
    assert found == []


CPP_NAME = re.compile(
    r"^(?:class|struct|enum class|using) (\w+)(?= [{:=])"
    r"|^inline constexpr \w+ (\w+)"
    r"|^(?=\w|\[)(?!using|template|static|extern)[^(;{=]*?(\w+)\(",  # a function
    re.MULTILINE,
)


def test_every_cpp_name_is_in_the_reference() -> None:
    names = set()
    for header in ROOT.glob("c*/include/laplex/**/*.hpp"):
        text = re.sub(r"^namespace detail \{.*?^\}", "", header.read_text(), flags=re.S | re.M)
        space = re.search(r"^namespace (laplex[:\w]*) \{", text, re.MULTILINE)
        if space and "detail" not in str(header.parent):
            names |= {f"{space[1]}::{''.join(groups)}" for groups in CPP_NAME.findall(text)}
    page = (REFERENCE / "cpp.md").read_text()
    assert names == set(re.findall(r"^```\{doxygen\w+\} (\S+)$", page, re.MULTILINE))


def test_every_command_is_in_the_reference() -> None:
    page = (REFERENCE / "command_line.md").read_text()
    for name, command in typer.main.get_command(app).commands.items():
        for heading in [f"{name} {one}" for one in getattr(command, "commands", [])] or [name]:
            assert f"\n## laplex {heading}\n" in page
