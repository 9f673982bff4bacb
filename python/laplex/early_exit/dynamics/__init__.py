"""Measurements inside a network with exits: gradients, ranks, information, loss surfaces.

`gradient_share`, `activation_rank`, `mode_connectivity`, `mutual_information` and `loss_landscape`
each return arrays that print as a table, and that you can plot (``plot``) and save (``to_dict``,
``to_json``). `analyze` makes all of these measurements. Afterwards the model is the same as before,
bit for bit.
"""

from __future__ import annotations

from .analysis import Analysis, analyze
from .directions import filter_directions
from .estimators import (
    gaussian_information,
    gaussian_label_information,
    ksg_information,
    ksg_label_information,
    label_entropy,
)
from .gradients import GradientShare, gradient_share
from .information import MutualInformation, mutual_information
from .landscape import LossLandscape, loss_landscape
from .linear_paths import ModeConnectivity, mode_connectivity
from .ranks import ActivationRank, activation_rank

__all__ = [
    "ActivationRank",
    "Analysis",
    "GradientShare",
    "LossLandscape",
    "ModeConnectivity",
    "MutualInformation",
    "activation_rank",
    "analyze",
    "filter_directions",
    "gaussian_information",
    "gaussian_label_information",
    "gradient_share",
    "ksg_information",
    "ksg_label_information",
    "label_entropy",
    "loss_landscape",
    "mode_connectivity",
    "mutual_information",
]
