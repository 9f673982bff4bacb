"""A network with several outputs: exits are attached to any module, and samples leave at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .activations import Inputs, batch_of
from .heads.base import make_head
from .policies.base import Policy
from .reading import Reader, as_logits
from .real_exits import Prediction, RealExits, StopWalk

__all__ = ["MultiExitModel", "Prediction", "StopWalk", "evaluating"]

AtExit = Callable[[int, Any], Any]


class MultiExitModel(nn.Module):
    """A backbone with exits.

    The backbone is not changed. Exits read the outputs of its modules through forward hooks, which
    are registered only while a call runs.

    Parameters
    ----------
    backbone : Module
        The network. Its output, or the ``.logits`` of its output, is taken as the logits
        ``[batch, classes]`` of the last exit. The batch is the first dimension everywhere.
    exits : mapping of str to Module
        The head of each exit, by the name of the module it is attached to, as in
        ``backbone.named_modules()``. A head maps the output of that module to logits. List the
        exits in the order in which their modules run.

    Attributes
    ----------
    exit_names : tuple of str
        Names of the modules with an exit, in depth order.
    heads : ModuleList
        The head of each exit, in the same order.
    num_exits : int
        Number of exits, the backbone's own output included.

    Raises
    ------
    ValueError
        If `exits` is empty or names a module that the backbone does not have. The first call also
        raises it if the module of an exit does not run, runs twice, or runs before the module of
        the exit listed before it.

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

    def __init__(
        self,
        backbone: nn.Module,
        exits: Mapping[str, nn.Module],
        output_head: nn.Module | None = None,
    ) -> None:
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
        self.output_head = output_head
        self.exit_names: tuple[str, ...] = tuple(exits)
        #: Whether `predict` has to run the backbone again after an exit; None until it is known.
        self.replays: bool | None = None

    @property
    def num_exits(self) -> int:
        """Number of exits, the backbone's own output included."""
        return len(self.exit_names) + 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all exits in depth order: `exit_names`, followed by ``"output"``."""
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
        """Attach exits with new heads whose sizes are taken from the activations of an example.

        Parameters
        ----------
        backbone : Module
            The network.
        at : sequence of str
            Names of the modules to attach exits to, in the order in which they run.
        num_classes : int
            Number of classes.
        example : Tensor, or nested lists, tuples and dicts of Tensors
            A batch that the backbone accepts. It is run once, in evaluation mode and without
            gradients.
        head : str or callable
            Either a name from `laplex.early_exit.heads.HEADS`, or a function that takes an
            activation and the number of classes and returns a module. The built-in names are
            ``"pooled"`` (a learned mix of maximum and average over positions, then a linear layer),
            ``"grid"`` (the same mix in each cell of a 4 x 4 grid, for feature maps),
            ``"linear"`` (the average, then a linear layer), ``"mlp"`` (the average, then a layer of
            hidden units), ``"conv"`` (a convolution, for feature maps), ``"token"`` (the first
            token of ``[batch, tokens, dim]``) and ``"laplex"`` (the average, then
            `laplex.nn.LaplexHead`).

        Returns
        -------
        MultiExitModel
            The model, on the device and in the precision of the backbone's first parameter.

        Raises
        ------
        ValueError
            As for the constructor, or if the head does not fit the activation.
        """
        if isinstance(at, str):
            raise TypeError(f"at must be a sequence of names, got {at!r}: pass [{at!r}]")
        names = list(at)
        if len(set(names)) < len(names):
            raise ValueError(f"at names a module twice: {names}: list each name once")
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

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Compute the logits of every exit.

        Parameters
        ----------
        *args, **kwargs : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
            The arguments of the backbone. A single mapping whose keys are names of arguments of the
            backbone's forward, such as the output of a tokenizer, is passed by keywords.

        Returns
        -------
        tuple of Tensor [batch, classes]
            The logits in depth order; those of the backbone itself come last.
        """
        x = args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs)
        logits: list[Tensor] = []
        reader = self.reader(x)

        def at_exit(k: int, activation: Any) -> Any:
            logits.append(reader.logits(k, activation))
            return activation

        last = reader.output(self.walk(x, at_exit))
        for name, one in zip(self.exit_names, logits, strict=True):
            if one.shape != last.shape:
                raise ValueError(
                    f"exit {name!r} gives logits {list(one.shape)}, but the backbone "
                    f"{list(last.shape)}: both must be [batch, classes], of one batch and the same "
                    "classes"
                )
        return (*logits, last)

    def reader(self, x: Any) -> Reader:
        """Start to read the heads on a batch; see `Reader`.

        :meta private:
        """
        return Reader(self.heads, self.output_head, self.exit_names)  # type: ignore[arg-type]

    def _call(self, x: Any) -> Any:
        if isinstance(x, Inputs):
            return self.backbone(*x.args, **x.kwargs)
        return self.backbone(x)

    def walk(self, x: Any, at_exit: AtExit) -> Tensor:
        """Run the backbone and call a function at each exit but the last. No head is run.

        Parameters
        ----------
        x
            As in `forward`.
        at_exit : callable
            ``at_exit(k, activation)`` receives the output of the module of exit ``k``, and returns
            the activation that the backbone continues with: the same one, or one with fewer rows.
            It may raise `StopWalk` to skip the rest of the backbone; `walk` lets that exception
            through.

        Returns
        -------
        Tensor [batch, classes]
            The logits of the backbone itself.

        Raises
        ------
        ValueError
            If the modules of the exits do not run once each, in their order.

        :meta private:
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
            logits = as_logits(self._call(x), "the backbone")
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
        """Predict with early exits: the layers after a sample's exit are not computed for it.

        The model runs in evaluation mode and without gradients. The mode of every module is
        restored afterwards.

        Parameters
        ----------
        x
            As in `forward`. The batch may have any size, including 1.
        policy : Policy
            The exit policy, such as `MaxSoftmax`; see `laplex.early_exit.policies`.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            If the policy has thresholds for another number of exits, or if the logits of a sample
            depend on the other samples of its batch.

        Notes
        -----
        The rows of the samples that leave are removed from the activation, and the backbone
        continues with the remaining rows. This is not enough where other data of the batch bypass
        an exit: a skip connection around it, or a batch size read at the start of the forward. The
        backbone is then run again with the remaining samples, while the modules before the exit
        return their stored outputs. The first batch of more than one sample decides between the two
        methods, by a trial on up to 8 of its samples; `replays` holds the outcome.

        Decisions equal those of ``policy.exit_index`` on the logits of all exits, sample by sample,
        up to the rounding by which convolutions and matrix products depend on the batch size.
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
    """Put a model in evaluation mode, and restore the mode of every module afterwards."""
    # Only the modules that change: setting an attribute of a module takes microseconds.
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_example(logits: Tensor, num_classes: int, batch: int) -> None:
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the backbone has {logits.shape[1]} classes: "
            f"replace its last layer, or pass num_classes={logits.shape[1]}"
        )
    if len(logits) != batch:
        raise ValueError(
            f"the backbone gives {len(logits)} rows of logits for {batch} samples: the batch must "
            "be the first dimension of its inputs and outputs"
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
                else f"exit {name!r} is not a module of the backbone, which has no modules"
            )
