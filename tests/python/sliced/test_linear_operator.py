"""`SlicedKernelOperator` among the operators of the package."""

from __future__ import annotations

import pytest
import torch

linear_operator = pytest.importorskip("linear_operator")

from laplex.sliced import SlicedKernelOperator, matvec  # noqa: E402
from sliced_cases import D, dense, draw, unit_vectors  # noqa: E402

close = torch.testing.assert_close
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
@pytest.mark.parametrize("d", [1, 2, 3, 6, 12])
def test_the_matrix_is_symmetric_and_positive(kind, d):
    x = draw(40, d)
    operator = SlicedKernelOperator(x, 2.0, kernel=kind)
    matrix = operator.to_dense()
    close(matrix, matrix.mT, rtol=0, atol=1e-13)
    close(operator.diagonal(), matrix.diagonal(), rtol=0, atol=1e-13)
    close(
        operator @ torch.ones(40, dtype=D),
        matvec(torch.ones(40, dtype=D), x, lengthscale=2.0, kernel=kind),
    )
    # Fits are within 5e-6 of functions whose matrices are positive semidefinite.
    assert torch.linalg.eigvalsh(matrix).min() > -5e-6 * 40


def test_products_and_entries_are_those_of_the_formula():
    x = draw(10, 4)
    directions = unit_vectors(6, "laplace", 4)
    operator = SlicedKernelOperator(x, 1.5, directions)
    matrix = dense("laplace", x, x, directions, 1.5)
    rows = draw(2, 10, 3)
    close(operator @ rows, matrix @ rows, rtol=1e-11, atol=1e-12)
    close(operator.mT @ rows[0], matrix @ rows[0], rtol=1e-11, atol=1e-12)
    close(operator[2:5, :4].to_dense(), matrix[2:5, :4], rtol=1e-11, atol=1e-12)
    close(operator[3, 7], matrix[3, 7], rtol=1e-11, atol=1e-12)
    weights = torch.tensor([0.4, 0.2, 0.1, 0.1, 0.1, 0.1], dtype=D)
    weighted = SlicedKernelOperator(x, 1.5, directions, weights)
    each = torch.stack([dense("laplace", x, x, one[None], 1.5) for one in directions])
    close(weighted.to_dense(), torch.einsum("p,pij->ij", weights, each), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
def test_conjugate_gradients_solve_with_noise(d):
    x, y = draw(60, d), draw(60, seed=1)
    covariance = SlicedKernelOperator(x, 2.0).add_jitter(1.0)
    matrix = covariance.to_dense()
    with (
        linear_operator.settings.max_cholesky_size(1),
        linear_operator.settings.cg_tolerance(1e-5),
    ):
        solution = covariance.solve(y)
    close(solution, torch.linalg.solve(matrix, y), rtol=0, atol=1e-4)


def test_derivatives_are_those_of_the_product():
    x, lengthscale = draw(9, 3).requires_grad_(), torch.tensor(1.5, dtype=D, requires_grad=True)
    v, w = draw(9, seed=1), draw(9, seed=2)
    found = torch.autograd.grad(w @ (SlicedKernelOperator(x, lengthscale) @ v), (x, lengthscale))
    product = w @ matvec(v, x, lengthscale=lengthscale)
    for one, other in zip(found, torch.autograd.grad(product, (x, lengthscale)), strict=True):
        close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
@pytest.mark.parametrize("d", [3, 12])
def test_indices_and_batches_are_those_of_the_dense_matrix(kind, d):
    x = draw(6, d).requires_grad_()
    operator = SlicedKernelOperator(x, 1.5, kernel=kind)
    matrix = operator.to_dense()
    rows, columns = torch.tensor([0, 2, 5]), torch.tensor([1, 2, 0])
    entries = operator[rows, columns]
    close(entries, matrix[rows, columns], rtol=1e-11, atol=1e-11)
    found, expected = (
        torch.autograd.grad(each.sum(), x, retain_graph=True)[0]
        for each in (entries, matrix[rows, columns])
    )
    close(found, expected, rtol=1e-10, atol=1e-10)

    batch = operator.expand(2, 3, 6, 6)
    dense_batch = matrix.expand(2, 3, 6, 6)
    assert batch.shape == dense_batch.shape
    right = draw(3, 6, 2, seed=3)
    close(batch @ right, dense_batch @ right, rtol=1e-11, atol=1e-11)
    close(batch.diagonal(dim1=-1, dim2=-2), dense_batch.diagonal(dim1=-1, dim2=-2))
    close(batch.to_dense(), dense_batch, rtol=1e-11, atol=1e-11)
    close(batch[1].to_dense(), dense_batch[1], rtol=1e-11, atol=1e-11)
    close(batch[:, 1:, :2, 3], dense_batch[:, 1:, :2, 3], rtol=1e-11, atol=1e-11)
    close(batch[1, 2, 3, 4], matrix[3, 4], rtol=1e-11, atol=1e-11)
    close(batch.sum(0).to_dense(), dense_batch.sum(0), rtol=1e-11, atol=1e-11)
    assert operator.unsqueeze(0).shape == (1, 6, 6)
    assert batch.permute(1, 0, 2, 3).shape == (3, 2, 6, 6)
    close(operator.repeat(2, 1, 1).to_dense(), matrix.expand(2, 6, 6), rtol=1e-11, atol=1e-11)


def test_weights_scale_the_diagonal():
    directions = unit_vectors(2, "laplace", 3)
    weights = torch.tensor([0.7, 0.3004], dtype=D)
    operator = SlicedKernelOperator(draw(4, 3), 1.5, directions, weights)
    close(operator.diagonal(), operator.to_dense().diagonal())


def test_bad_arguments_are_named():
    x = draw(4, 3)
    with pytest.raises(ValueError, match="kernel must be one of"):
        SlicedKernelOperator(x, kernel="energy")
    with pytest.raises(ValueError, match=r"weights must have shape \[64\]"):
        SlicedKernelOperator(x, weights=torch.ones(3, dtype=D))
    with pytest.raises(ValueError, match="weights must have the sum 1, got 64"):
        SlicedKernelOperator(x, weights=torch.ones(64, dtype=D))
    with pytest.raises(ValueError, match="weights must be at least 0 and finite"):
        SlicedKernelOperator(x, weights=-torch.ones(64, dtype=D))
    with pytest.raises(TypeError, match="the right-hand side has dtype"):
        SlicedKernelOperator(x) @ torch.ones(4)
