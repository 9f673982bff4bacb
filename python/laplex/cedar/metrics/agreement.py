"""Whether what the embeddings are used for survives the reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .inputs import (
    ArrayInput,
    float64,
    labels_of,
    row_blocks,
    same_shape,
    same_width,
    unit_rows,
    untouched,
)


@dataclass(frozen=True)
class Agreement:
    """Classification of embeddings and of their reconstructions by one classifier.

    Attributes
    ----------
    agreement : float
        Fraction of rows whose class is the same before and after.
    accuracy_before, accuracy_after : float or None
        Fraction of rows classified as labelled; None without labels.
    count : int
        Rows classified.
    """

    agreement: float
    accuracy_before: float | None
    accuracy_after: float | None
    count: int


def zero_shot_agreement(
    z: ArrayInput, z_hat: ArrayInput, class_embeddings: ArrayInput, labels: ArrayInput | None = None
) -> Agreement:
    r"""Zero-shot classification before and after reconstruction.

    .. math::
        \text{agreement} = P\bigl(\arg\max_c \cos(z, t_c) = \arg\max_c \cos(\hat z, t_c)\bigr)

    Parameters
    ----------
    z, z_hat : array or Tensor ``[n, d]``
        Embeddings and reconstructions, as the encoder gives them: not centred.
    class_embeddings : array or Tensor ``[classes, d]``
        t, for instance of "a photo of a ..."; their lengths do not matter.
    labels : integers ``[n]`` in [0, classes), optional

    Raises
    ------
    ValueError
        Where shapes disagree, there are fewer than two classes, a class embedding is zero, or a
        label is out of range.

    Notes
    -----
    Zero-shot classification of Radford et al., arXiv 2103.00020. Ties go to the first class. Rows
    are read in blocks, in float64.
    """
    rows, approximations = untouched("z", z), untouched("z_hat", z_hat)
    same_shape("z", rows, "z_hat", approximations)
    classes = float64("class_embeddings", class_embeddings)
    same_width("z", rows, "class_embeddings", classes)
    if len(classes) < 2:
        raise ValueError("class_embeddings must have two rows or more: one class is always right")
    if not classes.any(axis=1).all():
        raise ValueError("class_embeddings has a row of zeros, which has no cosine")
    directions = unit_rows(classes).T
    before, after = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for block in row_blocks(rows, approximations):
        # The lengths of rows do not change which class is the nearest.
        before[block] = np.argmax(float64("z", rows[block]) @ directions, axis=1)
        after[block] = np.argmax(float64("z_hat", approximations[block]) @ directions, axis=1)
    truth = None
    if labels is not None:
        truth = labels_of("labels", labels, len(rows))
        if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(classes):
            raise ValueError(
                f"labels must be integers in [0, {len(classes)}), rows of class_embeddings"
            )
    return _agreement(before, after, truth)


def linear_probe_agreement(
    z: ArrayInput,
    z_hat: ArrayInput,
    labels: Any,
    *,
    test_size: float = 0.25,
    C: float = 1.0,
    max_iter: int = 1000,
    random_state: Any = 0,
) -> Agreement:
    """Linear classification before and after reconstruction, by a probe trained on originals.

    The probe, multinomial logistic regression of standardised features, is fitted to embeddings z
    of one part of the rows, and classifies z and z_hat of the other part: it is the *same* probe,
    so a reconstruction that is merely as separable in another way does not pass.

    Parameters
    ----------
    z, z_hat : array or Tensor ``[n, d]``
        Embeddings and reconstructions: of rows that the model was not fitted to, for a fair figure.
    labels : array ``[n]``
        Classes, of any type that sorts; each at least twice.
    test_size
        Fraction of rows held out, of every class alike.
    C, max_iter
        Of `sklearn.linear_model.LogisticRegression`.
    random_state : int, RandomState or None
        Of the split.

    Raises
    ------
    ValueError
        Where shapes disagree, or there are fewer than two classes or two rows of one.
    """
    rows, approximations = float64("z", z), float64("z_hat", z_hat)
    same_shape("z", rows, "z_hat", approximations)
    truth = labels_of("labels", labels, len(rows))
    sizes = np.unique(truth, return_counts=True)[1]
    if len(sizes) < 2 or sizes.min() < 2:
        raise ValueError(
            "labels must have two classes or more, each of two rows or more: merge or leave out "
            "the rare ones"
        )
    train, test = train_test_split(
        np.arange(len(rows)), test_size=test_size, stratify=truth, random_state=random_state
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter))
    probe.fit(rows[train], truth[train])
    return _agreement(probe.predict(rows[test]), probe.predict(approximations[test]), truth[test])


def _agreement(before: Any, after: Any, truth: Any | None) -> Agreement:
    return Agreement(
        agreement=float(np.mean(before == after)),
        accuracy_before=None if truth is None else float(np.mean(before == truth)),
        accuracy_after=None if truth is None else float(np.mean(after == truth)),
        count=len(before),
    )
