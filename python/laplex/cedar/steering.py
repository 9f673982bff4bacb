"""Steering inside a network: interventions on the output of a layer, by a forward hook."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .interventions import Value, checked_changes
from .module import CedarModule

if TYPE_CHECKING:
    from .estimator import CEDAR


class NotSteeredWarning(UserWarning):
    """A layer that was to be steered did not run."""


@contextmanager
def steer(
    layer: nn.Module,
    cedar: CEDAR | CedarModule,
    values: Mapping[Any, Value],
    *,
    names: Any = None,
    positions: Any = None,
    dim: int = -1,
) -> Iterator[None]:
    r"""Set coordinates of the output of a layer, as long as the context lasts.

    .. math:: z' = z + \sum_i (t_i - u_i \cdot (z - b))\, a_i

    Everything else of the output stays, also the part that its code omits, so a network with no
    value to set computes what it computed before. Contexts nest: of two on one layer, the inner one
    sees what the outer one has set. Gradients flow through.

    Parameters
    ----------
    layer : torch.nn.Module
        The layer, for instance ``network.blocks[3]`` or ``network.get_submodule("blocks.3")``. Its
        output is a Tensor, or a tuple or list whose first entry is that Tensor.
    cedar : CEDAR or CedarModule
        A model that was fitted to outputs of this layer. A CedarModule must be on their device.
    values : mapping
        The new coordinates :math:`t_i`, by axis or by name, as in ``CEDAR.intervene``, also for
        frames.
    names : AxisNames or mapping of str to int, optional
        What the names in ``values`` mean.
    positions : slice, int, or Tensor of bool, optional
        Which vectors to change: an index or a slice of the last dimension but that of the axes
        (the tokens), such as ``slice(-1, None)``, or a mask that broadcasts to the shape of the
        output without the dimension of the axes. All by default.
    dim : int
        The dimension of the output that holds the d numbers of a vector: -1 for tokens ``[b, t,
        d]``, 1 for maps ``[b, d, h, w]``.

    Raises
    ------
    TypeError, ValueError, IndexError
        At the start, if ``values`` is not as ``CEDAR.intervene`` wants it. When the layer runs, if
        its output is no Tensor, or does not have d numbers in dimension ``dim``.

    Warns
    -----
    NotSteeredWarning
        At the end, if the layer did not run, as in a network that was compiled before.

    Examples
    --------
    >>> import torch
    >>> from laplex.cedar import CEDAR, steer
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> inputs = torch.randn(200, 4)
    >>> model = CEDAR(k=2, random_state=0).fit(network[1](network[0](inputs)).detach())
    >>> with steer(network[1], model, {3: lambda c: 2 * c}):
    ...     steered = network(inputs)
    """
    module = module_of(cedar)
    columns = module.mean.shape[0]
    checked_changes(values, names, module.axes)
    ran = False

    def change(z: Tensor) -> Tensor:
        nonlocal ran
        ran = True
        if z.shape[-1] != columns:
            raise ValueError(
                f"the output of {type(layer).__name__} has {z.shape[-1]} numbers in dimension "
                f"{dim}, but the model was fitted to {columns}: steer the layer of the fit, or "
                "pass dim"
            )
        moved = module.intervene(z, values, names)
        if positions is None:
            return moved
        return torch.where(_mask(positions, z)[..., None], moved, z)

    with output_changed(layer, change, dim):
        yield
    if not ran:
        warnings.warn(
            f"the layer {type(layer).__name__} did not run, so nothing was steered: run the "
            "network inside the context. A network that torch.compile has compiled before ignores "
            "it: steer the network itself, or compile it inside the context",
            NotSteeredWarning,
            stacklevel=3,
        )


def split_at(
    layer: nn.Module, run: Callable[[], Tensor], *, dim: int = -1
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Split the run of a network at a layer: what comes out of it, and what follows from that.

    Parameters
    ----------
    layer : torch.nn.Module
        The layer, which runs once in ``run``; its output is as for `steer`.
    run : callable
        Runs the network on some input and returns a result, for instance
        ``lambda: network(tokens)[:, -1, answer].sum()``.
    dim : int
        The dimension of the output that holds a vector.

    Returns
    -------
    z : Tensor [..., d]
        The output of the layer, without gradients, with dimension ``dim`` moved to the end.
    rest : callable
        ``rest(z)`` runs the network with z as the output of the layer, and returns the result.

    Raises
    ------
    ValueError
        If the layer does not run exactly once.
    """
    seen: list[Tensor] = []

    def keep(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())  # the next layer may work in place
        return z

    with torch.no_grad(), output_changed(layer, keep, dim):
        run()
    if len(seen) != 1:
        raise ValueError(
            f"the layer {type(layer).__name__} must run once in run(), ran {len(seen)} times"
        )

    def rest(z: Tensor) -> Tensor:
        with output_changed(layer, lambda _: z.clone(), dim):
            return run()

    return seen[0], rest


def module_of(cedar: CEDAR | CedarModule) -> CedarModule:
    """Return a model as a torch module.

    Raises
    ------
    TypeError
        If it is neither a CEDAR nor a CedarModule.
    """
    if isinstance(cedar, CedarModule):
        return cedar
    if not hasattr(cedar, "torch_module"):
        raise TypeError(
            f"cedar must be a fitted CEDAR or its torch_module(), got {type(cedar).__name__}"
        )
    return cedar.torch_module()


@contextmanager
def output_changed(
    layer: nn.Module, change: Callable[[Tensor], Tensor], dim: int = -1
) -> Iterator[None]:
    """Pass the output of a layer, as vectors [..., d], through a function."""
    if not isinstance(layer, nn.Module):
        raise TypeError(
            "layer must be a torch module, such as network.get_submodule('blocks.3'), got "
            f"{layer!r}"
        )

    def hook(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
        whole = isinstance(output, Tensor)
        first = output if whole else output[0] if isinstance(output, (tuple, list)) else None
        if not isinstance(first, Tensor):
            raise TypeError(
                f"the output of {type(layer).__name__} must be a Tensor or a tuple that starts "
                f"with one, got {type(output).__name__}: choose a layer inside it"
            )
        new = change(first.movedim(dim, -1)).movedim(-1, dim)
        if whole:
            return new
        entries = (new, *output[1:])
        return output._make(entries) if hasattr(output, "_make") else type(output)(entries)

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _mask(positions: Any, z: Tensor) -> Tensor:
    """Return which vectors of z [..., d] to change, as a mask [...]."""
    if isinstance(positions, (slice, int)):
        mask = torch.zeros(z.shape[:-1], dtype=torch.bool, device=z.device)
        mask[..., positions] = True
        return mask
    mask = torch.as_tensor(positions, device=z.device)
    if mask.dtype != torch.bool:
        raise TypeError(f"positions must be a slice, an index or a mask of bool, got {mask.dtype}")
    try:
        return mask.expand(z.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"positions must fit {list(z.shape[:-1])}, the shape of the output without its "
            f"dimension of {z.shape[-1]} axes, got {list(mask.shape)}"
        ) from None
