"""The log density of a `Problem` and its derivatives by Laplex.

This file also runs on the version of Laplex before state blocks, for `gram_before`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from gram_forms import NOISE, Array, Problem
from laplex import _core
from laplex._support import core
from laplex.gram import LaplaceGram

D = torch.float64


def laplex_gram(p: Problem, x: torch.Tensor, given: dict[str, Any]) -> LaplaceGram:
    """The covariance of the observations at points x, for parameters by name."""
    if p.form in ("real", "cosine"):
        return LaplaceGram(x, **given)
    given = dict(given)
    noise, slope = given.pop("noise"), given.pop("slope", None)
    trend = {} if slope is None else {"basis": x[:, None], "prior": slope}
    return LaplaceGram(x, terms=p.model.laplex(given), noise=noise, **trend)


def laplex_value(p: Problem) -> float:
    gram = laplex_gram(p, torch.from_numpy(p.x), p.parameters)
    return float(gram.log_prob(torch.from_numpy(p.y)))


def laplex_gradients(p: Problem, everything: bool = False) -> tuple[float, dict[str, Any]]:
    """By the parameters; with `everything` also by points, values, each point's noise."""
    x, y = torch.from_numpy(p.x), torch.from_numpy(p.y)
    leaves = {
        name: torch.tensor(value, dtype=D, requires_grad=True)
        for name, value in p.parameters.items()
    }
    if everything:
        leaves["noise"] = torch.full((p.n,), NOISE, dtype=D, requires_grad=True)
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = laplex_gram(p, x, leaves).log_prob(y)
    inputs = {**leaves, **({"anchors": x, "values": y} if everything else {})}
    gradients = torch.autograd.grad(value, list(inputs.values()))
    return float(value.detach()), dict(zip(inputs, gradients, strict=True))


# --- the compiled functions that LaplaceGram calls, on NumPy arrays -------------------------------


def compiled_value(p: Problem) -> float:
    if p.form in ("real", "cosine"):
        return _one_call(p, core.ProcessGradients(0, 0, 0, 0, 0, 0))
    if _oscillator(p) is not None:
        return _oscillator_call(p, [0] * 7)
    out, y = np.empty(1), p.y
    gram, _ = _factor(p)
    gram.log_prob(_core.address(y), _core.address(out), 1, 1)
    return float(out[0])


def compiled_gradients(p: Problem) -> tuple[float, dict[str, Array]]:
    """Every gradient, as `celerite_gradients` computes them by celerite2's compiled functions."""
    n, address = p.n, _core.address
    if p.form in ("real", "cosine"):
        names = ("anchors", "values", "lengthscale", "variance", "frequency", "noise")
        sizes = (n, n, 1, 1, 1, n)
        found = {name: np.empty(size) for name, size in zip(names, sizes, strict=True)}
        return _one_call(p, core.ProcessGradients(*map(address, found.values()))), found
    if _oscillator(p) is not None:
        names = ("anchors", "values", "damping", "undamped", "first", "second", "noise")
        sizes = (n, n, 1, 1, 1, 1, n)
        found = {name: np.empty(size) for name, size in zip(names, sizes, strict=True)}
        return _oscillator_call(p, [address(each) for each in found.values()]), found
    gram, covariance = _factor(p)
    white, logs, a = np.empty(n), np.empty(n), np.empty(n)
    lower_inverse, upper_inverse = 1, 3
    gram.apply(lower_inverse, False, address(p.y), address(white), 1, 1)
    gram.log_variances(address(logs), 1)
    precision = np.exp(-logs)
    squares = white * white * precision
    value = -0.5 * (float(np.sum(squares + logs)) + n * math.log(2 * math.pi))
    weighted = precision * white
    gram.apply(upper_inverse, False, address(weighted), address(a), 1, 1)
    by_logs = 0.5 * squares - 0.5
    found = {name: np.empty_like(each) for name, each in covariance.items()}
    gram.vjp(
        *(address(a), address(white), 1, address(by_logs)),
        *(core.CovarianceGradients(*map(address, found.values())), 0, 1),
    )
    return value, {**found, "values": -a}


def _one_call(p: Problem, gradients: core.ProcessGradients) -> float:
    address, out, given = _core.address, np.empty(1), p.parameters
    numbers = given["lengthscale"], given["variance"], given.get("frequency", 0)
    noise = np.full(p.n, NOISE)
    arrays = (address(p.x), address(p.y), *numbers, address(noise))
    assert _core.log_density(core.Process(1, p.n, False, *arrays), address(out), gradients, 1)
    return float(out[0])


def _oscillator(p: Problem) -> tuple[float, ...] | None:
    """Two time scales and two weights, if the model is one damped oscillator without a trend."""
    if "slope" in p.parameters:
        return None
    blocks = p.model.laplex(p.model.parameters).blocks(torch.empty(0))
    block = blocks[0]
    return (
        (*block.lengthscales, *block.weights)
        if [len(blocks), len(block.weights)] == [1, 2]
        else None
    )


def _oscillator_call(p: Problem, gradients: list[int]) -> float:
    address, out, noise = _core.address, np.empty(1), np.full(p.n, NOISE)
    numbers = map(float, _oscillator(p) or ())
    process = core.OscillatorProcess(
        *(1, p.n, False, address(p.x), address(p.y)), *numbers, address(noise)
    )
    assert _core.oscillator_log_density(
        process, address(out), core.OscillatorGradients(*gradients), 1
    )
    return float(out[0])


def _factor(p: Problem) -> tuple[_core.Gram, dict[str, Array]]:
    """The factor and its arrays: anchors, lengthscale, loadings, noise and weights."""
    blocks = p.model.laplex(p.model.parameters).blocks(torch.empty(0))
    sizes = tuple(len(block.weights) for block in blocks)
    first = np.concatenate([np.arange(size) == 0 for size in sizes])
    arrays = {
        "anchors": p.x,
        "lengthscale": np.array([each for block in blocks for each in block.lengthscales]),
        "loadings": np.tile(first.astype(float), (p.n, 1)),
        "noise": np.full(p.n, NOISE),
        "weights": np.array([each for block in blocks for each in block.weights]),
    }
    addresses = map(_core.address, arrays.values())
    given = core.Covariance(False, 1, p.n, sum(sizes), *addresses, sizes)
    return _core.Gram(given, 1), arrays
