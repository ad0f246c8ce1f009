"""The attention, MLPs and norms of a block, found in the tree of its modules by their shapes.

What a unit is called, and how deep it lies in wrappers such as residual modules, does not matter.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..names.tensor_names import Table, is_mask, matrices

ATTENTION, MLP = "attention", "mlp"
LABELS = {  # by label, a pattern for the word of a matrix
    "qkv": r"\w*(qkv|query_key_value|c_attn|in_proj)\w*",
    "key_value": r"\w*(kv|key_?value|keys_?values)\w*",
    "query": r"\w*quer\w*|(\w*_)?(w?q|wqs?|qs)(_\w*)?|w?q",
    "key": r"\w*key\w*|(\w*_)?(w?k|wks?|ks)(_\w*)?|w?k",
    "value": r"\w*val\w*|(\w*_)?(w?v|wvs?|vs)(_\w*)?|w?v",
}
Order = tuple[int, ...]
HEAD = "{head}"
# Words that the two attention modules of a block have in common.
OF_ATTENTION = {
    "w", "q", "k", "v", "o", "wq", "wk", "wv", "wo", "query", "key", "value", "out", "proj", "kv",
    "qkv", "to", "fc", "linear",
}  # fmt: skip
# The labels of the matrices of attention, besides its output.
WAYS = (("query", "key", "value"), ("query", "key_value"), ("qkv",))


@dataclass(frozen=True)
class Unit:
    """One attention module or MLP of a block."""

    kind: str
    owner: str  # the outermost module that holds nothing else but norms
    path: str  # the innermost module that holds all of its matrices
    matrices: Table  # by name below `path`, without a final .weight

    @property
    def words(self) -> tuple[str, ...]:
        """What its matrices are called."""
        return tuple(self.matrices)


def units_of(block: Table, width: int) -> list[Unit]:
    """The units in a `block` of a model of `width`, in the order of the file."""
    inside = {n: s for n, s in matrices(block).items() if not is_buffer(n, s)}
    return list(_units("", inside, width))


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a causal mask or a rotary table."""
    return is_mask(name, shape) or bool(re.search(r"(^|\.)(cos|sin|inv_freq|freqs)\w*$", name))


def norms_of(block: Table, width: int) -> list[str]:
    """The modules in a `block` that have only a scale as wide as the model, and perhaps a bias."""
    modules: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in block.items():
        modules.setdefault(name.rpartition(".")[0], []).append(shape)
    wide = [m for m, shapes in modules.items() if m and {*shapes} <= {(width,), (), (1,)}]
    return [m for m in wide if len(modules[m]) < 3]


def is_within(name: str, module: str) -> bool:
    """Whether `name` is that of `module` or lies in it; all names lie in the module ""."""
    return not module or name == module or name.startswith(f"{module}.")


def _units(owner: str, inside: Table, width: int) -> Iterable[Unit]:
    """Yield the units among the matrices `inside` the module `owner`."""
    if not inside:
        return
    path = _common_module(inside)
    words = {_word(name, path): shape for name, shape in inside.items()}
    kind = _kind([*words.values()], [*words], width)
    if kind and len(words) == len(inside):
        yield Unit(kind, owner, path, words)
        return
    children: dict[str, Table] = {}
    for name, shape in inside.items():
        children.setdefault(_child(name, path), {})[name] = shape
    alone = {n: t for n, t in inside.items() if len(children[_child(n, path)]) == 1}
    yield from _side_by_side(alone, path, width)
    for child, tensors in children.items():
        if 1 < len(tensors) < len(inside):
            yield from _units(child, tensors, width)


def _side_by_side(inside: Table, path: str, width: int) -> Iterable[Unit]:
    """Yield the units whose matrices have no module for each unit: `wq`, `wo`, `wq_cross`, `w1`."""
    groups: dict[tuple[str, ...], Table] = {}
    for name, shape in inside.items():
        mark = tuple(each for each in _pieces(_word(name, path)) if each not in OF_ATTENTION)
        groups.setdefault(mark, {})[name] = shape
    rest: Table = {}
    for group in groups.values():
        words = {_word(name, path): shape for name, shape in group.items()}
        labels = [label for label in map(label_of, words) if label]
        told = tuple(sorted(labels)) in {tuple(sorted(way)) for way in WAYS}
        if told and _kind([*words.values()], [*words], width) == ATTENTION:
            yield Unit(ATTENTION, "", path, words)
        else:
            rest |= group
    if down_of([*rest.values()], width) is not None:
        yield Unit(MLP, "", path, {_word(name, path): shape for name, shape in rest.items()})


def _pieces(word: str) -> list[str]:
    return [each.lower() for each in re.findall(r"[A-Z]?[a-z]+|[A-Z]|\d+", word)]


def _child(name: str, path: str) -> str:
    """The module in `path` that holds `name`."""
    start = f"{path}." if path else ""
    return start + name.removeprefix(start).partition(".")[0]


def _common_module(names: Iterable[str]) -> str:
    paths = [name.split(".")[:-1] for name in names]
    if len(paths) == 1:
        return ".".join(paths[0])
    columns = itertools.takewhile(lambda c: len({*c}) == 1, zip(*paths, strict=False))
    return ".".join(column[0] for column in columns)


def _word(name: str, path: str) -> str:
    """The part of `name` after `path`, without a final `weight`."""
    rest = name.removeprefix(f"{path}.") if path else name
    return rest.removesuffix(".weight")


def _kind(shapes: list[tuple[int, ...]], words: list[str], width: int) -> str:
    """The kind of unit that matrices of these `shapes` form; "" if they form none."""
    if down_of(shapes, width) is not None:
        return MLP
    if any(len(shape) != 2 for shape in shapes) or not 2 <= len(shapes) <= 4:
        return ""
    heads = [HEAD in word for word in words]
    if any(heads):
        counted = heads.count(True) in (1, 2, 3) and heads.count(False) < 2
        return ATTENTION if counted and all(width in shape for shape in shapes) else ""
    return ATTENTION if any(orders(shapes, width)) else ""


def orders(
    shapes: Sequence[tuple[int, ...]], width: int
) -> Iterator[tuple[tuple[str, ...], Order]]:
    """Yield each way in which matrices of these `shapes` may be those of attention.

    A way is the labels of queries, keys and values, and an order of the matrices: those of the
    labels, and the output if there is one more.
    """
    for way in WAYS:
        if 0 <= len(shapes) - len(way) < 2:
            for order in itertools.permutations(range(len(shapes))):
                if _fit(way, [shapes[i] for i in order], width):
                    yield way, order


def _fit(way: tuple[str, ...], shapes: list[tuple[int, ...]], width: int) -> bool:
    """Whether matrices of `shapes` may be those of `way`, and the output."""
    inner, out = shapes[: len(way)], shapes[len(way) :]
    if len(way) == 3 and out and _serve_all_heads(inner, out[0], width):
        return True
    if any(shape[1] != width for shape in inner):
        return False
    rows = [shape[0] for shape in inner]
    queries = out[0][1] if out else (width if len(way) == 1 else rows[0])
    keys = {1: (rows[0] - queries) / 2, 2: rows[-1] / 2, 3: rows[-1]}[len(way)]
    equal = len(way) == 1 or rows[0] == queries
    alike = len(way) < 3 or rows[1] == rows[2]
    led_back = not out or out[0][0] == width
    return equal and alike and led_back and 0 < keys <= queries and queries % keys == 0


def _serve_all_heads(inner: list[tuple[int, ...]], out: tuple[int, ...], width: int) -> bool:
    """Whether each of the `inner` matrices serves all heads, each for its part of the input."""
    rows, columns = inner[0]
    heads = width // columns
    return (
        {*inner} == {(rows, columns)} and width == heads * columns and out == (width, heads * rows)
    )


def down_of(shapes: list[tuple[int, ...]], width: int) -> int | None:
    """The index of the matrix that leads back to `width` in an MLP; None if it is no MLP."""
    if not 2 <= len(shapes) <= 3 or any(len(shape) != 2 for shape in shapes):
        return None
    for i, (out, hidden) in enumerate(shapes):
        first = [*shapes[:i], *shapes[i + 1 :]]
        if out != width or hidden == width:
            continue
        if {*first} == {(hidden, width)} or first == [(2 * hidden, width)]:
            return i
    return None


def label_of(word: str) -> str:
    """The label of the matrix of attention called `word`; "" if the word does not show it."""
    last = [each for each in word.split(".") if not each.isdigit() and each != HEAD]
    lower = last[-1].lower() if last else ""
    return next((label for label, sign in LABELS.items() if re.fullmatch(sign, lower)), "")
