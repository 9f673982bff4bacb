"""What the layers share: a weight matrix that is a sum of scaled Laplace kernels, one per head."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from laplex import Plan
from laplex.functional import check_flag, check_tensor, matvec
from laplex.nn.anchors import InitialAnchors, validated
from laplex.nn.frobenius import frobenius_norms

#: Parameters that say where things are. They stay in float32 when the layer moves to a half
#: precision: anchors that round to one place are tied, and no gradient parts a tied pair again.
GEOMETRY = ("targets", "sources", "log_lengthscale", "target_phase", "source_phase")
_HALF = (torch.float16, torch.bfloat16)
_DOUBLE = (torch.float64, torch.complex128)


class KernelLayer(nn.Module):
    r"""Linear map :math:`y = W v + b` with :math:`W = \sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(s_h)`.

    .. math::
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - y_{hj}| / \ell_h} \cos(\theta_{hi} - \phi_{hj})

    The subclass says where the anchors start (`_draw_anchors`, `_initial_lengthscale`) and what
    :math:`s_h` is (`_source_factor`).

    Parameters are ``targets`` [heads, out], ``sources`` [heads, in], ``log_lengthscale`` [heads],
    ``target_phase`` [heads, out] and ``source_phase`` [heads, in] (None without phases),
    ``source_gain`` [heads, in] and ``bias`` [out] (or None).
    """

    targets: nn.Parameter
    sources: nn.Parameter
    log_lengthscale: nn.Parameter
    target_phase: nn.Parameter | None
    source_phase: nn.Parameter | None
    source_gain: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        num_sources: int,
        num_targets: int,
        *,
        heads: int,
        phased: bool,
        bias: bool,
        init: str,
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.phased = phased
        self.init: InitialAnchors = validated(init)
        check_flag("phased", phased)
        check_flag("bias", bias)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}: pass torch.float32")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating point type, got {dtype}")
        exact = torch.float32 if dtype in _HALF else dtype

        def parameter(*shape: int, dtype: torch.dtype = exact) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.targets = parameter(heads, num_targets)
        self.sources = parameter(heads, num_sources)
        self.log_lengthscale = parameter(heads)
        if phased:
            self.target_phase = parameter(heads, num_targets)
            self.source_phase = parameter(heads, num_sources)
        else:
            self.register_parameter("target_phase", None)
            self.register_parameter("source_phase", None)
        self.source_gain = parameter(heads, num_sources, dtype=dtype)
        if bias:
            self.bias = parameter(num_targets, dtype=dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    # ------------------------------------------------------------------------------ initial values

    def _draw_anchors(self) -> tuple[Tensor, Tensor]:
        """Draw targets [heads, n] and sources [heads, m], on the CPU."""
        raise NotImplementedError

    def _initial_lengthscale(self) -> float:
        """Return the initial lengthscale of every head."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial values from torch's global CPU generator, whatever the device.

        Outputs have mean zero and, averaged over outputs, unit variance when inputs are independent
        with unit variance: each head's Frobenius norm is set to sqrt(num_targets / heads), computed
        exactly in O(n log n). Random phases (without phases: random signs of the gains) make the
        heads uncorrelated, so that their variances add up.
        """
        targets, sources = self._draw_anchors()
        heads, num_targets = targets.shape
        num_sources = sources.shape[-1]
        self.targets.copy_(targets)
        self.sources.copy_(sources)
        self.log_lengthscale.fill_(math.log(self._initial_lengthscale()))
        gain = torch.ones(heads, num_sources, dtype=torch.float64, device="cpu")
        target_phase = source_phase = None
        if self.target_phase is not None and self.source_phase is not None:
            target_phase, source_phase = (
                math.pi * (2 * torch.rand(heads, count, dtype=torch.float64, device="cpu") - 1)
                for count in (num_targets, num_sources)
            )
            self.target_phase.copy_(target_phase)
            self.source_phase.copy_(source_phase)
        else:
            gain -= 2 * torch.randint(2, gain.shape, device="cpu")
        lengthscale = torch.full(
            (heads,), self._initial_lengthscale(), dtype=torch.float64, device="cpu"
        )
        norms = frobenius_norms(
            targets,
            sources,
            lengthscale,
            self._source_factor(gain, targets, sources, lengthscale),
            target_phase,
            source_phase,
        )
        self.source_gain.copy_(gain * (math.sqrt(num_targets / heads) / norms)[:, None])
        if self.bias is not None:
            self.bias.zero_()

    # ---------------------------------------------------------------------------------- the matrix

    @property
    def lengthscale(self) -> Tensor:
        """Lengthscale of each head, Tensor [heads]; positive, as the parameter is its logarithm."""
        return self.log_lengthscale.exp()

    def _anchors(self) -> tuple[Tensor, Tensor]:
        """Targets [heads, n] and sources [heads, m] as the kernel takes them."""
        return self.targets, self.sources

    def _source_factor(
        self, gain: Tensor, targets: Tensor, sources: Tensor, lengthscale: Tensor
    ) -> Tensor:
        """Factor s_h [heads, m] on the sources' values."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name for it)
        """Apply the layer: input [..., num_sources] -> [..., num_targets].

        One product with all heads at once, O(heads * (n + m)) for each row after one sort.

        Raises
        ------
        TypeError
            When `input` is no tensor, holds integers, or is float64 in a float32 layer.
        ValueError
            When the last dimension of `input` has the wrong size.
        """
        check_tensor("input", input)
        targets, sources = self._anchors()
        if input.dtype in _DOUBLE and targets.dtype not in _DOUBLE:
            raise TypeError(
                f"input has dtype {input.dtype} but the layer is {targets.dtype}: convert one, "
                "with input.float() or layer.double()"
            )
        if not (input.is_floating_point() or input.is_complex()):
            raise TypeError(
                f"input has dtype {input.dtype}: convert it with input.to({targets.dtype})"
            )
        if input.dim() == 0 or input.shape[-1] != sources.shape[-1]:
            raise ValueError(
                f"input must have {sources.shape[-1]} features in its last dimension, "
                f"got shape {tuple(input.shape)}"
            )
        lengthscale = self.lengthscale
        factor = self._source_factor(self.source_gain, targets, sources, lengthscale)
        output: Tensor = matvec(
            input.unsqueeze(-2) * factor,
            targets,
            sources,
            lengthscale=lengthscale,
            target_phase=self.target_phase,
            source_phase=self.source_phase,
            real_part=self.phased,
        ).sum(-2)
        dtype = torch.promote_types(input.dtype, self.source_gain.dtype)
        if dtype in _HALF:  # the head's factor, in float32 lest it overflow, has promoted it
            output = output.to(dtype)
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def weight(self) -> Tensor:
        """Dense view of the weight matrix, Tensor [num_targets, num_sources]; differentiable.

        Costs what the layer avoids, O(heads * num_targets * num_sources): for reading and tests.
        """
        targets, sources = self._anchors()
        lengthscale = self.lengthscale
        factor = self._source_factor(self.source_gain, targets, sources, lengthscale)
        total = targets.new_zeros(targets.shape[-1], sources.shape[-1])
        for head in range(self.heads):
            distance = (targets[head, :, None] - sources[head]).abs()
            kernel = torch.exp(-distance / lengthscale[head])
            if self.target_phase is not None and self.source_phase is not None:
                kernel = kernel * torch.cos(
                    self.target_phase[head, :, None] - self.source_phase[head]
                )
            total = total + kernel * factor[head]
        return total.to(self.source_gain.dtype)

    def head_norms(self) -> Tensor:
        """Frobenius norm of each head's part of the weight, Tensor [heads], in O(n log n)."""
        targets, sources = self._anchors()
        lengthscale = self.lengthscale
        factor = self._source_factor(self.source_gain, targets, sources, lengthscale)
        return frobenius_norms(
            targets, sources, lengthscale, factor, self.target_phase, self.source_phase
        )

    @torch.no_grad()
    def rank(self) -> list[int]:
        """Rank of each head's kernel before phases, in O(n log n).

        It counts disjoint neighbouring (target, source) pairs along the line. Phases turn each head
        into the real part of a complex matrix of that rank, a real matrix of at most twice it.
        """
        targets, sources = (anchors.cpu().numpy() for anchors in self._anchors())
        lengthscale = self.lengthscale.double().cpu().numpy()
        ranks = Plan(targets, sources, lengthscale=lengthscale).rank()
        return [int(rank) for rank in np.asarray(ranks).reshape(-1)]

    # ------------------------------------------------------------------------------- moves, display

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KernelLayer:
        exact = [getattr(self, name) for name in GEOMETRY if getattr(self, name) is not None]
        exact += [parameter.grad for parameter in exact if parameter.grad is not None]

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in _HALF and any(tensor is kept for kept in exact):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Text between the parentheses of ``repr``."""
        return (
            f"heads={self.heads}, phased={self.phased}, bias={self.bias is not None}, "
            f"init={self.init!r}"
        )


def count(name: str, value: int) -> int:
    """Return `value` as a positive int, or raise an error that names the argument."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
