"""Models in folders: the same bits again, cards with true numbers, and no trust in the files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from exits_cases import images
from laplex.cedar import CEDAR
from laplex.early_exit import MaxSoftmax, MultiExitModel, Policy, evaluate_outputs, networks
from laplex.early_exit.evaluation.outputs import Outputs
from laplex.early_exit.policies import POLICIES
from laplex.nn import LaplexHead, LaplexLinear
from pretrained_cases import MODELS, assert_same, files, made

WRITTEN = ["README.md", "config.json", "model.safetensors"]


# --- the same model again -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_with_the_same_bits(name: str, tmp_path: Path) -> None:
    model = made(name)
    before = torch.get_rng_state()
    assert model.save_pretrained(tmp_path / "a" / "b") is None
    assert files(tmp_path / "a" / "b") == WRITTEN
    again = type(model).from_pretrained(tmp_path / "a" / "b")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(model, again)
    assert_same(model, pickle.loads(pickle.dumps(again)))
    again.save_pretrained(str(tmp_path / "c"))
    for one in WRITTEN[1:]:
        assert (tmp_path / "c" / one).read_bytes() == (tmp_path / "a" / "b" / one).read_bytes()
    if isinstance(again, nn.Module):
        assert not again.training
        assert all(one.requires_grad for one in again.parameters())


def test_a_layer_s_training_goes_on(tmp_path: Path) -> None:
    layer = LaplexLinear.from_linear(nn.Linear(5, 4), rounds=0)
    layer.save_pretrained(tmp_path)
    again = LaplexLinear.from_pretrained(tmp_path)
    assert again.fit_error == layer.fit_error
    assert "error of the weight" in (tmp_path / "README.md").read_text()
    again.train()(torch.randn(3, 5)).sum().backward()
    assert again.targets.grad is not None


def test_a_layer_of_inference_mode_and_a_whole_fit_error_are_saved(tmp_path: Path) -> None:
    with torch.inference_mode():
        layer = LaplexLinear(5, 3)
        backbone = networks.small_mlp(4, 3, widths=(5, 5), seed=0)
        model = MultiExitModel.attach(
            backbone, ["layers.0"], num_classes=3, example=torch.ones(2, 4)
        ).eval()
    layer.fit_error = 0
    both: list[Any] = [layer, model]
    for one in both:
        one.save_pretrained(tmp_path)
        again = type(one).from_pretrained(tmp_path)
        assert_same(one, again)
        assert all(tensor.requires_grad for tensor in again.parameters())
    for bad in (True, "0", -1.0, float("nan"), float("inf"), 1j):
        layer.fit_error = bad  # type: ignore[assignment]
        with pytest.raises(ValueError, match="fit_error must be a finite number of at least 0"):
            layer.save_pretrained(tmp_path)
    assert_same(model, MultiExitModel.from_pretrained(tmp_path))


def test_the_device_of_a_fit_stays_with_its_machine(tmp_path: Path) -> None:
    model = made("cedar")
    model.device = "cuda"
    model.save_pretrained(tmp_path)
    assert_same(made("cedar"), CEDAR.from_pretrained(tmp_path))
    assert CEDAR.load(tmp_path).device == "cuda"


@pytest.mark.parametrize("name", ["linear", "exits", "cedar"])
def test_paths_that_are_no_folder_are_refused_at_once(name: str, tmp_path: Path) -> None:
    model = made(name)
    file, load = tmp_path / "config.json", type(model).from_pretrained
    model.save_pretrained(tmp_path)
    calls: list[tuple[Any, Any, str]] = [
        (file, NotADirectoryError, rf"config\.json is a file: pass its folder, {tmp_path}"),
        ("~no such user/m", FileNotFoundError, "of a user who is not known"),
        ("", ValueError, "is empty: for the current folder pass '.'"),
        (None, TypeError, "must be a str or a path, got NoneType"),
        (b"model", TypeError, "must be a str or a path, got bytes"),
    ]
    for path, error, message in calls:
        with pytest.raises(error, match=message):
            load(path)
        with pytest.raises((error, FileExistsError), match=message.partition(": pass")[0]):
            model.save_pretrained(path)


class Own(nn.Module):
    """A backbone of a user."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.last = nn.Linear(width, 3)
        self.last.weight.data = self.last.weight.data[:, : self.last.in_features]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.first(x).relu())
        return out


def test_a_backbone_of_one_s_own_is_passed(tmp_path: Path) -> None:
    x = torch.randn(6, 4)
    model = MultiExitModel.attach(Own(), ["first"], num_classes=3, example=x, head="mlp").eval()
    model.save_pretrained(tmp_path)
    again = MultiExitModel.from_pretrained(tmp_path, backbone=Own())
    assert all(map(torch.equal, model(x), again(x)))
    double = MultiExitModel.from_pretrained(tmp_path, backbone=Own().double())
    assert {one.dtype for one in double.parameters()} == {torch.float64}
    torch.testing.assert_close(double(x.double())[-1].float(), model(x)[-1])
    assert "backbone=backbone" in (tmp_path / "README.md").read_text()
    with pytest.raises(
        ValueError, match=r"a backbone 'Own', which a file does not make: pass back"
    ):
        MultiExitModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit: backbone.first.weight has shape \[8, 4\]"):
        MultiExitModel.from_pretrained(tmp_path, backbone=Own(9))
    with pytest.raises(ValueError, match="do not fit: exit 'first' is not a module"):
        MultiExitModel.from_pretrained(tmp_path, backbone=nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(TypeError, match=r"backbone must be a torch.nn.Module, got str"):
        MultiExitModel.from_pretrained(tmp_path, backbone="resnet")  # type: ignore[arg-type]


def test_heads_of_one_s_own_are_passed(tmp_path: Path) -> None:
    def parts() -> dict[str, Any]:
        return {"exits": {"layers.0": nn.Linear(5, 3)}, "output_head": nn.Linear(3, 3)}

    backbone = networks.small_mlp(4, 3, widths=(5, 5), seed=0)
    own = parts()
    model = MultiExitModel(backbone, own["exits"], own["output_head"], mask=None).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(6, 4)
    assert all(map(torch.equal, model(x), MultiExitModel.from_pretrained(tmp_path, **parts())(x)))
    for missing, message in (
        ("exits", "a head of its owner at exit 'layers.0'"),
        ("output_head", "an output_head, which a file does not make"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiExitModel.from_pretrained(tmp_path, **{**parts(), missing: None})
    exits = {**parts()["exits"], "layers.7": nn.Linear(5, 3)}
    with pytest.raises(ValueError, match=r"no exit 'layers\.7': its exits are layers\.0"):
        MultiExitModel.from_pretrained(tmp_path, **{**parts(), "exits": exits})


def test_a_changed_network_is_one_of_one_s_own(tmp_path: Path) -> None:
    model = made("exits")
    model.backbone.head = nn.Sequential(model.backbone.head)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a backbone 'small_mlp', which a file does not make"):
        MultiExitModel.from_pretrained(tmp_path)
    backbone = networks.small_mlp(4, 3, widths=(5, 5))
    backbone.head = nn.Sequential(backbone.head)
    assert_same(model, MultiExitModel.from_pretrained(tmp_path, backbone=backbone))


def test_wrappers_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    model = made("exits")
    head = model.heads[0]
    wrapped = MultiExitModel(
        nn.DataParallel(model.backbone), {"layers.0": head, "layers.1": head}, mask=None
    ).eval()
    wrapped.save_pretrained(tmp_path)
    x = torch.randn(6, 4)
    plain = MultiExitModel(model.backbone, {"layers.0": head, "layers.1": head}, mask=None).eval()
    assert all(map(torch.equal, MultiExitModel.from_pretrained(tmp_path)(x), plain(x)))


def test_predict_uses_the_policy_of_the_model() -> None:
    model = made("exits")
    x = torch.randn(6, 4)
    assert torch.equal(model.predict(x).logits, model.predict(x, model.policy).logits)
    model.policy = None
    with pytest.raises(TypeError, match=r"policy must be a Policy such as MaxSoftmax\(0.9\)"):
        model.predict(x)


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Mine(Policy):
        pass

    model = made("exits")
    model.policy = Mine(0.5)
    with pytest.raises(ValueError, match=r"policy is a Mine, which has no name: decorate"):
        model.save_pretrained(tmp_path / "a")
    model.policy = "max"
    with pytest.raises(TypeError, match=r"policy must be a Policy such as MaxSoftmax\(0.9\)"):
        model.save_pretrained(tmp_path / "a")
    model.policy = MaxSoftmax([0.5] * 5)
    with pytest.raises(ValueError, match="threshold has 5 entries"):
        model.save_pretrained(tmp_path / "a")
    layer = made("linear")
    prune.l1_unstructured(layer, "source_gain", 0.5)
    with pytest.raises(
        ValueError, match="cannot be rebuilt from its options, as it is a subclass,"
    ):
        layer.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="on the meta device"):
        LaplexHead(3, 2, device="meta").save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a" / "config.json").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file: pass a folder"):
        made("head").save_pretrained(tmp_path / "file")


def test_names_of_classes_are_texts_and_as_many_as_the_classes(tmp_path: Path) -> None:
    model = made("exits")
    model.save_pretrained(tmp_path)
    for names in ("abc", [1, 2, 3], 3, {"a": 1}, ("cat", "dog", None)):
        model.class_names = names
        with pytest.raises(TypeError, match="class_names must be a tuple of texts or None"):
            model.save_pretrained(tmp_path)
    for count in (0, 2, 4):
        model.class_names = ("cat",) * count
        with pytest.raises(ValueError, match=f"class_names has {count} entries for 3 classes"):
            model.save_pretrained(tmp_path)
    assert_same(made("exits"), MultiExitModel.from_pretrained(tmp_path))
    model.heads[0], model.backbone.head = nn.Linear(5, 4), nn.Linear(5, 4)
    model.class_names = ("cat",) * 4
    with pytest.raises(ValueError, match="has 4 entries for 3 classes"):  # of the other exit
        model.save_pretrained(tmp_path)
    model.heads[1] = nn.Linear(5, 4)
    model.save_pretrained(tmp_path)


def test_a_registered_policy_is_saved(tmp_path: Path) -> None:
    @POLICIES.register("of-this-test")
    class Mine(MaxSoftmax):
        pass

    try:
        model = made("exits")
        model.policy = Mine((0.25, 0.75), strict=True)
        model.save_pretrained(tmp_path)
        assert repr(MultiExitModel.from_pretrained(tmp_path).policy) == repr(model.policy)
    finally:
        POLICIES.unregister("of-this-test")
    with pytest.raises(ValueError, match="damaged network with exits: policy must be one of"):
        MultiExitModel.from_pretrained(tmp_path)


# --- model cards ----------------------------------------------------------------------------------


def test_a_card_has_the_numbers_of_the_model(tmp_path: Path) -> None:
    model = made("cedar")
    model.save_pretrained(
        tmp_path, results=[model.confirmation_], metadata={"license": "mit", "tags": ["x"]}
    )
    text = (tmp_path / "README.md").read_text()
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    for line in ("library_name: laplex", "license: mit", "pipeline_tag: feature-extraction", "- x"):
        assert line in head.splitlines()
    explained, confirmed = 1 - model.loss_curve_[-1], model.confirmed_.sum()
    assert f"on these rows at the end of the fit | {explained:.1%} |" in body
    assert f"| axes that disjoint parts of the rows confirm | {confirmed} of 6 (" in body
    assert "| rows that it was fitted to | 200 |" in body
    assert model.confirmation_.table() in body


def test_a_card_shows_an_evaluation(tmp_path: Path) -> None:
    model = made("resnet")
    with torch.no_grad():
        logits = torch.stack(model(images(50)))
    outputs = Outputs(logits.numpy(), np.arange(50) % 10, model.output_names)
    found = evaluate_outputs(outputs, np.array([0.3, 0.6, 1.0]), policy=MaxSoftmax(0.2))
    model.save_pretrained(tmp_path, results=[found], metadata={"datasets": ["noise"]})
    text = (tmp_path / "README.md").read_text()
    assert found.table() in text
    assert f"{found.accuracy[-1]:.1%} |" in text
    assert f"{found.operating_point.accuracy:.1%} at {found.operating_point.cost:.1%}" in text
    library = pytest.importorskip("huggingface_hub")
    (read,) = library.ModelCard.load(tmp_path / "README.md").data.eval_results
    assert (read.metric_type, read.dataset_name) == ("accuracy", "noise")
    assert read.metric_value == found.accuracy[-1]


def test_a_card_of_somebody_else_stays(tmp_path: Path) -> None:
    layer = made("linear")
    (tmp_path / "README.md").write_text("mine")
    layer.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "README.md").unlink()
    layer.save_pretrained(tmp_path)
    made("head").save_pretrained(tmp_path)
    assert "LaplexHead" in (tmp_path / "README.md").read_text()


def test_bad_cards_are_refused(tmp_path: Path) -> None:
    layer = made("linear")
    with pytest.raises(
        TypeError, match=r"results must hold results of Laplex, which have a method"
    ):
        layer.save_pretrained(tmp_path / "a", results=[3])
    with pytest.raises(ValueError, match="metadata must hold texts, numbers, lists"):
        layer.save_pretrained(tmp_path / "a", metadata={"license": object()})
    with pytest.raises(TypeError, match=r"got a Confirmation: pass a single one as \[result\]"):
        layer.save_pretrained(tmp_path / "a", results=made("cedar").confirmation_)
    bad: list[tuple[Any, str]] = [
        (["license"], "metadata must be a mapping such as"),
        ({1: 2}, "the keys of metadata must be texts, got 1"),
        *(({key: 3}, f"metadata..{key}.. must be a text or a list") for key in SEVERAL),
        *(({key: {"x": 1}}, f"metadata..{key}.. must be a text or a list") for key in SEVERAL),
        *(({key: [None]}, f"metadata..{key}.. must be a text or a list") for key in SEVERAL),
        ({"license": ["mit"]}, "metadata..license.. must be a text, got"),
        ({"model_name": 3}, "metadata..model_name.. must be a text, got 3"),
    ]
    for metadata, message in bad:
        with pytest.raises(TypeError, match=message):
            layer.save_pretrained(tmp_path / "a", metadata=metadata)
    assert not (tmp_path / "a").exists()


SEVERAL = ("base_model", "datasets", "language", "metrics", "tags")


def test_metadata_may_be_one_text_a_list_of_it_or_none(tmp_path: Path) -> None:
    def card(**metadata: Any) -> str:
        made("linear").save_pretrained(tmp_path, metadata=metadata)
        return (tmp_path / "README.md").read_text()

    plain = card()
    for key in (*SEVERAL, "license", "model_name"):
        assert card(**{key: None}) == plain
    for key in SEVERAL:
        assert card(**{key: "biology"}) == card(**{key: ["biology"]}) != plain
        assert "- biology\n" in card(**{key: ("biology", "art")})


def test_what_a_card_quotes_cannot_end_its_block(tmp_path: Path) -> None:
    class Table:
        def table(self) -> str:
            return "```\n# a heading of its own"

    made("linear").save_pretrained(tmp_path, results=[Table()])
    assert "````\n```\n# a heading of its own\n````" in (tmp_path / "README.md").read_text()
