"""``laplex exits``: what it writes agrees with the library; what goes wrong is one sentence."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import command_cases
from command_cases import command, without
from laplex._support.settings_files import changed, to_yaml
from laplex.cli.exits import app
from laplex.early_exit.costs import count_costs
from laplex.early_exit.deployment import ExportedModel
from laplex.early_exit.evaluation.comparison import Comparison
from laplex.early_exit.evaluation.evaluator import evaluate
from laplex.early_exit.evaluation.outputs import collect
from laplex.early_exit.policies import Patience, Policy
from laplex.early_exit.runs.backbones import build_model
from laplex.early_exit.runs.datasets import Splits, load_splits
from laplex.early_exit.runs.results import ExitRule, RunAnalysis, RunEvaluation
from laplex.early_exit.runs.run import Run
from laplex.early_exit.runs.settings import KEYS, RunSettings, read_settings
from laplex.early_exit.training import lightning_phase
from laplex.early_exit.training.exit_stopping import ExitStopping
from laplex.early_exit.training.objectives import Distillation
from laplex.early_exit.training.strategies import Phase
from laplex.early_exit.training.trainer import train

run = functools.partial(command_cases.run, app)
fails = functools.partial(command_cases.fails, app)

SMALL = ("--images", 200, "--backbone", "small_mlp", "--epochs", 2, "--quiet")


def decided(policy: Policy, logits: object) -> torch.Tensor:
    """The samples whose way out no rounding decides.

    Logits at another batch size, in single precision, are off by some 1e-6, scores by no more. A
    threshold that was fitted lies at the score of a sample, which may fall on either side.
    """
    scores = policy.scores(logits)[:-1]
    distance = (scores - policy.cuts(len(scores) + 1)[:, None]).abs()
    two = torch.as_tensor(np.asarray(logits)).topk(2, -1).values
    clear = two[..., 0] - two[..., 1] > 1e-4
    if not isinstance(policy, Patience):  # whose scores are whole numbers
        clear = torch.cat((clear[:-1] & (distance > 1e-5), clear[-1:]))
    return clear.all(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs that differ in their strategy."""
    path = tmp_path_factory.mktemp("exits")
    for strategy in ("mixed", "joint"):
        run("train", "--out", path / strategy, *SMALL, "--strategy", strategy)
    return path


# --- data -----------------------------------------------------------------------------------------


def load(data: str, **settings: object) -> Splits:
    return load_splits(RunSettings(data=data, **settings))


def held(splits: Splits, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs and the labels of a split."""
    x, labels = zip(*splits.parts[split], strict=True)
    return torch.stack(x), torch.tensor(labels)


def test_splits_are_fixed_and_have_nothing_in_common():
    splits, again = load("digits"), load("digits")
    assert splits.samples() == {"train": 1078, "validation": 269, "test": 450}
    rows = {
        split: {one.numpy().tobytes() for one in held(splits, split)[0]} for split in splits.parts
    }
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    for split in splits.parts:
        for one, other in zip(held(splits, split), held(again, split), strict=True):
            assert torch.equal(one, other)
    # Single precision: a mean of 69,000 numbers of size 1 is off by less than 69,000 eps.
    images, _ = held(splits, "train")
    assert abs(float(images.mean())) < 1e-3
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    assert splits.example().shape == (2, 1, 8, 8)
    few = load("digits", images=20, validation=0.25)
    assert few.samples() == {"train": 15, "validation": 5, "test": 450}
    assert torch.equal(held(few, "test")[1], held(splits, "test")[1])


def test_no_last_batch_of_one_in_training():
    splits = load("digits", images=21, validation=0.2)  # 17 to train on
    assert [len(labels) for _, labels in splits.loader("train", 4, shuffle=True)] == [4, 4, 4, 4]
    assert [len(labels) for _, labels in splits.loader("train", 4)] == [4, 4, 4, 4, 1]
    assert [len(labels) for _, labels in splits.loader("train", 5, shuffle=True)] == [5, 5, 5, 2]


# --- settings -------------------------------------------------------------------------------------


def test_settings_are_written_with_every_key_and_read_back(tmp_path):
    settings = RunSettings(
        exits=("0", "layers.1"),
        strategy=(
            {"train": "backbone", "epochs": 2},
            {"train": "heads", "epochs": 1, "learning_rate": 1e-5},
        ),
        weights=(1.0, 0.5, 2.0),
        distillation={"weight": 0.25},
        backbone_options={"widths": [8, 8], "name": "a: b # c"},
        learning_rate=1e-7,
        images=50,
    )
    for one in (settings, RunSettings()):
        path = tmp_path / "c.yaml"
        path.write_text(to_yaml(one, "a"), encoding="utf-8")
        assert read_settings(path) == one
        assert tuple(yaml.safe_load(path.read_text())) == KEYS
    for line in to_yaml(settings, "a").splitlines():
        assert line == "" or line.startswith("#") or line.partition(":")[0] in KEYS
    assert all(one.metadata["about"] for one in fields(RunSettings))


def test_every_key_refuses_what_it_is_not():
    unfit = {
        "data": 3,
        "data_options": [1],
        "images": 5,
        "validation": 2,
        "columns": [],
        "label_column": 1,
        "image_size": 0,
        "image_channels": 4,
        "tokenizer": "",
        "max_length": 0.5,
        "workers": -1,
        "backbone": "",
        "backbone_options": [1],
        "exits": [],
        "head": "none",
        "strategy": [{"trains": "all"}],
        "epochs": 0,
        "batch_size": 1,
        "learning_rate": "fast",
        "weight_decay": -1,
        "scheduler": "linear",
        "weights": [1, -1],
        "gradient_equilibrium": "yes",
        "detach": 1,
        "distillation": {"warmth": 2},
        "label_smoothing": 2,
        "patience": 0,
        "precision": 16,
        "accelerator": None,
        "seed": -1,
    }
    assert set(unfit) == set(KEYS)
    for key, value in unfit.items():
        with pytest.raises(ValueError, match=rf"^here: {key} must be .*, got "):
            changed(RunSettings(), {key: value}, "here")
    for text in ("1e-3", 1e-3):  # which YAML 1.1 takes for a text
        assert changed(RunSettings(), {"learning_rate": text}, "here").learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "c.yaml: there is no key 'epoch': did you mean epochs?"),
        ("xyzzy: 3", "there is no key 'xyzzy': the keys are data, data_options,"),
        ("epochs: many", "c.yaml: epochs must be a whole number of at least 1, got 'many'"),
        ("seed: 2147483648", "seed must be a whole number from 0 to 2147483647"),
        ("exits: [layers.7]", "exit 'layers.7' is not a module of the backbone: it has"),
        ("backbone: small_mpl", "'small_mpl' is not one of small_mlp, small_msdnet"),
        ("backbone: nothing.at.all:make", "No module named 'nothing'"),
        ("backbone: math:pie", "has no attribute 'pie'"),
        ("backbone: platform:machine\nexits: [a]", "returned a str: the function must return a"),
        ("backbone: random:random\nexits: [a]", "returned a float: the function must return a"),
        ("backbone: my:own:one", "is not one of small_mlp, small_msdnet"),
        ("backbone_options: {width: 3}", "small_mlp takes in_features, num_classes, widths, seed"),
        ("backbone: small_vit\nhead: conv", "head='conv' needs activations"),
        ("strategy: [{train: all, epochs: 1}]\nepochs: 2", "each Phase has its own"),
        ("strategy: [{train: most, epochs: 1}]", "Phase.train must be one of"),
        ("strategy: mixed\nepochs: 1", "epochs must be at least 2"),
        ("weights: [1, 1]", "weights has 2 entries, but there are 3 exits"),
        ("detach: true\ngradient_equilibrium: true", "gradient_equilibrium exclude each other"),
        ("images: 10\nvalidation: 0.9", "leave only 1 to train on"),
        ("image_channels: 2", "image_channels must be 1 (grey) or 3 (colour), got 2"),
        ("- a", "must hold keys with values"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_settings_that_are_wrong_are_told_and_leave_nothing(text, message, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(text if "backbone" in text else f"{text}\nbackbone: small_mlp\n")
    if text in ("- a", "a: ["):
        config.write_text(text)
    if text.startswith("backbone_options"):
        config.write_text(f"{text}\nbackbone: small_mlp\n")
    assert message in fails("train", config, "--out", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == [config]


def test_options_come_before_the_file(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "backbone: small_mlp\nimages: 100\nseed: 3\nexits: layers.0\n"
        "strategy: [{train: all, epochs: 1}, {train: heads, epochs: 1}]\nhead: linear\n"
    )
    run("train", config, "--out", tmp_path / "r", "--seed", 5, "--head", "mlp", "--batch-size", 50)
    found = Run.open(tmp_path / "r")
    assert (found.settings.seed, found.settings.head, found.settings.images) == (5, "mlp", 100)
    assert found.settings.exits == ("layers.0",)
    assert found.strategy == "all 1 + heads 1"
    assert [phase.train for phase in found.training.phases] == ["all", "heads"]
    assert found.model.num_exits == 2


# --- train ----------------------------------------------------------------------------------------


def test_train_is_the_library_s(folder):
    found = Run.open(folder / "mixed")
    splits = load("digits", images=200)
    model = build_model(splits, RunSettings(backbone="small_mlp"))
    result = train(
        model,
        splits.loader("train", 64, shuffle=True),
        splits.loader("validation", 64),
        strategy="mixed",
        epochs=2,
        learning_rate=0.003,
        seed=0,
    )
    mine = found.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(mine[name], value), name
    assert found.training.to_dict() == result.to_dict()
    assert not found.model.training
    assert found.settings.exits == ("layers.0", "layers.1")
    assert found.settings.epochs == 2
    assert found.history["samples"] == {"train": 160, "validation": 40, "test": 450}
    assert {one.name for one in (folder / "mixed").iterdir()} >= {
        "config.yaml",
        "history.json",
        "weights.pt",
        "checkpoints",
    }


def test_every_setting_reaches_the_training(tmp_path, monkeypatch):
    given = {}

    def taken(model, train_loader, val_loader, **arguments):
        given.update(arguments, batch=train_loader.batch_size, exits=model.num_exits)
        raise OSError("enough")

    monkeypatch.setattr("laplex.early_exit.runs.run.train", taken)
    config = tmp_path / "c.yaml"
    config.write_text(
        "backbone: small_mlp\nimages: 50\nstrategy: [{train: all, epochs: 3, learning_rate: 2}]\n"
        "batch_size: 9\nlearning_rate: 0.1\nweight_decay: 0.2\nscheduler: none\nseed: 4\n"
        "weights: [1, 2, 3]\ngradient_equilibrium: true\ndistillation: {weight: 0.3}\n"
        "label_smoothing: 0.4\npatience: 6\nprecision: bf16-mixed\naccelerator: cpu\n"
    )
    assert "enough" in fails("train", config, "--out", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert given == {
        "strategy": (Phase("all", 3, 2.0),),
        "epochs": None,
        "weights": (1.0, 2.0, 3.0),
        "gradient_equilibrium": True,
        "detach": False,
        "distillation": Distillation(weight=0.3),
        "label_smoothing": 0.4,
        "learning_rate": 0.1,
        "weight_decay": 0.2,
        "scheduler": None,
        "early_stopping": ExitStopping(6),
        "seed": 4,
        "checkpoint_dir": tmp_path / "r" / "checkpoints",
        "resume": False,
        "precision": "bf16-mixed",
        "trainer_options": {"accelerator": "cpu", "devices": 1},
        "progress": False,
        "batch": 9,
        "exits": 3,
    }


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(tmp_path, monkeypatch, folder):
    out = tmp_path / "r"
    keep = lightning_phase.PhaseModule.on_train_epoch_end
    done = []

    def interrupted(self):
        keep(self)
        done.append(self.index)
        raise OSError("power cut")

    monkeypatch.setattr(lightning_phase.PhaseModule, "on_train_epoch_end", interrupted)
    assert "power cut" in fails("train", "--out", out, *SMALL)
    assert done == [0]
    monkeypatch.undo()
    for name in ("evaluate", "analyze"):
        assert (
            f"is not finished: continue it with `laplex exits train --out {out} --resume`"
            in fails(name, out)
        )
    assert "already holds a run: pass --resume" in fails("train", "--out", out, *SMALL)
    assert "was started with epochs: 2, not 7" in fails(
        "train", "--out", out, "--resume", "--epochs", 7
    )
    text, _ = run("train", "--out", out, "--resume", "--epochs", 2, "--quiet")
    assert "Validation accuracy by exit: layers.0" in text
    mine, whole = Run.open(out), Run.open(folder / "mixed")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(mine.model.state_dict()[name], value), name
    assert mine.training.to_dict() == whole.training.to_dict()
    before = (out / "weights.pt").read_bytes()
    assert run("train", "--out", out, "--resume")[0] == f"The run in {out} is already finished.\n"
    assert (out / "weights.pt").read_bytes() == before


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch):
    keep = lightning_phase.PhaseModule.on_train_epoch_end
    for at, message in ((1, "--resume`"), (0, "there is no checkpoint yet; start the run again")):
        out = tmp_path / str(at)

        def stopped(self, at=at):
            if at:
                keep(self)
            raise KeyboardInterrupt

        monkeypatch.setattr(lightning_phase.PhaseModule, "on_train_epoch_end", stopped)
        result = CliRunner().invoke(app, ["train", "--out", str(out), *map(str, SMALL)])
        assert result.exit_code != 0
        assert "stopped:" in result.stderr
        assert message in " ".join(result.stderr.split())
        assert out.exists() == bool(at)


def test_train_failures(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    small = ["--backbone", "small_mlp"]
    assert "is a file: pass a folder" in fails("train", "--out", tmp_path / "file", *small)
    assert "--out /proc/m cannot be written to" in fails("train", "--out", "/proc/m", *small)
    assert "no run was started" in fails("train", "--out", tmp_path / "r", "--resume")
    assert "there is no file" in fails("train", tmp_path / "none.yaml", "--out", tmp_path / "r")
    message = fails("train", "--data", tmp_path / "nothing", "--out", tmp_path / "r")
    assert "nothing: pass digits, fashion-mnist, an existing folder or file of images" in message
    message = fails("train", "--learning-rate", 1e30, "--out", tmp_path / "r", *SMALL)
    assert "try a smaller learning_rate" in message
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_backbone_of_one_s_own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_features, hidden=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, hidden), nn.ReLU(),\n"
        "                         nn.Linear(hidden, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    own = ["--backbone", "own_networks:make", "--exits", "2", "--images", 50, "--epochs", 2]
    (tmp_path / "c.yaml").write_text("backbone_options: {hidden: 6}\n")
    run("train", "c.yaml", "--out", "r", *own, "--quiet")
    model = Run.open(tmp_path / "r", trusted=True).model
    assert isinstance(model.backbone, nn.Sequential)
    assert model.backbone[1].out_features == 6
    assert model.exit_names == ("2",)
    assert str(tmp_path) not in sys.path
    assert "'own_networks' has no attribute 'male'" in fails(
        "train", "--out", "s", "--backbone", "own_networks:male", "--exits", "2"
    )
    (tmp_path / "c.yaml").write_text("backbone_options: {hiden: 6}\n")
    assert "did you mean hidden?" in fails("train", "c.yaml", "--out", "s", *own)


def test_seeds_of_initial_weights():
    splits = load("digits", images=20)
    before = torch.get_rng_state()
    first, again, other = (
        build_model(splits, RunSettings(backbone="small_mlp", head="linear", seed=seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("backbone", ["small_resnet", "small_msdnet", "small_vit"])
def test_every_backbone_takes_small_images(backbone):
    settings = RunSettings(backbone=backbone, backbone_options={"seed": 1})
    model = build_model(load("digits", images=20), settings)
    assert [tuple(one.shape) for one in model(torch.zeros(3, 1, 8, 8))] == [
        (3, 10)
    ] * model.num_exits


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_is_the_library_s(folder):
    out, error = run("evaluate", folder / "mixed", "--budget", 0.6, "--budget", 1, "--quiet")
    assert error == ""
    found = Run.open(folder / "mixed")
    loader, unseen = found.splits.loader("test", 64), found.splits.loader("validation", 64)
    expected = evaluate(found.model, loader, validation=unseen, budgets=(0.6, 1.0))
    saved = RunEvaluation.read(folder / "mixed")
    assert out == expected.table() + "\n"
    (mine,) = saved.evaluations
    assert mine.to_dict() == expected.to_dict()
    assert saved.timing is None
    assert saved.split == "test"
    assert saved.costs.to_dict() == count_costs(found.model, found.splits.example()).to_dict()


def test_evaluate_takes_policies_calibrations_and_splits(folder):
    found = Run.open(folder / "mixed")
    test, unseen = (found.splits.loader(split, 100) for split in ("test", "validation"))
    cases = [
        (["--policy", "entropy", "--threshold", 0.7], {"policy": "entropy"}),
        (["--policy", "patience"], {"policy": "patience"}),
        (["--calibration", "temperature"], {"calibration": "temperature"}),
        (["--policy", "learned"], {"calibration": "eefp"}),
        (["--calibration", "correct"], {"calibration": "correct"}),
        (["--protocol", "p1-test-sweep"], {"protocol": "p1-test-sweep"}),
    ]
    for options, arguments in cases:
        run("evaluate", folder / "mixed", *options, "--quiet")
        (mine,) = RunEvaluation.read(folder / "mixed").evaluations
        expected = evaluate(found.model, test, validation=unseen, **arguments)
        # Two fits of a score may differ where their search stops, by some 1e-5: a sample or two
        # then leave elsewhere, or are counted in the next bin.
        few = 2.5 / found.splits.samples()["test"]
        np.testing.assert_allclose(mine.curve.accuracy, expected.curve.accuracy, rtol=0, atol=few)
        np.testing.assert_allclose(mine.ece, expected.ece, rtol=0, atol=few)
        assert mine.policy == expected.policy
        assert mine.calibration == expected.calibration
        assert (mine.operating_point is not None) == ("--threshold" in options)
    run("evaluate", folder / "mixed", "--policy", "learned", "--threshold", 0.6)
    (mine,) = RunEvaluation.read(folder / "mixed").evaluations
    assert mine.operating_point.policy == "LearnedScore(0.6)"
    assert mine.policy == "learned score"
    run("evaluate", folder / "mixed", "--split", "validation")
    (mine,) = RunEvaluation.read(folder / "mixed").evaluations
    assert (mine.samples, mine.protocol) == (40, "p1-test-sweep")


def test_runs_are_compared_and_timed(folder, tmp_path):
    both = ["--calibration", "none", "--calibration", "temperature"]
    out, error = run(
        "evaluate",
        folder / "mixed",
        folder / "joint",
        *both,
        "--timing",
        "--out",
        tmp_path / "a.json",
    )
    assert error == ""
    for text in ("mixed, max softmax", "joint, temperature", "Spearman", "predict, batch 1"):
        assert text in out
    comparison = Comparison.from_json(tmp_path / "a.json")
    assert list(comparison.groups) == [
        "mixed, max softmax",
        "mixed, temperature",
        "joint, max softmax",
        "joint, temperature",
    ]
    saved = RunEvaluation.read(folder / "joint")
    assert saved.timing.run("backbone", 1).counted == 1.0
    assert "LearnedScore" in saved.timing.policy
    out, _ = run("evaluate", folder / "mixed", "--out", tmp_path / "a.html")
    assert out.endswith(f"\n\nThe report is in {tmp_path / 'a.html'}\n")
    assert "<title>Early exits</title>" in (tmp_path / "a.html").read_text("utf-8")


def test_seeds_are_one_group(folder, tmp_path):
    run("train", "--out", tmp_path / "other", *SMALL, "--strategy", "joint", "--seed", 1)
    run(
        *("train", "--out", tmp_path / "linear", *SMALL, "--strategy", "joint"),
        *("--head", "linear", "--seed", 1),
    )
    runs = [folder / "mixed", folder / "joint", tmp_path / "other", tmp_path / "linear"]
    run("evaluate", *runs, "--out", tmp_path / "a.json")
    groups = Comparison.from_json(tmp_path / "a.json").groups
    assert {name: len(one) for name, one in groups.items()} == {
        "mixed, pooled": 1,
        "joint, pooled": 2,
        "joint, linear": 1,
    }


def test_groups_are_named_by_what_is_set(folder, tmp_path):
    (tmp_path / "a.yaml").write_text(
        "{backbone: small_mlp, backbone_options: {widths: [16, 16, 16]}, strategy: joint, "
        "epochs: 2, detach: true, distillation: {weight: 0.5}}"
    )
    run("train", "--out", tmp_path / "own", "--quiet", tmp_path / "a.yaml")
    run("evaluate", folder / "joint", tmp_path / "own", "--out", tmp_path / "a.json")
    assert list(Comparison.from_json(tmp_path / "a.json").groups) == [
        "joint, images 200",
        "joint, backbone options (widths [16, 16, 16]), detach, distillation (weight 0.5)",
    ]


def test_rules_decide_for_real_as_they_were_judged(folder):
    found = Run.open(folder / "mixed")
    unseen = collect(found.model, found.splits.loader("validation", 100))
    costs = count_costs(found.model, found.splits.example())
    images = found.splits.example(40, "validation")
    for policy, calibration in (
        ("max-softmax", "none"),
        ("margin", "none"),
        ("patience", "none"),
        ("patience", "temperature"),
        ("max-softmax", "temperature"),
        ("learned", "none"),
    ):
        rule = ExitRule(policy, calibration).fitted(unseen, costs, 0.9)
        prediction = found.model.predict(images, rule)
        clear = decided(rule, unseen.logits)
        near = int((~clear).sum())  # each of them may go on to the end
        spent = costs.mean(prediction.samples_per_segment) / costs.backbone
        assert spent <= 0.9 + near / len(clear)
        expected = rule.exit_index(unseen.logits)
        assert near <= 6
        assert torch.equal(prediction.exit_index[clear], expected[clear])


def test_evaluate_failures(folder, tmp_path):
    mixed = folder / "mixed"
    # Not what the commands below would write, were they to judge before they fail.
    run("evaluate", mixed, "--budget", 0.8, "--quiet")
    before = (mixed / "evaluation.json").read_bytes()
    for wrong, message in (
        ([tmp_path], "does not hold a run: pass one that `laplex exits train --out` wrote"),
        ([tmp_path / "none"], "is not a folder"),
        ([mixed, mixed], "a run is named twice"),
        ([mixed, "--out", tmp_path / "a.txt"], ".html (a report) or .json"),
        ([mixed, "--policy", "learned", "--calibration", "temperature"], "its own score"),
        ([mixed, "--policy", "margin", "--calibration", "eefp"], "replaces that of the policy"),
        ([mixed, "--budget", -1], "budgets must be positive"),
        ([mixed, "--split", "validation", "--policy", "learned"], "use --split test"),
        (
            [mixed, "--timing", "--policy", "entropy", "--calibration", "temperature"],
            "can only be evaluated offline",
        ),
        ([mixed, "--policy", "patience", "--threshold", 1.5], "n must be a whole number"),
    ):
        assert message in fails("evaluate", *wrong, "--quiet")
    assert list(tmp_path.iterdir()) == []
    assert (mixed / "evaluation.json").read_bytes() == before


def test_a_broken_run_is_told(folder, tmp_path):
    out = tmp_path / "r"
    run("train", "--out", out, *SMALL, "--strategy", "joint")
    (out / "evaluation.json").write_text('{"split": "test"}')
    assert "was not written by `laplex exits evaluate`" in fails("report", out)
    (out / "weights.pt").write_bytes(b"nonsense")
    assert "does not hold the weights of the model" in fails("evaluate", out)
    torch.save({"a": torch.zeros(1)}, out / "weights.pt")
    assert "does not hold the weights of the model" in fails("evaluate", out)


# --- analyze, export, report ----------------------------------------------------------------------


def test_analyze(folder):
    out, error = run(
        *("analyze", folder / "mixed", "--other", folder / "joint", "--samples", 40),
        *("--part", "gradient_share", "--part", "mode_connectivity", "--quiet"),
    )
    assert error == ""
    assert "gradient norms of a block" in out
    assert "The straight line" in out
    saved = RunAnalysis.read(folder / "mixed")
    assert set(saved.tables) == {"gradient_share", "mode_connectivity"}
    assert all(one.startswith(b"\x89PNG") for one in saved.pictures.values())
    assert saved.numbers["gradient_share"]["samples"] == 40
    json.loads((folder / "mixed" / "analysis" / "analysis.json").read_text())
    assert "needs a second checkpoint" in fails(
        "analyze", folder / "mixed", "--part", "mode_connectivity"
    )


def test_export_follows_the_policy(folder, tmp_path):
    found = Run.open(folder / "mixed")
    to = ("export", folder / "mixed", "--out", tmp_path / "e", "--format", "torch")
    out, _ = run(*to, "--budget", 0.9, "--calibration", "eefp")
    assert out.startswith("Policy: LearnedScore([")
    assert "3 segments with a runner" in out
    unseen = collect(found.model, found.splits.loader("validation", 64))
    costs = count_costs(found.model, found.splits.example())
    rule = ExitRule("learned").fitted(unseen, costs, 0.9)
    images = found.splits.example(50, "test")
    expected = found.model.predict(images, rule)
    with torch.no_grad():
        clear = decided(rule, torch.stack(found.model(images)))
    assert int((~clear).sum()) <= 3
    mine = ExportedModel.load(tmp_path / "e", trusted=True).predict(images.numpy())
    np.testing.assert_array_equal(mine.exit_index[clear], expected.exit_index[clear].numpy())
    assert "holds an exported model" in fails(*to)


def test_export_takes_a_threshold_or_a_budget(folder, tmp_path, monkeypatch):
    taken = []

    def write(model, example, out, *, format, policy, overwrite):  # noqa: A002
        taken.append((repr(policy), format, overwrite))
        return out

    monkeypatch.setattr("laplex.early_exit.deployment.export", write)
    to = ("export", folder / "mixed", "--out", tmp_path / "e")
    run(*to, "--threshold", 0.3, "--overwrite")
    run(*to, "--threshold", 1.5, "--policy", "entropy", "--format", "torch")
    run(*to)
    found = Run.open(folder / "mixed")
    unseen = collect(found.model, found.splits.loader("validation", 64))
    costs = count_costs(found.model, found.splits.example())
    fitted = ExitRule("max-softmax").fitted(unseen, costs, max(0.5, costs.relative[0]))
    assert taken == [
        ("MaxSoftmax(0.3)", "onnx", True),
        ("Entropy(1.5)", "torch", False),
        (repr(fitted), "onnx", False),
    ]


def test_export_failures(folder, tmp_path, monkeypatch):
    to = ["--out", tmp_path / "e"]
    assert "exclude each other" in fails(
        "export", folder / "mixed", *to, "--threshold", 0.3, "--budget", 0.5
    )
    assert "the cost of the first exit" in fails("export", folder / "mixed", *to, "--budget", 0.01)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = fails("export", folder / "mixed", *to)
    assert 'needs onnx: pip install "laplex[onnx]"' in message
    assert list(tmp_path.iterdir()) == []


def test_report_judges_what_was_not_judged(folder, tmp_path):
    out = tmp_path / "r"
    run("train", "--out", out, *SMALL, "--strategy", "joint", "--seed", 2)
    text, error = run("report", out, folder / "joint", "--out", tmp_path / "p.html", "--quiet")
    assert (text, error) == (f"The report is in {tmp_path / 'p.html'}\n", "")
    assert RunEvaluation.read(out) is not None
    assert "there is no folder" in fails("report", out, "--out", tmp_path / "no" / "p.html")


# --- the command itself ---------------------------------------------------------------------------


def test_a_real_run_prints_nothing_but_its_result(tmp_path):
    result = command("exits", "train", "--out", tmp_path / "r", *SMALL)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Validation accuracy by exit: layers.0")
    assert len(result.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["exits", "--help"], ["train", "evaluate", "analyze", "export", "report"]),
        (["exits", "train", "-h"], ["--strategy", "--resume", "--exits", "CONFIG.yaml"]),
    ],
)
def test_help_needs_no_torch(arguments, expected):
    result = command(*arguments, before=without("torch", "sklearn", "scipy", "matplotlib", "yaml"))
    assert result.returncode == 0, result.stderr
    for word in expected:
        assert word in result.stdout


@pytest.mark.parametrize("package", ["torch", "pytorch_lightning", "yaml"])
def test_without_its_packages_one_sentence(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = fails("train", "--out", tmp_path / "m")
    assert message == f'error: laplex exits train needs {package}: pip install "laplex[exits]"\n'
    assert not (tmp_path / "m").exists()


def test_usage_errors(folder):
    for wrong in (
        ["evaluate"],
        ["train", "--strategy", "both"],
        ["train", "--seed", -1],
        ["evaluate", folder / "mixed", "--policy", "guess"],
        ["export", folder / "mixed"],
    ):
        run(*wrong, status=2)
