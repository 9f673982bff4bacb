"""Cut a model at its exits: one graph for each segment.

``torch.export`` traces the whole model once, and the trace is cut. Segment k consists of the nodes
from which the logits of exit k, and the tensors that continue after it, are computed, back to the
tensors that continued after exit k - 1. If data of the input get there another way, the model
cannot be cut at that exit.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from ..activations import map_tensors, tensors_of
from ..flop_counting import unfused
from ..model import MultiExitModel
from ..policies.base import Policy


@dataclass(frozen=True)
class Segment:
    """The part of a model that ends at one exit.

    Attributes
    ----------
    exit : str
        Name of the exit; that of the last segment is ``"output"``.
    program : ExportedProgram
        The traced segment. It returns the logits, the score of the policy if there is one, and the
        tensors that continue: those of the activation, and the memory of the policy. The first
        dimension of all tensors, the batch, is dynamic.
    inputs, outputs : tuple of Tensor
        Inputs and outputs for the example.
    """

    exit: str
    program: ExportedProgram
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def cut_segments(model: MultiExitModel, example: Any, policy: Policy | None) -> list[Segment]:
    """Trace a model and cut it at its exits.

    Parameters
    ----------
    model : MultiExitModel
        The model, in evaluation mode and on the CPU.
    example : Tensor [batch, ...], or nested
        A batch of at least 2 samples.
    policy : Policy, optional
        Its score becomes an output of every segment.

    Raises
    ------
    ValueError
        If the score of the policy or the model cannot be traced, the model fixes the batch size or
        changes its state in evaluation mode, or data bypass an exit.
    """
    if policy is not None:
        with torch.no_grad():
            logits = model(example)
        _check_score(policy, logits)
    counts: list[tuple[int, int]] = []
    whole = _Whole(model, example, policy, lambda found: counts.__setitem__(slice(None), found))
    program = traced(whole, tuple(tensors_of(example)), "the model")
    with quiet():
        program = program.run_decompositions({})  # makes in-place operations functional
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise ValueError(
                f"the model changes {spec.target!r} in evaluation mode, which exported files do "
                "not support: remove that state from its forward"
            )
    names = model.output_names
    found = []
    inputs = tuple(tensors_of(example))
    for name, part in zip(names, _Cut(program, counts, names).modules(), strict=True):
        one = traced(part, inputs, f"the segment of {name!r}")
        one.example_inputs = None  # they are the caller's data and would be saved
        with torch.no_grad():
            outputs = tuple(part(*inputs))
        found.append(Segment(name, one, inputs, outputs))
        inputs = outputs[1 + (policy is not None) :]
    return found


def traced(module: nn.Module, inputs: tuple[Tensor, ...], what: str) -> ExportedProgram:
    """Trace a module whose inputs share a dynamic first dimension, the batch.

    Raises
    ------
    ValueError
        If ``torch.export`` cannot trace it; the message contains the reason.
    """
    batch = Dim("batch", min=1)
    each = tuple({0: batch} for _ in inputs)
    # The forward of a GraphModule names its arguments, that of _Whole has them in one *leaves.
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
    """All segments at once: the logits and the continuing tensors of each exit as flat outputs."""

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
        memory: Tensor | None = None  # continues with the activation

        def put_out(k: int, logits: Tensor, activation: Any) -> Any:
            nonlocal memory
            answers = [logits]
            if self.policy is not None:
                score, memory = self.policy.score(k, logits, memory)
                answers.append(score.double())
            # Copies, so that later in-place operations (a ReLU) do not change the outputs; the
            # cuts lie between the two copies.
            passed, kept = map_tensors(torch.clone, (activation, memory))
            onward = tensors_of((passed, kept))
            flat.extend((*answers, *onward))
            counts.append((len(answers), len(onward)))
            activation, memory = map_tensors(torch.clone, (passed, kept))
            return activation

        reader = self.model.reader(x)
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
    traced(_Scores(policy), logits, what)
    with torch.no_grad():
        scores = _Scores(policy)(*logits)
    for k, score in enumerate(scores):
        if not isinstance(score, Tensor) or score.shape != logits[k].shape[:1]:
            got = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"{what} must be a Tensor [{len(logits[k])}], one number for each sample, got "
                f"{got} at exit {k}"
            )


class _Cut:
    """The graph of `_Whole`, and the pieces of it."""

    def __init__(
        self, program: ExportedProgram, outputs: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> None:
        self.program, self.names = program, names
        self.nodes = list(program.graph.nodes)
        self.values = _values(program)
        self.user_inputs = [
            node for node in self.nodes if node.op == "placeholder" and node.name not in self.values
        ]
        flat = iter(self.nodes[-1].args[0])
        self.answers: list[list[fx.Node]] = []
        self.onward: list[list[fx.Node]] = []
        for answers, onward in outputs:
            self.answers.append([next(flat) for _ in range(answers)])
            self.onward.append([next(flat) for _ in range(onward)])
        self.batch = self.user_inputs[0].meta["val"].shape[0]

    def modules(self) -> list[fx.GraphModule]:
        """The segments, first to last."""
        targets: list[fx.Node] = []  # inputs of the next segment
        found = []
        for k in reversed(range(len(self.names))):
            starts = self.user_inputs if k == 0 else self.onward[k - 1]
            outputs = [*self.answers[k], *targets]
            needed = self._behind(outputs, set(starts), k)
            inputs = starts if k == 0 else [node for node in starts if node in needed]
            if not inputs:
                raise ValueError(
                    f"nothing after exit {self.names[k - 1]!r} uses the output of its module: "
                    "remove this exit"
                )
            found.append(self._module(inputs, outputs, needed))
            targets = inputs
        return found[::-1]

    def _behind(self, outputs: Sequence[fx.Node], starts: set[fx.Node], k: int) -> set[fx.Node]:
        """Nodes that `outputs` are computed from, back to `starts`."""
        found: set[fx.Node] = set()
        waiting = list(outputs)
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if node in starts or self._is_batch(node):
                continue
            if node in self.user_inputs:
                raise ValueError(
                    f"data of the batch bypass exit {self.names[k - 1]!r} (through a skip "
                    "connection around it), so no segment can start there: attach exits at modules "
                    "whose output is all that the rest of the backbone needs"
                )
            waiting.extend(node.all_input_nodes)
        return found

    def _is_batch(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, torch.SymInt) and bool(value.node.expr == self.batch.node.expr)

    def _module(
        self, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node], needed: set[fx.Node]
    ) -> fx.GraphModule:
        graph, root = fx.Graph(), nn.Module()
        copies = {node: graph.placeholder(f"input_{place}") for place, node in enumerate(inputs)}
        size = None
        for node in self.nodes:
            if node not in needed or node in copies:
                continue
            if self._is_batch(node):  # the same number, taken from the inputs of this segment
                if size is None:
                    size = graph.call_function(torch.ops.aten.sym_size.int, (copies[inputs[0]], 0))
                copies[node] = size
            elif node.op == "placeholder":
                _attach(root, node.name, self.values[node.name])
                copies[node] = graph.get_attr(node.name)
            elif node.op == "get_attr":  # the branches of control flow
                setattr(root, str(node.target), getattr(self.program.graph_module, node.target))
                copies[node] = graph.get_attr(str(node.target))
            else:
                copies[node] = graph.node_copy(node, lambda one: copies[one])
        graph.output(tuple(copies[node] for node in outputs))
        graph.lint()
        return fx.GraphModule(root, graph)


def _values(program: ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and constants of a program, by the names of their placeholders."""
    return {
        spec.arg.name: program.state_dict[spec.target]
        if spec.target in program.state_dict
        else program.constants[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }


def _attach(root: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        root.register_buffer(name, value)
