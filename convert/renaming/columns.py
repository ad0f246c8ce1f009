"""Merges lists of the parts of blocks, such as `attns.0`, `norms.0` and `mlps.0`, into one list.

A class may have a list of attention modules, one of MLPs and some of norms, all of the same length,
in place of a list of blocks.
"""

from collections import defaultdict
from dataclasses import dataclass

from ..names.tensor_names import Table
from .groups import Group, groups_of

LIST = "columns."  # the one list


@dataclass(frozen=True)
class Columns:
    """Lists that hold the parts of blocks; without any, no name changes."""

    stems: tuple[str, ...] = ()  # each with its dot

    @staticmethod
    def of(table: Table) -> "Columns":
        """The lists in `table` that have a member for each block, unless a list has them whole."""
        alike: defaultdict[tuple[str, tuple[int, ...]], list[Group]] = defaultdict(list)
        for group in groups_of(table):
            if group.stem.endswith(".") and len(group.members) > 1:
                parent = group.stem[:-1].rpartition(".")[0]
                alike[parent, tuple(group.members)].append(group)
        found = [groups for groups in alike.values() if _are_parts(groups)]
        return Columns(tuple(group.stem for group in found[0])) if len(found) == 1 else Columns()

    def joined(self, name: str) -> str:
        """`name` as if the lists were one."""
        stem = next((stem for stem in self.stems if name.startswith(stem)), "")
        if not stem:
            return name
        number, _, rest = name[len(stem) :].partition(".")
        parent, _, own = stem[:-1].rpartition(".")
        return f"{parent}{'.' if parent else ''}{LIST}{number}.{own}.{rest}"

    def parted(self, template: str) -> str:
        """The name in the file of a `template`, which has {layer} in place of a number."""
        for stem in self.stems:
            parent, _, own = stem[:-1].rpartition(".")
            start = f"{parent}{'.' if parent else ''}{LIST}"
            for word in ("{layer}", "{layer_x1p1}"):
                if template.startswith(f"{start}{word}.{own}."):
                    return f"{stem}{word}.{template[len(start) + len(word) + len(own) + 2 :]}"
        return template


def _are_parts(groups: list[Group]) -> bool:
    """Whether lists hold the parts of blocks: attention in one of them, the MLP in another."""
    wide = [len(group.matrices) for group in groups]
    large = [count for count in wide if count > 3]
    return sum(count > 0 for count in wide) > 1 and len(large) < 2 and sum(wide) > 2
