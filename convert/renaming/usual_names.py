"""Gives the tensors of a file the usual names for their places, as the families have them.

Classes differ in how they are written: blocks and heads may be attributes (`dec.block_0`, `wq_1`)
instead of lists, the two sides of an encoder-decoder may have any names, weights may be parameters
without a module (`wq`, `bq`), and matrices may be (in, out).
"""

import functools
import re
from dataclasses import dataclass

from ..names.tensor_names import Table, matrices
from .bare_parameters import usual_leaves
from .block_modules import usual_modules
from .columns import Columns
from .forms import Form, form_of, plain, widths_of
from .groups import Group, Groups
from .outside_words import Outside, usual_outside
from .renamed import Renamed, Shapes, Template

MOST_MODULES = 64  # in a name
SQUARES = (
    "no shape shows whether square matrices, such as {name}, are (in, out) or (out, in); they are "
    "taken to be {taken}, as the others are"
)
HEAD = re.compile(r"[._]?{head(?:_x1p1)?}[._]?")


def renamings(shapes: Shapes) -> list[Renamed]:
    """The tensors of a file under usual names, once for each way in which matrices may be stored.

    Only those in which a name or a form changes.
    """
    return [each for each in all_namings(shapes) if each.changes]


def all_namings(shapes: Shapes) -> list[Renamed]:
    """The tensors of a file under usual names, which may be their own, once for each way in which
    matrices may be stored.

    Empty if no list of blocks is found, if it is ambiguous which of two is the encoder's, or if a
    name lies deeper than models have modules.
    """
    if any(name.count(".") > MOST_MODULES for name in shapes):
        return []
    columns = Columns.of(dict(shapes))
    groups = Groups.of({columns.joined(name): shape for name, shape in shapes.items()})
    lists = _usual_lists(groups.blocks)
    if not lists:
        return []
    folded = {name: groups.folded(columns.joined(name)) for name in shapes}
    placed = {own: _in_usual_place(own, lists) for own, _ in folded.values()}
    table = {placed[own]: shapes[name] for name, (own, _) in folded.items()}
    leaves = usual_leaves(table, groups.width)
    ordered = list(shapes) != sorted(shapes)  # in the order of the class, not in alphabetical order
    file = _Tensors(table, leaves, groups.width, len(groups.blocks) == 1, ordered)
    ways: list[Renamed] = []
    for turned in file.turned:
        names, forms, caveat = file.named(turned)
        if len({*names.values()}) < len(placed):
            continue
        templates = {
            own: Template(names[n], columns.parted(own), forms.get(n)) for own, n in placed.items()
        }
        places = {n: (templates[own], place) for n, (own, place) in folded.items()}
        ways.append(Renamed(places, widths_of(file.forms.values()), caveat))
    return ways


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a file in their usual places, and the usual `leaves` of their names."""

    table: Table
    leaves: dict[str, str]
    width: int  # of the model
    alone: bool  # whether it is a decoder, with one list of blocks
    ordered: bool  # whether the file has the order of the class

    @functools.cached_property
    def forms(self) -> dict[str, Form]:
        """The forms of tensors that are not simply matrices and vectors."""
        forms = {n: form_of(self.leaves[n], shape, self.width) for n, shape in self.table.items()}
        return {name: form for name, form in forms.items() if form}

    @functools.cached_property
    def bare(self) -> set[str]:
        """The matrices that have no module of their own."""
        ends = {n: (n.rpartition(".")[2], self.leaves[n].rpartition(".")[2]) for n in self.table}
        return {n for n in matrices(self.table) if ends[n][0] != ends[n][1]}

    @functools.cached_property
    def inside(self) -> set[str]:
        """The matrices in blocks; convolutions show that those in modules are (out, in)."""
        names = {n for n in matrices(self.table) if "{layer}" in n}
        inside = {n for n in names if self.leaves[n].endswith(".weight")}
        return inside if inside.isdisjoint(self.forms) else self.bare & inside

    @functools.cached_property
    def turned(self) -> list[frozenset[str]]:
        """The matrices that are (in, out), in each way in which they may be stored."""
        wide = matrices(self.table)
        head = {
            n for n in self.bare if "{layer}" not in n or not self.leaves[n].endswith(".weight")
        }
        head = {n for n in head if wide[n][0] == self.width != wide[n][-1]}
        blocks = self.bare & self.inside or self.inside
        flat = {n for n in blocks if n not in self.forms and len(wide[n]) == 2}
        return [*dict.fromkeys((frozenset(head), frozenset(head | flat)))]

    def named(self, turned: frozenset[str]) -> tuple[dict[str, str], dict[str, Form], str]:
        """The usual names, the forms, and a caveat, if the matrices `turned` are (in, out)."""
        forms = {**{n: plain(self.table[n]) for n in turned}, **self.forms}
        usual = {
            self.leaves[n]: f.shape(s) if (f := forms.get(n)) else s for n, s in self.table.items()
        }
        # Modules are (out, in) as a rule, and parameters (in, out).
        unusual = self.bare.isdisjoint(self.inside) != turned.isdisjoint(self.inside)
        modules = usual_modules(usual, self.width, self.ordered, unusual)
        outside = usual_outside(usual, self.width, self.ordered) if self.alone else Outside({})
        names = {**modules, **outside.names}
        caveat = "; ".join(filter(None, (outside.caveat, self._on_squares(turned))))
        return {name: names[new] for name, new in self.leaves.items()}, forms, caveat

    def _on_squares(self, turned: frozenset[str]) -> str:
        """The caveat on square matrices that are `turned`, or parameters; "" if there are none."""
        wide = matrices(self.table)
        unsure = [n for n in wide if n in turned | self.bare and n not in self.forms]
        squares = [n for n in unsure if len({*wide[n]}) == 1 < len(wide[n])]
        if not squares:
            return ""
        taken = "(in, out)" if squares[0] in turned else "(out, in)"
        return SQUARES.format(name=squares[0].rpartition("{layer}.")[2], taken=taken)


def _usual_lists(blocks: tuple[Group, ...]) -> dict[str, str]:
    """The usual path for the list of each stem: of two, the decoder's has more matrices."""
    if len(blocks) == 1:
        return {blocks[0].stem: "blocks"}
    counts = [len(block.matrices) for block in blocks]
    if len(blocks) != 2 or counts[0] == counts[1]:
        return {}
    one, two = sorted(blocks, key=lambda block: len(block.matrices))
    return {one.stem: "encoder.layers", two.stem: "decoder.layers"}


def _in_usual_place(name: str, lists: dict[str, str]) -> str:
    """The usual name for `name`, which has {layer} and {head} in place of numbers.

    `lists` are those of `_usual_lists`. Modules around everything are left out; what is in the
    module of one side's blocks, or begins with the name of their list, belongs to that side.
    """
    paths = {stem: stem.rstrip("._").split(".") for stem in lists}
    parents = [path[:-1] for path in paths.values()]
    shared = _common(*parents)
    for stem, usual in lists.items():
        if name.startswith(f"{stem}{{layer"):
            return f"{usual}.{{layer}}.{_with_list_of_heads(name[name.index('}') + 2 :])}"
    inner = name.split(".")
    words = inner[len(_common(inner[:-1], shared)) :]
    if len(lists) == 1:
        return ".".join(words)
    for stem, usual in lists.items():
        side = usual.partition(".")[0]
        own = paths[stem][len(shared) :]
        if len(own) > 1 and words[: len(own) - 1] == own[:-1]:
            return ".".join([side, *words[len(own) - 1 :]])
        if words[0].startswith(f"{own[-1]}_"):
            return ".".join([side + words[0][len(own[-1]) :], *words[1:]])
    return ".".join(words)


def _common(one: list[str], *others: list[str]) -> list[str]:
    """The common beginning of lists of words."""
    for i, words in enumerate(zip(one, *others, strict=False)):
        if len({*words}) > 1:
            return one[:i]
    return one[: min(map(len, others), default=len(one))]


def _with_list_of_heads(rest: str) -> str:
    """The rest of a name after the number of its block, with heads as a list of modules or of
    matrices."""
    match = HEAD.search(rest)
    if match is None:
        return rest
    path, leaf = rest[: match.start()], rest[match.end() :]
    if leaf in ("", "weight", "bias"):
        return ".".join(filter(None, (path, "{head}", leaf)))
    return f"{path.rpartition('.')[0] or 'attn'}.heads.{{head}}.{leaf}"
