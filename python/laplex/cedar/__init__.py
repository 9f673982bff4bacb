"""Sparse disentanglement of embeddings by an invertible change of basis.

`CEDAR` learns the basis; `metrics` and `stability` judge it, `baselines` stand beside it;
`name_axes`, `decode_captions` and `CEDAR.intervene` say what its axes are; `report` writes it all
down; `encoders` make the embeddings. Our reading of the abstract of arXiv 2605.22679. Names are
imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._support.lazy_packages import importer

if TYPE_CHECKING:
    from . import baselines as baselines
    from . import encoders as encoders
    from . import metrics as metrics
    from .axis_examples import top_examples as top_examples
    from .baselines import compare as compare
    from .captions import decode_captions as decode_captions
    from .drift import DriftWarning as DriftWarning
    from .estimator import CEDAR as CEDAR
    from .html_report import report as report
    from .naming import chance_scores as chance_scores
    from .naming import name_axes as name_axes
    from .restarts import stability as stability
    from .statistics import ConstantColumnWarning as ConstantColumnWarning

# The module of a name.
_HOME: dict[str, str] = {
    "CEDAR": ".estimator",
    "ConstantColumnWarning": ".statistics",
    "DriftWarning": ".drift",
    "chance_scores": ".naming",
    "compare": ".baselines",
    "decode_captions": ".captions",
    "name_axes": ".naming",
    "report": ".html_report",
    "stability": ".restarts",
    "top_examples": ".axis_examples",
}
_MODULES = ("baselines", "encoders", "metrics")
_NEEDED = ("torch", "scipy", "sklearn", "safetensors")

__all__ = sorted([*_HOME, *_MODULES])
__getattr__ = importer(globals(), _HOME, _MODULES, needed=_NEEDED, extra="cedar")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
