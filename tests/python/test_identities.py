"""Identities of the operator on drawn anchors: what holds whatever the numbers are."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import laplex
from exactness_cases import FORMS, PROMISE
from strategies import (
    Case,
    assert_same_bits,
    assert_same_plan,
    cases,
    draw_values,
    fingerprint,
    moderate_anchor,
    quick,
)

moderate_cases = cases(anchor=moderate_anchor, lengthscales=(0.25, 1.0, 37.5))


def floor(case: Case, *vectors: np.ndarray) -> float:
    """Smallest scale of an error: below the smallest normal number precision is absolute.

    The promise times that number is 8 (float32) or 45 (float64) times the smallest number there is,
    room for a few roundings to it; they count as often as what multiplies them says.
    """
    sums = [max(1.0, float(np.abs(v).astype(np.float64).sum())) for v in vectors]
    return float(np.finfo(case.dtype).tiny) * math.prod(sums)


def over_sources(case: Case, v: np.ndarray) -> np.ndarray:
    """sum_j |K_ij| |v_j|: what errors of K v are measured in."""
    return case.modulus() @ np.abs(v).astype(np.float64) + floor(case, v)


def over_targets(case: Case, u: np.ndarray) -> np.ndarray:
    """sum_i |u_i| |K_ij|: what errors of K^T u are measured in."""
    return np.abs(u).astype(np.float64) @ case.modulus() + floor(case, u)


def bilinear(case: Case, g: np.ndarray, v: np.ndarray) -> float:
    """sum_ij |g_i| |K_ij| |v_j|: what errors of <g, K v> are measured in."""
    total = np.abs(g).astype(np.float64) @ case.modulus() @ np.abs(v).astype(np.float64)
    return float(total) + floor(case, g, v)


def inner(a: np.ndarray, b: np.ndarray) -> complex:
    """<a, b> in double precision: its own error, 40 roundings of 1e-16, is inside every bound."""
    return complex(np.vdot(a.astype(np.complex128), b.astype(np.complex128)))


# ----------------------------------------------------------------------------------- linear algebra


@quick
@given(cases())
def test_adjoint_identity(case: Case) -> None:
    v = case.values(case.plan.shape[-1])
    g = case.cotangent(v)
    difference = abs(inner(g, case.plan.apply(v)) - inner(case.plan.adjoint(g), v))
    # The promise once for each side, and room for the summation of the inner products.
    assert difference <= 3 * case.promise * bilinear(case, g, v)


@quick
@given(cases())
def test_products_equal_the_matrix(case: Case) -> None:
    n, m = case.plan.shape
    matrix = case.plan.to_dense().astype(np.complex128)
    v, u = case.values(m), case.values(n, which=1)
    # The promise for the product and again for the entries of the matrix.
    for result, expected, scale in (
        (case.plan.apply(v), matrix @ v, over_sources(case, v)),
        (case.plan.transpose(u), matrix.T @ u, over_targets(case, u)),
        (case.plan.adjoint(u), matrix.conj().T @ u, over_targets(case, u)),
    ):
        assert (np.abs(result - expected) <= 3 * case.promise * scale).all()


@quick
@given(cases(), st.floats(-3, 3, width=16), st.floats(-3, 3, width=16))
def test_linearity(case: Case, a: float, b: float) -> None:
    m = case.plan.shape[-1]
    v, w = case.values(m), case.values(m, which=1)
    a, b = v.real.dtype.type(a), v.real.dtype.type(b)
    apply = case.plan.apply
    difference = np.abs(apply(a * v + b * w) - (a * apply(v) + b * apply(w)))
    # The promise for the three products, and the roundings of a v + b w, which are smaller.
    scale = over_sources(case, abs(a) * np.abs(v) + abs(b) * np.abs(w))
    assert (difference <= 4 * case.promise * scale).all()


@quick
@given(cases())
def test_half_sums_add_to_the_product(case: Case) -> None:
    v = case.values(case.plan.shape[-1])
    left, right = case.plan.half_sums(v)
    below = np.abs(v) * (case.y.astype(np.float64) <= case.targets.astype(np.float64)[:, None])
    left_scale = (case.modulus() * below).sum(axis=1)
    scale = over_sources(case, v)
    # Three results of which each keeps the promise.
    assert (np.abs(left + right - case.plan.apply(v)) <= 3 * case.promise * scale).all()
    # left has no more than the sources at or below the target: the promise, and its own rounding
    assert (np.abs(left) <= left_scale + 2 * case.promise * (left_scale + floor(case, v))).all()


@quick
@given(cases(forms=("real",), self_case=True))
def test_gram_matrix_is_positive_semidefinite(case: Case) -> None:
    n = case.plan.shape[-1]
    gram = case.plan.to_dense()
    assert_same_bits(gram, np.ascontiguousarray(gram.T))
    assert (np.diag(gram) == 1).all()
    # By Weyl's theorem eigenvalues move by at most the norm of the error, <= n * max |error_ij|;
    # eigvalsh adds a few n * 1e-16.
    if n:
        smallest = np.linalg.eigvalsh(gram.astype(np.float64))[0]
        assert smallest >= -2 * n * case.promise
    v = case.values(n)
    energy = inner(v, case.plan.apply(v)).real
    assert energy >= -2 * case.promise * bilinear(case, v, v)


# ---------------------------------------------------------------------------------------- gradients


@quick
@given(cases(lengthscales=(0.25, 1.0, 37.5)))
def test_translation_leaves_a_loss_alone(case: Case) -> None:
    v = case.values(case.plan.shape[-1])
    g = case.cotangent(v)
    grads = case.plan.vjp(v, g)
    total = grads.targets.astype(np.float64).sum()
    if grads.sources is not None:
        total += grads.sources.astype(np.float64).sum()
    # Each gradient by an anchor is |c| times a product, and so is its error: the promise for those
    # by targets and for those by sources, and the rounding of the sum of the two in the self case.
    assert abs(total) <= 4 * case.promise * case.rate * bilinear(case, g, v)


@quick
@given(cases(anchor=moderate_anchor, lengthscales=(0.25, 1.0, 37.5), oscillating=False))
def test_euler_identity_of_the_lengthscale(case: Case) -> None:
    """K depends on x, y and ell by their ratios: the derivative along all of them together is 0."""
    v = case.values(case.plan.shape[-1])
    g = case.cotangent(v)
    grads = case.plan.vjp(v, g)
    ell = case.options["lengthscale"]
    x, y = case.targets.astype(np.float64), case.y.astype(np.float64)
    right = -(x @ grads.targets.astype(np.float64))
    if grads.sources is not None:
        right -= y @ grads.sources.astype(np.float64)
    # d loss/d ell is tau/ell times products, tau exp(-tau) <= 1/e: the promise holds for ell times
    # it. Errors of the gradients by anchors, as above, are multiplied by the anchors, and so is
    # the rounding of each that is denormal.
    far = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))
    tolerance = 4 * case.promise * (1 + far / ell) * bilinear(case, g, v)
    tolerance += (x.size + y.size) * far * float(np.finfo(case.dtype).smallest_subnormal)
    assert abs(ell * float(grads.lengthscale) - right) <= tolerance


# ------------------------------------------------------------------------------------ the same bits


@quick
@given(moderate_cases, st.integers(-12, 12))
def test_powers_of_two_scale_out(case: Case, exponent: int) -> None:
    """x, y and ell in another unit: only powers of two change, so no rounding does."""
    s = 2.0**exponent
    scaled = case.changed(
        targets=case.targets * case.targets.dtype.type(s),
        sources=None if case.sources is None else case.sources * case.targets.dtype.type(s),
        lengthscale=case.options["lengthscale"] * s,
        frequency=case.options["frequency"] / s,
    )
    assert_same_bits(scaled.plan.to_dense(), case.plan.to_dense())
    v, u = case.values(case.plan.shape[-1]), case.values(case.plan.shape[-2], which=1)
    assert_same_bits(scaled.plan.apply(v), case.plan.apply(v))
    assert_same_bits(scaled.plan.adjoint(u), case.plan.adjoint(u))
    for one, other in zip(scaled.plan.half_sums(v), case.plan.half_sums(v), strict=True):
        assert_same_bits(one, other)


def permuted(case: Case) -> tuple[Case, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case.seed + 3)
    n, m = case.plan.shape
    rows = rng.permutation(n)
    columns = rows if case.sources is None else rng.permutation(m)
    phases = {
        name: None if case.options[name] is None else case.options[name][order]
        for name, order in (("target_phase", rows), ("source_phase", columns))
    }
    sources = None if case.sources is None else case.sources[columns]
    return case.changed(targets=case.targets[rows], sources=sources, **phases), rows, columns


@quick
@given(cases(unique=True))
def test_order_of_distinct_anchors_changes_no_bit(case: Case) -> None:
    other, rows, columns = permuted(case)
    v = case.values(case.plan.shape[-1], rows=(3,))
    u = case.values(case.plan.shape[-2], which=1)
    assert_same_bits(other.plan.apply(v[:, columns]), case.plan.apply(v)[:, rows])
    assert_same_bits(other.plan.adjoint(u[rows]), case.plan.adjoint(u)[columns])
    matrix = case.plan.to_dense()[np.ix_(rows, columns)]
    assert_same_bits(other.plan.to_dense(), np.ascontiguousarray(matrix))


@quick
@given(cases())
def test_order_of_tied_anchors_changes_roundings_only(case: Case) -> None:
    other, rows, columns = permuted(case)
    v = case.values(case.plan.shape[-1])
    difference = np.abs(other.plan.apply(v[columns]) - case.plan.apply(v)[rows])
    scale = over_sources(case, v)
    assert (difference <= 2 * case.promise * scale[rows]).all()  # two results, two promises


@quick
@given(cases())
def test_number_of_threads_changes_no_bit(case: Case) -> None:
    assert_same_plan(case.changed(num_threads=8).plan, case.changed(num_threads=1).plan)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", PROMISE)
def test_number_of_threads_changes_no_bit_of_large_products(form: str, dtype: str) -> None:
    """3e5 sources and 2e5 targets, more than enough for eight threads to be started."""
    rng = np.random.default_rng(0)
    n, m = 200_000, 300_000
    x = rng.standard_normal(n).astype(dtype)
    y = np.round(rng.standard_normal(m), 4).astype(dtype)  # with ties
    theta = rng.standard_normal(n).astype(dtype) if form in ("carrier", "cosine") else None
    v = draw_values(dtype, (m,), 1, False)
    results = []
    for threads in (1, 2, 3, 8):
        plan = laplex.Plan(
            x,
            y,
            lengthscale=0.1,
            frequency=5.0 if form in ("oscillating", "cosine") else 0.0,
            target_phase=theta,
            real_part=form == "cosine",
            num_threads=threads,
        )
        u = plan.apply(v)
        grads = plan.vjp(v, u)
        results.append([u, plan.adjoint(u), *plan.half_sums(v), *grads])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert_same_bits(one, other)


@quick
@given(cases(), st.sampled_from((1, 2, 3, 7, 8, 9, 17)))
def test_rows_of_a_batch_are_single_products(case: Case, rows: int) -> None:
    n, m = case.plan.shape
    v, u = case.values(m, rows=(rows,)), case.values(n, rows=(rows,), which=1)
    together = case.plan.apply(v), case.plan.transpose(u), case.plan.adjoint(u)
    left, right = case.plan.half_sums(v)
    for k in range(rows):
        assert_same_bits(together[0][k], case.plan.apply(v[k]))
        assert_same_bits(together[1][k], case.plan.transpose(u[k]))
        assert_same_bits(together[2][k], case.plan.adjoint(u[k]))
        for one, other in zip((left[k], right[k]), case.plan.half_sums(v[k]), strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_self", [False, True])
def test_heads_are_separate_plans(form: str, is_self: bool) -> None:
    rng = np.random.default_rng(1)
    heads, n = 5, 33
    m = n if is_self else 21
    x, y = rng.standard_normal((heads, n)), rng.standard_normal((heads, m))
    phased = form in ("carrier", "cosine")
    options = {
        "lengthscale": rng.uniform(0.1, 3, heads),
        "frequency": rng.uniform(1, 3, heads) * (form in ("oscillating", "cosine")),
        "target_phase": rng.standard_normal((heads, n)) if phased else None,
        "source_phase": rng.standard_normal((heads, m)) if phased else None,
    }
    whole = laplex.Plan(x, None if is_self else y, **options, real_part=form == "cosine")
    v, u = rng.standard_normal((4, heads, m)), rng.standard_normal((4, heads, n))
    grad = whole.apply(v) + 1
    grads = whole.vjp(v, grad)
    for h in range(heads):
        one = laplex.Plan(
            x[h],
            None if is_self else y[h],
            **{name: None if a is None else a[h] for name, a in options.items()},
            real_part=form == "cosine",
        )
        assert_same_bits(whole.apply(v)[:, h].copy(), one.apply(v[:, h]))
        assert_same_bits(whole.adjoint(u)[:, h].copy(), one.adjoint(u[:, h]))
        assert_same_bits(whole.to_dense()[h], one.to_dense())
        single = one.vjp(v[:, h], grad[:, h])
        assert_same_bits(grads.values[:, h].copy(), single.values)
        for name in single._fields[1:]:
            whole_part, single_part = getattr(grads, name), getattr(single, name)
            assert_same_bits(None if whole_part is None else whole_part[h], single_part)


def moves(x: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        return {
            "tiny": np.nextafter(x, x.dtype.type(0)),
            "small": x + x.dtype.type(1e-2) * rng.standard_normal(x.shape).astype(x.dtype),
            "big": rng.standard_normal(x.shape).astype(x.dtype),
            "reversed": x[..., ::-1],
            "equal": np.zeros_like(x),
            "same": x,
        }


MOVES = tuple(moves(np.zeros(1), 0))


@quick
@given(cases(), st.lists(st.sampled_from(MOVES), min_size=1, max_size=4))
def test_update_equals_a_new_plan(case: Case, steps: list[str]) -> None:
    plan = case.plan
    plan.apply(case.values(plan.shape[-1]))
    x, y = case.targets, case.sources
    for step in steps:
        x = moves(x, case.seed)[step]
        y = None if y is None else moves(y, case.seed + 1)[step]
        plan.update(x, y)
        fresh = case.changed(targets=x, sources=y).plan
        assert_same_plan(plan, fresh)
        laplace = case.options["kernel"] == "matern12"
        if laplace and (not case.options["real_part"] or case.options["target_phase"] is None):
            assert plan.rank() == fresh.rank()


@pytest.mark.parametrize("dtype", PROMISE)
@pytest.mark.parametrize("step", MOVES)
def test_update_of_many_anchors_equals_a_new_plan(step: str, dtype: str) -> None:
    """Enough anchors for the radix sort, and for a repair that gives up."""
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal(count).astype(dtype) for count in (5000, 3000))
    plan = laplex.Plan(x, y, lengthscale=0.5, num_threads=2)
    new_x, new_y = moves(x, 3)[step], moves(y, 4)[step]
    plan.update(new_x, new_y)
    fresh = laplex.Plan(new_x, new_y, lengthscale=0.5, num_threads=2)
    for one, other in zip(fingerprint(plan)[:-1], fingerprint(fresh)[:-1], strict=True):
        assert_same_bits(one, other)


# --------------------------------------------------------------------------------------------- rank


def exact_rank(x: list[int], y: list[int]) -> int:
    """Rank of 2**-|x_i - y_j| by elimination in rational numbers."""
    matrix = [[Fraction(1, 2 ** abs(a - b)) for b in y] for a in x]
    rank = 0
    for column in range(len(y)):
        pivot = next((i for i in range(rank, len(x)) if matrix[i][column]), None)
        if pivot is None:
            continue
        matrix[rank], matrix[pivot] = matrix[pivot], matrix[rank]
        for i in range(rank + 1, len(x)):
            factor = matrix[i][column] / matrix[rank][column]
            pairs = zip(matrix[i], matrix[rank], strict=True)
            matrix[i] = [a - factor * b for a, b in pairs]
        rank += 1
    return rank


integers = st.lists(st.integers(-8, 8), max_size=9)


@quick
@given(integers, st.none() | integers)
def test_rank_is_exact(x: list[int], y: list[int] | None) -> None:
    targets = np.array(x, dtype=np.float64)
    sources = None if y is None else np.array(y, dtype=np.float64)
    expected = exact_rank(x, x if y is None else y)
    assert laplex.Plan(targets, sources).rank() == expected
    phased = laplex.Plan(targets, sources, target_phase=targets)
    assert phased.rank() == expected  # a diagonal of phases is invertible


@pytest.mark.parametrize("frequency", [0.0, 0.7])
@pytest.mark.parametrize("span", [4, 12, 30])  # the smaller, the more ties
def test_rank_of_the_matrix(span: int, frequency: float) -> None:
    rng = np.random.default_rng(span)
    for _ in range(50):
        x = rng.integers(0, span, rng.integers(1, 12)) * 0.5
        y = rng.integers(0, span, rng.integers(1, 12)) * 0.5
        plan = laplex.Plan(x, y, lengthscale=2.0, frequency=frequency)
        # Neighbours are exp(-1/4) apart: singular values that are not 0 stay far above 1e-12.
        dense = plan.to_dense()
        assert plan.rank() == np.linalg.matrix_rank(dense, tol=1e-12 * np.linalg.norm(dense, 2))


@pytest.mark.parametrize(
    ("n", "m", "fraction"), [(2000, 2000, 0.665), (1000, 2000, 0.858), (200, 2000, 0.992)]
)
def test_rank_of_random_anchors(n: int, m: int, fraction: float) -> None:
    rng = np.random.default_rng(6)
    ranks = laplex.Plan(rng.random((40, n)), rng.random((40, m))).rank()
    # Known to three digits; the mean of 40 varies by less than 0.001 (their spread is below 0.006).
    assert ranks.shape == (40,)
    assert abs(ranks.mean() / min(n, m) - fraction) < 0.003


def test_rank_of_interlaced_anchors_is_full() -> None:
    points = np.sort(np.random.default_rng(7).random(2001))
    assert laplex.Plan(points[::2], points[1::2]).rank() == 1000
    assert laplex.Plan(points[1::2], points[::2]).rank() == 1000
    assert laplex.Plan(points).rank() == 2001
