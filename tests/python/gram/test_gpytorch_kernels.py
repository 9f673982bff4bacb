"""Matern, SHO, trends and index kernels in GPyTorch's exact processes.

The truth are GPyTorch's own kernels as dense matrices with their Cholesky factors.
"""

from __future__ import annotations

import contextlib
import pickle
import time

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import (
    ConstantKernel,
    GridInterpolationKernel,
    IndexKernel,
    LinearKernel,
    PolynomialKernel,
    RBFKernel,
    ScaleKernel,
)

from laplex.gram import (
    ApproximationWarning,
    LaplaceGram,
    LaplaceKernel,
    LaplaceSumKernel,
    MaternKernel,
    SHOKernel,
)
from laplex.gram.linear_operator import (
    LaplaceConditionalLinearOperator,
    LaplaceGramLinearOperator,
)

D = torch.float64
close = torch.testing.assert_close

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # linear_operator's index kernels use sparse matrices, of which torch warns.
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
    # GPyTorch factorises low-rank kernels and repeated inputs with jitter.
    pytest.mark.filterwarnings("ignore:A not p.d.*"),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def dense():
    """GPyTorch with Cholesky factors in place of conjugate gradients."""
    with gpytorch.settings.fast_computations(False, False, False):
        yield


class Model(gpytorch.models.ExactGP):
    def __init__(self, x, y, kernel):
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = kernel
        self.double()

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def inputs(n: int, seed: int = 0) -> torch.Tensor:
    """A time and one of three tasks; two inputs are equal, and two differ in their tasks only."""
    x = torch.stack((uniform(n, seed=seed) * 10, torch.arange(n, dtype=D) % 3), -1)
    if n > 8:
        x[7] = x[4]
        x[5, 0] = x[3, 0]
    return x


def values(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x[:, 0]) + 0.2 * draw(len(x))


def index_kernel() -> IndexKernel:
    kernel = IndexKernel(num_tasks=3, rank=2, active_dims=[1])
    kernel.covar_factor.data = draw(3, 2)
    kernel.raw_var.data = draw(3, seed=1)
    return kernel


def linear() -> LinearKernel:
    return LinearKernel(active_dims=[0])


def polynomial(power: int) -> PolynomialKernel:
    return PolynomialKernel(power=power, active_dims=[0])


SUMS = {
    "line last": lambda k: ScaleKernel(k()) + linear(),
    "line first": lambda k: linear() + ScaleKernel(k()),
    "constant": lambda k: ConstantKernel() + k() + ScaleKernel(linear()),
    "parabola": lambda k: ScaleKernel(k()) + ScaleKernel(polynomial(2)),
    "plane": lambda k: k() + LinearKernel(ard_num_dims=2) + PolynomialKernel(power=3),
    "scaled sum": lambda k: ScaleKernel(k() + linear()),
    "two of ours": lambda k: ScaleKernel(k()) + ScaleKernel(k()) + ConstantKernel(),
    "tasks": lambda k: k() * index_kernel(),
    "tasks first": lambda k: index_kernel() * ScaleKernel(k()),
    "tasks and own": lambda k: ScaleKernel(k() * index_kernel()) + ScaleKernel(k()),
    "growing": lambda k: k() * linear() + ConstantKernel(),
    "sum times": lambda k: (k() + ConstantKernel()) * linear(),
    "lines of tasks": lambda k: k() + ScaleKernel(linear() * index_kernel()),
}
NU = (0.5, 1.5, 2.5)


def results(kernel, context, *, n: int = 60, m: int = 20):
    """Likelihood, gradients, and mean, variance and covariance at new inputs."""
    x = inputs(n)
    model = Model(x, values(x), kernel)
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    with context:
        value = marginal(model(x), values(x))
        value.backward()
        model.eval()
        prediction = model(inputs(m, seed=5))
        gradients = torch.cat([each.grad.reshape(-1) for each in model.parameters()])
        found = value, gradients, prediction.mean, prediction.variance
        covariance = prediction.covariance_matrix
        return [each.detach() for each in (*found, covariance)], prediction


@pytest.mark.parametrize("nu", NU)
@pytest.mark.parametrize("name", SUMS)
def test_sums_and_products_are_exact(name, nu):
    make = SUMS[name]

    def ours():
        return MaternKernel(nu=nu, active_dims=[0])

    def theirs():
        return gpytorch.kernels.MaternKernel(nu=nu, active_dims=[0])

    found, prediction = results(make(ours), contextlib.nullcontext())
    assert isinstance(prediction.lazy_covariance_matrix, LaplaceConditionalLinearOperator)
    expected, _ = results(make(theirs), dense())
    # GPyTorch's jitter of 1e-8, and cubes of 1e6 over posterior variances of about 1.
    slack = {"lines of tasks": 1e-5, "plane": 1e-7}.get(name, 1e-9)
    for a, b in zip(found, expected, strict=True):
        close(a, b, rtol=slack, atol=slack * float(b.abs().max()))


def test_a_trend_at_five_thousand_points():
    """The likelihood is exact, the same each time, and takes milliseconds."""
    x, y = uniform(5000, 1) * 170, draw(5000)
    model = Model(x, y, ScaleKernel(LaplaceKernel()) + LinearKernel())
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    first = marginal(model(x), y)
    first.backward()
    start = time.process_time()
    assert torch.equal(marginal(model(x), y), first)
    assert time.process_time() - start < 2  # 42 s by conjugate gradients
    scale, line = model.covar_module.kernels
    gram = LaplaceGram(
        x[:, 0],
        lengthscale=float(scale.base_kernel.lengthscale.detach()),
        variance=float(scale.outputscale.detach()),
        noise=float(model.likelihood.noise.detach()),
        basis=x,
        prior=float(line.variance.detach()),
    )
    close(first.detach(), gram.log_prob(y) / 5000, rtol=1e-12, atol=1e-12)


def test_sums_of_a_hundred_thousand_points():
    """Nothing is of size n times n, whose memory would be 80 GB; derivatives included."""
    n = 100_000
    x, y = uniform(n, 1) * 3000, draw(n)
    kernel = ScaleKernel(MaternKernel(nu=2.5)) + ScaleKernel(ConstantKernel()) + LinearKernel()
    model = Model(x, y, kernel + ConstantKernel() + PolynomialKernel(power=1))
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    marginal(model(x), y).backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())
    model.eval()
    assert model(x[:1000] + 0.01).variance.shape == (1000,)


@pytest.mark.parametrize("name", ["line last", "tasks", "growing"])
def test_predictions_of_sums(name):
    """Samples, derivatives by the inputs, and fantasies."""
    x, z = inputs(60), inputs(9, seed=5)

    def model(kernel, x=x):
        made = Model(x, values(x), SUMS[name](lambda: kernel(nu=1.5, active_dims=[0])))
        return made.eval()

    ours, theirs = model(MaternKernel), model(gpytorch.kernels.MaternKernel)
    gradients = []
    for each in (ours, theirs):
        with dense() if each is theirs else contextlib.nullcontext():
            at = z.clone().requires_grad_()
            prediction = each(at)
            total = prediction.mean.sum() + prediction.variance.sum()
            gradients.append(torch.autograd.grad(total, at)[0][:, 0])
    close(*gradients, rtol=1e-6, atol=1e-7)

    torch.manual_seed(0)
    prediction = ours(z)
    samples = prediction.sample(torch.Size([4000])) - prediction.mean
    matrix = prediction.covariance_matrix
    assert (samples.T @ samples / 4000 - matrix).norm() < 0.2 * matrix.norm()

    more = inputs(4, seed=8)
    fantasy = ours.get_fantasy_model(more, torch.sin(more[:, 0]))
    ours.set_train_data(
        torch.cat((x, more)), torch.cat((values(x), torch.sin(more[:, 0]))), strict=False
    )
    close(fantasy(z).mean, ours(z).mean)
    close(fantasy(z).variance, ours(z).variance)


def test_a_sum_kernel_by_name():
    x = uniform(9, 1)
    kernels = (ScaleKernel(LaplaceKernel()), LaplaceKernel(oscillates=True), ConstantKernel())
    named, plain = LaplaceSumKernel(*kernels), kernels[0] + kernels[1] + kernels[2]
    assert isinstance(plain(x.float()).evaluate_kernel(), LaplaceGramLinearOperator)
    close(named(x.float()).to_dense(), plain(x.float()).to_dense())
    close(named(x.float(), x[:4].float()).to_dense(), plain(x.float()).to_dense()[:, :4])


# --- MaternKernel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", NU)
@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
def test_matern_kernels_are_gpytorchs(nu, batch):
    options = {"nu": nu, "batch_shape": torch.Size(batch)}
    ours, theirs = MaternKernel(**options), gpytorch.kernels.MaternKernel(**options)
    theirs.raw_lengthscale.data = draw(*batch, 1, 1).float()
    ours.load_state_dict(theirs.state_dict())
    ours.double(), theirs.double()
    x, z = uniform(*batch, 5, 1), uniform(4, 1, seed=1)
    for one, two in ((x, x), (x, z), (z, z)):
        close(ours(one, two).to_dense(), theirs(one, two).to_dense())
    close(ours(x, diag=True), theirs(x, diag=True))
    if batch:
        close(ours[0](x[0]).to_dense(), theirs[0](x[0]).to_dense())
    many = uniform(*batch, 5, 3)
    close(ours(many).to_dense(), theirs(many).to_dense())
    copied = pickle.loads(pickle.dumps(ours))
    close(copied(x).to_dense(), ours(x).to_dense())


def test_parameters_of_a_matern_kernel():
    prior, constraint = gpytorch.priors.GammaPrior(2.0, 1.0), gpytorch.constraints.Interval(0.1, 9)
    kernel = MaternKernel(
        nu=1.5, ard_num_dims=1, lengthscale_prior=prior, lengthscale_constraint=constraint
    )
    kernel.lengthscale = 2.0
    assert float(kernel.lengthscale.detach()) == pytest.approx(2.0)
    assert kernel.lengthscale_prior is prior
    with pytest.raises(RuntimeError, match=r"nu expected to be 0\.5, 1\.5, or 2\.5"):
        MaternKernel(nu=1.0)
    default = MaternKernel()
    assert default.nu == gpytorch.kernels.MaternKernel().nu
    several = MaternKernel(nu=0.5, ard_num_dims=3).double()
    theirs = gpytorch.kernels.MaternKernel(nu=0.5, ard_num_dims=3).double()
    close(several(uniform(4, 3)).to_dense(), theirs(uniform(4, 3)).to_dense())


@pytest.mark.filterwarnings("ignore:The last_dim_is_batch:DeprecationWarning")
@pytest.mark.parametrize("nu", NU)
def test_the_last_dimension_as_a_batch(nu):
    x, z = uniform(6, 3), uniform(4, 3, seed=1)
    ours, theirs = (
        ScaleKernel(kind(nu=nu)).double() for kind in (MaternKernel, gpytorch.kernels.MaternKernel)
    )
    for one, two in ((x, x), (x, z)):
        found = ours(one, two, last_dim_is_batch=True)
        assert found.shape == (3, 6, len(two))
        close(found.to_dense(), theirs(one, two, last_dim_is_batch=True).to_dense())
    close(ours(x, diag=True, last_dim_is_batch=True), torch.full((3, 6), 0.6931471806, dtype=D))
    trend = LinearKernel().double()
    total = (ours + trend)(x, last_dim_is_batch=True).evaluate_kernel()
    assert isinstance(total, LaplaceGramLinearOperator)
    close(total.to_dense(), (theirs + trend)(x, last_dim_is_batch=True).to_dense())


@pytest.mark.filterwarnings("ignore:.*StructureKernel is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The last_dim_is_batch:DeprecationWarning")
def test_kernels_that_take_a_column_each():
    """Additive and grid kernels, which ask their kernel for a batch of columns."""
    for kind in (
        lambda kernel: gpytorch.kernels.AdditiveStructureKernel(kernel, num_dims=2),
        lambda kernel: gpytorch.kernels.ProductStructureKernel(kernel, num_dims=2),
        lambda kernel: GridInterpolationKernel(kernel, grid_size=20, num_dims=2),
    ):
        x = uniform(7, 2)
        found, expected = (
            kind(each(nu=1.5)).double()(x).to_dense()
            for each in (MaternKernel, gpytorch.kernels.MaternKernel)
        )
        close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:ProductStructureKernel is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The last_dim_is_batch:DeprecationWarning")
@pytest.mark.parametrize("scaled", [False, True])
def test_products_over_columns_between_two_sets_of_inputs(scaled):
    x, z = uniform(10, 2), uniform(4, 2, seed=1)
    found, expected = (
        gpytorch.kernels.ProductStructureKernel(
            ScaleKernel(each(nu=1.5)) if scaled else each(nu=1.5), num_dims=2
        )
        .double()(x, z)
        .to_dense()
        for each in (MaternKernel, gpytorch.kernels.MaternKernel)
    )
    close(found, expected, rtol=1e-12, atol=1e-12)


# --- SHOKernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [0.2, 0.5, 0.7, 8.0])
def test_sho_kernel(quality):
    import celerite2

    kernel = SHOKernel().double()
    kernel.sigma, kernel.w0, kernel.Q = 1.3, 2.0, quality
    x, z = uniform(30, 1) * 5, uniform(7, 1, seed=1) * 5
    term = celerite2.terms.SHOTerm(sigma=1.3, w0=2.0, Q=quality)

    def expected(one, two):
        distance = (one - two.mT).abs().numpy()
        return torch.from_numpy(term.get_value(np.ascontiguousarray(distance)))

    tolerance = 1e-5 if quality == 0.5 else 1e-12  # at Q = 1/2, celerite2 shifts Q a little
    for one, two in ((x, x), (x, z)):
        close(kernel(one, two).to_dense(), expected(one, two), rtol=tolerance, atol=tolerance)
    close(kernel(x, diag=True), torch.full((30,), 1.69, dtype=D))
    model = Model(x, draw(30), kernel + ConstantKernel())
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    found = marginal(model(x), draw(30))
    matrix = model.covar_module(x).to_dense() + model.likelihood.noise * torch.eye(30, dtype=D)
    truth = torch.distributions.MultivariateNormal(torch.zeros(30, dtype=D), matrix)
    close(found, truth.log_prob(draw(30)) / 30, rtol=1e-10, atol=1e-10)
    model.eval()
    cross = kernel(z, x).to_dense() + model.covar_module.kernels[1](z, x).to_dense()
    close(model(z).mean, cross @ torch.linalg.solve(matrix, draw(30)), rtol=1e-9, atol=1e-9)


def test_parameters_of_a_sho_kernel():
    prior = gpytorch.priors.GammaPrior(2.0, 1.0)
    kernel = SHOKernel(Q_prior=prior, batch_shape=torch.Size([2])).double()
    assert [name for name, *_ in kernel.named_priors()] == ["Q_prior"]
    kernel.rho = torch.tensor([[[3.0]], [[4.0]]])
    kernel.tau = 5.0
    kernel.S0 = 0.7
    for name, value in {"rho": [3.0, 4.0], "tau": [5.0, 5.0], "S0": [0.7, 0.7]}.items():
        close(getattr(kernel, name).flatten(), torch.tensor(value, dtype=D))
    kernel.initialize(sigma=1.5)
    close(kernel.sigma, torch.full((2, 1, 1), 1.5, dtype=D))
    assert kernel(uniform(4, 1)).shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"active_dims=\[k\]"):
        kernel(uniform(4, 2)).to_dense()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([[-1.0]])])
@pytest.mark.parametrize("name", ["sigma", "w0", "Q", "S0", "rho", "tau", "lengthscale"])
def test_parameters_are_positive(name, value):
    for kernel in (MaternKernel(), LaplaceKernel()) if name == "lengthscale" else (SHOKernel(),):
        before = getattr(kernel, name).clone()
        with pytest.raises(ValueError, match=rf"Kernel\.{name} must be positive and finite, got"):
            setattr(kernel, name, value)
        with pytest.raises(ValueError, match=rf"Kernel\.{name} must be positive and finite, got"):
            kernel.initialize(**{name: value})
        assert torch.equal(getattr(kernel, name), before)
        with pytest.raises(TypeError, match=rf"{name} must be a number or a tensor, got 'long'"):
            setattr(kernel, name, "long")


def test_parameters_inside_their_constraints():
    kernel = MaternKernel(lengthscale_constraint=gpytorch.constraints.Interval(0.1, 1.0))
    for value in (0.1, 1.0, 5.0):  # at a bound, the raw parameter would be infinite
        with pytest.raises(ValueError, match=r"inside its constraint Interval.*lengthscale_constr"):
            kernel.lengthscale = value
    kernel.lengthscale = 0.5
    oscillating = LaplaceKernel(oscillates=True)
    with pytest.raises(ValueError, match=r"frequency must be inside its constraint Positive"):
        oscillating.frequency = 0.0
    signed = gpytorch.constraints.Interval(-1.0, 1.0)
    oscillating = LaplaceKernel(oscillates=True, frequency_constraint=signed)
    oscillating.frequency = -0.5
    close(oscillating.frequency.item(), -0.5)
    with pytest.raises(RuntimeError, match="no lengthscale"):
        SHOKernel().lengthscale = 1.0


# --- approximations -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:linear_operator approximates by")
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda: LaplaceKernel() + RBFKernel(), "a sum with a dense matrix"),
        (lambda: RBFKernel() + LaplaceKernel(), "a sum with a dense matrix"),
        (lambda: LaplaceKernel() * RBFKernel(), "this product of two matrices is dense"),
        (lambda: MaternKernel(nu=1.5) * SHOKernel(), "this product of two matrices is dense"),
        (lambda: ScaleKernel(LaplaceKernel()) + RBFKernel(), "a sum with a dense matrix"),
    ],
)
def test_what_has_no_exact_algebra_warns(kernel, message):
    """Of more points than GPyTorch factorises."""
    with pytest.warns(ApproximationWarning, match=message):
        kernel().double()(uniform(900, 1) * 30).evaluate_kernel()


def test_samples_of_a_lazy_kernel_warn():
    x = uniform(900, 1) * 30
    lazy = LaplaceKernel().double()(x)
    with pytest.warns(ApproximationWarning, match="lanczos_tridiag"):
        lazy.zero_mean_mvn_samples(1)
    assert lazy.evaluate_kernel().zero_mean_mvn_samples(1).shape == (1, 900)


def test_several_columns_warn():
    with pytest.warns(ApproximationWarning, match="several columns"):
        MaternKernel(nu=0.5)(torch.rand(801, 2)).evaluate_kernel()


def test_cholesky_factors_do_not_warn():
    """What the warning recommends."""
    x = uniform(810, 1) * 30
    with dense():
        for kernel in (LaplaceKernel() + RBFKernel(), MaternKernel(nu=1.5) * SHOKernel()):
            kernel.double()(x).evaluate_kernel().add_jitter(0.1).logdet()


def test_small_matrices_do_not_warn():
    kernel = (LaplaceKernel() + RBFKernel()).double()
    kernel(uniform(50, 1)).evaluate_kernel().add_jitter(0.1).logdet()
