"""What a sample costs by the exit it leaves at: multiply-adds, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._support.results import Result
from .._support.text_tables import aligned
from .activations import batch_of, map_tensors
from .flop_counting import counting_flops
from .model import MultiExitModel, evaluating

Convention = Literal["multiply-adds", "flops"]


@dataclass(frozen=True, eq=False, repr=False)
class Costs(Result):
    """What one sample costs; printing it prints the table.

    Attributes
    ----------
    exit_names : tuple of str
        Of the K exits, the last one ``"output"``.
    segments : ndarray [K], float64
        Cost of the backbone between exit k - 1 and exit k, without heads.
    heads : ndarray [K - 1], float64
        Cost of the head of each exit but the last, which is the backbone's own.
    convention : "multiply-adds" or "flops"
        The unit. A multiply-add is 2 flops.
    backbone_parameters : int
    head_parameters : tuple of int
        Numbers of parameters, K - 1 of them; one that two heads share counts for both.
    """

    _kind: ClassVar = "laplex.early_exit.Costs"
    _written: ClassVar = (
        "convention", "exit_names", "segments", "heads", "exits", "relative", "backbone",
        "backbone_parameters", "head_parameters",
    )  # fmt: skip

    exit_names: tuple[str, ...]
    segments: NDArray[np.float64]
    heads: NDArray[np.float64]
    convention: Convention
    backbone_parameters: int
    head_parameters: tuple[int, ...]

    @property
    def backbone(self) -> float:
        """Cost of the plain backbone, no head run: 100 %."""
        return float(self.segments.sum())

    @property
    def exits(self) -> NDArray[np.float64]:
        """Cost of a sample that leaves at exit k, ndarray [K].

        It has gone through segments 0 to k, and through heads 0 to k as it asked each whether to
        leave. So the last exit costs more than the plain backbone, by all heads.
        """
        return np.cumsum(self.segments + np.append(self.heads, 0.0))

    @property
    def relative(self) -> NDArray[np.float64]:
        """`exits` in units of `backbone`, ndarray [K]: 1.0 is 100 %."""
        return self.exits / self.backbone

    def mean(self, samples_per_segment: Sequence[int]) -> float:
        """Mean cost of the samples of a `Prediction`, by what was truly computed.

        Parameters
        ----------
        samples_per_segment : sequence of int
            K numbers: how many samples each segment, and the head after it, computed.

        Raises
        ------
        ValueError
            Another number of segments, or no samples.
        """
        counts = np.asarray(samples_per_segment, dtype=np.float64)
        if counts.shape != self.segments.shape or counts[0] <= 0:
            raise ValueError(
                f"samples_per_segment must be {len(self.segments)} numbers, one for each exit, the "
                f"first of them positive, got {list(samples_per_segment)}: pass that of predict"
            )
        return float(counts @ (self.segments + np.append(self.heads, 0.0)) / counts[0])

    def cells(self, percent: str = "%", missing: str = "-") -> list[list[str]]:
        """Rows of a table, one for each exit and one for the plain backbone.

        Cost of the segment and of the head, of leaving here and as a part of the backbone's,
        parameters.
        """
        columns = (
            self.exit_names,
            [f"{one:,.0f}" for one in self.segments],
            [*(f"{one:,.0f}" for one in self.heads), missing],
            [f"{one:,.0f}" for one in self.exits],
            [f"{100 * part:.1f}{percent}" for part in self.relative],
            [*(f"{one:,}" for one in self.head_parameters), missing],
        )
        plain, parameters = f"{self.backbone:,.0f}", f"{self.backbone_parameters:,}"
        return [
            *map(list, zip(*columns, strict=True)),
            ["plain backbone", plain, missing, plain, f"100.0{percent}", parameters],
        ]

    def table(self) -> str:
        """One aligned text, a line for each exit."""
        head = ["exit", "segment", "head", "leaving here", "of backbone", "parameters"]
        return f"Cost of a sample by exit, in {self.convention}\n{aligned(head, self.cells())}"

    def _summary(self) -> str:
        shown = ", ".join(f"{part:.1%}" for part in self.relative)
        return f"{self.backbone:,.0f} {self.convention} in the backbone; exits at {shown}"

    def _check(self) -> None:
        count = len(self.exit_names)
        sizes = (self.segments.shape, self.heads.shape, len(self.head_parameters))
        if sizes != ((count,), (count - 1,), count - 1):
            raise ValueError("sizes differ")


def count_costs(
    model: MultiExitModel, example: Any, *, convention: Convention = "multiply-adds"
) -> Costs:
    r"""Count what a sample costs that leaves at each exit.

    Matrix products, convolutions and attention count (`torch.utils.flop_counter`), and the product
    of `laplex.nn` layers; what goes number by number (activations, norms, pooling, softmax, the
    decision to leave) does not, and `torch.nn.Bilinear` neither. The count is made by running
    one sample in evaluation mode without gradients; modes are put back.

    Parameters
    ----------
    model : MultiExitModel
    example : Tensor [batch, ...], or nested lists, tuples and dicts of them
        As for ``model(example)``. Its first sample is run, alone, so that the count does not
        depend on the batch.
    convention : "multiply-adds" or "flops"
        What is counted; a multiply-add is 2 flops. Papers that say "FLOPs" often mean the former.

    Returns
    -------
    Costs

    Raises
    ------
    TypeError
        `model` is no `MultiExitModel`.
    ValueError
        An unknown `convention`, an empty batch, or a backbone in which nothing can be counted.

    Notes
    -----
    Attention counts in full, masks or not. A product with a Laplace kernel
    counts :math:`2 (n + m)` multiply-adds for a row of each of its heads, or :math:`6 (n + m)` with
    phases, for n targets and m sources: each anchor is weighed from both sides and enters two
    running sums, on one plane of numbers or on two, into which phases turn it. The order
    of the anchors, which every call finds, is not counted. `LaplexHead` makes two such products a
    call, one of them for its normaliser; that one is shared by a batch, and counts in full here.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel, count_costs
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> costs = count_costs(MultiExitModel(backbone, {"1": nn.Linear(8, 3)}), torch.zeros(1, 4))
    >>> costs.exits, costs.backbone
    (array([56., 80.]), 56.0)
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(f"model must be a MultiExitModel, got {type(model).__name__}")
    convention = _convention(convention)
    if batch_of(example, "example") < 1:
        raise ValueError("example has no samples: pass a batch of at least one")
    sample = map_tensors(lambda tensor: tensor[:1], example)
    marks: list[int] = []  # the running count: before and after each head

    with evaluating(model), torch.no_grad(), counting_flops() as total:

        def at_exit(k: int, activation: Any) -> Any:
            marks.append(total())
            model.head_logits(k, activation)
            marks.append(total())
            return activation

        model.walk(sample, at_exit)
        marks.append(total())

    unit = 2.0 if convention == "multiply-adds" else 1.0
    steps = np.diff(np.asarray([0, *marks], dtype=np.float64)) / unit
    costs = Costs(
        exit_names=model.output_names,
        segments=steps[0::2],
        heads=steps[1::2],
        convention=convention,
        backbone_parameters=_parameters(model.backbone),
        head_parameters=tuple(_parameters(head) for head in model.heads),
    )
    if costs.backbone <= 0:
        raise ValueError(
            "nothing of the backbone was counted, so there is no 100 %: model must have matrix "
            "products, convolutions or attention"
        )
    return costs


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _convention(value: Any) -> Convention:
    if value not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, got {value!r}")
    found: Convention = value
    return found
