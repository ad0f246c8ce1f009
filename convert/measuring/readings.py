"""The possible readings of a file: by dialects with its names, or by roles that runs of its class
show."""

import dataclasses
import itertools
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import ENCODER, as_options

from ..detect.errors import Asked
from ..detect.inputs import Inputs
from ..detect.one_side import Detected, detect_as
from ..detect.pairs import detect_pair, pair_of
from ..dialects import DIALECTS, PAIRS
from ..foreign.peer import Peer
from ..probing.candidates import by_likelihood
from ..renaming.pair_guesses import guesses
from ..renaming.usual_names import renamings
from ..rows.arranged import ORDERS, with_gates_swapped
from ..rows.dialect import Dialect
from ..rows.kinds import Row
from ..rows.pair import AnyDialect, Pair
from .built_class import heads_of_parts
from .recorded import recorded
from .roles import proposals

HEADS = f"{ENCODER}num_heads"
SHORT = 8  # placeholder for a context length that the user must provide


@dataclasses.dataclass(frozen=True)
class Reading:
    """The result of detection, and placeholders for the fields that the file asks for.

    `missing` is raised once the class agrees: it asks for a field that no run of a class shows.
    """

    detected: Detected
    stand_ins: dict[str, Any]
    missing: Asked | None = None


def readings(
    inputs: Inputs,
    peer: Peer,
    named: str | None,
    hints: dict[str, int],
    right: dict[str, int],
) -> Iterator[Reading]:
    """The ways to read the file, those by names first.

    `hints` are sizes of the class by their fields; `right` has those that measurements of the
    readings so far have shown.
    """
    ways = renamings(inputs.shapes)
    last = [inputs.under(other) for way in ways if (other := way.with_heads_last)]
    first = [inputs.under(way) for way in ways]
    renamed = [*first, *last]
    knowledge = [ChainMap(right, hints)]
    if heads := heads_of_parts(peer.module):
        knowledge.insert(0, ChainMap(right, hints, heads))
    for named_so in (inputs, *renamed):
        known, some = _known_pairs(named, named_so), False
        for reading in _of_pairs(known, named_so, knowledge):
            some = True
            yield reading
        if some or (known and not named):
            return
    for named_so in _guessed(inputs, named):
        yield from _of_pairs(_known_pairs(named, named_so), named_so, knowledge)
    for named_so in (inputs, *renamed, *_guessed(inputs, named)):
        for dialect in filter(named_so.names.explained_by, _known(named, named_so)):
            yield from _of_dialect(dialect, named_so, hints)
    if named in (None, "auto"):
        for each in filter(None, ([*first[:1], inputs], last[:1])):
            yield from _of_run(each, peer, hints)


def _of_run(ways: Sequence[Inputs], peer: Peer, hints: Mapping[str, int]) -> Iterator[Reading]:
    """What is detected with the roles that a run of the class shows."""
    inputs, reader = recorded(ways, peer)
    for proposal, counts in proposals(reader):
        for sizes in counts:
            if all(hints.get(name, size) == size for name, size in sizes.items()):
                yield from _detections(proposal, inputs, hints, sizes)


def _of_pairs(
    known: Sequence[Pair], inputs: Inputs, knowledge: Sequence[Mapping[str, int]]
) -> Iterator[Reading]:
    """What is detected with each of the `known` pairs, and with gate and up swapped."""
    for pair in known:
        for each in filter(None, (pair, _with_swapped_sides(pair))):
            yield from _of_pair(each, inputs, *knowledge)


def _guessed(inputs: Inputs, named: str | None) -> Iterator[Inputs]:
    """Yield the file under each of the names that it may have if it is of an encoder-decoder."""
    if named in (None, "auto"):
        yield from map(inputs.under, guesses(inputs.shapes))


def _of_dialect(dialect: Dialect, inputs: Inputs, hints: Mapping[str, int]) -> Iterator[Reading]:
    """What is detected with `dialect`, and with gate and up swapped where names tell them apart."""
    gates_known = True
    for reading in _detections(dialect, inputs, hints, {}):
        gates_known &= "gate_order" not in reading.stand_ins
        yield reading
    if gates_known and (swapped := _gate_and_up_swapped(dialect)) is not None:
        yield from _detections(swapped, inputs, hints, {})


def _known(named: str | None, inputs: Inputs) -> list[Dialect]:
    """The dialects that may have written the file, the one first that detection would choose."""
    known = [each for each in DIALECTS.values() if each.family or not inputs.renamed]
    if named:
        return [dialect for dialect in known if dialect.name == named]
    return sorted(known, key=lambda each: (each.family, bool(each.twin), each.name))


def _known_pairs(named: str | None, inputs: Inputs) -> list[Pair]:
    """The pairs that may have written the file, single classes before families."""
    if named:
        return [PAIRS[named]] if named in PAIRS else []
    try:
        pair = pair_of(inputs)
    except UserError:  # several dialects fit
        return sorted(PAIRS.values(), key=lambda pair: (pair.family, pair.name))
    return [pair] if pair else []


def _of_pair(pair: Pair, inputs: Inputs, *knowledge: Mapping[str, int]) -> Iterator[Reading]:
    """The readings with `pair`, for each number of heads that its encoder may have.

    Each of `knowledge` has sizes that the class may have, the likeliest first.
    """
    for sizes in knowledge:
        for reading in _detections(pair, inputs, sizes, {}):
            assumed = reading.detected.report.assumed
            if HEADS not in assumed:
                yield reading
                continue
            encoder = reading.detected.report.config.encoder
            width = encoder.num_heads * encoder.head_dim
            fitting = by_likelihood([n for n in range(1, width + 1) if width % n == 0])
            counts = [sizes[HEADS]] if HEADS in sizes else [assumed[HEADS], *fitting]
            for count in dict.fromkeys(counts):
                if sizes.get(HEADS, count) != count:
                    continue
                stand_ins = {**reading.stand_ins, HEADS: count}
                yield from _detections(pair, inputs, sizes, stand_ins, reading.missing)


def _detected(dialect: AnyDialect, inputs: Inputs, stand_ins: Mapping[str, Any]) -> Detected:
    """The result of detection with `dialect`, and with `stand_ins` as if they were given."""
    given = as_options({**inputs.given, **stand_ins})
    of_encoder = given.pop("encoder", {})
    inputs = dataclasses.replace(inputs, given=given)
    if isinstance(dialect, Pair):
        return detect_pair(dialect, inputs, of_encoder)
    return detect_as(dialect, inputs)


def _detections(
    dialect: AnyDialect,
    inputs: Inputs,
    hints: Mapping[str, int],
    stand_ins: dict[str, Any],
    missing: Asked | None = None,
) -> Iterator[Reading]:
    """The readings with `dialect`, for each possible value of the fields that it asks for."""
    try:
        detected = _detected(dialect, inputs, stand_ins)
        orders = list(_orders(detected))
        for order in orders:
            yield from _detections(dialect, inputs, hints, {**stand_ins, **order}, missing)
        if not orders:
            yield Reading(detected, stand_ins, missing)
        return
    except Asked as problem:
        asked = problem
    except UserError:
        return
    if asked.field in {**inputs.given, **stand_ins}:
        return
    plain = asked.field.removeprefix(ENCODER)
    if plain == "context_length" and asked.field not in hints:
        missing = asked
    for value in _values(asked, hints):
        if hints.get(asked.field, value) != value:  # measured by now
            continue
        yield from _detections(dialect, inputs, hints, {**stand_ins, asked.field: value}, missing)


def _orders(detected: Detected) -> Iterator[dict[str, str]]:
    """Yield the orders within matrices that are open, the same on both sides, the usual first."""
    assumed = detected.report.assumed
    names = [name for name in assumed if name.removeprefix(ENCODER) in ORDERS]
    fields = list(dict.fromkeys(name.removeprefix(ENCODER) for name in names))
    usual = {
        field: next(assumed[name] for name in names if name.endswith(field)) for field in fields
    }
    options = [sorted(ORDERS[field], key=lambda value: value != usual[field]) for field in fields]
    for values in itertools.product(*options) if fields else ():
        order = dict(zip(fields, values, strict=True))
        yield {name: order[name.removeprefix(ENCODER)] for name in names}


def _values(asked: Asked, hints: Mapping[str, int]) -> Sequence[Any]:
    """The values to try for the field `asked` for: that of the class, or all that may be right."""
    if asked.field in hints:
        return [hints[asked.field]]
    stand_ins: dict[str, Sequence[Any]] = {"positions": ["none"], "context_length": [SHORT]}
    return stand_ins.get(asked.field.removeprefix(ENCODER), asked.candidates)


def _with_swapped_sides(pair: Pair) -> Pair | None:
    """The pair with gate and up swapped on both sides; None if it has no gates."""
    encoder, decoder = map(_gate_and_up_swapped, (pair.encoder, pair.decoder))
    if encoder is None or decoder is None:
        return None
    return dataclasses.replace(pair, encoder=encoder, decoder=decoder)


def _gate_and_up_swapped(dialect: Dialect) -> Dialect | None:
    """The readings of the dialect that have gates, with gate and up swapped."""
    swapped = [each for each in map(_swapped, (dialect, *dialect.variants)) if each is not None]
    return dataclasses.replace(swapped[0], variants=tuple(swapped[1:])) if swapped else None


def _swapped(dialect: Dialect) -> Dialect | None:
    """The dialect with gate and up swapped, if it has them."""
    rows = (row for row in dialect.rows if isinstance(row, Row))
    return with_gates_swapped(dialect) if any("glu" in row.flax.labels for row in rows) else None
