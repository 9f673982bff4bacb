"""A finished run as a model in a folder or on the hub, with what is known of it in its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..policies.base import Policy
from .results import RunEvaluation
from .run import Run
from .sources import BUILT_IN


def publish_run(
    run: Run,
    policy: Policy,
    *,
    out: Path | None = None,
    repo: str | None = None,
    private: bool = False,
    license: str | None = None,  # noqa: A002  (the word for it)
) -> str:
    """Write the model of a run into a folder, or upload it to a repository.

    The card has the names of the classes and, if the run was evaluated, what was found. It names
    the data only if they are built in: paths of this machine are nobody's business.

    Returns
    -------
    str
        The folder or the address.
    """
    model = run.model
    model.policy, model.class_names = policy, tuple(run.history["classes"])
    metadata: dict[str, Any] = {} if license is None else {"license": license}
    if run.settings.data in BUILT_IN:
        metadata["datasets"] = [run.settings.data]
    found = RunEvaluation.read(run.folder)
    results = () if found is None else found.evaluations
    if repo is not None:
        return model.push_to_hub(repo, private=private or None, results=results, metadata=metadata)
    assert out is not None
    model.save_pretrained(out, results=results, metadata=metadata)
    return str(out)
