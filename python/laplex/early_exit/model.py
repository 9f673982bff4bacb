"""A network with several outputs: exits are attached to any module, and samples leave at them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .activations import Inputs, batch_of, map_tensors
from .examining import examined
from .heads.base import make_head
from .layouts import Layout, checked_axes
from .policies.base import Policy
from .pretrained import PretrainedExits, like_backbone
from .probing import Plan
from .reading import Reader, as_logits, check_alike, checked_masks, mask_of
from .real_exits import Prediction, RealExits
from .replaying import Replica
from .signature import Signature, found_modules
from .walking import AtExit, ExitHook, Mark, StopWalk, Walk

__all__ = ["MultiExitModel", "Prediction", "StopWalk", "evaluating"]

_LOCK = threading.Lock()
#: For each module that was in training mode and is held in evaluation mode: by how many calls.
_HELD: dict[nn.Module, int] = {}


class MultiExitModel(PretrainedExits, nn.Module):
    """A backbone with exits.

    The parameters and the forward of the backbone are not changed. Exits read the outputs of its
    modules through forward hooks, which do nothing outside a call of this model. Several threads
    may call one model at the same time.

    Parameters
    ----------
    backbone : Module
        The network. Its output is taken as the logits ``[batch, classes]`` of the last exit: a
        Tensor, an object with ``.logits``, a mapping with ``"logits"``, or a tuple that begins with
        them. The batch is the first dimension of inputs and logits.
    exits : mapping of str to Module
        The head of each exit, by the name of the module it is attached to, as in
        ``backbone.named_modules()``. For a module that runs several times, add the number of the
        run: ``"layer@0"`` is its first. A head maps the output of that module, as it is, to logits;
        `attach` makes heads for outputs in any order of dimensions. List the
        exits in the order in which their modules run. Names do not change when the backbone or a
        module is wrapped by ``torch.compile``, DistributedDataParallel, FSDP or PEFT.
    output_head : Module, optional
        Maps the logits of the backbone to those of the last exit.
    mask : str, or mapping of str to str, optional
        Name of the argument of the backbone that tells real tokens ``[batch, tokens]`` from
        padding, which heads leave out; for all exits, or by name of the exit. Real tokens are 1 or
        True, as in transformers. In a mask with ``padding`` in its name, or ``~`` before it,
        padding is True or ``-inf``, as in torch. A mask that a call does not pass is not used. By
        default, exits in a decoder read ``decoder_attention_mask``, if there is one.

    Attributes
    ----------
    exit_names : tuple of str
        Names of the modules with an exit, in depth order.
    heads : ModuleList
        The head of each exit, in the same order.
    num_exits : int
        Number of exits, the backbone's own output included.
    policy : Policy or None
        The policy of `predict` where none is passed. Files of the model hold it.
    class_names : tuple of str or None
        Names of the classes, as many as there are, for files and cards of the model.

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

    #: On the class, for models that were pickled by an earlier version.
    policy: Policy | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(
        self,
        backbone: nn.Module,
        exits: Mapping[str, nn.Module],
        output_head: nn.Module | None = None,
        *,
        mask: str | Mapping[str, str | None] | None = "attention_mask",
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        if not isinstance(exits, Mapping):
            raise TypeError(
                f"exits must map names of modules to heads, got {type(exits).__name__}: pass "
                '{"layer1": head, ...}, or use MultiExitModel.attach to have heads made'
            )
        found = found_modules(backbone, list(exits))
        named = {f"exits[{name!r}]": head for name, head in exits.items()}
        for what, module in (*named.items(), ("output_head", output_head)):
            if not isinstance(module, nn.Module) and not (what == "output_head" and module is None):
                raise TypeError(f"{what} must be a torch.nn.Module, got {type(module).__name__}")
        self.backbone = backbone
        self.heads = nn.ModuleList(exits.values())
        self.output_head = output_head
        self.exit_names: tuple[str, ...] = tuple(exits)
        #: How the activation of each exit is brought into the order that its head expects.
        self.layouts: tuple[Layout | None, ...] = (None,) * len(exits)
        #: Names of the modules with an exit, with those of wrappers, and which run of them it is.
        self._places = {place: k for k, place in enumerate(found)}
        #: What has been found out about the batch, by structure of the inputs.
        self.plans: dict[Any, Plan] = {}
        self.signature = Signature.of(backbone)
        #: Name of the argument that tells real tokens from padding, for each exit.
        self.masks = checked_masks(mask, self.exit_names, self.signature)
        self._mark = Mark()
        self._watch()

    @property
    def num_exits(self) -> int:
        """Number of exits, the backbone's own output included."""
        return len(self.exit_names) + 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all exits in depth order: `exit_names`, followed by ``"output"``."""
        return (*self.exit_names, "output")

    @property
    def module_names(self) -> tuple[str, ...]:
        """Names of the modules of the exits, with those of wrappers and without runs."""
        return tuple(name for name, _ in self._places)

    @property
    def replays(self) -> bool | None:
        """Whether `predict` has to run the backbone again after an exit; None until it is known.

        With inputs of several structures, such as with and without a mask, whether it has to for
        any of them.
        """
        return any(plan.replays for plan in self.plans.values()) if self.plans else None

    @classmethod
    def attach(
        cls,
        backbone: nn.Module,
        at: Sequence[str],
        *,
        num_classes: int,
        example: Any,
        head: str | Callable[[Any, int], nn.Module] = "pooled",
        head_options: Mapping[str, Any] | None = None,
        channel_axis: int | Mapping[str, int] | None = None,
        mask: str | Mapping[str, str | None] | None = "attention_mask",
        output_head: nn.Module | None = None,
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
            A batch that the backbone accepts; a mapping is passed by keywords where the backbone's
            forward has those names. It is run a few times, in evaluation mode and without
            gradients.
        head : str or callable
            Either a name from `laplex.early_exit.heads.HEADS`, or a function that takes an
            activation, as the module returns it, and the number of classes and returns a module.
            The built-in names are ``"pooled"`` (a learned mix of maximum and average over
            positions, then a linear layer), ``"grid"`` (the same mix in each cell of a 4 x 4 grid,
            for feature maps), ``"linear"`` (the average, then a linear layer), ``"mlp"`` (the
            average, then a layer of hidden units), ``"conv"`` (a convolution, for feature maps),
            ``"token"`` and ``"last-token"`` (the first or last real token of
            ``[batch, tokens, dim]``) and ``"laplex"`` (the average, then `laplex.nn.LaplexHead`).
        head_options : mapping, optional
            More arguments of the class of the head.
        channel_axis : int, or mapping of str to int, optional
            Which dimension of the activations holds the channels, for all exits or by name of the
            exit. By default it is the one that does not grow with the inputs or, where that does
            not decide, the one that suits the layers of the backbone.
        mask : str, or mapping of str to str, optional
            As in the constructor. None makes heads count padding like real tokens.
        output_head : Module, optional
            As in the constructor.

        Returns
        -------
        MultiExitModel
            The model, on the device and in the precision of the backbone's first parameter.

        Raises
        ------
        ValueError
            As for the constructor; if the head does not fit the activation; or if it cannot be
            found out which dimension of an activation holds its channels or its batch.
        """
        if isinstance(at, str):
            raise TypeError(f"at must be a sequence of names, got {at!r}: pass [{at!r}]")
        names = list(at)
        if len(set(names)) < len(names):
            raise ValueError(f"at names a module twice: {names}: list each name once")
        model = cls(backbone, {name: nn.Identity() for name in names}, output_head, mask=mask)
        axes = checked_axes(channel_axis, names)
        with evaluating(model), torch.no_grad():
            seen, layouts, last = examined(
                model, example, num_classes, axes, as_it_is=callable(head)
            )
        made = [
            make_head(
                head,
                activation if layout is None else layout.arranged(activation),
                num_classes,
                where=name,
                options=head_options,
            )
            for name, activation, layout in zip(names, seen, layouts, strict=True)
        ]
        model.heads = nn.ModuleList(made)
        model.layouts = tuple(layouts)
        like_backbone(backbone, model.heads)
        with evaluating(model), torch.no_grad():
            reader = model.reader(example)
            read = [reader.logits(k, activation) for k, activation in enumerate(seen)]
            check_alike([*read, reader.output(last)], model.output_names)
        model.training = backbone.training
        return model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Compute the logits of every exit.

        Parameters
        ----------
        *args, **kwargs : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
            The arguments of the backbone. A single mapping whose keys are names of arguments of the
            backbone's forward, such as the output of a tokenizer, is passed by keywords, without
            its ``labels``.

        Returns
        -------
        tuple of Tensor [batch, classes]
            The logits in depth order; those of the backbone itself come last.
        """
        x = args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs)
        reader, logits = self.reader(x), []
        kept: list[Any] = []
        learns = torch.is_grad_enabled()

        def at_exit(k: int, activation: Any) -> Any:
            if not learns:
                logits.append(reader.logits(k, activation))
            else:
                # A copy, because the next module may write into the activation. Heads run after the
                # backbone: inside a checkpointed module, their gradients would be lost.
                kept.append(map_tensors(Tensor.clone, activation))
            return activation

        last = self.walk(x, at_exit)
        for activation in kept:
            logits.append(reader.logits(len(logits), activation))
        logits.append(reader.output(last))
        check_alike(logits, self.output_names)
        return tuple(logits)

    def run_backbone(self, x: Any) -> Any:
        """Run the backbone alone on the inputs that `walk` takes, and return its output.

        :meta private:
        """
        args, kwargs = self.signature.arguments(x)
        return self.backbone(*args, **kwargs)

    def reader(self, x: Any) -> Reader:
        """Start to read the heads on a batch; see `Reader`.

        :meta private:
        """
        masks: list[Tensor | None] = [None] * len(self.masks)
        if any(self.masks):
            named = self.signature.named(x)
            masks = [mask_of(named, name) for name in self.masks]
        return Reader(list(self.heads), self.layouts, self.output_head, masks, self.exit_names)

    def walk(
        self, x: Any, at_exit: AtExit, *, replica: Replica | None = None, start: int = 0
    ) -> Tensor:
        """Run the backbone and call a function at each exit but the last. No head is run.

        Parameters
        ----------
        x
            The inputs: a single argument of the backbone, a mapping of arguments, or `Inputs`.
        at_exit : callable
            ``at_exit(k, activation)`` receives the output of the module of exit ``k``, and returns
            the activation that the backbone continues with: the same one, or one with fewer rows.
            It may raise `StopWalk` to skip the rest of the backbone; `walk` lets that exception
            through.
        replica : Replica, optional
            What to run instead of the backbone.
        start : int
            Exits before this one are passed silently.

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
        if not torch.compiler.is_dynamo_compiling():
            self._watch()
        walk = Walk(self._mark, self._places, self.exit_names, at_exit, start)
        if replica is not None:
            replica.start(walk)
        backbone = self.backbone if replica is None else replica.backbone
        return as_logits(walk.run(backbone, *self.signature.arguments(x)), "the backbone")

    def predict(self, x: Any, policy: Policy | None = None) -> Prediction:
        """Predict with early exits: the layers after a sample's exit are not computed for it.

        The model runs in evaluation mode and without gradients. The mode of every module is
        restored afterwards.

        Parameters
        ----------
        x : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
            The inputs: the argument of the backbone; a mapping of several arguments by name, a
            tuple of several arguments that the backbone needs, or `Inputs`. The batch may have any
            size, including 1.
        policy : Policy, optional
            The exit policy, such as `MaxSoftmax`; see `laplex.early_exit.policies`. By default the
            attribute ``policy`` of the model.

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
        methods, by a trial on up to 8 of its samples, and again where inputs of another structure
        come or a batch cannot be continued; `replays` holds the outcome.

        Decisions equal those of ``policy.exit_index`` on the logits of all exits, sample by sample,
        up to the rounding by which convolutions and matrix products depend on the batch size.
        """
        policy = self.policy if policy is None else policy
        if not isinstance(policy, Policy):
            raise TypeError(
                f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
            )
        cuts = policy.cuts(self.num_exits)
        with evaluating(self), torch.no_grad():
            return RealExits(self, policy, cuts, x, batch_of(x, "x")).run(x)

    def _watch(self) -> None:
        """Put hooks on the modules of the exits, unless they are there.

        They are not after a module was replaced or wrapped.
        """

        def ours(hook: Any) -> bool:
            return isinstance(hook, ExitHook) and hook.mark is self._mark

        def hooked(name: str) -> bool:
            try:
                hooks = self.backbone.get_submodule(name)._forward_hooks
            except AttributeError:
                return False
            return any(map(ours, hooks.values()))

        if all(map(hooked, self.module_names)):
            return
        with _LOCK:
            if all(map(hooked, self.module_names)):
                return
            found = found_modules(self.backbone, self.exit_names)
            for module in self.backbone.modules():
                for key in [key for key, hook in module._forward_hooks.items() if ours(hook)]:
                    del module._forward_hooks[key]
            for name in dict.fromkeys(name for name, _ in found):
                module = self.backbone.get_submodule(name)
                handle = module.register_forward_hook(ExitHook(self._mark, name))
                weakref.finalize(self, handle.remove)
            self._places = {place: k for k, place in enumerate(found)}
            self.signature = Signature.of(self.backbone)
            self.plans = {}

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        return f"exits at {', '.join(self.exit_names)} and the end"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and restore the mode of every module afterwards.

    Several threads may be inside at the same time, also with models that share modules; the last
    one that needs a module restores its mode.
    """
    held = []
    with _LOCK:
        for module in model.modules():
            # Only the modules that change: setting an attribute of a module takes microseconds.
            if module.training or (_HELD and module in _HELD):
                _HELD[module] = _HELD.get(module, 0) + 1
                module.training = False
                held.append(module)
    try:
        yield
    finally:
        with _LOCK:
            for module in held:
                _HELD[module] -= 1
                if not _HELD[module]:
                    del _HELD[module]
                    module.training = True
