"""The base class of the layers: its weight is a sum of scaled Laplace kernels, one per head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from laplex._support.arguments import integer, one_of
from laplex._support.profiles import profile_of
from laplex._support.progress import progress_bar
from laplex._support.sides import side_number
from laplex.nn.anchors import InitialAnchors, initial_anchors
from laplex.nn.frobenius import frobenius_norms
from laplex.nn.kernel_product import column_sums, cosines, kernel_product, shared_out
from laplex.nn.kernel_shape import KernelShape
from laplex.nn.least_squares import nearest_kernels
from laplex.nn.pretrained import PretrainedLayer
from laplex.numpy.checks import MAX_DENSE_ENTRIES
from laplex.torch.call import check_flag
from laplex.torch.sharded import fill, whole

from ..numpy.plan import Plan

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

# torch.fx must record each of these as one node: if it traced through them, their checks would get
# proxies instead of tensors. torch.fx looks names up in the caller, so they are wrapped here.
torch.fx.wrap("kernel_product")
torch.fx.wrap("shared_out")

#: Parameters that describe the geometry. They stay float32 when the layer moves to half precision:
#: anchors that round to one place are tied, and no gradient can separate a tied pair again.
GEOMETRY = ("targets", "sources", "log_lengthscale", "target_phase", "source_phase")
_HALF = (torch.float16, torch.bfloat16)


class Kernels(NamedTuple):
    """What a layer's weight is made of, as whole tensors."""

    targets: Tensor
    sources: Tensor
    gain: Tensor
    log_lengthscale: Tensor
    target_phase: Tensor | None
    source_phase: Tensor | None


class KernelLayer(PretrainedLayer, nn.Module):
    r"""A linear map with the weight :math:`W = \sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(s_h)`.

    .. math::
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - y_{hj}| / \ell_h} \cos(\theta_{hi} - \phi_{hj})

    A subclass decides where the anchors start (``_targets_at_ends``, ``_initial_lengthscale``) and
    whether :math:`s_h` is the gains themselves or the gains distributed over the targets
    (``_shares_out``).

    The parameters are ``targets [heads, out]``, ``sources [heads, in]``,
    ``log_lengthscale [heads]``, ``target_phase [heads, out]`` and ``source_phase [heads, in]``
    (None without phases), ``source_gain [heads, in]`` and ``bias [out]`` (or None).
    """

    targets: nn.Parameter
    sources: nn.Parameter
    log_lengthscale: nn.Parameter
    target_phase: nn.Parameter | None
    source_phase: nn.Parameter | None
    source_gain: nn.Parameter
    bias: nn.Parameter | None

    #: The relative error of the weight if `from_linear` made the layer, otherwise None.
    fit_error: float | None = None

    #: Which kernel the heads have.
    _shape: KernelShape = KernelShape()

    #: Whether a gain is divided by its column's sum, which distributes it over the targets.
    _shares_out: ClassVar[bool] = False

    #: Whether all sources start between the outermost targets, if there are fewer targets.
    _targets_at_ends: ClassVar[bool] = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        heads: int = 1,
        phased: bool = True,
        init: str = "interlaced",
        kernel: str = "matern12",
        side: str = "both",
    ) -> None:
        super().__init__()
        profile_of(kernel)
        side_number(side)
        self._shape = KernelShape(kernel, side)
        self.in_features = in_features = integer("in_features", in_features)
        self.out_features = out_features = integer("out_features", out_features)
        self.heads = heads = integer("heads", heads)
        self.phased = phased
        self.init: InitialAnchors = one_of("init", init, InitialAnchors)
        check_flag("phased", phased)
        check_flag("bias", bias)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}: pass torch.float32")
        if dtype not in (*_HALF, torch.float32, torch.float64):
            raise ValueError(
                f"dtype must be torch.float64, float32, float16 or bfloat16, got {dtype}"
            )
        exact = torch.float32 if dtype in _HALF else dtype

        def parameter(*shape: int, dtype: torch.dtype = exact) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.targets = parameter(heads, out_features)
        self.sources = parameter(heads, in_features)
        self.log_lengthscale = parameter(heads)
        if phased:
            self.target_phase = parameter(heads, out_features)
            self.source_phase = parameter(heads, in_features)
        else:
            self.register_parameter("target_phase", None)
            self.register_parameter("source_phase", None)
        self.source_gain = parameter(heads, in_features, dtype=dtype)
        if bias:
            self.bias = parameter(out_features, dtype=dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    # ------------------------------------------------------------------------------ initial values

    def _initial_lengthscale(self) -> float:
        """Return the initial lengthscale of every head."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial values from torch's global CPU generator, whatever the device.

        Ranks that share the parameters, as under FSDP, call this together and get the values that
        the first of them draws: those of one process with its seed.

        For independent inputs of unit variance, the outputs have mean zero and, on average over the
        outputs, unit variance. To achieve this, each head's Frobenius norm is computed exactly, in
        O(n log n), and set to sqrt(num_targets / heads). Random phases (without phases: random
        signs of the gains) make the heads uncorrelated, so that their variances add up.
        """
        if self.targets.is_meta:
            return  # nothing can be set there
        heads, num_targets, num_sources = self.heads, self.out_features, self.in_features
        targets, sources = initial_anchors(
            self.init, heads, num_targets, num_sources, targets_at_ends=self._targets_at_ends
        )
        fill(self.targets, targets)
        fill(self.sources, sources)
        self.log_lengthscale.fill_(math.log(self._initial_lengthscale()))
        gain = torch.ones(heads, num_sources, dtype=torch.float64, device="cpu")
        target_phase = source_phase = None
        if self.target_phase is not None and self.source_phase is not None:
            target_phase, source_phase = (
                math.pi * (2 * torch.rand(heads, count, dtype=torch.float64, device="cpu") - 1)
                for count in (num_targets, num_sources)
            )
            fill(self.target_phase, target_phase)
            fill(self.source_phase, source_phase)
        else:
            gain -= 2 * torch.randint(2, gain.shape, device="cpu")
        lengthscale = torch.full(
            (heads,), self._initial_lengthscale(), dtype=torch.float64, device="cpu"
        )
        factor = gain
        if self._shares_out:
            factor = shared_out(gain, column_sums(targets, sources, lengthscale))
        norms = frobenius_norms(
            targets, sources, lengthscale, factor, target_phase, source_phase, self._shape
        )
        norms = norms.where(norms > 0, 1.0)  # one-sided, with no source on that side of a target
        fill(self.source_gain, gain * (math.sqrt(num_targets / heads) / norms)[:, None])
        if self.bias is not None:
            self.bias.zero_()

    # ---------------------------------------------------------------------------------- the matrix

    @property
    def lengthscale(self) -> Tensor:
        """The lengthscales ``[heads]``; they are positive, as the parameter is their logarithm."""
        return self.log_lengthscale.exp()

    def _anchors(self, targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Return the targets ``[heads, n]`` and sources ``[heads, m]`` of the kernel."""
        return targets, sources

    def _whole(self) -> Kernels:
        """Gather the parameters of the weight where ranks share them, which is collective."""
        theta, phi = self.target_phase, self.source_phase
        return Kernels(
            *self._anchors(whole(self.targets), whole(self.sources)),
            whole(self.source_gain),
            whole(self.log_lengthscale),
            None if theta is None else whole(theta),
            None if phi is None else whole(phi),
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name for it)
        """Apply the layer, in one product with all heads.

        It takes O(heads * (in_features + out_features)) time per row after one sort. A sparse input
        with e entries per row takes O(heads * (e log e + out_features)): a row is multiplied by the
        sources that it names alone, which is exact, as all other inputs are zero.

        Parameters
        ----------
        input : Tensor ``[..., in_features]``
            The features, in a floating-point or complex dtype; or a sparse matrix
            ``[rows, in_features]`` in COO or CSR layout, which is differentiable, too, at the
            stored entries. Gradients by the parameters are dense.

        Returns
        -------
        Tensor ``[..., out_features]``

        Raises
        ------
        TypeError
            If ``input`` is not a tensor, holds integers, is float64 in a float32 layer, or has
            another sparse layout.
        ValueError
            If the last dimension of ``input`` has the wrong size, or a sparse input is no matrix.
        NotImplementedError
            If ``input`` is sparse and the layer's parameters are spread over processes.
        """
        if _on_the_way_to_onnx():  # which has matrices but no sorted products
            return nn.functional.linear(input, self.weight, self.bias)
        targets, sources = self._anchors(self.targets, self.sources)
        return kernel_product(
            input,
            targets,
            sources,
            self.lengthscale,
            self.source_gain,
            self.target_phase,
            self.source_phase,
            self.bias,
            self._shares_out,
            self._shape,
        )

    @property
    def weight(self) -> Tensor:
        """The dense weight ``[out_features, in_features]`` in the gains' dtype, differentiable.

        It exists for code that reads the ``weight`` of an ``nn.Linear``, as
        ``nn.MultiheadAttention`` does with its ``out_proj``. Every access computes it again, in
        O(heads * out_features * in_features) time and, with a graph, memory, which calling the
        layer avoids. Writing into it, as ``nn.init`` does, changes a copy and leaves the layer
        unchanged.

        Raises
        ------
        MemoryError
            If it would have more than ``laplex.numpy.checks.MAX_DENSE_ENTRIES`` entries.
        AttributeError
            If it is set, tied, pruned or made a parameter, because it is computed from the anchors.
        """
        try:
            return self._dense_weight(self.targets.dtype).to(self.source_gain.dtype)
        except AttributeError as error:
            # Otherwise nn.Module would look for a parameter and report that there is no "weight".
            raise RuntimeError(f"the dense weight cannot be computed: {error}") from error

    @weight.setter
    def weight(self, value: object) -> None:
        self._refuse_weight()

    def _refuse_weight(self) -> NoReturn:
        raise AttributeError(
            f"the weight of a {type(self).__name__} is computed from its anchors and cannot be "
            "set, tied, pruned or reparametrized: apply that to source_gain or another parameter, "
            "or replace the layer by the dense one that layer.to_linear() returns"
        )

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter; a ``weight`` raises an AttributeError, because the layer computes it.

        :meta private:
        """
        # Assigning a parameter also calls this method, and pruning registers a "weight_orig".
        if name == "weight" or name.startswith("weight_"):
            self._refuse_weight()
        super().register_parameter(name, param)

    def _dense_weight(self, dtype: torch.dtype) -> Tensor:
        """Evaluate the weight in ``dtype``, head by head."""
        n, m = self.out_features, self.in_features
        if n * m > MAX_DENSE_ENTRIES:
            raise MemoryError(
                f"the dense weight would have {n} x {m} entries, more than the limit of "
                f"{MAX_DENSE_ENTRIES}: call the layer, which does not need it"
            )
        kernels = self._whole()
        targets, sources, gain = (each.to(dtype) for each in kernels[:3])
        lengthscale = kernels.log_lengthscale.to(dtype).exp()
        total = targets.new_zeros(n, m)
        for head in range(self.heads):
            kernel = self._shape.matrix(targets[head], sources[head], lengthscale[head])
            factor = shared_out(gain[head], kernel.sum(0)) if self._shares_out else gain[head]
            if kernels.target_phase is not None and kernels.source_phase is not None:
                kernel = kernel * cosines(
                    kernels.target_phase[head].to(dtype), kernels.source_phase[head].to(dtype)
                )
            total = total + kernel * factor
        return total

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """Return a dense ``nn.Linear`` with the layer's weight, device, dtype and mode.

        Use it where a stored matrix is needed: TorchScript, quantization, weight tying, or pruning
        single weights. The weight is evaluated in double precision. `from_linear` is the other
        direction.

        Returns
        -------
        nn.Linear

        Raises
        ------
        MemoryError
            If the weight would have more than ``laplex.numpy.checks.MAX_DENSE_ENTRIES`` entries.
        """
        weight = self._dense_weight(torch.float64)
        linear = nn.Linear(  # on the meta device it draws no random numbers
            weight.shape[1],
            weight.shape[0],
            bias=self.bias is not None,
            device="meta",
            dtype=self.source_gain.dtype,
        ).to_empty(device=weight.device)
        linear.weight.copy_(weight)
        if self.bias is not None:
            linear.bias.copy_(whole(self.bias))
        return linear.train(self.training)

    @classmethod
    @torch.inference_mode(False)  # inference mode forbids the descent and marks new parameters
    @torch.no_grad()
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        heads: int = 1,
        phased: bool = True,
        rounds: int = 4,
        progress: bool = False,
        kernel: str = "matern12",
        side: str = "both",
    ) -> Self:
        r"""Create a layer that approximates a dense layer, by least squares on its weight.

        The method minimises
        :math:`\|W - \sum_h \mathrm{Re}(K_h)\,\mathrm{diag}(s_h)\|_F` by descent from the truncated
        singular value decomposition; see ``laplex.nn.least_squares.nearest_kernels``. It finds a
        local minimum and uses no random numbers. The bias is copied.

        Parameters
        ----------
        linear : nn.Linear
            The dense layer, of any floating-point dtype and on any device. The new layer has the
            same dtype, device and mode.
        heads : int
            The number of kernels. Each starts as two terms of the singular value decomposition with
            phases, and as one term without.
        phased : bool
            Use carrier phases, as in the constructor.
        rounds : int
            The number of rounds of the descent; 0 keeps the truncated decomposition. A round takes
            as long as a few hundred accesses to `weight`. Each round lowers the error, by less and
            less.
        progress : bool
            Show a progress bar.
        kernel, side : str
            As in the constructor of `laplex.nn.LaplexLinear`; a `laplex.nn.LaplexHead` has the
            default ones alone.

        Returns
        -------
        KernelLayer
            A layer of this class. Its ``fit_error`` is the Frobenius norm of the difference of the
            weights divided by that of the dense weight, at the time of the fit.

        Raises
        ------
        TypeError
            If ``linear`` is not an ``nn.Linear``, or ``heads`` or ``rounds`` is not an integer.
        ValueError
            If the weight is not finite, ``heads`` is below 1, ``rounds`` is below 0, the gains
            overflow the weight's dtype (float16), or the layer cannot have ``kernel`` or ``side``.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(
                f"linear must be a torch.nn.Linear, got {type(linear).__name__}: copy its weight "
                "into one"
            )
        heads = integer("heads", heads)
        rounds = integer("rounds", rounds, 0)
        check_flag("phased", phased)
        check_flag("progress", progress)
        profile_of(kernel)
        side_number(side)
        shape = KernelShape(kernel, side)
        if cls._shares_out and shape != KernelShape():
            raise ValueError(
                f"a {cls.__name__} has the Laplace kernel of both sides: leave out kernel and side"
            )
        weight = linear.weight.detach()
        if weight.is_meta:
            raise ValueError(
                "linear is on the meta device and has no values: move it to a real device"
            )
        if not weight.isfinite().all():
            raise ValueError("linear.weight must be finite, but has NaN or infinite entries")
        with torch.random.fork_rng(devices=[]):  # the initial values are overwritten below
            layer = cls(
                linear.in_features,
                linear.out_features,
                heads=heads,
                phased=phased,
                bias=linear.bias is not None,
                init="interlaced",
                device=weight.device,
                dtype=weight.dtype,
                **({} if cls._shares_out else shape._asdict()),
            )
        # Scale by the largest entry, so that no square of an entry over- or underflows.
        unit = weight.double().abs().max()
        unit = torch.where(unit > 0, unit, 1.0)
        scaled = weight.double() / unit
        with progress_bar(progress, extra="demo") as report:
            fit = nearest_kernels(
                scaled.to(layer.targets.dtype),
                heads,
                phased=phased,
                rounds=rounds,
                report=report,
                shape=shape,
            )
        gain = fit.factor
        if cls._shares_out:
            gain = gain * column_sums(fit.targets, fit.sources, fit.log_lengthscale.exp())
        layer.source_gain.copy_(gain.double() * unit)
        if not layer.source_gain.isfinite().all():
            raise ValueError(
                f"the gains overflow {weight.dtype}, the dtype of linear.weight: pass "
                "linear.float()"
            )
        for name in GEOMETRY:
            parameter = getattr(layer, name)
            if parameter is not None:
                parameter.copy_(getattr(fit, name))
        if layer.bias is not None:
            layer.bias.copy_(linear.bias)
        difference = layer._dense_weight(torch.float64) / unit - scaled
        norm = torch.linalg.norm(scaled).clamp(min=1.0)  # below 1 only for a weight of zeros
        layer.fit_error = float(torch.linalg.norm(difference) / norm)
        return layer.train(linear.training)

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            f"torch.jit.script cannot compile a {type(self).__name__}: replace it by the dense "
            "layer that layer.to_linear() returns, or use torch.export or torch.compile"
        )

    def head_norms(self) -> Tensor:
        """Return the Frobenius norm of each head's part of the weight, in O(n log n).

        Returns
        -------
        Tensor ``[heads]``
        """
        targets, sources, factor, log_lengthscale, target_phase, source_phase = self._whole()
        lengthscale = log_lengthscale.exp()
        if self._shares_out:
            factor = shared_out(factor, column_sums(targets, sources, lengthscale))
        return frobenius_norms(
            targets, sources, lengthscale, factor, target_phase, source_phase, self._shape
        )

    @torch.no_grad()
    def rank(self) -> list[int]:
        """Return the rank of each head's kernel without its phases, in O(n log n).

        The rank is the number of disjoint neighbouring (target, source) pairs along the line.
        Phases make each head the real part of a complex matrix of that rank, so its real rank is at
        most twice as large.

        Returns
        -------
        list of int

        Raises
        ------
        ValueError
            If the layer has a ``kernel`` or a ``side`` of which no rule for the rank is known.
        """
        kernels = self._whole()
        targets, sources = (anchors.cpu().numpy() for anchors in kernels[:2])
        lengthscale = kernels.log_lengthscale.exp().double().cpu().numpy()
        kernel, side = self._shape
        ranks = Plan(targets, sources, lengthscale=lengthscale, kernel=kernel, side=side).rank()
        return [int(rank) for rank in np.asarray(ranks).reshape(-1)]

    # ------------------------------------------------------------------------------- moves, display

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KernelLayer:
        exact = list(self.geometry())
        exact += [tensor.grad for tensor in exact if tensor.grad is not None]

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in _HALF and any(tensor is kept for kept in exact):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def geometry(self) -> Iterator[Tensor]:
        """Yield the tensors of the geometry, or those from which it is parametrized or pruned.

        :meta private:
        """
        return self.made_of(*GEOMETRY)

    def made_of(self, *names: str) -> Iterator[Tensor]:
        """Yield these tensors, or those from which they are parametrized or pruned.

        :meta private:
        """
        tensors = itertools.chain(self.named_parameters(), self.named_buffers())
        for path, tensor in tensors:
            name = path.removeprefix("parametrizations.").split(".")[0]
            # Pruned "targets" are computed from "targets_orig" and "targets_mask".
            if any(name == each or name.startswith(f"{each}_") for each in names):
                yield tensor

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # As metadata, where torch keeps versions: so all entries stay parameters.
        metadata = getattr(destination, "_metadata", {})
        metadata.setdefault(prefix[:-1], {}).update(self._shape._asdict())

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name, own in self._shape._asdict().items():
            other = local_metadata.get(name, own)
            if other != own:
                of = f" of {prefix[:-1]}" if prefix else ""
                error_msgs.append(
                    f"the parameters{of} are those of a layer with {name}={other!r}, but "
                    f"this {type(self).__name__} has {name}={own!r}: create it with "
                    f"{name}={other!r}, or pass dict(state_dict) to load them all the same."
                )
        # Also with strict=False, as for a wrong shape: the layer would keep its initial values.
        if f"{prefix}weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight is a dense matrix, which a {type(self).__name__} does not store: "
                "load it into an nn.Linear and convert that with "
                f"{type(self).__name__}.from_linear(linear, heads=...), or remove the key."
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Return the text between the parentheses of ``repr``.

        :meta private:
        """
        kernel, side = self._shape
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"heads={self.heads}, phased={self.phased}, bias={self.bias is not None}, "
            f"init={self.init!r}"
            + (f", kernel={kernel!r}" if kernel != "matern12" else "")
            + (f", side={side!r}" if side != "both" else "")
        )


# Without the decorator, Dynamo would assume that torch's function returns False.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _on_the_way_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()
