"""`import laplex` needs NumPy only; what needs more says which extra brings it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest

import laplex
from laplex._support.moved_modules import MOVED


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Makes the packages named look as if they were not installed.
HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""


def test_import_takes_no_optional_dependency():
    code = """
    import sys, laplex
    laplex.Plan([0.0, 1.0]).apply([1.0, 1.0])
    names = ("torch", "scipy", "sklearn", "matplotlib", "rich", "typer", "linear_operator")
    print([name for name in names if name in sys.modules])
    """
    assert run(code) == "[]"


@pytest.mark.parametrize("name", ["matvec", "LaplaceOperator", "nn"])
def test_without_torch_the_message_names_the_extra(name):
    code = f"""
    HIDDEN = {{"torch"}}
    {textwrap.indent(HIDE, "    ").strip()}
    import laplex
    print(laplex.Plan([0.0, 1.0]).shape)
    try:
        laplex.{name}
    except ImportError as error:
        print(error, error.name)
    """
    expected = f'(2, 2)\nlaplex.{name} needs torch: pip install "laplex[torch]" torch'
    assert run(code) == expected


@pytest.mark.parametrize("package", ["torch", "sklearn", "scipy", "safetensors"])
def test_cedar_names_its_extra(package):
    code = f"""
    HIDDEN = {{"{package}"}}
    {textwrap.indent(HIDE, "    ").strip()}
    try:
        from laplex.cedar import CEDAR
    except ImportError as error:
        print(error)
    """
    assert run(code) == f'laplex.cedar.CEDAR needs {package}: pip install "laplex[cedar]"'


def test_adapters_without_their_library():
    code = f"""
    HIDDEN = {{"scipy", "linear_operator", "torch"}}
    {textwrap.indent(HIDE, "    ").strip()}
    import laplex
    from laplex.adapters import to_linear_operator, to_scipy
    for adapt in (to_scipy, to_linear_operator):
        try:
            adapt(laplex.Plan([0.0, 1.0]))
        except ImportError as error:
            print(error)
    """
    assert run(code).splitlines() == [
        'laplex.adapters.to_scipy needs scipy: pip install "laplex[gp]"',
        'laplex.adapters.to_linear_operator needs linear_operator: pip install "laplex[gp]"',
    ]


def test_jax_names_its_extra():
    code = f"""
    HIDDEN = {{"jax"}}
    {textwrap.indent(HIDE, "    ").strip()}
    try:
        import laplex.jax
    except ImportError as error:
        print(error)
    """
    assert run(code) == 'laplex.jax needs jax: pip install "laplex[jax]"'


def test_a_broken_dependency_is_not_called_absent(tmp_path, monkeypatch):
    from laplex._support.optional import require

    (tmp_path / "broken_dependency.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        require("broken_dependency", extra="torch")
    with pytest.raises(ImportError, match=r'laplex needs absent_one: pip install "laplex\[demo\]"'):
        require("absent_one.part", extra="demo")


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_modules_that_have_moved_keep_their_old_names_for_a_release(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}:") as warned:
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert all(one.category is DeprecationWarning for one in warned)


def test_a_module_that_has_moved_is_found_as_an_attribute(monkeypatch):
    sys.modules.pop("laplex.plan", None)
    monkeypatch.delattr(laplex, "plan", raising=False)
    with pytest.warns(DeprecationWarning, match="moved to laplex.numpy.plan"):
        assert laplex.plan.Plan is laplex.Plan


def test_names():
    listed = dir(laplex)
    for name in laplex.__all__:
        assert name in listed
        assert getattr(laplex, name) is not None
    assert laplex.matvec is laplex.matvec
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        laplex.nonsense  # noqa: B018


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    assert laplex.__version__ == version("laplex")


def test_plan_cache():
    import torch

    laplex.plan_cache.clear()
    before = laplex.plan_cache.info()
    assert before.plans == 0
    try:
        x = torch.rand(50, requires_grad=True)
        laplex.matvec(torch.ones(50), x).sum().backward()
        info = laplex.plan_cache.info()
        # One sort for the product and its gradients, which keep the plan.
        assert info.plans == 1
        assert info.misses == before.misses + 1
        assert info.hits == before.hits
        assert 0 < info.bytes <= info.max_bytes
        laplex.plan_cache.set_max_bytes(0)
        assert laplex.plan_cache.info().plans == 0
        laplex.matvec(torch.ones(50), x)
        assert laplex.plan_cache.info().plans == 0
        with pytest.raises(ValueError, match="max_bytes must be 0 or more"):
            laplex.plan_cache.set_max_bytes(-1)
    finally:
        laplex.plan_cache.set_max_bytes(before.max_bytes)
