"""The outputs of a model with exits for a data set: logits of every exit, and the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._support.communicator import check_group
from ..._support.progress import progress_bar
from ..activations import batch_of, map_tensors
from ..batches import IGNORED, batch_count, check_inputs, device_of, inputs_and_labels
from ..model import MultiExitModel, evaluating
from .gathering import Shard, gathered, sample_numbers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, eq=False, repr=False)
class Outputs:
    """Logits of all exits, and labels, for N samples.

    Attributes
    ----------
    logits : ndarray [K, N, C], float32
        Logits by exit, sample and class; exits in depth order.
    labels : ndarray [N], int64
        Class indices.
    exit_names : tuple of str
        Names of the K exits; the last one is ``"output"``.

    Raises
    ------
    ValueError
        If the sizes do not match.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    exit_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = np.shape(self.logits)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"logits must be [exits, samples, classes] and not empty, got {list(shape)}"
            )
        if np.shape(self.labels) != shape[1:2] or len(self.exit_names) != shape[0]:
            raise ValueError(
                f"logits are {list(shape)}, so there must be {shape[1]} labels and {shape[0]} "
                f"exit_names, got {list(np.shape(self.labels))} and {len(self.exit_names)}"
            )

    def subset(self, rows: Any) -> Outputs:
        """Select the outputs of some samples.

        Parameters
        ----------
        rows : slice, array of int, or array of bool [N]
            The samples.

        Returns
        -------
        Outputs

        Raises
        ------
        ValueError
            If no sample is selected.
        """
        return Outputs(self.logits[:, rows], self.labels[rows], self.exit_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        exits, samples, classes = self.logits.shape
        return f"Outputs({exits} exits, {samples:,} samples, {classes} classes)"


#: What evaluations leave to the caller.
_OWN = (
    "this evaluates one class for each sample; for several labels and regression, compute metrics "
    "of your own from model(x)"
)


def check_outputs(outputs: Any, validation: Any) -> None:
    """Check that arguments are `Outputs` of other samples; validation may be None.

    Raises
    ------
    TypeError
        If they are not `Outputs`.
    ValueError
        If both are one object, or there is no early exit.
    """
    for name, value in (("outputs", outputs), ("validation", validation)):
        if not isinstance(value, Outputs) and not (name == "validation" and value is None):
            raise TypeError(
                f"{name} must be Outputs, got {type(value).__name__}: use collect(model, loader), "
                "or Outputs(logits, labels, exit_names)"
            )
    if validation is outputs:
        raise ValueError(
            "validation is outputs itself: pass other samples, because thresholds and calibrations "
            "must not be fitted to the samples that judge them"
        )
    if len(outputs.exit_names) < 2:
        raise ValueError(
            f"outputs has only the exit {outputs.exit_names[0]!r}: pass the logits of at least one "
            "early exit and of the last one"
        )


def collect(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    progress: bool = False,
    group: ProcessGroup | None = None,
) -> Outputs:
    """Run all exits of a model over a data set.

    The model runs in evaluation mode and without gradients; the mode of every module is restored.

    Parameters
    ----------
    model : MultiExitModel
        The model. It stays on its device.
    loader : iterable of (x, labels)
        Batches, such as a DataLoader: inputs of the model, and class indices, Tensor [batch]. If
        the logits are those of tokens, [batch, tokens, C], the labels are [batch, tokens], and the
        N samples are all tokens whose labels are not -100.
    device : torch.device or str, optional
        Device that batches are moved to; by default that of the model's first parameter.
    progress : bool
        Whether to show a progress bar; of several processes, rank 0 does.
    group : torch.distributed.ProcessGroup, optional
        Processes that each run a part of the data set, such as ``torch.distributed.group.WORLD``.
        All of them call this function, each with its own loader, and all get the outputs of all
        samples. If the loaders have a ``DistributedSampler``, the samples come in the order of the
        data set, and what it repeats to even out the ranks is dropped; otherwise they come in the
        order of the ranks, and the parts must not overlap. By default, the outputs are those of
        this process alone, also where torch.distributed is initialised.

    Returns
    -------
    Outputs
        Arrays in main memory; the logits take 4 K N C bytes, on every rank.

    Raises
    ------
    TypeError
        If `model` is not a `MultiExitModel`, or batches are not pairs.
    ValueError
        If there are no samples, labels are not one class index for each sample or are out of range,
        or logits are not finite, or not [batch, classes] with at least 2 classes. What one rank of
        a group raises, all raise, with its number. A rank may have no samples as long as another
        has some.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel, collect
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 3)})
    >>> collect(model, [(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))])
    Outputs(2 exits, 5 samples, 3 classes)
    """
    check_group(group)

    def run() -> Shard:
        logits: list[NDArray[np.float32]] = []
        labels: list[NDArray[np.int64]] = []

        def take(x: Any, found: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
            logits.append(found)
            labels.append(numbers)

        run_batches(model, loader, device, progress, take, group)
        if not labels:
            return Shard(len(model.output_names), 0, {})
        together = np.concatenate(logits, axis=1)
        truth = np.concatenate(labels)[None]
        return Shard(len(together), together.shape[2], {"logits": together, "labels": truth})

    found = of_all(group, loader, run).arrays
    return Outputs(found["logits"], found["labels"][0], model.output_names)


def of_all(group: ProcessGroup | None, loader: Iterable[Any], run: Callable[[], Shard]) -> Shard:
    """What `run` finds for the samples of a loader, or of those of all ranks of a group.

    Raises
    ------
    ValueError
        If there are no samples; `gathered` may raise other errors.
    """
    found = run() if group is None else gathered(group, loader, run)
    if not len(found):
        raise ValueError("loader yielded no samples: pass one that is neither empty nor exhausted")
    return found


def run_batches(
    model: MultiExitModel,
    loader: Iterable[Any],
    device: torch.device | str | None,
    progress: bool,
    take: Callable[[Any, NDArray[np.float32], NDArray[np.int64]], None],
    group: ProcessGroup | None = None,
) -> None:
    """Run a model on the batches of a loader, which may yield none.

    `take` is called for each batch with its inputs, its logits [K, n, C] and its labels [n]. Tokens
    whose labels count are samples of their own.

    Raises
    ------
    TypeError, ValueError
        As in `collect`.
    """
    check_inputs(model, loader)
    where = device_of(model) if device is None else torch.device(device)
    names = model.output_names
    total = batch_count(loader)
    with evaluating(model), torch.no_grad(), progress_bar(progress, extra="exits") as report:
        for done, batch in enumerate(loader, 1):
            x, given = inputs_and_labels(batch, "loader")
            samples = batch_of(x, "x")
            found = model(map_tensors(lambda tensor: tensor.to(where), x))
            labels = torch.as_tensor(given)
            if found[0].ndim > 2 and labels.shape == found[0].shape[:-1]:  # tokens
                if group is not None and sample_numbers(loader) is not None:
                    raise ValueError(
                        "loader has a DistributedSampler, which orders texts, but the samples are "
                        "tokens: give each rank a loader of its own texts, without a sampler"
                    )
                counts = labels != IGNORED
                labels = labels[counts]
                samples = len(labels)
                found = tuple(one[counts.to(one.device)] for one in found)
            if found[-1].ndim != 2 or found[-1].shape[-1] < 2:
                raise ValueError(
                    "an evaluation needs logits [batch, classes] of at least 2 classes, or such "
                    f"logits and a label for each token, got logits {list(found[-1].shape)} and "
                    f"labels {list(labels.shape)}: {_OWN}"
                )
            logits = _together(found, names)
            take(x, logits, _class_numbers(labels, samples, logits.shape[2]))
            report("collect outputs", done, total, "")


def _together(found: tuple[Tensor, ...], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Logits of one batch, [K, batch, C]."""
    for one, name in zip(found, names, strict=True):
        if not bool(one.isfinite().all()):
            raise ValueError(
                f"exit {name!r} gave logits that are not finite: the model has diverged, or its "
                "inputs are not finite"
            )
    together: NDArray[np.float32] = torch.stack(found).float().cpu().numpy()
    return together


def _class_numbers(labels: Tensor, samples: int, classes: int) -> NDArray[np.int64]:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be class indices of an integer type, got {labels.dtype}: convert them; "
            f"{_OWN}"
        )
    if labels.shape != (samples,):
        raise ValueError(
            f"labels must be one number for each of the {samples} samples, got shape "
            f"{list(labels.shape)}: {_OWN}"
        )
    numbers: NDArray[np.int64] = labels.cpu().numpy().astype(np.int64)
    if samples and (numbers.min() < 0 or numbers.max() >= classes):
        remedy = "renumber them"
        if numbers.min() < 0:
            remedy = "leave out the samples without a class, such as those with the label -100"
        raise ValueError(
            f"labels go from {numbers.min()} to {numbers.max()}, but the model has classes 0 to "
            f"{classes - 1}: {remedy}"
        )
    return numbers
