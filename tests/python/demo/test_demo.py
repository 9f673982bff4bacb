"""The demo from end to end in its quick form, and its parts."""

import base64
import dataclasses
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from laplex import Plan
from laplex._support.image_datasets import load_images
from laplex.demo import choose_settings, exactness, report, run_demo, timing, training

PICTURES = {
    "CPU time against n",
    "training loss and test error by epoch",
    "test images and the predictions of the Laplex network",
    "dense view of a learned kernel",
    "anchors before and after training",
    "routing of the head",
    "order of the pixels",
    "missing pixels filled in",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    printed = io.StringIO()
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    found = run_demo(out=out, quick=True, console=Console(file=printed, width=100))
    return found, printed.getvalue()


@pytest.fixture(scope="module")
def page(demo):
    return demo[0].report.read_text("utf-8")


# --- the report -----------------------------------------------------------------------------------


def test_every_picture_is_there_and_drawn(page):
    pictures = dict(re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page))
    assert set(pictures) == PICTURES
    for name, data in pictures.items():
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
        assert min(pixels.shape) > 150, name
        assert pixels.std() > 5, f"{name} is blank"


def test_the_report_needs_nothing_else(page):
    assert "$" not in re.sub(r"base64,[^\"]+", "", page), "a placeholder is left"
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert not re.search(r"(?<!xmlns=\")https?:", re.sub(r"base64,[^\"]+", "", page))


def test_tables_have_finite_numbers(page):
    tables = re.findall(r"<table>(.*?)</table>", page, re.S)
    assert len(tables) == 5
    cells = re.findall(r"<td>(.*?)</td>", " ".join(tables))
    assert len(cells) > 60
    assert not [cell for cell in cells if re.search(r"nan|inf\b|FAILED", cell)]


def test_findings_are_sane(demo):
    found, _ = demo
    assert found.passed
    assert len(found.exactness) == 8
    assert [row.n for row in found.timings] == [1_000, 4_000]
    for row in found.timings:
        seconds = dataclasses.astuple(row)[1:]
        assert all(0 < value < 60 for value in seconds), row
    assert [c.variant for c in found.comparisons] == list(training.VARIANTS)
    for comparison in found.comparisons:
        (run,) = comparison.runs
        assert len(run.losses) == len(run.accuracies) == 2
        assert all(math.isfinite(value) for value in run.losses)
        assert run.losses[1] < run.losses[0], comparison.variant
        assert run.accuracy > 15, comparison.variant  # chance is 10


def test_the_console_says_what_the_report_says(demo):
    found, printed = demo
    assert str(found.report.resolve()) in printed.replace("\n", "")
    for comparison in found.comparisons:
        assert f"{comparison.accuracy[0]:.2f}" in printed
    assert "Σ|K||v|" in printed


def test_bad_epochs(tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        run_demo(out=tmp_path, epochs=0)


# --- exactness ------------------------------------------------------------------------------------


def test_exactness_notices_a_wrong_operator(monkeypatch):
    apply = Plan.apply
    monkeypatch.setattr(exactness.Plan, "apply", lambda self, v: apply(self, v) * (1 + 1e-5))
    assert not any(row.passed for row in exactness.check_exactness(50))


# --- timing ---------------------------------------------------------------------------------------


def test_no_dense_product_where_it_does_not_fit(monkeypatch):
    monkeypatch.setattr(timing, "LARGEST_DENSE", 50)
    assert timing.time_operator(50, budget=0).dense is not None
    row = timing.time_operator(60, budget=0)
    assert row.dense is None
    assert row.dense_build is None
    assert "–" in report.timing_rows([row])[0]


def test_timing_leaves_torch_threads_alone():
    before = torch.get_num_threads()
    timing.time_operator(20, budget=0)
    assert torch.get_num_threads() == before


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "outputs", "heads"), [(64, 128, 2), (784, 256, 2), (128, 10, 1)]
)
def test_low_rank_rival_is_nearest_and_not_smaller(inputs, outputs, heads):
    budget = training.laplex_parameters(inputs, outputs, heads)
    rival = sum(p.numel() for p in training.low_rank(inputs, outputs, budget).parameters())
    assert budget <= rival < budget + inputs + outputs


def test_low_rank_gives_way_to_dense_where_that_is_smaller():
    assert isinstance(training.low_rank(20, 10, 10_000), torch.nn.Linear)


def test_laplex_parameters_counts_what_the_network_has():
    settings = dataclasses.replace(training.SMALL, hidden=32, heads=3)
    network = training.build_network(training.LAPLEX, 64, 10, settings)
    expected = sum(training.laplex_parameters(*s, 3) for s in ((64, 32), (32, 32), (32, 10)))
    assert sum(p.numel() for p in network.parameters()) == expected


def test_training_is_reproducible_and_keeps_the_start():
    images = load_images("digits")
    settings = choose_settings(len(images.train_labels), epochs=1, quick=True)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, second = (training.train(training.LAPLEX, images, settings, seed=1) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.losses == second.losses
    assert torch.equal(first.before[1].targets, second.before[1].targets)
    assert not torch.equal(first.before[1].targets, first.network[1].targets)


def test_ranks_at_the_start():
    images = load_images("digits")
    rows = training.initial_ranks(images, training.SMALL, seed=0)
    assert [row.layer for row in rows] == ["64 -> 128", "128 -> 128", "128 -> 10"] * 2
    for row in rows:
        assert (row.kernel == row.full) == (row.init == "interlaced" or row.full == 10), row


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([98.0, 98.1, 98.2], [96.0, 96.1, 96.2], "better than"),
        ([96.0, 96.1, 96.2], [98.0, 98.1, 98.2], "worse than"),
        ([95.0, 98.0, 97.0], [96.5, 97.5, 97.0], "less than the noise"),
        ([95.0], [96.5], "with one seed"),
    ],
)
def test_verdicts_follow_the_numbers(ours, theirs, verdict):
    def comparison(variant, accuracies):
        empty = torch.nn.Sequential()
        return training.Comparison(
            variant, [training.Run(a, 100, 1.0, [1.0], [a], empty, empty) for a in accuracies]
        )

    rows = [
        comparison(training.LAPLEX, ours),
        comparison(training.RANDOM_START, ours),
        comparison(training.LOW_RANK, theirs),
        comparison(training.DENSE, theirs),
    ]
    assert verdict in report.findings(rows)


def test_settings_by_size():
    assert choose_settings(1347, None, quick=False) == training.SMALL
    assert choose_settings(60_000, None, quick=False) == training.LARGE
    assert choose_settings(60_000, 7, quick=False).epochs == 7
