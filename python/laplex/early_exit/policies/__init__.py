"""Exit policies decide when a sample leaves, both offline and in `MultiExitModel.predict`.

A policy scores the logits of an exit. A sample leaves at the first exit where its score reaches the
threshold of that exit; samples that reach none leave at the last exit. Each module of this package
except ``base`` defines one policy. To register a policy of your own under a name, decorate its
class with ``POLICIES.register``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.registry import Registry

if TYPE_CHECKING:
    from .base import Fallback as Fallback
    from .base import Policy as Policy
    from .base import Scorer as Scorer
    from .base import Thresholds as Thresholds
    from .entropy import Entropy as Entropy
    from .learned import LearnedScore as LearnedScore
    from .margin import Margin as Margin
    from .max_softmax import MaxSoftmax as MaxSoftmax
    from .patience import Patience as Patience

POLICIES: Registry[type[Policy]] = Registry("policy", __name__, default="max-softmax", by_file=True)


def named_policy(name: str, threshold: float | None = None) -> Policy:
    """Make a policy from its name.

    Parameters
    ----------
    name : str
        A name from `laplex.early_exit.policies.POLICIES`.
    threshold : float, optional
        The threshold of all exits; by default, the usual one of the policy.

    Returns
    -------
    Policy
        The policy.

    Raises
    ------
    ValueError
        If there is no such policy, or it needs more than a threshold.
    """
    among = [one for one, kind in POLICIES.items() if kind.usual_threshold is not None]
    kind = POLICIES.find(name, among, also=" or a Policy")
    return kind(kind.usual_threshold if threshold is None else threshold)  # type: ignore[arg-type]


__getattr__ = POLICIES.attribute
