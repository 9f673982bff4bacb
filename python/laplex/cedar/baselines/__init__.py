"""Baselines: other ways to describe an embedding by k numbers, and `compare`, which measures them.

Every baseline is a transformer of scikit-learn with the parameter ``k``; ``transform(X)`` returns
signed codes ``[n, axes]`` with at most k nonzero entries in each row, ``transform(X, k)`` those of
another size. It also has ``inverse_transform(codes)``, ``atoms_``, ``mean_`` and a ``name``. A
baseline of your own, registered by ``BASELINES.register``, takes part in every comparison.
"""

from __future__ import annotations

from .comparing import all_baselines, compare
from .comparison import Comparison, Measurement
from .dictionary import BASELINES, Dictionary, LinearDictionary
from .fast_ica import FastICA
from .orthomax import Orthomax, orthomax
from .pca import PCA
from .quartimax import Quartimax
from .random_rotation import RandomRotation
from .varimax import Varimax

__all__ = [
    "BASELINES",
    "PCA",
    "Comparison",
    "Dictionary",
    "FastICA",
    "LinearDictionary",
    "Measurement",
    "Orthomax",
    "Quartimax",
    "RandomRotation",
    "Varimax",
    "all_baselines",
    "compare",
    "orthomax",
]
