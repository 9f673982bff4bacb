"""Products of kernels, and constants, in GPyTorch's exact processes: no jitter and no matrix.

The truth are formulas for single entries.
"""

from __future__ import annotations

import gpytorch
import pytest
import torch
from gpytorch.kernels import ConstantKernel, IndexKernel, LinearKernel, RBFKernel, ScaleKernel
from torch.utils._python_dispatch import TorchDispatchMode

from laplex.gram import LaplaceKernel, MaternKernel, SHOKernel
from laplex.gram.linear_operator import LaplaceGramLinearOperator

D = torch.float64
close = torch.testing.assert_close

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # linear_operator's index kernels use sparse matrices, of which torch warns.
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


class Model(gpytorch.models.ExactGP):
    def __init__(self, x, y, kernel):
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.covar_module = kernel
        self.double()

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(x[:, 0] * 0, self.covar_module(x))


def sho(quality: float) -> SHOKernel:
    kernel = SHOKernel()
    kernel.Q = quality
    return kernel


PRODUCTS = {
    "1/2, 1/2": (lambda: MaternKernel(nu=0.5) * MaternKernel(nu=0.5), True),
    "1/2, 3/2": (lambda: ScaleKernel(MaternKernel(nu=0.5)) * MaternKernel(nu=1.5), True),
    "3/2, cosine": (lambda: MaternKernel(nu=1.5) * LaplaceKernel(oscillates=True), True),
    "sho, sho": (lambda: sho(3.0) * sho(2.0), True),
    "a sum": (lambda: (MaternKernel(nu=0.5) + sho(3.0)) * LaplaceKernel(), True),
    "tasks": (lambda: MaternKernel(nu=0.5) * LaplaceKernel() * LinearKernel(), True),
    "3/2, 3/2": (lambda: MaternKernel(nu=1.5) * MaternKernel(nu=1.5), False),
    "5/2, 1/2": (lambda: MaternKernel(nu=2.5) * MaternKernel(nu=0.5), False),
    "rbf": (lambda: RBFKernel() * ScaleKernel(MaternKernel(nu=2.5)), False),
    "a trend": (lambda: (MaternKernel(nu=0.5) + LinearKernel()) * LaplaceKernel(), False),
}


def entries(kernel, x):
    """The matrix by its formula, one entry at a time, without derivatives of distances at 0."""
    n = len(x)
    one, two = x.repeat_interleave(n, 0), x.repeat(n, 1)
    two = torch.where(one == two, one, two)
    return kernel(one, two, diag=True).reshape(n, n)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_at_repeated_inputs(name):
    """Values and derivatives are exact, below the size at which GPyTorch approximates."""
    make, is_lazy = PRODUCTS[name]
    kernel = make().double()
    x = torch.tensor([[0.0], [1.0], [1.0], [2.0], [0.3], [1.0]], dtype=D)
    y, eye = draw(6), 0.1 * torch.eye(6, dtype=D)
    assert isinstance(kernel(x).evaluate_kernel(), LaplaceGramLinearOperator) == is_lazy
    found = []
    for lazy in (True, False):
        at = x.clone().requires_grad_()
        if lazy:
            matrix = kernel(at).add_jitter(0.1)
            quadratic, determinant = matrix.inv_quad_logdet(y[:, None], logdet=True)
        else:
            matrix = entries(kernel, at) + eye
            quadratic, determinant = y @ torch.linalg.solve(matrix, y), torch.logdet(matrix)
        value = quadratic + determinant
        found.append((value, *torch.autograd.grad(value, [at, *kernel.parameters()])))
    for a, b in zip(*found, strict=True):
        close(a, b, rtol=1e-9, atol=1e-9)
    z = uniform(4, 1)
    whole = entries(kernel, torch.cat((x, z)))
    close(kernel(x, z).to_dense(), whole[:6, 6:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PRODUCTS)
def test_predictions_of_products(name):
    kernel = PRODUCTS[name][0]()
    x, z = uniform(20, 1) * 5, uniform(6, 1, seed=1) * 5
    y = torch.sin(x[:, 0])
    model = Model(x, y, kernel).eval()
    prediction = model(z)
    with torch.no_grad():
        whole = entries(kernel, torch.cat((x, z)))
        noisy = whole[:20, :20] + model.likelihood.noise * torch.eye(20, dtype=D)
        weights = torch.linalg.solve(noisy, whole[:20, 20:])
        close(prediction.mean, weights.mT @ y, rtol=1e-9, atol=1e-9)
        matrix = whole[20:, 20:] - weights.mT @ whole[:20, 20:]
        close(prediction.covariance_matrix, matrix, rtol=1e-9, atol=1e-9)
        close(prediction.variance, matrix.diagonal(), rtol=1e-9, atol=1e-9)


def test_more_states_than_there_are():
    """Twelve tasks and three columns of state: a dense matrix, as in GPyTorch."""
    tasks = IndexKernel(num_tasks=12, active_dims=[1])
    kernel = (MaternKernel(nu=2.5, active_dims=[0]) * tasks).double()
    x = torch.stack((uniform(40), torch.arange(40, dtype=D) % 12), -1)
    found = kernel(x).evaluate_kernel()
    assert not isinstance(found, LaplaceGramLinearOperator)
    one, two = (each(x).to_dense() for each in kernel.kernels)
    close(found.to_dense(), one * two, rtol=1e-13, atol=1e-13)


class Largest(TorchDispatchMode):
    """The size in bytes of the largest storage that an operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor) and each.layout is torch.strided:
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return made


CONSTANTS = {
    "sum": lambda k: ScaleKernel(k) + ConstantKernel(),
    "sum of three": lambda k: k + MaternKernel(nu=0.5) + ConstantKernel(),
    "product": lambda k: k * ConstantKernel(),
    "scaled": lambda k: ScaleKernel(ConstantKernel()) + k,
    "scaled sum": lambda k: ScaleKernel(k * ConstantKernel() + ConstantKernel() * LinearKernel()),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_cost_no_matrix(name):
    """In training and predictions, nothing grows with the square of the number of points."""
    n = 3000
    x, y = uniform(n, 1) * 100, draw(n)
    model = Model(x, y, CONSTANTS[name](MaternKernel(nu=1.5)))
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    with Largest() as largest:
        marginal(model(x), y).backward()
        model.eval()
        prediction = model(x[:5] + 0.01)
        (prediction.mean.sum() + prediction.variance.sum()).backward()
        prediction.sample()
        constant = ConstantKernel().double()
        total = MaternKernel().double()(x).evaluate_kernel() + constant(x).evaluate_kernel()
        total.add_jitter(0.1).logdet().backward()
        assert constant.raw_constant.grad.isfinite().all()
    assert largest.bytes < 8 * n * n / 10


def test_constants_of_other_kinds():
    """Negative ones, which have no root, and ones of another dtype than the inputs."""
    constraint = gpytorch.constraints.Interval(-1.0, 1.0)
    negative = ConstantKernel(constant_constraint=constraint)
    negative.constant = torch.tensor([-0.5])
    x = uniform(5, 1)
    kernel = (MaternKernel() + negative).double()
    close(kernel(x).to_dense(), kernel.kernels[0](x).to_dense() - 0.5)
    single = MaternKernel().double() + ConstantKernel().double()
    assert single(x.float()).to_dense().dtype is torch.float32
