"""`laplex.LaplaceOperator`: products, related operators, inspection."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import laplex
from torch_cases import FORMS, build

pytestmark = pytest.mark.usefixtures("seeded")


CASES = {
    "plain": {},
    "self": {"self_case": True},
    "batch": {"batch": (2,)},
    "batches": {"batch": (3, 1)},
    "ties": {"ties": True, "n": 8, "m": 7},
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def options(request):
    return request.param


@pytest.mark.parametrize("form", FORMS)
def test_to_dense(form, options):
    operator, matrix = build(form, **options)
    assert operator.shape == matrix.shape
    assert operator.dtype == matrix.dtype
    torch.testing.assert_close(operator.to_dense(), matrix, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("form", FORMS)
def test_matmul_like_torch(form, options):
    operator, matrix = build(form, **options)
    m = matrix.shape[-1]
    for shape in ((m,), (m, 1), (m, 3), (1, m, 3), (2, m, 3), (3, 2, m, 2), (m, 0)):
        for dtype in (torch.float64, torch.complex128):
            other = torch.randn(shape, dtype=dtype)
            common = torch.promote_types(matrix.dtype, dtype)
            expected = matrix.to(common) @ other.to(common)
            found = operator @ other
            assert found.dtype == common
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_transpose_and_adjoint(form, options):
    operator, matrix = build(form, **options)
    for found, expected in (
        (operator.T, matrix.mT),
        (operator.mT, matrix.mT),
        (operator.H, matrix.mH),
        (operator.T.T, matrix),
        (operator.H.H, matrix),
        (operator.H.T, matrix.conj()),
    ):
        assert found.shape == expected.shape
        torch.testing.assert_close(
            found.to_dense(), expected.resolve_conj(), rtol=1e-13, atol=1e-14
        )
    u = torch.randn(matrix.shape[-2], 2, dtype=matrix.dtype)
    torch.testing.assert_close(operator.H @ u, matrix.mH @ u, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(operator.T @ u, matrix.mT @ u, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_through_products_and_to_dense(form):
    operator, matrix = build(form, batch=(2,))
    tensors = [t for t in operator._tensors if t is not None]
    assert operator.requires_grad
    other = torch.randn(4, 3, dtype=matrix.dtype)
    expected = torch.autograd.grad((matrix @ other).abs().sum(), tensors, retain_graph=True)
    by_product = torch.autograd.grad((operator @ other).abs().sum(), tensors)
    by_dense = torch.autograd.grad((operator.to_dense() @ other).abs().sum(), tensors)
    for a, b, c in zip(expected, by_product, by_dense, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(c, a, rtol=1e-11, atol=1e-11)


def test_matvec_takes_vectors_in_the_last_dimension():
    operator, matrix = build("all", batch=(2,))
    values = torch.randn(5, 1, 4, dtype=torch.float64)
    expected = torch.einsum("hnm,bhm->bhn", matrix, values.expand(5, 2, 4).to(matrix.dtype))
    torch.testing.assert_close(operator.matvec(values), expected)


def test_to_plan_has_the_same_dtype():
    x = torch.tensor([0.0, 1.0, 3.0])
    for options in ({}, {"frequency": torch.tensor(0.0)}, {"frequency": 2.0}):
        for real_part in (False, True):
            K = laplex.LaplaceOperator(x, real_part=real_part, **options)
            u = K.to_plan().apply(np.ones(3, np.float32))
            assert torch.from_numpy(u).dtype == K.dtype
            torch.testing.assert_close(torch.from_numpy(u), K @ torch.ones(3))


def test_rank():
    """Interlaced anchors: full rank; targets all left of the sources: rank 1."""
    x = torch.arange(5.0)
    assert laplex.LaplaceOperator(x, x + 0.5).rank() == 5
    assert laplex.LaplaceOperator(x, x + 100).rank() == 1
    phases = laplex.LaplaceOperator(x, x + 100, frequency=2.0, target_phase=x)
    assert phases.rank() == 1
    batch = laplex.LaplaceOperator(x.expand(2, 5), torch.stack([x + 0.5, x + 100]))
    assert batch.rank().tolist() == [5, 1]
    assert batch.rank().dtype == torch.int64


@pytest.mark.parametrize("method", ["rank", "to_plan"])
def test_methods_that_read_numbers_refuse_transforms(method):
    x = torch.rand(2, 5, dtype=torch.float64)

    def used(anchors):
        getattr(laplex.LaplaceOperator(anchors), method)()
        return anchors.sum()

    for transform in (torch.func.vmap, torch.func.grad):
        with pytest.raises(NotImplementedError, match=rf"LaplaceOperator\.{method} does not"):
            transform(used)(x)
    # Under vmap, anchors from outside are ordinary tensors.
    assert torch.func.vmap(lambda v: used(x[0]) * v)(x).shape == x.shape


@pytest.mark.parametrize("form", ["real", "carrier", "oscillating"])
def test_rank_agrees_with_the_dense_matrix(form):
    for seed in range(20):
        operator, matrix = build(form, n=9, m=7, requires_grad=False, seed=seed)
        assert operator.rank() == torch.linalg.matrix_rank(matrix, rtol=1e-12)


def test_rank_of_the_cosine_form_is_refused():
    operator, _ = build("cosine")
    with pytest.raises(ValueError, match=r"real_part|cosine"):
        operator.rank()


def test_real_part_of_a_real_kernel_is_the_real_form():
    x = torch.arange(3.0)
    operator = laplex.LaplaceOperator(x, real_part=True)
    assert not operator.real_part
    assert operator.rank() == 3


def test_to():
    operator, matrix = build("all", batch=(2,))
    single = operator.to(torch.float32)
    assert single.dtype == torch.complex64
    assert single.targets.dtype == single.target_phase.dtype == torch.float32
    assert single.lengthscale.dtype == torch.float64
    torch.testing.assert_close(single.to_dense(), matrix.to(torch.complex64), rtol=1e-4, atol=1e-5)
    meta = operator.to(device="meta")
    assert meta.device.type == "meta"
    assert meta.shape == operator.shape
    assert (meta @ torch.empty(4, 3, dtype=torch.float64, device="meta")).shape == (2, 5, 3)


def test_repr():
    x = torch.arange(3.0)
    text = "LaplaceOperator(shape=(3, 3), form='real', dtype=torch.float32, sources=targets, "
    assert repr(laplex.LaplaceOperator(x, lengthscale=0.5)) == text + "lengthscale=0.5)"
    both = laplex.LaplaceOperator(
        x.requires_grad_(), x[:2], lengthscale=torch.ones(()), frequency=1.0, target_phase=x
    )
    assert "form='oscillating', dtype=torch.complex64" in repr(both)
    assert "requires_grad=True" in repr(both)
    assert "form='carrier phases'" in repr(laplex.LaplaceOperator(x, target_phase=x))
    assert "form='cosine'" in repr(laplex.LaplaceOperator(x, frequency=1.0, real_part=True))


def test_float_arguments_are_kept_in_double():
    operator = laplex.LaplaceOperator(torch.arange(3.0), lengthscale=0.1, frequency=0.1)
    assert operator.lengthscale.item() == 0.1
    assert operator.frequency.item() == 0.1


def test_refuses_bad_arguments_when_built():
    x = torch.arange(3.0)
    with pytest.raises(TypeError, match=r"targets has dtype torch\.int64"):
        laplex.LaplaceOperator(torch.arange(3))
    with pytest.raises(TypeError, match="sources must be a torch tensor, got list"):
        laplex.LaplaceOperator(x, [1.0])
    with pytest.raises(ValueError, match="target_phase has shape"):
        laplex.LaplaceOperator(x, target_phase=x[:2])
    with pytest.raises(ValueError, match="leading dimensions do not broadcast"):
        laplex.LaplaceOperator(x.expand(2, 3), x.expand(4, 3))
    with pytest.raises(TypeError, match="lengthscale must be a float or a torch tensor"):
        laplex.LaplaceOperator(x, lengthscale="1")


def test_refuses_a_product_that_does_not_fit():
    operator = laplex.LaplaceOperator(torch.arange(3.0), torch.arange(2.0))
    with pytest.raises(ValueError, match="values has 3 entries"):
        operator @ torch.ones(3)
    with pytest.raises(ValueError, match="values has 3 entries"):
        operator @ torch.ones(3, 2)
    with pytest.raises(TypeError):
        operator @ [1.0, 2.0]


def test_refuses_to_densify_the_enormous():
    operator = laplex.LaplaceOperator(torch.zeros(100_000))
    with pytest.raises(MemoryError, match="100000 x 100000"):
        operator.to_dense()


def test_attributes_can_be_written_and_operators_pickled():
    x = torch.rand(7, dtype=torch.float64)
    operator = laplex.LaplaceOperator(x, lengthscale=0.4, frequency=2.0)
    operator.lengthscale = torch.tensor(0.7, dtype=torch.float64)
    v = torch.rand(7, dtype=torch.float64)
    wanted = laplex.matvec(v, x, lengthscale=0.7, frequency=2.0)
    assert torch.equal(operator @ v, wanted)
    assert torch.equal(pickle.loads(pickle.dumps(operator)) @ v, wanted)
