"""What a recipe holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..model import MultiExitModel
from ..policies.base import Policy
from ..pretrained import like_backbone


@dataclass(frozen=True)
class Recipe:
    """Heads, options of training and a policy that belong together.

    Attributes
    ----------
    head : str or callable
        The heads to attach, as in `MultiExitModel.attach`.
    options : mapping
        Arguments of `train`.
    policy : callable
        A function from the trained model to its exit policy.
    wrap : callable, optional
        A function ``wrap(head, k, num_exits, num_classes)`` from the head of exit k to the one that
        takes its place.
    wraps_output : bool
        Whether the last exit is wrapped too: the result is the output head of the model.

    Examples
    --------
    >>> import torch
    >>> from laplex.early_exit import networks, recipes, train
    >>> recipe = recipes.sdn()
    >>> x, y = torch.randn(8, 4), torch.arange(8) % 3
    >>> backbone = networks.small_mlp(4, 3, widths=(8, 8), seed=0)
    >>> model = recipe.attach(backbone, ["layers.0"], num_classes=3, example=x)
    >>> result = train(model, [(x, y)], epochs=1, **recipe.options)
    >>> model.predict(x, recipe.policy(model)).labels.shape
    torch.Size([8])
    """

    head: str | Callable[[Any, int], nn.Module]
    options: Mapping[str, Any]
    policy: Callable[[MultiExitModel], Policy]
    wrap: Callable[[nn.Module, int, int, int], nn.Module] | None = None
    wraps_output: bool = False

    def attach(
        self,
        backbone: nn.Module,
        at: Sequence[str],
        *,
        num_classes: int,
        example: Any,
        **more: Any,
    ) -> MultiExitModel:
        """Attach the heads of the recipe to a backbone.

        Parameters
        ----------
        backbone, at, num_classes, example, **more
            As in `MultiExitModel.attach`.

        Returns
        -------
        MultiExitModel

        Raises
        ------
        TypeError, ValueError
            As `MultiExitModel.attach`.
        """
        model = MultiExitModel.attach(
            backbone, at, num_classes=num_classes, example=example, head=self.head, **more
        )
        if self.wrap is None:
            return model
        exits = model.num_exits
        model.heads = nn.ModuleList(
            self.wrap(head, k, exits, num_classes) for k, head in enumerate(model.heads)
        )
        like_backbone(backbone, model.heads)
        if self.wraps_output:
            model.output_head = self.wrap(nn.Identity(), exits - 1, exits, num_classes)
            like_backbone(backbone, model.output_head)
        return model


@dataclass(frozen=True)
class Always:
    """The same policy for every model."""

    policy: Policy

    def __call__(self, model: MultiExitModel) -> Policy:
        """Return the policy."""
        return self.policy


def reading(head: nn.Module, activation: Any, mask: Any) -> Any:
    """What a wrapped head returns; it gets the mask if it reads masks."""
    return head(activation, mask=mask) if getattr(head, "reads_mask", False) else head(activation)
