"""Sparse codes for embeddings, by an invertible change of basis (CEDAR).

`CEDAR` learns the change of basis. `metrics` and `stability` judge it, and `compare` measures it
against `baselines`. `name_axes`, `top_examples`, `decode_captions` and `CEDAR.intervene` show what
its axes stand for; inside a network, `steer` and `attribute` do. `zero_shot`, `CodeIndex`,
`explain_match` and `axes_of` use codes of images and texts. `report` and `browse` write HTML
files. `encoders` turn images and texts into embeddings.

This is our reading of the abstract of arXiv 2605.22679. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._support.lazy_packages import lazy_names

if TYPE_CHECKING:
    from . import baselines as baselines
    from . import encoders as encoders
    from . import metrics as metrics
    from .attribution import Attribution as Attribution
    from .attribution import attribute as attribute
    from .attribution import measure_effects as measure_effects
    from .axis_examples import AxisExamples as AxisExamples
    from .axis_examples import top_examples as top_examples
    from .baselines import compare as compare
    from .captions import Caption as Caption
    from .captions import decode_captions as decode_captions
    from .choosing import KChoice as KChoice
    from .choosing import choose_k as choose_k
    from .choosing import gain_score as gain_score
    from .classification import ZeroShot as ZeroShot
    from .classification import zero_shot as zero_shot
    from .code_files import read_codes as read_codes
    from .code_files import write_codes as write_codes
    from .code_index import CodeIndex as CodeIndex
    from .code_index import Neighbours as Neighbours
    from .confirmation import Confirmation as Confirmation
    from .confirmation import TooFewRowsWarning as TooFewRowsWarning
    from .drift import DriftWarning as DriftWarning
    from .estimator import CEDAR as CEDAR
    from .feature_browser import browse as browse
    from .fitted import Modality as Modality
    from .html_report import report as report
    from .matches import Match as Match
    from .matches import axes_of as axes_of
    from .matches import explain_match as explain_match
    from .module import CedarModule as CedarModule
    from .moments import Moments as Moments
    from .naming import AxisName as AxisName
    from .naming import AxisNames as AxisNames
    from .naming import Name as Name
    from .naming import UnconfirmedNamesWarning as UnconfirmedNamesWarning
    from .naming import chance_scores as chance_scores
    from .naming import name_axes as name_axes
    from .restarts import StabilityReport as StabilityReport
    from .restarts import stability as stability
    from .rows import Embeddings as Embeddings
    from .splice import Splice as Splice
    from .statistics import ConstantColumnWarning as ConstantColumnWarning
    from .statistics import DominantRowWarning as DominantRowWarning
    from .steering import NotSteeredWarning as NotSteeredWarning
    from .steering import split_at as split_at
    from .steering import steer as steer

__all__, __getattr__, __dir__ = lazy_names(
    globals(),
    {
        ".attribution": "Attribution attribute measure_effects",
        ".axis_examples": "AxisExamples top_examples",
        ".baselines": "compare",
        ".captions": "Caption decode_captions",
        ".choosing": "KChoice choose_k gain_score",
        ".code_files": "read_codes write_codes",
        ".confirmation": "Confirmation TooFewRowsWarning",
        ".classification": "ZeroShot zero_shot",
        ".code_index": "CodeIndex Neighbours",
        ".drift": "DriftWarning",
        ".estimator": "CEDAR",
        ".feature_browser": "browse",
        ".fitted": "Modality",
        ".html_report": "report",
        ".matches": "Match axes_of explain_match",
        ".module": "CedarModule",
        ".moments": "Moments",
        ".naming": "AxisName AxisNames Name UnconfirmedNamesWarning chance_scores name_axes",
        ".restarts": "StabilityReport stability",
        ".rows": "Embeddings",
        ".splice": "Splice",
        ".statistics": "ConstantColumnWarning DominantRowWarning",
        ".steering": "NotSteeredWarning split_at steer",
    },
    ("baselines", "encoders", "metrics"),
    needed=("torch", "scipy", "sklearn", "safetensors"),
    extra="cedar",
)
