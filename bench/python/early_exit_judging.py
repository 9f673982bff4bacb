"""Writes docs/measurements/early_exit_judging.md: memory of evaluations, and coverage of risks.

    python bench/python/early_exit_judging.py [--quick]

The first part evaluates random logits, each size in a process of its own, and takes the growth of
its peak of resident memory over that of a tiny evaluation. The second part draws calibration
samples again and again from a distribution whose risk is known at every threshold, and counts how
often a certified threshold has a larger risk than promised. It takes about ten minutes.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from laplex.early_exit import (
    LearnedScore,
    MultiExitModel,
    Outputs,
    control_risk,
    evaluate,
    evaluate_outputs,
)
from machine import processor

PAGE = Path(__file__).parents[2] / "docs/measurements/early_exit_judging.md"
#: Samples, classes and exits.
SIZES = (
    (50_000, 100, 4),
    (100_000, 100, 4),
    (200_000, 100, 4),
    (50_000, 400, 4),
    (50_000, 100, 16),
    (50_000, 1000, 5),
)
DRAWS = 500

# ------------------------------------------------------------------------------------------ memory


class Given(nn.Module):
    """A model whose logits at every exit are its inputs."""

    def __init__(self, exits: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Identity() for _ in range(exits)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


def model(exits: int) -> MultiExitModel:
    return MultiExitModel(Given(exits), {f"blocks.{k}": nn.Identity() for k in range(exits - 1)})


def batches(samples: int, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, samples, 100):
        count = min(100, samples - start)
        yield (
            3 * torch.randn(count, classes, generator=generator),
            torch.randint(classes, (count,), generator=generator),
        )


def status(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def growth(task: Callable[[], object]) -> int:
    """By how many bytes a task raises the peak of resident memory of this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    task()
    return status("VmHWM") - before


def one(how: str, samples: int, classes: int, exits: int) -> None:
    """Print the growth of this process."""
    torch.set_num_threads(1)
    costs = np.linspace(1 / exits, 1, exits).tolist()
    network = model(exits)
    evaluate(network, batches(200, classes), costs=costs)
    if how == "evaluate":
        print(growth(lambda: evaluate(network, batches(samples, classes), costs=costs)))
        return
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((exits, samples, classes), np.float32)
    names = tuple(map(str, range(exits)))
    outputs = Outputs(logits, rng.integers(0, classes, samples), names)
    print(growth(lambda: evaluate_outputs(outputs, costs)))


def measured(how: str, *size: int) -> int:
    command = [sys.executable, __file__, "--one", how, *map(str, size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def memory(sizes: Sequence[tuple[int, int, int]]) -> list[str]:
    lines = [
        "| samples N | classes C | exits K | float32 logits, 4KNC | kept, 25KN + 8N | `evaluate` | "
        "`evaluate_outputs` |",
        "|---|---|---|---|---|---|---|",
    ]
    for samples, classes, exits in sizes:
        kept = 25 * exits * samples + 8 * samples
        logits = 4 * exits * samples * classes
        grown = [measured(how, samples, classes, exits) for how in ("evaluate", "outputs")]
        cells = [f"{one / 2**20:,.1f}" for one in (logits, kept, *grown)]
        lines.append(f"| {samples:,} | {classes:,} | {exits} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


# ---------------------------------------------------------------------------------------- coverage


class First:
    """A scorer: the first logit is the score."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        return logits[:, 0].double()


def toy(samples: int, rng: np.random.Generator) -> Outputs:
    """Two exits: the first is right with the probability of its score, the last with 0.9."""
    score = rng.random(samples)
    right = np.stack([rng.random(samples) < score, rng.random(samples) < 0.9])
    logits = np.zeros((2, samples, 3), np.float32)
    logits[..., 0] = score
    logits[..., 1] = np.where(right, 2.0, -2.0)
    logits[..., 2] = -logits[..., 1]  # class 1 is the label
    return Outputs(logits, np.ones(samples, np.int64), ("early", "output"))


def true_risk(risk: str, t: float) -> float:
    """Risk at a threshold t; the score is uniform, and both exits are right independently."""
    return (1 - t) ** 2 / 2 + t / 10 if risk == "error" else 0.9 * (1 - t) ** 2 / 2


def coverage(draws: int) -> list[str]:
    policy, cuts = LearnedScore(First(), 0.5), np.linspace(1, 0, 51)
    true = {
        risk: np.array([true_risk(risk, t) for t in cuts]) for risk in ("accuracy-loss", "error")
    }
    lines = [
        "| risk | epsilon | samples | method | certified | promise broken, at most 10 % | "
        "no test | mean cost | best cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for risk, epsilon in (("accuracy-loss", 0.05), ("error", 0.15)):
        best = 0.4 + 0.6 * cuts[true[risk] <= epsilon].min()  # a uniform score stays below t
        for samples in (200, 1000, 3000):
            for method in ("fixed-sequence", "bonferroni"):
                rng = np.random.default_rng(0)
                broken = naive = certified = 0
                spent = []
                for _ in range(draws):
                    found = control_risk(
                        toy(samples, rng), [0.4, 1.0], epsilon=epsilon, delta=0.1, risk=risk,
                        policy=policy, cuts=cuts, method=method,
                    )  # fmt: skip
                    naive += true[risk][np.flatnonzero(found.risks <= epsilon)[-1]] > epsilon
                    if found.chosen is not None:
                        certified += 1
                        broken += true[risk][found.chosen] > epsilon
                        spent.append(found.cost)
                lines.append(
                    f"| {risk} | {epsilon} | {samples:,} | {method} | {certified / draws:.1%} | "
                    f"{broken / draws:.1%} | {naive / draws:.1%} | "
                    f"{np.mean(spent) if spent else math.nan:.1%} | {best:.1%} |"
                )
                print(lines[-1], flush=True)
    return lines


TEXT = """# Judging early exits: memory, and coverage of certified thresholds

Written by `bench/python/early_exit_judging.py` on {machine}, with torch {torch} and NumPy {numpy}.

## Memory of evaluations

`laplex.early_exit.evaluate` reduces the logits of each batch to a few numbers of each sample, and
keeps no logits. With the policy `"max-softmax"` it keeps 25 bytes of each sample at each exit and 8
bytes of each sample. The columns on the right are measured, in MiB: the growth of the peak of
resident memory during a call, each in a process of its own. `evaluate_outputs` gets logits that
have been collected already, which take the fourth column besides. Both also hold one chunk of some
2 MiB of float64 logits in several copies, and allocators round up.

{memory}

The growth follows the samples and the exits, and does not follow the classes.

## Coverage of certified thresholds

`laplex.early_exit.control_risk` promises that the risk of the thresholds it chooses is at most
epsilon with a probability of at least 1 - delta over the draws of the calibration samples. Here
delta is 10 %. Two exits are simulated whose risk is known: the score s of the first is uniform, the
first is right with probability s and the last with probability 0.9, independently. At a threshold t
the error is (1 - t)^2 / 2 + t / 10, and the loss of accuracy 0.9 (1 - t)^2 / 2. Each row is of
{draws} draws of calibration samples; 51 thresholds from 1 to 0 are tested.

*Certified* is the share of the draws in which some threshold could be certified; *promise broken*
the share of all draws in which the true risk of the chosen threshold is above epsilon. *No test* is
that share for the lowest threshold at which the mean loss of the calibration samples is at most
epsilon. The mean cost is over the draws with a certified threshold; the best cost is that of the
lowest of the 51 thresholds whose true risk is at most epsilon. The first exit costs 40 %.

{coverage}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="print smaller tables, write no page")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        how, *size = options.one
        one(how, *map(int, size))
        return
    sizes = [(n // 10, c, k) for n, c, k in SIZES] if options.quick else SIZES
    draws = 20 if options.quick else DRAWS
    page = TEXT.format(
        machine=processor(),
        torch=torch.__version__,
        numpy=np.__version__,
        draws=f"{draws:,}",
        memory="\n".join(memory(sizes)),
        coverage="\n".join(coverage(draws)),
    )
    if not options.quick:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
