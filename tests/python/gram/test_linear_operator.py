"""Operators of covariances: posteriors, repeated inputs, parts of low rank, blocks, warnings."""

from __future__ import annotations

import gpytorch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_operator import to_linear_operator
from linear_operator.operators import (
    ConstantMulLinearOperator,
    DenseLinearOperator,
    InterpolatedLinearOperator,
    LowRankRootLinearOperator,
    MulLinearOperator,
    RootLinearOperator,
    SumLinearOperator,
)
from linear_operator.utils.warnings import NumericalWarning

import laplex
from laplex.gram import SHO, ApproximationWarning, LaplaceGram, Matern32, Matern52, Term
from laplex.gram.linear_operator import (
    LaplaceBlockLinearOperator,
    LaplaceConditionalLinearOperator,
    LaplaceGramLinearOperator,
    conditional,
)
from laplex.gram.linear_operator.low_rank import MOST_COLUMNS, root_of
from strategies import quick

D = torch.float64
close = torch.testing.assert_close
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def posterior(m: int, *, terms=None, basis: bool = False, observed: int = 50):
    """The covariance of m points of a process, given others with noise."""
    x = uniform(observed + m) * 20
    noise = torch.cat((torch.full((observed,), 0.1, dtype=D), torch.zeros(m, dtype=D)))
    options = {"basis": torch.stack((torch.ones_like(x), x), -1), "prior": 2.0} if basis else {}
    gram = LaplaceGram(x, terms=terms or Term(2.0), noise=noise, **options)
    return LaplaceConditionalLinearOperator(gram.to_linear_operator(), observed=observed)


# --- posteriors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [False, True])
def test_the_root_of_a_large_posterior_is_exact(basis):
    covariance = posterior(2000, basis=basis)
    v = draw(2000, 2)
    root = covariance.root_decomposition()
    assert root.root.shape == (2000, 2000)
    assert root.root.to_dense().tril().diagonal().min() > 0  # triangular, so the rank is full
    close(root @ v, covariance @ v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("basis", [False, True])
def test_the_divergence_of_a_posterior_from_itself_is_zero(basis):
    """Of 1000 points, above the size from which GPyTorch uses Lanczos iterations."""
    covariance = posterior(1000, basis=basis)
    normal = gpytorch.distributions.MultivariateNormal(torch.zeros(1000, dtype=D), covariance)
    divergence = torch.distributions.kl_divergence(normal, normal)
    assert abs(float(divergence)) < 1e-7  # a sum of 1000 ones, minus 1000


@pytest.mark.parametrize("terms", [Term(2.0), Matern52(3.0), SHO(sigma=1.0, w0=2.0, Q=2.0)])
@pytest.mark.parametrize("basis", [False, True])
def test_lazy_roots_of_posteriors(monkeypatch, terms, basis):
    """Those of Matheron's rule, which posteriors too large for dense roots have."""
    covariance = posterior(30, terms=terms, basis=basis)
    matrix = covariance.to_dense()
    monkeypatch.setattr(conditional, "MOST_DENSE", 0)
    root, inverse = covariance.root_decomposition(), covariance.root_inv_decomposition()
    assert root.root.shape == inverse.root.shape == (30, 80)
    scale = {"rtol": 1e-8, "atol": 1e-9}
    close(root.to_dense(), matrix, **scale)
    v = draw(30, 2)
    close(root @ v, matrix @ v, **scale)
    close(inverse.to_dense() @ matrix @ v, v, rtol=1e-4, atol=1e-4)  # condition 1e8 for Matern-5/2
    close(root.root.mT.to_dense(), root.root.to_dense().mT)
    close(root.root @ draw(80), root.root.to_dense() @ draw(80))
    close(root.root.mT @ draw(30), root.root.to_dense().mT @ draw(30))
    leaves = [each.clone().requires_grad_() for each in covariance.representation()]
    made = covariance.representation_tree()(*leaves)
    (made.root_decomposition().root @ draw(80, 1)).sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in leaves)


def test_eigenvalues_of_large_covariances():
    covariance = LaplaceGram(uniform(900) * 30, noise=0.1).to_linear_operator()
    values, vectors = covariance.diagonalization()
    close((vectors.to_dense() * values) @ vectors.to_dense().mT, covariance.to_dense())


# --- repeated inputs ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
@quick
def test_singular_matrices_have_roots(places):
    """At repeated inputs, the root repeats the rows of that of the distinct inputs."""
    x = torch.tensor(places, dtype=D)
    covariance = LaplaceGram(x, terms=[Term(1.0), Matern32(2.0)]).to_linear_operator()
    root = covariance.root_decomposition()
    close(root.to_dense(), covariance.to_dense(), rtol=1e-13, atol=1e-13)
    factor = root.root
    assert factor.shape == (len(places), len(set(places)))
    close(factor.mT @ torch.eye(len(places), dtype=D), factor.to_dense().mT)
    v = draw(len(places))
    close(factor.mT @ v, factor.to_dense().mT @ v)
    close(factor @ (factor.mT @ v), covariance @ v, rtol=1e-12, atol=1e-12)


def test_the_root_of_a_batch_at_repeated_inputs():
    """Its derivatives by parameters are exact."""
    x = torch.tensor([0.0, 1.0, 1.0], dtype=D)
    lengthscale = (1 + uniform(2)).requires_grad_()
    covariance = LaplaceGram(x.expand(2, 3), terms=Term(lengthscale)).to_linear_operator()
    weights = draw(2, 3, 3)
    gradients = [
        torch.autograd.grad((weights * matrix).sum(), lengthscale)[0]
        for matrix in (covariance.root_decomposition().to_dense(), covariance.to_dense())
    ]
    close(*gradients)


@pytest.mark.parametrize("places", [[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]])
def test_roots_of_other_singular_matrices(places):
    """Anchors that differ in a batch, or scales of each anchor: the root has jitter."""
    x = torch.tensor(places, dtype=D)
    scale = draw(3) if len(places) == 1 else None
    covariance = LaplaceGram(x, terms=Term(1.0, scale=scale)).to_linear_operator()
    with pytest.warns(NumericalWarning, match="add noise of your own choice"):
        root = covariance.root_decomposition()
    close(root.to_dense(), covariance.to_dense(), rtol=0, atol=1e-7)
    with pytest.warns(NumericalWarning, match="add noise of your own choice"):
        covariance.root_inv_decomposition()


def test_samples_at_repeated_inputs():
    """They are equal at equal inputs, and have the right covariance."""
    x = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=D)
    covariance = LaplaceGram(x).to_linear_operator()
    torch.manual_seed(0)
    samples = covariance.zero_mean_mvn_samples(20_000)
    close(samples[:, 1], samples[:, 2])
    close(samples.T @ samples / 20_000, covariance.to_dense(), rtol=0, atol=0.05)


@pytest.mark.parametrize("n", [4, 900])
def test_index_kernels_at_repeated_inputs(n):
    """Lazy products with the matrix of tasks, from either side, are exact in O(n)."""
    torch.manual_seed(0)
    kernel, tasks = laplex.gram.LaplaceKernel().double(), gpytorch.kernels.IndexKernel(2).double()
    x, index = torch.arange(n, dtype=D) // 2, torch.arange(n)[:, None] % 2
    matrix = kernel(x).to_dense() * tasks(index).to_dense()
    for product in (
        kernel(x).mul(tasks(index)),
        tasks(index).mul(kernel(x)),
        kernel(x).evaluate_kernel().mul(tasks(index).evaluate_kernel()),
    ):
        assert isinstance(product, LaplaceGramLinearOperator)
        close(product.to_dense(), matrix, rtol=1e-13, atol=1e-13)
        close(product.add_jitter(0.1).logdet(), torch.logdet(matrix + 0.1 * torch.eye(n, dtype=D)))
    crossed = kernel(x, x[:3]).mul(tasks(index, index[:3]))
    close(crossed.to_dense(), matrix[:, :3], rtol=1e-13, atol=1e-13)
    other = gpytorch.kernels.RBFKernel().double()(x)  # which is left to GPyTorch
    close(other.mul(other).to_dense(), other.to_dense().square())


# --- parts of low rank ----------------------------------------------------------------------------


def low_rank(n: int):
    root = draw(n, 2, seed=3)
    index = torch.arange(n)[:, None] % 3
    tasks = DenseLinearOperator(draw(3, 3) @ draw(3, 3).mT)
    one = RootLinearOperator(root)
    return {
        "root": one,
        "low-rank root": LowRankRootLinearOperator(root),
        "constant": to_linear_operator(torch.full((1, 1), 2.0, dtype=D).expand(n, n)),
        "scaled": ConstantMulLinearOperator(one, torch.tensor(3.0, dtype=D)),
        "sum": SumLinearOperator(one, LowRankRootLinearOperator(draw(n, 1, seed=4))),
        "product": MulLinearOperator(one, RootLinearOperator(draw(n, 1, seed=4))),
        "tasks": InterpolatedLinearOperator(
            tasks, left_interp_indices=index, right_interp_indices=index
        ),
    }


@pytest.mark.parametrize("name", low_rank(1))
@pytest.mark.parametrize("terms", [Term(0.5), Matern32(0.5)])
def test_what_is_added_and_multiplied(name, terms):
    n = 7
    other = low_rank(n)[name]
    root = root_of(other)
    close(root @ root.mT, other.to_dense())
    covariance = LaplaceGram(uniform(n), terms=terms, noise=0.1).to_linear_operator()
    matrix, v = covariance.to_dense(), draw(n, 2)
    for made, expected in (
        (covariance + other, matrix + other.to_dense()),
        (covariance * other, matrix * other.to_dense()),
        ((covariance + other) * other, (matrix + other.to_dense()) * other.to_dense()),
        ((covariance + other) + other, matrix + 2 * other.to_dense()),
        ((covariance + other) * 2.0, 2 * (matrix + other.to_dense())),
        ((covariance + other)[1:5, 1:5], (matrix + other.to_dense())[1:5, 1:5]),
        ((covariance + other).add_jitter(0.5), matrix + other.to_dense() + 0.5 * torch.eye(n)),
    ):
        assert isinstance(made, LaplaceGramLinearOperator)
        close(made.to_dense(), expected)
        close(made.diagonal(), expected.diagonal())
        close(made.logdet(), torch.logdet(expected))
        close(made.solve(v[: len(expected)]), torch.linalg.solve(expected, v[: len(expected)]))
        root = made.root_decomposition()
        close(root.to_dense(), expected)
        close(made[torch.tensor([0, 2]), torch.tensor([1, 3])], expected[[0, 2], [1, 3]])


def test_a_batch_of_roots():
    covariance = LaplaceGram(uniform(3, 1, 6), noise=0.1).to_linear_operator()
    other = RootLinearOperator(draw(2, 6, 2))
    matrix = covariance.to_dense()
    for made, expected in (
        (covariance + other, matrix + other.to_dense()),
        (covariance._mul_matrix(other), matrix * other.to_dense()),
    ):
        assert isinstance(made, LaplaceGramLinearOperator)
        assert made.shape == (3, 2, 6, 6)
        close(made.to_dense(), expected)


@pytest.mark.filterwarnings("ignore:.*A not p.d.*")
def test_what_is_not_of_low_rank():
    n = MOST_COLUMNS + 1
    eye = torch.eye(n, dtype=D)
    assert root_of(RootLinearOperator(eye)) is None
    assert root_of(DenseLinearOperator(eye)) is None
    assert root_of(to_linear_operator(torch.full((1, 1), -2.0, dtype=D).expand(n, n))) is None
    assert root_of(ConstantMulLinearOperator(RootLinearOperator(eye[:, :1]), -eye[0, 0])) is None
    covariance = LaplaceGram(uniform(n), noise=0.1).to_linear_operator()
    matrix = covariance.to_dense()
    close((covariance + DenseLinearOperator(eye)).to_dense(), matrix + eye)
    wide = RootLinearOperator(draw(n, 33))  # more columns than a LaplaceGram takes
    close((covariance * wide).to_dense(), matrix * wide.to_dense())


# --- blocks and other matrices --------------------------------------------------------------------


def test_blocks_off_the_diagonal():
    whole = LaplaceGram(
        uniform(2, 9), terms=SHO(sigma=1.0, w0=3.0, Q=2.0), basis=draw(9, 2), prior=1.0
    ).to_linear_operator()
    block, matrix = LaplaceBlockLinearOperator(whole, first=4), whole.to_dense()[..., :4, 4:]
    close(block.to_dense(), matrix)
    close(block @ draw(2, 5, 3), matrix @ draw(2, 5, 3))
    close(block.mT @ draw(2, 4, 3), matrix.mT @ draw(2, 4, 3))
    close(block[..., 1:3, 2:].to_dense(), matrix[..., 1:3, 2:])
    close(block[1, 3, 2], matrix[1, 3, 2])


def test_products_of_operators_are_exact():
    """Of all kinds, of multiples of them, and along a batch; rectangular ones too."""
    x = uniform(2, 9)
    whole = LaplaceGram(x, terms=Matern32(0.5), noise=0.1).to_linear_operator()
    block = LaplaceBlockLinearOperator(whole, first=4)
    given_some = LaplaceConditionalLinearOperator(whole, observed=4)
    plain = laplex.LaplaceOperator(x[:, :4], x[:, 4:], kernel="matern32").to_linear_operator()
    for one in (whole, block, given_some, plain, block.mul(2.0), plain.mT.mul(draw(2, 1, 1)[0])):
        dense = one.to_dense()
        close(one.prod(dim=0).to_dense(), dense.prod(0))
        close(one.unsqueeze(0).prod(dim=0).to_dense(), dense)
        close(one.mT.mul(one.mT).to_dense(), dense.mT.square())
        close(one[:1].prod(dim=0).to_dense(), dense[0])


@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
def test_matern_operators(kernel):
    x, y = uniform(5), uniform(4, seed=1)
    operator = laplex.LaplaceOperator(x, y, lengthscale=0.4, kernel=kernel)
    wrapped, matrix = operator.to_linear_operator(), operator.to_dense()
    close(wrapped.to_dense(), matrix)
    close(wrapped @ draw(4, 2), matrix @ draw(4, 2))
    close(wrapped.mT @ draw(5, 2), matrix.mT @ draw(5, 2))
    close(wrapped[1:3, 2:].to_dense(), matrix[1:3, 2:])
    close(wrapped[3, 1], matrix[3, 1])


def test_a_batch_of_one_is_summed_away():
    covariance = LaplaceGram(uniform(2, 1, 4), noise=0.1).to_linear_operator()
    assert isinstance(covariance.sum(-3), LaplaceGramLinearOperator)
    close(covariance.sum(-3).to_dense(), covariance.to_dense()[:, 0])
    close(covariance.sum(0).to_dense(), covariance.to_dense().sum(0))


# --- iterations -----------------------------------------------------------------------------------


def test_iterations_warn():
    """A sum of operators that neither package factorises, in either order."""
    n = 900
    x = uniform(n) * 30
    ours, others = LaplaceGram(x).to_linear_operator(), LaplaceGram(x + 1).to_linear_operator()
    posterior_of_others = LaplaceConditionalLinearOperator(
        LaplaceGram(uniform(n + 9) * 30, noise=0.1).to_linear_operator(), observed=9
    )
    product = laplex.LaplaceOperator(x, kernel="matern32").to_linear_operator()
    for total in (ours + others, product + ours, ours + posterior_of_others):
        with pytest.warns(ApproximationWarning, match="linear_cg"):
            total.add_jitter(0.1).solve(draw(n, 1))
        total @ draw(n, 1)  # a product is exact, and does not warn
