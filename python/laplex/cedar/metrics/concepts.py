"""What single axes say about known concepts: sparse probes, and the AUROC of the best axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplex._support.arguments import integer

from .inputs import Array, ArrayInput, float64, labels_of, row_blocks, same_width


@dataclass(frozen=True, eq=False)
class ConceptScores:
    """Scores of the axes that were chosen for each concept.

    Attributes
    ----------
    concepts : ndarray ``[concepts]``
        The labels, sorted.
    axes : ndarray ``[concepts, m]`` of int64
        The axes chosen for each concept on the training rows, the best first.
    signs : ndarray ``[concepts, m]`` of int64
        1 where larger coordinates speak for the concept, -1 where smaller ones do.
    scores : ndarray ``[concepts]``
        The score of each concept on the test rows.
    """

    concepts: npt.NDArray[Any]
    axes: npt.NDArray[np.int64]
    signs: npt.NDArray[np.int64]
    scores: Array

    @property
    def mean(self) -> float:
        """The mean score of the concepts."""
        return float(self.scores.mean())


def sparse_probing(
    codes: ArrayInput,
    labels: Any,
    test_codes: ArrayInput,
    test_labels: Any,
    *,
    axes: int = 1,
    C: float = 1.0,
    max_iter: int = 1000,
) -> ConceptScores:
    r"""Return how well few axes tell each concept from all others: sparse probing.

    For each concept, the probe uses the axes with the largest

    .. math:: \bigl| E(s_i \mid \text{concept}) - E(s_i \mid \text{others}) \bigr|

    on the training rows. A logistic regression on these axes, standardised and with equal weights
    of both classes, is fitted to the training rows. The score is its balanced accuracy on the test
    rows: the mean of the fractions of the concept's rows and of the other rows that it classifies
    correctly, 0.5 for a guess.

    Parameters
    ----------
    codes : array, Tensor or sparse matrix ``[n, axes]``
        Codes of the training rows; see the notes if they have signs.
    labels : array ``[n]``
        Their concepts, of any type that can be sorted. Each is probed against all others.
    test_codes : array, Tensor or sparse matrix ``[m, axes]``
        Codes of other rows.
    test_labels : array ``[m]``
        Their concepts: the same as in ``labels``.
    axes : int
        Number of axes of a probe.
    C, max_iter : float, int
        Arguments of ``sklearn.linear_model.LogisticRegression``.

    Returns
    -------
    ConceptScores

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two concepts, training and test rows do not have
        the same concepts, or there are fewer axes than the probe is to use.

    Notes
    -----
    This follows Gurnee et al., "Finding neurons in a haystack: case studies with sparse probing",
    arXiv 2305.01610, and, for sparse autoencoders, Kantamneni et al., arXiv 2502.16681. The second
    chooses by the same difference of means.

    A signed code counts as it is: a row in which an axis points the other way lies below the rows
    in which it is silent. Either end of an axis may have a meaning of its own, as either latent of
    a sparse autoencoder does. To give each end a column, pass
    ``np.hstack([np.maximum(codes, 0), np.maximum(-codes, 0)])`` as ``codes``, and the same of
    ``test_codes``; codes without negative entries get the same scores as before. If only the size
    of a coordinate matters, whichever its sign, pass ``np.abs(codes)``.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar.metrics import sparse_probing
    >>> codes = np.array([[0.0, 1.0], [0.1, 0.0], [2.0, 1.0], [2.1, 0.0]])
    >>> found = sparse_probing(codes, ["no", "no", "yes", "yes"], codes, ["no", "no", "yes", "yes"])
    >>> found.axes[:, 0], found.mean
    (array([0, 0]), 1.0)
    """
    train, truth, test, test_truth, concepts = _checked(codes, labels, test_codes, test_labels)
    count = integer("axes", axes)
    if count > train.shape[1]:
        raise ValueError(f"axes must be at most {train.shape[1]}, the width of codes, got {count}")
    chosen = np.empty((len(concepts), count), np.int64)
    signs = np.empty_like(chosen)
    scores = np.empty(len(concepts))
    for i, concept in enumerate(concepts):
        mine = truth == concept
        difference = train[mine].mean(axis=0) - train[~mine].mean(axis=0)
        chosen[i] = np.argsort(-np.abs(difference), kind="stable")[:count]
        signs[i] = np.where(difference[chosen[i]] < 0, -1, 1)
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=C, max_iter=max_iter, class_weight="balanced")
        )
        probe.fit(train[:, chosen[i]], mine)
        scores[i] = balanced_accuracy_score(
            test_truth == concept, probe.predict(test[:, chosen[i]])
        )
    return ConceptScores(concepts, chosen, signs, scores)


def concept_auroc(
    codes: ArrayInput, labels: Any, test_codes: ArrayInput, test_labels: Any
) -> ConceptScores:
    r"""Return the AUROC of the best single end of an axis for each concept.

    .. math::
        \text{AUROC} = P(s > s') + \tfrac12 P(s = s'), \qquad
        s \text{ of a row of the concept},\ s' \text{ of another row}

    The axis and its end are those with the largest AUROC on the training rows. The score is the
    AUROC of this end on the test rows: 1 if the coordinate separates the concept from all others,
    0.5 if it says nothing.

    Parameters
    ----------
    codes, labels, test_codes, test_labels
        As in `sparse_probing`.

    Returns
    -------
    ConceptScores
        With one axis for each concept.

    Raises
    ------
    ValueError
        As `sparse_probing`.

    Notes
    -----
    Many axes were tried for each concept, so only the score on other rows counts. The AUROC is the
    statistic of Mann and Whitney; it is computed from ranks for all axes at once. On what signs
    mean, see the notes of `sparse_probing`: a concept that fires at both ends of an axis is found
    by neither the coordinate nor one end, but by its absolute value.
    """
    train, truth, test, test_truth, concepts = _checked(codes, labels, test_codes, test_labels)
    members = truth == concepts[:, None]
    areas = _areas(train, members)
    best = np.argmax(np.abs(areas - 0.5), axis=1)
    signs = np.where(areas[np.arange(len(concepts)), best] < 0.5, -1, 1)
    found = _areas(test[:, best] * signs, test_truth == concepts[:, None])
    return ConceptScores(concepts, best[:, None], signs[:, None], np.diagonal(found).copy())


# --- inside ---------------------------------------------------------------------------------------


def _checked(
    codes: ArrayInput, labels: Any, test_codes: ArrayInput, test_labels: Any
) -> tuple[Array, npt.NDArray[Any], Array, npt.NDArray[Any], npt.NDArray[Any]]:
    train, test = float64("codes", _dense(codes)), float64("test_codes", _dense(test_codes))
    same_width("codes", train, "test_codes", test)
    truth = labels_of("labels", labels, len(train))
    test_truth = labels_of("test_labels", test_labels, len(test))
    concepts = np.unique(truth)
    if len(concepts) < 2:
        raise ValueError("labels must have two concepts or more: each is compared with the others")
    if not np.array_equal(concepts, np.unique(test_truth)):
        raise ValueError(
            "test_labels must have the same concepts as labels: leave out those that one of them "
            "lacks"
        )
    return train, truth, test, test_truth, concepts


def _dense(codes: Any) -> Any:
    return codes.toarray() if scipy.sparse.issparse(codes) else codes


def _areas(values: Array, members: npt.NDArray[np.bool_]) -> Array:
    """Return the AUROC ``[concepts, axes]`` of values ``[n, axes]``; members are [concepts, n]."""
    inside = members.sum(axis=1, keepdims=True)
    outside = members.shape[1] - inside
    areas = np.empty((len(members), values.shape[1]))
    for columns in row_blocks(values.T):
        ranks = scipy.stats.rankdata(values[:, columns], axis=0)
        areas[:, columns] = (members @ ranks - inside * (inside + 1) / 2) / (inside * outside)
    return areas
