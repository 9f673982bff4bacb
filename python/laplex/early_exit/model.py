"""A network with several outputs: exits are attached to any module, and samples leave at them."""

from __future__ import annotations

import inspect
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .activations import Inputs, batch_of, main_tensor, map_tensors, rows_of
from .heads.base import make_head
from .layouts import Layout, Witness, channel_axis_of, checked_axes, twice_as_large
from .policies.base import Policy
from .probing import Plan, axes_of
from .reading import Reader, as_logits, check_alike, fitting, mask_of
from .real_exits import Prediction, RealExits
from .replaying import UNKNOWN, Replica
from .walking import AtExit, ExitHook, Mark, StopWalk, Walk

__all__ = ["MultiExitModel", "Prediction", "StopWalk", "evaluating"]

#: Number of threads that are evaluating a model, and the modules that were in training mode.
_MODES: weakref.WeakKeyDictionary[nn.Module, list[Any]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()

#: What wrappers put into the names of modules: torch.compile, FSDP, activation checkpointing.
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


class MultiExitModel(nn.Module):
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
        run: ``"layer@0"`` is its first. A head maps the output of that module to logits. List the
        exits in the order in which their modules run. Names do not change when the backbone or a
        module is wrapped by ``torch.compile``, DistributedDataParallel, FSDP or PEFT.
    output_head : Module, optional
        Maps the logits of the backbone to those of the last exit.
    mask : str, optional
        Name of the argument of the backbone that tells real tokens ``[batch, tokens]`` from
        padding, which heads leave out. A name with ``padding`` in it is a mask in which padding is
        True or ``-inf``, as in torch; otherwise real tokens are 1, as in transformers. It is not
        used if the backbone has no such argument or a call does not pass it.

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
        *,
        mask: str | None = "attention_mask",
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        if not isinstance(exits, Mapping):
            raise TypeError(
                f"exits must map names of modules to heads, got {type(exits).__name__}: pass "
                '{"layer1": head, ...}, or use MultiExitModel.attach to have heads made'
            )
        found = _found(backbone, list(exits))
        named = {f"exits[{name!r}]": head for name, head in exits.items()}
        for what, module in (*named.items(), ("output_head", output_head)):
            if not isinstance(module, nn.Module) and not (what == "output_head" and module is None):
                raise TypeError(f"{what} must be a torch.nn.Module, got {type(module).__name__}")
        if mask is not None and not isinstance(mask, str):
            raise TypeError(
                f"mask must be the name of an argument of the backbone, got {type(mask).__name__}"
            )
        self.backbone = backbone
        self.heads = nn.ModuleList(exits.values())
        self.output_head = output_head
        self.exit_names: tuple[str, ...] = tuple(exits)
        self.mask = mask
        #: How the activation of each exit is brought into the order that its head expects.
        self.layouts: tuple[Layout | None, ...] = (None,) * len(exits)
        #: Names of the modules with an exit, with those of wrappers, and which run of them it is.
        self._places = {place: k for k, place in enumerate(found)}
        #: What has been found out about the batch, by structure of the inputs.
        self.plans: dict[Any, Plan] = {}
        self._signature = _Signature.of(backbone)
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
        mask: str | None = "attention_mask",
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
            exit. By default it is found out from the layers of the backbone.
        mask : str, optional
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
            seen, layouts = _examined(model, example, num_classes, axes, callable(head))
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
        real = mask_of(model._signature.named(example), mask)
        for name, activation, one, layout in zip(names, seen, made, layouts, strict=True):
            if layout is not None and getattr(one, "reads_mask", False):
                fitting(real, layout.arranged(activation), name)
        first = next(iter(backbone.parameters()), None)
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
        args, kwargs = self._signature.arguments(x)
        return self.backbone(*args, **kwargs)

    def reader(self, x: Any) -> Reader:
        """Start to read the heads on a batch; see `Reader`.

        :meta private:
        """
        real = mask_of(self._signature.named(x), self.mask) if self.mask is not None else None
        return Reader(list(self.heads), self.layouts, self.output_head, real, self.exit_names)

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
        return as_logits(walk.run(backbone, *self._signature.arguments(x)), "the backbone")

    def predict(self, x: Any, policy: Policy) -> Prediction:
        """Predict with early exits: the layers after a sample's exit are not computed for it.

        The model runs in evaluation mode and without gradients. The mode of every module is
        restored afterwards.

        Parameters
        ----------
        x : Tensor [batch, ...], or nested lists, tuples and dicts of Tensors
            The inputs: the argument of the backbone, or a mapping of several arguments by name. The
            batch may have any size, including 1.
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
        methods, by a trial on up to 8 of its samples, and again where inputs of another structure
        come or a batch cannot be continued; `replays` holds the outcome.

        Decisions equal those of ``policy.exit_index`` on the logits of all exits, sample by sample,
        up to the rounding by which convolutions and matrix products depend on the batch size.
        """
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
            found = _found(self.backbone, self.exit_names)
            for module in self.backbone.modules():
                for key in [key for key, hook in module._forward_hooks.items() if ours(hook)]:
                    del module._forward_hooks[key]
            for name in dict.fromkeys(name for name, _ in found):
                module = self.backbone.get_submodule(name)
                handle = module.register_forward_hook(ExitHook(self._mark, name))
                weakref.finalize(self, handle.remove)
            self._places = {place: k for k, place in enumerate(found)}
            self._signature = _Signature.of(self.backbone)
            self.plans = {}

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        return f"exits at {', '.join(self.exit_names)} and the end"


class _Signature:
    """How a backbone takes its arguments.

    Parameters
    ----------
    names : tuple of str
        Names of the arguments.
    any_name : bool
        Whether it takes keywords of other names.
    cached : bool
        Whether it would return a cache of keys and values, which nobody needs here and which fewer
        samples do not fit.
    """

    def __init__(self, names: tuple[str, ...], any_name: bool, cached: bool) -> None:
        self.names, self.any_name, self.cached = names, any_name, cached

    @classmethod
    def of(cls, backbone: nn.Module) -> _Signature:
        inner = backbone
        while True:
            peft = getattr(inner, "get_base_model", None)
            wrapped = getattr(inner, "_orig_mod", None)
            if isinstance(inner, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
                wrapped = inner.module
            if callable(peft):
                wrapped = peft()
            if not isinstance(wrapped, nn.Module) or wrapped is inner:
                break
            inner = wrapped
        try:
            parameters = inspect.signature(inner.forward).parameters.values()
        except (TypeError, ValueError):  # a ScriptModule
            return cls((), False, False)
        kinds = inspect.Parameter
        names = tuple(
            one.name
            for one in parameters
            if one.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD, kinds.POSITIONAL_ONLY)
        )
        any_name = any(one.kind is kinds.VAR_KEYWORD for one in parameters)
        config = getattr(inner, "config", None)
        cached = "use_cache" in names or (any_name and bool(getattr(config, "use_cache", False)))
        return cls(names, any_name, cached)

    def arguments(self, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments of a call."""
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        if isinstance(x, Inputs):
            args, kwargs = x
        elif isinstance(x, Mapping) and self._takes(x):
            args, kwargs = (), {key: one for key, one in x.items() if key not in _LABELS}
        else:
            args, kwargs = (x,), {}
        if self.cached and "use_cache" not in kwargs:
            kwargs = {**kwargs, "use_cache": False}
        return args, kwargs

    def named(self, x: Any) -> dict[str, Any]:
        """Arguments of a call by name."""
        args, kwargs = self.arguments(x)
        return {**dict(zip(self.names, args, strict=False)), **kwargs}

    def _takes(self, x: Mapping[Any, Any]) -> bool:
        """Whether a mapping holds arguments by name, rather than being the argument."""
        keys = [key for key in x if key not in _LABELS]
        known = [key for key in keys if key in self.names]
        if not known and (self.names or not self.any_name):
            return False
        if not self.any_name and len(known) < len(keys):
            other = next(key for key in keys if key not in self.names)
            raise ValueError(
                f"x has {other!r}, which the backbone's forward does not take (it takes "
                f"{', '.join(self.names)}): remove it"
            )
        return True


#: Keys of a mapping that are for the loss.
_LABELS = ("labels", "label")


def _examined(
    model: MultiExitModel,
    example: Any,
    num_classes: int,
    axes: Mapping[str, int],
    as_it_is: bool,
) -> tuple[list[Any], list[Layout | None]]:
    """The activations of an example, and their layouts unless heads take them as they are."""
    witness = Witness(model.backbone)
    seen: list[Any] = []
    evidence = []

    def look(k: int, activation: Any) -> Any:
        seen.append(activation)
        evidence.append(witness.evidence(model.backbone.get_submodule(model.module_names[k])))
        return activation

    with witness.watching():
        last = model.walk(example, look)
    batch = batch_of(example, "example")
    _check_example(last, num_classes, batch)
    if as_it_is:
        return seen, [None] * len(seen)

    def shapes(x: Any) -> list[torch.Size]:
        found: list[torch.Size] = []

        def note(k: int, activation: Any) -> Any:
            found.append(main_tensor(activation).shape)
            return activation

        model.walk(x, note)
        return found

    def larger() -> list[torch.Size] | None:
        for tokens in (False, True):
            grown = twice_as_large(example, tokens)
            if grown is not None:
                try:
                    return shapes(grown)
                except (RuntimeError, ValueError, IndexError, AssertionError):
                    pass  # the backbone is for one size
        return None

    now = [main_tensor(one).shape for one in seen]
    other = batch + 1 if batch < 3 else batch - 1
    rows = torch.arange(other) % max(batch, 1)
    then = shapes(rows_of(example, rows, batch))
    layouts: list[Layout | None] = []
    growth: list[Any] = []

    def grown(k: int) -> torch.Size | None:
        if not growth:
            growth.append(larger())
        return None if growth[0] is None else growth[0][k]

    for k, name in enumerate(model.exit_names):
        (batch_axis,) = axes_of([now[k]], [then[k]], batch, other)
        if batch_axis is None or batch_axis == UNKNOWN:
            raise ValueError(
                f"the activation of exit {name!r} is {list(now[k])} for {batch} samples and "
                f"{list(then[k])} for {other}, so no dimension of it is the batch: attach at "
                "another module, or give the exit a head of your own"
            )
        if name in axes:
            channels = _axis(axes[name], now[k], batch_axis, name)
        else:
            module = model.backbone.get_submodule(model.module_names[k])
            channels = channel_axis_of(
                now[k],
                batch_axis,
                evidence[k],
                declared=_declared(module) or _declared(model.backbone),
                grown=lambda k=k: grown(k),  # type: ignore[misc]
                where=name,
            )
        layouts.append(Layout(channels, batch_axis))
    return seen, layouts


def _declared(module: nn.Module) -> str | None:
    """The layout of its activations that a model of timm declares, such as ``"NHWC"``."""
    found = getattr(module, "output_fmt", None)
    return str(getattr(found, "value", found)) if found is not None else None


def _axis(axis: int, shape: Sequence[int], batch_axis: int, name: str) -> int:
    found = axis + len(shape) if axis < 0 else axis
    if not 0 <= found < len(shape) or found == batch_axis:
        raise ValueError(
            f"channel_axis is {axis} for exit {name!r}, whose activation is {list(shape)} with the "
            f"batch as dimension {batch_axis}: pass the number of another dimension"
        )
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and restore the mode of every module afterwards.

    Several threads may be inside at the same time; the last one restores the modes.
    """
    with _LOCK:
        state = _MODES.get(model)
        if state is None:
            # Only the modules that change: setting an attribute of a module takes microseconds.
            state = _MODES[model] = [0, [one for one in model.modules() if one.training]]
            for module in state[1]:
                module.training = False
        state[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            state[0] -= 1
            if not state[0]:
                del _MODES[model]
                for module in state[1]:
                    module.training = True


def _check_example(logits: Tensor, num_classes: int, batch: int) -> None:
    if logits.shape[-1] != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the backbone has {logits.shape[-1]} classes: "
            f"replace its last layer, or pass num_classes={logits.shape[-1]}"
        )
    if len(logits) != batch:
        raise ValueError(
            f"the backbone gives {len(logits)} rows of logits for {batch} samples: the batch must "
            "be the first dimension of its inputs and outputs"
        )


def _found(backbone: nn.Module, names: Sequence[str]) -> list[tuple[str, int]]:
    """The module of each exit, by its name with those of wrappers, and the number of its run."""
    known: dict[str, str] = {}
    for name, _ in backbone.named_modules():
        plain = _WRAPPED.sub("", name).removeprefix(".")
        if isinstance(backbone, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            plain = re.sub(r"^module(\.|$)", "", plain)
        if callable(getattr(backbone, "get_base_model", None)):  # PEFT
            plain = re.sub(r"^base_model(\.model)?(\.|$)", "", plain)
        for one in (plain, name):
            if one:
                known.setdefault(one, name)
    if not names:
        raise ValueError(
            f"exits is empty: name modules of the backbone, such as {', '.join(list(known)[:5])}"
        )
    found = []
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of exits must be str, got {name!r}")
        module, at, run = name.rpartition("@")
        if not (at and run.isdigit()):
            module, run = name, "0"
        if module not in known:
            near = [one for one in known if module and (module in one or one in module)]
            listed = ", ".join((near or list(known))[:8])
            listed += ", ..." if len(near or known) > 8 else ""
            raise ValueError(
                f"exit {name!r} is not a module of the backbone: it has {listed}"
                if known
                else f"exit {name!r} is not a module of the backbone, which has no modules"
            )
        found.append((known[module], int(run)))
    return found
