"""The examples of Gaussian models and one-sided products run, and print what they promise."""

from __future__ import annotations

import re

import pytest


def test_a_row_of_a_photograph(run_example):
    pytest.importorskip("skimage")
    printed = run_example("gp_regression")
    assert "within two standard deviations" in printed
    densities = dict(re.findall(r"^(Matern-\d/2):.*log density (-[\d.]+) each", printed, re.M))
    assert float(densities["Matern-3/2"]) > float(densities["Matern-1/2"])  # a smooth texture
    assert "worst: Matern-5/2, Matern-3/2, Matern-1/2" in printed


def test_a_light_curve(run_example):
    printed = run_example("light_curve", "--nights", "60")
    mean, deviation = re.search(r"period: ([\d.]+) ± ([\d.]+) d", printed).groups()
    assert abs(float(mean) - 11.3) < 4 * float(deviation)
    assert "effective samples of 1000" in printed


def test_an_irregular_average(run_example):
    pytest.importorskip("pandas")
    printed = run_example("irregular_average", "--readings", "3000")
    difference = float(re.search(r"relative difference: (\S+)", printed)[1])
    # Times of up to 330 h, and so decays over an hour, are rounded to 330 units of rounding.
    assert difference < 330 * 2.0**-52
    ours, error = re.search(
        r"gradients: ([\d.]+) h, root mean square error ([\d.]+)", printed
    ).groups()
    theirs, best = re.search(r"by pandas: ([\d.]+) h, ([\d.]+)", printed).groups()
    assert float(error) <= float(best)
    assert float(ours) == pytest.approx(float(theirs), rel=0.2)  # a grid of steps of 16 %


def test_a_hawkes_process(run_example):
    printed = run_example("hawkes", "--end", "1000")
    ours, theirs = re.findall(r"(-?\d+\.\d+) by (?:Laplex|the recursion)", printed)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-9)
    for true, value, error in re.findall(r"([\d.]+), fitted ([\d.]+) ± ([\d.]+)", printed):
        assert abs(float(value) - float(true)) < 4 * float(error)
