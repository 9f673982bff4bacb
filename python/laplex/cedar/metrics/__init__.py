"""Metrics of codes, atoms and reconstructions; each documents its formula.

- Reconstructions: `Reconstruction`, `fve`, `zero_shot_agreement`, `linear_probe_agreement`, and
  `code_bits` for their cost in bits.
- Atoms: `match`, `mcc`, `mcc_of_codes`, `amari_distance`.
- Neighbours: `neighbour_recall`.
- Single axes: `Monosemanticity`, `monosemanticity`; with labels, `sparse_probing`, `concept_auroc`.

All metrics take NumPy arrays or torch tensors of any precision and compute in float64 on the CPU.
Large inputs are read in blocks or come in batches.
"""

from __future__ import annotations

from .agreement import Agreement, linear_probe_agreement, zero_shot_agreement
from .code_length import code_bits
from .concepts import ConceptScores, concept_auroc, sparse_probing
from .matching import amari_distance, match, mcc, mcc_of_codes
from .monosemanticity_score import Monosemanticity, MonosemanticityReport, monosemanticity
from .reconstruction import Reconstruction, ReconstructionReport, fve
from .retrieval import neighbour_recall

__all__ = [
    "Agreement",
    "ConceptScores",
    "Monosemanticity",
    "MonosemanticityReport",
    "Reconstruction",
    "ReconstructionReport",
    "amari_distance",
    "code_bits",
    "concept_auroc",
    "fve",
    "linear_probe_agreement",
    "match",
    "mcc",
    "mcc_of_codes",
    "monosemanticity",
    "neighbour_recall",
    "sparse_probing",
    "zero_shot_agreement",
]
