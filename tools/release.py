"""Write the version of a release into the files that name it, or check that a tag agrees with them.

python tools/release.py 0.2.0            write the version and today's date, before the tag is made
python tools/release.py --check v0.2.0   fail if the files do not say what the tag says
python tools/release.py --notes v0.2.0   print the changelog's section of that version
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where each file has the version, as the first group of a pattern. The builds of C++ and Python
# read it from CMakeLists.txt; the other files repeat it.
VERSIONS = {
    "CMakeLists.txt": r"(?m)^  VERSION (\S+)$",
    "CITATION.cff": r"(?m)^version: (\S+)$",
    "tools/conda/recipe.yaml": r'(?m)^  version: "(\S+)"$',
}
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## Unreleased"
# A link of Markdown to another file of the repository.
RELATIVE = r"\]\((?!https?:|#|mailto:)([^)\s]+)\)"
# The format of these files demands an address or a name that the project does not have yet.
PLACEHOLDER = "OWNER"
WITH_PLACEHOLDER = (".github/ISSUE_TEMPLATE/config.yml", "tools/conda/recipe.yaml")


def numbers(version: str) -> tuple[int, ...]:
    """The parts of a version X.Y.Z."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise SystemExit(f"{version!r} is not a version: it must be three numbers, such as 0.2.0")
    return tuple(map(int, version.split(".")))


def versions(root: Path) -> dict[str, str]:
    """The version that each file names."""
    found = {}
    for name, pattern in VERSIONS.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"))
        if match is None:
            raise SystemExit(f"{name} has no line that matches {pattern}")
        found[name] = match[1]
    return found


def sections(root: Path) -> dict[str, str]:
    """The headings of the changelog, newest first, and the text below each."""
    parts = re.split(r"(?m)^(## .*)\n", (root / CHANGELOG).read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


def section(root: Path, version: str) -> tuple[str, str]:
    """The date and the text of a version's section."""
    for heading, text in sections(root).items():
        match = re.fullmatch(rf"## {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)", heading)
        if match:
            return match[1], text
    raise SystemExit(f"{CHANGELOG} has no section {version}: run tools/release.py {version}")


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def write(root: Path, version: str, date: str) -> None:
    """Write version and date into every file; nothing is written if something is wrong."""
    wanted = numbers(version)
    current = versions(root)["CMakeLists.txt"]
    if wanted < numbers(current):
        raise SystemExit(f"{version} is lower than {current}, the version of CMakeLists.txt")
    headings = sections(root)
    if any(heading.startswith(f"## {version} ") for heading in headings):
        raise SystemExit(f"{CHANGELOG} has a section {version} already: choose a higher version")
    if not headings.get(UNRELEASED):
        raise SystemExit(f"{CHANGELOG} has nothing below {UNRELEASED!r}: say there what is new")

    def with_version(pattern: str) -> Callable[[str], str]:
        return lambda text: re.sub(pattern, lambda m: m[0].replace(m[1], version), text, count=1)

    for name, pattern in VERSIONS.items():
        edit(root / name, with_version(pattern))
    edit(root / "CITATION.cff", lambda text: re.sub(r"(?m)^date-released: .*\n", "", text))
    edit(
        root / "CITATION.cff",
        lambda text: re.sub(r"(?m)^(version: .*\n)", rf"\g<1>date-released: {date}\n", text),
    )
    edit(
        root / CHANGELOG,
        lambda text: text.replace(UNRELEASED, f"{UNRELEASED}\n\n## {version} ({date})", 1),
    )


def check(root: Path, tag: str) -> None:
    """Raise unless the tag is the version of every file, and the release is complete."""
    version = tag.removeprefix("v")
    if not tag.startswith("v"):
        raise SystemExit(f"the tag of a release starts with v: v{version}, not {tag}")
    numbers(version)
    for name, found in versions(root).items():
        if found != version:
            raise SystemExit(f"the tag is {tag}, but {name} has {found}")
    date, text = section(root, version)
    if not text:
        raise SystemExit(f"the section {version} of {CHANGELOG} is empty")
    if f"\ndate-released: {date}\n" not in (root / "CITATION.cff").read_text(encoding="utf-8"):
        raise SystemExit(f"CITATION.cff lacks the line 'date-released: {date}'")
    for name in WITH_PLACEHOLDER:
        if PLACEHOLDER in (root / name).read_text(encoding="utf-8"):
            raise SystemExit(f"{name} still has the placeholder {PLACEHOLDER}: replace it")
    address(root)
    if "\nrepository-code: " not in (root / "CITATION.cff").read_text(encoding="utf-8"):
        raise SystemExit("CITATION.cff has no repository-code: add the repository's address")
    if found := re.search(RELATIVE, (root / "README.md").read_text(encoding="utf-8")):
        raise SystemExit(f"README.md links to {found[1]}, which PyPI cannot find: make it absolute")


def address(root: Path) -> str:
    """The address of the repository."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    urls = re.search(r"(?ms)^\[project\.urls\]\n(.*?)(^\[|\Z)", text)
    found = dict(re.findall(r'(?m)^(\w+) = "(https://\S+)"$', urls[1])) if urls else {}
    for name in ("Repository", "Documentation", "Changelog", "Issues"):
        if name not in found:
            raise SystemExit(f"pyproject.toml has no {name} in [project.urls]: add its address")
    return found["Repository"]


def notes(root: Path, tag: str) -> str:
    """The changelog's section of a tag; its links lead to the files of the tag."""
    text = section(root, tag.removeprefix("v"))[1]
    return re.sub(RELATIVE, rf"]({address(root)}/blob/{tag}/\1)", text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("version", nargs="?", help="the version to write, such as 0.2.0")
    group.add_argument("--check", metavar="TAG", help="check that a tag agrees with the files")
    group.add_argument("--notes", metavar="TAG", help="print the changelog's section of a tag")
    options = parser.parse_args()
    if options.check:
        check(ROOT, options.check)
    elif options.notes:
        print(notes(ROOT, options.notes))
    else:
        write(ROOT, options.version, str(datetime.datetime.now(datetime.timezone.utc).date()))


if __name__ == "__main__":
    main()
