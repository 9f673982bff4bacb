"""The arguments of the compiled core by name: memory addresses, and 0 for missing arguments."""

from __future__ import annotations

from typing import NamedTuple


class Kernel(NamedTuple):
    """Kernel matrices ``[heads, n, m]``, given by the addresses of their contiguous arrays.

    With ``shared_anchors``, targets ``[n]`` and sources ``[m]`` are those of all heads.
    """

    is_double: bool
    real_part: bool
    profile: int
    side: int
    shared_anchors: bool
    heads: int
    n: int
    m: int
    targets: int
    sources: int
    lengthscale: int
    frequency: int
    target_phase: int
    source_phase: int


class Term(NamedTuple):
    """A member of the family of sums: its parity, and the coefficients of its polynomial."""

    parity: int
    polynomial: tuple[float, ...]


PRODUCT = Term(0, (1.0,))
"""The term of the product itself."""


class Form(NamedTuple):
    """What a call has beside its tensors: the flag of the kernel, the term, and the side."""

    real_part: bool
    parity: int
    polynomial: tuple[float, ...]
    side: int = 0


class Vectors(NamedTuple):
    """Vectors ``[heads, rows, count]``, contiguous in the last dimension; strides in elements."""

    address: int
    is_complex: bool
    head_stride: int
    row_stride: int


class Gradients(NamedTuple):
    """Addresses of the gradients with respect to each argument."""

    values: int
    targets: int
    sources: int
    lengthscale: int
    frequency: int
    target_phase: int
    source_phase: int


class Second(NamedTuple):
    """Addresses for derivatives of gradients: with respect to each argument, and the cotangent."""

    cotangent: int
    values: int
    targets: int
    sources: int
    lengthscale: int


class Memory(NamedTuple):
    """Device memory that is lent for a call."""

    address: int
    nbytes: int


class Place(NamedTuple):
    """A stream, and working memory that is lent for a call."""

    stream: int
    address: int
    nbytes: int


class Covariance(NamedTuple):
    """Covariance matrices ``[batch, n, n]`` of ``width`` columns, given by array addresses.

    ``blocks`` has the sizes of the state blocks; if empty, all have size 1.
    """

    ties_backwards: bool
    batch: int
    n: int
    width: int
    anchors: int
    lengthscale: int
    loadings: int
    noise: int
    weights: int = 0
    blocks: tuple[int, ...] = ()


class CovarianceGradients(NamedTuple):
    """Addresses of the gradients with respect to a covariance's arrays, or of a direction."""

    anchors: int
    lengthscale: int
    loadings: int
    noise: int
    weights: int = 0


class Process(NamedTuple):
    """Stationary processes and values of each, given by array addresses.

    A parameter that is a float has this value for all processes of the batch.
    """

    batch: int
    n: int
    one_noise: bool
    anchors: int
    values: int
    lengthscale: int | float
    variance: int | float
    frequency: int | float
    noise: int


class ProcessGradients(NamedTuple):
    """Addresses of the gradients with respect to a process's arrays."""

    anchors: int
    values: int
    lengthscale: int
    variance: int
    frequency: int
    noise: int


class OscillatorProcess(NamedTuple):
    """Damped oscillators and values of each, given by array addresses.

    A parameter that is a float has this value for all processes of the batch.
    """

    batch: int
    n: int
    one_noise: bool
    anchors: int
    values: int
    damping_time: int | float
    undamped_time: int | float
    first_weight: int | float
    second_weight: int | float
    noise: int


class OscillatorGradients(NamedTuple):
    """Addresses of the gradients with respect to the arrays of damped oscillators."""

    anchors: int
    values: int
    damping_time: int
    undamped_time: int
    first_weight: int
    second_weight: int
    noise: int
