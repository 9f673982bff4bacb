"""Exported segments: the same logits, exits and savings as the model they were cut from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from exits_cases import MODELS, images
from export_cases import small, stand_in
from laplex.early_exit.costs import Costs, count_costs
from laplex.early_exit.deployment import ExportedModel, export, writing
from laplex.early_exit.deployment.portable import portable
from laplex.early_exit.model import MultiExitModel
from laplex.early_exit.policies import MaxSoftmax, Patience
from laplex.nn import LaplexHead, LaplexLinear

pytestmark = pytest.mark.usefixtures("seeded", "one_table_of_operators")

FORMATS = ("onnx", "torch")
#: Two float32 evaluations of some hundred thousand terms, in units of the largest logit and 1.
CLOSE = 1e-5


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
                ExportedModel.load(folder, threads=1 if form == "onnx" else None, trusted=True),
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
            score = value.name == "score"  # in double, as the policies have it
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
        {"name": "input_0", "dtype": "float32", "shape": ["batch", 1, 28, 28], "batch_axis": 0}
    ]
    assert manifest["inputs"] == [{"place": "", **manifest["segments"][0]["inputs"][0]}]
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
    files = ExportedModel.load(export(model, x, tmp_path / "files", format=form), trusted=True)
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


# --- precision -------------------------------------------------------------------


def test_double_precision_stays_where_files_have_it(tmp_path):
    model, x = small(1).double(), torch.randn(8, 5, dtype=torch.float64)
    files = ExportedModel.load(export(model, x, tmp_path / "files", format="torch"), trusted=True)
    found, expected = files.logits(x.numpy()), torch.stack(model(x)).detach().numpy()
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= 1e-13 * (1 + np.abs(expected).max())
    single, y, _, _ = portable(model, x, None, "onnx")
    assert {tensor.dtype for tensor in (*single.state_dict().values(), y)} == {torch.float32}


def test_half_precision_becomes_float32(tmp_path):
    model, x = small().bfloat16(), torch.randn(8, 5).bfloat16()
    files = ExportedModel.load(export(model, x, tmp_path / "files", format="torch"), trusted=True)
    expected = torch.stack(model.float()(x.float())).detach().numpy()  # exactly the same weights
    assert np.abs(files.logits(x.float().numpy()) - expected).max() <= CLOSE


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


def test_inputs_that_do_not_fit():
    files = stand_in(np.zeros((2, 4, 2), np.float32))
    rule = {"rule": "Margin", "thresholds": 0}
    with pytest.raises(ValueError, match=r"x must be \[batch, 1\], got shape \[4\]"):
        files.predict(np.arange(4), rule)
    with pytest.raises(ValueError, match=r"x has \[0\], \[1\], but the model takes one array"):
        files.predict([np.zeros((4, 1)), np.zeros((4, 1))], rule)
    with pytest.raises(ValueError, match="x has size 0 in batch: the model takes at least 1"):
        files.predict(np.zeros((0, 1)), rule)


@pytest.mark.parametrize("values", [[[1.5]], [[np.nan]], [[2.0**70]]])
def test_whole_numbers_stay_what_they_are(values):
    files = stand_in(np.arange(16, dtype=np.float32).reshape(2, 4, 2))
    assert np.array_equal(files.logits([2.0] * np.ones((3, 1))), files.logits(np.full((3, 1), 2)))
    with pytest.raises(ValueError, match=r"x must hold numbers of type int64, got .* in float64"):
        files.logits(np.array(values))


def test_a_segment_returns_the_samples_that_it_was_given():
    files = stand_in(np.zeros((2, 4, 2), np.float32))
    first, last = files._segments
    for returns in (lambda arrays: [last(arrays)[0][:1]], lambda arrays: [np.float32(0)]):
        files._segments = (first, returns)
        message = r"segment 1 \(exit '1'\) returns logits of shape .* must have 4 in dimension 0"
        for run in (files.logits, lambda x: files.predict(x, {"rule": "Margin", "thresholds": 2})):
            with pytest.raises(RuntimeError, match=message):
                run(np.arange(4)[:, None])


def test_what_the_runtime_refuses_names_the_segment(tmp_path):
    """With the position and the shape of what it was given, for both runtimes."""
    model, x = sequences()
    for form in FORMATS:
        files = ExportedModel.load(export(model, x, tmp_path / form, format=form), trusted=True)
        message = r"segment 0 \(exit 'embed'\) fails for x\['ids'\] int64 \[9, 6\]: check .*: .+"
        with pytest.raises(RuntimeError, match=message) as caught:
            files.logits({"ids": x["ids"] + 11, "n": None})
        assert caught.value.__cause__ is not None


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
    files = ExportedModel.load(tmp_path / "files", trusted=True)
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
    assert ExportedModel.load(folder, trusted=True).policy["rule"] == "Patience"
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
            ExportedModel.load(files.folder, trusted=True)
    with pytest.raises(FileNotFoundError, match=r"there is no manifest\.json"):
        ExportedModel.load(tmp_path, trusted=True)
    folder = export(small(), torch.randn(2, 5), tmp_path / "files", format="torch")
    with pytest.raises(ValueError, match="threads is for ONNX files"):
        ExportedModel.load(folder, threads=1, trusted=True)
    (folder / "segment1.pt2").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no segment1\.pt2"):
        ExportedModel.load(folder, trusted=True)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "format": 99}), encoding="utf-8")
    with pytest.raises(
        ValueError, match="was exported in format 99, but this runner reads formats 1 to 3"
    ):
        ExportedModel.load(folder, trusted=True)
    for text in ("{", "[]", "{}", '{"kind": "other", "format": 1}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="does not describe an exported model"):
            ExportedModel.load(folder, trusted=True)
