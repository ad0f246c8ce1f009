"""Reads the text of a compiled program: which instructions run, how often, and which only copy."""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from jaxgpt.planning.hlo import (
    Instruction,
    called_computations,
    communication,
    computations_of,
    entry_of,
    rounds,
    size_of,
)

LARGE = 2**20  # bytes from which on an array counts
SMALL = 2**16  # bytes below which an operation in a fusion is no work: indices, masks
MOVES = {
    "copy", "transpose", "bitcast", "reshape", "slice", "dynamic-slice", "dynamic-update-slice",
    "parameter", "tuple", "get-tuple-element", "fusion", "constant",
}  # fmt: skip
NAMED = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "constant", "conditional"}
PREFETCH = re.compile(
    r"(copy|slice|async)-(start|done|update)"
)  # to fast memory, during other work
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*))?")


class Finding(NamedTuple):
    """How often something happens in a run of the program, and the bytes of its results in all."""

    times: int = 0
    size: float = 0.0


class Array(NamedTuple):
    """One array of a shape, with its axes from the one that changes fastest."""

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def arrays(shape: str) -> list[Array]:
    """The arrays of `shape`, which may be a tuple."""
    return [
        Array(dtype, tuple(int(n) for n in sizes.split(",") if n), layout)
        for dtype, sizes, layout in ARRAY.findall(shape)
    ]


class Program:
    """The text of a compiled program."""

    def __init__(self, text: str):
        self.text = text
        self.computations = dict(computations_of(text))
        self.shapes = {
            (name, one.name): one.shape for name, body in self.computations.items() for one in body
        }
        self.run = list(self._walk(entry_of(text), 1))  # outside of fusions

    def _walk(self, name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        """The computation, the line, and how often it runs, of each instruction under `name`."""
        for one in self.computations[name]:
            yield name, one, times
            if one.opcode in ("while", "conditional", "call") or one.opcode.startswith("async"):
                count = rounds(one, self.computations) if one.opcode == "while" else 1
                for inner in called_computations(one):
                    yield from self._walk(inner, times * count)

    def inside(self, name: str, one: Instruction) -> Iterator[tuple[str, Instruction]]:
        """`one` of the computation `name`, or if it is a fusion what is in it."""
        if one.opcode != "fusion":
            yield name, one
            return
        for inner in called_computations(one):
            for each in self.computations[inner]:
                yield from self.inside(inner, each)

    def operands(self, name: str, one: Instruction) -> list[str]:
        """The shapes of the operands of `one`, which is in the computation `name`."""
        words = one.rest.partition(")")[0].split(",")
        names = [word.split()[-1].removeprefix("%") for word in words if word.split()]
        return [self.shapes.get((name, each), "") for each in names]

    def float32_products(self) -> Finding:
        """Matrix products of float32 arrays."""
        return summed(
            (times, size_of(one.shape))
            for name, outer, times in self.run
            for inner, one in self.inside(name, outer)
            if one.opcode in ("dot", "convolution") or "__cublas" in one.rest
            if any(shape.startswith("f32") for shape in self.operands(inner, one)[:2])
        )

    def relayouts(self) -> Finding:
        """Copies of large arrays into another layout, with nothing else done on the way."""
        return summed(
            (times, self.moved(name, one))
            for name, one, times in self.copies()
            if self.changes_layout(name, one)
        )

    def other_copies(self) -> Finding:
        """Copies of large arrays as they are, such as the part of one layer."""
        return summed(
            (times, self.moved(name, one))
            for name, one, times in self.copies()
            if not self.changes_layout(name, one)
        )

    def copies(self) -> Iterator[tuple[str, Instruction, int]]:
        """The instructions that move large arrays and compute nothing."""
        for name, one, times in self.run:
            if one.opcode not in ("copy", "transpose", "fusion", "slice", "dynamic-slice"):
                continue
            large = [each for _, each in self.inside(name, one) if size_of(each.shape) >= SMALL]
            if {each.opcode for each in large} <= MOVES and self.moved(name, one) >= LARGE:
                yield name, one, times

    def moved(self, name: str, one: Instruction) -> float:
        """The bytes that a copy writes: of an update in place, only the part that is new."""
        updates = [
            size_of(self.operands(inner, each)[1])
            for inner, each in self.inside(name, one)
            if each.opcode == "dynamic-update-slice"
        ]
        return sum(updates) if updates else size_of(one.shape)

    def changes_layout(self, name: str, one: Instruction) -> bool:
        for inner, each in self.inside(name, one):
            if each.opcode not in ("copy", "transpose") or size_of(each.shape) < SMALL:
                continue
            (before, *_), (after, *_) = (
                arrays(shape) for shape in (self.operands(inner, each)[0], each.shape)
            )
            if each.opcode == "transpose" or before.layout != after.layout:
                return True
        return False

    def carried(self, count: int, shapes: Collection[tuple[int, ...]]) -> Finding:
        """Float32 arrays of one of `shapes` that a loop of `count` rounds reads or writes."""
        return summed(
            (1, 4 * array.elements)
            for _, one, _ in self.run
            if one.opcode == "while" and rounds(one, self.computations) == count
            for array in arrays(one.shape)
            if array.dtype == "f32" and array.shape in shapes
        )

    def written(self, sizes: Collection[int]) -> Finding:
        """Instructions with float32 results of as many elements as one of `sizes` says."""
        found = []
        for _, one, times in self.run:
            if one.opcode in NAMED or PREFETCH.match(one.opcode):
                continue
            results = [x for x in arrays(one.shape) if x.dtype == "f32" and x.elements in sizes]
            if results:
                found.append((times, 4.0 * sum(each.elements for each in results)))
        return summed(found)

    def scatters(self) -> Finding:
        """Sums into places that are known only when the program runs."""
        return summed(
            (times, size_of(one.shape))
            for name, outer, times in self.run
            for _, one in self.inside(name, outer)
            if one.opcode == "scatter"
        )

    def gathers(self, least: float) -> Finding:
        """All-gathers whose result has more than `least` bytes."""
        results = (
            (times, max(size_of(f"{x.dtype}{list(x.shape)}".replace(" ", "")) for x in parts))
            for kind, one, times in communication(self.text)
            if kind == "all-gather" and (parts := arrays(one.shape))
        )
        return summed((times, size) for times, size in results if size > least)


def summed(parts: Iterable[tuple[int, float]]) -> Finding:
    """The finding of `parts`, each of which happens so many times with so many bytes."""
    total = Finding()
    for times, size in parts:
        total = Finding(total.times + times, total.size + times * size)
    return total
