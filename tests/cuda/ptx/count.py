#!/usr/bin/env python3
"""Counts instructions and memory requests of one plan, one product and, if wanted, its gradients.

Called by `run count`, with the emulator's variables in the environment. README.md explains the
tables.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import ptx

BUILD = pathlib.Path(os.environ["BUILD"])
WARP = 32
SECTOR = 32  # bytes

# An opcode belongs to the first class that matches it.
CLASSES = {
    "fp64": r"(add|sub|mul|fma|div|rcp|sqrt|min|max|setp)\b.*\.f64",
    "fp32": r"(add|sub|mul|fma|div|rcp|sqrt|min|max|setp)\b(?!.*approx).*\.f32",
    "cvt": r"cvt\b.*\b(f16|bf16|f32|f64)",
    "special": r"(ex2|lg2|sin|cos|tanh|rsqrt)\b|(rcp|sqrt|div)\.approx",
    "warp": r"(shfl|vote|match|redux|activemask)\b|bar\.warp",
    "shared": r"(ld|st|atom|red|cp)\b.*\.shared",
    "global": r"(ld|ldu|st|atom|red)\b.*\.global",
    "local": r"(ld|st)\b.*\.local",
    "other": r"",
}


def class_of(opcode):
    return next(name for name, pattern in CLASSES.items() if re.match(pattern, opcode))


# --- machine code --------------------------------------------------------------------------------


@dataclass
class MachineCode:
    """A kernel's instructions as PTX and as machine code for sm_90, and what ptxas says of it."""

    ptx: int
    sass: int
    registers: int
    spilled: int  # bytes, stored and loaded


def machine_code(names):
    """Compiles these kernels, and no others, with ptxas."""
    folder = BUILD / "machine_code"
    folder.mkdir(exist_ok=True)
    found = {}
    for module_name in os.environ["PTX_EMULATOR_MODULES"].split():
        module = ptx.Module(BUILD / "modules" / f"{module_name}.ptx")
        wanted = {entry.name for entry in module.entries()} & names - found.keys()
        if not wanted:
            continue
        cubin, log = compiled(module.with_entries(wanted), folder / module_name)
        sass = instructions_of_cubin(cubin)
        usage = usage_of_log(log)
        for name in wanted:
            body = ptx.items(module.functions[name].body)
            count = sum(isinstance(item, ptx.Instruction) for item in body)
            found[name] = MachineCode(count, sass[name], *usage[name])
    return found


def compiled(text, base):
    """The machine code of PTX and what ptxas says of it; from last time if the PTX is the same."""
    source, cubin, log = (base.with_suffix(end) for end in (".ptx", ".cubin", ".log"))
    if not log.exists() or source.read_text(encoding="utf-8") != text:
        log.unlink(missing_ok=True)
        source.write_text(text, encoding="utf-8")
        command = [os.environ.get("NVCC", "nvcc"), "-arch=sm_90", "-cubin", "-Xptxas", "-v"]
        command += [str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"error: {' '.join(command)}\n{done.stderr}")
        log.write_text(done.stderr, encoding="utf-8")
    return cubin.read_bytes(), log.read_text(encoding="utf-8")


def usage_of_log(log):
    """By kernel its registers and the bytes that it spills."""
    usage, name, spilled = {}, "", 0
    for line in log.split("\n"):
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            usage[name] = int(match[1]), spilled
    return usage


def instructions_of_cubin(elf):
    """By kernel its instructions, without those of functions that follow it in its section.

    Since Volta an instruction has 16 bytes. What fills up the end of a section is not counted.
    """
    nop, opcode_bits, symbol_table, function = 0x918, 0xFFF, 2, 2

    def word(at, size):
        return int.from_bytes(elf[at : at + size], "little")

    def name(at):
        return elf[at : elf.index(b"\0", at)].decode()

    headers = [word(0x28, 8) + k * word(0x3A, 2) for k in range(word(0x3C, 2))]
    types = [word(header + 0x04, 4) for header in headers]
    offsets = [word(header + 0x18, 8) for header in headers]
    sizes = [word(header + 0x20, 8) for header in headers]
    names = offsets[word(0x3E, 2)]
    ends = list(sizes)
    for kind, offset, size in zip(types, offsets, sizes, strict=True):
        if kind == symbol_table:
            for symbol in range(offset, offset + size, 24):
                section, value = word(symbol + 6, 2), word(symbol + 8, 8)
                if elf[symbol + 4] & 15 == function and value > 0:
                    ends[section] = min(ends[section], value)
    found = {}
    for header, offset, end in zip(headers, offsets, ends, strict=True):
        section_name = name(names + word(header, 4))
        if section_name.startswith(".text."):
            opcodes = [word(at, 2) & opcode_bits for at in range(offset, offset + end, 16)]
            found[section_name.removeprefix(".text.")] = sum(each != nop for each in opcodes)
    return found


# --- counts --------------------------------------------------------------------------------------


def read_info(key):
    """The basic block, opcode and source line of each instruction."""
    text = (BUILD / "kernels" / f"{key}.info").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines())
    return [(int(block), opcode, line) for block, opcode, line in lines]


def title_of(kernel):
    """The kernel's name without namespaces; of CUB's without template arguments too."""
    full = kernel["title"]
    name, _, arguments = full.partition("<")
    if "cub::" in full:
        arguments = ""
    return name.split("::")[-1] + (
        f"<{arguments.replace('laplex::detail::', '')}" if arguments else ""
    )


def sums_of(kernel, info, code, lines):
    """The totals for a kernel's row of the tables; adds to `lines` what its source lines issue."""
    sums = Counter()
    for block, opcode, line in info:
        issued = WARP * kernel["by_warps"][block]
        sums["PTX"] += kernel["by_threads"][block]
        sums["issued"] += issued
        sums[class_of(opcode)] += issued
        lines[line] += issued
    sums["~SASS"] = sums["issued"] * code.sass / code.ptx
    # Copies from global to shared memory (cp.async) count as the former.
    for at, (_, wanted, units, least) in kernel["requests"].items():
        if ".shared" in info[int(at)][1] and ".global" not in info[int(at)][1]:
            sums["turns"] += units
            sums["least turns"] += least
        else:
            sums["B wanted"] += wanted
            sums["B of sectors"] += SECTOR * units
    return sums


def print_table(head, rows):
    def text(cell):
        return f"{cell:.1f}" if isinstance(cell, float) else str(cell)

    columns = [[text(cell) for cell in column] for column in zip(head, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    print()
    for first, *others in zip(*columns, strict=True):
        rest = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *rest]))


def run_program(options, counts):
    program = [BUILD / "programs" / "count", options.n, options.m, options.rows, options.order]
    program += [options.density, "gradients" if options.gradients else "product"]
    program += ["double" if options.double else "float"]
    environment = {**os.environ, "PTX_EMULATOR_COUNTS": str(counts)}
    counts.unlink(missing_ok=True)
    return subprocess.run(list(map(str, program)), env=environment, check=False).returncode


def parse_options():
    parser = argparse.ArgumentParser(prog="run count", description=__doc__)
    parser.add_argument("--n", type=int, default=20000, help="targets (default: 20000)")
    parser.add_argument("--m", type=int, help="sources (default: as many as targets)")
    parser.add_argument("--rows", type=int, default=1, help="vectors (default: 1)")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--sorted", dest="order", action="store_const", const="sorted")
    order.add_argument("--random", dest="order", action="store_const", const="random")
    parser.set_defaults(order="sorted")
    parser.add_argument("--density", type=float, default=100.0, help="targets in a lengthscale")
    parser.add_argument("--gradients", action="store_true", help="count all gradients too")
    parser.add_argument("--double", action="store_true", help="in float64 instead of float32")
    parser.add_argument(
        "--lines", action="store_true", help="list the source lines that issue the most"
    )
    options = parser.parse_args()
    options.m = options.n if options.m is None else options.m
    return options


def main():
    options = parse_options()
    counts = BUILD / "counts.json"
    status = run_program(options, counts)
    if not counts.exists():
        return status or 1

    kernels = json.loads(counts.read_text(encoding="utf-8"))
    codes = machine_code({kernel["name"] for kernel in kernels.values()})
    anchors = (options.n + options.m) * options.rows
    lines, total, first_table, second_table = Counter(), Counter(), [], []
    columns = ["PTX", "issued", "~SASS", *CLASSES]
    for key, kernel in sorted(kernels.items(), key=lambda item: item[1]["order"]):
        code = codes[kernel["name"]]
        sums = sums_of(kernel, read_info(key), code, lines)
        total += sums
        title = title_of(kernel)
        first_table.append([title, *(sums[column] / anchors for column in columns)])
        conflicts = f"{sums['turns'] / sums['least turns']:.2f}" if sums["least turns"] else ""
        second_table.append(
            [
                title,
                kernel["launches"],
                kernel["blocks"],
                sums["B wanted"] / anchors,
                sums["B of sectors"] / anchors,
                conflicts,
                code.ptx,
                code.sass,
                f"{code.sass / code.ptx:.2f}",
                code.registers,
                code.spilled,
            ]
        )
    first_table.append(["all", *(total[column] / anchors for column in columns)])
    rows = f" and {options.rows} rows" if options.rows > 1 else ""
    print(f"\nFor each of {options.n} + {options.m} anchors{rows}:")
    print_table(["kernel", *columns], first_table)
    more = ["launches", "blocks", "B wanted", "B of sectors", "bank turns / least"]
    print_table(["kernel", *more, "PTX", "SASS", "ratio", "registers", "spilled B"], second_table)
    if options.lines:
        most = [[line, issued / anchors] for line, issued in lines.most_common(40)]
        print_table(["source line", "issued"], most)
    return status


if __name__ == "__main__":
    sys.exit(main())
