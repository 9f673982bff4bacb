"""Trace a model with exits once, as one graph with the answers of all exits."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from ..activations import batch_of, map_tensors, tensors_of
from ..flop_counting import unfused
from ..model import MultiExitModel
from ..policies.base import Policy

#: The dynamic axes of one input, by their numbers: `BATCH`, or ``Dim.DYNAMIC``.
Axes = Mapping[int, Any]
BATCH = Dim("batch", min=1)


def trace_whole(
    model: MultiExitModel, example: Any, policy: Policy | None, dynamic: Sequence[Axes]
) -> tuple[ExportedProgram, list[tuple[int, int]]]:
    """Trace all segments at once.

    Parameters
    ----------
    model : MultiExitModel
        The model, in evaluation mode and on the CPU.
    example
        A batch of at least 2 samples.
    policy : Policy, optional
    dynamic : sequence of mappings
        For each Tensor of the example, its dynamic axes in addition to the batch.

    Returns
    -------
    program : ExportedProgram
        It returns, exit after exit, the answers (the logits, and the score of the policy) and the
        tensors that continue (the activation, the memory of the policy, what heads carry).
    counts : list of (int, int)
        The numbers of answers and of continuing tensors of each exit.

    Raises
    ------
    ValueError
        If the model cannot be traced, fixes the batch size, changes its state in evaluation mode,
        or an exit does not give one row of logits for each sample.
    """
    if policy is not None:
        with torch.no_grad():
            logits = model(example)
        _check_score(policy, logits)
    counts: list[tuple[int, int]] = []
    whole = _Whole(model, example, policy, lambda found: counts.__setitem__(slice(None), found))
    batch, inputs = batch_of(example, "example"), tuple(tensors_of(example))
    axes = [
        {0: BATCH, **more} if tensor.shape[:1] == (batch,) else more
        for tensor, more in zip(inputs, dynamic, strict=True)
    ]
    program = traced(whole, inputs, axes, "the model")
    with quiet():
        program = program.run_decompositions({})  # makes in-place operations functional
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise ValueError(
                f"the model changes {spec.target!r} in evaluation mode, which exported files do "
                "not support: remove that state from its forward"
            )
    return program, counts


def traced(
    module: nn.Module, inputs: tuple[Tensor, ...], axes: Sequence[Axes], what: str
) -> ExportedProgram:
    """Trace a module whose inputs have dynamic axes, the batch among them.

    Raises
    ------
    ValueError
        If ``torch.export`` cannot trace it; the message contains the reason.
    """
    # The forward of a GraphModule names its arguments, that of _Whole has them in one *leaves.
    each = tuple(axes)
    shapes: Any = each if isinstance(module, fx.GraphModule) else (each,)
    try:
        with torch.no_grad(), unfused(), quiet():
            return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # a forward may raise anything when it is traced
        text = str(error)
        if "specialized" in text and "batch" in text:
            raise ValueError(
                f"{what} fixes the batch size in its forward, for instance by len(x) or "
                "int(x.shape[0]): write x.shape[0]"
            ) from error
        fixed = re.search(r"specialized it to be a constant \((\d+)\)", text)
        if fixed is not None:
            raise ValueError(
                f"{what} fixes the size {fixed[1]} of its example, which was to vary: leave it out "
                "of dynamic, or pass dynamic={} to fix all sizes but the batch"
            ) from error
        reason = text.strip().partition("\n\n")[0] or type(error).__name__
        raise ValueError(f"{what} cannot be traced by torch.export: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of PyTorch's exporters about themselves."""
    # Without torchvision, it lists every operator of torchvision that it cannot register.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch.export copies its own tree specs and warns about them.
            warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
            # Layers like nn.LSTM list their weights twice, which is harmless.
            warnings.filterwarnings(
                "ignore", r"The tensor attributes? .*_flat_weights", UserWarning
            )
            yield
    finally:
        registry.setLevel(level)


class _Whole(nn.Module):
    """All segments at once: the answers and the continuing tensors of each exit as flat outputs."""

    def __init__(
        self,
        model: MultiExitModel,
        example: Any,
        policy: Policy | None,
        note: Callable[[list[tuple[int, int]]], None],
    ) -> None:
        super().__init__()
        self.model = model
        self.example = example
        self.policy = policy
        self.parts = modules_of(policy)  # so that their weights are part of the trace
        self.note = note  # called with the numbers of answers and of continuing tensors by exit

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        given = iter(leaves)
        x = map_tensors(lambda tensor: next(given), self.example)
        flat: list[Tensor] = []
        counts: list[tuple[int, int]] = []
        memory: Tensor | None = None
        reader = self.model.reader(x)

        def put_out(k: int, logits: Tensor, activation: Any) -> Any:
            nonlocal memory
            answers = [torch.clone(logits)]  # logits may be the activation itself
            if self.policy is not None:
                score, memory = self.policy.score(k, logits, memory)
                answers.append(score.double())
            # Copies, so that later in-place operations (a ReLU) do not change the outputs; the
            # cuts lie between the two copies.
            onward = (activation, memory, reader.carried)
            if k == self.model.num_exits - 1:
                onward = (None, None, None)
            onward = map_tensors(torch.clone, onward)
            flat.extend((*answers, *tensors_of(onward)))
            counts.append((len(answers), len(tensors_of(onward))))
            activation, memory, reader.carried = map_tensors(torch.clone, onward)
            return activation

        logits = self.model.walk(
            x, lambda k, activation: put_out(k, reader.logits(k, activation), activation)
        )
        put_out(self.model.num_exits - 1, reader.output(logits), None)
        self.note(counts)  # torch.export would reset an attribute after the trace
        return tuple(flat)


class _Scores(nn.Module):
    """The scores [batch] of all exits from their logits."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.parts = modules_of(policy)

    def forward(self, *logits: Tensor) -> tuple[Tensor, ...]:
        memory: Tensor | None = None
        found = []
        for k, one in enumerate(logits):
            score, memory = self.policy.score(k, one, memory)
            found.append(score)
        return tuple(found)


def modules_of(policy: Policy | None) -> nn.ModuleList:
    """The modules that a policy holds, such as the scorer of a `LearnedScore`."""
    held = () if policy is None else vars(policy).values()
    return nn.ModuleList(one for one in held if isinstance(one, nn.Module))


def _check_score(policy: Policy, logits: tuple[Tensor, ...]) -> None:
    """Trace the score of a policy alone, so that messages about it name it."""
    what = f"the score of {policy!r}"
    traced(_Scores(policy), logits, [{0: BATCH}] * len(logits), what)
    with torch.no_grad():
        scores = _Scores(policy)(*logits)
    for k, score in enumerate(scores):
        if not isinstance(score, Tensor) or score.shape != logits[k].shape[:1]:
            got = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"{what} must be a Tensor [{len(logits[k])}], one number for each sample, got "
                f"{got} at exit {k}"
            )
