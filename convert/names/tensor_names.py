"""Facts read from the names and shapes of tensors: numbered modules, masks, biases, words."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

# Name, with numbers replaced by {layer} and {head} -> shape, in the order of the file.
Table = dict[str, tuple[int, ...]]
# Prefix of a name before a number -> the number -> the suffixes after it.
Lists = dict[str, dict[int, Table]]

NUMBER = r"(?<![^.])(0|[1-9][0-9]{0,8})\."


def folded(
    table: Table, axis: str, holds: Callable[[Table], bool]
) -> tuple[Table, Lists, list[str]]:
    """Replace the numbers of the outermost module lists by {axis}.

    Takes the lists whose members all have matrices that satisfy `holds`. Returns the table, these
    lists, and problems with members that differ from the first.
    """
    lists: defaultdict[str, dict[int, Table]] = defaultdict(dict)
    for name, shape in table.items():
        for number in itertools.islice(re.finditer(NUMBER, name), 8):
            lists[name[: number.start()]].setdefault(int(number[1]), {})[name[number.end() :]] = (
                shape
            )
    outermost, odd, outer = Lists(), list[str](), tuple[str, ...]()
    for stem in sorted(
        stem for stem, members in lists.items() if all(holds(matrices(m)) for m in members.values())
    ):
        if not stem.startswith(outer):
            outer, outermost[stem] = (stem,), dict(sorted(lists[stem].items()))
            first = next(iter(outermost[stem].values()))
            strange = [
                n
                for i, (n, member) in enumerate(outermost[stem].items())
                if n != i or member != first
            ]
            odd += [f"{stem}{n} is not one more of the same" for n in strange]
    table = {
        re.sub(
            NUMBER, lambda m: f"{{{axis}}}." if m.string[: m.start()] in outermost else m[0], name
        ): shape
        for name, shape in table.items()
    }
    return table, outermost, odd


def is_mask(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is square and has a name of a causal mask."""
    square = len(shape) > 1 and shape[-1] == shape[-2] and set(shape[:-2]) <= {1}
    return square and bool(
        re.search("mask|tri[lu]|^tri$|bias|causal", name.rpartition(".")[2].lower())
    )


def matrices(table: Table) -> Table:
    """The tensors of two or more dimensions, without masks."""
    return {
        name: shape for name, shape in table.items() if len(shape) > 1 and not is_mask(name, shape)
    }


def biases(table: Table) -> dict[str, str]:
    """The bias of each matrix and each norm's scale, by its name; "" if it has none."""
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        modules[name.rpartition(".")[0]] |= {} if is_mask(name, shape) else {name: shape}
    bias_of: dict[str, str] = {}
    for inside in modules.values():
        scales = [
            name for name in inside if not name.rpartition(".")[2].startswith(("b", "offset"))
        ]
        wide = list(matrices(inside)) or scales[:1]
        vectors = [name for name, shape in inside.items() if name not in wide and len(shape) == 1]
        bias_of |= dict.fromkeys(wide, vectors[0] if len(wide) == len(vectors) == 1 else "")
    return bias_of


def joined(names: list[str], axis: str = "qkv") -> tuple[str, list[str]]:
    """The names as one, with {axis} in place of the words that differ, and those words."""
    if len(names) < 2:
        return "".join(names), []
    pieces = [re.findall("[A-Z]?[^A-Z._]+|[A-Z._]", name) for name in names]
    start = alike(*pieces)
    end = alike(*(piece[start:][::-1] for piece in pieces))
    while end and min(map(len, pieces)) == start + end:  # so that no word is empty
        end -= 1
    words = ["".join(piece[start : len(piece) - end]) for piece in pieces]
    return "".join([*pieces[0][:start], f"{{{axis}}}", *pieces[0][len(pieces[0]) - end :]]), words


def alike(*rows: Sequence[str]) -> int:
    """The length of the common prefix of `rows`."""
    return len(
        list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
    )


def count_words(name: str, beginnings: str) -> int:
    """The number of words in `name` that match `beginnings`, where a blank ends a word."""
    return len(re.findall(f" (?:{beginnings})", words_of(name)))


def words_of(name: str) -> str:
    """The words in `name` in lower case, each with a blank on both sides."""
    words = re.findall(r"[A-Z]?[^\W\dA-Z_]+|[A-Z]+", name)
    return f" {'  '.join(words)} ".lower()
