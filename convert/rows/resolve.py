"""Resolves the choices of a dialect for one file or one model: its words and its optional rows.

Works on names and shapes alone; reads no tensor.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .axes import Dims, every
from .dialect import Dialect, is_ignored
from .kinds import EMBEDDING, Alias, Buffer, Filled, Kind, Row
from .pattern import Choice, Match

Shape = tuple[int, ...]


def settle(dialect: Dialect, shapes: Mapping[str, Shape]) -> Dialect:
    """The dialect with one word for each choice, and only rows that the file has or must have.

    `shapes` maps each tensor name of the file to its shape.
    """
    spellings = dialect.spellings
    fits = [
        [match for row in dialect.rows if (match := row.torch.match(name, spellings))]
        for name in shapes
    ]
    # Names that match one row alone vote first: an ambiguous name must not overrule them.
    surest = sorted((matches for matches in fits if matches), key=len)
    words = {
        axis: (_spelling(known, _seen(axis, surest)),) for axis, known in dialect.words.items()
    }
    settled = replace(dialect, words=words)
    return replace(settled, rows=tuple(_present_rows(settled, _chosen(surest), shapes)))


def _chosen(surest: Sequence[Sequence[Match]]) -> dict[Choice, str]:
    """The word of each choice for which the surest names vote."""
    votes: defaultdict[Choice, Counter[str]] = defaultdict(Counter)
    ranks: dict[Choice, int] = {}
    for matches in surest:
        for match in matches:
            for choice, word in match.words.items():
                if ranks.setdefault(choice, len(matches)) == len(matches):
                    votes[choice][word] += 1
    return {choice: tally.most_common(1)[0][0] for choice, tally in votes.items()}


def _seen(axis: str, surest: Sequence[Sequence[Match]]) -> list[str]:
    """The words on a label axis in the names of the file, in their order."""
    matches = (match for matches in surest for match in matches)
    return list(dict.fromkeys(match.axes[axis] for match in matches if axis in match.axes))


def _spelling(known: tuple[str, ...], seen: list[str]) -> str:
    """The words of the spelling in `known` closest to `seen`, in the order of `seen`."""

    def plain(word: str) -> str:
        return word.rpartition("=")[2]

    words = max(known, key=lambda words: len({*map(plain, words.split())} & {*seen})).split()
    return " ".join(
        sorted(
            words, key=lambda word: seen.index(plain(word)) if plain(word) in seen else len(seen)
        )
    )


def _present_rows(
    dialect: Dialect, words: Mapping[Choice, str], shapes: Mapping[str, Shape]
) -> list[Kind]:
    """The rows that the file has, and those that it must have, in the order of the dialect."""
    rows = [replace(row, torch=row.torch.worded(words)) for row in dialect.rows]
    of_flax = Counter(row.flax for row in rows if isinstance(row, Row))
    may_lack = {row.flax for row in rows if isinstance(row, Row) and row.torch.optional}
    present: set[int] = set()
    taken: set[object] = set()  # Flax views, and the names of other tensors
    for i, row in enumerate(rows):
        key = row.flax if isinstance(row, Row) else row.torch.pieces
        rivals = isinstance(row, Buffer) or (isinstance(row, Row) and of_flax[row.flax] > 1)
        if is_ignored(row) or (key not in taken and _is_there(row, dialect, shapes, rivals)):
            present.add(i)
            taken.add(key)
    for i, row in enumerate(rows):
        if isinstance(row, Row) and row.flax not in taken | may_lack:
            present.add(i)
            taken.add(row.flax)
    return [replace(row, torch=row.torch.required()) for i, row in enumerate(rows) if i in present]


def _is_there(row: Kind, dialect: Dialect, shapes: Mapping[str, Shape], rivals: bool) -> bool:
    """Whether the file has a tensor of `row`; if `rivals` share its name, one of its dimensions."""
    view = row.torch.view(dialect.spelling)
    return any(
        view.match(name) is not None and (not rivals or _could_be(view.dims, shape))
        for name, shape in shapes.items()
    )


def _could_be(dims: Dims, shape: Shape) -> bool:
    return len(dims) == len(shape) and all(
        dim or length == 1 for dim, length in zip(dims, shape, strict=True)
    )


def express(dialect: Dialect, paths: Collection[str], tied: bool) -> Dialect:
    """The dialect as its class writes a model with the parameters at `paths`.

    Takes the first word of each choice, and the buffers that the current version of the class
    stores.
    """
    expressed: list[Kind] = []
    flax = set()
    for row in dialect.rows:
        row = replace(row, torch=row.torch.worded({}))
        if isinstance(row, Alias):
            row = Row(row.of if tied else row.own, row.torch)
        if isinstance(row, Row):
            in_model = any(row.flax.at(place) in paths for place in every(row.flax.spread, {}))
            if (row.torch.optional and not in_model) or (
                row.flax in flax and row.flax != EMBEDDING
            ):
                continue
            flax.add(row.flax)
        if isinstance(row, Buffer) and not row.written:
            continue
        expressed.append(replace(row, torch=row.torch.required()))
    words = {axis: spellings[:1] for axis, spellings in dialect.words.items()}
    return replace(dialect, rows=tuple(expressed), words=words)


def fillable(dialect: Dialect) -> set[str]:
    """The Flax names of the parameters that are written as zeros if the model lacks them."""
    return {row.flax.name for row in dialect.rows if isinstance(row, Filled)}
