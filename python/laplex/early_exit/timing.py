"""The time that early exits save, measured by the clock and compared with the counted cost."""

from __future__ import annotations

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
from .._support.arguments import whole
from .._support.results import Result
from .._support.text_tables import aligned
from .activations import batch_of, rows_of, tensors_of
from .batches import check_model
from .costs import count_costs
from .model import MultiExitModel, evaluating
from .policies.base import Policy


@dataclass(frozen=True)
class TimedRun:
    """Times of one way to run the model, with one batch size.

    Attributes
    ----------
    way : "predict", "backbone" or "all exits"
        What was run: `MultiExitModel.predict`, the plain backbone, or the model with all exits.
    batch_size : int
        Number of samples in a batch.
    samples : int
        Number of samples in a pass.
    seconds_min, seconds_median : float
        Wall-clock seconds per sample: minimum and median over the passes.
    cpu_seconds_min, cpu_seconds_median : float
        CPU seconds per sample, summed over all cores. For a model on CUDA this is the time of the
        host, not of the device.
    counted : float
        Mean counted cost of a sample, in units of the plain backbone.
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
    """Result of `time_exits`. Printing it prints the table.

    Attributes
    ----------
    runs : list of TimedRun
        One entry for each way and each batch size.
    policy : str
        The exit policy, as its ``repr``.
    repeats : int
        Number of measured passes of each way.
    threads : int
        Number of threads that torch used.
    device : str
        The device that the inputs were on.
    versions : dict of str to str
        Versions of laplex, torch and numpy.
    """

    runs: list[TimedRun]
    policy: str
    repeats: int
    threads: int
    device: str
    versions: dict[str, str]

    def run(self, way: str, batch_size: int) -> TimedRun:
        """Look up the times of a way and a batch size.

        Parameters
        ----------
        way : "predict", "backbone" or "all exits"
            As in `TimedRun`.
        batch_size : int
            One of the batch sizes that were timed.

        Returns
        -------
        TimedRun

        Raises
        ------
        KeyError
            If they were not timed.
        """
        for one in self.runs:
            if (one.way, one.batch_size) == (way, batch_size):
                return one
        raise KeyError(f"{way!r} was not timed at batch_size={batch_size}")

    def table(self) -> str:
        """Format the times as aligned text: milliseconds per sample, measured and counted cost."""
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
            f"Time per sample, {self.policy}; percentages are relative to the plain backbone\n"
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
    """Time prediction with early exits against the plain backbone and against all exits.

    A pass runs all inputs in batches. Passes of the three ways alternate, so that a machine that
    slows down slows all of them; one unmeasured pass of each comes first. The model runs in
    evaluation mode without gradients, and the mode of every module is restored.

    Parameters
    ----------
    model : MultiExitModel
        The model.
    inputs : Tensor [samples, ...], or nested lists, tuples and dicts of Tensors
        Samples to run, on the device of the model.
    policy : Policy
        The exit policy.
    batch_sizes : sequence of int
        Batch sizes to time. The last batch of a pass is smaller if the size does not divide the
        number of samples.
    repeats : int
        Number of measured passes of each way.
    threads : int or None
        Number of threads that torch uses during the measurement; None leaves it unchanged. One
        thread measures the work alone; several threads also measure how well a batch is divided
        among them.

    Returns
    -------
    Timing

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. This is checked before anything runs.

    Notes
    -----
    The minimum measures the work, the median what a user waits. The counted cost leaves out
    elementwise operations and the fixed overhead of a call, so small networks save less by the
    clock than by the count.
    """
    check_model(model)
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
        )
    policy.cuts(model.num_exits)
    samples = batch_of(inputs, "inputs")
    if samples < 1:
        raise ValueError("inputs has no samples: pass at least one")
    sizes = [whole("batch_sizes", size, 1, "whole numbers") for size in batch_sizes]
    if not sizes:
        raise ValueError("batch_sizes is empty: pass at least one size, for instance (1, 64)")
    if max(sizes) > samples:
        raise ValueError(
            f"batch_sizes has {max(sizes)}, but inputs has only {samples} samples: pass more "
            "samples, or smaller sizes"
        )
    repeats = whole("repeats", repeats, 1, "whole numbers")
    threads = None if threads is None else whole("threads", threads, 1, "whole numbers")
    costs = count_costs(model, inputs)
    device = tensors_of(inputs)[0].device

    runs = []
    with evaluating(model), torch.no_grad(), _threads(threads) as used:
        for size in sizes:
            batches = _batches(inputs, samples, size)
            computed = np.zeros(model.num_exits, dtype=np.int64)
            for batch in batches:  # this also warms the machine up
                computed += np.asarray(model.predict(batch, policy).samples_per_segment)
            counted = {
                "predict": costs.mean(computed.tolist()) / costs.backbone,
                "backbone": 1.0,
                "all exits": float(costs.relative[-1]),
            }
            ways: dict[str, Callable[[Any], Any]] = {
                "predict": lambda batch: model.predict(batch, policy),
                "backbone": model.run_backbone,
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
        return rows_of(inputs, slice(start, start + size), samples)

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
    for turn in range(-1, repeats):  # the first turn warms up
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
    """Set the number of torch's threads and restore it afterwards; yield the number in use."""
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
