"""Which dimension of an activation holds the channels, and which the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .activations import main_tensor, map_tensors

Side = Literal["first", "last"]


class Layout(NamedTuple):
    """The order of the dimensions of an activation.

    Attributes
    ----------
    channel_axis, batch_axis : int
        Numbers of the dimensions.
    """

    channel_axis: int
    batch_axis: int = 0

    def arranged(self, activation: Any) -> Tensor:
        """The Tensor of an activation in the order that heads expect.

        Returns
        -------
        Tensor ``[batch, features]``, ``[batch, tokens, dim]`` or ``[batch, channels, ...]``
            For two, three, and more dimensions.

        Raises
        ------
        ValueError
            If the activation has no such dimensions.
        """
        value = main_tensor(activation)
        if max(self) >= value.ndim:
            raise ValueError(
                f"an activation is {list(value.shape)}, but the model expects its channels in "
                f"dimension {self.channel_axis} and its batch in dimension {self.batch_axis}: "
                "attach the exits again"
            )
        channels = 1 if value.ndim > 3 else value.ndim - 1
        return value.movedim((self.batch_axis, self.channel_axis), (0, channels))


class Evidence(NamedTuple):
    """What the layers that ran up to an exit tell about its activation.

    Attributes
    ----------
    features : int or None
        Number of channels of the last layer that has them.
    inside, before : set of "first" or "last"
        Where the layers inside the module of the exit have their channels (after the batch, or
        last), and where all layers before its end have them.
    """

    features: int | None
    inside: frozenset[Side]
    before: frozenset[Side]


def _channels(module: nn.Module) -> tuple[int, Side] | None:
    """Number and place of the channels of the output of a layer, if it is of a known kind."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels, "first"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features, "first"
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, "first"
    if isinstance(module, nn.Linear):
        return module.out_features, "last"
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, "last"
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, "last"
    if isinstance(module, nn.RNNBase):
        width = module.proj_size or module.hidden_size
        return width * (1 + module.bidirectional), "last"
    if type(module) in (nn.LayerNorm, nn.RMSNorm):  # a subclass may norm the channels of an image
        shape: Any = module.normalized_shape
        return (int(shape[0]), "last") if len(shape) == 1 else None
    return None


class Witness:
    """Watches the layers of a backbone while it runs.

    Parameters
    ----------
    backbone : Module
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self._features: int | None = None
        self._before: set[Side] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the backbone runs inside."""

        def hook(width: int, side: Side) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, inputs: Any, output: Any) -> None:
                self._features = width
                self._before.add(side)

            return look

        # Before the hooks of exits: a layer may have an exit itself.
        handles = [
            module.register_forward_hook(hook(*found), prepend=True)
            for module in self.backbone.modules()
            if (found := _channels(module)) is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def evidence(self, module: nn.Module) -> Evidence:
        """The evidence at the end of a module."""
        inside = {found[1] for one in module.modules() if (found := _channels(one)) is not None}
        return Evidence(self._features, frozenset(inside), frozenset(self._before))


def channel_axis_of(
    shape: Sequence[int],
    batch_axis: int,
    evidence: Evidence,
    *,
    declared: str | None = None,
    grown: Callable[[], Sequence[int] | None],
    where: str,
) -> int:
    """Find the dimension of the channels of an activation.

    Parameters
    ----------
    shape : sequence of int
        Shape of the activation.
    batch_axis : int
    evidence : Evidence
    declared : str, optional
        What the model says of its layout, such as ``"NHWC"``.
    grown : callable
        Returns the shape of the activation for inputs of twice the size, or None.
    where : str
        Name of the exit, for messages.

    Raises
    ------
    ValueError
        If the evidence does not decide.

    Notes
    -----
    What a model declares comes first. Otherwise the channels are the one dimension that does not
    grow with the input. If that does not decide, because the backbone is for one size or ends in
    adaptive pooling, the layers do: the last one must agree in size with one dimension only, and if
    all layers have their channels in the same place, with the one in that place.
    """
    axes = [axis for axis in range(len(shape)) if axis != batch_axis]
    if len(axes) == 1:
        return axes[0]
    if declared is not None and len(declared) == len(shape) and "C" in declared:
        return declared.index("C")
    larger = grown()
    if larger is not None and len(larger) == len(shape):
        still = [axis for axis in axes if shape[axis] == larger[axis]]
        if len(still) == 1:
            return still[0]
    sides = evidence.inside if len(evidence.inside) == 1 else evidence.before
    places = {"first": axes[0], "last": axes[-1]}
    matching = [axis for axis in axes if shape[axis] == evidence.features]
    if len(matching) == 1 and (len(sides) > 1 or matching[0] in map(places.get, sides)):
        return matching[0]
    listed = " or ".join(f"{axis} (size {shape[axis]})" for axis in axes)
    raise ValueError(
        f"the activation of exit {where!r} is {list(shape)}, and its channels may be dimension "
        f"{listed}: pass channel_axis={{{where!r}: {axes[0]}}}, for instance"
    )


def twice_as_large(x: Any, token_axis: bool) -> Any:
    """Inputs with every dimension of space twice as large, or None if they have none.

    Images and signals grow in all dimensions after the channels; tokens, and features by token if
    `token_axis` is set, in the dimension after the batch.
    """
    changed = False

    def grow(tensor: Tensor) -> Tensor:
        nonlocal changed
        whole = not tensor.is_floating_point() or token_axis
        for axis in (1,) if whole else range(2, tensor.ndim):
            if axis < tensor.ndim:
                tensor, changed = torch.cat((tensor, tensor), axis), True
        return tensor

    larger = map_tensors(grow, x)
    return larger if changed else None


def checked_axes(channel_axis: Any, names: Sequence[str]) -> Mapping[str, int]:
    """The dimension of the channels by name of the exit, from an int or a mapping.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or names other exits.
    """
    if channel_axis is None:
        return {}
    given = (
        channel_axis if isinstance(channel_axis, Mapping) else dict.fromkeys(names, channel_axis)
    )
    for name, axis in given.items():
        if name not in names:
            raise ValueError(
                f"channel_axis names {name!r}, which is not an exit: name some of "
                f"{', '.join(map(repr, names))}"
            )
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(
                "channel_axis must be the number of a dimension, or such numbers by name of the "
                f"exit, got {axis!r}"
            )
    return given
