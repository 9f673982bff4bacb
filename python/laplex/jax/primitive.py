"""JAX primitives that are calls of the compiled core.

A primitive of its own, unlike ``jax.ffi.ffi_call``, has rules for its derivatives in both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .. import _core


def primitive(
    name: str,
    implementation: Callable[..., Any],
    static: Sequence[str],
    multiple_results: bool = False,
) -> Any:
    """Make a primitive that a JAX function implements on the CPU.

    Shapes and dtypes of its results are those of the function. ``static`` are its parameters that
    are no arrays.
    """
    made = Primitive(name)
    made.multiple_results = multiple_results

    @lru_cache(maxsize=1024)  # to trace the function takes milliseconds
    def results(arrays: Any, parameters: Any) -> list[Any]:
        def call(*args: Any) -> Any:
            return implementation(*args, **dict(parameters))

        found = jax.eval_shape(call, *(jax.ShapeDtypeStruct(*array) for array in arrays))
        return [jax.core.ShapedArray(each.shape, each.dtype) for each in jax.tree.leaves(found)]

    def shapes_of(*arrays: Any, **parameters: Any) -> Any:
        found = results(tuple((a.shape, a.dtype) for a in arrays), tuple(parameters.items()))
        return found if multiple_results else found[0]

    compiled = jax.jit(made.bind, static_argnames=static)

    def run(*arrays: Any, **parameters: Any) -> Any:
        with jax.disable_jit(False):  # nothing but compiled code can call the core
            return compiled(*arrays, **parameters)

    made.def_impl(run)
    made.def_abstract_eval(shapes_of)
    mlir.register_lowering(made, _refuse)
    lowering = mlir.lower_fun(implementation, multiple_results=multiple_results)
    mlir.register_lowering(made, lowering, platform="cpu")
    return made


def _refuse(*arguments: Any, **parameters: Any) -> Any:
    raise NotImplementedError(
        "laplex.jax computes on the CPU only: move the arrays there with "
        'jax.device_put(array, jax.devices("cpu")[0]), or call laplex.cuda.Plan for arrays on a GPU'
    )


def core_call(
    name: str,
    results: Sequence[tuple[Sequence[int], Any]],
    arrays: Sequence[Any],
    options: Sequence[int],
    numbers: Sequence[float] = (),
) -> list[Any]:
    """Call a function of the core on arrays; ``results`` are the shapes and dtypes of its own."""
    shapes = [jax.ShapeDtypeStruct(tuple(shape), dtype) for shape, dtype in results]
    call = jax.ffi.ffi_call(name, shapes)
    found: list[Any] = list(
        call(*arrays, options=np.array(options, np.int64), numbers=np.array(numbers, np.float64))
    )
    return found


# On import, because functions that jax.export has written do not trace a call.
for _name, _target in _core.jax_targets().items():
    jax.ffi.register_ffi_target(_name, _target, platform="cpu")


# --- rules ----------------------------------------------------------------------------------------


def in_front(arrays: Sequence[Any], dims: Sequence[int | None]) -> tuple[list[Any], int]:
    """Move the mapped dimensions to the front; the arrays that have none get one of size 1.

    Returns the arrays and the size of the mapped dimension.
    """
    sizes = [a.shape[dim] for a, dim in zip(arrays, dims, strict=True) if dim is not None]
    moved = [
        jax.numpy.expand_dims(a, 0) if dim is None else jax.numpy.moveaxis(a, dim, 0)
        for a, dim in zip(arrays, dims, strict=True)
    ]
    return moved, sizes[0]


def map_by_leading_dimensions(made: Any) -> None:
    """Define vmap for a primitive whose arrays all have equally many leading dimensions."""

    def rule(arrays: Sequence[Any], dims: Sequence[int | None], **parameters: Any) -> Any:
        moved, _ = in_front(arrays, dims)
        found = made.bind(*moved, **parameters)
        return (found, [0] * len(found)) if made.multiple_results else (found, 0)

    batching.primitive_batchers[made] = rule


def is_zero(tangent: Any) -> bool:
    """Whether a tangent or a cotangent is a symbolic zero."""
    return type(tangent) is ad.Zero


def jvp_of(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Differentiate a JAX function along the tangents that are not symbolic zeros."""
    moved = [k for k, tangent in enumerate(tangents) if not is_zero(tangent)]

    def of_moved(*some: Any) -> Any:
        given = list(primals)
        for k, each in zip(moved, some, strict=True):
            given[k] = each
        return function(*given)

    return jax.jvp(of_moved, [primals[k] for k in moved], [tangents[k] for k in moved])


def summed_to(array: Any, shape: Sequence[int]) -> Any:
    """Sum over the dimensions in which a shape has size 1."""
    repeated = tuple(
        dim for dim, (own, to) in enumerate(zip(array.shape, shape, strict=True)) if own != to
    )
    return jax.numpy.sum(array, repeated, keepdims=True) if repeated else array
