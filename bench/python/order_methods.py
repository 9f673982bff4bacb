"""The functions of laplex.order and those of other libraries for the same purposes.

They are functions of a problem. Scores are standard normal, so that a temperature of 0.1 is a tenth
of their spread. The libraries of projections onto the permutahedron get a strength with which
neighbours form blocks of several lengths.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from types import ModuleType

import torch
from torch import Tensor

import laplex
import order_dense as dense

OPERATIONS = ("soft_rank", "soft_sort", "soft_topk", "softsort", "soft_permute")
#: The channels of the values that are permuted.
CHANNELS = 3


@dataclass(frozen=True)
class Problem:
    """Scores `[b, n]`, values `[3, b, n]`, a temperature and how many scores to select."""

    scores: Tensor
    values: Tensor
    tau: float | Tensor
    k: int

    @classmethod
    def draw(
        cls,
        n: int,
        rows: int = 1,
        dtype: torch.dtype = torch.float32,
        tau: float = 0.1,
        seed: int = 0,
    ) -> Problem:
        generator = torch.Generator().manual_seed(n + rows + seed)
        scores = torch.randn(rows, n, generator=generator).to(dtype)
        values = torch.randn(CHANNELS, rows, n, generator=generator).to(dtype)
        return cls(scores.requires_grad_(), values.requires_grad_(), tau, max(n // 10, 1))

    @property
    def n(self) -> int:
        return self.scores.shape[-1]

    def double(self) -> Problem:
        """The same problem in float64."""
        scores, values = (each.detach().double() for each in (self.scores, self.values))
        return replace(self, scores=scores.requires_grad_(), values=values.requires_grad_())

    def leaves(self, operation: str) -> list[Tensor]:
        has_values = operation in ("softsort", "soft_permute")
        return [self.scores, self.values] if has_values else [self.scores]


Function = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Method:
    """A function of a library, and what can be said of it without running it."""

    operation: str
    who: str
    run: Function
    cuda: str = "yes"
    """By its sources, as they are or as they need to be built."""
    largest: int = 10**6
    """The largest line for which its time is measured."""
    reference: Function | None = None
    """The same definition, for a problem in float64; otherwise the method itself."""
    takes_tau: bool = True
    """Whether the strength that is passed on may be a tensor."""


def _library(name: str) -> ModuleType | None:
    """A library, or None if it is not installed."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return None
    # difftopk prints that torch-sparse is missing; LapSum is missing its CUDA extensions.
    with redirect_stdout(StringIO()), suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
    return None


#: Libraries by the names of their packages.
LIBRARIES = (
    "torchsort",
    "torchpsort",
    "fast_soft_sort.pytorch_ops",
    "lapsum.topk",
    "lapsum.rank",
    "lapsum.sort",
    "diffsort",
    "difftopk",
)
FOUND = {name: module for name in LIBRARIES if (module := _library(name))}


def _laplex() -> list[Method]:
    order = laplex.order
    return [
        Method("soft_rank", "laplex", lambda p: order.soft_rank(p.scores, p.tau),
               reference=lambda p: dense.rank(p.scores, p.tau)),
        Method("soft_sort", "laplex", lambda p: order.soft_sort(p.scores, p.tau),
               reference=lambda p: dense.sort(p.scores, p.tau)),
        Method("soft_topk", "laplex", lambda p: order.soft_topk(p.scores, p.k, p.tau),
               reference=lambda p: dense.topk(p.scores, p.k, p.tau)),
        Method("softsort", "laplex", lambda p: order.softsort(p.values, p.scores, p.tau),
               reference=lambda p: dense.softsort(p.values, p.scores, p.tau)),
        Method("soft_permute", "laplex", lambda p: order.soft_permute(p.values, p.scores, p.tau),
               reference=lambda p: dense.permute(p.values, p.scores, p.tau)),
    ]  # fmt: skip


def _edges(p: Problem) -> Tensor:
    """The quantiles by which a dense soft permutation is made."""
    levels = torch.arange(1, p.n, dtype=torch.float64)
    return laplex.order.soft_quantile(p.scores.double(), levels, p.tau).to(p.scores.dtype)


def _dense() -> list[Method]:
    largest = 10**4
    return [
        Method("soft_rank", "dense torch", lambda p: dense.rank(p.scores, p.tau), largest=largest),
        Method("softsort", "dense torch", lambda p: dense.softsort(p.values, p.scores, p.tau),
               largest=largest),
        Method("soft_permute", "dense torch, quantiles of laplex",
               lambda p: dense.permute(p.values, p.scores, p.tau, _edges(p)), largest=largest,
               reference=lambda p: dense.permute(p.values, p.scores, p.tau)),
    ]  # fmt: skip


def _isotonic() -> list[Method]:
    """Projections onto the permutahedron (arXiv 2002.08871)."""
    found = []

    def add(who: str, rank: Callable, sort: Callable, cuda: str, largest: int = 10**6) -> None:
        # A strength that is a tensor stands for itself, because the probes differentiate by it.
        def strength(p: Problem, scale: float) -> float | Tensor:
            return p.tau if isinstance(p.tau, Tensor) else scale

        # Those with entropies take exponentials of scores / strength, which must not overflow.
        def for_rank(p: Problem) -> float | Tensor:
            return strength(p, 1.0 if who.endswith("kl") else 1 / p.n)

        found.append(Method("soft_rank", who, lambda p: rank(p.scores, for_rank(p)), cuda, largest))
        found.append(
            Method("soft_sort", who, lambda p: sort(p.scores, strength(p, p.n)), cuda, largest)
        )

    if torchsort := FOUND.get("torchsort"):
        for kind in ("l2", "kl"):
            add(
                f"torchsort, {kind}",
                lambda x, s, kind=kind: torchsort.soft_rank(x, kind, s),
                lambda x, s, kind=kind: torchsort.soft_sort(x, kind, s),
                "yes, if built with nvcc",
            )
    if torchpsort := FOUND.get("torchpsort"):
        for kind in ("l2", "kl"):
            add(
                f"torchpsort, {kind}",
                lambda x, s, kind=kind: torchpsort.soft_rank(x, s, kind),
                lambda x, s, kind=kind: torchpsort.soft_sort(x, s, kind),
                "yes",
                10**4,
            )
    if fast := FOUND.get("fast_soft_sort.pytorch_ops"):
        add(
            "fast-soft-sort, l2",
            lambda x, s: fast.soft_rank(x, regularization_strength=s).to(x.dtype),
            lambda x, s: fast.soft_sort(x, regularization_strength=s).to(x.dtype),
            "no: NumPy",
        )
    return found


def _lapsum() -> list[Method]:
    """Sums of Laplace CDFs (arXiv 2503.06242), in C++. Its ranks start at 0."""
    found = []
    cuda = "yes, if built with nvcc"

    def alpha(p: Problem) -> Tensor:
        # A new one every time: soft_topk changes its sign.
        return p.tau if isinstance(p.tau, Tensor) else p.scores.new_tensor(p.tau)

    if rank := FOUND.get("lapsum.rank"):
        found.append(
            Method("soft_rank", "LapSum", lambda p: rank.soft_rank(p.scores, alpha(p)), cuda, 10**4,
                   reference=lambda p: dense.rank(p.scores, p.tau) - 1)
        )  # fmt: skip
    if sort := FOUND.get("lapsum.sort"):
        found.append(
            Method("soft_sort", "LapSum", lambda p: sort.soft_sort(p.scores, p.tau), cuda,
                   reference=lambda p: dense.sort(p.scores, p.tau))
        )  # fmt: skip
    if topk := FOUND.get("lapsum.topk"):

        def run(p: Problem) -> Tensor:
            k = p.scores.new_full((len(p.scores), 1), float(p.k))
            return topk.soft_topk(p.scores, k, alpha(p))

        found.append(
            Method("soft_topk", "LapSum", run, cuda,
                   reference=lambda p: dense.topk(p.scores, p.k, p.tau))
        )  # fmt: skip
    return found


def _networks() -> list[Method]:
    """Sorting networks (arXiv 2105.04019) and dense matrices."""
    found = []
    nets: dict[tuple, torch.nn.Module] = {}

    def steepness(p: Problem) -> float | Tensor:
        return 1 / p.tau

    if diffsort := FOUND.get("diffsort"):

        def sort(p: Problem) -> Tensor:
            if ("sort", p.n) not in nets:  # a matrix per layer, made once
                nets["sort", p.n] = diffsort.DiffSortNet("bitonic", p.n)
            nets["sort", p.n].steepness = steepness(p)
            return nets["sort", p.n](p.scores)[0]

        found.append(Method("soft_sort", "diffsort, bitonic", sort, largest=100))
    if difftopk := FOUND.get("difftopk"):

        def topk(p: Problem) -> Tensor:
            key = ("topk", p.n, p.scores.dtype)
            if key not in nets:
                nets[key] = net = difftopk.DiffTopkNet("bitonic", p.n, p.k)
                net.sorting_network = [[m.to(key[-1]) for m in ms] for ms in net.sorting_network]
            nets[key].steepness = steepness(p)
            default = torch.get_default_dtype()
            torch.set_default_dtype(key[-1])  # that of a matrix that it makes
            try:
                return nets[key](p.scores)[1].sum(-1)
            finally:
                torch.set_default_dtype(default)

        def matrix(p: Problem) -> Tensor:
            return difftopk.softsort.SoftSort(p.tau)(p.scores)

        found += [
            Method("soft_topk", "difftopk, bitonic", topk, largest=100),
            Method("soft_topk", "difftopk, SoftSort", lambda p: matrix(p)[:, : p.k].sum(1),
                   largest=10**4),
            Method("softsort", "difftopk, SoftSort",
                   lambda p: dense.times_values(matrix(p), p.values).flip(-1), largest=10**4,
                   reference=lambda p: dense.softsort(p.values, p.scores, p.tau)),
        ]  # fmt: skip
    return found


METHODS = [*_laplex(), *_isotonic(), *_lapsum(), *_networks(), *_dense()]


def of_operation(operation: str) -> list[Method]:
    return [method for method in METHODS if method.operation == operation]
