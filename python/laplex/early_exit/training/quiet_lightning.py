"""Make Lightning behave like a library: no advice, and the usual meaning of Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from laplex._support.optional import require

_LOGGERS = (
    "pytorch_lightning",
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric",
    "lightning_fabric.utilities.rank_zero",
)


@contextmanager
def interruptible() -> Iterator[None]:
    """Keep the usual Ctrl-C: Lightning turns it into an exit, and ignores it from then on."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's tips and advice, but not its errors."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        hush()
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


def hush() -> None:
    """As `quiet`, but permanently, for the processes that Lightning starts."""
    advice = require("lightning_fabric.utilities.warnings", extra="exits")
    warnings.filterwarnings("ignore", category=advice.PossibleUserWarning)
    for module in ("pytorch_lightning", "lightning_fabric"):
        warnings.filterwarnings("ignore", module=module)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
