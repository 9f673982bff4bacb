"""What the torch operators on a GPU are given: numbers from the host.

Runs where test_cuda.py runs: on a GPU, or on the kernels' emulation with LAPLEX_EMULATED_CUDA=1.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import laplex
from laplex import _core
from laplex.torch import cuda as cuda_execution

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()
DEVICE = "cpu" if EMULATED else "cuda"

pytestmark = pytest.mark.skipif(
    not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
    reason="no GPU, or a build without CUDA",
)


# --- numbers from the host ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["matern12", "matern52"])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"lengthscale": -0.5}, "lengthscale must be positive and finite, got -0.5"),
        ({"lengthscale": -1}, "lengthscale must be positive and finite, got -1"),
        ({"lengthscale": 0.0}, "lengthscale must be positive and finite, got 0"),
        ({"lengthscale": np.float32("nan")}, "lengthscale must be positive and finite, got nan"),
        ({"lengthscale": float("inf")}, "lengthscale must be positive and finite, got inf"),
        ({"lengthscale": 1e-310}, "lengthscale must be at least 2.23e-308, .* got 1e-310"),
        ({"frequency": float("nan")}, "frequency must be finite, got nan"),
        ({"frequency": -np.inf}, "frequency must be finite, got -inf"),
    ],
)
def test_numbers_are_checked_before_any_work(numbers, message, kernel, monkeypatch):
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)
    laplex.matvec(values, x, lengthscale=0.5, kernel=kernel)  # the order of the anchors is known
    monkeypatch.setattr(cuda_execution, "plan_of", None)
    with pytest.raises(ValueError, match=message):
        laplex.matvec(values, x, kernel=kernel, **numbers)
    with pytest.raises(ValueError, match=message):
        laplex.LaplaceOperator(x, kernel=kernel, **numbers)
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(lambda v: laplex.matvec(v, x, kernel=kernel, **numbers))(values[None])


def test_a_compiled_function_checks_numbers():
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)

    @torch.compile(backend="aot_eager")
    def product(lengthscale):
        return laplex.matvec(values, x, lengthscale=lengthscale)

    for lengthscale in (0.5, 0.25, 0.125):  # the third is a symbol
        assert torch.equal(product(lengthscale), laplex.matvec(values, x, lengthscale=lengthscale))
    with pytest.raises(ValueError, match=r"lengthscale must be positive and finite, got -0.5"):
        product(-0.5)
    torch._dynamo.reset()
