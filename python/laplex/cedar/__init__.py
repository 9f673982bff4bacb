"""Sparse codes for embeddings, by an invertible change of basis (CEDAR).

`CEDAR` learns the change of basis. `metrics` and `stability` judge it, and `compare` measures it
against `baselines`. `name_axes`, `top_examples`, `decode_captions` and `CEDAR.intervene` show what
its axes stand for; inside a network, `steer` and `attribute` do. `report` writes all of this into
one HTML file. `encoders` turn images and texts into embeddings.

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
    from .drift import DriftWarning as DriftWarning
    from .estimator import CEDAR as CEDAR
    from .html_report import report as report
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
    from .statistics import ConstantColumnWarning as ConstantColumnWarning
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
        ".drift": "DriftWarning",
        ".estimator": "CEDAR",
        ".html_report": "report",
        ".module": "CedarModule",
        ".moments": "Moments",
        ".naming": "AxisName AxisNames Name UnconfirmedNamesWarning chance_scores name_axes",
        ".restarts": "StabilityReport stability",
        ".statistics": "ConstantColumnWarning",
        ".steering": "NotSteeredWarning split_at steer",
    },
    ("baselines", "encoders", "metrics"),
    needed=("torch", "scipy", "sklearn", "safetensors"),
    extra="cedar",
)
