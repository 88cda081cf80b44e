"""What a compiled module says about itself: its collectives, and the TPU compiler's cost per op.

Reads the text of a scheduled HLO module (`compiled.as_text()`): computations with one instruction
per line, `%name = shape opcode(operands), attributes`, with opcodes as in
https://openxla.org/xla/operation_semantics. JAX has no public API for it.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*-> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: unique in the module.
      opcode: such as `fusion` or `all-reduce-start`.
      shape: shape of the result, as HLO writes it.
      operands: names of the instructions it reads.
      called: names of the computations it calls.
      op_name: path of the JAX operation it was made from, named scopes included; may be empty.
      cycles: the TPU compiler's estimate of its cost; `None` where it makes none.
      trips: how often a loop is known to run; `None` if that is not known or it is not a loop.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    called: tuple[str, ...]
    op_name: str
    cycles: int | None
    trips: int | None


@dataclasses.dataclass(frozen=True)
class Module:
    """A module's computations by name, each an ordered list of instructions."""

    computations: dict[str, list[Instruction]]
    entry: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """One instruction of the schedule and what it costs in one run of the module.

    Attributes:
      instruction: the instruction.
      runs: how often it runs; more than once in a loop.
      cycles: cycles of all its runs together; `None` where the compiler makes no estimate.
    """

    instruction: Instruction
    runs: int
    cycles: int | None


@dataclasses.dataclass(frozen=True)
class Collective:
    """A communication between devices.

    Attributes:
      kind: one of `COLLECTIVES`.
      size: bytes on one device, of what goes in or what comes out, whichever is more.
      runs: how often it runs.
      op_name: see `Instruction`.
    """

    kind: str
    size: int
    runs: int
    op_name: str


def parse(text: str) -> Module:
    """Returns the computations of a module's text."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            current = computations.setdefault(heading[2], [])
            entry = heading[2] if heading[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current.append(_instruction(instruction[1], instruction[2]))
    assert entry, "text without an ENTRY computation is no HLO module"
    return Module(computations, entry)


def schedule(module: Module) -> list[Cost]:
    """Returns every instruction that runs, the bodies of loops, calls and branches included.

    A fusion is one instruction whose estimate covers what is fused. A loop's body counts as often
    as it is known to run, once where that is not known. All branches are listed, as if each ran.
    Work inside an asynchronous op counts where it starts; copies and collectives that the scheduler
    hides behind other work have no estimate of their own.
    """
    return list(_walk(module, module.entry, 1))


def total_cycles(costs: list[Cost]) -> int:
    """Returns the sum of the estimates: one core runs its schedule in order."""
    return sum(cost.cycles or 0 for cost in costs)


def collectives(module: Module) -> list[Collective]:
    """Returns the collectives that run; an asynchronous pair is one."""
    found = []
    shapes = {i.name: i.shape for body in module.computations.values() for i in body}
    for cost in _walk(module, module.entry, 1, into_fusions=True):
        instruction = cost.instruction
        # The start of a pair has its operands in its result too; the end has only the result.
        kind = instruction.opcode.removesuffix("-done")
        if kind in COLLECTIVES:
            read = [shapes.get(name, "") for name in instruction.operands]
            if instruction.opcode != kind:
                read = []
            size = max(shape_bytes(instruction.shape), sum(map(shape_bytes, read)))
            found.append(Collective(kind, size, cost.runs, instruction.op_name))
    return found


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Returns each kind's `count` and `bytes` in one run of the module, and the `largest` bytes."""
    totals: dict[str, dict[str, int]] = {}
    for collective in found:
        total = totals.setdefault(collective.kind, {"count": 0, "bytes": 0, "largest": 0})
        total["count"] += collective.runs
        total["bytes"] += collective.runs * collective.size
        total["largest"] = max(total["largest"], collective.size)
    return totals


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an array's or a tuple's elements, without the layout's padding."""
    return sum(
        math.prod(int(side) for side in dims.split(",") if side) * _bits(kind) // 8
        for kind, dims in _ARRAY.findall(re.sub(r"\{[^}]*\}|/\*.*?\*/", "", shape))
    )


def _bits(kind: str) -> int:
    """Returns the bits of an element type: `f32`, `bf16`, `s8`, `f8e4m3fn`; predicates take 8."""
    digits = _BITS.search(kind)
    return int(digits[0]) if digits else 8 if kind == "pred" else 0


def _instruction(name: str, rest: str) -> Instruction:
    end = _matching(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:]
    opcode = _OPCODE.match(rest)
    assert opcode, f"no opcode in {rest[:80]!r}"
    close = _matching(rest, opcode.end() - 1)
    operands, attributes = rest[opcode.end() : close - 1], rest[close:]
    called = _CALLED.findall(attributes)
    for names in _BRANCHES.findall(attributes):
        called += re.findall(r"[\w.\-]+", names)
    cycles, trips = _CYCLES.search(attributes), _TRIPS.search(attributes)
    op_name = _OP_NAME.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode[1],
        shape=shape,
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        called=tuple(called),
        op_name=op_name[1] if op_name else "",
        cycles=int(cycles[1]) if cycles else None,
        trips=int(trips[1]) if trips else None,
    )


def _matching(text: str, start: int) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position + 1
    raise AssertionError(f"no closing parenthesis in {text[:80]!r}")


def _walk(module: Module, name: str, runs: int, into_fusions: bool = False) -> Iterator[Cost]:
    for instruction in module.computations[name]:
        cycles = instruction.cycles
        yield Cost(instruction, runs, None if cycles is None else cycles * runs)
        enters = instruction.opcode in ("while", "conditional", "call", "async-start")
        if enters or (into_fusions and instruction.opcode == "fusion"):
            for called in instruction.called:
                yield from _walk(module, called, runs * (instruction.trips or 1), into_fusions)
