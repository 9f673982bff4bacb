"""``laplex cedar``: what it writes agrees with the library; what goes wrong is one sentence."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

import command_cases
from command_cases import command, without
from laplex._support.complete_files import replacing
from laplex.cedar import CEDAR, fitting, read_codes
from laplex.cedar.files import list_pictures, read_lines
from laplex.cedar.metrics import fve
from laplex.cedar.naming import name_axes
from laplex.cli.cedar import app

D = 10
run = functools.partial(command_cases.run, app)
fails = functools.partial(command_cases.fails, app)


def make(seed: int = 0, rows: int = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((rows, D)) * (rng.random((rows, D)) < 0.2)
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0]
    return (codes @ turn + 1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Embeddings, a model, words."""
    path = tmp_path_factory.mktemp("cedar")
    np.save(path / "z.npy", make())
    model = CEDAR(k=2, n_init=3, random_state=0).fit(make())
    model.save(path / "model")
    words = [f"{sign}{i}" for sign in ("up", "down") for i in range(D)]
    (path / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    np.save(path / "t.npy", np.concatenate([model.atoms_, -model.atoms_]))
    return path


# --- fit ------------------------------------------------------------------------------------------


def test_fit_is_the_library_s(folder, tmp_path):
    out, error = run("fit", folder / "z.npy", "--out", tmp_path / "m", "-k", 2, "--seed", 0)
    assert error == ""
    mine, theirs = CEDAR.load(tmp_path / "m"), CEDAR.load(folder / "model")
    # 3 starts by default. Rows that were read lie elsewhere in memory, and a library's products
    # may differ in their last bits for that; single precision, and some ten passes.
    np.testing.assert_allclose(mine.restarts_, theirs.restarts_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(mine.mean_, theirs.mean_, rtol=1e-6)
    assert "10 of 10 axes are confirmed" in out
    assert str(tmp_path / "m") in out
    # The loss is in parts of the variance of the training rows.
    said = float(out.split("axes: ")[1].split(" ")[0])
    assert said == pytest.approx(theirs.score(make()), abs=1e-4)


def test_fit_takes_every_option(folder, tmp_path):
    options = ["-k", 2, "-k", 4, "--basis", "invertible", "--solver", "adam", "--n-init", 1]
    options += ["--max-iter", 5, "--batch-size", 64, "--learning-rate", 0.02, "--tol", 0.001]
    options += ["--center", "learned", "--seed", 7, "--device", "cpu"]
    out, _ = run("fit", folder / "z.npy", "--out", tmp_path / "a" / "b", *options)
    assert "one start" in out
    found = CEDAR.load(tmp_path / "a" / "b").get_params()
    expected = {
        "k": [2, 4],
        "basis": "invertible",
        "solver": "adam",
        "center": "learned",
        "n_init": 1,
        "random_state": 7,
        "max_iter": 5,
        "tol": 0.001,
        "batch_size": 64,
        "learning_rate": 0.02,
        "device": None,
    }
    assert {name: found[name] for name in expected} == expected


def test_fit_says_what_each_k_explains(folder, tmp_path):
    out, _ = run("fit", folder / "z.npy", "--out", tmp_path / "m", "-k", 4, "-k", 2)
    model = CEDAR.load(tmp_path / "m")
    lines = out.splitlines()
    for line, k in zip(lines, (2, 4), strict=False):
        back = model.inverse_transform(model.transform(make(), k))
        assert line == (
            f"fraction of variance explained by {k} of 10 axes: {fve(make(), back):.4f} "
            "(training rows)"
        )


def test_files_folders_patterns_and_samples(folder, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, part in enumerate(np.split(make(), 3)):
        np.savez(shards / f"{number}.npz", emb=part, id=np.arange(100))
    monkeypatch.chdir(tmp_path)
    expected = CEDAR.load(folder / "model").transform(make())
    for given in (
        [shards, "--key", "emb"],
        ["shards/*.npz", "--key", "emb"],
        [*sorted(shards.glob("*.npz")), "--key", "emb"],
    ):
        out = tmp_path / "codes.parquet"
        assert "300 codes" in run("transform", folder / "model", *given, "--out", out)[0]
        np.testing.assert_allclose(read_codes(out).toarray(), expected, rtol=0, atol=1e-4)
    message = fails("fit", shards, "--key", "x", "--out", "m")
    assert "0.npz has no array 'x' (it has 'emb', 'id'): change the key" in message
    run("fit", shards, "--key", "emb", "-k", 2, "--max-rows", 50, "--out", tmp_path / "m")
    assert CEDAR.load(tmp_path / "m").n_samples_seen_ == 50
    before = (shards / "0.npz").read_bytes()
    assert "would replace" in fails(
        "fit", shards, "--checkpoint", shards / "0.npz", "--out", "m", "-k", 2
    )
    assert (shards / "0.npz").read_bytes() == before


def test_fit_of_a_frame_with_the_usual_options(folder, tmp_path):
    run("fit", folder / "z.npy", "-k", 2, "--basis", "frame", "--tol", 0, "--out", tmp_path / "m")
    model = CEDAR.load(tmp_path / "m")
    assert len(model.atoms_) == 2 * model.n_features_in_
    assert model.confirmation_ is not None


def test_fit_resumes(folder, tmp_path, monkeypatch):
    fit = ["fit", folder / "z.npy", "-k", 2, "--max-iter", 8, "--tol", 0, "--n-init", 2]
    run(*fit, "--out", tmp_path / "whole")
    checkpoint = tmp_path / "state"
    keep = fitting._Run._keep
    calls = []

    def interrupted(self, start, state):
        keep(self, start, state)
        calls.append(start)
        if len(calls) == 11:
            raise OSError("power cut")

    monkeypatch.setattr(fitting._Run, "_keep", interrupted)
    assert "power cut" in fails(*fit, "--out", tmp_path / "rest", "--checkpoint", checkpoint)
    assert calls[-1] == 1  # the second start was under way
    assert not (tmp_path / "rest").exists()
    monkeypatch.undo()
    passes = []

    def counted(self, start, state):
        keep(self, start, state)
        passes.append(start)

    monkeypatch.setattr(fitting._Run, "_keep", counted)
    run(*fit, "--out", tmp_path / "rest", "--checkpoint", checkpoint, "--resume")
    assert 0 < len(passes) < 8
    np.testing.assert_array_equal(
        CEDAR.load(tmp_path / "rest").restarts_, CEDAR.load(tmp_path / "whole").restarts_
    )
    message = fails(*fit, "--out", tmp_path / "x", "--resume")
    assert "--checkpoint" in message


def test_fit_failures(folder, tmp_path):
    holes = make()
    holes[17, 2] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    before = set(tmp_path.iterdir())
    fit = ["fit", folder / "z.npy", "--out"]
    assert "holes.npy: X has NaN or infinity in row 17" in fails(
        "fit", tmp_path / "holes.npy", "-k", 2, "--out", tmp_path / "m" / "n"
    )
    assert "-k 32 is more than the 10 columns" in fails(*fit, tmp_path / "m")
    assert "z.npy is a file: pass a folder" in fails(*fit, folder / "z.npy", "-k", 2)
    assert "--out /proc/m cannot be written" in fails(*fit, "/proc/m", "-k", 2)
    assert "--device nothing cannot be used" in fails(
        *fit, tmp_path / "m", "-k", 2, "--device", "nothing"
    )
    assert "folder does not exist" in fails(
        *fit, tmp_path / "m", "-k", 2, "--checkpoint", tmp_path / "no" / "state"
    )
    assert "'adam'" in fails(
        *fit, tmp_path / "m", "-k", 2, "--basis", "invertible", "--solver", "procrustes"
    )
    assert set(tmp_path.iterdir()) == before


def test_usage_errors(folder):
    for wrong in (["fit", folder / "z.npy"], ["fit", "--out", "m"], ["name", folder / "model"]):
        run(*wrong, status=2)
    run("fit", folder / "z.npy", "--out", "m", "-k", 0, status=2)
    run("fit", folder / "z.npy", "--out", "m", "--transform", "rotation", status=2)


# --- transform ------------------------------------------------------------------------------------


def test_transform_writes_the_library_s_codes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("laplex.cedar.rows._BATCH_BYTES", 64 * D * 8)  # several batches
    model, rows = CEDAR.load(folder / "model"), make(1)
    np.save(tmp_path / "new.npy", rows)
    for k, options in ((2, []), (3, ["-k", 3])):
        expected = model.transform(rows, k=k)
        for suffix in ("npy", "npz"):
            out, _ = run(
                "transform",
                folder / "model",
                tmp_path / "new.npy",
                "--out",
                tmp_path / f"c.{suffix}",
                *options,
            )
            assert f"300 codes with at most {k}" in out
        dense = np.load(tmp_path / "c.npy")
        sparse = scipy.sparse.load_npz(tmp_path / "c.npz")
        assert dense.dtype == np.float32
        assert sparse.format == "csr"
        np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(sparse.toarray() != 0, dense != 0)
        np.testing.assert_allclose(sparse.toarray(), dense, rtol=1e-5, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"new.npy", "c.npy", "c.npz"}


def test_transform_warns_of_other_data(folder, tmp_path):
    np.save(tmp_path / "far.npy", make() + 100)
    _, error = run("transform", folder / "model", tmp_path / "far.npy", "--out", tmp_path / "c.npz")
    assert error.startswith("warning: the mean of X is")
    assert error.count("\n") == 1


def test_transform_failures(folder, tmp_path):
    broken = make()
    broken[250] = np.inf
    np.save(tmp_path / "holes.npy", broken)
    np.save(tmp_path / "narrow.npy", make()[:, :4])
    (tmp_path / "c.npy").write_bytes(b"older")
    before = set(tmp_path.iterdir())
    codes = ["--out", tmp_path / "c.npy"]
    model = folder / "model"
    assert "holes.npy: embeddings has NaN or infinity in row 250" in fails(
        "transform", model, tmp_path / "holes.npy", *codes
    )
    assert "have 4 columns" in fails("transform", model, tmp_path / "narrow.npy", *codes)
    assert ".npz (sparse)" in fails("transform", model, folder / "z.npy", "--out", "c.txt")
    assert "-k 11 is more" in fails("transform", model, folder / "z.npy", *codes, "-k", 11)
    assert "holds no model" in fails("transform", tmp_path, folder / "z.npy", *codes)
    assert "there is no folder" in fails(
        "transform", model, folder / "z.npy", "--out", tmp_path / "no" / "c.npy"
    )
    assert (tmp_path / "c.npy").read_bytes() == b"older"
    assert set(tmp_path.iterdir()) == before


# --- name and report ------------------------------------------------------------------------------


def test_name(folder, tmp_path):
    words = ["--words", folder / "words.txt", "--text-embeddings", folder / "t.npy"]
    out, error = run("name", folder / "model", *words, "--out", tmp_path / "n.json", "--top", 3)
    assert error == ""
    expected = name_axes(
        CEDAR.load(folder / "model"), np.load(folder / "t.npy"), read_lines(folder / "words.txt")
    )
    assert out == expected.table(3) + "\n"
    assert json.loads((tmp_path / "n.json").read_text("utf-8")) == json.loads(expected.to_json())
    out, _ = run("name", folder / "model", *words, "--threshold", 1.5)
    assert out.startswith("0 of 10 axes have a name")
    (tmp_path / "few.txt").write_text("a\nb")
    message = fails("name", folder / "model", "--words", tmp_path / "few.txt", *words[2:])
    assert "few.txt has 2 lines" in message
    assert "t.npy has 20 rows" in message


def test_name_after_one_start(folder, tmp_path):
    CEDAR(k=2, random_state=0).fit(make()).save(tmp_path / "one")
    words = ["--words", folder / "words.txt", "--text-embeddings", folder / "t.npy"]
    out, error = run("name", tmp_path / "one", *words)
    assert error.startswith("warning: names are unconfirmed")
    assert "--n-init 3" in error
    assert "UNCONFIRMED" in out
    assert run("name", tmp_path / "one", *words, "--all-axes")[1] == ""


def test_name_all_axes_says_which_are_confirmed(folder, tmp_path):
    noise = np.random.default_rng(0).standard_normal((300, 10))
    model = CEDAR(k=2, n_init=3, max_iter=5, random_state=0).fit(noise)
    model.save(tmp_path / "three")
    words = ["--words", folder / "words.txt", "--text-embeddings", folder / "t.npy"]
    options = ["--threshold", -1, "--all-axes", "--out", tmp_path / "n.json"]
    out, error = run("name", tmp_path / "three", *words, *options)
    assert error == ""
    assert out.startswith("10 of 10 axes have a name with a cosine of at least -1.000; ")
    assert "UNCONFIRMED" not in out
    confirmed = {line.split()[0]: line.split()[1] for line in out.splitlines()[2:]}
    assert confirmed == {str(i): "no" for i in range(10)}
    assert json.loads((tmp_path / "n.json").read_text("utf-8"))["tested"] is True


def test_report_and_browse(folder, tmp_path):
    (tmp_path / "items.txt").write_text("".join(f"item {i}\n" for i in range(300)))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in range(300):
        Image.new("L", (4, 4), row % 256).save(pictures / f"{row:03}.png")
    (pictures / "notes.txt").write_text("no picture")
    page = tmp_path / "r.html"
    out, error = run(
        "report",
        folder / "model",
        folder / "z.npy",
        *("--out", page, "--words", folder / "words.txt"),
        *("--text-embeddings", folder / "t.npy", "--items", tmp_path / "items.txt"),
        *("--images", pictures, "--no-compare", "--max-axes", 2, "--title", "Mine"),
    )
    assert (out, error) == (f"report: {page}\n", "")
    html = page.read_text("utf-8")
    for part in ("<title>Mine</title>", "item ", "class=rough", "class=name"):
        assert part in html
    assert "--words and --text-embeddings go together" in fails(
        "report", folder / "model", folder / "z.npy", "--words", folder / "words.txt"
    )
    browser = tmp_path / "b.html"
    out, error = run(
        "browse",
        folder / "model",
        folder / "z.npy",
        *("--out", browser, "--words", folder / "words.txt"),
        *("--text-embeddings", folder / "t.npy", "--items", tmp_path / "items.txt"),
        *("--images", pictures, "--examples", 2, "--thumbnail-size", 3, "--title", "Mine"),
    )
    assert (out, error) == (f"browser: {browser}\n", "")
    html = browser.read_text("utf-8")
    for part in ("<title>Mine</title>", '"item 299"', '"examples":2', 'id="pictures-1"'):
        assert part in html
    (tmp_path / "items.txt").write_text("one")
    for option, path in (("--items", tmp_path / "items.txt"), ("--images", folder)):
        message = fails("report", folder / "model", folder / "z.npy", option, path)
        assert "no pictures" in message or "must be one for each row" in message


# --- files ----------------------------------------------------------------------------------------


def test_inputs_are_never_written_over(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, make())
    before = path.read_bytes()
    for arguments in (
        ["fit", path, "--out", tmp_path / "m", "-k", 2, "--checkpoint", path],
        ["transform", tmp_path / "m", path, "--out", path],
    ):
        assert "would replace the embeddings" in run(*arguments, status=1)[1]
    assert path.read_bytes() == before


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        list_pictures(tmp_path / "b")


def test_lines(tmp_path):
    path = tmp_path / "w.txt"
    path.write_bytes("\ufeffä\r\n\nb\u2028c\n".encode())
    assert read_lines(path) == ["ä", "", "b\u2028c"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_lines(path)


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


# --- the command itself ---------------------------------------------------------------------------


def test_a_real_run(folder, tmp_path):
    result = command("cedar", "fit", folder / "z.npy", "--out", tmp_path / "m", "-k", 2)
    assert (result.returncode, result.stderr) == (0, "")
    assert CEDAR.load(tmp_path / "m").k_ == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["cedar", "demo", "info"]),
        (["cedar", "--help"], ["fit", "transform", "name", "report", "browse"]),
        (["cedar", "fit", "-h"], ["--checkpoint", "--resume", "--n-init", "procrustes"]),
    ],
)
def test_help_needs_no_torch(arguments, expected):
    result = command(*arguments, before=without("torch", "sklearn", "scipy", "matplotlib"))
    assert result.returncode == 0, result.stderr
    for word in expected:
        assert word in result.stdout


def test_without_torch_one_sentence(folder, tmp_path):
    fit = ("cedar", "fit", folder / "z.npy", "--out", tmp_path / "m")
    result = command(*fit, before=without("torch"))
    assert result.returncode == 1
    assert result.stderr == 'error: laplex cedar fit needs torch: pip install "laplex[cedar]"\n'
    assert not (tmp_path / "m").exists()


def test_an_error_of_its_own_is_not_hidden(folder, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr("laplex.cedar.code_files.write_codes", broken)
    with pytest.raises(KeyError):
        run("transform", folder / "model", folder / "z.npy", "--out", tmp_path / "c.npz")
