"""Timing in rounds: every task runs once per round, and the minimum of its CPU times counts.

The machine may be shared and slow down by half for a second. A ratio of two minima from the same
rounds is still valid then. A ratio of two numbers from different runs is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def measure(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int = 9,
    wall: bool = False,
    budget: float = 30.0,
) -> dict[str, float]:
    """Return seconds per task: the minimum over the rounds, of which the first only fills caches.

    Short tasks are repeated within a round until they take at least 2 ms. Rounds end early once
    `budget` seconds have passed, but not before the third.
    """
    clock = time.perf_counter if wall else time.process_time
    repeats: dict[str, int] = {}
    best = dict.fromkeys(tasks, float("inf"))
    start_of_all = time.perf_counter()
    for number in range(rounds + 1):
        if number > 3 and time.perf_counter() - start_of_all > budget:
            break
        for name, task in tasks.items():
            count = repeats.get(name, 1)
            start = clock()
            for _ in range(count):
                task()
            seconds = (clock() - start) / count
            if number == 0:
                repeats[name] = max(1, min(1000, int(2e-3 / max(seconds, 1e-9))))
            else:
                best[name] = min(best[name], seconds)
    return best
