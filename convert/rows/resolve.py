"""Resolves the choices of a dialect for one file or one model: its words and its optional rows.

Works on names and shapes alone; reads no tensor.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from jaxgpt.config import ModelConfig

from .axes import Dims, View
from .dialect import Dialect, is_ignored
from .fields import norms_full_width
from .kinds import Alias, Buffer, Filled, Kind, Row, is_embedding, part_of
from .labels import every
from .pattern import Choice, Match, label_words
from .tensors import Shape, Tensors

AFTER = "after"  # the axis of the member after the blocks, such as a final norm in nn.Sequential


def settle(dialect: Dialect, tensors: Tensors) -> Dialect:
    """The dialect with one word for each choice, and only rows that the file has or must have.

    `tensors` are those of the file.
    """
    dialect = _with_last_member(dialect, tensors)
    by_name: defaultdict[str, list[Match]] = defaultdict(list)
    for row in dialect.rows:
        for name, match in tensors.matching(row.torch, dialect.label_words).items():
            by_name[name].append(match)
    fits = [by_name[name] for name in tensors.shapes]
    # Names that match one row alone vote first: an ambiguous name must not overrule them.
    surest = sorted((matches for matches in fits if matches), key=len)
    words = {axis: (_spelling(known, _seen(axis, fits)),) for axis, known in dialect.words.items()}
    settled = replace(dialect, words=words, variants=())
    return replace(settled, rows=tuple(_rows_of_file(settled, _chosen(surest), tensors)))


def _with_last_member(dialect: Dialect, tensors: Tensors) -> Dialect:
    """The dialect with the number of the one member that follows the blocks in their list.

    The rows of such a member have {after} in their names; they are dropped if the file has none.
    """
    rows: list[Kind] = []
    for row in dialect.rows:
        if not row.torch.has(AFTER):
            rows.append(row)
            continue
        matches = tensors.matching(row.torch, label_words(()))
        numbers = {match.axes[AFTER] for match in matches.values()}
        if len(numbers) == 1:
            rows.append(replace(row, torch=row.torch.numbered(AFTER, numbers.pop())))
    return replace(dialect, rows=tuple(rows))


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


def _seen(axis: str, fits: Sequence[Sequence[Match]]) -> list[str]:
    """The words on a label axis in the names of the file, in their order."""
    matches = (match for matches in fits for match in matches)
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


def _rows_of_file(dialect: Dialect, words: Mapping[Choice, str], tensors: Tensors) -> list[Kind]:
    """The rows that the file has, and those that it must have, in the order of the dialect.

    Example: four rows of a family describe its position table, as `position_embedding.weight` or as
    `pos_emb` with two, three or four dimensions. Of a file with a `pos_emb` of shape (1, 9, 12) the
    row with three is present and the others are dropped. If a file has none of several tensors
    for a parameter that every file has, the first row is taken, and `fit` reports it missing.
    """
    rows = [replace(row, torch=row.torch.worded(words)) for row in dialect.rows]
    by_subject: defaultdict[object, defaultdict[str, list[Kind]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        by_subject[_subject(row)][part_of(row.torch.dims)].append(row)
    present = {
        id(row)
        for parts in by_subject.values()
        for alternatives in _whole_or_in_parts(parts, dialect, tensors)
        for row in _chosen_alternatives(alternatives, dialect, tensors)
    }
    return _without_repeats(
        [replace(row, torch=row.torch.required()) for row in rows if id(row) in present]
    )


def _without_repeats(rows: Sequence[Kind]) -> list[Kind]:
    """`rows` without copies of the embedding under the name of the embedding itself."""
    tables = {row.torch.pieces for row in rows if is_embedding(row)}
    return [
        row
        for row in rows
        if not (isinstance(row, Alias) and row.is_copy and row.torch.pieces in tables)
    ]


def _subject(row: Kind) -> object:
    """What `row` is a row of: a parameter by its Flax view, or else a tensor."""
    return row.flax if isinstance(row, Row) else row.torch.pieces


def _whole_or_in_parts(
    parts: Mapping[str, Sequence[Kind]], dialect: Dialect, tensors: Tensors
) -> list[Sequence[Kind]]:
    """The alternatives of one subject as a file stores it: whole, which is "", or in `parts`.

    It is in parts if the file has all of them, or if the dialect has no rows of the whole.
    """
    cut = [alternatives for part, alternatives in parts.items() if part]
    in_parts = cut and all(_in_file(alternatives, dialect, tensors) for alternatives in cut)
    return cut if in_parts or "" not in parts else [parts[""]]


def _in_file(alternatives: Sequence[Kind], dialect: Dialect, tensors: Tensors) -> list[Kind]:
    """The `alternatives` of one subject for which the file has a tensor."""
    rivals = len(alternatives) > 1
    return [
        row
        for row in alternatives
        if _has_tensor(
            row, dialect, tensors, isinstance(row, Buffer) or (isinstance(row, Row) and rivals)
        )
    ]


def _chosen_alternatives(
    alternatives: Sequence[Kind], dialect: Dialect, tensors: Tensors
) -> Sequence[Kind]:
    """The one of the `alternatives` of one subject that a file has or must have, if any.

    Tensors that are ignored are all present, as they need not be in the file.
    """
    if ignored := [row for row in alternatives if is_ignored(row)]:
        return ignored
    if there := _in_file(
        alternatives, dialect, tensors
    ):  # of a vector and a single number, a tensor of one element is the number
        return [max(there, key=lambda row: row.torch.dims.count(()))]
    required = all(isinstance(row, Row) and not row.torch.optional for row in alternatives)
    return alternatives[:1] if required else []


def _has_tensor(row: Kind, dialect: Dialect, tensors: Tensors, by_dims: bool) -> bool:
    """Whether the file has a tensor with a name of `row` and, if `by_dims`, with its dimensions."""
    view = row.torch.view(dialect.spelling)
    return any(
        view.match(name) is not None and (not by_dims or _could_be(view.dims, tensors.shapes[name]))
        for name in tensors.matching(row.torch, dialect.label_words)
    )


def _could_be(dims: Dims, shape: Shape) -> bool:
    return len(dims) == len(shape) and all(
        dim or length == 1 for dim, length in zip(dims, shape, strict=True)
    )


def express(dialect: Dialect, config: ModelConfig, paths: Collection[str]) -> Dialect:
    """The dialect as its class writes the model of `config`, with the parameters at `paths`.

    Takes the first word of each choice, and the buffers that the current version of the class
    stores.
    """
    expressed: list[Kind] = []
    stored: dict[View, list[str]] = {}  # the parts in which each parameter is written; "" is whole
    dialect = _holding(dialect, config, paths)
    for row in dialect.rows:
        # A file may repeat the embedding, as a tied head or for the other side.
        repeats = isinstance(row, Alias) or (is_embedding(row) and not row.torch.choices)
        row = replace(row, torch=row.torch.worded({}))
        if isinstance(row, Alias):
            if row.is_copy:
                continue
            row = Row(row.of if config.tied else row.own, row.torch)
        if isinstance(row, Row):
            in_model = any(row.flax.at(place) in paths for place in every(row.flax.spread, {}))
            part, before = part_of(row.torch.dims), stored.get(row.flax, [])
            again = part in before or (before and "" in (part, *before))
            if (row.torch.optional and not in_model) or (again and not repeats):
                continue
            stored[row.flax] = [*before, part]
        if isinstance(row, Buffer) and not row.written:
            continue
        expressed.append(replace(row, torch=row.torch.required()))
    words = {axis: spellings[:1] for axis, spellings in dialect.words.items()}
    return replace(dialect, rows=tuple(expressed), words=words)


def _holding(dialect: Dialect, config: ModelConfig, paths: Collection[str]) -> Dialect:
    """The first variant of `dialect` with a place for each parameter of `paths`, or its own."""
    wide = config.qk_norm == "full_width"
    for variant in (dialect, *dialect.variants):
        rows = [row for row in variant.rows if isinstance(row, Row)]
        places = {row.flax.at(place) for row in rows for place in every(row.flax.spread, {})}
        places |= {row.own.name for row in variant.rows if isinstance(row, Alias)}
        alike = config.qk_norm == "none" or wide == norms_full_width([row.flax for row in rows])
        if places >= set(paths) and alike:
            return variant
    return dialect


def fillable(dialect: Dialect) -> set[str]:
    """The Flax names of the parameters that are written as zeros if the model lacks them."""
    return {row.flax.name for row in dialect.rows if isinstance(row, Filled)}
