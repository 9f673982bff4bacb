"""One pytest session for all test files: their shared modules are importable by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Figures are written, never shown.
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))

if os.environ.get("LAPLEX_EMULATED_CUDA") == "1":
    import emulated_cuda

    emulated_cuda.install()
