"""Times of one step of a first layer from sparse and from dense rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from cells import power, table
from laplex.nn import LaplexLinear
from projection_layers import Dense
from studies import Record, Records, Results, Settings

ROWS, ENTRIES, UNITS = 128, 128, 64
SIZES = (2**16, 2**18, 2**20)
#: What is timed: how the layer is made, and whether it is given sparse rows.
CASES: dict[str, tuple[Callable[[int, int], nn.Module], bool]] = {
    "LaplexLinear, sparse rows": (LaplexLinear, True),
    "LaplexLinear, dense rows": (LaplexLinear, False),
    "embedding bag": (Dense, True),
    "nn.Linear, sparse rows": (nn.Linear, True),
    "nn.Linear, dense rows": (nn.Linear, False),
}
_LARGEST_DENSE = 2**18  # beyond, dense rows and weights take gigabytes


def runs(records: Records, quick: bool) -> Iterable[Settings]:
    """Every layer at every size, but for dense ones of the largest."""
    for inputs in (2**10,) if quick else SIZES:
        for case in CASES:
            if inputs <= _LARGEST_DENSE or case == "LaplexLinear, sparse rows":
                yield {"case": case, "inputs": inputs, "units": UNITS, "rows": ROWS}


def measured(settings: Settings) -> Results:
    """The least processor time of three of a forward and backward pass, and of Adam's step."""
    make, is_sparse = CASES[settings["case"]]
    torch.manual_seed(0)
    inputs = settings["inputs"]
    rows = sparse_rows(settings["rows"], inputs)
    layer = make(inputs, settings["units"])
    given = rows if is_sparse else rows.to_dense()
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3, fused=True)
    product, step = float("inf"), float("inf")
    for _ in range(4):
        optimiser.zero_grad()
        start = time.process_time()
        layer(given).square().sum().backward()
        between = time.process_time()
        optimiser.step()
        product, step = min(product, between - start), min(step, time.process_time() - between)
    return {
        "product_ms": 1e3 * product,
        "optimiser_ms": 1e3 * step,
        "parameters": sum(each.numel() for each in layer.parameters()),
    }


def sparse_rows(rows: int, inputs: int) -> Tensor:
    """Rows with entries at random places."""
    places = torch.stack(
        (torch.arange(rows).repeat_interleave(ENTRIES), torch.randint(inputs, (rows * ENTRIES,)))
    )
    values = torch.randn(rows * ENTRIES)
    made = torch.sparse_coo_tensor(places, values, (rows, inputs), check_invariants=True)
    return made.coalesce()


def table_rows(records: list[Record]) -> list[list[str]]:
    return [
        [
            power(each["inputs"]),
            each["case"],
            f"{each['parameters']:,}",
            f"{each['product_ms']:.1f}",
            f"{each['optimiser_ms']:.1f}",
            f"{each['peak_mib']:,.0f}",
        ]
        for each in sorted(records, key=lambda each: each["inputs"])
    ]


def written(records: list[Record], folder: Path) -> str:
    """The table of times."""
    head = ["inputs", "layer", "parameters", "passes, ms", "optimiser, ms", "peak MiB"]
    return table(head, table_rows(records))
