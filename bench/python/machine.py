"""The machine that a measurement was made on."""

from __future__ import annotations

import os

from laplex.demo import processor as name_of_processor


def processor() -> str:
    """Return the processor's name and the number of processors available."""
    return f"{name_of_processor()} ({os.cpu_count()} processors)"
