"""Other ways to write an embedding with k numbers, behind one interface, and `compare`.

Every baseline has ``fit(X)``, ``transform(X, k)`` to signed codes ``[n, axes]`` with at most k
non-zero entries a row, ``inverse_transform(codes)``, ``atoms_``, ``mean_`` and a ``name``. One of
your own, registered by ``BASELINES.register``, is part of every comparison.
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
