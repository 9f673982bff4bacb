"""The base of results: what is written is what is read, in JSON that any reader takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from laplex._support.results import Result
from laplex._support.text_tables import aligned, cell


@dataclass(frozen=True)
class Part:
    name: str
    value: float


@dataclass(frozen=True, eq=False, repr=False)
class Found(Result):
    """Every kind of field."""

    _kind: ClassVar = "found"
    _derived: ClassVar = ("total", "doubled")

    numbers: NDArray[np.float64]
    counts: NDArray[np.int64]
    parts: tuple[Part, ...]
    by_name: dict[str, list[int]]
    way: Literal["a", "b"]
    inner: Found | None

    @property
    def total(self) -> float:
        return float(self.counts.sum())

    def doubled(self) -> NDArray[np.float64]:
        return 2 * self.numbers

    def table(self) -> str:
        return "a table"

    def _summary(self) -> str:
        return f"{len(self.parts)} parts"

    def _check(self) -> None:
        if self.numbers.shape != self.counts.shape:
            raise ValueError("sizes differ")


def found(inner: Found | None = None) -> Found:
    numbers = np.array([[1.5, math.nan], [math.inf, -math.inf]])
    parts = (Part("one", math.nan), Part("two", 2))
    return Found(numbers, np.array([[1, 2], [3, 4]]), parts, {"x": [1, 2]}, "a", inner)


def test_what_is_written_is_read(tmp_path):
    one = found(found())
    values = one.to_dict()
    assert next(iter(values)) == "kind"
    assert list(values)[-2:] == ["total", "doubled"]
    assert values["numbers"] == [[1.5, None], ["inf", "-inf"]]
    assert values["parts"] == [{"name": "one", "value": None}, {"name": "two", "value": 2}]
    for again in (
        Found.from_dict(json.loads(json.dumps(values))),
        Found.from_json(one.to_json(tmp_path / "found.json")),
        Found.from_json(tmp_path / "found.json"),
        Found.from_json(str(tmp_path / "found.json")),
    ):
        assert again.to_dict() == values
        assert again.counts.dtype == np.int64
        assert isinstance(again.inner, Found)
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_it_prints_its_table():
    assert str(found()) == "a table"
    assert repr(found()) == "Found(2 parts; print it for the table)"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"way": "c"},
        {"counts": [1]},
        {"counts": None},
        {"parts": [{"name": "one"}]},
        {"by_name": []},
        {"inner": {}},
    ],
)
def test_other_values_are_refused(change):
    with pytest.raises(ValueError, match=r"values are not those of Found\.to_dict"):
        Found.from_dict({**found().to_dict(), **change})


def test_infinities_may_be_left_out():
    class Finite(Found):
        _infinities: ClassVar = False

    one = found()
    finite = Finite(*(getattr(one, field.name) for field in fields(one)))
    assert finite.to_dict()["numbers"] == [[1.5, None], [None, None]]


def test_aligned():
    head, body = ["name", "n"], [["a", "10"], ["longer", "9"]]
    assert aligned(head, body) == "name     n\n------  --\na       10\nlonger   9"
    assert aligned(head, body, rule="whole").splitlines()[1] == "-" * 10
    assert aligned(head, body, left=(0, 1), rule="none").splitlines()[2] == "longer  9"
    assert (cell(math.nan), cell(0.25, ".1%"), cell(1 / 3)) == ("-", "25.0%", "0.3333")
