"""The configuration of adapters made of Laplace kernels."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from laplex._support.arguments import integer, share
from laplex._support.profiles import profile_of
from laplex._support.sides import side_number


class LaplexType(str, enum.Enum):
    """The name of the method in PEFT's registry, whose own names are an enumeration too."""

    LAPLEX = "LAPLEX"


@dataclass
class LaplexConfig(PeftConfig):
    r"""The configuration of adapters whose update is a sum of Laplace kernels.

    .. math::
        \Delta W = s\,a \sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(g_h), \qquad
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - y_{hj}|/\ell_h} \cos(\theta_{hi} - \phi_{hj})

    Each head :math:`h` has its own anchors :math:`x_h, y_h`, lengthscale, phases and gains
    :math:`g_h`, with the initial values of a `laplex.nn.LaplexLinear`. The amplitude :math:`a`
    starts at zero, so that the adapted model starts as the model itself. An adapter of a weight
    ``[n, m]`` has ``2 n + 3 m + 1`` parameters a head, or ``n + 2 m + 1`` without phases, and the
    amplitude. One of LoRA has ``n + m`` a rank.

    Importing `laplex.peft` registers it with PEFT, so that ``get_peft_model`` takes it like
    PEFT's own.

    Parameters
    ----------
    task_type, peft_type, auto_mapping, peft_version, base_model_name_or_path, revision : optional
        As in ``peft.PeftConfig``. Only the first is of use to users: ``"SEQ_CLS"``, for example,
        adds the classifier to the modules to save.
    inference_mode : bool
        Freeze the adapter, as PEFT does when it loads one.
    heads : int
        The number of kernels in the sum.
    phased : bool
        Use carrier phases :math:`\theta, \phi`, as in `laplex.nn.LaplexLinear`.
    kernel, side, init : str
        The shape of the kernels, the inputs that count for each output, and how the initial anchors
        are chosen, as in `laplex.nn.LaplexLinear`.
    scaling : float
        The constant :math:`s`. At first only the amplitude has a gradient, and a step of Adam moves
        it by the learning rate: with the rates that are usual for LoRA, 1e-4 to 1e-3, use 10 or
        more; with 1e-2 to 3e-2, use 1.
    dropout : float
        The probability with which an input feature of the update is dropped during training.
    target_modules, exclude_modules : str or list of str, optional
        The names of the modules to adapt, a regular expression, or ``"all-linear"``; and those to
        leave out. Modules can be ``nn.Linear``, the ``Conv1D`` of transformers (GPT-2) and
        ``nn.Conv2d`` with kernels of one pixel. For models of transformers that PEFT knows, the
        default is that of LoRA.
    heads_pattern : dict, optional
        Other numbers of heads for some modules: ``{"layers.0.query": 4}``.
    bias : {"none", "all", "laplex_only"}
        The biases of the model to train: none, all, or those of the adapted modules.
    modules_to_save : list of str, optional
        Other modules to train and save, such as a new classifier.
    layers_to_transform : int or list of int, optional
        The indices of the layers to adapt.
    layers_pattern : str or list of str, optional
        The name of the list of layers, if it is not a usual one.

    Raises
    ------
    TypeError
        If ``heads`` is not an integer, ``phased`` is not a bool, or a number is none.
    ValueError
        If ``heads`` is below 1, ``scaling`` is not finite or zero, ``dropout`` is not in [0, 1),
        or ``kernel``, ``side``, ``init`` or ``bias`` is unknown.

    Examples
    --------
    >>> import peft, torch
    >>> from laplex.peft import LaplexConfig
    >>> network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
    >>> model = peft.get_peft_model(network, LaplexConfig(heads=2, target_modules=["0"]))
    >>> model.print_trainable_parameters()
    trainable params: 515 || all params: 2,595 || trainable%: 19.8459
    """

    heads: int = field(default=1, metadata={"help": "The number of kernels in the sum."})
    phased: bool = field(default=True, metadata={"help": "Use carrier phases."})
    kernel: str = field(default="matern12", metadata={"help": "The shape of the kernels."})
    side: str = field(default="both", metadata={"help": "The inputs that count for each output."})
    init: str = field(default="interlaced", metadata={"help": "How initial anchors are chosen."})
    scaling: float = field(default=1.0, metadata={"help": "A constant factor of the update."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the update's input."})
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": 'The modules to adapt; "all-linear" takes all.'}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "The modules to leave out."}
    )
    heads_pattern: dict[str, int] | None = field(
        default_factory=dict, metadata={"help": "Other numbers of heads for some modules."}
    )
    bias: str = field(default="none", metadata={"help": 'Biases: "none", "all", "laplex_only".'})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train and save."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "The indices of the layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "The name of the list of layers."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type: Any = LaplexType.LAPLEX
        if not isinstance(self.heads_pattern, (dict, type(None))):
            raise TypeError(f"heads_pattern must be a dict, got {self.heads_pattern!r}")
        for name, heads in {"heads": self.heads, **(self.heads_pattern or {})}.items():
            integer(name if name == "heads" else f"heads_pattern[{name!r}]", heads)
        if not isinstance(self.phased, bool):
            raise TypeError(f"phased must be True or False, got {self.phased!r}")
        profile_of(self.kernel)
        side_number(self.side)
        _one_of("init", self.init, ("interlaced", "random"))
        _one_of("bias", self.bias, ("none", "all", "laplex_only"))
        if share("dropout", self.dropout) == 1:
            raise ValueError("dropout must be below 1, at which nothing is left to train")
        if not math.isfinite(_number("scaling", self.scaling)) or self.scaling == 0:
            raise ValueError(f"scaling must be finite and not 0, got {self.scaling}")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), (list, tuple)):  # PEFT compares sets
                setattr(self, name, set(getattr(self, name)))
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} cannot be used if target_modules is a string: write the layers "
                        "into a regular expression, or pass a list of names"
                    )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern needs layers_to_transform: pass the indices of layers")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)
