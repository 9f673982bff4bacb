"""What someone with the wheel and NumPy alone gets; run by `make wheel` in such an environment."""

import importlib.metadata
import importlib.util
import sys

import numpy as np

import laplex

assert importlib.util.find_spec("torch") is None, "torch must not be installed here"

files = importlib.metadata.files("laplex") or []
strays = [str(f) for f in files if f.suffix in {".a", ".hpp", ".cmake", ".cpp"}]
assert not strays, f"the wheel carries C++ development files: {strays}"
assert any(f.name == "py.typed" for f in files), "the wheel lost py.typed"

x = np.array([0.0, 1.0, 2.5])
y = np.array([0.5, 1.0])
v = np.array([2.0, -1.0])
dense = np.exp(-np.abs(x[:, None] - y[None, :]) / 0.7)
error = np.abs(laplex.Plan(x, y, lengthscale=0.7).apply(v) - dense @ v)
assert np.all(error <= 1e-14 * (np.abs(dense) @ np.abs(v))), error

star: dict[str, object] = {}
exec("from laplex import *", star)
assert "Plan" in star

for name in ("matvec", "LaplaceOperator", "nn"):
    message = "nothing: it works?"
    try:
        getattr(laplex, name)
    except ImportError as error:
        message = str(error)
    print(f"laplex.{name} without torch: {message}")
    assert "laplex[torch]" in message
assert "torch" not in sys.modules

# With a CUDA backend in it or not, it loads without CUDA, and says what is missing when asked.
if laplex._core.cuda_device_count() == 0:
    message = "nothing: there is a device?"
    try:
        laplex._core.cuda_require_device()
    except RuntimeError as error:
        message = str(error)
    print(f"CUDA: {message}")
    assert ("no CUDA device" if laplex._core.has_cuda else "for the CPU alone") in message

print(f"laplex {importlib.metadata.version('laplex')} works with NumPy {np.__version__} alone")
