"""Settles a dialect for one file or one model: which of its words, and which of its optional rows. Knows no value."""

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
    """As this file has it: one word for each choice, and only rows that it has or should have."""
    patterns = [pattern(row.torch, dialect.qkv) for row in dialect.rows]
    found = {
        name: [
            (m.groupdict(), choices) for regex, choices in patterns if (m := regex.fullmatch(name))
        ]
        for name in shapes
    }
    # A name that only one row can mean decides before those that several could.
    surest = sorted((matches for matches in found.values() if matches), key=len)
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
    return replace(settled, rows=tuple(_kept(settled, words, shapes)))


def _spelling(known: tuple[str, ...], seen: list[str]) -> str:
    """In the order in which the file lists the three."""
    words = max(known, key=lambda words: len({*words.split()} & {*seen})).split()
    return " ".join(sorted(words, key=lambda word: seen.index(word) if word in seen else len(seen)))


def _kept(dialect: Dialect, words: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[Kind]:
    rows = [replace(row, torch=worded(row.torch, words)) for row in dialect.rows]
    flax = Counter(row.flax for row in rows if isinstance(row, Row))
    optional = {row.flax for row in rows if isinstance(row, Row) and "?" in row.torch}
    kept: list[Kind] = []
    taken: set[str] = set()  # flax views, and masks by name
    for row in rows:
        row = replace(row, torch=row.torch.replace("?", ""))
        key = row.flax if isinstance(row, Row) else row.torch.partition(" : ")[0]
        rivals = isinstance(row, Mask) or (isinstance(row, Row) and flax[row.flax] > 1)
        if isinstance(row, Ignore) or (key not in taken and _there(row, dialect, shapes, rivals)):
            kept.append(row)
            taken.add(key)
    for row in rows:
        if isinstance(row, Row) and row.flax not in taken | optional:
            kept.append(row)
            taken.add(row.flax)
    order = [row.torch.replace("?", "") for row in rows]
    return sorted(kept, key=lambda row: order.index(row.torch))


def _there(row: Kind, dialect: Dialect, shapes: Mapping[str, Shape], rivals: bool) -> bool:
    """Whether the file has it; where rows differ in their dimensions alone, with these dimensions."""
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
    """As its class writes a model with these parameters: the first word of each choice, today's masks."""
    kept: list[Kind] = []
    flax = set()
    for row in dialect.rows:
        row = replace(row, torch=worded(row.torch, {}))
        if isinstance(row, Tied):
            row = Row(EMBEDDING if tied else HEAD, row.torch)
        if isinstance(row, Row):
            view = View.parse(row.flax)
            held = any(
                view.at(place) in paths
                for place in view.places({axis: len(LABELS[axis]) for axis in LABELS})
            )
            if ("?" in row.torch and not held) or (row.flax in flax and row.flax != EMBEDDING):
                continue
            flax.add(row.flax)
        if isinstance(row, Ignore) or (isinstance(row, Mask) and not row.written):
            continue
        kept.append(replace(row, torch=row.torch.replace("?", "")))
    return replace(dialect, rows=tuple(kept), qkv=dialect.qkv[:1])


def worded(torch: str, words: Mapping[str, str]) -> str:
    """Of each choice the given word, or the first."""
    name, *axes = torch.split(" : ")
    return " : ".join([CHOICE.sub(lambda m: words.get(m[1], m[1].split("|")[0]), name), *axes])


@functools.cache
def pattern(torch: str, qkv: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """What names look like in any wording, and which group of the match is which choice."""
    spelled = {"qkv": {word for words in qkv for word in labelled(words).values()}}
    choices: dict[str, str] = {}
    made = ""
    for part in re.split(r"({\w+}|\([^)]*\))", torch.split(" : ")[0].replace("?", "")):
        if part.startswith("("):
            group = f"choice{len(choices)}"
            choices[group] = part[1:-1]
            made += f"(?P<{group}>{'|'.join(map(re.escape, part[1:-1].split('|')))})"
        elif part.startswith("{"):
            axis = part[1:-1]
            made += f"(?P<{axis}>{'|'.join(map(re.escape, spelled[axis])) if axis in spelled else '[0-9]{1,9}'})"
        else:
            made += re.escape(part)
    return re.compile(made), choices
