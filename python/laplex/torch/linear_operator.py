"""The operator as a matrix class of GPyTorch's ``linear_operator`` package.

Importing this module needs that package, so ``LaplaceOperator.to_linear_operator`` imports it on
demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .._support.profiles import profile_of
from .._support.sides import side_number
from .approximation import warn_of_iterations
from .call import NAMES, TRAILING
from .dense import kernel
from .elementwise import Scalable

if TYPE_CHECKING:
    from .operator import LaplaceOperator

# The arguments of LaplaceOperator with the number of their trailing (not batch) dimensions.
_TRAILING = dict(zip(NAMES[1:], TRAILING[1:], strict=True))


class LaplaceLinearOperator(Scalable):
    """A real Laplace-kernel matrix, or a batch of them, for GPyTorch.

    Parameters
    ----------
    *tensors
        The tensors that ``names`` lists, all with the full batch in front. The package splits its
        operators into tensors, transforms these (permute, expand, differentiate) and builds the
        operator again.
    names
        The arguments of `laplex.LaplaceOperator` that the tensors are, targets first.
    real_part, kernel, side
        As for `laplex.LaplaceOperator`.
    kind
        The class `laplex.LaplaceOperator`, which imports this module and so cannot be imported
        here.
    """

    def __init__(
        self,
        *tensors: Tensor,
        names: tuple[str, ...],
        real_part: bool,
        kind: type[LaplaceOperator],
        kernel: str = "matern12",
        side: str = "both",
    ) -> None:
        self._form: dict[str, Any] = {"real_part": real_part, "kernel": kernel, "side": side}
        super().__init__(*tensors, names=names, kind=kind, **self._form)
        arguments: dict[str, Any] = dict(zip(names, tensors, strict=True))
        self._arguments = arguments
        self._operator = kind(**arguments, **self._form)

    @classmethod
    def of(cls, operator: LaplaceOperator) -> LaplaceLinearOperator:
        """Wrap an operator with a real matrix."""
        if operator.dtype.is_complex:
            raise TypeError(
                "linear_operator supports only real matrices: build the LaplaceOperator with "
                "real_part=True, or without phases and frequency"
            )
        batch = operator.shape[:-2]
        given = {
            name: tensor.expand((*batch, *tensor.shape[tensor.dim() - last :]))
            for name, last in _TRAILING.items()
            if (tensor := getattr(operator, name)) is not None
        }
        return cls(
            *given.values(),
            names=tuple(given),
            real_part=operator.real_part,
            kind=type(operator),
            kernel=operator.kernel,
            side=operator.side,
        )

    def _matmul(self, rhs: Tensor) -> Tensor:
        warn_of_iterations("a LaplaceLinearOperator")
        return self._operator @ rhs

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        warn_of_iterations("a LaplaceLinearOperator")
        return self._operator.T @ rhs

    def _size(self) -> torch.Size:
        return self._operator.shape

    def _transpose_nonbatch(self) -> LaplaceLinearOperator:
        return self.of(self._operator.T)

    def _expand_batch(self, batch_shape: torch.Size | list[int]) -> LaplaceLinearOperator:
        return self._with(
            {
                name: tensor.expand((*batch_shape, *tensor.shape[tensor.dim() - _TRAILING[name] :]))
                for name, tensor in self._arguments.items()
            }
        )

    def _with(self, arguments: dict[str, Tensor]) -> LaplaceLinearOperator:
        return LaplaceLinearOperator(
            *arguments.values(), names=tuple(arguments), kind=type(self._operator), **self._form
        )

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        """Return a part of the matrix, which is an operator with a part of the anchors."""
        tensors = [isinstance(index, Tensor) for index in (row_index, col_index, *batch_indices)]
        if any(tensors[2:]) or all(tensors[:2]):  # tensors that index jointly
            return super()._getitem(row_index, col_index, *batch_indices)
        return self._with(self._take(row_index, col_index, batch_indices))

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        """Compute single entries by the formula, without a matrix or a scan."""
        taken = self._take(row_index, col_index, batch_indices)
        arguments: dict[str, Any] = {name: taken.get(name) for name in _TRAILING}
        operator = self._operator
        entries = kernel(
            **arguments,
            real_part=operator.real_part,
            profile=profile_of(operator.kernel),
            side=side_number(operator.side),
        )
        return entries.to(self.dtype)

    def _take(self, rows: Any, columns: Any, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        """Index every argument: targets by row, sources by column, all by batch."""
        keys = {
            name: batch if last == 0 else (*batch, columns if name.startswith("source") else rows)
            for name, last in _TRAILING.items()
        }
        arguments = dict(self._arguments)
        arguments.setdefault("sources", arguments["targets"])
        return {
            name: arguments[name][key] if key else arguments[name]
            for name, key in keys.items()
            if name in arguments
        }

    def to_dense(self) -> Tensor:
        """Return the matrix ``[*batch, n, m]`` by its formula."""
        return self._operator.to_dense()
