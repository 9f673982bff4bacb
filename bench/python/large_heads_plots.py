"""The pictures of the study of large heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laplex.nn import LaplexHead


def draw_accuracy(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy over parameters, and over processor time."""


def draw_routing(
    head: LaplexHead, classes: Sequence[str], features: Sequence[str], folder: Path
) -> None:
    """Draw one line of a head."""
