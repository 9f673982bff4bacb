"""Writes docs/measurements/early_exit_architectures.md: exits in the networks that people have.

    PYTHONPATH=build/peers python bench/python/exit_architectures.py [--only NAME] [--out FILE]

The networks and checks are those of tests/python/architecture_cases.py and architecture_checks.py;
networks of packages that are not installed are left out. `make build/peers` installs them. Takes
half an hour, nearly all of it in the exporters. What is found is kept in build/, and a run that was
interrupted goes on; remove the file to begin anew.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

if importlib.util.find_spec("torchvision") is not None:
    import torchvision_import  # noqa: F401

from architecture_cases import CASES  # noqa: E402
from architecture_checks import COLUMNS, outcomes  # noqa: E402

KEPT = ROOT / "build" / "exit_architectures.json"

HEADER = """\
# Early exits in networks of other libraries

Small networks of each kind with random weights, {versions}. Each has two exits and the backbone's
own output. `python bench/python/exit_architectures.py` wrote this page; the tests repeat all
columns but the last two (`make test-python`, and `make test-peers` for timm and torchvision).

* **attach**: `MultiExitModel.attach` finds the batch, the channels and the mask of each activation,
  and makes a head with as many features as the activation has channels.
* **real exits**: at batch 1, 7 and 64, `predict` chooses the exits and logits that
  `MaxSoftmax.exit_index` chooses from the logits of all exits, for thresholds that split the
  batch. Logits are compared in float64 to 1e-6 of the largest.
* **runs again**: whether something passes the exits by, such as a mask, so that `predict` runs the
  backbone again for the samples that stay, with the stored outputs of its modules.
* **padding**: 20 more tokens of padding change no logits of any exit, to 1e-6.
* **train**: one step of `train`; the loss is finite, and all weights of all heads move.
* **costs**, **time**: `count_costs` counts every segment and head, `time_exits` measures.
* **torch.export**, **ONNX**: the segments of `export` choose the same exits at batch 1, 7 and 64.

"""


def cell(outcome: str, notes: list[str]) -> str:
    """An outcome, or the number of its note below the table."""
    if outcome in ("yes", "no", "-", ""):
        return outcome
    if outcome not in notes:
        notes.append(outcome)
    return f"refused [{notes.index(outcome) + 1}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of networks contain this (default: all)")
    page = ROOT / "docs" / "measurements" / "early_exit_architectures.md"
    parser.add_argument("--out", type=Path, default=page, help=f"the page (default: {page.name})")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with contextlib.suppress(ImportError):  # otherwise torch makes its table for every file anew
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        made_once = functools.cache(ONNXRegistry.from_torchlib)
        ONNXRegistry.from_torchlib = staticmethod(made_once)  # type: ignore[method-assign]

    found: dict[str, dict[str, str]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    names = [
        name
        for name in CASES
        if given.only in name and importlib.util.find_spec(name.partition(":")[0]) is not None
    ]
    *first, last = COLUMNS  # the last exporter takes longest
    for columns in (first, [last]):
        for name in names:
            known = found.setdefault(name, {})
            missing = tuple(column for column in columns if column not in known)
            if missing and known.get("attach", "yes") == "yes":
                known |= outcomes(CASES[name], missing)
                print(name, {column: known[column] for column in missing if column in known})
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps(found, indent=1))
    given.out.write_text(written(names, found), encoding="utf-8")


def written(names: list[str], found: dict[str, dict[str, str]]) -> str:
    """The page."""
    columns = ["attach", "real exits", "runs again", *list(COLUMNS)[1:]]
    packages: list[str] = []
    table, notes = [], []
    for name in names:
        package, _, network = name.partition(": ")
        if package not in packages:
            packages.append(package)
            table.append(f"| **{package}** |" + " |" * len(columns))
        cells = [cell(found[name].get(column, ""), notes) for column in columns]
        table.append(f"| {network} | {' | '.join(cells)} |")
    versions = ", ".join(f"{package} {version(package).split('+')[0]}" for package in packages)
    lines = [
        HEADER.format(versions=versions),
        f"| network | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *table,
    ]
    if notes:
        lines += ["", "Refusals:", "", *(f"{k}. {note}" for k, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
