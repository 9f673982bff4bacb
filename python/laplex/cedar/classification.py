"""Zero-shot classification by codes: the embeddings of class names against coded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laplex._support.text_tables import aligned

from .coding import coded_batches, restored, rows_for
from .estimator import CEDAR
from .metrics.inputs import Array, float64, labels_of, unit_rows
from .settings import checked_ks


@dataclass(frozen=True, eq=False, repr=False)
class ZeroShot:
    """Zero-shot classification before coding, and at each k.

    Attributes
    ----------
    ks : tuple of int
        Numbers of nonzero entries of the codes.
    logits : ndarray [1 + len(ks), n, classes]
        Cosines of each image with each class: first of the embeddings, then of their
        reconstructions at each k. Multiply them by the temperature of the model (100 for CLIP) for
        the logits of a softmax.
    accuracy : ndarray [1 + len(ks)], or None
        Share of images with the right class; None without labels.
    agreement : ndarray [1 + len(ks)]
        Share of images with the same class as before coding.
    """

    ks: tuple[int, ...]
    logits: Array
    accuracy: Array | None
    agreement: Array

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The number of the best class [1 + len(ks), n]; of equal ones, the first."""
        return np.asarray(self.logits.argmax(2))

    def table(self) -> str:
        """Return a text table with a line for the embeddings and for each k."""
        known = self.accuracy is not None
        head = ["k", *(["accuracy"] if known else []), "agreement"]
        columns = [self.accuracy, self.agreement] if known else [self.agreement]
        body = [
            [label, *(f"{column[row]:.3f}" for column in columns if column is not None)]
            for row, label in enumerate(["not coded", *map(str, self.ks)])
        ]
        return aligned(head, body)

    __repr__ = table


def zero_shot(
    cedar: CEDAR,
    images: Any,
    class_texts: Any,
    labels: Any = None,
    *,
    ks: int | Sequence[int] | None = None,
    modality: str | None = None,
) -> ZeroShot:
    r"""Classify images by the names of the classes, before and after coding.

    The class of an image is that with the largest :math:`\cos(\hat z, t_c)`. The texts are not
    coded. With several prompts for a class, :math:`t_c` is the mean of their embeddings, each
    divided by its length (Radford et al., arXiv 2103.00020).

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    images : array, Tensor or memory map [n, d]; or batches of them
        Embeddings of images. They are read once.
    class_texts : array [classes, d] or [classes, prompts, d], or a list of arrays [prompts, d]
        Embeddings of the names of the classes in the same space.
    labels : integers [n] in [0, classes), optional
        The right classes.
    ks : int or sequence of int, optional
        Numbers of nonzero entries of the codes; by default the k of the fit.
    modality : str, optional
        Name of the kind of rows of the images, if not that of the fit.

    Returns
    -------
    ZeroShot
        Logits, accuracy and agreement; print it for a table.

    Raises
    ------
    TypeError, ValueError
        If sizes disagree, there are fewer than two classes, or a value is not finite or a label out
        of range.
    """
    fitted = cedar.fitted_.around(modality)
    several = checked_ks(fitted.k if ks is None else ks, fitted.dim)
    classes = _directions(class_texts, fitted.dim)
    rows = rows_for(fitted, images, device=cedar.device)
    if labels is not None and rows.count is not None:
        truth = _checked_labels(labels, rows.count, len(classes))
    parts = []
    for z, *codes in coded_batches(fitted, rows, several):
        batches = (z, *(restored(fitted, code) for code in codes))
        parts.append([unit_rows(one.double().cpu().numpy()) @ classes.T for one in batches])
    logits = np.stack([np.concatenate(one) for one in zip(*parts, strict=True)])
    chosen = logits.argmax(2)
    if labels is not None and rows.count is None:
        truth = _checked_labels(labels, logits.shape[1], len(classes))
    return ZeroShot(
        several,
        logits,
        None if labels is None else (chosen == truth).mean(1),
        (chosen == chosen[0]).mean(1),
    )


def _directions(class_texts: Any, dim: int) -> Array:
    """Return the direction of each class [classes, d]: the mean of unit embeddings of prompts."""
    means = []
    for number, prompts in enumerate(class_texts):
        name = f"class_texts[{number}]"
        given = float64(name, prompts, ndim=2 if np.ndim(prompts) == 2 else 1)
        given = np.atleast_2d(given)
        if given.shape[1] != dim:
            raise ValueError(
                f"{name} has {given.shape[1]} columns, but the model was fitted to {dim}: embed "
                "the names of the classes by the text encoder that belongs to the images"
            )
        mean = unit_rows(given).mean(0)
        if not mean.any():
            raise ValueError(f"{name} is zero, which has no cosine")
        means.append(mean)
    if len(means) < 2:
        raise ValueError("class_texts must have two classes or more: one class is always right")
    return unit_rows(np.stack(means))


def _checked_labels(labels: Any, count: int, classes: int) -> npt.NDArray[Any]:
    truth = labels_of("labels", labels, count)
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"labels must be integers in [0, {classes}), rows of class_texts")
    return truth
