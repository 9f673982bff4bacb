"""Thresholds whose risk is controlled: certified to be small, with a chosen probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from ..._support.arguments import one_of, share
from ..._support.results import Result
from ..._support.text_tables import aligned
from ..arrays import Array, Booleans, Integers, as_numbers, as_numpy, same_shape
from ..costs import Costs
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies.base import Policy
from .arguments import CalibrationName, checked_arguments, relative_costs
from .curves import threshold_rows
from .judging import check_same_shape, checked, fitted_rule
from .outputs import Outputs, check_outputs
from .real_policies import real_policy
from .reduction import Rule, reduced
from .thresholds import fit_cuts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Risk = Literal["accuracy-loss", "error", "disagreement"]
Method = Literal["fixed-sequence", "bonferroni"]

# Thresholds that are tested by default: shared ones, or ones fitted to budgets, which takes longer.
_SHARED, _FITTED = 500, 200
# Bisections of an upper bound in [0, 1], to the rounding of 1.
_HALVINGS = 53
_SHOWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class RiskControl(Result):
    """Result of `control_risk`, for m tested thresholds and K exits. Printing it prints the table.

    Attributes
    ----------
    loss : str
        The loss whose mean is controlled.
    epsilon, delta : float
        The promise: the risk exceeds `epsilon` with a probability of at most `delta`.
    method : str
        ``"fixed-sequence"`` or ``"bonferroni"``.
    tail : str
        The p-value: ``"binomial"`` or ``"Hoeffding-Bentkus"``.
    samples : int
        Number of calibration samples.
    cuts : ndarray [m, K - 1]
        The tested thresholds in units of scores, in the order of the tests.
    risks : ndarray [m]
        Mean loss of the calibration samples.
    bounds : ndarray [m]
        Upper confidence bound of each risk by itself, at the level of its test. It is at most
        `epsilon` exactly where the test rejects a larger risk.
    p_values : ndarray [m]
        p-value of the hypothesis that the risk is above `epsilon`.
    costs : ndarray [m]
        Mean cost of the calibration samples, in units of the plain backbone.
    certified : ndarray [m] of bool
        Which thresholds are certified: the promise holds for all of them together, so any of them
        may be chosen.
    policy : Policy or None
        The policy with the cheapest certified thresholds, with its calibration, for
        `MultiExitModel.predict`. None if no thresholds are certified, and for a result from a file.
    """

    _kind: ClassVar = "laplex.early_exit.RiskControl"
    _written: ClassVar = (  # all but the policy
        "loss", "epsilon", "delta", "method", "tail", "samples", "cuts", "risks", "bounds",
        "p_values", "costs", "certified", "chosen", "risk", "bound", "cost",
    )  # fmt: skip

    loss: str
    epsilon: float
    delta: float
    method: str
    tail: str
    samples: int
    cuts: Array
    risks: Array
    bounds: Array
    p_values: Array
    costs: Array
    certified: Booleans
    policy: Policy | None = None

    @property
    def chosen(self) -> int | None:
        """Index of the cheapest certified thresholds; None if there are none."""
        if not self.certified.any():
            return None
        return int(np.where(self.certified, self.costs, np.inf).argmin())

    @property
    def risk(self) -> float:
        """Mean loss of the calibration samples at the chosen thresholds; NaN without them."""
        return self._at(self.risks)

    @property
    def bound(self) -> float:
        """Upper confidence bound at the chosen thresholds; NaN without them."""
        return self._at(self.bounds)

    @property
    def cost(self) -> float:
        """Mean cost of the calibration samples at the chosen thresholds; NaN without them."""
        return self._at(self.costs)

    def table(self) -> str:
        """Format what is promised, and some of the tested thresholds, as aligned text."""
        lines = [
            f"{self.loss} <= {self.epsilon:.4g} with probability {1 - self.delta:.4g}, by "
            f"{self.method} tests ({self.tail}) on {self.samples:,} samples",
            self._found(),
        ]
        rows = set(np.linspace(0, len(self.cuts) - 1, _SHOWN).astype(int).tolist())
        if self.chosen is not None:
            rows.add(self.chosen)
        body = [
            [
                f"{self.costs[i]:.1%}",
                f"{self.risks[i]:.4f}",
                f"{self.bounds[i]:.4f}",
                f"{self.p_values[i]:.2g}",
                "chosen" if i == self.chosen else "yes" if self.certified[i] else "no",
                ", ".join(f"{cut:.4g}" for cut in self.cuts[i]),
            ]
            for i in sorted(rows)
        ]
        head = ["cost", "risk", "bound", "p-value", "certified", "thresholds"]
        return "\n".join([*lines, aligned(head, body, left=(5,))])

    def plot(self) -> Figure:
        """Plot risk and bound of the tested thresholds against their mean cost.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed; the message names the extra that installs it.
        """
        from .plots import risk_figure

        return risk_figure(self)

    def _at(self, values: Array) -> float:
        return float("nan") if self.chosen is None else float(values[self.chosen])

    def _found(self) -> str:
        if self.chosen is not None:
            return f"cost {self.cost:.1%}, risk {self.risk:.4f}, bound {self.bound:.4f}"
        level = self.delta / (len(self.cuts) if self.method == "bonferroni" else 1)
        fewest = math.ceil(math.log(level) / math.log1p(-self.epsilon))
        return (
            f"nothing can be certified: the smallest bound is {self.bounds.min():.4f}. Raise "
            f"epsilon, or pass more samples (at least {fewest:,}, even if none has a loss)"
        )

    def _summary(self) -> str:
        return f"{self.loss} <= {self.epsilon:.4g}: {self._found()}"


def control_risk(
    outputs: Outputs,
    costs: Costs | Sequence[float],
    *,
    epsilon: float,
    delta: float = 0.05,
    risk: Risk | Any = "accuracy-loss",
    policy: str | Policy = "max-softmax",
    calibration: CalibrationName | TemperatureScaling | ScoreHeads | None = None,
    validation: Outputs | None = None,
    cuts: Any = None,
    method: Method = "fixed-sequence",
) -> RiskControl:
    r"""Choose the cheapest thresholds whose risk is certified to be at most epsilon.

    If the calibration samples are drawn from the distribution on which the network is used, then

    .. math::
        P(R(\hat\lambda) \le \varepsilon) \ge 1 - \delta

    over the draws of the calibration samples, where :math:`\hat\lambda` are the chosen thresholds
    and R is the risk, the expected loss. This holds for any network, any policy, and any number of
    samples.

    Parameters
    ----------
    outputs : Outputs
        Logits and labels of the calibration samples: independent draws, on which nothing was
        trained or fitted, neither the network nor `calibration` or `cuts`.
    costs : Costs or sequence of K float
        Cost of a sample that leaves at exit k, in units of the plain backbone; must not decrease.
    epsilon : float
        Largest risk, between 0 and 1.
    delta : float
        Largest probability that the risk is above `epsilon`, between 0 and 1.
    risk : "accuracy-loss", "error", "disagreement", or array [K, N]
        The loss of a sample. ``"accuracy-loss"``: its answer is wrong where that of the last exit
        is right, so accuracy falls by `epsilon` at most. ``"error"``: its answer is wrong.
        ``"disagreement"``: its answer is not that of the last exit; labels are not used. Or your
        own losses in [0, 1], of each sample at each exit; of type bool if they are 0 or 1.
    policy : str or Policy
        The exit policy, as in `evaluate`; thresholds of its own are not used.
    calibration : optional
        As in `evaluate`; a name is fitted to `validation`.
    validation : Outputs, optional
        Logits and labels of other samples. Without `cuts`, thresholds for each exit are fitted to
        200 equally spaced budgets on them, and tested from the dearest to the cheapest.
    cuts : sequence of float, or of arrays [K - 1], optional
        The thresholds to test, in units of scores, which must not depend on `outputs`; for
        fixed-sequence tests from the safest to the cheapest. By default those of `validation`;
        without it, infinity and 499 thresholds shared by all exits, evenly spaced in log-odds from
        0.999994 to 0.001, for scores that are confidences.
    method : "fixed-sequence" or "bonferroni"
        ``"fixed-sequence"`` tests the thresholds in order, each at level `delta`, and stops at the
        first that it cannot certify. ``"bonferroni"`` tests all m of them at level `delta` / m, in
        no order: for thresholds whose risk does not rise along the sequence.

    Returns
    -------
    RiskControl
        With `RiskControl.policy`, or None if nothing can be certified.

    Raises
    ------
    TypeError, ValueError
        If `epsilon` or `delta` is not between 0 and 1, losses are outside [0, 1], the policy has no
        default thresholds, or as in `evaluate_outputs`.

    Notes
    -----
    This is Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052), with the exact binomial
    p-value :math:`P(\operatorname{Bin}(n, \varepsilon) \le k)` for k losses of 0 or 1 among n
    samples, and the Hoeffding-Bentkus p-value for others. Where the risk rises along the sequence,
    a fixed-sequence test is the same as going on as long as an upper confidence bound of the risk
    (that of Clopper and Pearson for the binomial) is at most `epsilon`, as Jazbec et al. 2024 do
    for early exits (arXiv 2405.20915; our reading of its abstract). The promise does not need the
    risk to rise.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.early_exit import Outputs, control_risk
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> signal = np.array([2.0, 4.0])[:, None, None] * np.eye(3)[labels]
    >>> logits = (rng.normal(size=(2, 2000, 3)) + signal).astype(np.float32)
    >>> samples = Outputs(logits, labels, ("early", "output"))
    >>> found = control_risk(samples, [0.4, 1.0], epsilon=0.05)
    >>> bool(found.bound <= 0.05), found.cost < 1
    (True, True)
    """
    check_outputs(outputs, validation)
    epsilon, delta = _inside("epsilon", epsilon), _inside("delta", delta)
    one_of("method", method, Method)
    exits = len(outputs.exit_names)
    arguments = checked_arguments(
        policy, calibration, None, (1.0,), 1, validated=validation is not None, exits=exits
    )
    prices = relative_costs(costs, exits)
    outputs = checked("outputs", outputs)
    fitting = None if validation is None else checked("validation", validation)
    if fitting is not None:
        check_same_shape(fitting, exits, outputs.logits.shape[2])
    given = None if isinstance(risk, str) else _own_losses(risk, (exits, len(outputs)))
    if given is None:
        one_of("risk", risk, Risk)
    rule = fitted_rule(arguments, fitting)
    real = real_policy(rule.policy, rule.calibration)
    tested = _tested(cuts, rule, fitting, prices)

    def reduce(logits: Array, labels: Integers) -> dict[str, NDArray[Any]]:
        return {**rule.reduce_scores(logits, labels), "answers": logits.argmax(-1)}

    arrays = reduced(outputs, reduce).arrays
    losses = _losses(risk, arrays["answers"], arrays["labels"]) if given is None else given
    scores = torch.from_numpy(arrays["scores"])
    risks, spent = np.empty(len(tested)), np.empty(len(tested))
    for i, row in enumerate(tested):
        answers, stopped = (one.numpy() for one in rule.policy.with_cuts(row).decide(scores))
        risks[i] = losses[answers, np.arange(len(answers))].mean()
        spent[i] = prices[stopped].mean()
    binary = losses.dtype == np.bool_
    p_values = tail_probability(risks, len(outputs), np.full(len(tested), epsilon), binary)
    level = delta / len(tested) if method == "bonferroni" else delta
    rejected = p_values <= level
    certified = np.logical_and.accumulate(rejected) if method == "fixed-sequence" else rejected
    found = RiskControl(
        loss=risk if isinstance(risk, str) else "mean loss",
        epsilon=epsilon,
        delta=delta,
        method=method,
        tail="binomial" if binary else "Hoeffding-Bentkus",
        samples=len(outputs),
        cuts=tested,
        risks=risks,
        bounds=upper_bound(risks, len(outputs), level, binary),
        p_values=p_values,
        costs=spent,
        certified=certified,
    )
    if found.chosen is not None:
        object.__setattr__(found, "policy", real.with_cuts(tested[found.chosen]))
    return found


def tail_probability(risks: Array, samples: int, limits: Array, binary: bool) -> Array:
    """p-values of the hypotheses that risks are above limits, given mean losses of samples.

    Parameters
    ----------
    risks, limits : ndarray [m]
        Mean losses, and limits in (0, 1).
    samples : int
    binary : bool
        Whether losses are 0 or 1; otherwise they are in [0, 1].
    """
    # A sum that rounds above a whole number counts as one loss more, which is on the safe side.
    counts = np.rint(samples * risks) if binary else np.ceil(samples * risks)
    binomial: Array = scipy.special.bdtr(counts, samples, limits)
    if binary:
        return binomial
    below = np.minimum(risks, limits)
    distance = scipy.special.rel_entr(below, limits)
    distance += scipy.special.rel_entr(1 - below, 1 - limits)
    bentkus: Array = np.minimum(np.exp(-samples * distance), math.e * binomial)
    return bentkus


def upper_bound(risks: Array, samples: int, level: float, binary: bool) -> Array:
    """The smallest limits that are rejected at a level: upper confidence bounds, ndarray [m]."""
    low, high = risks.copy(), np.ones_like(risks)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = np.clip(middle, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
        small = tail_probability(risks, samples, inside, binary) <= level
        low, high = np.where(small, low, middle), np.where(small, middle, high)
    return high


def _inside(name: str, value: Any) -> float:
    number = share(name, value)
    if number in (0, 1):
        raise ValueError(f"{name} must be between 0 and 1, got {number:g}")
    return number


def _own_losses(risk: Any, shape: tuple[int, int]) -> NDArray[Any]:
    kind = as_numpy("risk", risk)
    found = as_numbers("risk", kind, 2, "[exits, samples]")
    same_shape("risk", found, "outputs by exit and sample", np.empty(shape))
    if found.min() < 0 or found.max() > 1:
        raise ValueError(
            f"risk must hold losses in [0, 1], got {found.min():g} to {found.max():g}: divide "
            "them by the largest possible loss"
        )
    return found.astype(np.bool_) if kind.dtype == np.bool_ else found


def _losses(risk: Risk, answers: Integers, labels: Integers) -> Booleans:
    """Whether there is a loss, [exits, samples]."""
    if risk == "disagreement":
        return np.asarray(answers != answers[-1])
    wrong = answers != labels
    return np.asarray(wrong & ~wrong[-1] if risk == "accuracy-loss" else wrong)


def _tested(cuts: Any, rule: Rule, validation: Outputs | None, prices: Array) -> Array:
    """The thresholds to test, [m, exits - 1]."""
    exits = len(prices)
    if cuts is not None:
        return threshold_rows(cuts, exits)
    if validation is not None:
        scores = reduced(validation, rule.reduce_scores).arrays["scores"]
        budgets = np.linspace(prices[-1], prices[0], _FITTED)
        strict = rule.policy.strict
        return np.stack([fit_cuts(scores, prices, float(one), strict=strict) for one in budgets])
    if not rule.is_confidence:
        raise ValueError(
            "cuts or validation must be given for a policy whose scores are not confidences: pass "
            "thresholds from the safest to the cheapest, or other samples to fit them to"
        )
    shared = [np.inf, *scipy.special.expit(np.linspace(12, -7, _SHARED - 1))]
    return threshold_rows(shared, exits)
