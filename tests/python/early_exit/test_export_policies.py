"""Scores of policies in exported files, and the decisions of their runner."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from export_cases import small, stand_in
from laplex.early_exit.deployment import ExportedModel, export, runner, writing
from laplex.early_exit.metrics.score_heads import ScoreHeads
from laplex.early_exit.metrics.temperature import TemperatureScaling
from laplex.early_exit.policies import Entropy, LearnedScore, Margin, MaxSoftmax, Patience, Policy

pytestmark = pytest.mark.usefixtures("seeded", "one_table_of_operators")


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))

    def score(self, k, logits):
        return self.linear[k](logits)[:, 0].sigmoid()


class Plain:
    def score(self, k, logits):
        return torch.sigmoid(logits[:, 0] - k)


@pytest.mark.parametrize(
    ("scorer", "form"),
    [(Heads(), "onnx"), (Heads(), "torch"), (Plain(), "torch")],
    ids=["module-onnx", "module-torch", "plain-torch"],
)
def test_a_learned_score_becomes_part_of_the_files(scorer, form, tmp_path):
    model, x = small(1), torch.randn(50, 5)
    with torch.no_grad():
        scores = LearnedScore(scorer, 0.0).scores(model(x))
    first = np.sort(scores[0].numpy())
    stay = 15 + int(np.diff(first[14:35]).argmax())  # in the widest gap, away from any rounding
    threshold = float(first[stay - 1 : stay + 1].mean())
    assert np.abs(scores[:-1].numpy() - threshold).min() > 1e-5
    rule = LearnedScore(scorer, threshold, fallback="most_confident")
    files = ExportedModel.load(
        export(model, x, tmp_path / "files", format=form, policy=rule), trusted=True
    )
    assert [one["name"] for one in files.manifest["segments"][0]["outputs"]][:2] == [
        "logits",
        "score",
    ]
    expected, found = model.predict(x, rule), files.predict(x.numpy())
    assert found.exit_index.tolist() == expected.exit_index.tolist()
    assert found.samples_per_segment == expected.samples_per_segment
    assert found.samples_per_segment == (50, stay)
    other = files.predict(x.numpy(), MaxSoftmax(0.0))
    assert other.samples_per_segment == (50, 0)


def middles(policy, logits):
    """A threshold for each exit but the last, in the widest gap between the scores of its samples.

    Scores move by no more than rounding, so that no comparison hangs on it.
    """
    scores = np.sort(policy.scores(logits).numpy()[:-1], 1)
    count = scores.shape[1]
    gaps = np.diff(scores)[:, count // 4 : -count // 4]
    assert gaps.max(1).min() > 1e-4
    at = count // 4 + gaps.argmax(1)
    rows = np.arange(len(scores))
    return (scores[rows, at] + scores[rows, at + 1]) / 2


def fitted(kind):
    logits = torch.randn(3, 200, 3, generator=torch.Generator().manual_seed(1))
    return kind.fit(logits, logits.sum(0).argmax(-1))


class Margin2(Policy):
    """Not that of Laplex, though it has its name."""

    def score(self, k, logits, memory):
        two = logits.double().topk(2, -1).values
        return (two[:, 0] - two[:, 1]) * (k + 1), None


Margin2.__name__ = Margin2.__qualname__ = "Margin"


class Smoothed(Policy):
    """The largest probability of the mean over all exits so far: it remembers their sum."""

    def score(self, k, logits, memory):
        total = logits.double().softmax(-1) + (0 if memory is None else memory)
        return total.amax(-1) / (k + 1), total


LIVE = {
    "MaxSoftmax": lambda: MaxSoftmax(0.5, strict=True),
    "Entropy": lambda: Entropy(0.5),
    "Margin": lambda: Margin(0.5, fallback="most_confident"),
    "Patience": lambda: Patience([1, 1]),
    "TemperatureScaling": lambda: LearnedScore(fitted(TemperatureScaling()), 0.5),
    "ScoreHeads": lambda: LearnedScore(fitted(ScoreHeads()), 0.5),
    "a Margin of the user's": lambda: Margin2(0.5),
    "one that remembers": lambda: Smoothed(0.5),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "onnx") for name in LIVE), *((name, "torch") for name in [*LIVE][-2:])],
)
def test_files_have_the_policys_own_score(name, form, tmp_path):
    model, x = small(), 3 * torch.randn(60, 5)
    with torch.no_grad():
        logits = torch.stack(model(x))
    policy = LIVE[name]()
    if not isinstance(policy, Patience):
        policy = policy.with_cuts(middles(policy, logits))
    files = ExportedModel.load(
        export(model, x, tmp_path / "files", format=form, policy=policy), trusted=True
    )
    expected = model.predict(x, policy)
    assert 0 < expected.samples_per_segment[2] < expected.samples_per_segment[1] <= 60
    # By the files; by their manifest's description; by the policy itself.
    for rule in (None, files.policy, policy):
        found = files.predict(x.numpy(), rule)
        assert found.exit_index.tolist() == expected.exit_index.tolist()
        assert found.samples_per_segment == expected.samples_per_segment
    own = isinstance(policy, (Margin2, Smoothed))
    assert ("." in files.policy["rule"]) == own
    if own:  # its score with other thresholds
        sooner = {**files.policy, "thresholds": -1.0}
        assert files.predict(x.numpy(), sooner).samples_per_segment == (60, 0, 0)
        with pytest.raises(ValueError, match=r"MaxSoftmax, Entropy, Margin, Patience, .*\."):
            files.predict(x.numpy(), {"rule": "Own", "thresholds": 0.5})
    if name == "a Margin of the user's":
        theirs = model.predict(x, Margin(policy.thresholds))
        assert theirs.exit_index.tolist() != expected.exit_index.tolist()
        by_rule = files.predict(x.numpy(), {"rule": "Margin", "thresholds": policy.thresholds})
        assert by_rule.exit_index.tolist() == theirs.exit_index.tolist()


class Branching(Policy):
    def score(self, k, logits, memory):
        return logits[:, 0] if bool((logits > 0).any()) else logits[:, 1], None


class Wide(Policy):
    def score(self, k, logits, memory):
        return logits, None


class Counting(Policy):
    """Its score depends on how often it was asked."""

    calls = 0

    def score(self, k, logits, memory):
        Counting.calls += 1
        return logits[:, 0] + Counting.calls, None


class Never(Policy):
    def reached(self, score, cut):
        return score < cut


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Branching, ValueError, r"the score of Branching\(0.5\) cannot be traced by torch.export"),
        (Policy, ValueError, r"the score of Policy\(0.5\) cannot be traced .* NotImplementedError"),
        (Wide, ValueError, r"the score of Wide\(0.5\) must be a Tensor \[4\], .* got \[4, 3\]"),
        (Counting, RuntimeError, r"the exported files give other scores than Counting\(0.5\)"),
        (Never, TypeError, "policy is a Never with its own method reached"),
    ],
)
def test_policies_that_files_can_not_keep(kind, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(small(), torch.randn(4, 5), tmp_path / "files", format="torch", policy=kind(0.5))
    assert not list(tmp_path.iterdir())


def test_a_policy_says_itself_who_leaves():
    """At run time, where it is asked: files alone could not."""
    logits = np.random.default_rng(0).standard_normal((3, 20, 4)).astype(np.float32)

    class Worst(MaxSoftmax):
        def reached(self, score, cut):
            return score < cut

    found = stand_in(logits).predict(np.arange(20)[:, None], Worst(0.5))
    leaves = Worst(0.5).scores(logits) < 0.5
    leaves[-1] = True
    assert found.exit_index.tolist() == leaves.int().argmax(0).tolist()


def older(manifest):
    """The same in format 2, in which a segment takes all that the one before it passes on."""
    manifest = {**manifest, "format": 2}
    manifest["input_places"] = [one["place"] for one in manifest.pop("inputs")]
    del manifest["largest_sizes"]
    for part in manifest["segments"]:
        for i, one in enumerate(part["inputs"]):
            one["name"] = f"input_{i}"
        scored = 1 + manifest["scored"]
        for i, one in enumerate(part["outputs"][scored:]):
            one["name"] = f"activation_{i}"
        for one in (*part["inputs"], *part["outputs"]):
            del one["batch_axis"]
    return manifest


def test_folders_of_earlier_formats_are_read(tmp_path):
    """In format 1, the rules are the runner's, unless a learned score was part of the files."""
    model, x = small(), 3 * torch.randn(60, 5)
    with torch.no_grad():
        logits = torch.stack(model(x))
    policy = Entropy(0.5).with_cuts(middles(Entropy(0.5), logits))
    learned = LIVE["ScoreHeads"]()
    learned = learned.with_cuts(middles(learned, logits))
    for one, scored in ((policy, False), (learned, True)):
        folder = tmp_path / str(scored)
        export(model, x, folder, format="torch", policy=one if scored else None)
        manifest = older(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        found = ExportedModel.load(folder, trusted=True).predict(x.numpy(), None if scored else one)
        assert found.exit_index.tolist() == model.predict(x, one).exit_index.tolist()
        del manifest["scored"]
        manifest.update(format=1, learned_score=scored, policy=writing.described(one, 3))
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        found = ExportedModel.load(folder, trusted=True).predict(x.numpy())
        assert found.exit_index.tolist() == model.predict(x, one).exit_index.tolist()


# --- decisions -----------------------------------------------------------------------------------

POLICIES = {
    "MaxSoftmax": (MaxSoftmax, st.floats(0.2, 1)),
    "Entropy": (Entropy, st.floats(0, 1.4)),
    "Margin": (Margin, st.floats(0, 1)),
    "Patience": (Patience, st.integers(0, 3)),
}


@st.composite
def decisions(draw):
    exits, samples = draw(st.integers(2, 5)), draw(st.integers(1, 5))
    classes = draw(st.integers(2, 4))
    numbers = st.lists(
        st.sampled_from([-40.0, -1.5, -0.5, 0.0, 0.25, 1.0, 3.0, 50.0]),
        min_size=exits * samples * classes,
        max_size=exits * samples * classes,
    )
    logits = np.asarray(draw(numbers), dtype=np.float32).reshape(exits, samples, classes)
    kind, thresholds = POLICIES[draw(st.sampled_from(sorted(POLICIES)))]
    many = st.lists(thresholds, min_size=exits - 1, max_size=exits - 1)
    policy = kind(
        draw(st.one_of(thresholds, many)),
        strict=draw(st.booleans()),
        fallback=draw(st.sampled_from(["last", "most_confident"])),
    )
    return policy, logits


@settings(max_examples=150, deadline=None)
@given(decisions())
def test_the_runner_decides_as_the_policies(case):
    """Sample for sample, unless a comparison hangs on the last bit of a probability."""
    policy, logits = case
    scores = policy.scores(logits)
    cuts = policy.cuts(len(logits))
    if not isinstance(policy, Patience):
        distances = (scores[:-1] - cuts[:, None]).abs()
        assume(not bool((distances < 1e-12).any()))
        between = (scores[:, None] - scores[None]).abs()
        assume(not bool(((between < 1e-12) & (between > 0)).any()))
    exit_index, stopped_at = policy.decide(scores)
    for rule in (policy, writing.described(policy, len(logits))):  # by torch, and by NumPy
        found = stand_in(logits).predict(np.arange(logits.shape[1])[:, None], rule)
        assert found.exit_index.tolist() == exit_index.tolist()
        computed = [int((stopped_at >= k).sum()) for k in range(len(logits))]
        assert list(found.samples_per_segment) == computed
        assert np.array_equal(found.logits, logits[exit_index.numpy(), np.arange(logits.shape[1])])
        assert np.array_equal(found.labels, found.logits.argmax(-1))


def test_a_policy_survives_the_manifest(tmp_path):
    model, x, folder = small(), torch.randn(2, 5), tmp_path / "files"
    endless = MaxSoftmax(0.5).with_cuts([float("inf"), float("-inf")])
    written = ExportedModel.load(
        export(model, x, folder, format="torch", policy=endless), trusted=True
    ).policy
    cases = [(endless, written)]
    for policy in (
        MaxSoftmax([0.25, 0.75], strict=True),
        Entropy(0.5, fallback="most_confident"),
        Margin(0.125),
        Patience([1, 2]),
    ):
        text = json.dumps(writing.described(policy, 3), allow_nan=False)
        cases.append((policy, json.loads(text)))
    for policy, description in cases:
        rule = runner.Rule.of(description, 3)
        assert rule.cuts.tolist() == policy.cuts(3).tolist()
        assert rule.strict == policy.strict
        assert rule.most_confident == (policy.fallback == "most_confident")
        assert rule.name == type(policy).__name__


def test_policies_that_do_not_fit():
    files, x = stand_in(np.zeros((3, 2, 2), np.float32)), np.zeros((2, 1), np.int64)
    with pytest.raises(ValueError, match="policy is needed"):
        files.predict(x)
    with pytest.raises(TypeError, match="policy must be a MaxSoftmax, Entropy"):
        files.predict(x, 0.5)
    with pytest.raises(ValueError, match="policy has rule 'Best'"):
        files.predict(x, {"rule": "Best", "thresholds": 1})
    with pytest.raises(ValueError, match="policy has no thresholds"):
        files.predict(x, {"rule": "Margin"})
    with pytest.raises(ValueError, match="policy has 3 thresholds, but the model has 2 exits"):
        files.predict(x, Margin([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="fallback must be"):
        files.predict(x, {"rule": "Margin", "thresholds": 1, "fallback": "first"})
    with pytest.raises(ValueError, match="policy is a LearnedScore, but"):
        files.predict(x, {"rule": "LearnedScore", "thresholds": 0.5})
    for score in runner.SCORES.values():
        with pytest.raises(ValueError, match="needs logits of at least 2 classes, got 1"):
            score(0, np.zeros((2, 1)), None)


@pytest.mark.parametrize("thresholds", [float("nan"), [0.5, "nan"]])
def test_a_threshold_of_a_mapping_is_a_number(thresholds):
    files, x = stand_in(np.zeros((3, 4, 2), np.float32)), np.arange(4)[:, None]
    with pytest.raises(ValueError, match="thresholds must be finite, inf or -inf, got nan"):
        files.predict(x, {"rule": "Entropy", "thresholds": thresholds})
    never = files.predict(x, {"rule": "MaxSoftmax", "thresholds": float("inf")})
    assert never.samples_per_segment == (4, 4, 4)


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("kind", [MaxSoftmax, Entropy, Margin, Patience])
def test_samples_that_are_nan_go_where_the_model_sends_them(kind, fallback):
    logits = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    logits[:, 1], logits[0, 2] = np.nan, np.nan
    rule = kind(1, fallback=fallback)
    name = {"rule": kind.__name__, "thresholds": 1, "fallback": fallback}
    found = stand_in(logits).predict(np.arange(4)[:, None], name)
    assert found.exit_index.tolist() == rule.exit_index(torch.from_numpy(logits)).tolist()
