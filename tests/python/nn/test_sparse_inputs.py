"""Sparse inputs of the layers: the same map as of the dense input, and the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exactness_cases import PROMISE
from laplex.nn import LaplexHead, LaplexLinear
from strategies import KERNELS, quick

# PyTorch calls every layout but COO unfinished, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")

LAYOUTS = (torch.sparse_coo, torch.sparse_csr)


@st.composite
def layers_with_rows(draw):
    """A layer in float64, and dense rows of which few entries are not zero."""
    inputs, outputs, heads = (
        draw(st.integers(1, 9)),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 3)),
    )
    phased, bias = draw(st.booleans()), draw(st.booleans())
    options = {"heads": heads, "phased": phased, "bias": bias, "dtype": torch.float64}
    torch.manual_seed(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        layer = LaplexHead(inputs, outputs, **options)
    else:
        kernel = draw(st.sampled_from(KERNELS))
        side = draw(st.sampled_from(("both", "left", "right")))
        layer = LaplexLinear(inputs, outputs, kernel=kernel, side=side, **options)
    rows = torch.randn(draw(st.integers(0, 5)), inputs, dtype=torch.float64)
    rows *= torch.rand(rows.shape) < draw(st.sampled_from((0.0, 0.2, 0.6, 1.0)))
    return layer, rows


def largest(layer, rows):
    """The sum of |K_ij| |s_j v_j| over sources and heads, to which errors are relative."""
    bare = copy.deepcopy(layer)
    bare.register_parameter("target_phase", None)
    bare.register_parameter("source_phase", None)
    bare.source_gain.abs_()
    if bare.bias is not None:
        bare.bias.abs_()
    return bare(rows.abs())


@quick
@given(layers_with_rows(), st.sampled_from(LAYOUTS))
def test_a_sparse_input_is_multiplied_as_the_dense_one(case, layout):
    layer, rows = case
    with torch.no_grad():
        got, want = layer(rows.to_sparse(layout=layout)), layer(rows)
        # Two products within the promise, and their sums over at most three heads and the bias.
        scale = largest(layer, rows)
    assert got.layout is torch.strided
    assert ((got - want).abs() <= (2 * PROMISE["float64"] + 8 * 2.0**-53) * scale).all()


@quick
@given(layers_with_rows(), st.sampled_from(LAYOUTS))
def test_gradients_are_those_of_the_dense_input(case, layout):
    layer, rows = case
    rows.requires_grad_()
    sparse = rows.detach().to_sparse(layout=layout).requires_grad_()
    outputs = layer(sparse), layer(rows)
    weight = torch.randn_like(outputs[1])
    found, wanted = (
        torch.autograd.grad((output * weight).sum(), [given, *layer.parameters()])
        for output, given in zip(outputs, (sparse, rows), strict=True)
    )
    stored = rows.detach() != 0
    torch.testing.assert_close(found[0].to_dense(), wanted[0] * stored)
    for got, want in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(got, want)


def test_entries_stored_twice_add_up():
    layer = LaplexLinear(5, 3, dtype=torch.float64)
    places = torch.tensor([[0, 0, 0, 2], [1, 4, 1, 0]])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    sparse = torch.sparse_coo_tensor(places, values, (3, 5), check_invariants=True)
    torch.testing.assert_close(layer(sparse), layer(sparse.to_dense()))


@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
def test_second_derivatives_by_the_parameters(cls):
    layer = cls(4, 3, heads=2, dtype=torch.float64)
    rows = torch.tensor([[1.0, 0, 0, -2], [0, 0, 3, 0]]).double().to_sparse()
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), rows)

    assert torch.autograd.gradgradcheck(output, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
def test_the_dtype_is_that_of_the_dense_input(dtype):
    layer = LaplexLinear(6, 4, dtype=torch.bfloat16 if dtype is torch.bfloat16 else torch.float32)
    rows = torch.eye(6)[:2].to(dtype)
    assert layer(rows.to_sparse()).dtype is layer(rows).dtype


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: x.to_sparse_csc(), TypeError, "convert it with input.to_sparse_coo"),
        (lambda x: x.to_sparse(1), ValueError, r"two sparse dimensions .* \(3, 4\) with 1 dense"),
        (lambda x: x[0].to_sparse(), ValueError, r"two sparse dimensions .* got shape \(4,\)"),
        (lambda x: x[None].to_sparse(), ValueError, r"got shape \(1, 3, 4\).*input.to_dense"),
        (lambda x: x[:, :2].to_sparse(), ValueError, "must have 4 features"),
        (lambda x: x.double().to_sparse(), TypeError, "convert one of them"),
        (lambda x: x.long().to_sparse(), TypeError, "convert it with"),
    ],
)
def test_bad_sparse_inputs(make, error, message):
    with pytest.raises(error, match=message):
        LaplexLinear(4, 2)(make(torch.ones(3, 4)))
