"""Registries: a file is all that a new member takes, and others are registered from outside."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

from laplex import cedar, early_exit
from laplex._support.registry import BASE
from laplex._support.settings_files import changed
from laplex.cedar.baselines import BASELINES, LinearDictionary
from laplex.cedar.basis import DenseBasis
from laplex.cedar.settings import Settings
from laplex.cedar.transforms import TRANSFORMS, Orthogonal
from laplex.early_exit import MultiExitModel, Outputs, evaluate_outputs, networks
from laplex.early_exit.evaluation.comparison import compare
from laplex.early_exit.evaluation.result import Evaluation
from laplex.early_exit.heads import HEADS
from laplex.early_exit.metrics import METRICS
from laplex.early_exit.metrics.base import Metric
from laplex.early_exit.policies import POLICIES, MaxSoftmax, Policy
from laplex.early_exit.runs.settings import RunSettings

BY_FILE = {
    "policies": (POLICIES, early_exit.policies),
    "heads": (HEADS, early_exit.heads),
    "transforms": (TRANSFORMS, cedar.transforms),
}


@pytest.fixture
def registered():
    """Register for the length of a test."""
    done = {}

    def register(registry, name, member):
        done[name] = registry
        return registry.register(name)(member)

    yield register
    for name, registry in done.items():
        registry.unregister(name)
        assert name not in registry


# --- the registry itself --------------------------------------------------------------------------


@pytest.mark.parametrize("folder", BY_FILE)
def test_each_file_registers_the_member_of_its_name(folder):
    registry, package = BY_FILE[folder]
    files = {one.name for one in pkgutil.iter_modules(package.__path__)} - {BASE}
    assert registry.names()[0] == registry.default
    for name in registry.built_in():
        module = registry[name].__module__.rpartition(".")[2]
        assert module == name.replace("-", "_")
        files.remove(module)
        assert getattr(package, registry[name].__name__) is registry[name]
    assert not files
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018


def test_names_are_known_without_torch():
    code = (
        "import sys\n"
        "from laplex.early_exit.policies import POLICIES\n"
        "from laplex.early_exit.runs.settings import RunSettings\n"
        "from laplex.cedar.settings import Settings\n"
        "assert 'margin' in POLICIES.names()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_file_is_a_new_member(tmp_path, monkeypatch):
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from laplex._support.registry import Registry\n"
        "SHELF = Registry('book', __name__, default='plain')\n"
    )
    for name, order in (("late", 2), ("early", 1), ("plain", 9)):
        (folder / f"{name}.py").write_text(
            f"from . import SHELF\n@SHELF.register('{name}', order={order})\nclass Book: pass\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    import shelf

    assert list(shelf.SHELF) == ["plain", "early", "late"]
    assert len(shelf.SHELF) == 3


def test_what_can_not_be_found_or_registered(registered):
    with pytest.raises(ValueError, match=r"policy must be one of 'max-softmax', .*: did you mean "):
        POLICIES.find("margins")
    with pytest.raises(ValueError, match="policy must be one of"):
        POLICIES.unregister("nothing")
    with pytest.raises(ValueError, match=r"policy 'margin' is already registered as laplex\.\S+: "):
        POLICIES.register("margin")(type("Other", (Policy,), {}))
    for _ in range(2):  # as a cell of a notebook that is run again
        mine = registered(POLICIES, "mine", type("Mine", (Policy,), {}))
    assert POLICIES["mine"] is mine


def test_defaults_of_settings_are_those_of_the_estimator():
    given = cedar.CEDAR().get_params(deep=False)
    assert all(given[one.name] == one.default for one in fields(Settings) if one.metadata)


# --- one of the user's own in each ----------------------------------------------------------------


def outputs(count=40, seed=0):
    logits = torch.randn(3, count, 4, generator=torch.Generator().manual_seed(seed))
    return Outputs(logits.numpy(), np.arange(count) % 4, ("a", "b", "output"))


COSTS = (0.4, 0.7, 1.0)


def test_a_policy(registered):
    class Sum(Policy):
        def score(self, k, logits, memory):
            return logits.double().logsumexp(-1), None

    with pytest.raises(ValueError, match=r"policy must be one of .* or a Policy, got 'sum'"):
        evaluate_outputs(outputs(), COSTS, policy="sum")
    registered(POLICIES, "sum", Sum)
    found = evaluate_outputs(outputs(), COSTS, policy="sum")
    same = evaluate_outputs(outputs(), COSTS, policy=Sum(0.0))
    assert found.policy == "sum"
    assert np.array_equal(found.curve.accuracy, same.curve.accuracy)
    assert not np.array_equal(found.auroc, evaluate_outputs(outputs(), COSTS).auroc)


def test_a_head(registered):
    class First(nn.Module):
        def __init__(self, in_features, num_classes):
            super().__init__()
            self.linear = nn.Linear(in_features, num_classes)

        def forward(self, activation):
            return self.linear(activation.flatten(1)[:, : self.linear.in_features])

    with pytest.raises(ValueError, match=r"settings: head must be one of pooled, .*, got"):
        changed(RunSettings(), {"head": "first"}, "settings")
    registered(HEADS, "first", First)
    assert changed(RunSettings(), {"head": "first"}, "settings").head == "first"
    model = MultiExitModel.attach(
        networks.small_mlp(4, 3, seed=0),
        ["layers.0"],
        num_classes=3,
        example=torch.zeros(2, 4),
        head="first",
    )
    assert isinstance(model.heads[0], First)
    assert model(torch.zeros(5, 4))[0].shape == (5, 3)


def test_a_metric(registered):
    before = evaluate_outputs(outputs(), COSTS)

    class Surest(Metric):
        """The largest confidence."""

        label = "surest"
        better = "higher"
        percent = True
        proxy = True

        @staticmethod
        def per_exit(judged):
            return judged.confidence.max(1)

    registered(METRICS, "surest", Surest)
    found = evaluate_outputs(outputs(), COSTS)
    assert np.array_equal(found.surest, found.others["surest"])
    assert found.mean_surest == pytest.approx(found.surest[:2].mean())
    headings = [one for one in found.table().splitlines() if one.startswith("exit ")]
    assert headings[-1].split()[-1] == "surest"
    values = found.to_dict()
    assert {**before.to_dict(), **values} == values
    assert set(values) - set(before.to_dict()) == {"surest", "mean_surest"}
    again = Evaluation.from_json(found.to_json())
    assert np.array_equal(again.surest, found.surest)
    assert "surest" not in Evaluation.from_dict(before.to_dict()).metrics
    comparison = compare({"one": [found, evaluate_outputs(outputs(seed=1), COSTS)], "two": before})
    assert "mean surest" in comparison.table()
    assert comparison.correlations().rows[-1].measure == "mean surest"


def test_a_baseline(registered):
    class Coordinates(LinearDictionary):
        """The columns themselves."""

        def __init__(self, *, max_rows=1000, random_state=None):
            self.max_rows, self.random_state = max_rows, random_state

        @property
        def name(self):
            return "coordinates"

        def _learn(self, found):
            self.atoms_ = self.readouts_ = np.eye(self.n_features_in_)

    rows = np.random.default_rng(0).standard_normal((60, 4))
    with pytest.raises(ValueError, match=r"baseline must be one of 'random-rotation', 'pca', .*"):
        cedar.compare(rows, 2, baselines=["coordinates"])
    registered(BASELINES, "coordinates", Coordinates)
    model = cedar.CEDAR(max_iter=2)
    found = cedar.compare(rows, 2, baselines=["coordinates", "pca"], cedar=model, nulls=False)
    assert {row.method for row in found.rows} == {
        "coordinates",
        "PCA, leading k",
        "PCA, per-row top k",
        "CEDAR",
    }
    assert "coordinates" in {one.name for one in cedar.baselines.all_baselines()}


def test_a_transform(registered):
    class Doubled(Orthogonal):
        """A rotation whose coordinates are twice as large."""

        alternates = False

        def finished(self):
            readouts = super().finished().readouts
            return DenseBasis(2 * readouts, readouts / 2)

    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    options = {"k": 2, "max_iter": 3, "random_state": 0, "solver": "adam"}
    with pytest.raises(
        ValueError, match=r"basis must be 'orthogonal', 'frame', 'invertible' or 'laplex'"
    ):
        cedar.CEDAR(basis="doubled", **options).fit(rows)
    registered(TRANSFORMS, "doubled", Doubled)
    plain = cedar.CEDAR(**options).fit(rows)
    doubled = cedar.CEDAR(basis="doubled", **options).fit(rows)
    assert np.allclose(doubled.components_, 2 * plain.components_, atol=1e-6)
    with pytest.raises(ValueError, match="solver='procrustes' finds rotations"):
        cedar.CEDAR(basis="doubled", **{**options, "solver": "procrustes"}).fit(rows)


def test_a_policy_of_the_users_called_as_ours_is_not_ours(registered):
    class MaxSoftmaxOfMine(MaxSoftmax):
        pass

    MaxSoftmaxOfMine.__name__ = "MaxSoftmax"
    registered(POLICIES, "max-softmax-of-mine", MaxSoftmaxOfMine)
    assert MaxSoftmaxOfMine not in POLICIES.built_in().values()
    assert early_exit.policies.MaxSoftmax is MaxSoftmax


@pytest.mark.parametrize("name", [None, 5, "", lambda: None])
def test_a_name_is_a_text(name):
    with pytest.raises(TypeError, match="must be registered by a name"):
        early_exit.policies.POLICIES.register(name)
