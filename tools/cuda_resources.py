"""Write a table of the registers, spills, stack and memory of each CUDA kernel.

    python tools/cuda_resources.py [--arch sm_90] [--output docs/measurements/cuda_resources.md]

This needs nvcc, c++filt and readelf, but no GPU. It takes some minutes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import textwrap
from dataclasses import astuple, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The files of cuda/src that contain kernels.
SOURCES = (
    "products",
    "quantiles",
    "gradients",
    "term_gradients",
    "state",
    "gram",
    "gram_gradients",
)
FLAGS = ("-std=c++17", "-fmad=false", "--expt-relaxed-constexpr")
INCLUDES = ("cuda/include", "cpp/include", "cpp/src", "cuda/src")


@dataclass(frozen=True)
class Kernel:
    """The resources of one kernel, in bytes except for registers."""

    symbol: str
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    frame: int = 0
    shared: int = 0
    constant: int = 0


def run(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in the repository; if it fails, exit with its error output."""
    try:
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(f"error: {command[0]} was not found: put it on the PATH") from None
    if done.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)}\n{done.stderr}")
    return done


def parse_ptxas(log: str) -> list[Kernel]:
    """Parse the kernels from the output of `ptxas -v`.

    ptxas prints the name of an entry function, then its properties and resources. The properties of
    the functions that it calls follow, and belong to no kernel.
    """
    kernels: list[Kernel] = []
    function = ""
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernels.append(Kernel(found[1]))
        elif found := re.search(r"Function properties for (\w+)", line):
            function = found[1]
        elif not kernels or function != kernels[-1].symbol:
            continue
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            frame, stores, loads = map(int, found.groups())
            kernels[-1] = replace(kernels[-1], frame=frame, spill_stores=stores, spill_loads=loads)
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[-1] = replace(
                kernels[-1],
                registers=int(found[1]),
                shared=int(shared[1]) if shared else 0,
            )
    return kernels


def parse_sections(sections: str) -> dict[str, int]:
    """Parse each kernel's bytes of constant memory, arguments included, from `readelf -SW`."""
    sizes: dict[str, int] = {}
    for found in re.finditer(r"\.nv\.constant\d+\.(\w+)\s+\w+\s+\w+\s+\w+\s+(\w+)", sections):
        sizes[found[1]] = sizes.get(found[1], 0) + int(found[2], 16)
    return sizes


def compiled(source: str, arch: str) -> list[Kernel]:
    """Compile one file of cuda/src and return its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/{source}.cubin"
        includes = [word for folder in INCLUDES for word in ("-I", folder)]
        log = run(
            *("nvcc", *FLAGS, f"-arch={arch}", "-Xptxas", "-v", *includes),
            *("-cubin", f"cuda/src/{source}.cu", "-o", cubin),
        ).stderr
        constants = parse_sections(run("readelf", "-SW", cubin).stdout)
    return [replace(k, constant=constants.get(k.symbol, 0)) for k in parse_ptxas(log)]


def short(demangled: str) -> str:
    """Return a short name, as `product_kernel<float, double, double, P=0, ties=no, 8 items>`."""
    found = re.search(r"(\w+)(?:<(.*?)>)?\(", re.sub(r"laplex::(cuda::)?detail::", "", demangled))
    if found is None:
        raise SystemExit(f"error: cannot parse the name of a kernel: {demangled}")
    name, arguments = found.groups()
    if arguments is None:
        return name
    given = arguments.replace(" >", ">").strip().split(", ")
    of_gram = len(given) <= 3 or name.startswith("gram_")  # or a type, which has no number
    numbers = iter(("J={}", "B={}") if of_gram else ("P={}", "{} threads", "{} items"))
    of_cells = {
        "cell_totals_kernel": "ties",
        "cell_product_kernel": "many rows",
        "cell_gradient_kernel": "self",
    }
    answers = iter(
        (of_cells[name],) if name in of_cells else ("upwards", "inverse") if of_gram else ("ties",)
    )
    words = []
    for argument in given:
        if argument.rstrip(">").isdigit():
            words.append(next(numbers).format(argument))
        elif argument in ("true", "false"):
            words.append(f"{next(answers)}={'yes' if argument == 'true' else 'no'}")
        else:
            words.append(re.sub(r"<(?=\d)", "<J=", argument))
    return f"{name}<{', '.join(words)}>"


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that puts 32 before 256."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]


def page(kernels: list[Kernel], names: dict[str, str], arch: str, version: str) -> str:
    """Return the page in Markdown."""
    introduction = (
        f"`tools/cuda_resources.py` writes this page from the report of ptxas for `{arch}`, by "
        f"nvcc {version} with `{' '.join(FLAGS)}`. In the names of kernels, *P* is the largest "
        "moment, *ties* says whether tied sources are summed separately, *J* is the number of "
        "columns of a covariance matrix, and *B* that of a group of them. *Cumulated* are the sums "
        "of a cumulative sum. All numbers except registers are in bytes. Shared memory is the part "
        "that is fixed at compile time; kernels request more when they are launched. Constant "
        "memory includes the arguments."
    )
    lines = [
        "# Resources of the CUDA kernels",
        "",
        *textwrap.wrap(introduction, 100, break_on_hyphens=False),
        "",
        "| kernel | registers | spill stores | spill loads | stack frame | shared | constant |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {  # a set: some kernels are compiled in two files
        (names[symbol], *numbers) for symbol, *numbers in map(astuple, kernels)
    }
    for name, *numbers in sorted(rows, key=lambda row: (natural(str(row[0])), row[1:])):
        lines.append(f"| `{name}` | {' | '.join(map(str, numbers))} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Compile, parse and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arch", default="sm_90", help="the architecture to compile for (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "docs" / "measurements" / "cuda_resources.md",
        help="the page to write (default: %(default)s)",
    )
    arguments = parser.parse_args()

    version = re.search(r"V(\d+\.\d+\.\d+)", run("nvcc", "--version").stdout)
    kernels = [kernel for source in SOURCES for kernel in compiled(source, arguments.arch)]
    symbols = [kernel.symbol for kernel in kernels]
    demangled = run("c++filt", stdin="\n".join(symbols)).stdout.splitlines()
    names = dict(zip(symbols, map(short, demangled), strict=True))
    text = page(kernels, names, arguments.arch, version[1] if version else "of unknown version")
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
