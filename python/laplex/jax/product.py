"""Three primitives: sums of the family, their derivatives along tangents, and their gradients.

A sum has the second one as its derivative, which is linear in the tangents. Its transpose is the
third one, a single pass of the core. The derivatives of both are those of the formula of
`laplex.jax.tangents`, so that there are derivatives of every order and in every mode.

All arrays have equally many leading dimensions, of the size of the batch or of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching

from .._support.sides import TURNED
from .._support.sum_family import ODD, Polynomial, check_degree
from .form import TRAILING, Form, Grouping, leading
from .primitive import (
    core_call,
    in_front,
    is_zero,
    jvp_of,
    map_by_leading_dimensions,
    primitive,
    summed_to,
)
from .tangents import tangent

# --- sums -----------------------------------------------------------------------------------------


def _sum(values: Any, *given: Any, form: Form) -> Any:
    check_degree(len(form.polynomial) - 1)
    arrays = form.filled(given)
    grouping, kernel, n, m = _laid_out((values,), arrays)
    dtype = jnp.result_type(arrays[0].dtype, values.dtype)
    dtype = jnp.result_type(dtype, jnp.complex64) if form.is_complex else dtype
    if m == 0 or 0 in (*grouping.batch, n):
        return jnp.zeros((*grouping.batch, n), dtype)
    shape = (grouping.rows, grouping.heads, n)
    call = (grouping.vectors(values), *kernel)
    (out,) = core_call("laplex_sum", [(shape, dtype)], call, form.options(), form.numbers)
    return grouping.restored(out)


def _laid_out(
    vectors: Sequence[Any], arrays: Sequence[Any]
) -> tuple[Grouping, list[Any], int, int]:
    """Return the grouping, the arrays of the kernel in the core's layout, n and m."""
    anchor_batch = leading(arrays, TRAILING[1:])
    batch = jnp.broadcast_shapes(anchor_batch, *(each.shape[:-1] for each in vectors))
    grouping = Grouping(batch, anchor_batch)
    targets, sources = arrays[:2]
    anchors = [each for each in (targets, sources) if each is not None]
    shared = all(size == 1 for each in anchors for size in each.shape[:-1])
    kernel = [
        grouping.of_heads(each, last, shared and k < 2)
        for k, (each, last) in enumerate(zip(arrays, TRAILING[1:], strict=True))
        if each is not None
    ]
    return grouping, kernel, targets.shape[-1], anchors[-1].shape[-1]


sum_p = primitive("laplex_sum", _sum, ("form",))
map_by_leading_dimensions(sum_p)


def product(form: Form, values: Any, given: Sequence[Any]) -> Any:
    """Multiply values by the matrix, or compute another sum of its family."""
    return sum_p.bind(values, *given, form=form)


def _sum_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, form: Form) -> tuple[Any, Any]:
    out = sum_p.bind(*primals, form=form)
    if all(is_zero(each) for each in tangents[1:]):
        return out, sum_p.bind(tangents[0], *primals[1:], form=form)
    moved = tuple(not is_zero(each) for each in tangents)
    own = [each for each in tangents if not is_zero(each)]
    return out, tangent_p.bind(*primals, *own, form=form, moved=moved)


def _sum_transpose(cotangent: Any, values: Any, *given: Any, form: Form) -> list[Any]:
    nothing: list[Any] = [None] * len(given)
    aval = values.aval
    if is_zero(cotangent):
        return [ad.Zero(aval), *nothing]
    targets, sources, lengthscale, frequency, theta, phi = form.filled(given)
    anchors = (targets, None) if sources is None else (sources, targets)
    phases = [None if each is None else -each for each in (phi, theta)]
    arrays = (*anchors, lengthscale, frequency, *phases)
    present = tuple(each is not None for each in arrays)
    turned = form._replace(present=present, side=TURNED[form.side])
    own = [each for each in arrays if each is not None]
    back = sum_p.bind(cotangent, *own, form=turned)
    if form.parity in ODD:  # because sign(x - y) is odd
        back = -back
    back = back if jnp.iscomplexobj(jnp.zeros((), aval.dtype)) else back.real
    return [summed_to(back, aval.shape), *nothing]


ad.primitive_jvps[sum_p] = _sum_jvp
ad.primitive_transposes[sum_p] = _sum_transpose

# --- derivatives along tangents -------------------------------------------------------------------


def _tangent(*arrays: Any, form: Form, moved: Sequence[bool]) -> Any:
    number = 1 + sum(form.present)
    primals, own = arrays[:number], iter(arrays[number:])
    given = [next(own) if each else None for each in moved]
    tangents = [given[0], *form.filled(given[1:])]
    return _along(form, primals, tangents)


def _along(form: Form, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    def sums(values: Any, parity: int, polynomial: Polynomial, real_part: bool) -> Any:
        member = form._replace(real_part=real_part, parity=parity, polynomial=polynomial)
        return sum_p.bind(values, *primals[1:], form=member)

    return tangent(sums, form, [primals[0], *form.filled(primals[1:])], tangents)


tangent_p = primitive("laplex_tangent", _tangent, ("form", "moved"))
map_by_leading_dimensions(tangent_p)


def _tangent_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, form: Form, moved: tuple[bool, ...]
) -> Any:
    return jvp_of(lambda *args: _tangent(*args, form=form, moved=moved), primals, tangents)


def _tangent_transpose(
    cotangent: Any, *arrays: Any, form: Form, moved: tuple[bool, ...]
) -> list[Any]:
    number = 1 + sum(form.present)
    # JAX may pass a constant as a number of its own type, which has no shape.
    primals = [jnp.asarray(each) for each in arrays[:number]]
    avals = [each.aval for each in arrays[number:]]
    nothing: list[Any] = [None] * number
    if is_zero(cotangent):
        return [*nothing, *(ad.Zero(aval) for aval in avals)]
    own = [each for each, its in zip(primals, moved, strict=True) if its]
    if all(aval.shape == each.shape for aval, each in zip(avals, own, strict=True)):
        found = vjp_p.bind(cotangent, *primals, form=form, needs=moved)
        return [*nothing, *(summed_to(f, a.shape) for f, a in zip(found, avals, strict=True))]

    def along(*tangents: Any) -> Any:
        return _tangent(*primals, *tangents, form=form, moved=moved)

    return [*nothing, *jax.linear_transpose(along, *avals)(cotangent)]


ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose

# --- gradients ------------------------------------------------------------------------------------


def _vjp(grad: Any, values: Any, *given: Any, form: Form, needs: Sequence[bool]) -> list[Any]:
    """Return the gradients of the values, with the batch, and of the arrays, with its heads."""
    wanted = [needs[0], *(bool(each) for each in form.filled(needs[1:]))]
    if wanted[3] or wanted[4]:
        check_degree(len(form.polynomial))
    arrays = form.filled(given)
    grouping, kernel, n, m = _laid_out((grad, values), arrays)
    shapes: list[tuple[tuple[int, ...], Any]] = [
        ((grouping.heads, each.shape[-1]) if last else (grouping.heads,), each.dtype)
        for each, last in zip(arrays, TRAILING[1:], strict=True)
        if each is not None
    ]
    shapes.insert(0, ((grouping.rows, grouping.heads, m), values.dtype))
    shapes = [shape for shape, need in zip(shapes, needs, strict=True) if need]
    if n == 0 or m == 0 or 0 in grouping.batch:
        found = [jnp.zeros(shape, dtype) for shape, dtype in shapes]
    else:
        # The core's complex gradients are conjugates of JAX's cotangents.
        call = (grouping.vectors(grad).conj(), grouping.vectors(values), *kernel)
        options = form.options(wanted)
        found = core_call("laplex_vjp", shapes, call, options, form.numbers)
    first = [grouping.restored(found[0]).conj()] if needs[0] else []
    rest = [each.reshape(*grouping.anchor_batch, *each.shape[1:]) for each in found[len(first) :]]
    return [*first, *rest]


vjp_p = primitive("laplex_vjp", _vjp, ("form", "needs"), multiple_results=True)


def _vjp_by_transposition(
    grad: Any, *primals: Any, form: Form, needs: tuple[bool, ...]
) -> Sequence[Any]:
    """The gradients by the formula of the tangents, which can be differentiated."""

    def along(*tangents: Any) -> Any:
        return _tangent(*primals, *tangents, form=form, moved=needs)

    shapes = jax.eval_shape(lambda *args: _vjp(*args, form=form, needs=needs), grad, *primals)
    result = jax.eval_shape(along, *shapes)
    whole = jnp.broadcast_to(grad, result.shape)
    found: Sequence[Any] = jax.linear_transpose(along, *shapes)(whole)
    return found


def _vjp_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, form: Form, needs: tuple[bool, ...]
) -> Any:
    _, along = jvp_of(
        lambda *args: _vjp_by_transposition(*args, form=form, needs=needs), primals, tangents
    )
    return vjp_p.bind(*primals, form=form, needs=needs), along


def _vjp_batched(
    arrays: Sequence[Any], dims: Sequence[int | None], *, form: Form, needs: tuple[bool, ...]
) -> tuple[list[Any], list[int]]:
    moved, size = in_front(arrays, dims)
    if any(needs[1:]):  # each of the mapped calls has gradients of its own
        place = 2 + sum(form.present[:2])  # of the lengthscale
        ell = moved[place]
        moved[place] = jnp.broadcast_to(ell, (size, *ell.shape[1:]))
    found = vjp_p.bind(*moved, form=form, needs=needs)
    return found, [0] * len(found)


ad.primitive_jvps[vjp_p] = _vjp_jvp
batching.primitive_batchers[vjp_p] = _vjp_batched
