"""The structured peers of bench/python: dense weights from other formulas, counts, and gain."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick

torch = pytest.importorskip("torch")
linalg = pytest.importorskip("scipy.linalg")

FILE = Path(__file__).parents[2] / "bench/python/structured_layers.py"
_spec = importlib.util.spec_from_file_location("structured_layers", FILE)
layers = importlib.util.module_from_spec(_spec)
sys.modules["structured_layers"] = layers
_spec.loader.exec_module(layers)

KINDS = [
    layers.Dense,
    layers.LowRank,
    layers.BlockDiagonal,
    layers.Monarch,
    layers.Butterfly,
    layers.BlockCirculant,
    layers.ToeplitzLike,
    layers.CirculantDiagonal,
    layers.Kronecker,
    layers.Vera,
]
sides = st.integers(1, 40)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def array(parameter):
    return parameter.detach().numpy()


def dealt(n, size):
    """The permutation of n values in `size` groups that a transpose of the groups makes."""
    return np.arange(n).reshape(size, -1).T.ravel()


def dense(layer):
    """The weight of a layer by NumPy and SciPy, entry by entry of its formula."""
    n, m, size = layer.in_features, layer.out_features, layer.size
    side = max(n, m)
    if isinstance(layer, layers.Dense):
        whole = array(layer.matrix)
    elif isinstance(layer, layers.LowRank):
        whole = array(layer.outer) @ array(layer.inner)
    elif isinstance(layer, layers.BlockDiagonal):
        whole = linalg.block_diag(*array(layer.blocks).transpose(0, 2, 1))
        whole = whole[dealt(len(whole), size)]
    elif isinstance(layer, layers.Monarch):
        inner = linalg.block_diag(*array(layer.inner).transpose(0, 2, 1))
        outer = linalg.block_diag(*array(layer.outer).transpose(0, 2, 1))
        whole = outer @ inner[dealt(size**2, size)]
        whole = whole[dealt(len(whole), size)]
    elif isinstance(layer, layers.Butterfly):
        whole = np.eye(2**layer.depth)
        for power, factor in enumerate(array(layer.factors)):
            step = np.zeros_like(whole)
            for block in range(len(factor)):
                first = block // 2**power * 2 ** (power + 1) + block % 2**power
                pair = [first, first + 2**power]
                step[np.ix_(pair, pair)] = factor[block]
            whole = step @ whole
    elif isinstance(layer, layers.BlockCirculant):
        rows = [[linalg.circulant(each) for each in row] for row in array(layer.columns)]
        whole = np.block(rows)
    elif isinstance(layer, layers.ToeplitzLike):
        whole = np.zeros((side, side))
        for g, h in zip(array(layer.circulant), array(layer.skew), strict=True):
            whole += linalg.circulant(g) @ linalg.toeplitz(h, np.r_[h[0], -h[:0:-1]])
    elif isinstance(layer, layers.CirculantDiagonal):
        whole = np.eye(side)
        for c, d in zip(array(layer.circulant), array(layer.diagonal), strict=True):
            whole = np.diag(d) @ linalg.circulant(c) @ whole
    elif isinstance(layer, layers.Kronecker):
        pairs = zip(array(layer.left), array(layer.right), strict=True)
        whole = sum(np.kron(left, right) for left, right in pairs)
    else:
        scaled = array(layer.second) @ np.diag(array(layer.inner)) @ array(layer.first)
        whole = np.diag(array(layer.outer)) @ scaled
    return whole[:m, :n]


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(n=sides, m=sides, size=sizes, seed=seeds, rows=st.integers(1, 90))
def test_the_layer_multiplies_by_the_weight_of_its_formula(kind, n, m, size, seed, rows):
    torch.manual_seed(seed)
    layer = kind(n, m, size).double()
    torch.nn.init.normal_(layer.bias)
    inputs = torch.randn(rows, n, dtype=torch.float64)
    weight, values = dense(layer), array(inputs)
    # A sum or an FFT of at most 2**8 terms, at most 2**4 times in a row: an error of 2**12 units in
    # the last place of the products' absolute values, which the initial gain keeps below 2**10.
    tolerance = 2**22 * np.finfo(float).eps
    assert np.abs(array(layer.formed()) - weight).max() <= tolerance
    assert np.abs(array(layer.product(inputs)) - values @ weight.T).max() <= tolerance
    expected = values @ weight.T + array(layer.bias)
    assert np.abs(array(layer(inputs)) - expected).max() <= tolerance
    assert torch.equal(layer(inputs[None])[0], layer(inputs))


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(n=sides, m=sides, size=sizes)
def test_the_count_is_that_of_the_parameters(kind, n, m, size):
    layer = kind(n, m, size)
    parameters = sum(each.numel() for each in layer.parameters())
    assert parameters == kind.count(n, m, size) + m


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(24, 36), (36, 24)])
def test_initial_values_keep_the_variance(kind, n, m):
    torch.manual_seed(0)
    gains = [float(kind(n, m, 3).formed().detach().square().sum()) / m for _ in range(300)]
    # Six standard errors of the mean; and rounding, for the weights of constant norm.
    assert abs(np.mean(gains) - 1) <= 6 * np.std(gains) / math.sqrt(len(gains)) + 1e-5


@pytest.mark.parametrize("heads", [1, 2])
def test_our_layer_gives_the_same_by_its_weight(heads):
    torch.manual_seed(heads)
    layer = layers.Laplex(7, 9, heads=heads).double()
    rows = torch.randn(40, 7, dtype=torch.float64)
    assert torch.allclose(layer(rows), torch.cat([layer(part) for part in rows.split(4)]))
