"""An optional progress bar for long computations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from laplex._support.optional import require
from laplex._support.processes import is_first_process

#: Called with the name of a stage, the amount done, the total amount (None if unknown), and a note
#: to show.
Report = Callable[[str, int, int | None, str], None]


@contextmanager
def progress_bar(show: bool, *, extra: str) -> Iterator[Report]:
    """Yield a `Report` that draws a bar for each stage, or does nothing.

    ``extra`` is the extra of Laplex that installs rich. Of several processes, rank 0 draws.
    """
    if not show or not is_first_process():
        yield lambda stage, done, total, note: None
        return
    bars = require("rich.progress", extra=extra, feature="progress=True")
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns) as display:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage, total=total, note="")
            display.update(tasks[stage], completed=done, total=total, note=note)

        yield report
