"""The cost of a sample by the exit where it leaves, in counted multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._support.arguments import one_of
from .._support.results import Result
from .._support.text_tables import aligned
from .activations import batch_of, first_rows
from .batches import check_model
from .flop_counting import counting_flops
from .model import MultiExitModel, evaluating

Convention = Literal["multiply-adds", "flops"]


@dataclass(frozen=True, eq=False, repr=False)
class Costs(Result):
    """Result of `count_costs`: the cost of one sample. Printing it prints the table.

    Attributes
    ----------
    exit_names : tuple of str
        Names of the K exits; the last one is ``"output"``.
    segments : ndarray [K], float64
        Cost of the backbone between exit k - 1 and exit k, without heads.
    heads : ndarray [K - 1], float64
        Cost of the head of each exit but the last, whose head belongs to the backbone.
    convention : "multiply-adds" or "flops"
        The unit. A multiply-add is 2 flops.
    backbone_parameters : int
        Number of parameters of the backbone.
    head_parameters : tuple of int
        Number of parameters of each of the K - 1 heads. A parameter that two heads share counts for
        both.
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
        """Cost of the plain backbone, without any head; this is 100 %."""
        return float(self.segments.sum())

    @property
    def exits(self) -> NDArray[np.float64]:
        """Cost of a sample that leaves at exit k, ndarray [K].

        The sample runs through segments 0 to k and through heads 0 to k, because each of these
        heads decides whether it leaves. The last exit therefore costs more than the plain backbone,
        by the cost of all heads.
        """
        return np.cumsum(self.segments + np.append(self.heads, 0.0))

    @property
    def relative(self) -> NDArray[np.float64]:
        """`exits` divided by `backbone`, ndarray [K]; 1.0 is 100 %."""
        return self.exits / self.backbone

    def mean(self, samples_per_segment: Sequence[int]) -> float:
        """Mean cost of the samples of a `Prediction`, from the segments that were computed.

        Parameters
        ----------
        samples_per_segment : sequence of int
            The attribute of this name of a `Prediction`: K numbers, how many samples each segment
            and the head after it computed.

        Returns
        -------
        float
            In the unit `convention`.

        Raises
        ------
        ValueError
            If there are not K numbers, or the first one is not positive.
        """
        counts = np.asarray(samples_per_segment, dtype=np.float64)
        if counts.shape != self.segments.shape or counts[0] <= 0:
            raise ValueError(
                f"samples_per_segment must be {len(self.segments)} numbers, one for each exit, the "
                f"first of them positive, got {list(samples_per_segment)}: pass the attribute of "
                "the prediction"
            )
        return float(counts @ (self.segments + np.append(self.heads, 0.0)) / counts[0])

    def cells(self, percent: str = "%", missing: str = "-") -> list[list[str]]:
        """Rows of the table: one for each exit, and one for the plain backbone.

        The columns are the name, the cost of the segment, the cost of the head, the cost of a
        sample that leaves here, the same relative to the backbone, and the number of parameters.

        :meta private:
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
        """Format the costs as aligned text, one line for each exit."""
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
    r"""Count the cost of a sample that leaves at each exit.

    Matrix products, convolutions and attention are counted (`torch.utils.flop_counter`), and so are
    the products of `laplex.nn` layers. Elementwise work (activations, norms, pooling, softmax, the
    decision to leave) is not counted, and neither is `torch.nn.Bilinear`. To count, one sample is
    run in evaluation mode without gradients; the mode of every module is restored.

    Parameters
    ----------
    model : MultiExitModel
        The model.
    example : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
        An input of ``model(example)``. Only its first sample is run, so that the count does not
        depend on the batch.
    convention : "multiply-adds" or "flops"
        The unit. A multiply-add is 2 flops. Papers that say "FLOPs" often mean multiply-adds.

    Returns
    -------
    Costs

    Raises
    ------
    TypeError
        If `model` is not a `MultiExitModel`.
    ValueError
        If `convention` is unknown, the batch is empty, or nothing in the backbone can be counted.

    Notes
    -----
    Attention counts in full, with or without a mask. For n targets and m sources, a product with a
    Laplace kernel counts :math:`2 (n + m)` multiply-adds for each row of each of its heads, or
    :math:`6 (n + m)` with phases: each anchor is weighted from both sides and enters two running
    sums, on one plane of numbers without phases and on two planes with them, for which the phases
    also rotate the values. Sorting the anchors, which every call does, is not counted. `LaplexHead`
    computes two such products a call, one of them for its normaliser. A batch shares the
    normaliser, but here it counts in full.

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
    check_model(model)
    one_of("convention", convention, Convention)
    if batch_of(example, "example") < 1:
        raise ValueError("example has no samples: pass a batch of at least one")
    sample = first_rows(example, 1, "example")
    marks: list[int] = []  # the running count: before and after each head

    with evaluating(model), torch.no_grad(), counting_flops() as total:
        reader = model.reader(sample)

        def at_exit(k: int, activation: Any) -> Any:
            marks.append(total())
            reader.logits(k, activation)
            marks.append(total())
            return activation

        reader.output(model.walk(sample, at_exit))
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
            "nothing in the backbone was counted, so costs have no unit: the backbone must contain "
            "matrix products, convolutions or attention"
        )
    return costs


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
