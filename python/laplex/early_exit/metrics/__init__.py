"""How good an exit's confidence is: calibration, failure prediction, learned scores.

What an evaluation tells of each exit are the `METRICS`: classes that register themselves beside the
functions that compute them. One of your own, registered by `METRICS.register`, is a column of its
tables and a key of its JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from .base import Metric

METRICS: Registry[type[Metric]] = Registry("metric", __name__)
