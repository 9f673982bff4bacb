"""A classification head that can be read as a soft routing of features to near classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laplex._support.arguments import integer
from laplex.nn.kernel_layer import KernelLayer, Kernels
from laplex.nn.kernel_product import column_sums, kernel_product, shared_out
from laplex.torch.call import check_tensor
from laplex.torch.sharded import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The initial lengthscale, in units of the larger gap: that between neighbouring classes or, where
#: there are more classes than features, that between neighbouring features.
REACH = 1.0


class LaplexHead(KernelLayer):
    r"""A classification head that routes features to the classes near them on a line.

    .. math::
        R_h[c, f] &= \operatorname{softmax}_c\left(-|x_{hc} - y_{hf}| / \ell_h\right) \\
        \mathrm{logit}_c &= \sum_{h, f}
            R_h[c, f] \cos(\theta_{hc} - \phi_{hf})\, g_{hf}\, v_f + b_c

    Each feature distributes its gain over the classes, and the nearest class gets most of it. The
    matrix R is never formed: its normaliser :math:`z_f = \sum_c e^{-|x_c - y_f|/\ell}` is one
    product with the transpose.

    Parameters
    ----------
    in_features, num_classes : int
        The number of features and of classes, at least 1.
    bias, device, dtype, heads, phased, init
        As for `laplex.nn.LaplexLinear`.

    Attributes
    ----------
    targets : Parameter ``[heads, num_classes]``
        The anchors of the classes, :math:`x`.
    sources : Parameter ``[heads, in_features]``
        The anchors of the features, :math:`y`.
    log_lengthscale : Parameter ``[heads]``
        The logarithms of the lengthscales :math:`\ell`.
    target_phase : Parameter ``[heads, num_classes]`` or None
        The phases :math:`\theta` in radians, or None if ``phased=False``.
    source_phase : Parameter ``[heads, in_features]`` or None
        The phases :math:`\phi` in radians, or None if ``phased=False``.
    source_gain : Parameter ``[heads, in_features]``
        The gains :math:`g`.
    bias : Parameter ``[num_classes]`` or None
        The bias :math:`b`, or None if ``bias=False``.

    Raises
    ------
    ValueError, TypeError
        As for `laplex.nn.LaplexLinear`.

    Notes
    -----
    There is no ``kernel`` and no ``side``: the softmax of distances over lengthscales is the
    Laplace kernel, divided by the sums of its columns.

    Beyond the outermost class the routing does not depend on the exact place of a feature, so the
    layer treats such a feature as if it were at that class. A feature in a gap between two classes
    that is more than about 35 lengthscales (float32) from both gets no route in `forward`, because
    its derivatives would overflow.

    Examples
    --------
    >>> import torch
    >>> from laplex.nn import LaplexHead
    >>> head = LaplexHead(64, 10)
    >>> head(torch.randn(8, 64)).shape
    torch.Size([8, 10])
    >>> head.routing().shape
    torch.Size([1, 10, 64])
    """

    _saved_as = "laplex.nn.LaplexHead"
    _shares_out = True
    _targets_at_ends = True

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        heads: int = 1,
        phased: bool = True,
        init: str = "interlaced",
    ) -> None:
        super().__init__(
            in_features,
            integer("num_classes", num_classes),
            bias,
            device,
            dtype,
            heads=heads,
            phased=phased,
            init=init,
        )
        self.num_classes = self.out_features

    def _options(self) -> dict[str, Any]:
        own = super()._options()
        for name in ("out_features", "kernel", "side"):
            del own[name]
        return {"num_classes": self.num_classes, **own}

    def _initial_lengthscale(self) -> float:
        fewer = min(self.targets.shape[-1], self.sources.shape[-1])
        return 2 * REACH / max(fewer - 1, 1)

    def _anchors(self, targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        # This does not change the result, and keeps exp from underflowing for features far outside.
        lowest, highest = targets.amin(-1, keepdim=True), targets.amax(-1, keepdim=True)
        return targets, sources.clamp(lowest, highest)

    @torch.no_grad()
    def place_classes(self, class_means: Tensor) -> float:
        r"""Start from data: place the classes so that their weights resemble their mean features.

        Head by head, each class gets the place and the phase at which its row of the kernel matches
        best what the heads before have left of its mean. Then the gains are fitted by least
        squares. It takes O(heads * num_classes * in_features) time, and sets ``targets``,
        ``target_phase``, ``source_gain`` and ``bias``; ``sources``, ``source_phase`` and the
        lengthscales stay as they are.

        Anchors move by little in training. With many more classes than features, a class whose
        place is random is among the wrong features, and the nearest right ones are many
        lengthscales away.

        Parameters
        ----------
        class_means : Tensor ``[num_classes, in_features]``
            The mean of the features of each class, or the features of one example of it.

        Returns
        -------
        float
            The part of the differences between the means that the weight misses: the relative
            error in the Frobenius norm, between 0 and 1.

        Raises
        ------
        TypeError
            If ``class_means`` is not a tensor.
        ValueError
            If its shape is wrong, it is not finite, or all its rows are equal.

        Notes
        -----
        If nothing is missed, the logits are those of a classifier by the nearest mean,

        .. math:: s\,\langle m_c - m,\ v - (m_c + m) / 2 \rangle, \qquad m = \tfrac1n \sum_c m_c,

        and otherwise the weight replaces :math:`s\,(m_c - m)`. The scale s gives
        :math:`s\,|m_c - m|^2` the mean :math:`2 \log n` over the n classes.

        Examples
        --------
        >>> import torch
        >>> from laplex.nn import LaplexHead
        >>> head = LaplexHead(64, 1000, heads=4)
        >>> means = torch.randn(1000, 64)
        >>> error = head.place_classes(means)
        >>> float((head(means).argmax(-1) == torch.arange(1000)).float().mean()) > 0.8
        True
        """
        from laplex.nn.class_placement import place_classes

        return place_classes(self, class_means)

    def logits(
        self,
        input: Tensor,  # noqa: A002  (the name in `forward`)
        classes: Tensor,
    ) -> Tensor:
        """Compute the logits of some of the classes, as ``forward(input)[..., classes]``.

        It takes O(heads * (in_features + len(classes))) time per row, and O(heads * num_classes)
        once for the normalisers :math:`z_f`.

        Parameters
        ----------
        input : Tensor ``[..., in_features]``
            The features.
        classes : Tensor ``[k]``
            The numbers of the classes, in int64, on the layer's device.

        Returns
        -------
        Tensor ``[..., k]``
            In float32 if the layer is of half precision.

        Raises
        ------
        TypeError, ValueError
            As in `forward`, or if ``classes`` are not int64, not one-dimensional or out of range.
        """
        check_tensor("classes", classes)
        if classes.dim() != 1:
            raise ValueError(
                f"classes must have one dimension, got shape {list(classes.shape)}: use "
                "classes.flatten()"
            )
        check_class_numbers("classes", classes, self.num_classes)
        kernels, bias = self._whole(), self._whole_bias()
        phase = kernels.target_phase
        return self._part(
            input,
            kernels,
            self._factor(kernels),
            kernels.targets[:, classes],
            None if phase is None else phase[:, classes],
            None if bias is None else bias[classes],
        )

    def blocks(self, size: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function from features to logits for every ``size`` consecutive classes.

        The normalisers are computed once.

        :meta private:
        """
        kernels = self._whole()
        factor = self._factor(kernels)
        # Split once: the gradient of every single slice would have the size of all classes.
        parts = [
            itertools.repeat(None) if each is None else torch.split(each, size, dim=-1)
            for each in (kernels.targets, kernels.target_phase, self._whole_bias())
        ]
        for targets, phase, bias in zip(*parts, strict=False):
            yield partial(
                self._part,
                kernels=kernels,
                factor=factor,
                targets=targets,
                target_phase=phase,
                bias=bias,
            )

    def _factor(self, kernels: Kernels) -> Tensor:
        lengthscale = kernels.log_lengthscale.exp()
        sums = column_sums(kernels.targets, kernels.sources, lengthscale)
        return shared_out(kernels.gain, sums)

    def _whole_bias(self) -> Tensor | None:
        return None if self.bias is None else whole(self.bias)

    def _part(
        self,
        input: Tensor,  # noqa: A002
        kernels: Kernels,
        factor: Tensor,
        targets: Tensor,
        target_phase: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """Multiply by the rows of the weight that belong to these targets."""
        return kernel_product(
            input,
            targets,
            kernels.sources,
            kernels.log_lengthscale.exp(),
            factor,
            target_phase,
            kernels.source_phase,
            bias,
            False,
            self._shape,
        )

    def routing(self) -> Tensor:
        """Return the routing matrix R of every head.

        Returns
        -------
        Tensor ``[heads, num_classes, in_features]``
            The share of each feature that goes to each class. Every column sums to 1.
        """
        kernels = self._whole()
        distance = (kernels.targets[:, :, None] - kernels.sources[:, None, :]).abs()
        lengthscale = kernels.log_lengthscale.exp()
        return torch.softmax(-distance / lengthscale[:, None, None], dim=1)

    def plot_routing(
        self,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | None = None,
        *,
        head: int = 0,
        around: int | str | None = None,
    ) -> Axes:
        """Draw the features and classes of one head on their line, with the strongest routes.

        Of more than 60 classes, 24 at even ranks along the line are drawn with their names and
        routes, and all of them as a density. ``around`` shows the surroundings of one class.

        Parameters
        ----------
        class_names : sequence of str, optional
            One label for each class. The default is the numbers from 0.
        feature_names : sequence of str, optional
            One label for each feature. By default features are not labelled.
        ax : matplotlib.axes.Axes, optional
            The axes to draw on. By default a new figure is made.
        head : int
            The number of the head, from 0.
        around : int or str, optional
            The number or the name of a class. The picture then shows three lengthscales of the line
            on each side of it.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed; the message names the extra to install.
        ValueError
            If the number of names is wrong, ``head`` is out of range, or ``around`` is not a class.
        """
        from laplex.nn.routing_plot import draw_routing

        return draw_routing(self, class_names, feature_names, ax, head, around)

    def extra_repr(self) -> str:
        """Return the text between the parentheses of ``repr``.

        :meta private:
        """
        return super().extra_repr().replace("out_features", "num_classes")


def check_class_numbers(name: str, numbers: Tensor, num_classes: int) -> None:
    """Refuse a tensor that has other entries than int64 from 0 to ``num_classes - 1``."""
    if numbers.dtype is not torch.int64:
        raise TypeError(f"{name} must be int64, got {numbers.dtype}: use {name}.long()")
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < num_classes:
        raise ValueError(
            f"{name} must be between 0 and {num_classes - 1}, "
            f"got {int(numbers.min())} to {int(numbers.max())}"
        )
