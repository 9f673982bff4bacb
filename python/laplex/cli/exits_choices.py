"""The choices of the options of ``laplex exits``, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laplex._support.options import choice

from ..early_exit.policies import POLICIES

CALIBRATIONS = ("none", "temperature", "eefp", "correct")
SPLITS = ("test", "validation", "train")
PROTOCOLS = ("validation", "p1-test-sweep")
PARTS = (
    "gradient_share",
    "activation_rank",
    "mutual_information",
    "mode_connectivity",
    "loss_landscape",
)
FORMATS = ("onnx", "torch")


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder that `laplex exits train` wrote.")
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN_DIR", help="Folders that `laplex exits train` wrote.")
]
PolicyOption = Annotated[
    str,
    choice(
        POLICIES,
        "Exit policy: a sample leaves when the score of this policy reaches a threshold. The "
        "score of learned is that of --calibration eefp.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress bars.")]
