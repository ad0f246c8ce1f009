"""Resolves the choices of a dialect for one file or one model: its words and its optional rows.

Works on names and shapes alone; reads no tensor.
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from .axes import LABELS, View
from .dialect import EMBEDDING, HEAD, Dialect, Ignore, Kind, Mask, Row, Tied, labelled

Shape = tuple[int, ...]
CHOICE = re.compile(r"\(([^)]*)\)")


def settle(dialect: Dialect, shapes: Mapping[str, Shape]) -> Dialect:
    """The dialect with one word for each choice, and only rows that the file has or must have.

    `shapes` maps each tensor name of the file to its shape.
    """
    patterns = [pattern(row.torch, dialect.qkv) for row in dialect.rows]
    matches_by_name = {
        name: [
            (m.groupdict(), choices) for regex, choices in patterns if (m := regex.fullmatch(name))
        ]
        for name in shapes
    }
    # Names that match one row alone vote first: an ambiguous name must not overrule them.
    surest = sorted((matches for matches in matches_by_name.values() if matches), key=len)
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    ranks: dict[str, int] = {}
    for matches in surest:
        for groups, choices in matches:
            for group, choice in choices.items():
                if ranks.setdefault(choice, len(matches)) == len(matches):
                    votes[choice][groups[group]] += 1
    words = {choice: tally.most_common(1)[0][0] for choice, tally in votes.items()}
    seen = dict.fromkeys(
        groups["qkv"] for matches in surest for groups, _ in matches if "qkv" in groups
    )
    settled = replace(dialect, qkv=(_spelling(dialect.qkv, list(seen)),))
    return replace(settled, rows=tuple(_present_rows(settled, words, shapes)))


def _spelling(known: tuple[str, ...], seen: list[str]) -> str:
    """The words of the spelling in `known` closest to `seen`, in the order of `seen`."""
    words = max(known, key=lambda words: len({*words.split()} & {*seen})).split()
    return " ".join(sorted(words, key=lambda word: seen.index(word) if word in seen else len(seen)))


def _present_rows(
    dialect: Dialect, words: Mapping[str, str], shapes: Mapping[str, Shape]
) -> list[Kind]:
    """The rows that the file has, and those that it must have, in the order of the dialect."""
    rows = [replace(row, torch=worded(row.torch, words)) for row in dialect.rows]
    flax = Counter(row.flax for row in rows if isinstance(row, Row))
    optional = {row.flax for row in rows if isinstance(row, Row) and "?" in row.torch}
    present: list[Kind] = []
    taken: set[str] = set()  # flax views, and masks by name
    for row in rows:
        row = replace(row, torch=row.torch.replace("?", ""))
        key = row.flax if isinstance(row, Row) else row.torch.partition(" : ")[0]
        rivals = isinstance(row, Mask) or (isinstance(row, Row) and flax[row.flax] > 1)
        if isinstance(row, Ignore) or (key not in taken and _there(row, dialect, shapes, rivals)):
            present.append(row)
            taken.add(key)
    for row in rows:
        if isinstance(row, Row) and row.flax not in taken | optional:
            present.append(row)
            taken.add(row.flax)
    order = [row.torch.replace("?", "") for row in rows]
    return sorted(present, key=lambda row: order.index(row.torch))


def _there(row: Kind, dialect: Dialect, shapes: Mapping[str, Shape], rivals: bool) -> bool:
    """Whether the file has a tensor of `row`; if `rivals` share its name, one of its dimensions."""
    view = View.parse(row.torch, dialect.spelling)
    return any(
        view.match(name) is not None and (not rivals or _could_be(view.dims, shape))
        for name, shape in shapes.items()
    )


def _could_be(dims: tuple[tuple[str, ...], ...], shape: Shape) -> bool:
    return len(dims) == len(shape) and all(
        dim or length == 1 for dim, length in zip(dims, shape, strict=True)
    )


def express(dialect: Dialect, paths: Collection[str], tied: bool) -> Dialect:
    """The dialect as its class writes a model with the parameters at `paths`.

    Takes the first word of each choice, and the masks that the current version of the class stores.
    """
    expressed: list[Kind] = []
    flax = set()
    for row in dialect.rows:
        row = replace(row, torch=worded(row.torch, {}))
        if isinstance(row, Tied):
            row = Row(EMBEDDING if tied else HEAD, row.torch)
        if isinstance(row, Row):
            view = View.parse(row.flax)
            in_model = any(
                view.at(place) in paths
                for place in view.places({axis: len(LABELS[axis]) for axis in LABELS})
            )
            if ("?" in row.torch and not in_model) or (row.flax in flax and row.flax != EMBEDDING):
                continue
            flax.add(row.flax)
        if isinstance(row, Ignore) or (isinstance(row, Mask) and not row.written):
            continue
        expressed.append(replace(row, torch=row.torch.replace("?", "")))
    return replace(dialect, rows=tuple(expressed), qkv=dialect.qkv[:1])


def worded(torch: str, words: Mapping[str, str]) -> str:
    """The row text `torch` with each choice replaced by its word in `words`, else its first one."""
    name, *axes = torch.split(" : ")
    return " : ".join([CHOICE.sub(lambda m: words.get(m[1], m[1].split("|")[0]), name), *axes])


@functools.cache
def pattern(torch: str, qkv: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """A regex of the names that a row allows, and {group of the match: text of the choice}."""
    spelled = {"qkv": {word for words in qkv for word in labelled(words).values()}}
    choices: dict[str, str] = {}
    regex = ""
    for part in re.split(r"({\w+}|\([^)]*\))", torch.split(" : ")[0].replace("?", "")):
        if part.startswith("("):
            group = f"choice{len(choices)}"
            choices[group] = part[1:-1]
            regex += f"(?P<{group}>{'|'.join(map(re.escape, part[1:-1].split('|')))})"
        elif part.startswith("{"):
            axis = part[1:-1]
            words = "|".join(map(re.escape, spelled[axis])) if axis in spelled else "[0-9]{1,9}"
            regex += f"(?P<{axis}>{words})"
        else:
            regex += re.escape(part)
    return re.compile(regex), choices
