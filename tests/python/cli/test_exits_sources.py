"""``laplex exits`` on data and backbones of users: folders, tables, functions, libraries."""

from __future__ import annotations

import functools
import gc
import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import command_cases
from command_cases import command, without
from laplex.cli.exits import app
from laplex.early_exit import default_exits, exit_places
from laplex.early_exit.runs.datasets import Splits, load_splits
from laplex.early_exit.runs.results import RunEvaluation
from laplex.early_exit.runs.run import Run
from laplex.early_exit.runs.settings import RunSettings

run = functools.partial(command_cases.run, app)
fails = functools.partial(command_cases.fails, app)

SHORT = ("--strategy", "joint", "--epochs", 1, "--batch-size", 8, "--quiet")


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a test where a package is not installed or, as torchvision may, does not fit torch."""
    missing = []
    for package in packages:
        try:
            if package in ("timm", "torchvision"):
                importlib.import_module("torchvision_import")
            importlib.import_module(package)
        except (ImportError, RuntimeError):
            missing.append(package)
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """The library datasets keeps its copies in the folder of the test."""
    try:
        import datasets
    except ImportError:
        return
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def paint(folder: Path, count: int, *, side: int = 8, mode: str = "RGB", start: int = 0) -> None:
    """Write pictures of two classes, dark and light, into folders of these names."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(start)
    for name, level in (("dark", 60), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shape = (side, side) if mode == "L" else (side, side, 3)
            pixels = rng.integers(level - 40, level + 40, shape).astype(np.uint8)
            image.fromarray(pixels).save(folder / name / f"{number}.png")


def load(data: object, **settings: object) -> Splits:
    return load_splits(RunSettings(data=str(data), **settings))


# --- data -----------------------------------------------------------------------------------------


@needs("datasets")
def test_a_folder_of_train_val_and_test(tmp_path):
    for part, count in (("train", 12), ("val", 3), ("test", 5)):
        paint(tmp_path / "a" / part, count, start=count)
    splits = load(tmp_path / "a")
    assert splits.samples() == {"train": 24, "validation": 6, "test": 10}
    assert splits.class_names == ("dark", "light")
    x, labels = next(iter(splits.loader("train", 24)))
    assert x.shape == (24, 3, 8, 8)
    # A float32 mean of 4,608 numbers of size 1 is off by far less than 4,608 eps.
    assert abs(float(x.mean())) < 1e-3
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    assert float(x[labels == 0].mean()) < 0 < float(x[labels == 1].mean())
    text, _ = run("train", "--data", tmp_path / "a", "--out", tmp_path / "r", *SHORT)
    assert "Validation accuracy by exit: layer1" in text
    run("evaluate", tmp_path / "r")
    (found,) = RunEvaluation.read(tmp_path / "r").evaluations
    assert (found.samples, found.validation_samples) == (10, 6)


@needs("datasets")
def test_a_folder_of_classes_is_split(tmp_path):
    paint(tmp_path / "a", 25, mode="L")
    splits, again = (load(tmp_path / "a") for _ in range(2))
    assert splits.samples() == {"train": 30, "validation": 10, "test": 10}
    seen = [one[0].numpy().tobytes() for split in splits.parts for one in splits.parts[split]]
    assert len(set(seen)) == 50
    assert torch.equal(splits.example(), again.example())
    assert splits.example().shape == (2, 1, 8, 8)
    other = load(tmp_path / "a", image_channels=3, image_size=6, images=20)
    assert other.example().shape == (2, 3, 6, 6)
    assert other.samples() == {"train": 12, "validation": 4, "test": 4}
    paint(tmp_path / "b", 25, side=5)
    (tmp_path / "b" / "dark").rename(tmp_path / "a" / "green")
    message = fails("train", "--data", tmp_path / "a", "--out", tmp_path / "r")
    assert "pass --image-size SIDE to resize and crop them" in message


@needs("datasets")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of datasets 5.2
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pictures_with_metadata(tmp_path):
    paint(tmp_path / "a", 10)
    for name in ("dark", "light"):
        rows = [f"{number}.png,{name},{number}" for number in range(10)]
        lines = "\n".join(["file_name,mood,rank", *rows])
        (tmp_path / "a" / name / "metadata.csv").write_text(lines + "\n")
    assert "--label-column" in fails("train", "--data", tmp_path / "a", "--out", tmp_path / "r")
    splits = load(tmp_path / "a", label_column="mood")
    assert splits.class_names == ("dark", "light")
    assert splits.samples() == {"train": 12, "validation": 4, "test": 4}
    gc.collect()  # the file is closed here, not in another test, which would be warned


@needs("datasets")
def test_tables_of_numbers_and_folders_of_datasets(tmp_path):
    import datasets

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    columns = {f"x{k}": (labels == k) * 2.0 + rng.normal(size=60) for k in range(3)}
    table = datasets.Dataset.from_dict({**columns, "id": range(60), "label": labels})
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.to_csv(str(tmp_path / "a.csv"))
    table.to_json(str(tmp_path / "a.jsonl"))
    table.save_to_disk(str(tmp_path / "one"))
    table.train_test_split(0.5).save_to_disk(str(tmp_path / "two"))
    (tmp_path / "parts").mkdir()
    table.to_csv(str(tmp_path / "parts" / "train.csv"))
    table.to_csv(str(tmp_path / "parts" / "test.csv"))
    wanted = ("x0", "x1", "x2")
    first = load(tmp_path / "a.parquet", columns=wanted)
    x = torch.cat([x for x, _ in first.loader("train", 100)])
    assert x.shape == (36, 3)
    # Means of 36 float32 numbers of size 1 are off by less than 36 eps.
    torch.testing.assert_close(x.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    for name in ("a.csv", "a.jsonl", "one"):
        other = load(tmp_path / name, columns=wanted)
        torch.testing.assert_close(other.example(36), first.example(36))
    assert load(tmp_path / "two").samples() == {
        "train": 24, "validation": 6, "test": 30,
    }  # fmt: skip
    assert load(tmp_path / "parts").samples()["test"] == 60
    assert load(tmp_path / "a.csv").example().shape == (2, 4)
    own = ("--backbone", "small_mlp", "--columns", "x0,x1,x2")
    text, _ = run("train", "--data", tmp_path / "a.csv", "--out", tmp_path / "r", *own, *SHORT)
    assert text.startswith("Input of numbers: x0, x1, x2; label: label, 3 classes\n")
    listed, _ = run("train", "--data", tmp_path / "a.csv", *own, *SHORT, "--list-exits")
    assert "[2, 3]" not in listed  # the output
    assert "layers.1 " in listed
    assert Run.open(tmp_path / "r").model.backbone.layers[0][0].in_features == 3


@needs("datasets")
def test_tables_that_cannot_be_classified(tmp_path):
    table = tmp_path / "a.csv"
    for rows, message in (
        ("1,0.25\n2,0.5\n" * 10, "the column label has 0.25, but labels must be classes"),
        ("1,x\n" * 20, "has one class only, x: a classifier needs at least two"),
        ("1,x\n2,y\n,x\n" * 10, "the column a has no finite number in row 3 of the part train"),
    ):
        table.write_text(f"a,label\n{rows}")
        message_found = fails("train", "--data", table, "--out", tmp_path / "r", *SHORT)
        assert message in message_found
    paint(tmp_path / "p", 10)
    (tmp_path / "p" / "dark" / "3.png").write_bytes(b"not a picture")
    message = fails("train", "--data", tmp_path / "p", "--out", tmp_path / "r", *SHORT)
    assert "dark/3.png cannot be read as an image: remove or replace it" in message
    assert not (tmp_path / "r").exists()


@needs("datasets")
def test_tables_that_do_not_say_enough(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("a,b,label\n" + "u,1,x\n" * 20)
    for options, message in (
        (["--columns", "a,b"], "name them with --columns"),
        (["--columns", "c"], "which are a, b, label"),
        (["--label-column", "c"], "--label-column"),
        ([], "texts need a tokenizer: choose a backbone transformers:MODEL"),
    ):
        assert message in fails("train", "--data", table, "--out", tmp_path / "r", *options)
    (tmp_path / "parts").mkdir()
    for part, label in (("train", "x"), ("test", "y")):
        (tmp_path / "parts" / f"{part}.csv").write_text("a,label\n" + f"1,{label}\n" * 20)
    message = fails("train", "--data", tmp_path / "parts", "--out", tmp_path / "r")
    assert "the column label has 'y' in the part test" in message
    (tmp_path / "none").mkdir()
    message = fails("train", "--data", tmp_path / "none", "--out", tmp_path / "r")
    assert "cannot be read as a folder or file of data" in message
    assert not (tmp_path / "r").exists()


LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset


def loaders(batch_size, seed, width=6, kind="tuple"):
    generator = torch.Generator().manual_seed(seed)
    def make(count):
        labels = torch.arange(count) % 4
        x = torch.randn(count, width, generator=generator) + labels[:, None]
        return DataLoader(TensorDataset(x, labels), batch_size=batch_size)
    train, val, test = make(40), make(12), make(20)
    if kind == "dict":
        return {"train": train, "val": val, "test": test, "num_classes": 7}
    if kind == "lists":
        return [list(train), list(val), list(test)]
    if kind == "once":
        return iter(train), val, test
    return train if kind == "one" else (train, val, test)
"""


def test_loaders_of_a_function(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(LOADERS)
    monkeypatch.chdir(tmp_path)
    options = ["--data", "own_data:loaders", "--backbone", "small_mlp", *SHORT]
    run("train", "--out", "r", *options)
    refused = "name the Python function own_data:loaders, which would be called: pass --trusted"
    for words in (("evaluate", "r"), ("export", "r", "--out", "e"), ("analyze", "r")):
        assert refused in fails(*words)
    found = Run.open(Path("r"), trusted=True)
    assert found.splits.class_names == ("0", "1", "2", "3")
    assert found.history["samples"] == {"train": 40, "validation": 12, "test": 20}
    assert found.splits.loader("train", 3).batch_size == 8
    run("evaluate", "r", "--timing", "--trusted")
    assert RunEvaluation.read(Path("r")).evaluations[0].samples == 20
    for kind, classes in (("dict", 7), ("lists", 4)):
        splits = load("own_data:loaders", data_options={"kind": kind, "width": 3})
        assert len(splits.class_names) == classes
        assert splits.samples() == {"train": 40, "validation": 12, "test": 20}
        assert splits.example().shape == (2, 3)
    for kind, message in (("once", "can be read only once"), ("one", "must return the loaders")):
        (tmp_path / "c.yaml").write_text(f"data_options: {{kind: {kind}}}\n")
        assert message in fails("train", "c.yaml", "--out", "s", *options)
    (tmp_path / "c.yaml").write_text("data_options: {knd: 1}\n")
    assert "data_options has 'knd', but loaders takes" in fails("train", "c.yaml", *options)
    assert "has no attribute 'load'" in fails("train", *options, "--data", "own_data:load")
    (tmp_path / "own_errors.py").write_text("def boom():\n    return 1 / 0\n")
    message = fails("train", *options, "--data", "own_errors:boom")
    raised = "data function own_errors:boom raised ZeroDivisionError: division by zero"
    assert f"{raised} (own_errors.py, line 2)" in message
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    message = fails("train", *options, "--data", "own_broken:boom")
    assert "its module raised ZeroDivisionError" in message
    (tmp_path / "own_single.py").write_text(LOADERS.replace("% 4", "% 1"))
    assert "one class only, 0" in fails("train", *options, "--data", "own_single:loaders")
    few = ("train", "--images", 100, "--epochs", 1)
    assert "pass more, or strategy='joint' (--strategy joint)" in fails(*few)


# --- backbones ------------------------------------------------------------------------------------


def sixteen(folder: Path) -> tuple[str, ...]:
    """Options for pictures of 32 pixels a side, as few and as small as networks take."""
    paint(folder, 10, side=32)
    return ("--data", str(folder), *SHORT)


@needs("timm", "datasets")
def test_timm(tmp_path):
    small = sixteen(tmp_path / "a")
    named = ("--backbone", "timm:test_resnet")
    text, _ = run("train", *small, *named, "--out", tmp_path / "r", "--image-channels", 1)
    assert text.startswith("Exits at layer1, layer2, layer3 of timm:test_resnet\n")
    run("evaluate", tmp_path / "r")
    model = Run.open(tmp_path / "r").model
    assert (model.backbone.conv1[0].in_channels, model.backbone.fc.out_features) == (1, 2)
    listed, _ = run("train", *small, *named, "--list-exits", "--out", tmp_path / "s")
    assert {"layer1", "layer4.0.bn2"} <= {line.split()[0] for line in listed.splitlines()}
    assert not (tmp_path / "s").exists()
    message = fails("train", *small, "--backbone", "timm:resnet81", "--out", tmp_path / "s")
    assert "timm has no 'resnet81': did you mean resnet" in message
    # Weights of a file, as timm takes them; a run that is opened has its own.
    torch.save(model.backbone.state_dict(), tmp_path / "w.pt")
    cfg = f"{{file: {tmp_path / 'w.pt'}, num_classes: 2, input_size: [1, 32, 32]}}"
    (tmp_path / "c.yaml").write_text(
        f"backbone_options: {{pretrained: true, pretrained_cfg_overlay: {cfg}}}\n"
    )
    options = (*small, *named, "--image-channels", 1, "--learning-rate", 1e-30)
    run("train", tmp_path / "c.yaml", *options, "--weight-decay", 0, "--out", tmp_path / "p")
    (tmp_path / "w.pt").unlink()
    again = Run.open(tmp_path / "p").model.backbone
    assert torch.equal(again.layer2[0].conv1.weight, model.backbone.layer2[0].conv1.weight)


@needs("torchvision", "datasets")
def test_torchvision(tmp_path, monkeypatch):
    import torchvision

    small = sixteen(tmp_path / "a")
    named = ("--backbone", "torchvision:resnet18")
    source = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, **_: source
    )
    (tmp_path / "c.yaml").write_text("backbone_options: {pretrained: true}\n")
    options = (*small, *named, "--learning-rate", 1e-30, "--weight-decay", 0)
    text, _ = run("train", tmp_path / "c.yaml", *options, "--out", tmp_path / "r")
    assert text.startswith("Exits at layer1, layer2, layer3 of torchvision:resnet18\n")
    model = Run.open(tmp_path / "r").model
    assert torch.equal(model.backbone.layer2[0].conv1.weight, source["layer2.0.conv1.weight"])
    assert model.backbone.fc.out_features == 2
    message = fails("train", *small, *named, "--image-channels", 1, "--out", tmp_path / "s")
    assert "convert the images (--image-channels 3)" in message
    message = fails("train", *small, "--backbone", "torchvision:resnet81", "--out", tmp_path / "s")
    assert "torchvision has no 'resnet81': did you mean resnet" in message


def texts(path: Path) -> None:
    """A table of texts of two classes."""
    rows = []
    for number in range(40):
        mood = ("good", "bad")[number % 2]
        rows.append(f"it is {mood}{' very' * (number % 5)},{mood}")
    path.write_text("\n".join(["text,label", *rows]) + "\n")


@pytest.fixture
def bert(tmp_path) -> Path:
    """A folder with the configuration and the tokenizer of a tiny BERT."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "is", "good", "bad", "very"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=8,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@needs("transformers", "datasets")
def test_transformers_on_texts(tmp_path, bert):
    texts(tmp_path / "a.csv")
    options = ("--data", tmp_path / "a.csv", *SHORT, "--head", "linear")
    named = ("--backbone", f"transformers:{bert / 'config.json'}")
    text, _ = run("train", *options, *named, "--out", tmp_path / "r")
    layers = [f"bert.encoder.layer.{k}" for k in range(3)]
    assert text.startswith("Input of text: text; label: label, 2 classes\nExits at ")
    assert f"Exits at {', '.join(layers)} of transformers:" in text
    run("evaluate", tmp_path / "r")
    found = Run.open(tmp_path / "r")
    batch = next(iter(found.splits.loader("test", 8)))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape[1] <= 8  # what the positions of the network allow
    assert load_splits(replace(found.settings, max_length=4)).example()["input_ids"].shape == (2, 4)
    # A folder has weights, which are loaded.
    found.model.backbone.save_pretrained(bert)
    named = ("--backbone", f"transformers:{bert}", "--learning-rate", 1e-30, "--weight-decay", 0)
    run("train", *options, *named, "--out", tmp_path / "p")
    for mine, other in zip(
        Run.open(tmp_path / "p").model.backbone.parameters(),
        found.model.backbone.parameters(),
        strict=True,
    ):
        # Weights that are 0 move by as much as the rate.
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-20)


@needs("transformers", "datasets")
def test_tokenizers_that_do_not_fit_are_told(tmp_path, bert):
    texts(tmp_path / "a.csv")
    options = ("--data", tmp_path / "a.csv", *SHORT, "--head", "linear", "--out", tmp_path / "r")
    (tmp_path / "bare").mkdir()
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "vocab_size": 8}))
    named = ("--backbone", f"transformers:{tmp_path / 'bare' / 'config.json'}")
    assert "bare has no tokenizer files: pass --tokenizer" in fails("train", *options, *named)
    message = fails("train", *options, *named, "--tokenizer", bert)
    assert "the tokenizer has 10 tokens, but the backbone only 8" in message
    (tmp_path / "b.csv").write_text("text,label\n" + "das ist gut,a\nmau,b\n" * 20)
    named = ("--data", tmp_path / "b.csv", "--backbone", f"transformers:{bert / 'config.json'}")
    assert "does not know 100% of the tokens" in fails("train", *options, *named)
    assert not (tmp_path / "r").exists()


@needs("transformers", "datasets")
def test_transformers_on_pictures(tmp_path):
    import transformers

    paint(tmp_path / "a", 10, side=8)
    transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32,
    ).save_pretrained(tmp_path / "vit")  # fmt: skip
    named = ("--backbone", f"transformers:{tmp_path / 'vit' / 'config.json'}")
    run("train", "--data", tmp_path / "a", *named, *SHORT, "--out", tmp_path / "r")
    assert len(Run.open(tmp_path / "r").model.exit_names) == 2


class Twice(nn.Module):
    """A network that runs its only block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.end = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        end: torch.Tensor = self.end(self.block(self.block(x)))
        return end


def test_exits_are_chosen_evenly_or_named():
    x = torch.zeros(2, 4)
    for count, expected in ((2, "0"), (3, "0 1"), (4, "0 1 2"), (12, "2 5 8")):
        blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))
        assert default_exits(blocks, x) == tuple(expected.split())
    assert exit_places(Twice(), x) == {"block@0": [2, 4], "block@1": [2, 4], "end": [2, 3]}
    with pytest.raises(ValueError, match=r"no default exits: name some .* such as block@0"):
        default_exits(Twice(), x)


# --- paths and packages, before torch; old folders ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nothing/here"], "data: there is no"),
        (["--data", "{tmp}/a.txt"], "must be a folder, or end in .csv"),
        (["--backbone", "transformers:./nothing"], "backbone: there is no"),
        (["--backbone", "timm:resnet18"], 'needs timm: pip install "laplex[timm]"'),
        (["--data", "{tmp}"], 'needs datasets: pip install "laplex[datasets]"'),
    ],
)
def test_wrong_paths_and_missing_packages_are_told_before_torch(options, message, tmp_path):
    (tmp_path / "a.txt").write_text("")
    given = [one.format(tmp=tmp_path) for one in options]
    result = command(
        *("exits", "train", "--out", tmp_path / "r", *given),
        before=without("timm", "datasets") + "\n"
        "import importlib.machinery as m; t = type(sys)('transformers'); "
        "t.__spec__ = m.ModuleSpec('transformers', None); sys.modules['transformers'] = t",
        code="import atexit\natexit.register(lambda: print('torch' in sys.modules))\n"
        + command_cases.MAIN,
    )
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stdout == "False\n"
    assert not (tmp_path / "r").exists()


#: What version 0.1 wrote, before data other than images and backbones of libraries were known.
OLD = """
data: digits
images: 100
validation: 0.2
backbone: small_mlp
backbone_options: {widths: [4, 4]}
exits: [layers.0]
head: pooled
strategy: mixed
epochs: 2
batch_size: 64
learning_rate: 0.003
weight_decay: 0.01
scheduler: cosine
weights: equal
gradient_equilibrium: false
detach: false
distillation: null
label_smoothing: 0.0
patience: null
precision: 32-true
accelerator: auto
seed: 0
"""


def test_a_folder_of_an_older_version_opens(tmp_path):
    from laplex.early_exit import MultiExitModel, networks

    (tmp_path / "config.yaml").write_text(OLD)
    old = MultiExitModel.attach(
        networks.small_mlp(64, widths=(4, 4), seed=1), ["layers.0"], num_classes=10,
        example=torch.zeros(1, 1, 8, 8),
    )  # fmt: skip
    torch.save(old.state_dict(), tmp_path / "weights.pt")
    epoch = {
        "phase": 0, "epoch": 0, "train": "all", "loss": 2.3, "train_loss": [2.3, 2.3],
        "val_loss": [2.3, 2.3], "val_accuracy": [0.1, 0.2],
    }  # fmt: skip
    training = {
        "exit_names": ["layers.0", "output"],
        "phases": [{"train": "all", "epochs": 1, "learning_rate": None}],
        "history": [epoch],
    }
    (tmp_path / "history.json").write_text(
        json.dumps(
            {
                "kind": "laplex.early_exit.run",
                "training": training,
                "seconds": 3.2,
                "data": "digits (8 x 8, scikit-learn)",
                "samples": {"train": 80, "validation": 20, "test": 450},
                "classes": list("0123456789"),
                "resumed": False,
                "versions": {"laplex": "0.1.0"},
            }
        )
    )
    run("evaluate", tmp_path, "--out", tmp_path / "a.html")
    values = json.loads((tmp_path / "evaluation.json").read_text())
    del values["evaluations"][0]["fpr95"]  # as if it were new
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    run("report", tmp_path, "--out", tmp_path / "b.html")
    (judged,) = RunEvaluation.read(tmp_path).evaluations
    assert np.isnan(judged.fpr95).all()
    assert judged.auroc.shape == (2,)
    found = Run.open(tmp_path)
    assert found.splits.samples() == found.history["samples"]
    # The scale of the pixels: that of the 80 images to train on, as version 0.1 drew them.
    from laplex._support.image_datasets import load_images

    images = load_images("digits").train_images
    kept = images[np.random.default_rng(0).permutation(len(images))[:80]]
    x = (kept[:2, None] - kept.mean()) / kept.std()
    assert torch.equal(found.splits.example(), torch.from_numpy(x))
    assert torch.equal(found.model(torch.from_numpy(x))[0], old.eval()(torch.from_numpy(x))[0])
