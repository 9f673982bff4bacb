"""The operator as SciPy's and as GPyTorch's LinearOperator."""

from __future__ import annotations

import linear_operator
import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from linear_operator.operators import DiagLinearOperator

import laplex
from laplex.adapters import to_scipy
from torch_cases import FORMS, build, dense_matrix

pytestmark = pytest.mark.usefixtures("seeded")


# --- SciPy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_scipy_products(form):
    operator, matrix = build(form)
    wrapped, dense = operator.to_scipy(), matrix.detach().numpy()
    assert isinstance(wrapped, scipy.sparse.linalg.LinearOperator)
    assert wrapped.shape == dense.shape
    assert wrapped.dtype == dense.dtype
    generator = np.random.default_rng(0)
    for cast in (np.float64, np.complex128):
        v, u = generator.normal(size=4).astype(cast), generator.normal(size=5).astype(cast)
        vs, us = (
            generator.normal(size=(4, 3)).astype(cast),
            generator.normal(size=(5, 2)).astype(cast),
        )
        close = np.testing.assert_allclose
        close(wrapped.matvec(v), dense @ v, rtol=1e-12, atol=1e-13)
        close(wrapped.matvec(v[:, None]), dense @ v[:, None], rtol=1e-12, atol=1e-13)
        close(wrapped.rmatvec(u), dense.conj().T @ u, rtol=1e-12, atol=1e-13)
        close(wrapped.matmat(vs), dense @ vs, rtol=1e-12, atol=1e-13)
        close(wrapped.rmatmat(us), dense.conj().T @ us, rtol=1e-12, atol=1e-13)
        close(wrapped.H @ u, dense.conj().T @ u, rtol=1e-12, atol=1e-13)
        close(wrapped.T @ u, dense.T @ u, rtol=1e-12, atol=1e-13)


def test_scipy_from_a_numpy_plan_in_single_precision():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 6)).astype(np.float32)
    plan = laplex.Plan(x, y, lengthscale=0.5)
    wrapped = to_scipy(plan)
    assert wrapped.dtype == np.float32
    v = generator.normal(size=6)
    np.testing.assert_allclose(wrapped @ v, plan.to_dense() @ v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wrapped @ np.ones(6, int), plan.to_dense().sum(1), rtol=1e-5)


def test_scipy_solver():
    """Conjugate gradients on (K + I) w = b."""
    x = np.sort(np.random.default_rng(0).normal(size=200))
    plan = laplex.Plan(x, lengthscale=0.3)
    b = np.sin(x)
    system = to_scipy(plan) + scipy.sparse.linalg.aslinearoperator(scipy.sparse.eye_array(200))
    found, status = scipy.sparse.linalg.cg(system, b, rtol=1e-12)
    assert status == 0
    np.testing.assert_allclose(
        found, np.linalg.solve(plan.to_dense() + np.eye(200), b), rtol=1e-8, atol=1e-10
    )


def test_scipy_refuses_a_batch():
    operator, _ = build("real", batch=(2,))
    with pytest.raises(ValueError, match=r"batch of shape \(2,\)"):
        operator.to_scipy()


# --- GPyTorch -------------------------------------------------------------------------------------

REAL_FORMS = ("real", "cosine", "cosine-phases", "cosine-frequency")
CASES = {"plain": {}, "self": {"self_case": True}, "batch": {"batch": (2,)}}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("form", REAL_FORMS)
def test_linear_operator_products(form, options):
    operator, matrix = build(form, requires_grad=False, **options)
    wrapped = operator.to_linear_operator()
    assert isinstance(wrapped, linear_operator.LinearOperator)
    assert wrapped.shape == matrix.shape
    assert wrapped.dtype == matrix.dtype
    n, m = matrix.shape[-2:]
    v, u = torch.randn(m, 3, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    close = torch.testing.assert_close
    close(wrapped @ v, matrix @ v)
    close(wrapped @ v[:, 0], matrix @ v[:, 0])
    close(wrapped.mT @ u, matrix.mT @ u)
    close(wrapped.to_dense(), matrix)
    close(wrapped[..., 1:3, :2].to_dense(), matrix[..., 1:3, :2])
    close(wrapped[..., 2, 1], matrix[..., 2, 1])
    close(wrapped[..., torch.tensor([3, 0]), :].to_dense(), matrix[..., [3, 0], :])
    close(wrapped[..., 1:, 1], matrix[..., 1:, 1])
    assert type(wrapped[..., 1:3, :2]) is type(wrapped)  # a part of the matrix is of its kind
    if matrix.dim() > 2:
        close(wrapped[1].to_dense(), matrix[1])
        close(wrapped[1:, :2, :2].to_dense(), matrix[1:, :2, :2])
        index = torch.tensor([1, 0])
        close(wrapped[index, index, index], matrix[index, index, index])
    close(wrapped.mT.to_dense(), matrix.mT)
    close(wrapped.unsqueeze(0).to_dense(), matrix.unsqueeze(0))
    expanded = wrapped.expand(3, *matrix.shape)
    close(expanded.to_dense(), matrix.expand(3, *matrix.shape))
    close(expanded @ v, (matrix @ v).expand(3, *matrix.shape[:-1], 3))


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("form", REAL_FORMS)
def test_linear_operator_gradients(form, options):
    operator, matrix = build(form, **options)
    tensors = [t for t in operator._tensors if t is not None]
    other = torch.randn(matrix.shape[-1], 3, dtype=torch.float64, requires_grad=True)
    tensors.append(other)
    expected = torch.autograd.grad((matrix @ other).square().sum(), tensors)
    wrapped = operator.to_linear_operator()
    found = torch.autograd.grad((wrapped @ other).square().sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.filterwarnings("ignore::laplex.gram.ApproximationWarning")
@pytest.mark.parametrize("size", [30, 900], ids=["cholesky", "conjugate-gradients"])
def test_gaussian_process_terms(size):
    """b^T (K + D)^-1 b and its gradients; the log-determinant where it is exact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, generator=generator, dtype=torch.float64) * 10
    b = torch.sin(x)
    noise = torch.full((size,), 0.5, dtype=torch.float64)

    def leaves():
        return x.clone().requires_grad_(), torch.tensor(
            0.7, dtype=torch.float64, requires_grad=True
        )

    x_dense, ell_dense = leaves()
    matrix = dense_matrix(x_dense, None, ell_dense) + torch.diag(noise)
    quadratic = b @ torch.linalg.solve(matrix, b)
    expected = [quadratic, *torch.autograd.grad(quadratic, (x_dense, ell_dense), retain_graph=True)]

    x_ours, ell_ours = leaves()
    operator = laplex.LaplaceOperator(x_ours, lengthscale=ell_ours).to_linear_operator()
    system = operator + DiagLinearOperator(noise)
    with linear_operator.settings.cg_tolerance(1e-5):
        inverse_quadratic = system.inv_quad(b.unsqueeze(-1))
        grads = torch.autograd.grad(inverse_quadratic, (x_ours, ell_ours), retain_graph=True)
    for a, b_ in zip((inverse_quadratic, *grads), expected, strict=True):
        scale = float(b_.detach().abs().max())
        tolerance = 1e-10 if size == 30 else 1e-3  # CG stops at its own tolerance
        torch.testing.assert_close(a, b_, rtol=tolerance, atol=tolerance * scale)
    if size == 30:
        torch.testing.assert_close(system.logdet(), torch.logdet(matrix), rtol=1e-10, atol=1e-10)


def test_linear_operator_refuses_a_complex_kernel():
    operator, _ = build("carrier")
    with pytest.raises(TypeError, match="real_part=True"):
        operator.to_linear_operator()


@pytest.mark.parametrize("other", [None, np.eye(2), "plan"])
def test_to_scipy_names_what_it_takes(other):
    with pytest.raises(TypeError, match=r"plan must be a laplex\.Plan, got .*to_scipy\(\)"):
        laplex.adapters.to_scipy(other)
