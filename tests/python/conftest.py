"""One pytest session for all test files: their shared modules are importable by name."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch is imported: its threads then wait without spinning, which costs as much as the work
# where several processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Inductor's caches on the disk return code with vector instructions to processes that compile
# without: what other runs left there, perhaps on another processor, must not decide a test.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")
# Figures are written, never shown.
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))
if importlib.util.find_spec("torchvision") is not None:
    import torchvision_import  # noqa: F401


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread, which small matrices are better off with.

    MKL's LU of a batch may spin for ever on several.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seeded() -> None:
    """Torch's random numbers are those of every other run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def importable_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are modules."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run an example that draws one figure in this process, and return what it prints."""

    def running(name: str, *arguments: str) -> str:
        script = Path(__file__).parents[2] / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *arguments, "--out", str(tmp_path)])
        runpy.run_path(str(script), run_name="__main__")
        assert (tmp_path / f"{name}.png").exists()
        return capsys.readouterr().out

    return running


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in the foreground: without job control, a background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


if os.environ.get("LAPLEX_EMULATED_CUDA") == "1":
    import emulated_cuda

    emulated_cuda.install()


@pytest.fixture(scope="module")
def one_table_of_operators() -> Iterator[None]:
    """Torch's exporter makes its table of ONNX operators anew for each file, for half a second."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):  # another version of torch: slower, not otherwise
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            made_once = functools.cache(ONNXRegistry.from_torchlib)
            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(made_once))
        yield
