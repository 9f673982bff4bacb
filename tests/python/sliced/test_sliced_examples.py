"""The examples of kernels in several dimensions run, and do what they promise."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def test_a_flow_between_photographs(run_example):
    printed = run_example("sliced_flow", "--quick")
    distances = [float(each) for each in re.findall(r"energy distance (\S+) ±", printed)]
    *flow, linear = distances
    assert flow[-1] < 0.1 * linear < 0.1 * flow[0]


def test_the_colours_of_hidden_squares(run_example):
    pytest.importorskip("linear_operator")
    printed = run_example("sliced_regression", "--quick")
    errors = dict(re.findall(r"^(\w+(?: \w+)?) +(\d\.\d+)", printed, re.MULTILINE))
    assert float(errors["sliced"]) < 0.9 * float(errors["mean colour"])
