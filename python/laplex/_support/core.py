"""What the compiled core takes, by name: addresses in memory, 0 for what is not given."""

from __future__ import annotations

from typing import NamedTuple


class Kernel(NamedTuple):
    """Kernel matrices ``[heads, n, m]`` by the addresses of their contiguous arrays."""

    is_double: bool
    real_part: bool
    heads: int
    n: int
    m: int
    targets: int
    sources: int
    lengthscale: int
    frequency: int
    target_phase: int
    source_phase: int


class Vectors(NamedTuple):
    """Vectors ``[heads, rows, count]``, contiguous in the last; strides in elements."""

    address: int
    is_complex: bool
    head_stride: int
    row_stride: int


class Gradients(NamedTuple):
    """Addresses of the gradients by each argument."""

    values: int
    targets: int
    sources: int
    lengthscale: int
    frequency: int
    target_phase: int
    source_phase: int


class Memory(NamedTuple):
    """Device memory that is lent for a call."""

    address: int
    nbytes: int
