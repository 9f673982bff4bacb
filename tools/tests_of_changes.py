#!/usr/bin/env python3
"""Print the test files nearest to what has changed, one per line, and `cpp` if C++ has changed.

    tools/tests_of_changes.py [REVISION]

Files that differ from REVISION (default: HEAD) or that git does not track count as changed. For
each changed module, the script prints the test files that import it, or else those that import a
module that imports it, and so on. `make check` uses it as a quick check. It does not replace
`make test`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TESTS = ROOT / "python", ROOT / "tests" / "python"
#: The modules that stand for the compiled code.
COVARIANCES, OPERATOR = "laplex.gram.factor", "laplex.numpy.plan"


def changed_files(revision: str) -> list[Path]:
    """Return the files that differ, and those that are new."""
    names: set[str] = set()
    for command in (
        ["diff", "--name-only", "-z", revision, "--"],
        ["ls-files", "--others", "--exclude-standard", "-z"],
    ):
        done = subprocess.run(
            ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names.update(name for name in done.stdout.split("\0") if name)
    return sorted(ROOT / name for name in names)


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package and of the tests, by name."""
    found = {}
    for folder in (SOURCE, TESTS):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text("utf-8"))


def from_imports(module: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name here, source module, name there) for each name of `from ... import ...`."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for name in node.names:
                yield name.asname or name.name, source, name.name


@cache
def home(module: str, name: str) -> str | None:
    """Return the module that defines a name of a module, also if a package re-exports it."""
    if f"{module}.{name}" in modules():
        return f"{module}.{name}"
    if module not in modules():
        return None
    if modules()[module].name == "__init__.py":
        for here, source, there in from_imports(module):
            if here == name and source != module:
                return home(source, there)
    return module


def imports(module: str) -> set[str]:
    """Return the modules from which a module imports names."""
    found = {home(source, name) for _, source, name in from_imports(module)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names if name.name in modules())
        elif isinstance(node, ast.Attribute):  # laplex.nn.LaplexLinear
            at: str | None = dotted(node.value)
            if at is not None and at.partition(".")[0] == "laplex" and at in modules():
                found.add(home(at, node.attr))
    return {name for name in found if name in modules()} - {module, None}


def dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = dotted(node.value)
        return None if above is None else f"{above}.{node.attr}"
    return None


def is_test(module: str) -> bool:
    return module.rpartition(".")[2].startswith("test_")


def nearest_tests(changed: str, importers: dict[str, set[str]]) -> set[str]:
    """Return the test files that are fewest imports away from a module."""
    seen, level = {changed}, {changed}
    while level:
        tests = {name for name in level if is_test(name)}
        if tests:
            return tests
        level = {by for name in level for by in importers[name]} - seen
        seen |= level
    return set()


def main() -> None:
    changed = changed_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    names = {path: name for name, path in modules().items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        for imported in imports(module):
            importers[imported].add(module)

    tests: set[str] = set()
    compiled = False
    for path in changed:
        inside = path.relative_to(ROOT).parts
        if path in names:
            tests |= nearest_tests(names[path], importers)
        elif path.suffix == ".md":
            tests.add("test_docs")
        elif path.suffix == ".ipynb":
            tests |= {"test_docs", "test_notebooks"}
        elif inside[0] == "examples":
            tests |= {
                name
                for name in modules()
                if is_test(name) and path.stem in modules()[name].read_text("utf-8")
            }
        elif path.suffix in (".cpp", ".hpp", ".cu", ".in"):
            compiled = True
            module = COVARIANCES if "gram" in path.name else OPERATOR
            tests |= nearest_tests(module, importers)
    if compiled:
        print("cpp")
    for name in sorted(tests):
        print(modules()[name].relative_to(ROOT))


if __name__ == "__main__":
    main()
