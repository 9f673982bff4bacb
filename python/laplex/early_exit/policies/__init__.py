"""When a sample leaves: exit policies, the same rule offline and in `MultiExitModel.predict`.

A policy scores the logits of an exit; a sample leaves at the first exit whose score reaches the
exit's threshold. The last exit takes whoever is left. Each module but `base` is a policy; one of
your own is named by `POLICIES.register`, a decorator.
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
    """A policy by its name, with its usual threshold where none is given.

    Raises
    ------
    ValueError
        No such policy, or one that takes more than a threshold.
    """
    among = [one for one, kind in POLICIES.items() if kind.usual_threshold is not None]
    kind = POLICIES.find(name, among, also=" or a Policy")
    return kind(kind.usual_threshold if threshold is None else threshold)  # type: ignore[arg-type]


__getattr__ = POLICIES.attribute
