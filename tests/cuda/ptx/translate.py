#!/usr/bin/env python3
"""Translates PTX, as nvcc writes it, to C++: each kernel becomes a function for one thread.

    translate.py MODULE.ptx OUT_FOLDER PROJECT

A kernel's KEY.cpp is compiled on its own. KEY.info has a line for each instruction: the basic block
that it belongs to, its opcode, and the source line that it came from (within PROJECT by its path).
If the kernel has an instruction that is missing here, KEY.unknown says so, and only a launch of the
kernel fails. MODULE.kernels lists keys and names. Files whose text stays the same are not touched,
so that nothing is compiled again without need.
"""

import functools
import hashlib
import pathlib
import re
import sys

import ptx

CPP = {"pred": "bool", "f16": "uint16_t", "bf16": "uint16_t", "f32": "float", "f64": "double"}
CPP |= {
    f"{kind}{bits}": f"{'int' if kind == 's' else 'uint'}{bits}_t"
    for kind in "bsu"
    for bits in (8, 16, 32, 64)
}
FLOATS = ("float", "double")
HALVES = {"f16": "half", "bf16": "bfloat16"}

SPECIAL = {
    f"%{name}.{axis}": f"t.{name}[{k}]"
    for name in ("tid", "ntid", "ctaid", "nctaid")
    for k, axis in enumerate("xyz")
}
SPECIAL |= {
    "WARP_SZ": "32u",
    "%laneid": "t.lane",
    "%warpid": "(t.index / 32)",
    "%lanemask_eq": "(1u << t.lane)",
    "%lanemask_lt": "((1u << t.lane) - 1)",
    "%lanemask_le": "(~0u >> (31 - t.lane))",
    "%lanemask_gt": "~(~0u >> (31 - t.lane))",
    "%lanemask_ge": "(~0u << t.lane)",
}
ENDS_BLOCK = re.compile(r"(bra|brx|ret|exit|trap)\b")


class Unknown(Exception):
    """PTX that this translator does not know; with a message once it is known where."""


# --- a table of instructions ---------------------------------------------------------------------

INSTRUCTIONS = []  # (pattern of the whole opcode, what writes its C++)
INTEGER = r"(?P<type>[su](?:16|32|64))"
BITS = r"(?P<type>[bsu](?:8|16|32|64))"
FLOAT = r"(?P<type>f32|f64)"
SPACE = r"(?:\.(?P<space>global|const|shared|local|param)(?:::\w+)?)?"
# How the hardware orders and caches accesses has no effect here, where threads take turns.
ORDER = (
    r"(?:\.(?:weak|volatile|relaxed|acquire|release|acq_rel|cta|cluster|gpu|sys"
    r"|nc|ca|cg|cs|cv|lu|wb|wt|L[12]::\w+))*"
)


def instruction(pattern):
    """Declares the function that writes the C++ of the opcodes that match."""

    def declare(write):
        INSTRUCTIONS.append((re.compile(pattern), write))
        return write

    return declare


class Operand:
    """In a template {1} is the first source, of the instruction's type; {2:u32} is one of u32."""

    def __init__(self, body, text, type_):
        self.body, self.text, self.type = body, text, type_

    def __format__(self, type_):
        return self.body.value(self.text, variant(self.type, type_))


def variant(type_, of):
    """`of` itself, or of `type_` the "unsigned" or the "wide" or the "unsigned wide" one."""
    if "unsigned" not in of and "wide" not in of:
        return of or type_
    kind, bits = type_[0], int(type_[1:])
    return ("u" if "unsigned" in of else kind) + str(2 * bits if "wide" in of else bits)


def expression(pattern, template, result=""):
    """Declares instructions with one result, which is an expression of the sources."""

    @instruction(pattern)
    def write(body, match, operands, at):
        groups = match.groupdict()
        sources = [Operand(body, text, groups["type"]) for text in operands]
        groups["T"] = CPP.get(groups["type"])
        formula = template.format(*sources, **groups)
        body.assign(
            operands[0], variant(groups["type"], result), rounded(formula, groups.get("round"))
        )


def rounded(formula, mode):
    """The expression in one of PTX's modes; the nearest number is what C++ gives anyway."""
    mode = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}.get(mode)
    return f"rounded({mode}, [&] {{ return {formula}; }})" if mode else formula


# Signed integers wrap around, as unsigned ones do.
expression(rf"add\.{INTEGER}", "{1:unsigned} + {2:unsigned}", "unsigned")
expression(rf"sub\.{INTEGER}", "{1:unsigned} - {2:unsigned}", "unsigned")
expression(rf"neg\.{INTEGER}", "0 - {1:unsigned}", "unsigned")
expression(rf"abs\.{INTEGER}", "{1} < 0 ? 0 - {1:unsigned} : {1:unsigned}", "unsigned")
expression(rf"mul\.lo\.{INTEGER}", "multiply_low({1:unsigned}, {2:unsigned})", "unsigned")
expression(
    rf"mad\.lo\.{INTEGER}", "multiply_low({1:unsigned}, {2:unsigned}) + {3:unsigned}", "unsigned"
)
expression(rf"mul\.hi\.{INTEGER}", "multiply_high({1}, {2})")
expression(rf"mad\.hi\.{INTEGER}", "multiply_high({1}, {2}) + {3:unsigned}", "unsigned")
expression(rf"mul\.wide\.{INTEGER}", "multiply_wide({1}, {2})", "wide")
expression(rf"mad\.wide\.{INTEGER}", "multiply_wide({1}, {2}) + {3:unsigned wide}", "unsigned wide")
expression(rf"div\.{INTEGER}", "divide({1}, {2})")
expression(rf"rem\.{INTEGER}", "remainder({1}, {2})")
expression(rf"(?P<which>min|max)\.{INTEGER}", "std::{which}({1}, {2})")
expression(r"and\.(?P<type>b16|b32|b64|pred)", "{1} & {2}")
expression(r"or\.(?P<type>b16|b32|b64|pred)", "{1} | {2}")
expression(r"xor\.(?P<type>b16|b32|b64|pred)", "{1} ^ {2}")
expression(r"not\.(?P<type>b16|b32|b64)", "~{1}")
expression(r"not\.(?P<type>pred)", "!{1}")
expression(rf"shl\.{BITS}", "shift_left({1}, {2:u32})")
expression(rf"shr\.{BITS}", "shift_right({1}, {2:u32})")
expression(r"shf\.l\.wrap\.(?P<type>b32)", "funnel_left({1}, {2}, {3:u32} & 31)")
expression(r"shf\.r\.wrap\.(?P<type>b32)", "funnel_right({1}, {2}, {3:u32} & 31)")
expression(r"shf\.l\.clamp\.(?P<type>b32)", "funnel_left({1}, {2}, std::min({3:u32}, 32u))")
expression(r"shf\.r\.clamp\.(?P<type>b32)", "funnel_right({1}, {2}, std::min({3:u32}, 32u))")
expression(r"lop3\.(?P<type>b32)", "lop3({1}, {2}, {3}, {4})")
expression(r"prmt\.(?P<type>b32)", "permute({1}, {2}, {3})")
expression(r"bfe\.(?P<type>[su](?:32|64))", "extract_bits({1}, {2:u32}, {3:u32})")
expression(r"bfi\.(?P<type>b32|b64)", "insert_bits({1}, {2}, {3:u32}, {4:u32})")
expression(r"bmsk\.clamp\.(?P<type>b32)", "bit_mask({1}, {2}, true)")
expression(r"bmsk\.wrap\.(?P<type>b32)", "bit_mask({1}, {2}, false)")
expression(r"popc\.(?P<type>b32|b64)", "__builtin_popcountll({1})", "u32")
expression(r"clz\.(?P<type>b32|b64)", "leading_zeros({1})", "u32")
expression(r"brev\.(?P<type>b32|b64)", "reversed_bits({1})")
expression(r"bfind\.(?P<type>[su](?:32|64))", "find_top_bit({1}, false)", "u32")
expression(r"bfind\.shiftamt\.(?P<type>[su](?:32|64))", "find_top_bit({1}, true)", "u32")
for type_, test in {"s32": "{3:s32} >= 0", "f32": "{3:f32} >= 0"}.items():
    expression(rf"slct\.(?P<type>[bsuf](?:16|32|64))\.{type_}", f"{test} ? {{1}} : {{2}}")
expression(r"selp\.(?P<type>[bsuf](?:16|32|64))", "{3:pred} ? {1} : {2}")


def float_expression(name, template, types="f32|f64"):
    """Declares an instruction, and the one that flushes subnormal numbers to zero (.ftz)."""
    expression(rf"{name}\.(?P<type>{types})", template)
    flushed = re.sub(r"\{[123]\}", r"flushed(\g<0>)", template)
    expression(rf"{name}\.ftz\.(?P<type>f32)", f"flushed({flushed})")


ROUND = r"(?:\.(?P<round>r[nzmp]))"
for name, formula in {
    rf"add{ROUND}?": "{1} + {2}",
    rf"sub{ROUND}?": "{1} - {2}",
    rf"mul{ROUND}?": "{1} * {2}",
    rf"fma{ROUND}": "std::fma({1}, {2}, {3})",
    rf"div{ROUND}": "{1} / {2}",
    rf"rcp{ROUND}": "{T}(1) / {1}",
    rf"sqrt{ROUND}": "std::sqrt({1})",
}.items():
    float_expression(name, formula)
    expression(rf"{name}\.sat\.(?P<type>f32)", f"saturated({formula})")
float_expression("neg", "-{1}")
float_expression("abs", "std::fabs({1})")
float_expression("min", "smaller({1}, {2})")
float_expression("max", "larger({1}, {2})")
expression(rf"copysign\.{FLOAT}", "std::copysign({2}, {1})")
expression(r"rsqrt\.approx\.(?P<type>f64)", "1 / std::sqrt({1})")
expression(r"rcp\.approx\.ftz\.(?P<type>f64)", "upper_half(1 / flushed(upper_half({1})))")
expression(
    r"rsqrt\.approx\.ftz\.(?P<type>f64)", "upper_half(1 / std::sqrt(flushed(upper_half({1}))))"
)
# Approximations in float are the nearest number here.
for name, formula in {
    "ex2": "std::exp2({1})",
    "lg2": "std::log2({1})",
    "sin": "std::sin({1})",
    "cos": "std::cos({1})",
    "tanh": "std::tanh({1})",
    "rcp": "1 / {1}",
    "sqrt": "std::sqrt({1})",
    "rsqrt": "1 / std::sqrt({1})",
    "div": "{1} / {2}",
}.items():
    float_expression(rf"{name}\.(?:approx|full)", formula, "f32")
for name, test in {
    "finite": "std::isfinite({1:%s})",
    "infinite": "std::isinf({1:%s})",
    "number": "!std::isnan({1:%s})",
    "notanumber": "std::isnan({1:%s})",
}.items():
    for type_ in ("f32", "f64"):
        expression(rf"testp\.{name}\.{type_}(?P<type>)", test % type_, "pred")


@instruction(r"(?P<name>add|sub)(?P<reads>c?)(?P<writes>\.cc)?\.(?P<type>[su](?:32|64))")
@instruction(
    r"(?P<name>mad)(?P<reads>c?)\.(?P<half>lo|hi)(?P<writes>\.cc)?\.(?P<type>[su](?:32|64))"
)
def with_carry(body, match, operands, at):
    type_ = "u" + match["type"][1:]
    sources = [body.value(text, type_) for text in operands[1:]]
    if match["name"] == "mad":
        half = "low" if match["half"] == "lo" else "high"
        factors = ", ".join(body.value(text, match["type"]) for text in operands[1:3])
        sources = [f"({CPP[type_]})multiply_{half}({factors})", sources[2]]
    function = "subtract_borrow" if match["name"] == "sub" else "add_carry"
    body.write(f"{{ bool carry_ = {'carry' if match['reads'] else 'false'};")
    body.assign(operands[0], type_, f"{function}<{CPP[type_]}>({', '.join(sources)}, carry_)")
    body.write("carry = carry_; }" if match["writes"] else "}")


@instruction(r"mov\.(?P<type>pred|[bsuf](?:16|32|64))")
def move(body, match, operands, at):
    to, value = operands
    type_ = match["type"]
    size = ptx.SIZES[type_]
    if to.startswith("{"):
        parts = body.vector(to)
        part = f"b{8 * size // len(parts)}"
        whole = f"b{8 * size}"
        body.write(f"{{ const {CPP[whole]} whole = {body.value(value, whole)};")
        for k, register in enumerate(parts):
            body.assign(register, part, f"({CPP[part]})(whole >> {k * 8 * size // len(parts)})")
        body.write("}")
    elif value.startswith("{"):
        parts = body.vector(value)
        part, whole = f"b{8 * size // len(parts)}", f"b{8 * size}"
        shifted = [
            f"({CPP[whole]}){body.value(p, part)} << {k * 8 * size // len(parts)}"
            for k, p in enumerate(parts)
        ]
        body.assign(to, whole, " | ".join(shifted))
    else:
        body.assign(to, type_, body.value(value, type_))


@instruction(
    rf"(?P<name>ldu?|st){ORDER}{SPACE}{ORDER}(?:\.v(?P<count>[24]))?\.(?P<type>[bsuf](?:8|16|32|64))"
)
def access(body, match, operands, at):
    stores = match["name"] == "st"
    address, values = operands if stores else reversed(operands)
    type_, count = match["type"], int(match["count"] or 1)
    size = ptx.SIZES[type_]
    pointer = body.pointer(address, match["space"], size * count, "store" if stores else "load", at)
    body.write(f"{{ uint8_t* const p = {pointer};")
    for k, register in enumerate(body.vector(values)):
        if stores:
            body.write(f"set<{CPP[type_]}>(p + {k * size}, {body.value(register, type_)});")
        elif register != "_":
            body.assign(register, type_, f"get<{CPP[type_]}>(p + {k * size})")
    body.write("}")


@instruction(
    rf"(?P<name>atom|red){ORDER}{SPACE}{ORDER}\.(?P<what>add|min|max|and|or|xor|exch|cas|inc|dec)"
    rf"{ORDER}\.(?P<type>[bsuf](?:32|64))"
)
def atomic(body, match, operands, at):
    type_ = match["type"]
    if match["name"] == "red":
        operands = ("_", *operands)
    pointer = body.pointer(operands[1], match["space"], ptx.SIZES[type_], "atomic", at)
    x = body.value(operands[2], type_)
    new = {
        "add": f"old + {x}",
        "min": f"std::min(old, {x})",
        "max": f"std::max(old, {x})",
        "and": f"old & {x}",
        "or": f"old | {x}",
        "xor": f"old ^ {x}",
        "exch": x,
        "inc": f"old >= {x} ? 0 : old + 1",
        "dec": f"old == 0 || old > {x} ? {x} : old - 1",
    }
    if match["what"] == "cas":
        expression_ = f"old == {x} ? {body.value(operands[3], type_)} : old"
    else:
        expression_ = new[match["what"]]
    c = CPP[type_]
    body.assign(
        operands[0],
        type_,
        f"read_modify_write<{c}>({pointer}, [&]({c} old) {{ return ({c})({expression_}); }})",
    )


@instruction(r"cvta(?P<to>\.to)?\.(?P<space>global|local|shared|param)\.(?P<type>u64)")
def convert_address(body, match, operands, at):
    value = body.value(operands[1], "u64")
    if match["space"] == "shared":
        value += " - address_of(t.shared)" if match["to"] else " + address_of(t.shared)"
    body.assign(operands[0], "u64", value)


@instruction(
    r"setp\.(?P<compare>\w+)(?:\.(?P<combine>and|or|xor))?(?P<flush>\.ftz)?"
    r"\.(?P<type>[bsuf](?:16|32|64))"
)
def compare(body, match, operands, at):
    type_, name = match["type"], match["compare"]
    x, y = body.value(operands[1], type_), body.value(operands[2], type_)
    if match["flush"]:
        x, y = f"flushed({x})", f"flushed({y})"
    signs = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    signs |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="} if type_[0] == "u" else {}
    if type_[0] == "f" and name in ("num", "nan"):
        result = ("" if name == "num" else "!") + f"ordered({x}, {y})"
    elif type_[0] == "f" and name.endswith("u") and name[:2] in signs:
        result = f"!ordered({x}, {y}) || {x} {signs[name[:2]]} {y}"
    elif type_[0] == "f" and name in signs:
        result = f"ordered({x}, {y}) && {x} {signs[name]} {y}"
    elif type_[0] != "f" and name in signs:
        result = f"{x} {signs[name]} {y}"
    else:
        raise Unknown
    true, _, false = operands[0].partition("|")
    sign = {"and": "&&", "or": "||", "xor": "!="}.get(match["combine"])
    other = f" {sign} {body.value(operands[3], 'pred')}" if sign else ""
    if not false:
        body.assign(true, "pred", f"({result}){other}")
        return
    body.write(f"{{ const bool holds = {result}, first = holds{other}, second = !holds{other};")
    body.assign(true, "pred", "first")
    body.assign(false, "pred", "second")
    body.write("}")


NUMBER = r"[bsu](?:8|16|32|64)|f16|bf16|f32|f64"


@instruction(
    r"cvt(?:\.(?P<round>r[nzmp]i?))?(?P<flush>\.ftz)?(?P<saturate>\.sat)?"
    rf"\.(?P<to>{NUMBER})\.(?P<from>{NUMBER})"
)
def convert(body, match, operands, at):
    to, from_, mode = match["to"], match["from"], match["round"] or ""
    x = body.value(operands[1], from_)
    to_float, from_float = "f" in to, "f" in from_
    if match["saturate"] and to != "f32":
        raise Unknown
    if from_ in ("f16", "bf16"):
        x, from_ = f"from_{HALVES[from_]}({x})", "f32"
    if match["flush"] and from_ == "f32":
        x = f"flushed({x})"
    if mode.endswith("i"):
        whole = {"n": "nearbyint", "z": "trunc", "m": "floor", "p": "ceil"}[mode[1]]
        x, mode = f"std::{whole}({x})", "whole"
    if to in ("f16", "bf16"):
        # With one rounding, and therefore only from what a double holds.
        if mode != "rn" or from_ in ("s64", "u64"):
            raise Unknown
        result = f"to_{HALVES[to]}({x})"
    elif to_float:
        if not from_float and mode not in ("rn", "rz", "rm", "rp"):
            raise Unknown
        result = rounded(f"({CPP[to]}){x}", mode)
        if match["saturate"]:
            result = f"saturated({result})"
        if match["flush"]:
            result = f"flushed({result})"
    elif from_float:
        if mode != "whole":
            raise Unknown
        result = f"to_integer<{CPP[to]}>({x})"
    elif mode:
        raise Unknown
    else:
        result = f"({CPP[to]}){x}"
    body.assign(operands[0], to, result)


@instruction(r"cvt\.rn\.(?P<to>f16|bf16)x2\.f32")
def convert_two(body, match, operands, at):
    upper, lower = (f"to_{HALVES[match['to']]}({body.value(x, 'f32')})" for x in operands[1:])
    body.assign(operands[0], "b32", f"uint32_t({upper}) << 16 | {lower}")


@instruction(r"bra(?:\.uni)?")
def branch(body, match, operands, at):
    body.write(f"goto {cpp_name('to_', operands[0])};")


@instruction(r"brx\.idx(?:\.uni)?")
def branch_of_table(body, match, operands, at):
    index, table = operands
    cases = "".join(
        f"case {k}: goto {cpp_name('to_', label)}; "
        for k, label in enumerate(body.branch_targets[table])
    )
    body.write(f"switch ({body.value(index, 'u32')}) {{ {cases}}}")


@instruction(r"ret(?:\.uni)?")
def return_(body, match, operands, at):
    body.write("return;")


@instruction(r"exit")
def exit_(body, match, operands, at):
    body.write("exit_thread(t);")


@instruction(r"trap")
def trap(body, match, operands, at):
    body.write("trap(t);")


@instruction(r"call(?:\.uni)?")
def call(body, match, operands, at):
    results = body.names(operands[0]) if operands[0].startswith("(") else []
    name, *arguments = operands[1:] if results else operands
    if name not in body.kernel.module.functions:
        raise Unknown
    body.kernel.need(name)
    places = [
        body.memory(symbol) for symbol in results + (body.names(arguments[0]) if arguments else [])
    ]
    body.write(f"{cpp_name('f_', name)}({', '.join(['t', *places])});")


@instruction(r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?")
def barrier(body, match, operands, at):
    (number,) = operands  # not for a part of the block
    body.write(f"barrier(t, {body.value(number, 'u32')}, {at});")


@instruction(r"(?:bar|barrier)(?:\.cta)?\.red(?:\.aligned)?\.(?P<how>and|or)(?:\.aligned)?\.pred")
def barrier_reduce(body, match, operands, at):
    to, number, value = operands
    how = {"and": "all", "or": "any"}[match["how"]]
    arguments = f"t, {body.value(number, 'u32')}, {how}, {body.value(value, 'pred')}, {at}"
    body.assign(to, "pred", f"barrier_reduce({arguments}) != 0")


@instruction(r"(?:bar|barrier)(?:\.cta)?\.red(?:\.aligned)?\.popc(?:\.aligned)?\.u32")
def barrier_count(body, match, operands, at):
    to, number, value = operands
    body.assign(
        to,
        "u32",
        f"barrier_reduce(t, {body.value(number, 'u32')}, count, {body.value(value, 'pred')}, {at})",
    )


@instruction(r"bar\.warp\.sync")
def warp_barrier(body, match, operands, at):
    body.write(f"warp_barrier(t, {body.value(operands[0], 'u32')}, {at});")


@instruction(r"(?:membar|fence|prefetchu?)(?:\.[\w:]+)*|nanosleep\.u32")
def nothing(body, match, operands, at):
    body.write(";")


@instruction(r"shfl\.sync\.(?P<how>up|down|bfly|idx)\.b32")
def shuffle(body, match, operands, at):
    to, value, lane, clamp, mask = operands
    register, _, predicate = to.partition("|")
    how = {"bfly": "butterfly", "idx": "index"}.get(match["how"], match["how"])
    sources = ", ".join(
        [body.value(value, "b32"), *(body.value(each, "u32") for each in (lane, clamp, mask))]
    )
    body.write("{ bool in_range = false;")
    body.assign(register, "b32", f"shuffle(t, {how}, {sources}, in_range, {at})")
    if predicate:
        body.assign(predicate, "pred", "in_range")
    body.write("}")


@instruction(
    r"vote\.(?:sync\.(?P<how>all|any|uni|ballot)|(?P<how2>all|any|uni|ballot)\.sync)\.(?:pred|b32)"
)
def vote(body, match, operands, at):
    how = match["how"] or match["how2"]
    mask = body.value(operands[2], "u32")
    votes = f"ballot(t, {body.value(operands[1], 'pred')}, {mask}, {at})"
    if how == "ballot":
        body.assign(operands[0], "b32", votes)
        return
    test = {
        "all": f"votes == {mask}",
        "any": "votes != 0",
        "uni": f"votes == {mask} || votes == 0",
    }[how]
    body.write(f"{{ const uint32_t votes = {votes};")
    body.assign(operands[0], "pred", test)
    body.write("}")


@instruction(r"match\.any\.sync\.(?P<type>b32|b64)")
def match_any(body, match, operands, at):
    to, value, mask = operands
    arguments = f"t, {body.value(value, match['type'])}, {body.value(mask, 'u32')}, {at}"
    body.assign(to, "b32", f"match_any({arguments})")


@instruction(r"redux\.sync\.(?P<what>add|min|max|and|or|xor)\.(?P<type>[bsu]32)")
def warp_reduce(body, match, operands, at):
    to, value, mask = operands
    what, c = match["what"], CPP[match["type"]]
    sign = {"add": "+", "and": "&", "or": "|", "xor": "^"}.get(what)
    both = f"a {sign} b" if sign else f"std::{what}<{c}>(a, b)"
    function = f"[](uint32_t a, uint32_t b) {{ return uint32_t({both}); }}"
    value, mask = body.value(value, "b32"), body.value(mask, "u32")
    body.assign(to, "b32", f"warp_reduce(t, {value}, {function}, {mask}, {at})")


@instruction(r"activemask\.b32")
def active_mask(body, match, operands, at):
    # The hardware may have parted the lanes: a program must be right where each is alone.
    body.assign(operands[0], "b32", "1u << t.lane")


@instruction(r"cp\.async\.(?:ca|cg)\.shared(?:::cta)?\.global(?:\.L2::\w+)?")
def copy_asynchronously(body, match, operands, at):
    to, from_, size, *read = operands  # what is not read becomes zero
    read = body.value(read[0], "u32") if read else size
    target = body.pointer(to, "shared", int(size), "store", at)
    source = body.pointer(from_, "global", read, "load", at)
    body.write(f"copy_later(t, {target}, {size}, {read} ? {source} : nullptr, {read});")


@instruction(r"cp\.async\.(?P<what>commit_group|wait_group|wait_all)")
def wait_for_copies(body, match, operands, at):
    what = match["what"]
    body.write(f"{what}(t{', ' + operands[0] if operands else ''});")


@functools.cache
def writer(opcode):
    """What writes the C++ of an opcode, and the match of its pattern; None if nothing does."""
    for pattern, write in INSTRUCTIONS:
        if match := pattern.fullmatch(opcode):
            return write, match
    return None


# --- bodies --------------------------------------------------------------------------------------


def cpp_name(prefix, name):
    return prefix + re.sub(r"\W", "_", name)


class Body:
    """The C++ of a function's body."""

    def __init__(self, kernel, function):
        self.kernel = kernel
        self.function = function
        self.lines = []
        # What names stand for, innermost block last: a C++ name, and a register's type or None for
        # memory.
        pointers = [name for name, _ in function.results + function.parameters]
        self.scopes = [{name: (f"p{k}", None) for k, name in enumerate(pointers)}]
        self.place = "0 0 0"
        self.callers = {}
        self.starts_block = True
        self.label = ""
        self.branch_targets = {}
        for item in ptx.items(function.body):
            self.item(item)

    def signature(self):
        pointers = [
            f"uint8_t* p{k}" for k in range(len(self.function.results + self.function.parameters))
        ]
        return f"void {cpp_name('f_', self.function.name)}({', '.join(['Thread& t', *pointers])})"

    def definition(self):
        return "\n".join(
            [self.signature() + " {", "[[maybe_unused]] bool carry = false;", *self.lines, "}"]
        )

    def write(self, line):
        self.lines.append(line)

    def item(self, item):
        if isinstance(item, ptx.Instruction):
            self.instruction(item)
        elif item[0] == "place":
            _, self.place, caller = item
            if caller:
                self.callers[self.place] = caller
        elif item[0] == "label":
            self.write(f"{cpp_name('to_', item[1])}:;")
            self.label = item[1]
            self.starts_block = True
        elif item[0] == "declare":
            self.declare(item[1])
        elif item[0] == "{":
            self.scopes.append({})
            self.write("{")
        else:
            self.scopes.pop()
            self.write("}")

    def declare(self, text):
        if text.startswith(".branchtargets"):
            targets = text.removeprefix(".branchtargets").split(",")
            self.branch_targets[self.label] = [target.strip() for target in targets]
            return
        if not text.startswith(".reg"):
            variable = ptx.variable(text)
            if variable.space == "shared":
                self.kernel.put_in_shared(variable)
            else:
                name = cpp_name("m_", variable.name)
                self.scopes[-1][variable.name] = (name, None)
                self.write(f"alignas({max(variable.align, 16)}) uint8_t {name}[{variable.size}];")
                self.write(f"std::memset({name}, 0xFF, {variable.size});")
            return
        type_, names = re.fullmatch(r"\.reg \.(\w+) (.*)", text).groups()
        for name in names.split(","):
            many = re.fullmatch(r"\s*(%?[\w$]+)<(\d+)>\s*", name)
            registers = [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [name.strip()]
            for register in registers:
                self.scopes[-1][register] = (cpp_name("r_", register.removeprefix("%")), type_)
            self.write(
                f"{CPP[type_]} {', '.join(self.scopes[-1][register][0] for register in registers)};"
            )

    def instruction(self, item):
        kernel = self.kernel
        if self.starts_block:
            self.write(f"++t.counts[{kernel.num_blocks}];")
            kernel.num_blocks += 1
            self.starts_block = False
        at = len(kernel.info)
        kernel.info.append(f"{kernel.num_blocks - 1} {item.opcode} {self.source()}\n")
        before = len(self.lines)
        found = writer(item.opcode)
        try:
            if not found:
                raise Unknown
            write, match = found
            write(self, match, item.operands, at)
        except (Unknown, ValueError, KeyError, IndexError) as error:
            raise Unknown(
                f"an instruction that translate.py does not know: {item.text}\n"
                f"  at {self.source()}, in {self.function.name}"
            ) from error
        if item.predicate:
            condition = self.value(item.predicate, "pred")
            self.lines[before:] = [f"if ({condition}) {{", *self.lines[before:], "}"]
        if ENDS_BLOCK.match(item.opcode):
            self.starts_block = True

    def source(self):
        """The source line, or the project's line that it was inlined into."""
        module, place, seen = self.kernel.module, self.place, set()
        while (
            place.split()[0] not in module.projects and place in self.callers and place not in seen
        ):
            seen.add(place)
            place = self.callers[place]
        if place.split()[0] not in module.projects:
            place = self.place
        file, line, _ = place.split()
        return f"{module.sources.get(file, '?')}:{line}"

    # Operands.

    def find(self, name):
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def vector(self, text):
        return [each.strip() for each in text[1:-1].split(",")] if text.startswith("{") else [text]

    def names(self, text):
        return [each.strip() for each in text[1:-1].split(",") if each.strip()]

    def memory(self, name):
        cpp, type_ = self.find(name)
        if type_:
            raise Unknown
        return cpp

    def value(self, text, type_):
        """The C++ expression of an operand; its type in C++ is exactly CPP[type_]."""
        c = CPP[type_]
        if type_ == "pred" and text.startswith("!"):
            return f"!{self.value(text[1:], type_)}"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
            word = f"uint32_t(0x{match[1]}u)" if match[1] else f"uint64_t(0x{match[2]}ull)"
            return f"bits<{c}>({word})"
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return f"({c}){int(text.rstrip('U'), 0) % (1 << 64)}ull"
        if text in SPECIAL:
            return f"({c}){SPECIAL[text]}"
        if found := self.find(text):
            name, own = found
            if own is None:
                return f"({c})address_of({name})"
            if CPP[own] == c:
                return name
            if "bool" in (CPP[own], c) or ptx.SIZES[own] < ptx.SIZES[type_]:
                raise Unknown
            if c in FLOATS or CPP[own] in FLOATS:
                if ptx.SIZES[own] != ptx.SIZES[type_]:
                    raise Unknown
                return f"bits<{c}>({name})"
            return f"({c}){name}"
        symbol, _, offset = text.partition("+")
        return f"({c})({self.kernel.symbol(symbol.strip())} + {int(offset or '0', 0)})"

    def assign(self, text, type_, expression_):
        """Writes that a register becomes the expression, which is converted to CPP[type_] first."""
        if text == "_":
            self.write(f"(void)({expression_});")
            return
        name, own = self.find(text)
        c = CPP[type_]
        if CPP[own] == c:
            self.write(f"{name} = {expression_};")
        elif c in FLOATS or CPP[own] in FLOATS:
            self.write(f"{name} = bits<{CPP[own]}>(({c})({expression_}));")
        elif "bool" in (CPP[own], c):
            raise Unknown
        else:
            self.write(f"{name} = ({c})({expression_});")

    def pointer(self, text, space, size, how, at):
        match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        base, offset = match[1], int(match[2] or "0", 0)
        found = self.find(base)
        if found and found[1]:
            address = f"(uint64_t){found[0]}" if ptx.SIZES[found[1]] < 8 else found[0]
        else:
            address = self.value(base, "u64")
        if offset:
            address = f"{address} + {offset % (1 << 64)}ull"
        function = {None: "generic", "param": "local", "const": "global"}.get(space, space)
        return f"{function}(t, {address}, {size}, {how}, {at})"


class Kernel:
    """An entry, with the functions that it calls and the arrays that it reads."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        self.info = []  # the line of each instruction in KEY.info
        self.num_blocks = 0
        self.shared = {}  # where static shared memory lies
        self.static_shared = 0
        self.arrays = []
        self.needed = [name]
        self.bodies = []
        for each in self.needed:  # grows
            self.bodies.append(Body(self, module.functions[each]))

    def need(self, name):
        if name not in self.needed:
            self.needed.append(name)

    def put_in_shared(self, array):
        if array.name not in self.shared:
            at = -(-self.static_shared // array.align) * array.align
            self.shared[array.name] = at
            self.static_shared = at + array.size

    def symbol(self, name):
        """The address of an array of the module, or of one in shared memory."""
        if name in self.shared:
            return f"{self.shared[name]}u"
        array = self.module.arrays.get(name)
        if array is None:
            raise Unknown
        if array.space != "shared":
            if array not in self.arrays:
                self.arrays.append(array)
            return f"address_of({cpp_name('a_', name)})"
        if array.size is None:
            return "t.dynamic_shared"
        self.put_in_shared(array)
        return f"{self.shared[name]}u"

    def cpp(self):
        lines = ['#include "thread.hpp"', "namespace emulator {", "namespace {"]
        for array in self.arrays:
            name = cpp_name("", array.name)
            values = ", ".join(map(str, array.values)) or "0"
            lines += [
                f"const uint8_t v_{name}[] = {{{values}}};",
                f'uint8_t* const a_{name} = module_array("{self.module.name}", "{array.name}", '
                f"{array.size}, v_{name}, {len(array.values)});",
            ]
        lines += [f"{body.signature()};" for body in self.bodies]
        lines += [body.definition() for body in self.bodies]
        entry = self.bodies[0]
        sizes = [size for _, size in entry.function.parameters]
        arguments = ", ".join(["t", *(f"p[{k}]" for k in range(len(sizes)))])
        static_shared = -(-self.static_shared // 16) * 16
        lines += [
            f"const uint32_t parameter_bytes[] = {{{', '.join(map(str, sizes or [0]))}}};",
            "void run(Thread& t, [[maybe_unused]] uint8_t* const* p) {",
            f"{cpp_name('f_', self.name)}({arguments});",
            "}",
            "}",
            'extern "C" const Kernel ptx_kernel;',
            f'const Kernel ptx_kernel = {{"{self.name}", {static_shared}, {len(sizes)}, '
            f"parameter_bytes, {self.num_blocks}, {len(self.info)}, run}};",
            "}",
        ]
        return "\n".join(lines) + "\n"


def key_of(module, name):
    """A name for a kernel's files: readable, short and the same from one build to the next."""
    words, rest = [], re.sub(r"^_Z[NL]*", "", name)
    while match := re.match(r"\d+", rest):
        end = match.end() + int(match[0])
        words.append(rest[match.end() : end])
        rest = rest[end:]
    digest = hashlib.sha256(f"{module.name} {name}".encode()).hexdigest()
    return f"{words[-1] if words else 'kernel'}-{digest[:10]}"


def write_if_new(path, text):
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main():
    path, out, root = map(pathlib.Path, sys.argv[1:])
    module = ptx.Module(path, root)
    out.mkdir(parents=True, exist_ok=True)
    listed = []
    for entry in module.entries():
        key = key_of(module, entry.name)
        listed.append(f"{key} {entry.name}\n")
        unknown = out / f"{key}.unknown"
        unknown.unlink(missing_ok=True)
        try:
            kernel = Kernel(module, entry.name)
        except Unknown as message:
            print(f"warning: {message}", file=sys.stderr)
            unknown.write_text(str(message), encoding="utf-8")
            continue
        write_if_new(out / f"{key}.cpp", kernel.cpp())
        write_if_new(out / f"{key}.info", "".join(kernel.info))
    (out / f"{module.name}.kernels").write_text("".join(listed), encoding="utf-8")


if __name__ == "__main__":
    main()
