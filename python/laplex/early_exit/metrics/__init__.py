"""Metrics of an exit's confidence: calibration, failure prediction, learned scores.

An evaluation reports every metric in the registry `METRICS` for each exit. A metric is a class that
registers itself next to the function that computes it. A metric of your own, registered with
``METRICS.register``, becomes a column of the tables and a key of the JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from .base import Judged as Judged
    from .base import Metric as Metric

METRICS: Registry[type[Metric]] = Registry("metric", __name__)
__getattr__ = METRICS.attribute
