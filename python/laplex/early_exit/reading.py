"""Read the logits of a batch at the exits, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .activations import main_tensor, rows_of

if TYPE_CHECKING:
    from .layouts import Layout
    from .signature import Signature


class Reader:
    """The heads of a model on one batch.

    Parameters
    ----------
    heads : sequence of Module
        The head of each exit.
    layouts : sequence of Layout or None
        How the activation of each exit is brought into the order that heads expect; None if its
        head takes it as it is.
    output_head : Module or None
        Maps the logits of the backbone to those of the last exit.
    masks : sequence of Tensor [batch, tokens] of bool, or None
        Which tokens are real, for each exit.
    names : sequence of str
        Name of each exit, for messages.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        layouts: Sequence[Layout | None],
        output_head: nn.Module | None,
        masks: Sequence[Tensor | None],
        names: Sequence[str],
    ) -> None:
        self.heads, self.layouts, self.output_head = heads, layouts, output_head
        self.masks, self.names = list(masks), names
        self.carried: Any = None

    def logits(self, k: int, activation: Any) -> Tensor:
        """The logits [batch, classes] of exit `k` from the output of its module."""
        head, layout = self.heads[k], self.layouts[k]
        if layout is not None:
            activation = layout.arranged(activation)
        named = {}
        if getattr(head, "reads_mask", False):
            named["mask"] = fitting(self.masks[k], activation, self.names[k])
        return self._read(head, activation, f"the head of exit {self.names[k]!r}", **named)

    def output(self, last: Tensor) -> Tensor:
        """The logits [batch, classes] of the last exit from those of the backbone."""
        if self.output_head is None:
            return last
        return self._read(self.output_head, last, "output_head")

    def keep(self, stays: Tensor) -> None:
        """Go on with some samples of the batch, a Tensor [batch] of bool."""
        self.masks, self.carried = rows_of((self.masks, self.carried), stays, len(stays))

    def _read(self, head: nn.Module, value: Any, whose: str, **named: Any) -> Tensor:
        if not getattr(head, "carries", False):
            return as_logits(head(value, **named), whose)
        logits, self.carried = head(value, self.carried, **named)
        return as_logits(logits, whose)


def fitting(mask: Tensor | None, activation: Any, name: str) -> Tensor | None:
    """The mask for a head, if its activation has tokens.

    Raises
    ------
    ValueError
        If the activation has another number of tokens.
    """
    value = main_tensor(activation)
    if mask is None or value.ndim != 3:
        return None
    if mask.shape[1] != value.shape[1]:
        raise ValueError(
            f"the mask of the inputs has {mask.shape[1]} tokens, but the activation of exit "
            f"{name!r} has {value.shape[1]}: pass mask={{{name!r}: None}} for a head that counts "
            "all of them, or the name of another mask"
        )
    return mask


def mask_of(inputs: Mapping[str, Any], name: str | None) -> Tensor | None:
    """The real tokens [batch, tokens] as bool, from the input of a name; None if it is not given.

    A name with ``padding`` in it, or ``~`` before it, is that of a mask in the manner of torch,
    where padding is True or ``-inf``; otherwise real tokens are 1, as in transformers. Masks of
    other shapes, such as causal ones, say nothing about padding.
    """
    mask = inputs.get(name.removeprefix("~")) if name is not None else None
    if name is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    return mask == 0 if "padding" in name or name.startswith("~") else mask != 0


def checked_masks(mask: Any, exits: Sequence[str], signature: Signature) -> list[str | None]:
    """The name of the mask for each exit, from the argument ``mask``.

    Raises
    ------
    TypeError, ValueError
        If it is not a name or a mapping of exits to names, or the backbone has no such argument.
    """
    usual = "attention_mask"
    found: dict[str, Any] = dict.fromkeys(exits, mask)
    if isinstance(mask, Mapping):
        for name in mask:
            if name not in exits:
                raise ValueError(
                    f"mask names {name!r}, which is not an exit: name some of "
                    f"{', '.join(map(repr, exits))}"
                )
        found.update({name: mask.get(name, usual) for name in exits})
    for name, one in found.items():
        if one is not None and not isinstance(one, str):
            raise TypeError(
                "mask must be the name of an argument of the backbone, or such names by exit, got "
                f"{type(one).__name__}"
            )
        known = one is None or signature.any_name or one.removeprefix("~") in signature.names
        if not known and one != usual:
            raise ValueError(
                f"mask is {one!r}, but the backbone's forward takes "
                f"{', '.join(signature.names) or 'no arguments by name'}: name one of these"
            )
        decodes = f"decoder_{usual}" in signature.names and "decoder" in name.split(".")
        if mask == usual and decodes:
            found[name] = f"decoder_{usual}"
    return [found[name] for name in exits]


def check_alike(logits: Sequence[Tensor | None], names: Iterable[Any]) -> None:
    """Check that the logits of all exits have the shape of the last one's; None is left out.

    Losses would broadcast other shapes, and a policy cannot choose between other classes.

    Raises
    ------
    ValueError
        If they do not.
    """
    last = logits[-1]
    assert last is not None
    for name, one in zip(names, logits, strict=True):
        if one is not None and one.shape != last.shape:
            raise ValueError(
                f"exit {name!r} gives logits {list(one.shape)}, but the backbone "
                f"{list(last.shape)}: pass a head that gives logits of this shape"
            )


def as_logits(output: Any, whose: str) -> Tensor:
    """The logits in the output of a head or of a backbone, checked.

    They are the output itself, its ``logits``, the entry ``"logits"`` or ``"out"`` of a mapping, or
    the first entry of a tuple.

    Raises
    ------
    ValueError
        If they are not a Tensor of at least two dimensions.
    """
    logits = getattr(output, "logits", output)
    if isinstance(logits, Mapping):
        logits = logits.get("logits", logits.get("out", logits))
    elif isinstance(logits, tuple) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{whose} must give logits [batch, classes], got {got}")
    return logits
