"""Temperature scaling of every exit's logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import Array, Booleans, as_labels, as_numbers, as_numpy, like

_FORMAT = "laplex.early_exit.TemperatureScaling"


class TemperatureScaling:
    r"""Temperature scaling: divide each exit's logits by a temperature fitted to held-out data.

    .. math::
        T_k = \arg\min_{T} -\frac1N \sum_n \log \operatorname{softmax}(z_{kn} / T)_{y_n}

    The minimum is found over :math:`\log T` by LBFGS, in float64. Scaling never changes a
    prediction. With 3 classes or more, it may change the order of the confidences of an exit.

    Parameters
    ----------
    bounds : (float, float)
        The smallest and the largest temperature. The optimum is at a bound if every label has the
        largest logit (then no finite confidence is high enough), or if the logits carry no
        information about the labels.

    Attributes
    ----------
    temperatures_ : ndarray [exits]
        After `fit`: the temperatures.
    at_bound_ : ndarray [exits] of bool
        After `fit`: whether each temperature is at a bound. If so, the samples do not determine it;
        more samples may.

    Notes
    -----
    The method is that of Guo et al. 2017 (arXiv 1706.04599), applied to each exit separately. To
    let samples leave by the scaled softmax in `MultiExitModel.predict`, use `Evaluation.policy_at`,
    or pass the fitted object to `LearnedScore` as the scorer.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.early_exit import TemperatureScaling
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> scaling = TemperatureScaling().fit(logits, [0, 0, 0, 1])  # right 3 times of 4
    >>> scaling.temperatures_.round(4)  # 4 / log(3)
    array([3.641])
    """

    temperatures_: Array
    at_bound_: Booleans

    def __init__(self, bounds: tuple[float, float] = (0.01, 100.0)) -> None:
        low, high = (float(one) for one in bounds)
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"bounds must be two positive, finite numbers, the smaller one first, got {bounds}"
            )
        self.bounds = (low, high)

    def fit(self, logits: Any, labels: Any) -> TemperatureScaling:
        """Fit a temperature for each exit.

        Parameters
        ----------
        logits : array or Tensor [exits, samples, classes], or [samples, classes]
            Logits of samples that the network was not trained on.
        labels : array or Tensor [samples]
            Class indices.

        Returns
        -------
        TemperatureScaling
            The object itself.

        Raises
        ------
        TypeError, ValueError
            If logits are not finite, labels are out of range, or the shapes do not match.
        """
        found = _exits_of("logits", logits)
        truth = torch.from_numpy(as_labels("labels", labels, *found.shape[1:]))
        fitted = [_fit_one(torch.from_numpy(one), truth, self.bounds) for one in found]
        self.temperatures_ = np.array(fitted)
        self.at_bound_ = np.isin(self.temperatures_, self.bounds)
        return self

    def transform(self, logits: Any) -> Any:
        """Divide logits by the temperatures.

        Parameters
        ----------
        logits : array or Tensor
            As in `fit`, with the same number of exits.

        Returns
        -------
        ndarray, or Tensor on the same device for Tensors, float64, of the shape of `logits`
            The scaled logits. The largest logit stays the largest, even where the division rounds
            two logits to the same value.

        Raises
        ------
        AttributeError
            If the temperatures have not been fitted.
        TypeError, ValueError
            If logits are not finite, or the number of exits differs from the fitted one.
        """
        fitted = self._fitted()
        given = as_numpy("logits", logits)
        found = _exits_of("logits", given)
        if len(found) != len(fitted):
            raise ValueError(
                f"logits have {len(found)} exits, but temperatures were fitted for {len(fitted)}"
            )
        return like(logits, _divided(found, fitted[:, None, None]).reshape(given.shape))

    def fit_transform(self, logits: Any, labels: Any) -> Any:
        """Fit the temperatures, and divide the same logits by them.

        Parameters
        ----------
        logits, labels
            As in `fit`.

        Returns
        -------
        ndarray or Tensor
            The scaled logits, as `transform` returns them.
        """
        return self.fit(logits, labels).transform(logits)

    def score(self, k: int, logits: Tensor) -> Tensor:
        """Compute the largest softmax probability of the scaled logits, as `LearnedScore` needs it.

        Parameters
        ----------
        k : int
            Index of the exit.
        logits : Tensor [batch, classes]
            Logits of that exit.

        Returns
        -------
        Tensor [batch], float64
            The probabilities, on the device of `logits`.
        """
        probabilities = (logits.double() / float(self._fitted()[k])).softmax(-1)
        return probabilities.amax(-1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain numbers, for JSON; `from_dict` reads them."""
        fitted = self._fitted()
        return {"kind": _FORMAT, "bounds": list(self.bounds), "temperatures": fitted.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TemperatureScaling:
        """Make the scaling from the output of `to_dict`.

        Parameters
        ----------
        values : mapping
            What `to_dict` returned.

        Returns
        -------
        TemperatureScaling
            A copy with the same contents.

        Raises
        ------
        ValueError
            If `values` are not from `to_dict`.
        """
        if values.get("kind") != _FORMAT:
            raise ValueError(f"values must be those of to_dict, of kind {_FORMAT!r}")
        low, high = values["bounds"]
        made = cls((low, high))
        made.temperatures_ = as_numbers("temperatures", values["temperatures"], 1, "[exits]")
        if (made.temperatures_ < low).any() or (made.temperatures_ > high).any():
            raise ValueError(f"temperatures must be within bounds, got {made.temperatures_}")
        made.at_bound_ = np.isin(made.temperatures_, made.bounds)
        return made

    def _fitted(self) -> Array:
        if not hasattr(self, "temperatures_"):
            raise AttributeError("TemperatureScaling is not fitted: call fit(logits, labels) first")
        return self.temperatures_

    def __repr__(self) -> str:
        if not hasattr(self, "temperatures_"):
            return "TemperatureScaling(not fitted)"
        shown = ", ".join(
            f"{one:.4g}{' (bound)' if at else ''}"
            for one, at in zip(self.temperatures_, self.at_bound_, strict=True)
        )
        return f"TemperatureScaling([{shown}])"


def _exits_of(name: str, logits: Any) -> Array:
    """Logits as [exits, samples, classes]; logits [samples, classes] belong to one exit."""
    found = as_numpy(name, logits)
    if found.ndim == 2:
        return as_numbers(name, found, 2, "[samples, classes]")[None]
    return as_numbers(name, found, 3, "[exits, samples, classes] or [samples, classes]")


def _divided(logits: Array, temperatures: Array) -> Array:
    scaled: Array = logits / temperatures
    top = logits.argmax(-1)[..., None]
    lost = scaled.argmax(-1)[..., None] != top
    best = np.take_along_axis(scaled, top, -1)
    np.put_along_axis(scaled, top, np.where(lost, np.nextafter(best, np.inf), best), -1)
    return scaled


def _fit_one(logits: Tensor, labels: Tensor, bounds: tuple[float, float]) -> float:
    """The temperature within `bounds` that minimises the NLL of logits [samples, classes]."""
    if bool((logits == logits[:, :1]).all()):
        return min(max(1.0, bounds[0]), bounds[1])  # all temperatures give the same NLL

    def nll(log_t: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits / log_t.exp(), labels)

    def slope(t: float) -> float:
        log_t = torch.tensor(math.log(t), dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(nll(log_t), log_t)
        return float(gradient)

    # The NLL is convex in 1 / T: rising at the lower bound, or falling at the upper one, it has no
    # minimum between them.
    if slope(bounds[0]) >= 0:
        return bounds[0]
    if slope(bounds[1]) <= 0:
        return bounds[1]
    spread = float((logits - logits.mean(-1, keepdim=True)).square().mean().sqrt())
    start = math.log(min(max(spread, bounds[0]), bounds[1]))
    log_t = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [log_t],
        max_iter=100,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = nll(log_t)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    return min(max(math.exp(float(log_t.detach())), bounds[0]), bounds[1])
