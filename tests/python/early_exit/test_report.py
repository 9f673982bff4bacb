"""The HTML report of early exits: what it says is what was measured, and nothing leaves it."""

from __future__ import annotations

import re
import socket
from collections import OrderedDict
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import html_cases
from laplex.early_exit.costs import count_costs
from laplex.early_exit.dynamics import analyze
from laplex.early_exit.evaluation.comparison import compare
from laplex.early_exit.evaluation.evaluator import evaluate_outputs
from laplex.early_exit.evaluation.outputs import Outputs
from laplex.early_exit.evaluation.result import Evaluation
from laplex.early_exit.html_report import report, write_page
from laplex.early_exit.html_report.number_formats import number, percent, spread
from laplex.early_exit.html_report.tradeoff_section import _networks, _ranking
from laplex.early_exit.model import MultiExitModel
from laplex.early_exit.policies import MaxSoftmax
from laplex.early_exit.runs.study import Study
from laplex.early_exit.timing import time_exits
from laplex.early_exit.training.trainer import train

SECTIONS = (
    "1. Training",
    "2. Accuracy against cost",
    "3. Single exits",
    "4. Calibration or failure prediction?",
    "5. Measurements inside the networks",
    "6. Cost of a sample",
    "7. Conventions",
)
COSTS = (0.4, 0.7, 1.05)


def outputs(seed: int, sharpness: float = 1.0, samples: int = 120) -> Outputs:
    """Three exits, each better than the one before it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, samples)
    logits = rng.standard_normal((3, samples, 4))
    for k in range(3):
        logits[k, np.arange(samples), labels] += sharpness * (k + 1)
    return Outputs(logits.astype(np.float32), labels, ("a", "b", "output"))


def judged(seed: int, sharpness: float = 1.0, **arguments: object) -> Evaluation:
    return evaluate_outputs(
        outputs(seed, sharpness), COSTS, validation=outputs(seed + 100, sharpness), **arguments
    )


@pytest.fixture(scope="module")
def groups() -> dict[str, list[Evaluation]]:
    return {"weak": [judged(0, 0.6), judged(1, 0.6)], "strong": [judged(2, 1.5), judged(3, 1.5)]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the report asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


class Page(html_cases.Page):
    """The page, its headings and the rows of its tables; its style brings nothing in."""

    def __init__(self, path: Path) -> None:
        self.titles: list[str] = []
        self.rows: list[list[str]] = []
        super().__init__(path.read_text("utf-8"))
        self.pictures = [str(about["alt"]) for tag, about in self.tags if tag == "img"]

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if "style" in self.open:
            assert "url(" not in data
            assert "@import" not in data
            return
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        self.text += data + " "

    def row(self, *start: str) -> list[str]:
        """The first row that begins so."""
        return next(one for one in self.rows if one[: len(start)] == list(start))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_sections_and_numbers(groups, tmp_path):
    path = tmp_path / "r.html"
    assert report(groups, out=path, title="Mine & more") == path
    page = Page(path)
    assert tuple(page.titles) == SECTIONS
    assert "<title>Mine &amp; more</title>" in path.read_text("utf-8")
    assert all(one.startswith("data:image/png;base64,") for one in page.sources())
    assert len(page.sources()) >= 4
    comparison = compare(groups)
    values = comparison.values()
    for name in groups:
        row = page.row(name, "2")
        columns = [*(f"at {one:.0%}" for one in comparison.budgets), "area", "full"]
        assert row[2:] == [spread(values[name][column], parts=True) for column in columns]
        assert row[2] == "undefined"  # a quarter of the cost is less than the first exit's
    first = [one.costs[0] for one in groups["weak"]]
    accuracies = np.mean([one.accuracy[0] for one in groups["weak"]])
    eces = np.mean([one.ece[0] for one in groups["weak"]])
    row = page.row("a", percent(float(np.mean(first))), percent(float(accuracies)))
    assert number(float(eces)) in row
    assert page.row("output", "105.0 %")[-1] == "undefined"  # EEFP of the last exit
    correlations = {one.measure: one for one in comparison.correlations().rows}
    assert page.row("mean ECE")[1] == number(correlations["mean ECE"].pearson)
    for measure, one in correlations.items():
        assert page.row(measure)[-1] == str(one.runs) == "4"
    for text in ("4 evaluations of 4 networks only", "can expect in use", "standard error"):
        assert text in words(page)
    for about in groups["weak"][0].conventions.values():
        assert " ".join(about.split()) in words(page)


def test_the_best_cells_stand_out(groups, tmp_path):
    html = report(groups, out=tmp_path / "r.html").read_text("utf-8")
    best = [unescape(one) for one in re.findall(r"<td class=best>([^<]*)</td>", html)]
    values = compare(groups).values()
    names = ["at 50%", "at 75%", "at 100%", "area", "full"]
    expected = []
    for name in names:
        top = max(values, key=lambda group: values[group][name].mean())
        expected.append(spread(values[top][name], parts=True))
    assert best == expected


def test_everything_that_is_known_is_shown(tmp_path):
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    model = MultiExitModel(backbone, {"1": nn.Linear(8, 3), "3": nn.Linear(8, 3)})
    x = torch.randn(60, 4)
    batches = [(x, x[:, :3].argmax(1))]
    training = train(model, batches, batches, strategy="joint", epochs=2)
    costs = count_costs(model, x)
    timing = time_exits(model, x, MaxSoftmax(0.5), batch_sizes=(4,), repeats=1)
    parts = ["gradient_share", "activation_rank"]
    inside = analyze(model, batches, parts=parts, max_samples=60)
    path = report(
        judged(0, policy=MaxSoftmax(0.6)),
        out=tmp_path / "r.html",
        training={"net": training},
        costs={"net": costs},
        timing={"net": timing},
        dynamics={"net": inside},
    )
    page = Page(path)
    assert page.row("net", "all 2")[2] == "2"
    last = training.history[-1].val_accuracy
    assert page.row("net", "all 2")[3:] == [percent(one) for one in last]
    assert page.row("plain backbone")[1] == f"{costs.backbone:,.0f}"
    assert page.row("1")[3] == f"{costs.exits[0]:,.0f}"
    assert page.row("predict, batch of 4")[-1] == percent(timing.run("predict", 4).counted)
    for text in ("Gradient share of", "Rank of the activations", "Results at the given thresholds"):
        assert text in page.text
    for table in (part.table() for part in inside.parts().values()):
        assert table in page.text
    point = judged(0, policy=MaxSoftmax(0.6)).operating_point
    assert page.row("network", point.policy)[2] == percent(point.accuracy)
    for absent in ("was not measured", "were not analysed", "has no information"):
        assert absent not in page.text


def test_what_is_not_known_is_said(tmp_path):
    page = Page(report(judged(0), out=tmp_path / "r.html"))
    for text in ("has no information", "was not measured", "not analysed", "are undefined with"):
        assert text in page.text
    assert "is next" not in page.text
    assert "the largest area" not in page.text  # there is nothing to compare


def test_no_number_is_nan(tmp_path):
    """An exit that is always right has no AUROC, and one that is dear no accuracy below it."""
    found = outputs(0)
    logits = np.zeros_like(found.logits)
    logits[:, np.arange(len(found.labels)), found.labels] = 3
    perfect = Outputs(logits, found.labels, found.exit_names)
    dear = evaluate_outputs(perfect, (1.2, 1.3, 1.4), budgets=(0.5, 1.0))
    path = report({"dear": [dear], "dear too": [dear, dear]}, out=tmp_path / "r.html")
    page = Page(path)
    assert not re.search(r"\bnan\b", page.text + " ".join(page.pictures), re.IGNORECASE)
    assert page.row("dear", "1")[2:5] == ["undefined"] * 3
    assert "Areas are undefined for all but one group" in page.text
    assert "None" not in page.text
    assert "so they cannot be compared" not in page.text
    assert "could not have been chosen beforehand" in words(page)


def test_names_are_escaped(tmp_path):
    evil = '<script>alert("1")</script>&amp;'
    exits = Outputs(outputs(0).logits, outputs(0).labels, ("<b>", "b", "output"))
    found = evaluate_outputs(exits, COSTS)
    torch.manual_seed(0)
    layers = OrderedDict([("<i>", nn.Linear(4, 8)), ("b", nn.ReLU()), ("c", nn.Linear(8, 3))])
    model = MultiExitModel(nn.Sequential(layers), {"<i>": nn.Linear(8, 3)})
    x = torch.randn(20, 4)
    batches = [(x, x[:, :3].argmax(1))]
    path = report(
        {evil: found},
        out=tmp_path / "r.html",
        title=evil,
        training={evil: train(model, batches, batches, strategy="joint", epochs=1)},
        costs={evil: count_costs(model, x)},
        timing={evil: time_exits(model, x, MaxSoftmax(0.5), batch_sizes=(4,), repeats=1)},
        dynamics={evil: analyze(model, batches, parts=["activation_rank"], max_samples=20)},
    )
    html = path.read_text("utf-8")
    assert "<script" not in html
    assert "<i>" not in html
    assert "<b>b" not in html.replace("<div class=tile><b>", "")
    page = Page(path)
    assert page.text.count(evil) >= 6
    assert any(evil in one for one in page.pictures)
    assert page.row("<b>")


def test_pictures_say_what_they_show(groups, tmp_path):
    html = report(groups, out=tmp_path / "r.html").read_text("utf-8")
    assert all('alt="' in one for one in re.findall(r"<img [^>]{0,200}", html))


# --- pieces ---------------------------------------------------------------------------------------


def test_runs_on_other_data_are_told(groups, tmp_path):
    facts = {"a": {"data": "digits"}, "b": {"data": "photos"}}
    study = Study(compare({"a": groups["weak"], "b": groups["strong"]}), facts=facts)
    note = "the runs are of different data (digits, photos), so they cannot be compared"
    assert study.notes == [note]
    assert f"Note: {note}" in study.text()
    write_page(study, tmp_path / "page.html", "Other data")
    assert note in (tmp_path / "page.html").read_text("utf-8")


def test_ranking_says_how_far_it_can_be_trusted():
    def with_area(area: float) -> Evaluation:
        found = judged(0)
        object.__setattr__(found.curve, "accuracy", np.full_like(found.curve.accuracy, area))
        return found

    # Standard errors by hand: var(0.50, 0.60) = 0.005, of a mean of two 0.0025.
    near = {"one": [with_area(0.5), with_area(0.6)], "two": [with_area(0.52), with_area(0.52)]}
    text = _ranking(compare(near).values())
    assert text.startswith("The group “one” has the largest area, 55.0 %")
    assert "3.0 points behind" in text
    assert "standard error of 5.0 points" in text
    assert "may be due to chance" in text
    far = {**near, "three": [with_area(0.9), with_area(0.92)]}
    text = _ranking(compare(far).values())
    assert (
        "“three” has the largest area, 91.0 %; the group “one” is next, 36.0 points behind" in text
    )
    assert "5.1 points." in text  # sqrt(0.0025 + 0.0001)
    assert "another seed may reverse" in _ranking(
        compare({"one": near["one"][:1], "two": near["two"]}).values()
    )


def test_networks_judged_twice_are_one():
    plain = {name: judged(seed) for name, seed in (("mixed, softmax", 0), ("joint, softmax", 1))}
    scaled = {
        name.replace("softmax", "temperature"): judged(seed, calibration="temperature")
        for name, seed in (("mixed, softmax", 0), ("joint, softmax", 1))
    }
    found = _networks({name: [one] for name, one in {**plain, **scaled}.items()})
    assert list(found) == ["mixed", "joint"]
    assert found["mixed"][0] is plain["mixed, softmax"]
    assert list(_networks({"mixed, x": [plain["mixed, softmax"]]})) == ["mixed, x"]


def test_numbers_in_words():
    assert number(float("nan")) == percent(float("nan")) == "undefined"
    assert (number(0.12345), percent(0.12345), percent(0.5, 0)) == ("0.123", "12.3 %", "50 %")
    assert spread(np.array([0.5]), parts=True) == "50.0 %"
    assert spread(np.array([1.0, 3.0]), parts=False) == "2.000 ± 1.414"
    assert spread(np.array([1.0, np.nan]), parts=False) == "undefined"


# --- arguments ------------------------------------------------------------------------------------


def test_failures_are_told_and_write_nothing(groups, tmp_path):
    out = tmp_path / "r.html"
    (tmp_path / "empty").mkdir()
    for wrong, message in (
        ({"results": {}}, "results is empty"),
        ({"results": []}, "results is empty: pass at least one folder"),
        ({"results": "folder"}, "or a list of folders of runs, got str"),
        ({"results": [tmp_path / "empty"]}, "does not hold a run"),
        ({"results": {"a": 1}}, "Evaluation|must be|not iterable"),
        (
            {"results": groups, "training": {"a": 1}},
            r"training\['a'\] must be of type TrainingResult",
        ),
        ({"results": groups, "dynamics": {"a": 1}}, r"dynamics\['a'\] must be of type Analysis"),
        ({"results": [tmp_path], "costs": {}}, "costs is read from the folders of the runs"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            report(**wrong, out=out)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report(groups, out=tmp_path / "no" / "r.html")
    assert [one.name for one in tmp_path.iterdir()] == ["empty"]


def test_what_was_there_stays_when_the_report_fails(groups, tmp_path, monkeypatch):
    out = tmp_path / "r.html"
    out.write_text("older")

    def broken(*_):
        raise RuntimeError("x")

    monkeypatch.setattr("laplex.early_exit.html_report.page.render", broken)
    with pytest.raises(RuntimeError):
        report(groups, out=out)
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]
