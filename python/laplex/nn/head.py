"""A classification head that reads as soft routing: features hand their value to near classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laplex._support.arguments import integer
from laplex.nn.kernel_layer import KernelLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Initial lengthscale in gaps between neighbouring classes.
REACH = 1.0


class LaplexHead(KernelLayer):
    r"""Classification head: features are routed to the classes near them on a line.

    .. math::
        R_h[c, f] &= \operatorname{softmax}_c\left(-|x_{hc} - y_{hf}| / \ell_h\right) \\
        \mathrm{logit}_c &= \sum_{h, f}
            R_h[c, f] \cos(\theta_{hc} - \phi_{hf})\, g_{hf}\, v_f + b_c

    so a feature's gain is shared out over the classes, most of it to the nearest. R is never
    formed: its normaliser :math:`z_f = \sum_c e^{-|x_c - y_f|/\ell}` is one transposed product.

    Parameters
    ----------
    in_features, num_classes : int
        At least 1.
    bias, device, dtype, heads, phased, init
        As for `laplex.nn.LaplexLinear`.

    Raises
    ------
    ValueError, TypeError
        As `laplex.nn.LaplexLinear` does.

    Notes
    -----
    Beyond the outermost class the routing does not depend on where exactly a feature is, so
    features count as if at that class. A feature further than about 35 lengthscales (float32) from
    every class, in a gap between two, gets no route at all from `forward`, as its derivatives would
    overflow.

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

    def _initial_lengthscale(self) -> float:
        return 2 * REACH / max(self.targets.shape[-1] - 1, 1)

    def _anchors(self) -> tuple[Tensor, Tensor]:
        # Exact, and it keeps exp from underflowing for features far outside.
        targets = self.targets
        lowest, highest = targets.amin(-1, keepdim=True), targets.amax(-1, keepdim=True)
        return targets, self.sources.clamp(lowest, highest)

    def routing(self) -> Tensor:
        """Routing of every head, Tensor [heads, num_classes, in_features]; columns sum to 1."""
        targets, sources = self._anchors()
        distance = (targets[:, :, None] - sources[:, None, :]).abs()
        return torch.softmax(-distance / self.lengthscale[:, None, None], dim=1)

    def plot_routing(
        self,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | None = None,
        *,
        head: int = 0,
    ) -> Axes:
        """Draw features and classes of one head on their anchor line, with the strongest routes.

        Parameters
        ----------
        class_names, feature_names : sequence of str, optional
            Labels, `num_classes` and `in_features` of them. Features have no label when not given.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure when not given.
        head : int

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            Without matplotlib; the message names the extra that brings it.
        ValueError
            For the wrong number of names, or a `head` out of range.
        """
        from laplex.nn.routing_plot import draw_routing

        return draw_routing(self, class_names, feature_names, ax, head)

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        return super().extra_repr().replace("out_features", "num_classes")
