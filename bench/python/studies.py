"""Studies: many trainings, each kept as a line of a file, and the page that tells what they showed.

A study has parts, and a part has a table. Each training runs in a process of its own, so that its
processor time and its peak memory are its own. Stop a study at any time, and start it again to go
on: what its file holds is not run again.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

from machine import processor
from sections import FOLDER, arguments, filled, rounded

#: What identifies a training (its method, size, learning rate, seed), and what came out: JSON
#: values. A record is both, and `cpu_s`, `peak_mib` (without what the process had before),
#: `processor` and `date`.
Settings = dict[str, Any]
Results = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A table of a study.

    `runs` yields the settings of its trainings, all with the same names. It is given the records
    so far, which grow while it goes on, so that it can search for a learning rate before it yields
    the trainings that use it; and whether the sizes are the small ones. `table` turns the records
    into Markdown; its pictures go into the folder.
    """

    runs: Callable[[Records, bool], Iterable[Settings]]
    train: Callable[[Settings], Results]
    table: Callable[[list[Record], Path], str]


class Records:
    """The finished trainings of a part, in a file of JSON lines that other parts share."""

    def __init__(self, path: Path, part: str) -> None:
        self.path, self.part = path, part
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        self.lines = [line for line in lines if line["part"] == part]

    def all(self) -> list[Record]:
        """Every record, in the order of the file."""
        return [line["settings"] | line["results"] for line in self.lines]

    def where(self, **wanted: Any) -> list[Record]:
        """The records with these values."""
        return [
            each for each in self.all() if all(each.get(k) == value for k, value in wanted.items())
        ]

    def has(self, settings: Settings) -> bool:
        """Whether this training is finished."""
        return any(line["settings"] == settings for line in self.lines)

    def add(self, settings: Settings, results: Results) -> None:
        """Keep a training, in memory and at the end of the file."""
        line = {"part": self.part, "settings": settings, "results": rounded(results)}
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.lines.append(line)


def best(records: Iterable[Record], setting: str, score: str) -> Any:
    """The value of a setting whose records have the highest mean score."""
    scores: dict[Any, list[float]] = {}
    for each in records:
        scores.setdefault(each[setting], []).append(each[score])
    return max(scores, key=lambda value: statistics.fmean(scores[value]))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def in_own_process(train: Callable[[Settings], Results], settings: Settings) -> Results:
    """Run one training in a child process, which shares what this one has loaded."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(train, settings, sender))
    child.start()
    sender.close()
    try:
        done, results = receiver.recv()
    except EOFError:
        done, results = False, "it ended without a result: perhaps the memory was too small"
    child.join()
    if not done:
        raise RuntimeError(f"the training {settings} failed: {results}")
    return {**results, "processor": processor(), "date": str(date.today())}


def _work(train: Callable[[Settings], Results], settings: Settings, sender: Connection) -> None:
    before, start = _peak_mib(), time.process_time()
    try:
        results = train(settings)
        measured = {"cpu_s": time.process_time() - start, "peak_mib": _peak_mib() - before}
        sender.send((True, {**measured, **results}))
    except BaseException:  # told to the parent, which raises it
        sender.send((False, traceback.format_exc()))


def _peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(name: str, description: str, parts: dict[str, Part]) -> None:
    """Run the parts of a study and write its page; the arguments are those of the program."""
    options, out = arguments(name, description, parts)
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    data = out / f"{name}.jsonl"
    for each in [] if options.page else dict.fromkeys(options.only or parts):
        records = Records(data, each)
        for settings in parts[each].runs(records, options.quick):
            if not records.has(settings):
                start = time.perf_counter()
                records.add(settings, in_own_process(parts[each].train, settings))
                told = ", ".join(f"{key} {value}" for key, value in settings.items())
                print(f"{each}: {told}: {time.perf_counter() - start:.1f} s", flush=True)
    page = out / f"{name}.md"
    text = (page if page.exists() else FOLDER / page.name).read_text()
    kept = {each: Records(data, each).all() for each in parts}
    tables = {each: parts[each].table(kept[each], out) for each in parts if kept[each]}
    page.write_text(filled(text, tables | {"machine": _machines(kept.values())}))


def _machines(parts: Iterable[list[Record]]) -> str:
    records = [each for part in parts for each in part]
    if not records:
        return ""
    kinds = "; ".join(sorted({each["processor"] for each in records}))
    days = sorted({each["date"] for each in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{len(records)} trainings, one thread each, on {kinds}; {when}.\n"
