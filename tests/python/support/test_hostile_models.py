"""Files of models that somebody else wrote: nothing is trusted, and nothing but data is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laplex.cedar import CEDAR
from laplex.early_exit import MultiExitModel
from laplex.nn import LaplexLinear
from pretrained_cases import made, results
from strategies import quick

CLASSES: dict[str, Any] = {"linear": LaplexLinear, "exits": MultiExitModel, "cedar": CEDAR}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the small models."""
    folders = {name: tmp_path_factory.mktemp("saved") / name for name in CLASSES}
    for name, folder in folders.items():
        made(name).save_pretrained(folder)
    return folders


def load(name: str, folder: Path) -> Any:
    """Load a model of a folder, or None where it is refused in the documented way."""
    try:
        model = CLASSES[name].from_pretrained(folder)
    except (ValueError, FileNotFoundError) as error:
        told = str(error)
    else:
        with contextlib.suppress(ValueError):  # such as a layout that the activations do not have
            results(model)
        return model
    assert str(folder) in told
    return None


def rewritten(folder: Path, to: Path, config: Any, tensors: bytes) -> Path:
    """A folder with other files, whose digest is right if the configuration is an object."""
    if isinstance(config, dict):
        config = {**config, "tensors": hashlib.sha256(tensors).hexdigest()}
    to.mkdir(exist_ok=True)
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes(tensors)
    return to


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in nested lists and objects."""
    found = [at]
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(one, (*at, key))
    return found


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


HOSTILE = st.one_of(
    st.sampled_from(
        (
            *(None, True, [], {}, [[]], [1, 2], {"a": 1}, 0, -1, 1.5, 1e308, -0.0),
            *(10**9, 10**30, 2**63, "", "../../etc/passwd", "float16", "meta", "\x00"),
        )
    ),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)


@pytest.mark.filterwarnings("ignore::laplex.cedar.DriftWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("name", CLASSES)
def test_hostile_configurations_are_refused(
    name: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((saved[name] / "config.json").read_text())
    tensors = (saved[name] / "model.safetensors").read_bytes()
    where = places(config)

    @quick
    @given(st.sampled_from(where), HOSTILE)
    def check(at: tuple[Any, ...], new: Any) -> None:
        load(name, rewritten(saved[name], tmp_path / "b", replaced(config, at, new), tensors))

    check()


@pytest.mark.filterwarnings("ignore::laplex.cedar.DriftWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_hostile_tensors_are_refused(name: str, saved: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((saved[name] / "config.json").read_text())
    content = (saved[name] / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    where = [at for at in places(header) if at]

    @quick
    @given(
        st.sampled_from(where),
        HOSTILE | st.sampled_from(["F64", "I64", "BOOL", [0, 4], [2**40, 1], [0]]),
        st.integers(0, len(content)),
        st.integers(0, 255),
        st.sampled_from(["header", "byte", "cut", "size"]),
    )
    def check(at: tuple[Any, ...], new: Any, place: int, byte: int, how: str) -> None:
        changed = content
        if how == "header":
            text = json.dumps(replaced(header, at, new)).encode()
            changed = struct.pack("<Q", len(text)) + text + data
        elif how == "byte":
            changed = content[:place] + bytes([byte]) + content[place + 1 :]
        elif how == "cut":
            changed = content[:place]
        else:
            changed = struct.pack("<Q", byte << (place % 56)) + content[8:]
        load(name, rewritten(saved[name], tmp_path / "b", config, changed))

    check()


@pytest.mark.parametrize("name", CLASSES)
def test_files_that_are_no_json_are_refused(
    name: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    content = (saved[name] / "config.json").read_bytes()
    tensors = (saved[name] / "model.safetensors").read_bytes()
    folder = rewritten(saved[name], tmp_path, {}, tensors)
    nan = content.replace(b'"format": 1', b'"format": NaN')
    deep = b"[" * 10**6
    for text in (
        b"",
        b"\xff",
        content[:-9],
        nan,
        deep,
        b'{"a":' * 10**5,
        b"1" * 10**5,
        b"[]",
        b"3",
    ):
        (folder / "config.json").write_bytes(text)
        assert load(name, folder) is None
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ValueError, match="has more than 67108864 bytes"):
        CLASSES[name].from_pretrained(folder)
    for missing in ("config.json", "model.safetensors"):
        folder = rewritten(saved[name], tmp_path / f"no {missing}", json.loads(content), tensors)
        (folder / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"there is no {missing} in it"):
            CLASSES[name].from_pretrained(folder)


def test_sizes_are_compared_before_memory_is_taken(saved: dict[str, Path], tmp_path: Path) -> None:
    for name, at, new in (
        ("linear", ("options", "in_features"), 10**15),
        ("linear", ("options", "heads"), 2**62),
        ("exits", ("backbone", "options", "widths"), [10**9, 10**9]),
        ("exits", ("backbone", "options", "widths"), [1] * 10**5),
        ("exits", ("backbone",), {"name": "small_vit", "class": "", "options": {"depth": 10**9}}),
        (
            "exits",
            ("backbone",),
            {"name": "small_resnet", "class": "", "options": {"blocks": [9**9]}},
        ),
        ("exits", ("exits", 0, "head", "options", "classes"), 10**15),
        ("exits", ("policy", "scorer", "values", "classes"), 10**15),
        ("cedar", ("fitted", "n_features_in_"), 10**15),
    ):
        config = json.loads((saved[name] / "config.json").read_text())
        tensors = (saved[name] / "model.safetensors").read_bytes()
        folder = rewritten(saved[name], tmp_path, replaced(config, at, new), tensors)
        with pytest.raises(ValueError, match=f"{folder} holds a damaged"):
            CLASSES[name].from_pretrained(folder)


def test_files_choose_nothing_that_is_imported(saved: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((saved["exits"] / "config.json").read_text())
    tensors = (saved["exits"] / "model.safetensors").read_bytes()
    (tmp_path / "modeling.py").write_text("raise SystemExit('this was run')")
    before = set(sys.modules)
    for name in ("os:system", "modeling:make", "timm:resnet18", "transformers:bert", "EXITS", "nn"):
        other = {**config, "backbone": {**config["backbone"], "name": name}}
        rewritten(saved["exits"], tmp_path, other, tensors)
        with pytest.raises(ValueError, match=f"a backbone {name!r}, which a file does not make"):
            MultiExitModel.from_pretrained(tmp_path)
    assert not {"timm", "transformers", "modeling"} & (set(sys.modules) - before)


def test_a_model_of_another_class_or_a_newer_version_is_refused(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a layer: it is one of a laplex\.cedar\.CEDAR"):
        LaplexLinear.from_pretrained(saved["cedar"])
    with pytest.raises(ValueError, match=r"a CEDAR model: it is one of a laplex\.nn\.LaplexLinear"):
        CEDAR.from_pretrained(saved["linear"])
    config = json.loads((saved["linear"] / "config.json").read_text())
    rewritten(saved["linear"], tmp_path, {**config, "format": 2, "laplex": "9.9"}, b"")
    with pytest.raises(
        ValueError, match=r"was saved in format 2, .* use version 9\.9, which saved"
    ):
        LaplexLinear.from_pretrained(tmp_path)
