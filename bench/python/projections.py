"""Write the tables and pictures of docs/measurements/projections.md.

    python bench/python/projections.py [--quick] [--only PART ...] [--page] [--to FOLDER]

The study trains first layers from 10^5 to 10^6 inputs to a few units: layers of Laplex, dense and
of low rank, random projections, feature hashing, block means and a convolution. Every training is
a line of docs/measurements/projections.jsonl, and a stopped run goes on where it was. The whole
takes about twenty minutes of processor time, and half a minute with --quick.
"""

from __future__ import annotations

import projection_pictures as pictures
import projection_runs as runs
import projection_times as times
import studies
from projection_training import train

PARTS = {
    "glosses": studies.Part(runs.glosses, train, pictures.methods("glosses")),
    "photographs": studies.Part(runs.photographs, train, pictures.methods("photographs")),
    "whole": studies.Part(runs.whole, train, pictures.methods("whole")),
    "equal_time": studies.Part(runs.equal_time, train, pictures.equal_time),
    "starts": studies.Part(runs.starts, train, pictures.starts),
    "order": studies.Part(runs.order, pictures.places, pictures.order),
    "times": studies.Part(times.runs, times.measured, times.written),
}

if __name__ == "__main__":
    assert __doc__
    studies.main("projections", __doc__, PARTS)
