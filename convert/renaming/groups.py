"""Finds the blocks and the heads of a model as repeated groups of tensors, whatever their names.

The members of a group differ in one number in their names, which is that of a module in a list
(`blocks.0.`), or a part of an attribute's name (`block_0.`, `wq_1`).
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from ..names.tensor_names import Table, matrices
from ..rows.cuts import counted
from ..rows.labels import Place

NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?=[._]|$)")
MOST_NUMBERS = 8  # in one name


@dataclass(frozen=True)
class Group:
    """Numbered members that hold equal tensors: for each number, the rest of each name and its
    shape."""

    stem: str  # what precedes the numbers in names
    members: dict[int, Table]

    @property
    def start(self) -> int:
        """The number of the first member."""
        return min(self.members)

    @property
    def first(self) -> Table:
        """The tensors of the first member."""
        return self.members[self.start]

    @property
    def matrices(self) -> Table:
        """The matrices of the first member, without masks."""
        return matrices(self.first)

    @property
    def alike(self) -> bool:
        """Whether the members are equal, and counted from 0 or from 1."""
        return self.start < 2 and self.is_run

    @property
    def is_run(self) -> bool:
        """Whether the members are equal, and counted without a gap."""
        counted = max(self.members) - self.start + 1 == len(self.members)
        return counted and all(member == self.first for member in self.members.values())

    @property
    def large(self) -> "Group":
        """The members with more matrices than a head: blocks in a list with all of the model."""
        members = {i: m for i, m in self.members.items() if len(matrices(m)) > 2}
        return Group(self.stem, members)

    def holds(self, name: str) -> bool:
        """Whether `name` is that of a tensor of a member."""
        number = NUMBER.match(name, len(self.stem)) if name.startswith(self.stem) else None
        return number is not None and int(number[1]) in self.members

    def parted(self, name: str, axis: str) -> tuple[str, int, str]:
        """`name` up to the number of `axis`, which becomes {axis}; that number; and the rest."""
        number = NUMBER.match(name, len(self.stem))
        assert number is not None
        word = axis if self.start == 0 else f"{axis}_x1p{self.start}"
        return f"{self.stem}{{{word}}}", int(number[1]) - self.start, name[number.end() :]


@dataclass(frozen=True)
class Groups:
    """The lists of blocks in a file, of one side or of two, and the width of the model."""

    blocks: tuple[Group, ...]
    heads: dict[str, tuple[Group, ...]]  # those in a block, by the stem of its list
    width: int

    @staticmethod
    def of(table: Table) -> "Groups":
        """The groups among the tensors of `table`."""
        blocks = tuple(_blocks(table))
        width = _width(table, blocks)
        heads = {
            block.stem: tuple(each for each in groups_of(block.first) if _are_heads(each, width))
            for block in blocks
        }
        return Groups(blocks, heads, width)

    def folded(self, name: str) -> tuple[str, Place]:
        """`name` with {layer} and {head} in place of numbers, and the indices that these are."""
        block = next((block for block in self.blocks if block.holds(name)), None)
        if block is None:
            return name, {}
        start, layer, rest = block.parted(name, "layer")
        head = next((each for each in self.heads[block.stem] if each.holds(rest)), None)
        if head is None:
            return start + rest, {"layer": layer}
        inner, index, rest = head.parted(rest, "head")
        return start + inner + rest, {"layer": layer, counted("head"): index}


def groups_of(table: Table) -> list[Group]:
    """All groups of equal members, by their stems."""
    return [group for group in _lists(table) if group.alike]


def _lists(table: Table) -> list[Group]:
    """All lists, whose members may differ, by their stems."""
    groups: defaultdict[str, defaultdict[int, Table]] = defaultdict(lambda: defaultdict(dict))
    for name, shape in table.items():
        for number in list(NUMBER.finditer(name))[:MOST_NUMBERS]:
            groups[name[: number.start()]][int(number[1])][name[number.end() :]] = shape
    return [Group(stem, dict(members)) for stem, members in sorted(groups.items())]


def _blocks(table: Table) -> list[Group]:
    """The outermost groups whose members have more matrices than a head."""
    lists = _lists(table)
    large = [group for group in lists if group.alike and len(group.matrices) > 2]
    if not large:
        inner = [each.large for each in lists if each.start < 2 and each.large.members]
        large = [group for group in inner if group.is_run and len(group.members) > 1]
    blocks: list[Group] = []
    for group in large:
        # A single module that holds the list of blocks is no block.
        around = len(group.members) == 1 and any(
            group.holds(other.stem) and len({*other.matrices.values()}) > 1 < len(other.members)
            for other in large
        )
        if not around and not any(block.holds(group.stem) for block in blocks):
            blocks.append(group)
    return blocks


def _width(table: Table, blocks: tuple[Group, ...]) -> int:
    """The width of the model, which vectors in blocks and matrices outside have."""
    outside = {n: s for n, s in table.items() if not any(block.holds(n) for block in blocks)}
    widths = {shape[-1] for shape in matrices(outside).values()}
    vectors = [s[0] for block in blocks for s in block.first.values() if len(s) == 1]
    common = [length for length in vectors if length in widths] or sorted(widths)
    return max(common, key=common.count, default=0)


def _are_heads(group: Group, width: int) -> bool:
    """Whether the members are heads: their matrices lead from the width to a narrower one."""
    shapes = [sorted(shape) for shape in group.matrices.values()]
    if "head" in group.stem.lower():
        return bool(shapes) and all(width in shape for shape in shapes)
    narrow = all(len(shape) == 2 and shape[0] < shape[1] == width for shape in shapes)
    return bool(shapes) and narrow and len(group.members) > 1
