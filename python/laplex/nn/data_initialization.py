"""Initial anchors from data: correlated inputs next to each other on the line."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from laplex.nn.kernel_layer import KernelLayer

#: How many principal components of the inputs decide which inputs are alike.
COMPONENTS = 16


@torch.no_grad()
def initialize_from_data(model: nn.Module, inputs: Tensor) -> None:
    r"""Put correlated inputs of every layer next to each other on the line.

    It calls the model once with a sample of its inputs, in evaluation mode. Every `LaplexLinear`
    and `LaplexHead` that the model calls deals the places of its ``sources`` out again, before it
    multiplies, so that the next layer sees its new outputs. Phases and gains move with the places:
    each head's weight keeps its columns, and so its norm, and only their order changes.

    The order is that of a recursive bisection. An input is described by its loadings on the
    leading principal components of the sample,

    .. math:: L = V \Sigma, \qquad Z \approx U \Sigma V^\top,

    where Z has the standardised inputs of the sample in its columns, so that
    :math:`L L^\top \approx Z^\top Z` is their correlation matrix. The inputs are split at the
    median of the loading with the largest variance, and so are the halves, until single inputs are
    left. For each head, the loadings are rotated at random first, so that the heads have different
    orders. It takes O(n log n + n b) time for n inputs and b samples, with no n x n matrix.

    Parameters
    ----------
    model : nn.Module
        A layer, or a model that calls layers, before training.
    inputs : Tensor ``[samples, ...]``
        What the model is called with: a few hundred samples, real, in the model's dtype and on its
        device.

    Raises
    ------
    TypeError
        If ``model`` is not a module or ``inputs`` not a tensor.
    ValueError
        If the model calls no layer of Laplace kernels, or the inputs of one are complex, not
        finite, fewer than two or all constant, or the layer is sharded, pruned, parametrized or on
        the meta device.

    Notes
    -----
    Random numbers come from torch's global CPU generator, whatever the device. Constant inputs are
    treated as uncorrelated with all others. The randomised decomposition is that of
    `torch.svd_lowrank`, from [1]_, and the bisection is the order of a k-d tree [2]_.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding structure with randomness", SIAM
       Review 53 (2011), Algorithm 5.1.
    .. [2] J. L. Bentley, "Multidimensional binary search trees used for associative searching",
       Communications of the ACM 18 (1975).

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> signal = torch.randn(300, 8).repeat_interleave(8, dim=1)  # 8 groups of equal inputs
    >>> shuffled = signal[:, torch.randperm(64)]
    >>> model = torch.nn.Sequential(laplex.nn.LaplexLinear(64, 32, heads=2), torch.nn.ReLU())
    >>> laplex.nn.initialize_from_data(model, shuffled)
    >>> order = model[0].sources[0].argsort()
    >>> bool((shuffled[:, order].diff(dim=1) == 0).float().mean() > 0.8)  # equal ones adjoin
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    done: set[nn.Module] = set()

    def before_call(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        assert isinstance(layer, KernelLayer)
        given = arguments[0] if arguments else keywords.get("input")
        # If the input does not fit, the layer says so itself.
        if not isinstance(given, Tensor) or given.shape[-1:] != (layer.in_features,):
            return
        if layer not in done:
            done.add(layer)
            _arrange(layer, given)

    kernel_layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    for layer in kernel_layers:
        _check(layer)
    training = [module for module in model.modules() if module.training]
    hooks = [
        layer.register_forward_pre_hook(before_call, with_kwargs=True) for layer in kernel_layers
    ]
    try:
        model.eval()
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    if not done:
        raise ValueError(
            "the model calls no LaplexLinear or LaplexHead: pass a model that has one and calls it"
        )


def _check(layer: KernelLayer) -> None:
    if layer.sources.is_meta:
        raise ValueError(
            "the model is on the meta device and has no values: call to_empty(device=...) and "
            "reset_parameters() of its layers first"
        )
    for name in ("sources", "source_phase", "source_gain"):
        if type(getattr(layer, name)) not in (nn.Parameter, type(None)):
            raise ValueError(
                f"{name} of a {type(layer).__name__} is sharded, pruned or parametrized: call "
                "initialize_from_data before that"
            )


def _arrange(layer: KernelLayer, inputs: Tensor) -> None:
    """Deal the places of the sources out to the inputs, head by head."""
    found = loadings(inputs.detach().to_dense().reshape(-1, layer.in_features))
    for head in range(layer.heads):
        rotation, _ = torch.linalg.qr(torch.randn(found.shape[1], found.shape[1]).to(found))
        order = bisection_order(found @ rotation).to(layer.sources.device)
        places = layer.sources[head].argsort()
        for parameter in (layer.sources, layer.source_phase, layer.source_gain):
            if parameter is not None:
                parameter[head, order] = parameter[head, places]


def loadings(inputs: Tensor) -> Tensor:
    """Return the loadings of inputs ``[samples, n]`` on their leading principal components.

    Returns
    -------
    Tensor ``[n, components]``
        In float64 on the CPU. The squared length of a row is at most 1.
    """
    if inputs.is_complex() or len(inputs) < 2:
        raise ValueError(
            f"inputs must be at least two real samples, got {len(inputs)} in {inputs.dtype}"
        )
    centred = inputs.double().cpu()
    rounding = torch.finfo(torch.float64).eps * len(centred) * centred.abs().amax(0)
    centred = centred - centred.mean(0)
    length = torch.linalg.vector_norm(centred, dim=0)
    if not length.isfinite().all():
        raise ValueError("inputs must be finite, but a layer was called with infinities or NaN")
    length = length.where(length > rounding, 0.0)  # the mean of equal numbers may differ from them
    if not length.any():
        raise ValueError("inputs must vary from sample to sample, but all are constant")
    standardised = torch.where(length > 0, centred / length, 0.0)
    _, values, vectors = torch.svd_lowrank(standardised, q=min(COMPONENTS, *standardised.shape))
    return vectors * values


def bisection_order(points: Tensor) -> Tensor:
    """Order points ``[n, d]`` by recursive bisection, along the axis of the largest variance.

    Returns
    -------
    Tensor ``[n]``
        The numbers of the points in their order.
    """
    count, place = len(points), torch.arange(len(points))
    order = place
    for level in range(math.ceil(math.log2(count))):
        parts = 2**level
        part = place * parts // count
        size = torch.bincount(part, minlength=parts)[:, None]
        ordered = points[order]
        mean = ordered.new_zeros(parts, points.shape[1]).index_add_(0, part, ordered) / size
        spread = torch.zeros_like(mean).index_add_(0, part, (ordered - mean[part]).square())
        value = ordered[place, spread.argmax(1)[part]]
        within = torch.argsort(value, stable=True)
        order = order[within[torch.argsort(part[within], stable=True)]]
    return order
