"""Gives the tensors of a file the usual names for their places, as the families have them.

Classes differ in how they are written: blocks and heads may be attributes (`dec.block_0`, `wq_1`)
instead of lists, the two sides of an encoder-decoder may have any names, weights may be parameters
without a module (`wq`, `bq`), and matrices may be (in, out).
"""

import re

from .bare_parameters import usual_leaves
from .block_modules import usual_modules
from .columns import Columns
from .forms import form_of, plain, widths_of
from .groups import Group, Groups
from .outside_words import usual_outside
from .renamed import Renamed, Shapes, Template
from .tensor_names import matrices

MOST_MODULES = 64  # in a name
HEAD = re.compile(r"[._]?{head(?:_x1p1)?}[._]?")


def renamings(shapes: Shapes) -> list[Renamed]:
    """The tensors of a file under usual names, once for each way in which matrices may be stored.

    Empty where `all_namings` is, and if all names are usual.
    """
    return [each for each in all_namings(shapes) if each.changes]


def all_namings(shapes: Shapes) -> list[Renamed]:
    """The tensors of a file under usual names, which may be their own, in each way as above.

    Empty if no list of blocks is found, or two of which nothing tells the encoder's, and if a name
    lies deeper than a model has modules.
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
    forms = {
        name: form
        for name, shape in table.items()
        if (form := form_of(leaves[name], shape, groups.width))
    }
    bare = {n for n in matrices(table) if leaves[n].rpartition(".")[2] != n.rpartition(".")[2]}
    inside = {n for n in matrices(table) if "{layer}" in n and leaves[n].endswith(".weight")}
    head = {n for n in bare - inside if table[n][0] == groups.width != table[n][-1]}
    inside = inside if inside.isdisjoint(forms) else bare & inside
    flat = {n for n in bare | inside if n not in forms and len(table[n]) == 2}
    ordered = list(shapes) != sorted(shapes)  # as in the class, and not by the alphabet
    ways: list[Renamed] = []
    for turned in dict.fromkeys(map(frozenset, (head, head | (bare & inside or inside) & flat))):
        now = {**{n: plain(table[n]) for n in turned}, **forms}
        usual = {n: now[n].shape(shape) if n in now else shape for n, shape in table.items()}
        modules = usual_modules({leaves[n]: s for n, s in usual.items()}, groups.width, ordered)
        outside = usual_outside({leaves[n]: s for n, s in usual.items()}, groups.width, ordered)
        modules |= outside.names if len(groups.blocks) == 1 else {}
        names = {name: modules[new] for name, new in leaves.items()}
        if len({*names.values()}) < len(placed):
            continue
        templates = {
            own: Template(names[n], columns.parted(own), now.get(n)) for own, n in placed.items()
        }
        places = {n: (templates[own], place) for n, (own, place) in folded.items()}
        ways.append(Renamed(places, widths_of(forms.values()), outside.caveat))
    return ways


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
    """What follows the number of a block, with its heads as a list of modules or of matrices."""
    match = HEAD.search(rest)
    if match is None:
        return rest
    path, leaf = rest[: match.start()], rest[match.end() :]
    if leaf in ("", "weight", "bias"):
        return ".".join(filter(None, (path, "{head}", leaf)))
    return f"{path.rpartition('.')[0] or 'attn'}.heads.{{head}}.{leaf}"
