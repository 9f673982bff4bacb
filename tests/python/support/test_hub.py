"""Pushing to a hub on the loopback address, and pulling from it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_hub import FakeHub, instead_of_the_real_one
from laplex.early_exit import MultiExitModel
from laplex.nn import LaplexHead, LaplexLinear
from pretrained_cases import assert_same, made

constants = pytest.importorskip("huggingface_hub.constants")

OURS = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with instead_of_the_real_one(monkeypatch, tmp_path) as found:
        yield found


def push(model: Any, repo: str = "me/model", **options: Any) -> str:
    url: str = model.push_to_hub(repo, token="hf_right", **options)
    return url


@pytest.mark.parametrize("name", ["linear", "exits", "cedar"])
def test_what_is_pushed_is_pulled_with_the_same_bits(
    name: str, hub: FakeHub, tmp_path: Path
) -> None:
    model = made(name)
    url = push(model, metadata={"license": "mit"})
    assert url == f"{hub.endpoint}/me/model/commit/{hub.branches['me/model']['main']}"
    assert sorted(hub.files("me/model")) == [".gitattributes", *OURS]
    card = hub.files("me/model")["README.md"].decode()
    assert "license: mit" in card
    assert 'from_pretrained("me/model")' in card
    hub.requests.clear()
    assert_same(model, type(model).from_pretrained("me/model", cache_dir=tmp_path / "other"))
    assert not (tmp_path / "cache").exists()
    asked = {one.split("/")[-1] for one in hub.requests}
    assert asked == {"config.json", "model.safetensors"}


def test_only_two_files_are_ever_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    """A repository may hold pickles and scripts: they stay there."""
    push(made("linear"))
    bad = dict.fromkeys(("pytorch_model.bin", "modeling.py", "a/config.json"), b"raise SystemExit")
    hub.commit("me/model", "main", bad)
    hub.requests.clear()
    assert_same(made("linear"), LaplexLinear.from_pretrained("me/model"))
    assert {one.split("/")[-1] for one in hub.requests} == {"config.json", "model.safetensors"}
    found = {path.name for path in (tmp_path / "cache").rglob("*") if not path.is_dir()}
    assert not found & {"pytorch_model.bin", "modeling.py"}


def test_revisions(hub: FakeHub) -> None:
    push(made("linear"))
    first = hub.branches["me/model"]["main"]
    push(made("head"), revision="other")
    push(made("half linear"))
    assert_same(made("half linear"), LaplexLinear.from_pretrained("me/model"))
    assert_same(made("linear"), LaplexLinear.from_pretrained("me/model", revision=first))
    assert_same(made("head"), LaplexHead.from_pretrained("me/model", revision="other"))
    with pytest.raises(FileNotFoundError, match="me/model has no revision 'none': pass a branch"):
        LaplexLinear.from_pretrained("me/model", revision="none")


def test_without_the_network_nothing_is_asked(hub: FakeHub) -> None:
    push(made("linear"))
    with pytest.raises(FileNotFoundError, match="me/model has not been downloaded completely"):
        LaplexLinear.from_pretrained("me/model", local_files_only=True)
    LaplexLinear.from_pretrained("me/model")
    hub.requests.clear()
    assert_same(made("linear"), LaplexLinear.from_pretrained("me/model", local_files_only=True))
    assert hub.requests == []


def test_missing_private_and_other_repositories(hub: FakeHub) -> None:
    push(made("linear"), "me/private", private=True)
    for name in ("me/none", "me/private"):
        with pytest.raises(FileNotFoundError, match=f"there is no folder '{name}', and the hub"):
            LaplexLinear.from_pretrained(name, token=False)
    assert_same(made("linear"), LaplexLinear.from_pretrained("me/private", token="hf_right"))
    with pytest.raises(FileNotFoundError, match="a repository has a name such as 'owner/model'"):
        LaplexLinear.from_pretrained("models/of/mine")
    hub.create("me/other")
    with pytest.raises(FileNotFoundError, match="me/other holds no model of Laplex"):
        LaplexLinear.from_pretrained("me/other")
    hub.commit(
        "me/other", "main", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}
    )
    hub.requests.clear()
    with pytest.raises(ValueError, match="does not describe a layer"):
        LaplexLinear.from_pretrained("me/other")
    assert not any("safetensors" in one for one in hub.requests)
    with pytest.raises(ValueError, match="Repo id must"):
        push(made("linear"), "a/b/c")


def test_a_hub_that_is_down(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = "http://127.0.0.1:1"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    url = closed + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    with pytest.raises(FileNotFoundError, match=r"the hub is not reached: check the network"):
        LaplexLinear.from_pretrained("me/model")
    with pytest.raises(OSError, match="the hub did not do what was asked for me/model"):
        push(made("linear"))


def test_a_hub_that_answers_with_errors(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(made("linear"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.broken = True
    for forced in (False, True):
        with pytest.raises(OSError, match="me/model") as found:
            LaplexLinear.from_pretrained("me/model", force_download=forced)
        assert "the hub" in str(found.value)
    with pytest.raises(OSError, match="the hub did not do what was asked for me/model"):
        push(made("linear"))


@pytest.mark.parametrize("name", ["linear", "exits", "cedar"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_download_is_told_and_replaced(
    name: str, file: str, hub: FakeHub, tmp_path: Path
) -> None:
    model = made(name)
    push(model)
    load = type(model).from_pretrained
    load("me/model")
    (found,) = (tmp_path / "cache").rglob(file)
    found.write_bytes(found.read_bytes()[:-20])
    with pytest.raises(ValueError, match="download them again with force_download=True"):
        load("me/model")
    assert_same(model, load("me/model", force_download=True))
    assert_same(model, load("me/model"))


def test_a_repository_without_an_owner_is_one_s_own(hub: FakeHub) -> None:
    push(made("linear"), "model")
    assert 'from_pretrained("me/model")' in hub.files("me/model")["README.md"].decode()
    assert_same(made("linear"), LaplexLinear.from_pretrained("me/model"))


def test_a_card_of_somebody_else_stays(hub: FakeHub) -> None:
    hub.create("me/model")
    hub.commit("me/model", "main", {"README.md": b"mine"})
    push(made("linear"))
    assert hub.files("me/model")["README.md"] == b"mine"
    assert set(OURS) < set(hub.files("me/model"))
    push(made("linear"), replace_card=True)
    assert b"library_name: laplex" in hub.files("me/model")["README.md"]
    push(made("head"))
    assert b"A LaplexHead of" in hub.files("me/model")["README.md"]


def test_what_cannot_be_saved_makes_no_repository(hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="on the meta device"):
        push(LaplexHead(3, 2, device="meta"))
    with pytest.raises(TypeError, match="metadata must be a mapping"):
        push(made("linear"), metadata=["license"])
    assert not any("create" in one for one in hub.requests)


def test_a_network_of_one_s_own_uses_the_mixin_of_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("huggingface_hub")

    class Network(torch.nn.Module, library.PyTorchModelHubMixin):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first = LaplexLinear(4, width)
            self.last = LaplexHead(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(self.first(x).relu())
            return found

    network = Network(width=7)
    network.save_pretrained(tmp_path)
    x = torch.randn(5, 4)
    assert torch.equal(Network.from_pretrained(tmp_path)(x), network(x))


def test_a_local_folder_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made("exits").save_pretrained(tmp_path)
    for name in [one for one in sys.modules if one.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # looks as if it were not installed
    assert_same(made("exits"), MultiExitModel.from_pretrained(tmp_path))
    message = r'a model card needs huggingface_hub: pip install "laplex\[hub\]"'
    with pytest.raises(ImportError, match=message):
        made("exits").save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"loading 'me/model' from the hub needs huggingface_hub"):
        MultiExitModel.from_pretrained("me/model")
