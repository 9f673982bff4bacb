"""The examples of sorting that learns run, and their models beat what they are compared with."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def column(printed: str, number: int) -> dict[str, float]:
    """Return a column of numbers of a table, by the name of the row."""
    rows = re.findall(
        r"^ *([A-Za-z][A-Za-z -]*(?: \d+)?)((?: +[+-]?\d+\.\d+)+)", printed, re.MULTILINE
    )
    return {name.strip(): float(numbers.split()[number]) for name, numbers in rows}


def test_the_order_of_pixels(run_example, tmp_path):
    printed = run_example("pixel_order", "--quick")
    for number in (0, 1, 3):  # errors of the thumbnails and of the ninth, distances
        errors = column(printed, number)
        assert errors["truth"] == 0
        assert errors["learned"] < errors["nearest dot"]
        assert errors["learned"] < errors["first component"] < errors["shuffled"]
    # What was learned is on the disk: a second run has nothing left to do.
    assert (tmp_path / "pixel_order.pt").exists()
    assert column(run_example("pixel_order", "--quick"), 0) == column(printed, 0)


def test_ranking(run_example):
    printed = run_example("ranking", "--quick")
    plain, exponential = (column(part, 0) for part in printed.split("exponential of"))
    assert plain["Spearman"] == exponential["Spearman"]  # it sees the order alone
    assert plain["Spearman"] > 0.5
    assert exponential["Spearman"] > exponential["squared error"]


def test_robust_regression(run_example):
    errors = column(run_example("robust_regression", "--quick"), 0)
    others = ("least squares", "Huber", "RANSAC", "Theil-Sen", "median")
    for ours in ("trimmed", "quantile"):
        assert errors[ours] < min(errors[other] for other in others)
        assert errors[ours] < 1.25 * errors["without outliers"]
