"""What the options of ``laplex exits`` may be, and the options that several commands have."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Strategy(str, Enum):
    """Which part learns when."""

    mixed = "mixed"
    joint = "joint"
    disjoint = "disjoint"


class Head(str, Enum):
    """What turns an activation into logits."""

    pooled = "pooled"
    linear = "linear"
    mlp = "mlp"
    conv = "conv"
    token = "token"
    laplex = "laplex"


class PolicyName(str, Enum):
    """What lets a sample go."""

    max_softmax = "max-softmax"
    entropy = "entropy"
    margin = "margin"
    patience = "patience"
    learned = "learned"


class Calibration(str, Enum):
    """What scores are fitted with."""

    none = "none"
    temperature = "temperature"
    eefp = "eefp"
    correct = "correct"


class Split(str, Enum):
    """Which images."""

    test = "test"
    validation = "validation"
    train = "train"


class Protocol(str, Enum):
    """Where thresholds come from."""

    validation = "validation"
    sweep = "p1-test-sweep"


class Part(str, Enum):
    """What to look at inside."""

    gradient_share = "gradient_share"
    activation_rank = "activation_rank"
    mutual_information = "mutual_information"
    mode_connectivity = "mode_connectivity"
    loss_landscape = "loss_landscape"


class Format(str, Enum):
    """Of exported files."""

    onnx = "onnx"
    torch = "torch"


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder that `laplex exits train` wrote.")
]
RunFolders = Annotated[
    list[Path],
    typer.Argument(metavar="RUN_DIR", help="Folders that `laplex exits train` wrote."),
]
PolicyOption = Annotated[
    PolicyName,
    typer.Option(
        help="A sample leaves when this reaches its threshold: the largest probability; the "
        "entropy, from above; the margin of the two largest; equal predictions in a row; or a "
        "learned score."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
