"""What devices say to each other in a compiled program, read off its text. Knows no array and no model."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {
    "pred": 8,
    "bf16": 16,
    **{f"{kind}{bits}": bits for kind in "fsuc" for bits in (4, 8, 16, 32, 64, 128)},
}
STARTS = "collective-start"
HEADER = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)")
OPCODE = re.compile(r" ([a-z][a-z0-9-]*)\(")
CALLED = re.compile(
    r"(?:calls|body|condition|to_apply)=%?([\w.-]+)|(?:branch_computations|called_computations)=\{(.*?)\}"
)


class Traffic(NamedTuple):
    """Of one kind of collective, in one run of the program."""

    times: int
    received: float  # bytes, by each device


class Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    rest: str


def collectives(text: str) -> dict[str, Traffic]:
    """Loops and all. What arrives at a device is counted as a ring would have it."""
    computations = dict(_computations(text))
    found: dict[str, Traffic] = defaultdict(lambda: Traffic(0, 0.0))
    entry = re.search(r"^ENTRY %?([\w.-]+) ", text, re.MULTILINE)
    assert entry

    def walk(name: str, times: int) -> None:
        for one in computations[name]:
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                known = found[kind]
                found[kind] = Traffic(
                    known.times + times, known.received + times * _received(one, kind)
                )
            if one.opcode.endswith(("-done", "-update")) or (
                one.opcode == "fusion" and STARTS not in one.name
            ):
                continue  # on TPU what was started is named again in what is computed meanwhile, and where it ends
            rounds = _rounds(one, computations) if one.opcode == "while" else 1
            for called in _called(one):
                walk(called, times * rounds)

    walk(entry[1], 1)
    return dict(found)


def _computations(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    name = ""
    held: list[Instruction] = []
    for line in text.splitlines():
        if header := HEADER.match(line):
            name, held = header[1], []
        elif line == "}":
            yield name, held
        elif (made := INSTRUCTION.match(line)) and (operation := OPCODE.search(made[2])):
            shape, rest = made[2][: operation.start()], made[2][operation.end() :]
            held.append(Instruction(made[1], shape, operation[1], rest))


def _called(one: Instruction) -> list[str]:
    names = [single or several for single, several in CALLED.findall(one.rest)]
    return [name.strip().removeprefix("%") for joined in names for name in joined.split(",")]


def _rounds(one: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop goes round: as the compiler says, or as its condition has it, that counts from 0."""
    if said := re.search(r'known_trip_count":\{"n":"(\d+)"', one.rest):
        return int(said[1])
    condition = re.search(r"condition=%?([\w.-]+)", one.rest)
    assert condition
    constants = (held.rest for held in computations[condition[1]] if held.opcode == "constant")
    limits = [int(found[1]) for rest in constants if (found := re.match(r"(\d+)\)", rest))]
    return max(limits, default=1)


def _received(one: Instruction, kind: str) -> float:
    size, n = _bytes(one.shape), _group(one.rest)
    if kind == "collective-permute":
        return size / (2 if one.opcode.endswith("-start") else 1)
    if kind == "all-gather" and one.opcode.endswith("-start"):
        size *= n / (n + 1)  # what goes in stands beside what comes out
    if kind == "reduce-scatter" and one.opcode.endswith("-start"):
        size /= n + 1
    share = {"all-reduce": 2, "reduce-scatter": n}.get(kind, 1)
    return size * share * (n - 1) / n


def _bytes(shape: str) -> float:
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        BITS.get(dtype, 8) / 8 * math.prod(int(n) for n in sizes.split(",") if n)
        for dtype, sizes in arrays
    )


def _group(rest: str) -> int:
    """How many devices take part: {{0,1},{2,3}}, [2,4]<=[8], or mesh['a'=2,'b'=4] {'b'}."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    if meshed := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return 2
