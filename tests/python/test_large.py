"""Sizes from which values are permuted apart from the scan, by an index or in two passes."""

from __future__ import annotations

import numpy as np
import pytest

import laplex


def distinct_anchors(count: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct float32 numbers in [0, 1): ties would be added up in the order given."""
    return rng.permutation(2**23)[:count].astype(np.float32) / np.float32(2**23)


@pytest.mark.parametrize("count", [2**17 + 3, 2**21 + 5])
@pytest.mark.parametrize("form", ["real", "cosine", "complex"])
def test_results_do_not_depend_on_the_order_given(count: int, form: str) -> None:
    rng = np.random.default_rng(7)
    both = distinct_anchors(2 * count, rng)
    x, y = both[:count], both[count:]
    v = rng.standard_normal(count).astype(np.float32)
    g = rng.standard_normal(count).astype(np.float32)
    arguments = {"lengthscale": 0.01}
    if form != "real":
        arguments |= {
            "target_phase": rng.random(count).astype(np.float32),
            "real_part": form == "cosine",
        }
    p, q = np.argsort(x), np.argsort(y)
    sorted_arguments = dict(arguments)
    if form != "real":
        sorted_arguments["target_phase"] = arguments["target_phase"][p]
    given = laplex.Plan(x, y, num_threads=2, **arguments)
    in_order = laplex.Plan(x[p], y[q], num_threads=1, **sorted_arguments)
    if form == "complex":
        g = g.astype(np.complex64)
    expected = in_order.apply(v[q])
    expected_gradients = in_order.vjp(v[q], g[p])
    nbytes = given.nbytes
    for _ in range(4):  # the permutation in two passes comes with the third use
        assert np.array_equal(given.apply(v)[p], expected)
        gradients = given.vjp(v, g)
        for name, order in {"values": q, "targets": p, "sources": q, "target_phase": p}.items():
            one, other = getattr(gradients, name), getattr(expected_gradients, name)
            assert (one is None) == (other is None), name
            if one is not None:
                assert np.array_equal(np.asarray(one)[order], np.asarray(other)), name
    assert (given.nbytes > nbytes) == (count > 2**21)
    if form == "real":  # phases stay where they were given
        given.update(x[p], y[q])  # what was made for the old order is gone
        assert np.array_equal(given.apply(v[q]), expected)
