"""Baselines: other ways to describe an embedding by k numbers, and `compare`, which measures them.

Every baseline has ``fit(X)``, ``transform(X, k)``, ``inverse_transform(codes)``, ``atoms_``,
``mean_`` and a ``name``. ``transform`` returns signed codes ``[n, axes]`` with at most k nonzero
entries in each row. A baseline of your own, registered by ``BASELINES.register``, takes part in
every comparison.
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
from .topk_sae import TopKSAE
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
    "TopKSAE",
    "Varimax",
    "all_baselines",
    "compare",
    "orthomax",
]
