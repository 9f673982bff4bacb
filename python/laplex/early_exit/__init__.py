"""Early exits: train, understand, run and judge networks with several outputs.

`MultiExitModel` attaches exits to any module by name; `train` trains them by a strategy, `predict`
of a model leaves for real, by a policy; `evaluate` and `compare` judge, `analyze` looks inside,
`export` writes a file for each segment. Our reading of the abstracts of arXiv 2407.14320 and
2508.21495. Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..optional import require

if TYPE_CHECKING:
    from . import heads as heads
    from . import networks as networks
    from .exit_stopping import ExitStopping as ExitStopping
    from .model import MultiExitModel as MultiExitModel
    from .model import Prediction as Prediction
    from .objectives import Distillation as Distillation
    from .objectives import Objective as Objective
    from .policies import Entropy as Entropy
    from .policies import LearnedScore as LearnedScore
    from .policies import Margin as Margin
    from .policies import MaxSoftmax as MaxSoftmax
    from .policies import Patience as Patience
    from .strategies import Phase as Phase
    from .training import train as train
    from .training_result import TrainingResult as TrainingResult

__all__ = [
    "Distillation",
    "Entropy",
    "ExitStopping",
    "LearnedScore",
    "Margin",
    "MaxSoftmax",
    "MultiExitModel",
    "Objective",
    "Patience",
    "Phase",
    "Prediction",
    "TrainingResult",
    "heads",
    "networks",
    "train",
]

# The module of a name.
_HOME: dict[str, str] = {
    "Distillation": ".objectives",
    "Entropy": ".policies",
    "ExitStopping": ".exit_stopping",
    "LearnedScore": ".policies",
    "Margin": ".policies",
    "MaxSoftmax": ".policies",
    "MultiExitModel": ".model",
    "Objective": ".objectives",
    "Patience": ".policies",
    "Phase": ".strategies",
    "Prediction": ".model",
    "TrainingResult": ".training_result",
    "train": ".training",
}
_MODULES: tuple[str, ...] = ("heads", "networks")
_NEEDED = ("torch",)


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module 'laplex.early_exit' has no attribute {name!r}")
    for package in _NEEDED:
        require(package, extra="exits", feature=f"laplex.early_exit.{name}")
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
