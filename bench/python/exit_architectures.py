"""Writes docs/measurements/early_exit_architectures.md: exits in the networks that people have.

    PYTHONPATH=build/peers python bench/python/exit_architectures.py [--only NAME] [--out FILE]

The networks and checks are those of tests/python/architecture_cases.py and architecture_checks.py;
networks of packages that are not installed are left out. `make build/peers` installs them. Takes
half an hour, nearly all of it in the exporters.
"""

from __future__ import annotations

import argparse
import importlib.util
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

HEADER = """\
# Early exits in networks of other libraries

Small networks of each kind with random weights, {versions}. Each has two exits and the backbone's
own output. `python bench/python/exit_architectures.py` wrote this page; the tests repeat all
columns but the last two (`make test-python`, and `make test-peers` for timm, torchvision and peft).

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
    if outcome in ("yes", "no", "-"):
        return outcome
    if outcome not in notes:
        notes.append(outcome)
    return f"refused [{notes.index(outcome) + 1}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of networks contain this")
    page = ROOT / "docs" / "measurements" / "early_exit_architectures.md"
    parser.add_argument("--out", type=Path, default=page, help="the page to write")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    columns = ["attach", "real exits", "runs again", *list(COLUMNS)[1:]]
    packages: list[str] = []
    table, notes = [], []
    for name, case in CASES.items():
        package, _, network = name.partition(": ")
        if given.only not in name or importlib.util.find_spec(package) is None:
            continue
        print(name, end=": ", flush=True)
        found = outcomes(case)
        print(", ".join(f"{column} {outcome}" for column, outcome in found.items()), flush=True)
        row = [cell(found.get(column, ""), notes) if column in found else "" for column in columns]
        if package not in packages:
            packages.append(package)
            table.append(f"| **{package}** |" + " |" * len(columns))
        table.append(f"| {network} | " + " | ".join(row) + " |")
    versions = ", ".join(f"{package} {version(package).split('+')[0]}" for package in packages)
    given.out.write_text(
        HEADER.format(versions=versions)
        + "| network | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|\n"
        + "\n".join(table) + "\n"
        + ("\nRefusals:\n\n" if notes else "")
        + "".join(f"{number}. {note}\n" for number, note in enumerate(notes, 1)),
        encoding="utf-8",
    )  # fmt: skip


if __name__ == "__main__":
    main()
