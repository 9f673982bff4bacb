"""Exits in the networks that people have: attached, real, trained, counted and timed.

`make test-peers` runs the networks of torchvision and timm as well.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings

import pytest

from architecture_cases import CASES
from architecture_checks import COLUMNS, EXPORTS, outcomes

QUICK = tuple(column for column in COLUMNS if column not in EXPORTS)


@pytest.mark.parametrize("name", CASES)
def test_exits_work_or_are_refused_in_so_many_words(name: str) -> None:
    package = name.partition(":")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: run `make test-peers`")
    case = CASES[name]
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries are not ours to mend
        found = outcomes(case, QUICK)
    found.pop("runs again", None)
    assert set(case.refuses) <= set(found)
    for column, outcome in found.items():
        if column in case.refuses:
            assert re.search(case.refuses[column], outcome), f"{column}: {outcome}"
        else:
            assert outcome in ("yes", "-"), f"{column}: {outcome}"
