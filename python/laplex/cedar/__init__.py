"""Sparse codes for embeddings, by an invertible change of basis (CEDAR).

`CEDAR` learns the change of basis. `metrics` and `stability` judge it, and `compare` measures it
against `baselines`. `name_axes`, `top_examples`, `decode_captions` and `CEDAR.intervene` show what
its axes stand for. `zero_shot`, `CodeIndex`, `explain_match` and `axes_of` use codes of images and
texts. `report` writes an HTML file. `encoders` turn images and texts into embeddings.

This is our reading of the abstract of arXiv 2605.22679. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._support.lazy_packages import lazy_names

if TYPE_CHECKING:
    from . import baselines as baselines
    from . import encoders as encoders
    from . import metrics as metrics
    from .axis_examples import AxisExamples as AxisExamples
    from .axis_examples import top_examples as top_examples
    from .baselines import compare as compare
    from .captions import Caption as Caption
    from .captions import decode_captions as decode_captions
    from .classification import ZeroShot as ZeroShot
    from .classification import zero_shot as zero_shot
    from .code_index import CodeIndex as CodeIndex
    from .code_index import Neighbours as Neighbours
    from .drift import DriftWarning as DriftWarning
    from .estimator import CEDAR as CEDAR
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
    from .splice import Splice as Splice
    from .statistics import ConstantColumnWarning as ConstantColumnWarning

__all__, __getattr__, __dir__ = lazy_names(
    globals(),
    {
        ".axis_examples": "AxisExamples top_examples",
        ".baselines": "compare",
        ".captions": "Caption decode_captions",
        ".classification": "ZeroShot zero_shot",
        ".code_index": "CodeIndex Neighbours",
        ".drift": "DriftWarning",
        ".estimator": "CEDAR",
        ".fitted": "Modality",
        ".html_report": "report",
        ".matches": "Match axes_of explain_match",
        ".module": "CedarModule",
        ".moments": "Moments",
        ".naming": "AxisName AxisNames Name UnconfirmedNamesWarning chance_scores name_axes",
        ".restarts": "StabilityReport stability",
        ".splice": "Splice",
        ".statistics": "ConstantColumnWarning",
    },
    ("baselines", "encoders", "metrics"),
    needed=("torch", "scipy", "sklearn", "safetensors"),
    extra="cedar",
)
