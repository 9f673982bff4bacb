"""The section on what goes on inside: pictures and tables of analyses."""

from __future__ import annotations

from html import escape

from laplex._support.data_uris import picture_uri

from ..runs.study import Study
from .pieces import heading, paragraph

_MEANINGS = {
    "gradient_share": (
        "Who pulls where",
        "In training, every exit asks for changes of the parameters before it. Here: how strongly "
        "each exit pulls at each block of the backbone, as its share of all exits' pull. Where "
        "early exits have most of it, early layers serve them rather than the last exit.",
    ),
    "activation_rank": (
        "How many directions activations use",
        "The numerical rank of what a layer puts out: how many independent directions it uses. Low "
        "ranks mean that much was thrown away by then.",
    ),
    "mutual_information": (
        "What layers know",
        "Estimates of how much a layer's output tells about the label, I(Z;Y), and about the "
        "input, I(X;Z), in nats. The first can't be more than H(Y), the entropy of the labels; "
        "the second has no such bound, depends on the estimator, and is for comparing layers.",
    ),
    "mode_connectivity": (
        "On a straight line to another run",
        "The loss of networks between two runs, whose parameters are mixed in all proportions. A "
        "barrier in between means that the runs found different solutions.",
    ),
    "loss_landscape": (
        "The loss around",
        "The loss of each exit on a plane of random directions through the trained network, which "
        "is in the middle. Flat is stable; steep is fragile.",
    ),
}


def dynamics(study: Study) -> str:
    """The section as HTML."""
    if not study.dynamics:
        return (
            "<p class=note>Not looked into: run <code>laplex exits analyze RUN_DIR</code>, or pass "
            "<code>dynamics={name: analyze(model, loader)}</code>.</p>"
        )
    parts = []
    for name, (title, about) in _MEANINGS.items():
        shown = {run: one for run, one in study.dynamics.items() if name in one.pictures}
        if not shown:
            continue
        parts += [heading(title), paragraph(about)]
        for run, one in shown.items():
            alternative = f"{title}: {run}"
            parts += [
                paragraph(run, "note"),
                f'<img class=plot alt="{escape(alternative)}" '
                f'src="{picture_uri(one.pictures[name], "png")}">',
                f"<details><summary>as a table</summary><pre>{escape(one.tables[name])}</pre>"
                "</details>",
            ]
    for run, one in study.dynamics.items():
        parts += [
            paragraph(f"{run}: {name.replace('_', ' ')} failed: {why}", "notice")
            for name, why in one.failures.items()
        ]
    return "\n".join(parts)
