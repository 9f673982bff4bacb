"""What the model card of a network with exits says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from .._support.model_cards import Card
from .origins import origin_of

if TYPE_CHECKING:
    from .evaluation.result import Evaluation
    from .model import MultiExitModel


def model_card(
    model: MultiExitModel, backbone: nn.Module, missing: Sequence[str], results: Sequence[Any]
) -> Card:
    """Describe a network by its exits, and by the evaluations among some results.

    Parameters
    ----------
    model, backbone
        The model, and its backbone without wrappers.
    missing
        Arguments of `MultiExitModel.from_pretrained` that must be passed.
    results
        Results for the card.
    """
    origin = origin_of(backbone)
    named = type(backbone).__name__ if origin is None else origin.name
    facts = [("backbone", f"{named}, {_size(backbone)} parameters")]
    for name, head in zip(model.exit_names, model.heads, strict=True):
        facts.append((f"exit at {name}", f"{type(head).__name__}, {_size(head)} parameters"))
    facts.append(("exit policy", "none was saved" if model.policy is None else repr(model.policy)))
    if model.class_names is not None:
        facts.append(("classes", ", ".join(model.class_names)))
    # By its name: `evaluation` is built on the model.
    found: list[Evaluation] = [one for one in results if type(one).__name__ == "Evaluation"]
    for one in found:
        point = one.operating_point
        facts.append(
            (f"accuracy at the last exit, {one.samples:,} samples", f"{one.accuracy[-1]:.1%}")
        )
        if point is not None:
            facts.append(
                (f"with {point.policy}", f"{point.accuracy:.1%} at {point.cost:.1%} of the cost")
            )
    passed = "".join(f", {one}={one}" for one in missing)
    names, policy = "MultiExitModel", ""
    if model.policy is None:
        names, policy = "MaxSoftmax, MultiExitModel", ", MaxSoftmax(0.9)"
    load = (
        f"from laplex.early_exit import {names}\n\n"
        f"model = MultiExitModel.from_pretrained({{name}}{passed})\n"
        f"found = model.predict(inputs{policy})  # found.labels, found.exit_index"
    )
    limits = [
        "Thresholds suit inputs like those that they were fitted on. On others, accuracy and cost "
        "are not known.",
        "A confidence is no guarantee: samples leave early with wrong answers, too.",
        "Costs are counted in multiply-adds, relative to the backbone without exits. The time "
        "that is saved depends on the machine and on the size of the batch.",
    ]
    if missing:
        limits.append(
            f"The files do not say how to make {' and '.join(missing)}: pass modules like those of "
            "the model, of which the table names the classes."
        )
    if not found:
        limits.append("The card has no evaluation.")
    return Card(
        title=f"A network with {model.num_exits} exits",
        about="A classifier whose samples leave at the first exit that is confident enough, so "
        'that easy ones cost less. It was made with Laplex (`pip install "laplex[exits,hub]"`).',
        facts=facts,
        load=load,
        limits=limits,
        tags=("pytorch", "early-exit", "adaptive-computation"),
        evaluations=[("accuracy", float(one.accuracy[-1])) for one in found],
    )


def _size(module: nn.Module) -> str:
    return f"{sum(one.numel() for one in module.parameters()):,}"
