"""Cut the trace of a model at its exits: one graph for each segment.

A cut lies behind everything that was computed up to an exit, the tensors that continue there
included. What a later segment needs from before a cut gets there in one of three ways:

* What depends only on weights, constants and sizes is computed again in the segment. So is what was
  computed from the inputs of the model without any weight, such as an attention mask: these inputs
  are small, and they travel instead.
* A tensor with the batch as one of its dimensions travels, and its rows are cut along that one.
* A tensor that depends on the inputs but has no batch dimension travels as it is.

The batch, and every other dynamic size, is known by its symbol in the trace, not by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from ..activations import tensors_of
from ..model import MultiExitModel
from ..policies.base import Policy
from .tracing import BATCH, trace_whole, traced


@dataclass(frozen=True)
class Value:
    """A tensor that enters or leaves a segment.

    Attributes
    ----------
    name : str
        A segment takes the values that have the names of its inputs, wherever they come from.
    dtype : str
    shape : tuple of int or str
        Dynamic sizes are names, such as ``"batch"``, or expressions of them.
    batch_axis : int or None
        The dimension of the samples; None if there is none, so that no rows are cut.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    batch_axis: int | None


@dataclass(frozen=True)
class Segment:
    """The part of a model that ends at one exit.

    Attributes
    ----------
    exit : str
        Name of the exit; that of the last segment is ``"output"``.
    program : ExportedProgram
        The traced segment.
    inputs, outputs : tuple of Value
        The outputs are the logits, the score of the policy if there is one, and what later
        segments need.
    """

    exit: str
    program: ExportedProgram
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Segments:
    """All segments of a model, its inputs, and the largest value of each dynamic size."""

    inputs: tuple[Value, ...]
    parts: tuple[Segment, ...]
    largest: dict[str, int]


def cut_segments(
    model: MultiExitModel,
    example: Any,
    policy: Policy | None,
    dynamic: Sequence[dict[int, str]],
) -> Segments:
    """Trace a model and cut it at its exits.

    Parameters
    ----------
    model : MultiExitModel
        The model, in evaluation mode and on the CPU.
    example : Tensor [batch, ...], or nested
        A batch of at least 2 samples.
    policy : Policy, optional
        Its score becomes an output of every segment.
    dynamic : sequence of dict
        For each Tensor of the example, the names of its dynamic sizes by their axes, without the
        batch.

    Raises
    ------
    ValueError
        If the score of the policy or the model cannot be traced, the model fixes the batch size or
        changes its state in evaluation mode, or something without samples passes an exit.
    """
    axes = [dict.fromkeys(names, Dim.DYNAMIC) for names in dynamic]
    program, counts = trace_whole(model, example, policy, axes)
    cut = _Cut(program, counts, model.output_names, dynamic)
    tensors: dict[fx.Node, Tensor] = dict(zip(cut.given, tensors_of(example), strict=True))
    found = []
    for piece in cut.pieces():
        inputs = tuple(tensors[node] for node in piece.inputs)
        shapes = [cut.dynamic_axes(node) for node in piece.inputs]
        one = traced(piece.module, inputs, shapes, f"the segment of {piece.exit!r}")
        one.example_inputs = None  # they are the caller's data and would be saved
        with torch.no_grad():
            tensors.update(zip(piece.outputs, piece.module(*inputs), strict=True))
        values = (tuple(map(cut.value, nodes)) for nodes in (piece.inputs, piece.outputs))
        found.append(Segment(piece.exit, one, *values))
    return Segments(tuple(map(cut.value, cut.given)), tuple(found), cut.largest())


@dataclass(frozen=True)
class _Piece:
    """A segment as a module, and the nodes of the whole trace that it takes and returns."""

    exit: str
    module: fx.GraphModule
    inputs: list[fx.Node]
    outputs: list[fx.Node]


class _Cut:
    """The graph of the whole trace, and the pieces of it."""

    def __init__(
        self,
        program: ExportedProgram,
        counts: Sequence[tuple[int, int]],
        names: Sequence[str],
        dynamic: Sequence[dict[int, str]],
    ) -> None:
        self.program, self.names = program, names
        self.nodes = list(program.graph.nodes)
        self.values = _values(program)
        #: The inputs of the model.
        self.given = [
            node for node in self.nodes if node.op == "placeholder" and node.name not in self.values
        ]
        flat = iter(self.nodes[-1].args[0])
        self.answers: list[list[fx.Node]] = []
        self.onward: list[list[fx.Node]] = []
        for answers, onward in counts:
            self.answers.append([next(flat) for _ in range(answers)])
            self.onward.append([next(flat) for _ in range(onward)])
        first = [size for node in self.given for size in _sizes(node)[:1]]
        self.batch = next(size for size in first if not isinstance(size, int))
        #: Names of the dynamic sizes by their symbols.
        self.symbols = {self.batch: "batch"}
        for node, axes in zip(self.given, dynamic, strict=True):
            for axis, name in axes.items():
                self.symbols.setdefault(_sizes(node)[axis], name)
        self._check_answers()
        self._look()

    def largest(self) -> dict[str, int]:
        """The largest value of each dynamic size that has one, by its name."""
        limits = self.program.range_constraints
        return {
            name: int(limits[symbol].upper)
            for symbol, name in self.symbols.items()
            if symbol in limits and limits[symbol].upper.is_Integer
        }

    def value(self, node: fx.Node) -> Value:
        """Describe a tensor that travels."""
        dtype = str(node.meta["val"].dtype).removeprefix("torch.")
        axis = _sizes(node).index(self.batch) if self._has_samples(node) else None
        return Value(self.called[node], dtype, self._shape(node), axis)

    def _shape(self, node: fx.Node) -> tuple[int | str, ...]:
        known = {symbol: type(symbol)(name) for symbol, name in self.symbols.items()}
        return tuple(
            size if isinstance(size, int) else str(size.xreplace(known)) for size in _sizes(node)
        )

    def dynamic_axes(self, node: fx.Node) -> dict[int, Any]:
        """The dynamic axes of a tensor, as `traced` takes them."""
        return {
            axis: BATCH if size == self.batch else Dim.DYNAMIC
            for axis, size in enumerate(_sizes(node))
            if not isinstance(size, int)
        }

    def pieces(self) -> list[_Piece]:
        """The segments, first to last."""
        wanted: list[set[fx.Node]] = [set() for _ in self.names]  # by later segments
        plans = []
        for k in reversed(range(len(self.names))):
            carried = sorted(wanted[k], key=self.place.__getitem__)
            for i, node in enumerate(carried):
                self.called[node] = f"segment{k}_{i}"
            outputs = [*self.answers[k], *carried]
            needed, inputs = self._behind(outputs, k)
            for node in inputs:
                if self.home[node] >= 0:
                    wanted[self.home[node]].add(node)
            plans.append((self.names[k], inputs, outputs, needed))
        return [
            _Piece(name, self._module(inputs, outputs, needed), inputs, outputs)
            for name, inputs, outputs, needed in reversed(plans)
        ]

    def _check_answers(self) -> None:
        for name, (logits, *_) in zip(self.names, self.answers, strict=True):
            if len(_sizes(logits)) != 2 or _sizes(logits)[0] != self.batch:
                shape = ", ".join(map(str, self._shape(logits)))
                raise ValueError(
                    f"exit {name!r} gives logits [{shape}], not one row for each sample: exported "
                    "files need logits [batch, classes]"
                )

    def _look(self) -> None:
        """Note where each node was computed, and what it depends on."""
        self.place = {node: place for place, node in enumerate(self.nodes)}
        #: The segment in which a node is computed; -1 for the inputs of the model.
        self.home: dict[fx.Node, int] = {}
        self.of_data: set[fx.Node] = set(self.given)
        self.of_weights: set[fx.Node] = set()
        self.called = {node: f"input_{i}" for i, node in enumerate(self.given)}
        for logits, *score in self.answers:
            self.called[logits] = "logits"
            self.called.update(dict.fromkeys(score, "score"))
        ends = [
            max(map(self.place.__getitem__, (*answers, *onward)))
            for answers, onward in zip(self.answers, self.onward, strict=True)
        ]
        parameters = {
            spec.arg.name
            for spec in self.program.graph_signature.input_specs
            if spec.kind is InputKind.PARAMETER
        }
        k = 0
        for place, node in enumerate(self.nodes[:-1]):
            k += k < len(ends) - 1 and place > ends[k]
            self.home[node] = -1 if node in self.given else k
            if node.target is torch.ops.aten.sym_size.int:
                continue  # a size does not depend on the numbers in a tensor
            if any(one in self.of_data for one in node.all_input_nodes):
                self.of_data.add(node)
            if node.name in parameters or any(
                one in self.of_weights for one in node.all_input_nodes
            ):
                self.of_weights.add(node)

    def _behind(self, outputs: Sequence[fx.Node], k: int) -> tuple[set[fx.Node], list[fx.Node]]:
        """The nodes that segment `k` computes `outputs` from, and which of them it is given."""
        found: set[fx.Node] = set()
        inputs: set[fx.Node] = set()
        sizes: set[Any] = set()
        waiting = list(outputs)
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if self._symbol(node) is not None:
                sizes.add(self._symbol(node))
            elif self.home[node] < k and self._travels(node, k):
                inputs.add(node)
            else:
                waiting.extend(node.all_input_nodes)
        for symbol in sizes:
            if not any(symbol in _sizes(node) for node in inputs):
                inputs.add(next(node for node in self.given if symbol in _sizes(node)))
        # Every file has an input, whose rows say how many samples there are.
        inputs = inputs or {self.given[0]}
        return found | inputs, sorted(inputs, key=self.place.__getitem__)

    def _travels(self, node: fx.Node, k: int) -> bool:
        """Whether a node from before segment `k` is given to it, and not computed again there."""
        if node not in self.of_data or not isinstance(node.meta.get("val"), Tensor):
            return False
        if self._has_samples(node) is None:
            return True
        kept = self.home[node] >= 0 and node not in self.onward[self.home[node]]
        if kept and node not in self.of_weights:
            return False
        if not self._has_samples(node):
            shape = ", ".join(map(str, self._shape(node)))
            raise ValueError(
                f"a tensor of shape [{shape}] passes exit {self.names[k - 1]!r}, and none of its "
                "dimensions is the batch, so samples cannot leave there: attach the exit at a "
                "module outside of this reshaping"
            )
        return True

    def _has_samples(self, node: fx.Node) -> bool | None:
        """Whether exactly one dimension is the batch; None if none depends on it at all."""
        sizes = [size for size in _sizes(node) if not isinstance(size, int)]
        sizes = [size for size in sizes if self.batch in size.free_symbols]
        return sizes == [self.batch] if sizes else None

    def _symbol(self, node: fx.Node) -> Any:
        """The dynamic size that a node is, such as the batch; None if it is something else."""
        value = node.meta.get("val")
        expression = value.node.expr if isinstance(value, torch.SymInt) else None
        return expression if expression in self.symbols else None

    def _module(
        self, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node], needed: set[fx.Node]
    ) -> fx.GraphModule:
        graph, root = fx.Graph(), nn.Module()
        copies = {node: graph.placeholder(self.called[node]) for node in inputs}
        sizes: dict[Any, fx.Node] = {}
        for node in self.nodes:
            if node not in needed or node in copies:
                continue
            symbol = self._symbol(node)
            if symbol is not None:  # the same size, taken from the inputs of this segment
                if symbol not in sizes:
                    holder = next(one for one in inputs if symbol in _sizes(one))
                    place = copies[holder], _sizes(holder).index(symbol)
                    sizes[symbol] = graph.call_function(torch.ops.aten.sym_size.int, place)
                copies[node] = sizes[symbol]
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


def _sizes(node: fx.Node) -> list[Any]:
    """The sizes of a tensor: numbers, and expressions where they are dynamic."""
    return [size if isinstance(size, int) else size.node.expr for size in node.meta["val"].shape]


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
