"""What leaving early saves by the clock, beside what it should save by the count."""

from __future__ import annotations

import operator
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from .._support.results import Result
from .._support.text_tables import aligned
from .activations import batch_of, map_tensors, tensors_of
from .costs import count_costs
from .model import MultiExitModel, evaluating
from .policies import Policy


@dataclass(frozen=True)
class TimedRun:
    """One way to run one batch size, over all inputs.

    Attributes
    ----------
    way : "predict", "backbone" or "all exits"
    batch_size : int
    samples : int
        How many inputs a pass goes through.
    seconds_min, seconds_median : float
        Wall-clock seconds per sample, of the passes.
    cpu_seconds_min, cpu_seconds_median : float
        Seconds of the process on all cores per sample; on CUDA the host's, not the device's.
    counted : float
        Mean cost of a sample by the count, in units of the plain backbone.
    """

    way: str
    batch_size: int
    samples: int
    seconds_min: float
    seconds_median: float
    cpu_seconds_min: float
    cpu_seconds_median: float
    counted: float


@dataclass(frozen=True, eq=False, repr=False)
class Timing(Result):
    """Result of `time_exits`; printing it prints the table.

    Attributes
    ----------
    runs : list of TimedRun
    policy : str
    repeats : int
        Passes of each way, interleaved.
    threads : int
        torch's threads in the passes.
    device : str
    versions : dict of str to str
        Of laplex, torch and numpy.
    """

    runs: list[TimedRun]
    policy: str
    repeats: int
    threads: int
    device: str
    versions: dict[str, str]

    def run(self, way: str, batch_size: int) -> TimedRun:
        """The run of a way and a batch size.

        Raises
        ------
        KeyError
            It was not timed.
        """
        for one in self.runs:
            if (one.way, one.batch_size) == (way, batch_size):
                return one
        raise KeyError(f"{way!r} was not timed at batch_size={batch_size}")

    def table(self) -> str:
        """One aligned text: milliseconds per sample, and cost measured and counted."""
        head = ["way", "ms (min)", "ms (median)", "CPU ms (min)", "measured", "counted"]
        body = []
        for one in self.runs:
            plain = self.run("backbone", one.batch_size)
            body.append(
                [
                    f"{one.way}, batch {one.batch_size}",
                    f"{1e3 * one.seconds_min:.4g}",
                    f"{1e3 * one.seconds_median:.4g}",
                    f"{1e3 * one.cpu_seconds_min:.4g}",
                    f"{one.seconds_min / plain.seconds_min:.1%}",
                    f"{one.counted:.1%}",
                ]
            )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return (
            f"Time per sample, {self.policy}; per cent are of the plain backbone\n"
            + aligned(head, body)
            + f"\n{self.repeats} passes over {self.runs[0].samples} samples on {self.device}, "
            f"{threads}; {versions}"
        )

    def _summary(self) -> str:
        shown = []
        for one in self.runs:
            if one.way == "predict":
                plain = self.run("backbone", one.batch_size)
                part = one.seconds_min / plain.seconds_min
                shown.append(f"{part:.1%} at batch {one.batch_size}")
        return f"{self.policy} takes {', '.join(shown)} of the plain backbone's time"


def time_exits(
    model: MultiExitModel,
    inputs: Any,
    policy: Policy,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    repeats: int = 7,
    threads: int | None = 1,
) -> Timing:
    """Measure real exits against the plain backbone and against all exits.

    A pass goes through all inputs in batches. Passes of the three ways take turns, so that a
    machine that slows down slows all of them, after one pass of each that is not measured. All in
    evaluation mode without gradients; modes are put back.

    Parameters
    ----------
    model : MultiExitModel
    inputs : Tensor [samples, ...], or nested lists, tuples and dicts of them
        On the model's device.
    policy : Policy
    batch_sizes : sequence of int
        The last batch of a pass is smaller where one does not divide the samples.
    repeats : int
        Measured passes of each way.
    threads : int or None
        torch's threads meanwhile; None leaves them as they are. One thread measures work; more
        measure how well a batch is shared out as well.

    Returns
    -------
    Timing

    Raises
    ------
    TypeError, ValueError
        Arguments that can't be used; before anything runs.

    Notes
    -----
    The minimum says what the work takes, the median what a user waits. Counted cost leaves out
    what goes number by number and what every call takes however small its batch is, so small
    networks save less by the clock than by the count.
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(f"model must be a MultiExitModel, got {type(model).__name__}")
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
        )
    policy.cuts(model.num_exits)
    samples = batch_of(inputs, "inputs")
    if samples < 1:
        raise ValueError("inputs has no samples: pass at least one")
    sizes = [_positive("batch_sizes", size) for size in batch_sizes]
    if not sizes:
        raise ValueError("batch_sizes is empty: pass at least one size, for instance (1, 64)")
    if max(sizes) > samples:
        raise ValueError(
            f"batch_sizes has {max(sizes)}, but inputs {samples} samples: pass at least as many"
        )
    repeats = _positive("repeats", repeats)
    threads = None if threads is None else _positive("threads", threads)
    costs = count_costs(model, inputs)
    device = tensors_of(inputs)[0].device

    runs = []
    with evaluating(model), torch.no_grad(), _threads(threads) as used:
        for size in sizes:
            batches = _batches(inputs, samples, size)
            computed = np.zeros(model.num_exits, dtype=np.int64)
            for batch in batches:  # also what warms the machine up
                computed += np.asarray(model.predict(batch, policy).samples_per_segment)
            counted = {
                "predict": costs.mean(computed.tolist()) / costs.backbone,
                "backbone": 1.0,
                "all exits": float(costs.relative[-1]),
            }
            ways: dict[str, Callable[[Any], Any]] = {
                "predict": lambda batch: model.predict(batch, policy),
                "backbone": model.backbone,
                "all exits": model,
            }
            for way, seconds in _interleaved(ways, batches, repeats, device).items():
                least, middle = seconds.min(0) / samples, np.median(seconds, 0) / samples
                runs.append(
                    TimedRun(
                        way=way,
                        batch_size=size,
                        samples=samples,
                        seconds_min=float(least[0]),
                        seconds_median=float(middle[0]),
                        cpu_seconds_min=float(least[1]),
                        cpu_seconds_median=float(middle[1]),
                        counted=counted[way],
                    )
                )
    return Timing(
        runs=runs,
        policy=repr(policy),
        repeats=repeats,
        threads=used,
        device=_named(device),
        versions={"laplex": __version__, "torch": torch.__version__, "numpy": np.__version__},
    )


def _batches(inputs: Any, samples: int, size: int) -> list[Any]:
    def part(start: int) -> Any:
        return map_tensors(lambda tensor: tensor[start : start + size], inputs)

    return [part(start) for start in range(0, samples, size)]


def _interleaved(
    ways: dict[str, Callable[[Any], Any]], batches: list[Any], repeats: int, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Wall-clock and process seconds of each pass, by way: [repeats, 2]."""

    def finished() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = {way: np.zeros((repeats, 2)) for way in ways}
    order = list(ways)
    for turn in range(-1, repeats):  # the first is for warmth
        for way in order:
            call = ways[way]
            finished()
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                call(batch)
            finished()
            if turn >= 0:
                seconds[way][turn] = time.perf_counter() - wall, time.process_time() - cpu
        order = order[1:] + order[:1]  # no way always follows the same one from the start
    return seconds


@contextmanager
def _threads(number: int | None) -> Iterator[int]:
    """Set torch's threads, and put them back; yields how many there are."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"


def _positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be whole numbers, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return number
