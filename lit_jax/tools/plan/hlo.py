"""What a compiled program moves: HBM bytes and collectives, counted in the text that XLA prints.

`cost_analysis` counts the body of a loop once. Here every instruction counts as often as its loop runs it, with the
operands that it reads and the results that it writes, as far as these are in HBM: a buffer with a memory space in its
layout, `S(1)`, stays on the chip.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
# The types whose names do not give the number of bits.
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_FREE = frozenset(
    """parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id copy-done slice-done
    async-done async-update all-gather-done all-reduce-done collective-permute-done optimization-barrier
    add-dependency""".split()
)
_BOOKKEEPING = re.compile(
    r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGather\w*|AsyncCollective\w*)"'
)
_BUFFER = re.compile(r"(pred|bf16|[a-z]\w*?\d+)\[([\d,]*)\](\{[^{}]*\})?")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.-]+)")


class Buffer(NamedTuple):
    """One array in the shape of an instruction."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype) or int(re.sub(r"\D.*", "", re.sub(r"^\D+", "", self.dtype)))
        count = 1
        for size in self.dims:
            count *= size
        return count * bits // 8


class Instruction(NamedTuple):
    name: str
    opcode: str
    out: tuple[Buffer, ...]
    operands: tuple[str, ...]
    rest: str  # Attributes: the computations that it calls, its metadata.
    root: bool

    def called(self, attribute: str) -> str | None:
        match = re.search(rf"{attribute}=%?([\w.-]+)", self.rest)
        return match[1] if match else None

    @property
    def op_name(self) -> str:
        """The place in the Python program from which it comes."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


class Program:
    """The text of a compiled module: `compiled.as_text()`."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.-]+) \(", line)):
                current = self.computations[match[2]] = {}
                self.entry = match[2] if match[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and " = " in line:
                instruction = _parse(line)
                current[instruction.name] = instruction

    def traffic(self) -> Counter[str]:
        """HBM bytes of one run, by part: "vision", "text", or "rest" (loss, optimiser, heads)."""
        moved: Counter[str] = Counter()
        for times, computation, instruction in self._runs(self.entry, 1):
            part = re.search(r"/(vision|text)(/|$)", instruction.op_name)
            moved[part[1] if part else "rest"] += times * self._bytes(computation, instruction)
        return moved

    def collectives(self) -> dict[str, tuple[int, int]]:
        """Kind -> (times run, bytes of the results on a device). A channel that XLA has split counts once."""
        seen: set[tuple[str, str]] = set()
        totals: dict[str, tuple[int, int]] = {}
        for times, name, instruction in self._runs(self.entry, 1, inside_fusions=True):
            kind = instruction.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            if kind not in COLLECTIVES:
                continue
            if channel and (kind, channel[1]) in seen:
                continue
            seen.add((kind, channel[1] if channel else f"{name}/{instruction.name}"))
            count, size = totals.get(kind, (0, 0))
            own = sum(buffer.bytes for buffer in instruction.out)
            totals[kind] = count + times, size + times * own
        return totals

    def buffers(self) -> set[tuple[int, ...]]:
        """The shapes of all arrays in the program."""
        return {buffer.dims for body in self.computations.values() for i in body.values() for buffer in i.out}

    def _runs(
        self, name: str, times: int, *, inside_fusions: bool = False
    ) -> Iterator[tuple[int, str, Instruction]]:
        """Every instruction that runs on its own, and how often."""
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                body, condition = instruction.called("body"), instruction.called("condition")
                assert body and condition
                yield from self._runs(body, times * self._trips(condition), inside_fusions=inside_fusions)
            elif instruction.opcode in ("call", "async-start", "conditional"):
                for called in _CALLED.findall(instruction.rest):
                    yield from self._runs(called, times, inside_fusions=inside_fusions)
            elif instruction.opcode == "fusion" and inside_fusions:
                yield from self._runs(instruction.called("calls") or "", times, inside_fusions=True)
            else:
                yield times, name, instruction

    def _trips(self, condition: str) -> int:
        """How often a loop runs: the bound with which its condition compares the loop counter."""
        bounds = [
            int(match[1])
            for instruction in self.computations[condition].values()
            if instruction.opcode == "constant" and (match := re.match(r"(\d+)\)", instruction.rest))
        ]
        return max(bounds, default=1)

    def _bytes(self, name: str, instruction: Instruction) -> int:
        """HBM bytes that one run of an instruction reads and writes."""
        if instruction.opcode in _FREE or _BOOKKEEPING.search(instruction.rest):
            return 0
        body = self.computations[name]
        operands = [body[operand] for operand in instruction.operands if operand in body]
        if instruction.opcode in ("copy-start", "slice-start"):
            source, target = operands[0].out[0], instruction.out[1]
            return target.bytes * (source.in_hbm + target.in_hbm)
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            return sum(b.bytes for b in instruction.out if b.in_hbm) + (
                instruction.out[0].bytes if operands and operands[0].out[0].in_hbm else 0
            )
        if instruction.opcode == "dynamic-update-slice":
            return 2 * operands[1].out[0].bytes if instruction.out[0].in_hbm else 0
        called = instruction.called("calls") if instruction.opcode == "fusion" else None
        if called is None:
            return _hbm(instruction) + sum(map(_hbm, operands))
        inner = _Fusion(self.computations, called)
        read = sum(
            min(_hbm(operand), inner.read(i)) if operand.out and operand.out[0].in_hbm else 0
            for i, operand in enumerate(operands)
        )
        return read + inner.written(instruction)


class _Fusion:
    """The bytes that a fused computation really reads and writes."""

    def __init__(self, computations: dict[str, dict[str, Instruction]], name: str) -> None:
        self._computations = computations
        self._body = computations[name]

    @cached_property
    def _users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {}
        for instruction in self._body.values():
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
        return users

    def read(self, index: int) -> int:
        """Bytes read from operand `index`: only those of its slices, if nothing else of it is used."""
        parameter = next(
            i for i in self._body.values() if i.opcode == "parameter" and i.rest.startswith(f"{index})")
        )
        whole = sum(buffer.bytes for buffer in parameter.out)
        total = 0
        waiting = [parameter.name]
        while waiting:
            name = waiting.pop()
            for user in self._users.get(name, []):
                if user.opcode == "bitcast":
                    waiting.append(user.name)
                elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                    total += user.out[0].bytes
                elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                    continue  # It is written in place, and the rest is not touched.
                elif user.opcode == "fusion" and (called := user.called("calls")):
                    inner = _Fusion(self._computations, called)
                    total += sum(inner.read(i) for i, operand in enumerate(user.operands) if operand == name)
                else:
                    return whole
        return min(total, whole)

    def written(self, fusion: Instruction) -> int:
        """Bytes of the results. A result that is updated in place counts only its new part."""
        root = next(i for i in self._body.values() if i.root)
        parts = [self._body[name] for name in root.operands] if root.opcode == "tuple" else [root]
        total = 0
        for buffer, part in zip(fusion.out, parts, strict=False):
            while part.opcode == "bitcast":
                part = self._body[part.operands[0]]
            if buffer.in_hbm:
                update = part.opcode == "dynamic-update-slice"
                total += self._body[part.operands[1]].out[0].bytes if update else buffer.bytes
        return total


def _hbm(instruction: Instruction) -> int:
    return sum(buffer.bytes for buffer in instruction.out if buffer.in_hbm)


def _parse(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    end = _closing(right) + 1 if right.startswith("(") else right.index(" ")
    shape, call = right[:end], right[end:].strip()
    opcode, inside = call.split("(", 1)
    close = _closing("(" + inside) - 1
    operands = tuple(re.findall(r"%([\w.-]+)", inside[:close]))
    rest = inside if opcode in ("constant", "parameter") else inside[close + 1 :]
    buffers = tuple(
        Buffer(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" not in (layout or ""))
        for dtype, dims, layout in _BUFFER.findall(shape)
    )
    return Instruction(left.split()[-1].lstrip("%"), opcode, buffers, operands, rest, "ROOT" in left)


def _closing(text: str) -> int:
    """The position at which the parenthesis that opens `text` closes."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return at
    raise ValueError(f"no end of {text[:80]!r}")
