"""A drop-in for `torch.nn.Linear` in O(in + out) parameters and time a head."""

from __future__ import annotations

import math

from laplex.nn.kernel_layer import KernelLayer


class LaplexLinear(KernelLayer):
    r"""Linear map whose weight is a sum of Laplace kernels between learnable anchors.

    .. math::
        y = \sum_{h} \mathrm{Re}(K_h)\,(g_h \odot v) + b, \qquad
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - y_{hj}|/\ell_h} \cos(\theta_{hi} - \phi_{hj})

    Takes the place of ``nn.Linear(in_features, out_features)``: 2 out + 3 in + 1 parameters a head
    instead of in * out; time O(in + out) a row and head after one sort, instead of O(in * out).

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool
        Add a learnable bias, zero at first.
    device, dtype
        As for ``nn.Linear``. In float16 and bfloat16 layers (by construction or by a later move)
        anchors, phases and lengthscales are float32, gains and bias are in `dtype`.
    heads : int
        Number of kernels summed. Each has its own anchors, lengthscale, phases and gains.
    phased : bool
        With carrier phases :math:`\theta, \phi`: entries of both signs. Without: the kernel alone.
    init : {"interlaced", "random"}
        Initial anchors; see `laplex.nn.anchors.initial_anchors`.

    Raises
    ------
    ValueError
        For sizes below 1, an unknown `init`, a `dtype` that is not floating point; in `forward`,
        for an input whose last dimension is not `in_features`.
    TypeError
        For sizes that are not integers.

    Notes
    -----
    Our reading of arXiv 2605.24584 as a layer. Sources have a learnable gain each, targets have
    none: in front of a ReLU the next layer's gains do their work.

    `weight` is the dense matrix, made when asked for: so modules and tools that read the weight of
    an ``nn.Linear`` work with the layer. `to_linear` and `from_linear` convert (docs/guides/layers.md).

    Anchors and lengthscales are on a scale that lets one learning rate serve all parameters; Adam
    does well with 1e-2 to 4e-2, above what dense layers like (docs/measurements/learning_rates.md). Weight decay
    is for the gains alone: see `laplex.nn.param_groups`.

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

    def _initial_lengthscale(self) -> float:
        # Half the geometric mean of the line's length, 2, and the spacing of its in + out anchors:
        # each output starts as a mean over about sqrt(in) / 2 inputs.
        return 1 / math.sqrt(self.sources.shape[-1] + self.targets.shape[-1])
