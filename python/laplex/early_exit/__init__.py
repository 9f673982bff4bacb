"""Early exits: train, run, evaluate, analyse and export networks with several outputs.

`MultiExitModel` attaches exits to the named modules of any network, and `train` trains them with a
chosen strategy. `MultiExitModel.predict` stops computing a sample at the exit where a policy lets
it leave. `evaluate` and `compare` measure accuracy against cost, `analyze` looks inside a network,
`export` writes one file for each segment, and `report` writes an HTML page.

The package is our reading of the abstracts of arXiv 2407.14320 and arXiv 2508.21495. Names are
imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._support.lazy_packages import lazy_names

if TYPE_CHECKING:
    from . import dynamics as dynamics
    from . import heads as heads
    from . import language as language
    from . import networks as networks
    from . import policies as policies
    from . import recipes as recipes
    from .activations import Inputs as Inputs
    from .costs import Costs as Costs
    from .costs import count_costs as count_costs
    from .deployment import ExportedModel as ExportedModel
    from .deployment import ExportedPrediction as ExportedPrediction
    from .deployment import export as export
    from .dynamics import Analysis as Analysis
    from .dynamics import analyze as analyze
    from .evaluation.comparison import Comparison as Comparison
    from .evaluation.comparison import compare as compare
    from .evaluation.correlations import Correlation as Correlation
    from .evaluation.correlations import Correlations as Correlations
    from .evaluation.curves import Curve as Curve
    from .evaluation.evaluator import evaluate as evaluate
    from .evaluation.evaluator import evaluate_outputs as evaluate_outputs
    from .evaluation.outputs import Outputs as Outputs
    from .evaluation.outputs import collect as collect
    from .evaluation.result import Evaluation as Evaluation
    from .evaluation.result import OperatingPoint as OperatingPoint
    from .evaluation.risk_control import RiskControl as RiskControl
    from .evaluation.risk_control import control_risk as control_risk
    from .html_report import report as report
    from .library_networks import library_network as library_network
    from .metrics.acceptance_toy import FutilityToy as FutilityToy
    from .metrics.acceptance_toy import futility_toy as futility_toy
    from .metrics.calibration import brier as brier
    from .metrics.calibration import ece as ece
    from .metrics.calibration import nll as nll
    from .metrics.calibration import smooth_ece as smooth_ece
    from .metrics.failure_prediction import augrc as augrc
    from .metrics.failure_prediction import aurc as aurc
    from .metrics.failure_prediction import eaurc as eaurc
    from .metrics.failure_prediction import eefp as eefp
    from .metrics.failure_prediction import eefp_labels as eefp_labels
    from .metrics.failure_prediction import failure_auroc as failure_auroc
    from .metrics.failure_prediction import fpr95 as fpr95
    from .metrics.per_exit import PerExit as PerExit
    from .metrics.reliability_diagram import Reliability as Reliability
    from .metrics.reliability_diagram import reliability as reliability
    from .metrics.score_heads import ScoreHeads as ScoreHeads
    from .metrics.temperature import TemperatureScaling as TemperatureScaling
    from .model import MultiExitModel as MultiExitModel
    from .model import Prediction as Prediction
    from .places import default_exits as default_exits
    from .places import exit_places as exit_places
    from .policies.base import Policy as Policy
    from .policies.entropy import Entropy as Entropy
    from .policies.learned import LearnedScore as LearnedScore
    from .policies.margin import Margin as Margin
    from .policies.max_softmax import MaxSoftmax as MaxSoftmax
    from .policies.patience import Patience as Patience
    from .timing import TimedRun as TimedRun
    from .timing import Timing as Timing
    from .timing import time_exits as time_exits
    from .training.exit_stopping import ExitStopping as ExitStopping
    from .training.objectives import Distillation as Distillation
    from .training.objectives import Losses as Losses
    from .training.objectives import Objective as Objective
    from .training.objectives import SampleLosses as SampleLosses
    from .training.result import EpochRecord as EpochRecord
    from .training.result import TrainingResult as TrainingResult
    from .training.strategies import Phase as Phase
    from .training.trainer import train as train

__all__, __getattr__, __dir__ = lazy_names(
    globals(),
    {
        ".activations": "Inputs",
        ".costs": "Costs count_costs",
        ".deployment": "ExportedModel ExportedPrediction export",
        ".dynamics": "Analysis analyze",
        ".evaluation.comparison": "Comparison compare",
        ".evaluation.correlations": "Correlation Correlations",
        ".evaluation.curves": "Curve",
        ".evaluation.evaluator": "evaluate evaluate_outputs",
        ".evaluation.outputs": "Outputs collect",
        ".evaluation.result": "Evaluation OperatingPoint",
        ".evaluation.risk_control": "RiskControl control_risk",
        ".html_report": "report",
        ".library_networks": "library_network",
        ".metrics.acceptance_toy": "FutilityToy futility_toy",
        ".metrics.calibration": "brier ece nll smooth_ece",
        ".metrics.failure_prediction": "augrc aurc eaurc eefp eefp_labels failure_auroc fpr95",
        ".metrics.per_exit": "PerExit",
        ".metrics.reliability_diagram": "Reliability reliability",
        ".metrics.score_heads": "ScoreHeads",
        ".metrics.temperature": "TemperatureScaling",
        ".model": "MultiExitModel Prediction",
        ".places": "default_exits exit_places",
        ".policies.base": "Policy",
        ".policies.entropy": "Entropy",
        ".policies.learned": "LearnedScore",
        ".policies.margin": "Margin",
        ".policies.max_softmax": "MaxSoftmax",
        ".policies.patience": "Patience",
        ".timing": "TimedRun Timing time_exits",
        ".training.exit_stopping": "ExitStopping",
        ".training.objectives": "Distillation Losses Objective SampleLosses",
        ".training.result": "EpochRecord TrainingResult",
        ".training.strategies": "Phase",
        ".training.trainer": "train",
    },
    ("dynamics", "heads", "language", "networks", "policies", "recipes"),
    needed=("torch", "scipy", "sklearn"),
    extra="exits",
)
