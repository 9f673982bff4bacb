"""Agreement of classifiers before and after reconstruction."""

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
    """Agreement of one classifier on embeddings and on their reconstructions.

    Attributes
    ----------
    agreement : float
        Fraction of rows that get the same class before and after reconstruction.
    accuracy_before, accuracy_after : float or None
        Fraction of rows that get their label; None without labels.
    count : int
        Number of rows classified.
    """

    agreement: float
    accuracy_before: float | None
    accuracy_after: float | None
    count: int


def zero_shot_agreement(
    z: ArrayInput, z_hat: ArrayInput, class_embeddings: ArrayInput, labels: ArrayInput | None = None
) -> Agreement:
    r"""Compare zero-shot classification before and after reconstruction.

    .. math::
        \text{agreement} = P\bigl(\arg\max_c \cos(z, t_c) = \arg\max_c \cos(\hat z, t_c)\bigr)

    Parameters
    ----------
    z, z_hat : array or Tensor ``[n, d]``
        Embeddings and reconstructions in the space of the encoder, not centred.
    class_embeddings : array or Tensor ``[classes, d]``
        Embeddings t of the classes, for instance of "a photo of a ..."; their lengths do not
        matter.
    labels : integers ``[n]`` in [0, classes), optional
        True classes.

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two classes, a class embedding is zero, or a label
        is out of range.

    Notes
    -----
    This is the zero-shot classification of Radford et al., arXiv 2103.00020. Ties go to the first
    class. Rows are read in blocks, in float64.
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
        # The lengths of rows do not change which class is nearest.
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
    """Compare linear classification before and after reconstruction, by a probe on the originals.

    The probe is a multinomial logistic regression on standardised features. It is fitted to the
    embeddings z of one part of the rows and classifies both z and z_hat of the other part. Because
    the *same* probe classifies both, a reconstruction that is equally separable, but in another
    way, does not pass.

    Parameters
    ----------
    z, z_hat : array or Tensor ``[n, d]``
        Embeddings and reconstructions. For a fair value, pass rows that the model was not fitted
        to.
    labels : array ``[n]``
        Classes, of any type that can be sorted; each must occur at least twice.
    test_size : float
        Fraction of rows to hold out, the same for every class.
    C, max_iter : float, int
        Arguments of ``sklearn.linear_model.LogisticRegression``.
    random_state : int, RandomState or None
        Seed of the split.

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        If shapes disagree, or there are fewer than two classes or fewer than two rows of a class.
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
