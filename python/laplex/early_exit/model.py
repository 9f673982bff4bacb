"""A network with several outputs: exits attached to any module, and left for real."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .activations import batch_of
from .heads.base import make_head
from .policies.base import Policy
from .real_exits import Prediction, RealExits, StopWalk

__all__ = ["MultiExitModel", "Prediction", "StopWalk", "evaluating"]

AtExit = Callable[[int, Any], Any]


class MultiExitModel(nn.Module):
    """A backbone with exits.

    The backbone is not changed: exits listen by forward hooks, put on for the length of a call.

    Parameters
    ----------
    backbone : Module
        Its output, or the ``.logits`` of its output, are the logits ``[batch, classes]`` of the
        last exit. The batch is the first dimension everywhere.
    exits : mapping of str to Module
        The names of modules of the backbone, as in ``backbone.named_modules()``, in the order in
        which they run, and the head of each: a module from that module's output to logits.

    Attributes
    ----------
    exit_names : tuple of str
    heads : ModuleList
    num_exits : int
        The exits of `exits` and the backbone's own.

    Raises
    ------
    ValueError
        No exits, a name that the backbone does not have. And from the first call: an exit that
        does not run, runs twice, or runs before the one listed before it.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MaxSoftmax, MultiExitModel
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 3), "2": nn.Linear(8, 3)})
    >>> [logits.shape for logits in model(torch.zeros(5, 4))]
    [torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([5, 3])]
    >>> model.predict(torch.zeros(5, 4), MaxSoftmax(0.0)).samples_per_segment
    (5, 0, 0)
    """

    def __init__(self, backbone: nn.Module, exits: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        if not isinstance(exits, Mapping):
            raise TypeError(
                f"exits must map names of modules to heads, got {type(exits).__name__}: pass "
                '{"layer1": head, ...}, or use MultiExitModel.attach to have heads made'
            )
        _check_names(backbone, exits)
        for name, head in exits.items():
            if not isinstance(head, nn.Module):
                raise TypeError(
                    f"exits[{name!r}] must be a torch.nn.Module, got {type(head).__name__}"
                )
        self.backbone = backbone
        self.heads = nn.ModuleList(exits.values())
        self.exit_names: tuple[str, ...] = tuple(exits)
        #: Whether `predict` runs the backbone anew behind an exit; None until it has found out.
        self.replays: bool | None = None

    @property
    def num_exits(self) -> int:
        """Number of exits, the backbone's own output included."""
        return len(self.exit_names) + 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all exits in depth order: `exit_names`, then ``"output"``."""
        return (*self.exit_names, "output")

    @classmethod
    def attach(
        cls,
        backbone: nn.Module,
        at: Sequence[str],
        *,
        num_classes: int,
        example: Any,
        head: str | Callable[[Any, int], nn.Module] = "pooled",
    ) -> MultiExitModel:
        """Attach exits with new heads, as wide as the activations of an example are.

        Parameters
        ----------
        backbone : Module
        at : sequence of str
            Names of its modules, in the order in which they run.
        num_classes : int
        example : Tensor or nested
            A batch as the backbone takes it. Run once in evaluation mode, without gradients.
        head : str or callable
            ``"pooled"`` (maximum and average of a feature map, mixed, then linear), ``"linear"``
            (average, then linear), ``"mlp"``, ``"conv"``, ``"token"`` (the first token of
            ``[batch, tokens, dim]``), ``"laplex"`` (average, then `laplex.nn.LaplexHead`), or what
            `laplex.early_exit.heads.HEADS` has besides; or a function of an activation and the
            number of classes to a module.

        Raises
        ------
        ValueError
            As the constructor; or the head does not fit the activation.
        """
        if isinstance(at, str):
            raise TypeError(f"at must be a sequence of names, got {at!r}: pass [{at!r}]")
        names = list(at)
        if len(set(names)) < len(names):
            raise ValueError(f"at names a module twice: {names}")
        probe = cls(backbone, {name: nn.Identity() for name in names})
        seen: list[Any] = []

        def note(k: int, activation: Any) -> Any:
            seen.append(activation)
            return activation

        with evaluating(probe), torch.no_grad():
            last = probe.walk(example, note)
        _check_example(last, num_classes, batch_of(example, "example"))
        made = {
            name: make_head(head, activation, num_classes, where=name)
            for name, activation in zip(names, seen, strict=True)
        }
        first = next(iter(backbone.parameters()), None)
        model = cls(backbone, made)
        if first is not None:
            model.heads.to(device=first.device, dtype=first.dtype)
        model.heads.train(backbone.training)
        model.training = backbone.training
        return model

    def forward(self, x: Any) -> tuple[Tensor, ...]:
        """Logits of every exit, in depth order, the backbone's own last.

        Parameters
        ----------
        x : Tensor [batch, ...], or nested lists, tuples and dicts of them
            What the backbone takes as its one argument.

        Returns
        -------
        tuple of Tensor [batch, classes]
        """
        logits: list[Tensor] = []

        def at_exit(k: int, activation: Any) -> Any:
            logits.append(self.head_logits(k, activation))
            return activation

        last = self.walk(x, at_exit)
        for name, one in zip(self.exit_names, logits, strict=True):
            if one.shape != last.shape:
                raise ValueError(
                    f"exit {name!r} gives logits {list(one.shape)}, but the backbone "
                    f"{list(last.shape)}: both must be [batch, classes], of one batch and the same "
                    "classes"
                )
        return (*logits, last)

    def head_logits(self, k: int, activation: Any) -> Tensor:
        """Logits [batch, classes] of the head of exit `k` for the output of its module."""
        return _as_logits(self.heads[k](activation), f"the head of exit {self.exit_names[k]!r}")

    def walk(self, x: Any, at_exit: AtExit) -> Tensor:
        """Run the backbone and call a visitor at each exit but the last. No head is run.

        Parameters
        ----------
        x
            As for `forward`.
        at_exit : callable
            ``at_exit(k, activation)`` gets what the exit's module put out, and returns what the
            backbone goes on with: the same, or one with fewer rows. It may raise `StopWalk`, which
            `walk` passes on.

        Returns
        -------
        Tensor [batch, classes]
            The backbone's own logits.

        Raises
        ------
        ValueError
            The exits did not run once each in their order.
        """
        reached = 0

        def hook(k: int) -> Callable[[nn.Module, Any, Any], Any]:
            def listen(module: nn.Module, inputs: Any, output: Any) -> Any:
                nonlocal reached
                if k != reached:
                    raise self._out_of_order(k, reached)
                reached += 1
                return at_exit(k, output)

            return listen

        handles = [
            self.backbone.get_submodule(name).register_forward_hook(hook(k))
            for k, name in enumerate(self.exit_names)
        ]
        try:
            logits = _as_logits(self.backbone(x), "the backbone")
        finally:
            for handle in handles:
                handle.remove()
        if reached < len(self.exit_names):
            raise ValueError(
                f"exit {self.exit_names[reached]!r} did not run in the backbone's forward: attach "
                "at a module that does"
            )
        return logits

    def predict(self, x: Any, policy: Policy) -> Prediction:
        """Predict, each sample leaving at its exit: what lies behind is not computed for it.

        Computed in evaluation mode and without gradients; modes are put back.

        Parameters
        ----------
        x
            As for `forward`; any batch, also of one.
        policy : Policy
            Such as `MaxSoftmax`; see `laplex.early_exit.policies`.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            Thresholds for another number of exits; or a backbone in which what a sample gives
            depends on the others of its batch.

        Notes
        -----
        Rows of the samples that leave are taken out of the activation, and the backbone goes on
        with the rest. Where something else of the batch passes an exit by (a skip connection
        around it, a size of the batch taken at the start), the backbone is run anew with the
        samples that stay, and its modules before the exit give what they gave. Which of the two
        it takes is found out with the first batch of several samples, by trying on eight of them
        (`replays`).

        Decisions are those of ``policy.exit_index`` on all logits, sample for sample, up to the
        rounding by which convolutions and products depend on the size of a batch.
        """
        if not isinstance(policy, Policy):
            raise TypeError(
                f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
            )
        cuts = policy.cuts(self.num_exits)
        with evaluating(self), torch.no_grad():
            return RealExits(self, policy, cuts, batch_of(x, "x")).run(x)

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        return f"exits at {', '.join(self.exit_names)} and the end"

    def _out_of_order(self, k: int, reached: int) -> ValueError:
        name = self.exit_names[k]
        if k < reached:
            return ValueError(
                f"exit {name!r} ran twice in one forward of the backbone: attach at a module that "
                "runs once"
            )
        return ValueError(
            f"exits are out of order: {name!r} ran before {self.exit_names[reached]!r}, which is "
            "listed before it: list exits in the order in which their modules run"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; put every module's own mode back."""
    # Those alone that are to change: to set an attribute of a module takes microseconds.
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _as_logits(output: Any, whose: str) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{whose} must give logits [batch, classes], got {got}")
    return logits


def _check_example(logits: Tensor, num_classes: int, batch: int) -> None:
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the backbone has {logits.shape[1]}: replace its "
            "last layer, or pass its number"
        )
    if len(logits) != batch:
        raise ValueError(
            f"the backbone gives {len(logits)} rows of logits for {batch} samples: the batch must "
            "be the first dimension of what goes in and comes out"
        )


def _check_names(backbone: nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in backbone.named_modules() if name]
    names = list(names)
    if not names:
        raise ValueError(
            f"exits is empty: name modules of the backbone, such as {', '.join(known[:5])}"
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of exits must be str, got {name!r}")
        if name not in known:
            near = [one for one in known if name and (name in one or one in name)] or known
            listed = ", ".join(near[:8]) + (", ..." if len(near) > 8 else "")
            raise ValueError(
                f"exit {name!r} is not a module of the backbone: it has {listed}"
                if known
                else f"exit {name!r} is not a module of the backbone, which has none"
            )
