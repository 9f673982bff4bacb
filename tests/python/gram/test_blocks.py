"""The factor of covariances with state blocks, against dense references."""

from math import log, pi

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laplex.gram import factor as factors
from laplex.gram.factor import Covariance, Factor, Gram
from strategies import quick

EPS = torch.finfo(torch.float64).eps
BLOCKS = [(2,), (3,), (1, 1), (1, 2), (3, 2), (2, 2, 1), (1, 3, 2, 1)]


def draw(blocks: tuple[int, ...], n: int, seed: int, batch: int = 2) -> Covariance:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    width = sum(blocks)
    return Covariance(
        3 * uniform(batch, n),
        0.3 + uniform(batch, width),
        uniform(batch, n, width) - 0.3,
        0.1 + 0.1 * uniform(batch, n),
        0.05 + uniform(batch, width),
        blocks,
    )


def state(size: int, lengthscale: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """F and the stationary covariance of a block."""
    if size == 1:
        return -1 / lengthscale[:, None], weights[:, None]
    if size == 2:
        gamma, omega = (1 / lengthscale).unbind()
        first, second = weights.unbind()
        z, half, zero = gamma / omega, (first + second) / 2, torch.zeros_like(gamma)
        rows = ((zero, omega), (-omega, -2 * gamma))
        drift = torch.stack([torch.stack(row) for row in rows])
        rows = ((half, -first * z), (-first * z, half + 2 * first * z * z))
        return drift, torch.stack([torch.stack(row) for row in rows])
    drift = torch.tensor([[0, 1, 0], [0, 0, 1], [-1, -3, -3]], dtype=torch.float64)
    stationary = torch.tensor([[3, 0, -1], [0, 1, 0], [-1, 0, 3]], dtype=torch.float64) / 3
    return drift / lengthscale[0], stationary * weights[0]


def dense(covariance: Covariance) -> Tensor:
    """The matrices, by exponentials of matrices."""
    result = []
    anchors, lengthscales, observed, noises, all_weights, blocks = covariance
    assert all_weights is not None
    each_matrix = (anchors, lengthscales, observed, noises, all_weights)
    for t, lengthscale, loadings, noise, weights in zip(*each_matrix, strict=True):
        total = torch.diag(noise)
        gap = t[:, None] - t
        column = 0
        for size in blocks:
            part = slice(column, column + size)
            column += size
            transition, stationary = state(size, lengthscale[part], weights[part])
            moved = torch.linalg.matrix_exp(transition * gap.abs()[..., None, None]) @ stationary
            h = loadings[:, part]
            later = torch.einsum("ia,ijab,jb->ij", h, moved, h)
            total = total + torch.where(gap >= 0, later, later.mT)
        result.append(total)
    return torch.stack(result)


def of(tensors: tuple[Tensor, ...], blocks: tuple[int, ...]) -> Covariance:
    anchors, lengthscale, loadings, noise, weights = tensors
    return Covariance(anchors, lengthscale, loadings, noise, weights, blocks)


def log_prob(values: Tensor, *tensors: Tensor, blocks: tuple[int, ...]) -> Tensor:
    covariance = of(tensors, blocks)
    return factors.log_prob(Gram(covariance.map(Tensor.detach)), values, covariance)


def dense_log_prob(values: Tensor, *tensors: Tensor, blocks: tuple[int, ...]) -> Tensor:
    matrix = dense(of(tensors, blocks))[:, None]
    n = values.shape[-1]
    solution = torch.linalg.solve(matrix, values[..., None])[..., 0]
    result: Tensor = -0.5 * ((values * solution).sum(-1) + torch.logdet(matrix) + n * log(2 * pi))
    return result


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("n", [1, 40])
def test_factor_and_solution_are_those_of_the_dense_matrix(blocks: tuple[int, ...], n: int) -> None:
    covariance = draw(blocks, n, n)
    gram, matrix = Gram(covariance), dense(covariance)
    identity = torch.eye(n, dtype=torch.float64).expand(2, n, n)
    root = gram.apply(Factor.LOWER, identity, scaled=True).mT
    scale = matrix.diagonal(dim1=1, dim2=2).max()
    assert (root @ root.mT - matrix).abs().max() <= 256 * EPS * scale * len(blocks)
    values = torch.randn(2, 3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.solve(matrix, values.mT).mT
    # The noise bounds the least eigenvalue from below by 0.1.
    condition = n * scale / 0.1
    assert (
        gram.solve(values) - expected
    ).abs().max() <= 256 * EPS * condition * expected.abs().max()
    found = gram.logdet() - torch.logdet(matrix)
    assert found.abs().max() <= 64 * EPS * n * condition


@pytest.mark.parametrize("blocks", BLOCKS)
def test_first_and_second_derivatives_are_those_of_the_dense_density(
    blocks: tuple[int, ...],
) -> None:
    covariance = draw(blocks, 20, 7)
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(2, 2, 20, dtype=torch.float64, generator=generator)
    given = [
        each.clone().requires_grad_() for each in (values, *covariance.tensors) if each is not None
    ]
    directions = [
        torch.randn(each.shape, dtype=torch.float64, generator=generator) for each in given
    ]
    found = []
    for density in (log_prob, dense_log_prob):
        first = torch.autograd.grad(density(*given, blocks=blocks).sum(), given, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        assert isinstance(along, Tensor)
        found.append((*first, *torch.autograd.grad(along, given)))
    for ours, theirs in zip(*([each.detach() for each in one] for one in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def exact_covariance(covariance: Covariance) -> mpmath.matrix:
    """One matrix of oscillators observed by (1, 0), by the formula of k(d), in 160 digits."""
    assert covariance.weights is not None
    (t,), (lengthscale,), _, (noise,), (weights,) = (
        each.tolist() for each in covariance.tensors if each is not None
    )
    n = len(t)
    matrix = mpmath.diag([mpmath.mpf(each) for each in noise])
    for j in range(0, len(lengthscale), 2):
        gamma, omega = 1 / mpmath.mpf(lengthscale[j]), 1 / mpmath.mpf(lengthscale[j + 1])
        first, second = mpmath.mpf(weights[j]), mpmath.mpf(weights[j + 1])
        root = mpmath.sqrt(omega**2 - gamma**2)
        for k in range(n):
            for i in range(n):
                d = abs(mpmath.mpf(t[i]) - mpmath.mpf(t[k]))
                sine = mpmath.sin(root * d) / root if root else d
                factor = (first + second) / 2 * mpmath.cos(root * d) + gamma * (
                    second - first
                ) / 2 * sine
                matrix[i, k] += mpmath.exp(-gamma * d) * mpmath.re(factor)
    return matrix


@quick
@given(
    st.integers(0, 10**6),
    st.sampled_from([1.0, 1 + 1e-9, 1 - 1e-9, 1e-3, 1e3, 0.1, 2.0]),
    st.floats(-16, 6),
    st.floats(0, 5),
    st.sampled_from([1, 2]),
)
def test_oscillators_agree_with_160_digits_at_any_spacing(
    seed: int, damping: float, spacing: float, spread: float, terms: int
) -> None:
    random = np.random.default_rng(seed)
    n = 7
    gaps = 10 ** (spacing - spread * random.random(n))
    loadings = torch.zeros(1, n, 2 * terms, dtype=torch.float64)
    loadings[..., ::2] = 1
    lengthscale = torch.tensor([[1 / damping, 1.0] * terms], dtype=torch.float64)
    lengthscale *= torch.tensor(random.uniform(0.5, 2, (1, terms)).repeat(2, 1))
    covariance = Covariance(
        torch.tensor(np.cumsum(gaps))[None],
        lengthscale,
        loadings,
        torch.full((1, n), 0.1, dtype=torch.float64),
        torch.tensor(random.uniform(0, 1, (1, 2 * terms))),
        (2,) * terms,
    )
    values = torch.tensor(random.standard_normal((1, 1, n)))
    gram = Gram(covariance)
    with mpmath.workdps(160):
        matrix = exact_covariance(covariance)
        logdet = float(mpmath.log(mpmath.det(matrix)) - mpmath.mpf(float(gram.logdet())))
        solution = mpmath.lu_solve(matrix, mpmath.matrix(values[0, 0].tolist()))
        found = gram.solve(values)[0, 0].tolist()
        errors = [float(abs(solution[k] - mpmath.mpf(found[k]))) for k in range(n)]
        size = max(float(abs(each)) for each in solution)
        variance = float(matrix[0, 0])
    # Entries are off by a few units of the variance; the least eigenvalue is at least the noise.
    condition = n * variance / 0.1
    assert abs(logdet) <= 64 * EPS * n * condition
    assert max(errors) <= 64 * EPS * n * condition * size


def test_blocks_that_do_not_fit_are_refused_by_name() -> None:
    covariance = draw((2, 1), 5, 1)
    with pytest.raises(ValueError, match="weights is null"):
        Gram(covariance._replace(weights=None))
    with pytest.raises(ValueError, match="1, 2 or 3 columns"):
        Gram(covariance._replace(blocks=(4,)))
    with pytest.raises(ValueError, match="the blocks have 2 columns, but the covariance has 3"):
        Gram(covariance._replace(blocks=(2,)))
    assert covariance.weights is not None
    with pytest.raises(ValueError, match="weights must be finite"):
        Gram(covariance._replace(weights=covariance.weights * torch.nan))


def test_only_a_pivot_that_is_not_positive_is_refused() -> None:
    t = torch.linspace(0, 3, 30, dtype=torch.float64)[None]
    covariance = Covariance(
        t,
        torch.tensor([[1.0, 0.1]], dtype=torch.float64),
        torch.ones(1, 30, 2, dtype=torch.float64),
        torch.full((1, 30), 0.1, dtype=torch.float64),
        torch.tensor([[2.0, -0.05]], dtype=torch.float64),
        (1, 1),
    )
    found = Gram(covariance).logdet() - torch.logdet(dense(covariance))
    assert found.abs().max() <= 1e-11
    assert covariance.weights is not None
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        Gram(covariance._replace(weights=covariance.weights * torch.tensor([1.0, 100.0])))
