"""`LaplaceGram` over ranks against the same matrix on one process.

Tolerances. For one real term everything is made of sums and products of positive numbers: results
differ by a few units of rounding for each anchor. With more columns, covariances are differences,
and results are as far from each other as two backward stable factorisations: `dense_error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from laplex.gram import LaplaceGram, Term
from rank_cases import run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")

D = torch.float64
EPSILON = torch.finfo(D).eps
Model = Callable[[int, slice], dict[str, Any]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def places(n: int) -> torch.Tensor:
    """Sorted anchors, some of which coincide, and some far from the others."""
    x = torch.rand(n, dtype=D, generator=torch.Generator().manual_seed(1)).sort().values
    x[n // 3 - 2 : n // 3 + 2] = x[n // 3]
    x[2 * n // 3 :] += 300
    return x


def real(n: int, s: slice) -> dict[str, Any]:
    return {"lengthscale": 0.05, "variance": 1.7, "noise": 0.1}


def precise(n: int, s: slice) -> dict[str, Any]:
    return {"lengthscale": 0.05, "noise": 1e-8}


def noisy(n: int, s: slice) -> dict[str, Any]:
    return {"lengthscale": 2.0, "noise": (100 * draw(n).abs())[s]}


def oscillating(n: int, s: slice) -> dict[str, Any]:
    return {"lengthscale": 0.3, "frequency": 40.0, "noise": 0.1}


def summed(n: int, s: slice) -> dict[str, Any]:
    phase, scale = draw(n, seed=3)[s], draw(n, seed=4)[s]
    terms = [Term(0.05, 2.0), Term(1.5, frequency=30.0), Term(0.8, phase=phase, scale=scale)]
    return {"terms": terms, "noise": 0.2}


def batched(n: int, s: slice) -> dict[str, Any]:
    lengthscale = torch.tensor([[0.1], [0.4]], dtype=D)
    variance = torch.tensor([0.5, 1.0, 2.0], dtype=D)
    return {"lengthscale": lengthscale, "variance": variance, "frequency": 9.0, "noise": 0.3}


REAL: tuple[Model, ...] = (real, precise, noisy)
MODELS: tuple[Model, ...] = (*REAL, oscillating, summed, batched)

#: Where the parts of n = 90 anchors end; equal anchors lie on both sides of 30.
CUTS = {
    "one rank": [90],
    "two ranks": [41, 90],
    "a tie across": [30, 90],
    "empty in the middle": [30, 30, 90],
    "empty in front": [0, 3, 90],
    "empty behind": [50, 90, 90],
}


def part_of(rank: int, ends: list[int]) -> slice:
    return slice(([0, *ends])[rank], ends[rank])


def observed_part(s: slice) -> torch.Tensor:
    """Indices, in a part, of those anchors that are observed: two of three."""
    numbers = torch.arange(s.start, s.stop)
    return (numbers % 3 != 0).nonzero()[:, 0]


def results(model: Model, n: int, s: slice, **where: Any) -> list[np.ndarray]:
    """First what all ranks share, then what is spread over them."""
    gram = LaplaceGram(places(n)[s], **model(n, s), **where)
    v = draw(2, *gram.shape[:-2], n, seed=9)[..., s]
    observed = observed_part(s)
    conditional = gram.condition(observed, v[..., observed])
    found = [gram.log_prob(v), gram.log_prob(v[0]), gram.logdet(), *gram.inv_quad_logdet(v)]
    found += [gram.solve(v), gram.diagonal(), conditional.mean, conditional.variance]
    if not any(term.has_parameters_per_anchor() for term in gram.terms):
        process = gram.predict(places(n)[s], v)
        found += [process.mean, process.latent_variance]
    return [each.numpy() for each in found]


SHARED = 5


def results_on_ranks(rank: int, size: int, ends: list[int]) -> list[list[np.ndarray]]:
    s = part_of(rank, ends)
    return [results(model, ends[-1], s, group=dist.group.WORLD) for model in MODELS]


@pytest.mark.parametrize("cuts", CUTS)
def test_results_are_those_of_one_process(cuts: str) -> None:
    ends = CUTS[cuts]
    n = ends[-1]
    ranks = run_ranks(results_on_ranks, len(ends), ends)
    for number, model in enumerate(MODELS):
        dense = LaplaceGram(places(n), **model(n, slice(0, n))).to_dense()
        error = 20 * EPSILON * n * float(torch.linalg.cond(dense).max())
        for index, expected in enumerate(results(model, n, slice(0, n))):
            parts = [rank[number][index] for rank in ranks]
            if index < SHARED:
                assert all(np.array_equal(part, parts[0]) for part in parts)  # to the last bit
                found = parts[0]
            else:
                found = np.concatenate(parts, -1)
            # What does not go through a product with the inverse is far more accurate.
            accurate = model in REAL and index <= SHARED
            tolerance = 4 * EPSILON * n if accurate else error
            size = np.abs(expected).max()
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=tolerance * size, err_msg=f"{model.__name__} {index}"
            )


def many_on_ranks(rank: int, size: int, cases: int) -> list[tuple[np.ndarray, ...]]:
    """Random lengths, cuts, lengthscales and noise; the same on every rank."""
    found = []
    for seed in range(cases):
        _, x, v, ends, model = random_case(seed, size)
        s = part_of(rank, ends)
        gram = LaplaceGram(x[s], **model, group=dist.group.WORLD)
        found.append((gram.log_prob(v[s]).numpy(), gram.solve(v[s]).numpy()))
    return found


def random_case(
    seed: int, size: int
) -> tuple[int, torch.Tensor, torch.Tensor, list[int], dict[str, Any]]:
    random = np.random.default_rng(seed)
    n = int(random.choice([1, 2, 5, 40, 2000]))
    x = np.sort(np.round(random.random(n), int(random.integers(1, 16))))  # rounding makes ties
    ends = [*np.sort(random.integers(0, n + 1, size - 1)).tolist(), n]
    lengthscale, noise = 10.0 ** random.uniform(-6, 6), 10.0 ** random.uniform(-8, 3)
    v = torch.from_numpy(random.standard_normal(n))
    return n, torch.from_numpy(x), v, ends, {"lengthscale": lengthscale, "noise": noise}


def test_of_one_real_term_nothing_cancels() -> None:
    cases, size = 40, 3
    ranks = run_ranks(many_on_ranks, size, cases)
    for seed in range(cases):
        n, x, v, _, model = random_case(seed, size)
        gram = LaplaceGram(x, **model)
        solution = gram.solve(v).numpy()
        density, solved = zip(*(rank[seed] for rank in ranks), strict=True)
        tolerance = 8 * EPSILON * (n + 8)
        np.testing.assert_allclose(density, 3 * [gram.log_prob(v).numpy()], rtol=tolerance)
        found = np.concatenate(solved)
        np.testing.assert_allclose(found, solution, rtol=0, atol=tolerance * abs(solution).max())


# --- derivatives ----------------------------------------------------------------------------------


def gradients(
    model: str, n: int, s: slice, dtype: torch.dtype = D, **where: Any
) -> dict[str, np.ndarray]:
    """Derivatives of log densities and determinants, by name."""
    given = {"lengthscale": 0.3, "variance": 1.3, "noise": 0.2, "frequency": 20.0}
    p = {name: torch.tensor(value, dtype=D, requires_grad=True) for name, value in given.items()}
    x = torch.linspace(0, 2, n, dtype=D) + 0.01 * torch.sin(torch.arange(n, dtype=D))
    x = x[s].to(dtype).requires_grad_(model != "fixed anchors")
    v = draw(2, n, seed=9)[:, s].to(dtype).requires_grad_()
    p["anchors"], p["values"] = x, v
    arguments = {name: p[name] for name in ("lengthscale", "variance", "noise")}
    if model == "sum":
        terms = [Term(p["lengthscale"], p["variance"]), Term(0.5, 0.7, p["frequency"])]
        arguments = {"terms": terms, "noise": p["noise"]}
    if model == "noise per anchor":
        p["noise"] = (0.2 + 0.01 * torch.arange(n, dtype=D))[s].requires_grad_()
        arguments["noise"] = p["noise"]
    gram = LaplaceGram(x, **arguments, **where)
    values = [gram.log_prob(v) @ torch.tensor([1.0, 2.0], dtype=dtype), gram.log_prob(v[1])]
    values.append(gram.logdet())
    found = {}
    inputs = {name: each for name, each in p.items() if each.requires_grad}
    for number, value in enumerate(values):
        grads = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
        for name, grad in zip(inputs, grads, strict=True):
            if grad is not None:
                found[f"{number} {name}"] = grad.numpy()
    return found


KINDS = ("one term", "fixed anchors", "noise per anchor", "sum")


def gradients_on_ranks(rank: int, size: int, ends: list[int]) -> list[dict[str, np.ndarray]]:
    s = part_of(rank, ends)
    kinds = [gradients(kind, ends[-1], s, group=dist.group.WORLD) for kind in KINDS]
    return [*kinds, gradients("sum", ends[-1], s, torch.float32, group=dist.group.WORLD)]


@pytest.mark.parametrize("ends", [[60], [25, 60], [20, 20, 60]], ids=str)
def test_derivatives_are_those_of_one_process(ends: list[int]) -> None:
    n = ends[-1]
    ranks = run_ranks(gradients_on_ranks, len(ends), ends)
    expected = [gradients(kind, n, slice(0, n)) for kind in KINDS]
    expected.append(gradients("sum", n, slice(0, n), torch.float32))
    for number, everything in enumerate(expected):
        for name, one in everything.items():
            parts = [rank[number][name] for rank in ranks]
            found = np.concatenate(parts, -1) if one.shape[-1:] == (n,) else parts[-1]
            tolerance = 1e-11 if one.dtype == np.float64 else 2e-5
            np.testing.assert_allclose(
                found, one, rtol=0, atol=tolerance * max(np.abs(one).max(), 1), err_msg=name
            )


def fitted_on_ranks(rank: int, size: int) -> list[float]:
    """Gradient steps with the factor made again after each of them."""
    s = slice(200 * rank, 200 * (rank + 1))
    log_noise = torch.tensor(2.0, dtype=D, requires_grad=True)
    y = draw(400)[s]
    x = torch.arange(s.start, s.stop, dtype=D)
    gram = LaplaceGram(x, noise=log_noise.exp(), group=dist.group.WORLD)
    found = [float(gram.logdet().detach())]
    optimiser = torch.optim.SGD([log_noise], lr=1e-3)
    for _ in range(5):
        optimiser.zero_grad()
        # The noise is another tensor in every step.
        gram.noise = log_noise.exp()[None]
        loss = -gram.log_prob(y)
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def test_a_fit_stays_in_step() -> None:
    one, two = run_ranks(fitted_on_ranks, 2)
    assert one == two
    assert one[1:] == sorted(one[1:], reverse=True)


# --- errors ---------------------------------------------------------------------------------------


def bad_calls(rank: int, size: int) -> list[str]:
    """What each of these raises on this rank; only the last rank has something wrong."""
    world: Any = dist.group.WORLD
    last = rank == size - 1
    x = torch.arange(4, dtype=D) + 4 * rank
    gram = LaplaceGram(x, noise=0.1, group=world)
    noise = torch.tensor(0.1, dtype=D, requires_grad=True)

    def second_derivative() -> None:
        density = LaplaceGram(x, noise=noise, group=world).log_prob(x)
        torch.autograd.grad(density, noise, create_graph=True)

    def tied_anchors() -> None:
        tied = (x - rank).requires_grad_()
        LaplaceGram(tied, noise=0.1, group=world).log_prob(x)

    def changed() -> None:
        other = LaplaceGram(x, noise=torch.full((1,), 0.1, dtype=D), group=world)
        assert other.noise is not None
        other.noise.fill_(0.2 if last else 0.1)
        other.solve(x)

    calls: list[Callable[[], Any]] = [
        lambda: LaplaceGram(x * (np.nan if last else 1), noise=0.1, group=world),
        lambda: LaplaceGram(x.float() if last else x, noise=0.1, group=world),
        lambda: LaplaceGram(x - 5 if last else x, noise=0.1, group=world),
        lambda: LaplaceGram(x - rank, group=world),
        lambda: LaplaceGram(x, lengthscale=2.0 if last else 1.0, noise=0.1, group=world),
        lambda: LaplaceGram(x, noise=0.1 if last else None, group=world),
        lambda: LaplaceGram(torch.zeros(4) + 4 if last else x.float(), group=world).logdet(),
        lambda: gram.solve(torch.stack((x, x)) if last else x),
        lambda: gram.log_prob(x[:3] if last else x),
        lambda: gram.condition([0, 0] if last else [0, 1], x[:2]),
        lambda: gram.predict(x - 9 if last else x, x),
        lambda: gram.solve(x.clone().requires_grad_(last)),
        lambda: LaplaceGram(x, noise=noise if last else noise.detach(), group=world).log_prob(x),
        changed,
        second_derivative,
        tied_anchors,
        lambda: gram.matvec(x),
        lambda: gram + gram,
        lambda: gram.coefficients(x),
        lambda: LaplaceGram(x, mean=1.0 if last else None, group=world),
        lambda: LaplaceGram(x, basis=torch.ones_like if last else None, group=world),
        lambda: gram.predict(x, x, term=0 if last else None),
        lambda: gram.predict(x, x, mean_targets=0.0 if last else None),
        lambda: gram.condition([0], x[:1]).covariance,
        lambda: gram.condition([0], x[:1]).log_prob(x[1:]),
        lambda: LaplaceGram(x, noise=0.1, group=world, comm=world),
    ]
    found = []
    for call in calls:
        try:
            call()
            found.append("nothing")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    assert torch.isfinite(gram.log_prob(x))  # and all ranks are still in step
    assert torch.isnan(gram.log_prob(x * (np.nan if last else 1)))
    return found


MESSAGES = [
    "ValueError: rank 2: anchors must be finite, but have a NaN or an infinity",
    "ValueError: rank 2: the dtype of anchors is torch.float32, but torch.float64 on rank 0: pass "
    "the same on every rank",
    "ValueError: rank 2: anchors must follow those of the ranks before, but the least is 3.0 and "
    "the largest before is 7.0: sort them over the ranks first",
    "ValueError: rank 1: anchors has 3.0, without noise, like a rank before: give it noise > 0, or "
    "keep equal anchors on one rank",
    "ValueError: rank 2: lengthscale is 2.0, but 1.0 on rank 0: pass the same on every rank",
    "ValueError: rank 2: the list of parameters is ['anchors', 'noise', '0.lengthscale', "
    "'0.variance'], but ['anchors', '0.lengthscale', '0.variance'] on rank 0: pass the same on "
    "every rank",
    "ValueError: rank 2: anchors must follow those of the ranks before, but the least is 4.0 and "
    "the largest before is 7.0: sort them over the ranks first",
    "ValueError: rank 2: the leading shape of values is [2], but [] on rank 0: pass the same on "
    "every rank",
    "ValueError: rank 2: values have shape [3] but the last dimension must be 4, the number of "
    "anchors",
    "ValueError: rank 2: observed_index contains an anchor twice: give each index once",
    "ValueError: rank 2: anchors must follow those of the ranks before, but the least is -1.0 and "
    "the largest before is 7.0: sort them over the ranks first",
    "NotImplementedError: solve has no derivatives over ranks, only log_prob and logdet have "
    "them: call it under torch.no_grad()",
    "ValueError: rank 2: the list of shared parameters that require gradients is ['noise'], but "
    "[] on rank 0: pass the same on every rank",
    "ValueError: rank 2: noise is [0.2], but [0.1] on rank 0: pass the same on every rank",
    "NotImplementedError: a LaplaceGram over ranks has first derivatives only: a second one was "
    "requested",
    "NotImplementedError: rank 1: anchors that coincide have no derivatives over ranks: detach "
    "the anchors, or move them apart",
    "NotImplementedError: a LaplaceGram over ranks has no matvec: it has solve, logdet, log_prob, "
    "inv_quad_logdet, diagonal, condition and predict",
    "NotImplementedError: a LaplaceGram over ranks has no __add__: it has solve, logdet, "
    "log_prob, inv_quad_logdet, diagonal, condition and predict",
    "NotImplementedError: a LaplaceGram over ranks has no coefficients: it has solve, logdet, "
    "log_prob, inv_quad_logdet, diagonal, condition and predict",
    "NotImplementedError: rank 2: a LaplaceGram over ranks takes no mean and no basis: subtract a "
    "mean from the values, or build a LaplaceGram of one process, without group and comm",
    "NotImplementedError: rank 2: a LaplaceGram over ranks takes no mean and no basis: subtract a "
    "mean from the values, or build a LaplaceGram of one process, without group and comm",
    "NotImplementedError: rank 2: over ranks, predict takes no term: leave group and comm out",
    "ValueError: rank 2: mean_targets belongs to a mean, but there is none",
    "NotImplementedError: a LaplaceGram over ranks has no Conditional.covariance: it has solve, "
    "logdet, log_prob, inv_quad_logdet, diagonal, condition and predict",
    "NotImplementedError: a LaplaceGram over ranks has no Conditional.log_prob: it has solve, "
    "logdet, log_prob, inv_quad_logdet, diagonal, condition and predict",
    "TypeError: give group= (torch.distributed) or comm= (MPI), not both",
]


def test_all_ranks_raise_the_same_error() -> None:
    for found in run_ranks(bad_calls, 3):
        assert found == MESSAGES


def singular_on_ranks(rank: int, size: int) -> list[str]:
    found = []
    for x in ([8.0, 9.0, 8.0], [8.0, 9.0, 10.0]):
        scale = torch.tensor([1.0, 1.0, 0.0 if x[2] == 10 and rank == 1 else 1.0], dtype=D)
        anchors = torch.tensor(x, dtype=D) if rank == 1 else torch.arange(3, dtype=D)
        with pytest.raises(np.linalg.LinAlgError) as raised:
            LaplaceGram(anchors, scale=scale, group=dist.group.WORLD)
        found.append(str(raised.value))
    return found


def test_a_singular_part_is_named_with_its_anchors() -> None:
    expected = [
        "rank 1: the covariance matrix is singular: anchors 0 and 2 coincide, at 8. Give them "
        "noise > 0, or keep one of them",
        "rank 1: the covariance matrix is singular to working precision: given the anchors before "
        "it, anchor 2, at 10, has variance 0. Add noise > 0, or a scale that is not 0",
    ]
    assert run_ranks(singular_on_ranks, 2) == [expected, expected]
