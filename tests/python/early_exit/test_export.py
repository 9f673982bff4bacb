"""Exported segments: the same logits, exits and savings as the model they were cut from."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exits_cases import MODELS, images
from laplex.early_exit.costs import Costs, count_costs
from laplex.early_exit.deployment import ExportedModel, export, runner, writing
from laplex.early_exit.deployment.portable import portable
from laplex.early_exit.metrics.score_heads import ScoreHeads
from laplex.early_exit.metrics.temperature import TemperatureScaling
from laplex.early_exit.model import MultiExitModel
from laplex.early_exit.policies import Entropy, LearnedScore, Margin, MaxSoftmax, Patience, Policy
from laplex.nn import LaplexHead, LaplexLinear

pytestmark = pytest.mark.usefixtures("seeded")

FORMATS = ("onnx", "torch")
#: Two float32 evaluations of some hundred thousand terms, in units of the largest logit and 1.
CLOSE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def one_table_of_operators():
    """Torch's exporter makes its table of ONNX operators anew for each file, for half a second."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):  # another version of torch: slower, not otherwise
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            made_once = functools.cache(ONNXRegistry.from_torchlib)
            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(made_once))
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports of `MODELS`, each made once."""
    made = {}

    def get(name, form):
        if (name, form) not in made:
            folder = tmp_path_factory.mktemp("exports") / f"{name}-{form}"
            model = MODELS[name]()
            assert export(model, images(3), folder, format=form, policy=MaxSoftmax(0.5)) == folder
            made[name, form] = (
                model,
                ExportedModel.load(folder, threads=1 if form == "onnx" else None),
            )
        return made[name, form]

    return get


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_exits_and_work_are_the_models(name, form, exported):
    model, files = exported(name, form)
    assert files.exit_names == (*model.exit_names, "output")
    for batch in (1, 7, 64):
        x = images(batch, seed=batch)
        with torch.no_grad():
            logits = torch.stack(model(x))
        found = files.logits(x.numpy())
        difference = np.abs(found - logits.numpy()).max()
        assert found.dtype == np.float32
        assert difference <= CLOSE * (1 + float(logits.abs().max()))
        for threshold in (0.0, _gap(logits, difference), 2.0):  # all leave, some, none
            rule = MaxSoftmax(threshold)
            expected, got = model.predict(x, rule), files.predict(x.numpy(), rule)
            assert got.exit_index.tolist() == expected.exit_index.tolist()
            assert got.samples_per_segment == expected.samples_per_segment
            assert np.array_equal(got.labels, expected.labels.numpy())
            chosen = expected.logits.numpy()
            assert np.abs(got.logits - chosen).max() <= CLOSE * (1 + np.abs(chosen).max())
    assert sum(0 < count < 64 for count in got.samples_per_segment) == 0  # none left before the end
    some = files.predict(x.numpy(), MaxSoftmax(_gap(logits, difference)))
    assert 0 < some.samples_per_segment[1] < 64


def _gap(logits, difference):
    """A threshold that scores of the first exit are far from, with samples on both sides.

    The largest probability moves by no more than the largest change of a logit.
    """
    scores = MaxSoftmax(0.5).scores(logits)
    first = np.sort(scores[0].numpy())
    if len(first) == 1:
        return float(first[0]) - 0.01
    places = np.argsort(-np.diff(first))
    everywhere = scores[:-1].numpy()
    for place in places:
        middle = (first[place] + first[place + 1]) / 2
        if np.abs(everywhere - middle).min() > 2 * difference:
            return float(middle)
    raise AssertionError("scores are closer to one another than the rounding of logits")


def test_onnx_files_are_valid_and_dynamic(exported):
    import onnx

    _, files = exported("msdnet", "onnx")
    folder = files.folder
    for one in files.manifest["segments"]:
        graph = onnx.load(folder / one["file"])
        onnx.checker.check_model(graph, full_check=True)
        assert [value.name for value in graph.graph.input] == [
            each["name"] for each in one["inputs"]
        ]
        for value in (*graph.graph.input, *graph.graph.output):
            score = value.name == "output_1"  # in double, as the policies have it
            kind = onnx.TensorProto.DOUBLE if score else onnx.TensorProto.FLOAT
            assert value.type.tensor_type.elem_type == kind
            assert value.type.tensor_type.shape.dim[0].dim_param
        for weights in graph.graph.initializer:
            assert weights.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)


def test_what_nothing_needs_is_not_passed_on(exported):
    """The last block of this MSDNet reads two of the three scales."""
    _, files = exported("msdnet", "torch")
    inputs = [len(one["inputs"]) for one in files.manifest["segments"]]
    assert inputs == [1, 3, 3, 2]


@pytest.mark.parametrize("form", FORMATS)
def test_the_manifest_says_all(form, exported):
    model, files = exported("mlp", form)
    manifest = files.manifest
    assert manifest["num_exits"] == files.num_exits == 3
    assert [one["exit"] for one in manifest["segments"]] == ["layers.0", "layers.1", "output"]
    assert manifest["policy"] == {
        "rule": "MaxSoftmax",
        "thresholds": 0.5,
        "strict": False,
        "fallback": "last",
    }
    assert manifest["segments"][0]["inputs"] == [
        {"name": "input_0", "dtype": "float32", "shape": ["batch", 1, 28, 28]}
    ]
    assert manifest["versions"]["torch"] == torch.__version__
    assert ("onnxruntime" in manifest["versions"]) == (form == "onnx")
    assert 0 <= manifest["largest_difference"] < CLOSE * 10
    # LaplexHead becomes the dense layer that it is, in ONNX alone; costs are those of the files.
    dense = form == "onnx"
    assert manifest["dense_layers"] == (["heads.0.head", "heads.1.head"] if dense else [])
    assert manifest["imports"] == ([] if dense else ["laplex.nn"])
    costs = Costs.from_dict(manifest["costs"])
    assert costs.convention == "multiply-adds"
    if dense:
        assert costs.heads.tolist() == [32 * 10, 32 * 10]
    else:
        assert costs.to_dict() == count_costs(model, images(2)).to_dict()
    assert "layers.0, layers.1, output" in repr(files)


def test_the_folder_runs_without_laplex_and_torch(exported):
    model, files = exported("resnet", "onnx")
    x = images(5)
    code = (
        "import sys, numpy as np\n"
        "from runner import ExportedModel\n"
        f"x = np.array({x.numpy().tolist()}, dtype=np.float32)\n"
        "found = ExportedModel.load('.').predict(x, {'rule': 'Patience', 'thresholds': [1, 1]})\n"
        "assert not {'laplex', 'torch'} & set(sys.modules)\n"
        "print(found.exit_index.tolist(), found.labels.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=files.folder,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = model.predict(x, Patience([1, 1]))
    assert done.stdout.strip() == f"{expected.exit_index.tolist()} {expected.labels.tolist()}"


# --- models that are hard to cut -----------------------------------------------------------------


class InPlace(nn.Module):
    """What follows an exit overwrites it; a list whose one entry passes unchanged."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), Pair()
        self.norm, self.last = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        count = x.shape[0]
        x.relu_()
        pair = self.second([x.view(count, 2, 3).reshape(count, -1), x])
        pair[1].tanh_()
        return self.last(self.norm(pair[0] + pair[1]))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, pair):
        return [pair[0], self.linear(pair[1])]


class Sequences(nn.Module):
    """Whole numbers in a dict, and layers that PyTorch fuses."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.recur = nn.LSTM(8, 8, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=9, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(self.recur(self.embed(x["ids"]))[0]).mean(1))


def in_place():
    heads = {"first": nn.Linear(6, 3), "second": Last(6)}
    return MultiExitModel(InPlace(), heads), torch.randn(9, 5)


class Last(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, pair):
        return self.linear(pair[1] - pair[0])


def sequences():
    head = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    return MultiExitModel(Sequences(), {"embed": head}), {
        "ids": torch.randint(11, (9, 6)),
        "n": None,
    }


@pytest.mark.parametrize(
    ("make", "form"), [(in_place, "onnx"), (in_place, "torch"), (sequences, "onnx")]
)
def test_models_that_are_hard_to_cut(make, form, tmp_path):
    torch.manual_seed(0)
    model, x = make()
    model.train()
    modes = [module.training for module in model.modules()]
    files = ExportedModel.load(export(model, x, tmp_path / "files", format=form))
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        expected = torch.stack(model.eval()(x)).numpy()
    assert np.abs(files.logits(x) - expected).max() <= CLOSE * (1 + np.abs(expected).max())
    alone = {"ids": x["ids"][:1], "n": None} if isinstance(x, dict) else x[:1]
    assert np.abs(files.logits(alone) - expected[:, :1]).max() <= CLOSE * (
        1 + np.abs(expected).max()
    )


def test_what_writes_in_place_stays_behind_its_exit(tmp_path):
    """Though it changes the tensor that the exit before it put out."""
    model, x = in_place()
    folder = export(model, x, tmp_path / "files", format="torch")
    parts = [torch.export.load(folder / f"segment{k}.pt2").graph for k in range(3)]
    work = [[str(node.target) for node in part.nodes] for part in parts]
    assert [sum("relu" in name for name in part) for part in work] == [0, 1, 0]
    assert [sum("tanh" in name for name in part) for part in work] == [0, 0, 1]


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.second(x))


class Counts(Skip):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(self.first(x))


class FixesTheBatch(Skip):
    def forward(self, x):
        return self.last(self.first(x).reshape(len(x), -1))


class Branches(Skip):
    def forward(self, x):
        x = self.first(x)
        return self.last(x if bool((x > 0).any()) else -x)


class Transposes(Skip):
    def forward(self, x):
        return self.last(self.first(x.T).T)


class Unused(Skip):
    def forward(self, x):
        self.first(x)
        return self.last.bias.expand(x.shape[0], -1)


REFUSED = {
    "skip": (Skip, "second", "data of the batch bypass exit 'second'"),
    "state": (Counts, "first", "changes 'model.backbone.calls' in evaluation mode"),
    "batch": (FixesTheBatch, "first", r"fixes the batch size .* write x.shape\[0\]"),
    "branch": (Branches, "first", "the model cannot be traced by torch.export: Could not guard"),
    "unused": (Unused, "first", "nothing after exit 'first' uses the output of its module"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_can_not_be_cut(case, tmp_path):
    kind, name, message = REFUSED[case]
    model = MultiExitModel(kind(), {name: nn.Linear(5, 3)})
    with pytest.raises(ValueError, match=message):
        export(model, torch.randn(4, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


def test_activations_need_the_batch_in_front(tmp_path):
    model = MultiExitModel(Transposes(), {"first": nn.Linear(5, 3)})
    model.backbone.first = nn.Linear(4, 4)
    model.heads[0] = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="exit 'first' has 5 rows for 4 samples"):
        export(model, torch.randn(4, 5), tmp_path / "files", format="torch")


# --- precision, learned scores -------------------------------------------------------------------


def small(exits=2):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    names = ("1", "3")[:exits]
    return MultiExitModel(layers, {name: nn.Linear(6, 3) for name in names}).eval()


def test_double_precision_stays_where_files_have_it(tmp_path):
    model, x = small(1).double(), torch.randn(8, 5, dtype=torch.float64)
    files = ExportedModel.load(export(model, x, tmp_path / "files", format="torch"))
    found, expected = files.logits(x.numpy()), torch.stack(model(x)).detach().numpy()
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= 1e-13 * (1 + np.abs(expected).max())
    single, y, _, _ = portable(model, x, None, "onnx")
    assert {tensor.dtype for tensor in (*single.state_dict().values(), y)} == {torch.float32}


def test_half_precision_becomes_float32(tmp_path):
    model, x = small().bfloat16(), torch.randn(8, 5).bfloat16()
    files = ExportedModel.load(export(model, x, tmp_path / "files", format="torch"))
    expected = torch.stack(model.float()(x.float())).detach().numpy()  # exactly the same weights
    assert np.abs(files.logits(x.float().numpy()) - expected).max() <= CLOSE


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
    files = ExportedModel.load(export(model, x, tmp_path / "files", format=form, policy=rule))
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
    files = ExportedModel.load(export(model, x, tmp_path / "files", format=form, policy=policy))
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


def test_folders_of_the_first_format_are_read(tmp_path):
    """Their rules are those of the runner, unless a learned score was part of the files."""
    model, x = small(), 3 * torch.randn(60, 5)
    with torch.no_grad():
        logits = torch.stack(model(x))
    policy = Entropy(0.5).with_cuts(middles(Entropy(0.5), logits))
    learned = LIVE["ScoreHeads"]()
    learned = learned.with_cuts(middles(learned, logits))
    for one, scored in ((policy, False), (learned, True)):
        folder = tmp_path / str(scored)
        export(model, x, folder, format="torch", policy=one if scored else None)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        del manifest["scored"]
        manifest.update(format=1, learned_score=scored, policy=writing.described(one, 3))
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        found = ExportedModel.load(folder).predict(x.numpy())
        assert found.exit_index.tolist() == model.predict(x, one).exit_index.tolist()


def test_every_laplace_kernel_becomes_dense():
    """Also one in the backbone, and one that stands in two places."""
    torch.manual_seed(0)
    twice = LaplexLinear(5, 5, heads=2)
    backbone = nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(5, 3))
    model, x = MultiExitModel(backbone, {"1": LaplexHead(5, 3, bias=False)}), torch.randn(4, 5)
    dense, _, _, names = portable(model, x, None, "onnx")
    assert names == ["backbone.0", "backbone.2", "heads.0"]
    assert not [one for one in dense.modules() if isinstance(one, (LaplexHead, LaplexLinear))]
    with torch.no_grad():
        pairs = list(zip(model(x), dense(x), strict=True))
    for expected, found in pairs:
        assert float((expected - found).abs().max()) <= CLOSE * (1 + float(expected.abs().max()))


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
    classes = draw(st.integers(1, 4))
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


def stand_in(logits):
    """An exported model whose segments look their logits up by a sample's number."""
    inputs = [{"name": "input_0", "dtype": "int64", "shape": ["batch", 1]}]
    manifest = {
        "segments": [{"exit": str(k), "inputs": inputs} for k in range(len(logits))],
        "policy": None,
        "learned_score": False,
        "input_places": [""],
        "file_format": "none",
    }

    def segment(k):
        return lambda arrays: [logits[k][arrays[0][:, 0]], arrays[0]]

    return ExportedModel(manifest, [segment(k) for k in range(len(logits))])


def test_a_policy_survives_the_manifest(tmp_path):
    model, x, folder = small(), torch.randn(2, 5), tmp_path / "files"
    endless = MaxSoftmax(0.5).with_cuts([float("inf"), float("-inf")])
    written = ExportedModel.load(export(model, x, folder, format="torch", policy=endless)).policy
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


def test_inputs_that_do_not_fit():
    files = stand_in(np.zeros((2, 4, 2), np.float32))
    rule = {"rule": "Margin", "thresholds": 0}
    with pytest.raises(ValueError, match=r"x must be \[batch, 1\], got shape \[4\]"):
        files.predict(np.arange(4), rule)
    with pytest.raises(ValueError, match=r"x has \[0\], \[1\], but the model takes one array"):
        files.predict([np.zeros((4, 1)), np.zeros((4, 1))], rule)
    with pytest.raises(ValueError, match="at least one sample"):
        files.predict(np.zeros((0, 1)), rule)


def test_inputs_go_by_their_names(tmp_path):
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rest = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.rest(self.first(x["p"] - 2 * x["q"]))

    model = MultiExitModel(Around(), {"first": torch.nn.Linear(4, 3)}).eval()
    p, q = torch.randn(2, 5, 4)
    export(model, {"p": p, "q": q}, tmp_path / "files", format="torch")
    files = ExportedModel.load(tmp_path / "files")
    wanted = torch.stack(model({"p": p, "q": q})).detach().numpy()
    assert np.allclose(files.logits({"q": q.numpy(), "p": p.numpy()}), wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"x has \['z'\], \['y'\], but the model takes \['p'\], "):
        files.logits({"z": q.numpy(), "y": p.numpy()})


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_is_complete_or_not_there(tmp_path, monkeypatch):
    model, x, folder = small(), torch.randn(2, 5), tmp_path / "deep" / "files"
    write = writing._WRITERS["torch"]

    def fails_at_the_last(segment, path):
        if segment.exit == "output":
            raise OSError("no space left")
        write(segment, path)

    with monkeypatch.context() as patch:
        patch.setitem(writing._WRITERS, "torch", fails_at_the_last)
        with pytest.raises(OSError, match="no space left"):
            export(model, x, folder, format="torch")
        assert not list(folder.parent.iterdir())
    folder.mkdir()  # an empty one is no obstacle
    export(model, x, folder, format="torch")
    names = ["manifest.json", "runner.py", "segment0.pt2", "segment1.pt2", "segment2.pt2"]
    assert sorted(file.name for file in folder.iterdir()) == names
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        export(model, x, folder, format="torch")
    with monkeypatch.context() as patch:
        patch.setitem(writing._WRITERS, "torch", fails_at_the_last)
        with pytest.raises(OSError, match="no space left"):
            export(model, x, folder, format="torch", overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    export(model, x, folder, format="torch", policy=Patience(1), overwrite=True)
    assert ExportedModel.load(folder).policy["rule"] == "Patience"
    assert [file.name for file in folder.parent.iterdir()] == ["files"]
    (folder / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match="holds files that are not an exported model"):
        export(model, x, folder, format="torch", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        export(model, x, folder / "runner.py", format="torch")


def test_files_that_disagree_with_the_model_are_not_left(tmp_path, monkeypatch):
    write = writing._WRITERS["torch"]

    def moves_a_weight(segment, path):
        weights = segment.program.state_dict
        name = next(iter(weights))
        weights[name] = nn.Parameter(weights[name] + 0.01, requires_grad=False)
        write(segment, path)

    monkeypatch.setitem(writing._WRITERS, "torch", moves_a_weight)
    with pytest.raises(RuntimeError, match="differ by"):
        export(small(), torch.randn(2, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


def test_exporting_leaves_the_model_alone(tmp_path):
    model = small().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, torch.randn(2, 5), tmp_path / "files", format="torch")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_the_example_is_not_in_the_files(tmp_path):
    """Nor is what was computed from it: it is the caller's data."""
    model, x = small(), torch.full((4, 5), 1234.5)
    folder = export(model, x, tmp_path / "files", format="torch")
    for file in folder.iterdir():
        assert x[0].numpy().tobytes() not in file.read_bytes()


def test_export_says_what_it_needs(tmp_path):
    model, x, folder = small(), torch.randn(2, 5), tmp_path / "files"
    with pytest.raises(TypeError, match="model must be a MultiExitModel"):
        export(model.backbone, x, folder)
    with pytest.raises(ValueError, match="format must be one of"):
        export(model, x, folder, format="tflite")
    with pytest.raises(ValueError, match="example has fewer than 2 samples"):
        export(model, x[:1], folder)
    with pytest.raises(TypeError, match="policy must be a Policy"):
        export(model, x, folder, policy=0.5)
    with pytest.raises(ValueError, match="threshold has 1 entry"):
        export(model, x, folder, policy=MaxSoftmax([0.5]))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_its_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}: pip install "laplex\[onnx\]"'):
        export(small(), torch.randn(2, 5), tmp_path / "files")
    assert not list(tmp_path.iterdir())


def test_loading_says_what_is_wrong(tmp_path, exported, monkeypatch):
    _, files = exported("resnet", "onnx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ImportError, match=r'onnxruntime: pip install "laplex\[onnx\]"'):
            ExportedModel.load(files.folder)
    with pytest.raises(FileNotFoundError, match=r"there is no manifest\.json"):
        ExportedModel.load(tmp_path)
    folder = export(small(), torch.randn(2, 5), tmp_path / "files", format="torch")
    with pytest.raises(ValueError, match="threads is for ONNX files"):
        ExportedModel.load(folder, threads=1)
    (folder / "segment1.pt2").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no segment1\.pt2"):
        ExportedModel.load(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "format": 99}), encoding="utf-8")
    with pytest.raises(
        ValueError, match="was exported in format 99, but this runner reads formats 1 and 2"
    ):
        ExportedModel.load(folder)
    for text in ("{", "[]", "{}", '{"kind": "other", "format": 1}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="does not describe an exported model"):
            ExportedModel.load(folder)
