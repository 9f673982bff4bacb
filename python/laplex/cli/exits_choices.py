"""What the options of ``laplex exits`` may be, and the options that several commands have."""

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
        "Policy whose score has to reach a threshold for a sample to leave.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
