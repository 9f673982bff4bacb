"""`LaplaceGram` as GPyTorch's LinearOperator, and exact GPs with `LaplaceKernel`.

The truth is GPyTorch's own Matern-1/2 kernel as a dense matrix with its Cholesky factor.
"""

from __future__ import annotations

import contextlib
import pickle
import resource
import time

import gpytorch
import linear_operator
import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from linear_operator.operators import ConstantDiagLinearOperator, DiagLinearOperator

from laplex.gram import LaplaceGram, Term
from laplex.gram.gpytorch import LaplaceKernel, LaplaceSumKernel
from laplex.gram.linear_operator import (
    LaplaceConditionalLinearOperator,
    LaplaceGramLinearOperator,
)

D = torch.float64
close = torch.testing.assert_close


# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def dense():
    """GPyTorch with Cholesky factors in place of conjugate gradients."""
    with gpytorch.settings.fast_computations(False, False, False):
        yield


# --- the operator ---------------------------------------------------------------------------------


def models(n: int) -> dict[str, LaplaceGram]:
    terms = [Term(0.3, 2.0), Term(1.5, frequency=3.0), Term(0.8, phase=draw(n), scale=draw(n))]
    return {
        "real": LaplaceGram(3 * uniform(n), lengthscale=0.5, noise=0.1),
        "oscillating": LaplaceGram(3 * uniform(n), frequency=4.0, noise=uniform(n) + 0.1),
        "sum": LaplaceGram(3 * uniform(n), terms=terms, noise=uniform(n) + 0.1),
        "noiseless": LaplaceGram(3 * uniform(n), lengthscale=0.5),
        "batch": LaplaceGram(
            uniform(2, 1, n), lengthscale=uniform(3) + 0.2, noise=uniform(2, 1, 1) + 0.1
        ),
    }


NAMES = tuple(models(1))


@pytest.mark.parametrize("n", [1, 6, 50])
@pytest.mark.parametrize("name", NAMES)
def test_algebra(name, n):
    gram = models(n)[name]
    operator, matrix = gram.to_linear_operator(), gram.to_dense()
    assert isinstance(operator, LaplaceGramLinearOperator)
    assert isinstance(operator, linear_operator.LinearOperator)
    assert operator.shape == matrix.shape
    assert operator.dtype == D
    rhs, vector = draw(*matrix.shape[:-1], 4), draw(n)
    tight = {"rtol": 1e-8, "atol": 1e-8}
    close(operator.to_dense(), matrix)
    close(operator @ rhs, matrix @ rhs)
    close(operator @ vector, matrix @ vector)
    close(vector @ operator, matrix @ vector)
    close(operator.mT @ rhs, matrix @ rhs)
    close(operator.diagonal(), matrix.diagonal(dim1=-2, dim2=-1))
    solution = torch.linalg.solve(matrix, rhs)
    close(operator.solve(rhs), solution, **tight)
    close(torch.linalg.solve(operator, rhs), solution, **tight)
    close(operator.solve(rhs, rhs.mT), rhs.mT @ solution, **tight)
    close(operator.solve(vector), torch.linalg.solve(matrix, vector), **tight)
    squares = (rhs * solution).sum(-2)
    quadratic, determinant = operator.inv_quad_logdet(rhs, logdet=True)
    close(quadratic, squares.sum(-1), **tight)
    close(determinant, torch.logdet(matrix), **tight)
    close(operator.logdet(), determinant)
    close(torch.logdet(operator), determinant)
    close(operator.inv_quad(rhs, reduce_inv_quad=False), squares, **tight)
    nothing, determinant = operator.inv_quad_logdet(rhs[..., :0], logdet=True)
    close(nothing, torch.zeros(matrix.shape[:-2], dtype=D))
    close(determinant, torch.logdet(matrix), **tight)
    root = operator.root_decomposition()
    close(root.to_dense(), matrix, **tight)
    close(root.root @ rhs, root.root.to_dense() @ rhs)
    close(root.root.mT @ rhs, root.root.to_dense().mT @ rhs)
    close(operator.root_inv_decomposition().to_dense() @ rhs, solution, **tight)


# linear_operator takes blocks off the diagonal by sparse matrices, of which torch warns.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", NAMES)
def test_what_becomes_of_an_operator(name):
    """Noise, factors, parts, copies: of the same kind, with the same entries."""
    n = 6
    gram = models(n)[name]
    operator, matrix = gram.to_linear_operator(), gram.to_dense()
    batch = matrix.shape[:-2]
    eye = torch.eye(n, dtype=D)

    def same(made, expected):
        assert isinstance(made, LaplaceGramLinearOperator)
        close(made.to_dense(), expected)
        close(made @ torch.eye(made.shape[-1], dtype=D), expected)

    own = uniform(n, seed=5)
    diagonal = DiagLinearOperator(own.expand(*batch, n))
    constant = ConstantDiagLinearOperator(torch.full((*batch, 1), 0.7, dtype=D), n)
    same(operator + diagonal, matrix + torch.diag(own))
    same(operator + constant, matrix + 0.7 * eye)
    same((operator + constant) + diagonal, matrix + torch.diag(own + 0.7))
    same(operator.add_diagonal(own), matrix + torch.diag(own))
    same(operator.add_diagonal(torch.tensor(0.5, dtype=D)), matrix + 0.5 * eye)
    same(operator.add_jitter(0.5), matrix + 0.5 * eye)
    close((operator - diagonal).to_dense(), matrix - torch.diag(own))
    same(operator * 3.0, matrix * 3)
    same(operator * torch.full((1, 1), 3.0, dtype=D), matrix * 3)
    close((operator * -1.0).to_dense(), -matrix)
    same(operator + operator * 2.0, 3 * matrix)
    same(operator[..., 1:4, 1:4], matrix[..., 1:4, 1:4])
    close(operator[..., 1:4, :2].to_dense(), matrix[..., 1:4, :2])
    close(operator[..., 2, 1], matrix[..., 2, 1])
    close(operator[..., 2, :], matrix[..., 2, :])
    close(operator[..., torch.tensor([3, 0]), :].to_dense(), matrix[..., [3, 0], :])
    same(operator.unsqueeze(0), matrix.unsqueeze(0))
    same(operator.expand(5, *matrix.shape), matrix.expand(5, *matrix.shape))
    close(operator.repeat(5, *(1,) * matrix.dim()).to_dense(), matrix.expand(5, *matrix.shape))
    same(operator.detach(), matrix)
    rebuilt = operator.representation_tree()(*operator.representation())
    same(rebuilt, matrix)
    if batch:
        same(operator[1], matrix[1])
        same(operator[1:, 0], matrix[1:, 0])
        same(operator[:, 2, 1:3, 1:3], matrix[:, 2, 1:3, 1:3])
        same(operator.permute(1, 0, 2, 3), matrix.permute(1, 0, 2, 3))
        index = torch.tensor([1, 0])
        close(operator[index, index, index, index], matrix[index, index, index, index])
        factors = uniform(2, 3)[..., None, None] + 0.1
        same(operator * factors, matrix * factors)
    else:
        same(operator * (factors := uniform(4, 1, 1) + 0.1), matrix * factors)


def test_single_precision():
    operator = models(50)["sum"].to_linear_operator().float()
    assert operator.dtype is torch.float32
    matrix = models(50)["sum"].to_dense()
    rhs = draw(50, 2)
    found = operator.solve(rhs.float())
    assert found.dtype is torch.float32
    close(found, torch.linalg.solve(matrix, rhs).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["real", "oscillating", "sum"])
def test_derivatives(name):
    n = 12
    given = models(n)[name].to_linear_operator()
    names = tuple(given._named)
    rhs = draw(n, 2)

    def build(tensors):
        return LaplaceGramLinearOperator(*tensors, names=names)

    functions = {
        "product": lambda o: o @ rhs,
        "solution": lambda o: o.solve(rhs),
        "quadratic": lambda o: torch.cat([e.reshape(-1) for e in o.inv_quad_logdet(rhs, True)]),
        "root": lambda o: o.root_decomposition().root @ rhs,
        "diagonal": lambda o: o.diagonal(),
        "entries": lambda o: o[torch.tensor([0, 3]), torch.tensor([2, 3])],
    }
    for function in functions.values():

        def value(*tensors, function=function):
            return function(build(tensors))

        leaves = [t.detach().clone().requires_grad_() for t in given.representation()]
        assert torch.autograd.gradcheck(value, leaves)


def test_samples_have_the_covariance():
    operator = models(5)["sum"].to_linear_operator()
    torch.manual_seed(0)
    samples = operator.zero_mean_mvn_samples(40_000)
    error = (samples.T @ samples / 40_000 - operator.to_dense()).norm() / operator.to_dense().norm()
    assert error < 0.03  # about sqrt(2 n / N)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_nothing_is_made_dense():
    n = 200_000
    operator = LaplaceGram(uniform(n) * 1000, frequency=2.0).to_linear_operator()
    operator = (operator * 2.0 + DiagLinearOperator(uniform(n) + 0.1)) + operator
    rhs = draw(n, 2)
    residual = operator @ operator.solve(rhs) - rhs
    assert residual.abs().max() < 1e-8
    assert operator.zero_mean_mvn_samples(2).shape == (2, n)
    assert operator[100:, 100:].logdet().isfinite()
    assert (operator[:1000, 5:] @ rhs[5:]).shape == (1000, 2)


# --- exact GPs ------------------------------------------------------------------------------------


class Model(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel):
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = uniform(n) * n / 30
    return x, torch.sin(x) + 0.2 * draw(n)


def build(x, y, kernel, likelihood=None):
    likelihood = likelihood or gpytorch.likelihoods.GaussianLikelihood()
    model = Model(x, y, likelihood, kernel).double()
    return model, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood.double(), model)


class Cosine(gpytorch.kernels.Kernel):
    """The oscillating kernel by its formula, for GPyTorch's dense algebra."""

    has_lengthscale = True

    def __init__(self, frequency):
        super().__init__()
        self.register_parameter("raw_frequency", torch.nn.Parameter(torch.zeros(1, 1)))
        self.register_constraint("raw_frequency", gpytorch.constraints.Positive())
        self.raw_frequency.data[:] = self.raw_frequency_constraint.inverse_transform(
            torch.tensor(frequency)
        )

    def forward(self, x1, x2, diag=False, **_):
        d = self.covar_dist(x1, x2, diag=diag)
        frequency = self.raw_frequency_constraint.transform(self.raw_frequency)
        return torch.exp(-d / self.lengthscale[..., 0]) * torch.cos(frequency * d)


def matern():
    return MaternKernel(nu=0.5)


def laplace():
    return LaplaceKernel()


def oscillating():
    kernel = LaplaceKernel(oscillates=True)
    kernel.frequency = 2.0
    return kernel


def fixed_noise(n):
    return gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=uniform(n, seed=3) * 0.2 + 0.05)


PAIRS = {
    "scaled": (lambda: ScaleKernel(laplace()), lambda: ScaleKernel(matern())),
    "bare": (laplace, matern),
    "oscillating": (
        lambda: ScaleKernel(oscillating()),
        lambda: ScaleKernel(Cosine(2.0)),
    ),
    "sum": (
        lambda: LaplaceSumKernel(ScaleKernel(laplace()), ScaleKernel(oscillating())),
        lambda: ScaleKernel(matern()) + ScaleKernel(Cosine(2.0)),
    ),
}


@pytest.mark.parametrize("noise", ["learned", "fixed"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_marginal_likelihood_and_its_gradients(pair, noise):
    x, y = problem(300)
    results = []
    for kernel, context in zip(pair, (contextlib.nullcontext(), dense()), strict=True):
        likelihood = None if noise == "learned" else fixed_noise(300)
        model, mll = build(x, y, kernel(), likelihood)
        with context:
            value = mll(model(x), y)
            value.backward()
        gradients = [p.grad.reshape(-1) for p in model.parameters()]
        results.append((value.detach(), torch.cat(gradients)))
    close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    close(results[0][1], results[1][1], rtol=1e-9, atol=1e-10)


def train(kernel, context, steps=20):
    x, y = problem(300)
    model, mll = build(x, y, kernel)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    with context:
        for _ in range(steps):
            optimiser.zero_grad()
            (-mll(model(x), y)).backward()
            optimiser.step()
    return model, mll


@pytest.mark.parametrize("name", ["scaled", "sum"])
def test_training_and_predictions(name):
    ours, theirs = PAIRS[name]
    model, mll = train(ours(), contextlib.nullcontext())
    other, other_mll = train(theirs(), dense())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        close(a, b, rtol=1e-8, atol=1e-8)
    for each in (model, mll.likelihood, other, other_mll.likelihood):
        each.eval()
    targets = torch.linspace(-1, 11, 40, dtype=D)
    targets[7] = problem(300)[0][3]  # a training point
    for likelihood, other_likelihood in (
        (lambda p: p, lambda p: p),
        (mll.likelihood, other_mll.likelihood),
    ):
        with dense():
            expected = other_likelihood(other(targets))
            matrix = expected.covariance_matrix
            density = expected.log_prob(torch.sin(targets))
        found = likelihood(model(targets))
        assert isinstance(found.lazy_covariance_matrix, LaplaceConditionalLinearOperator)
        close(found.mean, expected.mean, rtol=1e-8, atol=1e-9)
        close(found.variance, matrix.diagonal(), rtol=1e-8, atol=1e-9)
        close(found.covariance_matrix, matrix, rtol=1e-8, atol=1e-9)
        close(found.log_prob(torch.sin(targets)), density, rtol=1e-7, atol=1e-7)
        part = found.lazy_covariance_matrix[5:20, 5:20]
        assert isinstance(part, LaplaceConditionalLinearOperator)
        close(part.to_dense(), matrix[5:20, 5:20], rtol=1e-8, atol=1e-9)
        close(part.diagonal(), matrix.diagonal()[5:20], rtol=1e-8, atol=1e-9)
    covariance, v = found.lazy_covariance_matrix, draw(40, 2)
    close(covariance.solve(v), torch.linalg.solve(matrix, v), rtol=1e-6, atol=1e-6)
    close((covariance * 2.0).to_dense(), 2 * matrix, rtol=1e-8, atol=1e-9)
    torch.manual_seed(0)
    samples = found.sample(torch.Size([4000])) - found.mean
    error = (samples.T @ samples / 4000 - matrix).norm() / matrix.norm()
    assert error < 0.2


def test_fantasies_and_new_data():
    """More data after training: the same as with all data from the start."""
    model, mll = train(ScaleKernel(laplace()), contextlib.nullcontext(), steps=3)
    model.eval()
    mll.likelihood.eval()
    x, y = problem(300)
    targets = torch.linspace(0, 12, 20, dtype=D)
    model(targets)  # makes the strategy, which the fantasy model extends
    more = torch.tensor([10.5, 11.0], dtype=D)
    fantasy = model.get_fantasy_model(more, torch.sin(more))
    model.set_train_data(torch.cat((x, more)), torch.cat((y, torch.sin(more))), strict=False)
    found, expected = fantasy(targets), model(targets)
    close(found.mean, expected.mean)
    close(found.variance, expected.variance)


def test_single_precision_training():
    x, y = (each.float() for each in problem(200))
    model = Model(x, y, gpytorch.likelihoods.GaussianLikelihood(), ScaleKernel(laplace()))
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    value = marginal(model(x), y)
    value.backward()
    assert value.dtype is torch.float32
    assert model.covar_module.raw_outputscale.grad.isfinite()
    model.eval()
    prediction = model(x[:5] + 0.01)
    assert prediction.variance.dtype is prediction.mean.dtype is torch.float32
    exact, mll = build(x.double(), y.double(), ScaleKernel(laplace()))
    close(value.double(), mll(exact(x.double()), y.double()), rtol=1e-5, atol=1e-5)


def test_a_batch_of_models():
    x, y = uniform(3, 40, 1) * 5, draw(3, 40)
    results = []
    for kernel in (LaplaceKernel, lambda **k: MaternKernel(nu=0.5, **k)):
        shape = torch.Size([3])
        likelihood = gpytorch.likelihoods.GaussianLikelihood(batch_shape=shape)
        model, mll = build(
            x, y, ScaleKernel(kernel(batch_shape=shape), batch_shape=shape), likelihood
        )
        with dense() if kernel is not LaplaceKernel else contextlib.nullcontext():
            value = mll(model(x), y)
            value.sum().backward()
            model.eval()
            targets = torch.linspace(0, 5, 7, dtype=D).reshape(1, 7, 1).expand(3, 7, 1)
            prediction = model(targets)
            gradients = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            results.append((value, gradients, prediction.mean, prediction.variance))
    for a, b in zip(*results, strict=True):
        close(a, b, rtol=1e-8, atol=1e-9)


def test_one_scale_for_each_of_a_batch():
    """A batch of scales on a single kernel stays in O(n) too."""
    kernel = ScaleKernel(laplace(), batch_shape=torch.Size([2])).double()
    covariance = kernel(uniform(9, 1)).evaluate_kernel()
    assert isinstance(covariance, LaplaceGramLinearOperator)
    assert covariance.shape == (2, 9, 9)


def test_kernel_entries_and_gradients_to_inputs():
    x, z = (uniform(5, 1) * 3).requires_grad_(), (uniform(4, 1, seed=1) * 3).requires_grad_()
    ours, theirs = laplace().double(), matern().double()
    for one, two in ((x, z), (x, x)):
        a, b = ours(one, two).to_dense(), theirs(one, two).to_dense()
        close(a, b)
        g = draw(*a.shape)
        leaves = (one,) if one is two else (one, two)
        for found, expected in zip(
            torch.autograd.grad((a * g).sum(), leaves),
            torch.autograd.grad((b * g).sum(), leaves),
            strict=True,
        ):
            close(found, expected, rtol=1e-6, atol=1e-6)
    close(ours(x, x[:5], diag=True), torch.ones(5, dtype=D))
    columns = uniform(6, 3)
    chosen = LaplaceKernel(active_dims=[1]).double()
    close(chosen(columns).to_dense(), theirs(columns[:, 1:2]).to_dense())


def test_derivatives_of_predictions_by_test_points():
    model, _ = train(ScaleKernel(laplace()), contextlib.nullcontext(), steps=2)
    other, _ = train(ScaleKernel(matern()), dense(), steps=2)
    results = []
    for each, context in ((model, contextlib.nullcontext()), (other, dense())):
        each.eval()
        targets = torch.linspace(0.1, 9, 7, dtype=D).requires_grad_()
        with context:
            prediction = each(targets)
            total = prediction.mean.sum() + prediction.variance.sum()
            results.append(torch.autograd.grad(total, targets)[0])
    close(*results, rtol=1e-7, atol=1e-7)


def test_what_kernels_refuse():
    with pytest.raises(ValueError, match=r"active_dims=\[k\]"):
        laplace()(torch.rand(4, 2)).to_dense()
    with pytest.raises(AttributeError, match="oscillates=True"):
        laplace().frequency = 2.0


def test_a_kernel_with_a_prior_is_pickled_and_counted():
    prior = gpytorch.priors.GammaPrior(2.0, 1.0)
    kernel = LaplaceKernel(oscillates=True, frequency_prior=prior)
    kernel.frequency = 2.0
    copied = pickle.loads(pickle.dumps(kernel))
    assert float(copied.frequency.detach()) == pytest.approx(2.0)
    x, y = problem(50)
    model, mll = build(x, y, kernel)
    with_prior = float(mll(model(x), y).detach())
    plain, other = build(x, y, oscillating())
    without = float(other(plain(x), y).detach())
    assert with_prior - without == pytest.approx(float(prior.log_prob(torch.tensor(2.0))) / 50)


def test_a_hundred_thousand_points():
    """Seconds, and memory that grows with n: a dense matrix would be 80 GB."""
    n = 100_000
    x, y = problem(n)
    model, mll = build(x, y, ScaleKernel(laplace()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        loss = -mll(model(x), y)
        loss.backward()
        optimiser.step()
    model.eval()
    mll.likelihood.eval()
    prediction = mll.likelihood(model(torch.linspace(0, n / 30, n, dtype=D)))
    assert prediction.variance.shape == prediction.mean.shape == (n,)
    assert (prediction.mean - torch.sin(torch.linspace(0, n / 30, n, dtype=D))).abs().mean() < 0.2
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # KiB
