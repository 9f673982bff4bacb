"""The factorisation of `factor.Factor` for CUDA tensors: on torch's streams, in torch's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import _core
from ..torch import cuda as cuda_execution
from .factor import Parameters, Side, plain

#: The most columns of H that a GPU takes: sums of 8 real terms or 4 cosines.
MOST_COLUMNS = 8


class CudaFactor:
    """A factorisation that was computed, without derivatives.

    The constructor waits for the device, as it has to say what is singular; nothing else does.
    Everything runs on the current stream of the tensors' device.

    Parameters
    ----------
    parameters
        Contiguous float64 CUDA tensors, see `laplex.gram.factor`. A noise of infinity marks a point
        that was not observed.
    ties_backwards
        Take equal anchors against their numbers.

    Raises
    ------
    ValueError
        NaN or infinite anchors or loadings, a lengthscale that is not positive, negative noise,
        more than `MOST_COLUMNS` columns.
    numpy.linalg.LinAlgError
        A singular matrix.
    RuntimeError
        The stream is being captured into a graph.
    """

    def __init__(self, parameters: Parameters, *, ties_backwards: bool = False) -> None:
        anchors, lengthscale, loadings, noise = (tensor.detach() for tensor in parameters)
        self.batch, self.n, self.width = loadings.shape
        self.device = loadings.device
        sizes = (self.batch, self.n, self.width)
        storage_bytes = _core.CudaGram.storage_bytes(*sizes)
        with cuda_execution.on(self.device):
            self._stream = cuda_execution.current_stream(self.device)
            self._storage = cuda_execution.memory(storage_bytes, self.device)
            scratch = cuda_execution.memory(_core.CudaGram.scratch_bytes(*sizes), self.device)
            self.core = _core.CudaGram(
                *sizes,
                anchors.data_ptr(),
                lengthscale.data_ptr(),
                loadings.data_ptr(),
                noise.data_ptr(),
                ties_backwards,
                self._stream,
                self._storage.data_ptr(),
                storage_bytes,
                scratch.data_ptr(),
                scratch.numel(),
            )
            self._event = cuda_execution.event(self.device)

    @property
    def has_ties(self) -> bool:
        """Whether anchors of a matrix coincide."""
        return self.core.has_ties

    def order(self) -> Tensor:
        """The numbers of the anchors in ascending order, int64 ``[B, n]``."""
        order = torch.empty(self.batch, self.n, dtype=torch.int64, device=self.device)
        with self._in_stream() as stream:
            self.core.order(order.data_ptr(), stream)
        return order

    def apply(self, side: Side, values: Tensor, *, scaled: bool = False) -> Tensor:
        """L, L^-1, L^T or L^-T times values, or with `scaled` the same of L D^1/2."""
        values = plain(values)
        out = torch.empty_like(values)
        rows = values.shape[1]
        self._run(self.core.apply, rows, int(side), scaled, *_addresses(values, out), rows)
        return out

    def solve(self, values: Tensor) -> Tensor:
        """A^-1 times values."""
        values = plain(values)
        out = torch.empty_like(values)
        rows = values.shape[1]
        self._run(self.core.solve, rows, *_addresses(values, out), rows)
        return out

    def log_prob(self, values: Tensor) -> Tensor:
        """Log density of N(0, A) at each row ``[B, R]``."""
        values = plain(values)
        out = self._empty(*values.shape[:-1])
        rows = values.shape[1]
        self._run(self.core.log_prob, rows, *_addresses(values, out), rows)
        return out

    def log_variances(self) -> Tensor:
        """Log D ``[B, n]``."""
        out = self._empty(self.batch, self.n)
        with self._in_stream() as stream:
            self.core.log_variances(out.data_ptr(), stream)
        return out

    def logdet(self) -> Tensor:
        """Log det A ``[B]``."""
        out = self._empty(self.batch)
        self._run(self.core.logdet, 0, out.data_ptr())
        return out

    def vjp(self, a: Tensor | None, b: Tensor | None, w: Tensor | None) -> Parameters:
        """Gradients of <a, L b> + <w, log D> by the parameters; None stands for 0."""
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        rows = 0 if a is None else a.shape[1]
        out = self._empty_parameters()
        nbytes = self.core.gradient_workspace_bytes(rows, False)
        self._run_in(nbytes, self.core.vjp, *_addresses(a, b), rows, *_addresses(w, *out, None))
        return out

    def vjp_tangent(
        self, a: Tensor | None, b: Tensor | None, w: Tensor | None, tangents: Parameters
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Parameters]:
        """Derivatives by a, b, w and the parameters of <tangents, vjp(a, b, w)>."""
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        along = [plain(tangent) for tangent in tangents]
        rows = 0 if a is None else a.shape[1]
        d_a, d_b, d_w = (None if each is None else torch.empty_like(each) for each in (a, b, w))
        out = self._empty_parameters()
        self._run_in(
            self.core.gradient_workspace_bytes(rows, True),
            self.core.vjp_tangent,
            *_addresses(a, b),
            rows,
            *_addresses(w, *along, *out, d_a, d_b, d_w),
        )
        return d_a, d_b, d_w, out

    @contextmanager
    def _in_stream(self) -> Iterator[int]:
        """The current stream, in which the factor is there."""
        with cuda_execution.on(self.device):
            stream = cuda_execution.current_stream(self.device)
            if stream != self._stream:
                cuda_execution.wait(self._event, self._storage)
            yield stream

    def _run(self, call: Callable[..., None], rows: int, *arguments: int) -> None:
        self._run_in(self.core.workspace_bytes(rows), call, *arguments)

    def _run_in(self, nbytes: int, call: Callable[..., None], *arguments: int) -> None:
        with self._in_stream() as stream:
            workspace = cuda_execution.memory(nbytes, self.device)
            call(*arguments, stream, workspace.data_ptr(), nbytes)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=self.device)

    def _empty_parameters(self) -> Parameters:
        batch, n, width = self.batch, self.n, self.width
        return (
            self._empty(batch, n),
            self._empty(batch, width),
            self._empty(batch, n, width),
            self._empty(batch, n),
        )


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
