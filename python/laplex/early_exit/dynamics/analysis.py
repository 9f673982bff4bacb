"""All measurements inside a model, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from ..._support.arguments import whole
from ..batches import check_inputs, labelled_batches
from ..model import MultiExitModel
from .gradients import GradientShare, gradient_share
from .information import MutualInformation, mutual_information
from .landscape import LossLandscape, loss_landscape
from .linear_paths import ModeConnectivity, mode_connectivity
from .ranks import ActivationRank, activation_rank
from .restoring import unchanged
from .result import DynamicsResult

_MAKERS: dict[str, Callable[..., DynamicsResult]] = {
    "gradient_share": gradient_share,
    "mutual_information": mutual_information,
    "activation_rank": activation_rank,
    "mode_connectivity": mode_connectivity,
    "loss_landscape": loss_landscape,
}

#: The measurements of `analyze`, in the order in which they are made and shown.
PARTS = tuple(_MAKERS)

#: Number of samples for the loss landscape, which runs the model at every point.
_LANDSCAPE_SAMPLES = 128

#: Width in inches that the parts in one row of the figure of an `Analysis` may fill.
_WIDTH = 14.0


@dataclass(frozen=True, eq=False, repr=False)
class Analysis(DynamicsResult):
    """Result of `analyze`. Measurements that were not requested, or that failed, are None.

    Attributes
    ----------
    gradient_share : GradientShare or None
        How much of the gradient of each block comes from each exit.
    mutual_information : MutualInformation or None
        Information of each layer about the label and the input.
    activation_rank : ActivationRank or None
        Numerical rank of the activations of each layer.
    mode_connectivity : ModeConnectivity or None
        Loss on the straight line to a second checkpoint.
    loss_landscape : LossLandscape or None
        Loss on a plane through the parameters.
    failures : dict of str to str
        The measurements that failed, and the reason.
    """

    _kind: ClassVar = "laplex.early_exit.Analysis"

    gradient_share: GradientShare | None
    mutual_information: MutualInformation | None
    activation_rank: ActivationRank | None
    mode_connectivity: ModeConnectivity | None
    loss_landscape: LossLandscape | None
    failures: dict[str, str]

    def parts(self) -> dict[str, DynamicsResult]:
        """Return the measurements that were made, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in found.items() if isinstance(part, DynamicsResult)}

    def table(self) -> str:
        """Format the tables of all measurements, and list the failures."""
        texts = [part.table() for part in self.parts().values()]
        texts += [f"{name} failed: {why}" for name, why in self.failures.items()]
        return "\n\n".join(texts)

    def __repr__(self) -> str:
        failed = f"; failed: {', '.join(self.failures)}" if self.failures else ""
        return f"Analysis({', '.join(self.parts())}{failed}; print it for the tables)"

    def _rows(self) -> list[list[DynamicsResult]]:
        """The parts in each row: as many as fit."""
        rows: list[list[DynamicsResult]] = []
        for part in self.parts().values():
            width = part._size()[0]
            if rows and sum(one._size()[0] for one in rows[-1]) + width <= _WIDTH:
                rows[-1].append(part)
            else:
                rows.append([part])
        return rows

    def _size(self) -> tuple[float, float]:
        rows = self._rows()
        width = max(sum(part._size()[0] for part in row) for row in rows)
        return width, sum(max(part._size()[1] for part in row) for row in rows)

    def _draw(self, figure: Any) -> None:
        rows = self._rows()
        heights = [max(part._size()[1] for part in row) for row in rows]
        bands = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for band, row in zip(bands, rows, strict=True):
            widths = [part._size()[0] for part in row]
            panels = band.subfigures(1, len(row), width_ratios=widths, squeeze=False)[0]
            for panel, part in zip(panels, row, strict=True):
                part.plot(panel)


def analyze(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    other: MultiExitModel | Mapping[str, Tensor] | None = None,
    train_loader: Iterable[Any] | None = None,
    parts: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    max_samples: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Analysis:
    """Make all measurements of `laplex.early_exit.dynamics`, with settings that run quickly.

    If a measurement fails, `Analysis.failures` holds the reason, and the others are still made.

    Parameters
    ----------
    model : MultiExitModel
        The model, which is not changed.
    loader : iterable of (x, labels)
        Batches of samples. It is read once, and only its first samples are used, so shuffle it
        unless its order is arbitrary.
    other : MultiExitModel or mapping of str to Tensor, optional
        A second checkpoint, for `mode_connectivity`. Without it, that measurement is omitted.
    train_loader : iterable of (x, labels), optional
        Batches for the running statistics in `mode_connectivity`.
    parts : sequence of str, optional
        The measurements to make: "gradient_share", "mutual_information", "activation_rank",
        "mode_connectivity", "loss_landscape". The default is all of them.
    options : mapping of str to mapping, optional
        Arguments for single measurements, such as ``{"loss_landscape": {"points": (31, 31)}}``. By
        default the landscape has 11 x 11 points. It always uses only the first 128 samples.
    max_samples : int
        Number of samples to use.
    seed : int
        Random seed of all measurements.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    Analysis

    Raises
    ------
    TypeError, ValueError
        If arguments or batches are invalid. If every measurement fails, the exception of the first
        one.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import analyze
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 2)})
    >>> x = torch.randn(50, 4)
    >>> analyze(model, [(x, (x[:, 0] > 0).long())], parts=["gradient_share", "activation_rank"])
    Analysis(gradient_share, activation_rank; print it for the tables)
    """
    check_inputs(model, loader)
    max_samples, seed = whole("max_samples", max_samples, 2), whole("seed", seed, 0)
    if other is not None and not isinstance(other, (MultiExitModel, Mapping)):
        raise TypeError(
            f"other must be a MultiExitModel or its state_dict(), got {type(other).__name__}"
        )
    asked = _asked(parts, other is not None)
    chosen = _chosen(options)
    with unchanged(model):
        batches = list(labelled_batches(model, loader, samples=max_samples))
        few = list(labelled_batches(model, batches, samples=_LANDSCAPE_SAMPLES))
    given: dict[str, tuple[Any, ...]] = {
        "mode_connectivity": (model, other, batches),
        "loss_landscape": (model, few),
    }
    defaults: dict[str, dict[str, Any]] = {
        "mutual_information": {"max_samples": max_samples, "seed": seed},
        "activation_rank": {"max_samples": max_samples, "seed": seed},
        "mode_connectivity": {"train_loader": train_loader},
        "loss_landscape": {"points": (11, 11), "seed": seed},
    }
    found: dict[str, Any] = dict.fromkeys(PARTS)
    failures: dict[str, Exception] = {}
    for name in asked:
        arguments = {**defaults.get(name, {}), "progress": progress, **chosen.get(name, {})}
        try:
            found[name] = _MAKERS[name](*given.get(name, (model, batches)), **arguments)
        except Exception as error:  # of any kind, because the model is the caller's code
            failures[name] = error
    if len(failures) == len(asked):
        raise next(iter(failures.values()))
    return Analysis(
        **found,
        failures={name: str(error) or type(error).__name__ for name, error in failures.items()},
    )


def _asked(parts: Sequence[str] | None, two: bool) -> list[str]:
    if parts is None:
        return [name for name in PARTS if two or name != "mode_connectivity"]
    if isinstance(parts, str):
        raise TypeError(f"parts must be a list of names, got {parts!r}: pass [{parts!r}]")
    _check_parts("parts", parts)
    if not parts:
        raise ValueError(f"parts is empty: name some of {', '.join(PARTS)}")
    if "mode_connectivity" in parts and not two:
        raise ValueError("mode_connectivity needs a second checkpoint: pass other")
    return [name for name in PARTS if name in parts]


def _chosen(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    chosen = {} if options is None else {name: dict(one) for name, one in options.items()}
    _check_parts("options", list(chosen))
    for name, arguments in chosen.items():
        parameters = signature(_MAKERS[name]).parameters.values()
        known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        for argument in arguments:
            if argument not in known:
                raise TypeError(
                    f"options[{name!r}] has {argument!r}, which is not one of {', '.join(known)}"
                )
    return chosen


def _check_parts(argument: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in PARTS:
            raise ValueError(f"{argument} has {name!r}, which is not one of {', '.join(PARTS)}")
