"""What the model card of a CEDAR model says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laplex._support.model_cards import Card

if TYPE_CHECKING:
    from .estimator import CEDAR


def model_card(model: CEDAR) -> Card:
    """Describe a fitted model by the numbers of its fit."""
    fitted = model.fitted_
    confirmation = model.confirmation_
    confirmed = "unknown: the model was not fitted with `n_init=3` or more"
    if confirmation is not None:
        least = f"q at most {confirmation.alpha:g}"
        confirmed = f"{int(confirmation.confirmed.sum()):,} of {fitted.axes:,} ({least})"
    facts = [
        ("columns of an embedding", f"{fitted.dim:,}"),
        ("axes", f"{fitted.axes:,}"),
        ("nonzero entries of a code, k", f"{fitted.k:,}"),
        ("basis, centre", f"{model.basis}, {model.center}"),
        ("rows that it was fitted to", f"{fitted.count:,}"),
        (
            "variance that the codes explain, on these rows at the end of the fit",
            f"{1 - fitted.losses[-1]:.1%}",
        ),
        ("axes that disjoint parts of the rows confirm", confirmed),
        ("starts", str(len(fitted.bases))),
    ]
    for name, one in fitted.modalities.items():
        facts.append(
            (f"rows of kind {name}", f"{one.count:,}, variance explained {1 - one.loss:.1%}")
        )
    limits = [
        f"It is for embeddings of the encoder that it was fitted to, with {fitted.dim:,} columns. "
        "For others `transform` warns if mean, norm or explained variance differ much.",
        "The variance explained on new rows may be lower: `score` measures it.",
        "A confirmed axis is a property of the embeddings, and need not be a cause. One that is "
        "not confirmed may be an accident of the rows.",
        "Names of axes, if the card has any, are the nearest words of one vocabulary.",
    ]
    return Card(
        title=f"Sparse codes for embeddings of {fitted.dim:,} columns",
        about="A CEDAR model: an invertible change of basis, in which an embedding is described by "
        f"its {fitted.k:,} largest coordinates. It was made with Laplex "
        '(`pip install "laplex[cedar,hub]"`).',
        facts=facts,
        load="from laplex.cedar import CEDAR\n\nmodel = CEDAR.from_pretrained({name})\n"
        f"codes = model.transform(embeddings)  # [n, {fitted.dim}] to [n, {fitted.axes}]",
        limits=limits,
        tags=("embeddings", "sparse-codes", "interpretability"),
        pipeline_tag="feature-extraction",
    )
