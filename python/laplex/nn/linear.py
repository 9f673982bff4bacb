"""A drop-in replacement for ``torch.nn.Linear`` with O(in + out) parameters and time per head."""

from __future__ import annotations

import math

from laplex.nn.kernel_layer import KernelLayer


class LaplexLinear(KernelLayer):
    r"""A linear layer whose weight is a sum of Laplace kernels between learnable anchors.

    .. math::
        y = \sum_{h} \mathrm{Re}(K_h)\,(g_h \odot v) + b, \qquad
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - y_{hj}|/\ell_h} \cos(\theta_{hi} - \phi_{hj})

    The layer replaces ``nn.Linear(in_features, out_features)``. It has 2 out + 3 in + 1 parameters
    per head instead of in * out. After one sort it takes O(in + out) time per row and head instead
    of O(in * out).

    Parameters
    ----------
    in_features, out_features : int
        The sizes of input and output, at least 1.
    bias : bool
        Add a learnable bias, which starts at zero.
    device, dtype : optional
        As for ``nn.Linear``. In float16 and bfloat16 layers, whether constructed so or moved later,
        the anchors, phases and lengthscales stay float32; only the gains and the bias have this
        dtype.
    heads : int
        The number of kernels in the sum. Each has its own anchors, lengthscale, phases and gains.
    phased : bool
        Use carrier phases :math:`\theta, \phi`, which give entries of both signs. Without them each
        head is the positive kernel times the gains.
    init : {"interlaced", "random"}
        How the initial anchors are chosen on [-1, 1]. With ``"interlaced"``, targets and sources
        alternate on a regular grid, so that every head has full rank; which of them stands where is
        random. With ``"random"``, they are independent and uniform.
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernels, as in `laplex.matvec`: :math:`e^{-d/\ell}`, as in the formula, or
        a smoother function of the distance.
    side : {"both", "left", "right"}
        The inputs that count for each output: all, those whose anchors are at or below that of the
        output, or those whose anchors are at or above it.

    Attributes
    ----------
    targets : Parameter ``[heads, out_features]``
        The anchors of the outputs, :math:`x`.
    sources : Parameter ``[heads, in_features]``
        The anchors of the inputs, :math:`y`.
    log_lengthscale : Parameter ``[heads]``
        The logarithms of the lengthscales :math:`\ell`.
    target_phase : Parameter ``[heads, out_features]`` or None
        The phases :math:`\theta` in radians, or None if ``phased=False``.
    source_phase : Parameter ``[heads, in_features]`` or None
        The phases :math:`\phi` in radians, or None if ``phased=False``.
    source_gain : Parameter ``[heads, in_features]``
        The gains :math:`g`.
    bias : Parameter ``[out_features]`` or None
        The bias :math:`b`, or None if ``bias=False``.

    Raises
    ------
    ValueError
        If a size is below 1, ``init``, ``kernel`` or ``side`` is unknown or ``dtype`` is not a
        floating-point type; in `forward`, if the last dimension of the input is not
        ``in_features``.
    TypeError
        If a size is not an integer.

    Notes
    -----
    This is our reading of arXiv 2605.24584 as a layer. Each source has a learnable gain. Targets
    have none: in front of a ReLU, the gains of the next layer play that role.

    The property `weight` computes the dense matrix on request, so modules and tools that read the
    weight of an ``nn.Linear`` work with this layer. `to_linear` and `from_linear` convert between
    the two. The guide to layers has the details.

    Adam does well with 1e-2 to 1e-1, higher than for dense layers. Apply weight decay only to the
    gains, and give anchors and gains rates in the units of the layer: `laplex.nn.param_groups` does
    both.

    Examples
    --------
    >>> import torch
    >>> from laplex.nn import LaplexLinear
    >>> layer = LaplexLinear(784, 256, heads=2)
    >>> layer(torch.randn(8, 784)).shape
    torch.Size([8, 256])
    >>> layer.weight.shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([256, 784]), 5986)
    """

    _saved_as = "laplex.nn.LaplexLinear"

    def _initial_lengthscale(self) -> float:
        # Of the order of the geometric mean of the line's length and the spacing of the fewer
        # anchors. With that of all anchors, inputs that are many more than the outputs reach none
        # (docs/measurements/training.md). Longer ones lose where layers are square (structured.md).
        return 1 / math.sqrt(2 * min(self.sources.shape[-1], self.targets.shape[-1]))
