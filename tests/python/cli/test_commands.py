"""The command line: what it prints and the status it exits with."""

import subprocess
import sys

import numpy as np
import pytest

import laplex
from command_cases import command as run
from command_cases import without
from laplex import _core


def test_version():
    result = run("--version")
    assert (result.returncode, result.stdout.strip()) == (0, laplex.__version__)


def test_info():
    result = run("info")
    assert result.returncode == 0
    core = _core.info()
    for expected in (core["version"], core["isa"], core["compiler"], str(core["threads"])):
        assert str(expected) in result.stdout
    for line in ("CUDA", "NumPy", "torch"):
        assert line in result.stdout


def test_info_does_not_import_torch():
    result = run("info", before=without("torch"))
    assert result.returncode == 0, result.stderr


def test_info_of_several_processes_is_printed_once():
    first, second = (run("info", RANK=rank, WORLD_SIZE="2") for rank in "01")
    assert "processes" in first.stdout
    assert "rank 0 of 2 (launched by torchrun" in " ".join(first.stdout.split())
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


def test_a_bad_number_of_threads_is_a_sentence():
    assert run("--version", LAPLEX_NUM_THREADS="many").returncode == 0
    result = run("info", LAPLEX_NUM_THREADS="many")
    assert result.returncode == 1
    assert 'LAPLEX_NUM_THREADS must be a positive integer, got "many"' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_the_commands(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    assert "demo" in result.stdout
    assert "info" in result.stdout
    assert "--version" in result.stdout


def test_help_of_the_demo():
    result = run("demo", "--help")
    assert result.returncode == 0
    for option in ("--data", "--out", "--epochs", "--seed", "--quick", "fashion-mnist"):
        assert option in result.stdout


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_its_packages_one_sentence(package):
    result = run("info", before=without(package))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f'the laplex command needs {package}: pip install "laplex[demo]"\n'


@pytest.mark.parametrize(
    ("package", "needed"),
    [("torch", "torch"), ("matplotlib", "matplotlib"), ("sklearn", "sklearn")],
)
def test_demo_without_its_packages(package, needed):
    result = run("demo", "--quick", before=without(package))
    assert result.returncode == 1
    assert f'needs {needed}: pip install "laplex[demo]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_data_is_a_sentence_not_a_traceback(tmp_path):
    result = run("demo", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    assert result.returncode == 1
    assert "apt-get install dataset-fashion-mnist" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", ""], "the name of the data set is empty"),
        (["--data", "a file"], "a file is a file: pass the folder that contains it"),
        (["--out", "a file"], "cannot write a file/report.html"),
        (["--out", "taken"], "cannot write taken/report.html"),
        (["--out", "/proc/nowhere"], "cannot write /proc/nowhere/report.html"),
    ],
)
def test_bad_paths_are_named_before_any_work(arguments, message, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    result = run("demo", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_of_the_demo_itself_keeps_its_traceback(tmp_path):
    broken = "import laplex.demo as d; d.run_demo = lambda *_, **__: int('x')"
    result = run("demo", "--out", str(tmp_path / "out"), before=broken)
    assert result.returncode == 1
    assert "invalid literal" in result.stderr
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--epochs", "0"],
        ["demo", "--seed", "-1"],
        ["demo", "--seed", str(2**31)],
        ["train"],
        ["demo", "extra"],
    ],
)
def test_usage_errors(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert "Usage" in result.stderr


def test_python_m_laplex_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "laplex", "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.strip()) == (0, laplex.__version__)


MISTYPED = [
    ["demo", "--data", "nothing"],
    ["demo", "--out", "file"],
    ["cedar", "fit", "nothing.npy", "--out", "model"],
    ["cedar", "fit", "rows.npy", "--out", "file"],
    ["cedar", "fit", "run", "--out", "new"],
    ["cedar", "transform", "nothing", "rows.npy", "--out", "codes.npz"],
    ["cedar", "transform", "model", "nothing.npy", "--out", "codes.npz"],
    ["cedar", "transform", "model", "rows.npy", "--out", "nowhere/codes.npz"],
    ["cedar", "name", "nothing", "--words", "file", "--text-embeddings", "rows.npy"],
    ["cedar", "name", "model", "--words", "nothing", "--text-embeddings", "rows.npy"],
    ["cedar", "name", "model", "--words", "file", "--text-embeddings", "nothing.npy"],
    ["cedar", "name", "model", "--words", "file", "--text-embeddings", "rows.npy", "--out", "run"],
    ["cedar", "report", "nothing", "rows.npy"],
    ["cedar", "report", "model", "nothing.npy"],
    ["cedar", "report", "model", "rows.npy", "--out", "nowhere/page.html"],
    ["cedar", "report", "model", "rows.npy", "--items", "nothing"],
    ["cedar", "report", "model", "rows.npy", "--images", "nothing"],
    ["exits", "train", "nothing.yaml"],
    ["exits", "train", "run"],
    ["exits", "train", "--data", "nothing"],
    ["exits", "train", "--out", "file"],
    ["exits", "train", "--resume", "--out", "nothing"],
    ["exits", "evaluate", "nothing"],
    ["exits", "evaluate", "run", "--out", "nowhere/page.html"],
    ["exits", "analyze", "nothing"],
    ["exits", "analyze", "run", "--other", "nothing"],
    ["exits", "export", "nothing", "--out", "files"],
    ["exits", "export", "run", "--out", "file"],
    ["exits", "export", "run", "--out", "file/files"],
    ["exits", "export", "run", "--out", "model"],
    ["exits", "report", "nothing"],
    ["exits", "report", "run", "--out", "nowhere/page.html"],
]


def test_a_mistyped_path_is_answered_before_torch_is_imported(tmp_path):
    # Importing torch takes seconds; a mistyped path should not.
    (tmp_path / "file").write_text("a word\n")
    np.save(tmp_path / "rows.npy", np.zeros((1, 2)))
    for folder, names in (
        ("model", ["config.json", "model.safetensors"]),
        ("run", ["config.yaml", "weights.pt"]),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    code = f"""
import contextlib, io, os
from laplex.cli import main
os.chdir({str(tmp_path)!r})
for arguments in {MISTYPED!r}:
    sys.argv[1:] = arguments
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    slow = [name for name in ("torch", "sklearn", "scipy") if name in sys.modules]
    print(status, said.getvalue().count("\\n"), slow, *arguments, "|", said.getvalue().strip())
"""
    result = run(code=code)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(MISTYPED)
    for line, arguments in zip(lines, MISTYPED, strict=True):
        assert line.startswith(f"1 1 [] {' '.join(arguments)} | error: "), line
    assert sorted(tmp_path.rglob("*")) == before
