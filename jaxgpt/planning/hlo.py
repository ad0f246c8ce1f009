"""Communication between devices in a compiled program, read from its HLO text."""

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
    r"(?:calls|body|condition|to_apply)=%?([\w.-]+)"
    r"|(?:branch_computations|called_computations)=\{(.*?)\}"
)


class Traffic(NamedTuple):
    """Communication by one kind of collective in one execution of the program."""

    times: int
    received: float  # bytes received by each device


class Instruction(NamedTuple):
    """One line of HLO; `rest` is the text after the opening parenthesis of its operands."""

    name: str
    shape: str
    opcode: str
    rest: str


def collectives(text: str) -> dict[str, Traffic]:
    """Traffic of each kind of collective in the program `text`, counting every iteration of loops.

    The bytes that a device receives are counted as for a ring algorithm.
    """
    traffic: dict[str, Traffic] = defaultdict(lambda: Traffic(0, 0.0))
    for kind, one, times in communication(text):
        before = traffic[kind]
        traffic[kind] = Traffic(
            before.times + times, before.received + times * _bytes_received(one, kind)
        )
    return dict(traffic)


def communication(text: str) -> Iterator[tuple[str, Instruction, int]]:
    """Each collective in the program `text`: its kind, its line, and how often it runs."""
    computations = dict(computations_of(text))

    def walk(name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        for one in computations[name]:
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                yield kind, one, times
            # On TPU a collective is named again in the fusions that overlap with it, and where it
            # ends.
            if one.opcode.endswith(("-done", "-update")) or (
                one.opcode == "fusion" and STARTS not in one.name
            ):
                continue
            count = rounds(one, computations) if one.opcode == "while" else 1
            for inner in called_computations(one):
                yield from walk(inner, times * count)

    yield from walk(entry_of(text), 1)


def entry_of(text: str) -> str:
    """The name of the computation that the program `text` starts with."""
    entry = re.search(r"^ENTRY %?([\w.-]+) ", text, re.MULTILINE)
    assert entry
    return entry[1]


def computations_of(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Name and instructions of each computation in the program `text`."""
    name = ""
    body: list[Instruction] = []
    for line in text.splitlines():
        if header := HEADER.match(line):
            name, body = header[1], []
        elif line == "}":
            yield name, body
        elif (parsed := INSTRUCTION.match(line)) and (operation := OPCODE.search(parsed[2])):
            shape, rest = parsed[2][: operation.start()], parsed[2][operation.end() :]
            body.append(Instruction(parsed[1], shape, operation[1], rest))


def called_computations(one: Instruction) -> list[str]:
    """The names of the computations that `one` runs."""
    names = [single or several for single, several in CALLED.findall(one.rest)]
    return [name.strip().removeprefix("%") for joined in names for name in joined.split(",")]


def rounds(one: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """Iterations of a loop: the compiler's trip count, or the limit that counting from 0 meets."""
    if trip_count := re.search(r'known_trip_count":\{"n":"(\d+)"', one.rest):
        return int(trip_count[1])
    condition = re.search(r"condition=%?([\w.-]+)", one.rest)
    assert condition
    constants = (each.rest for each in computations[condition[1]] if each.opcode == "constant")
    limits = [int(number[1]) for rest in constants if (number := re.match(r"(\d+)\)", rest))]
    return max(limits, default=1)


def _bytes_received(one: Instruction, kind: str) -> float:
    """The bytes that one device receives when `one`, a collective of this `kind`, runs once."""
    size, n = size_of(one.shape), _group(one.rest)
    if kind == "collective-permute":
        return size / (2 if one.opcode.endswith("-start") else 1)
    if kind == "all-gather" and one.opcode.endswith("-start"):
        size *= n / (n + 1)  # the shape includes both the operand and the result
    if kind == "reduce-scatter" and one.opcode.endswith("-start"):
        size /= n + 1
    share = {"all-reduce": 2, "reduce-scatter": n}.get(kind, 1)
    return size * share * (n - 1) / n


def size_of(shape: str) -> float:
    """The bytes of all arrays in `shape`, which may be a tuple."""
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        BITS.get(dtype, 8) / 8 * math.prod(int(n) for n in sizes.split(",") if n)
        for dtype, sizes in arrays
    )


def _group(rest: str) -> int:
    """The number of devices in a group: {{0,1},{2,3}}, [2,4]<=[8], or mesh['a'=2,'b'=4] {'b'}."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    if meshed := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return 2
