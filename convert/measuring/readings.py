"""The ways in which a file may be read: by dialects with its names, or by roles that runs show."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from jaxgpt.errors import UserError

from ..detect.one_side import Detected, detect_as
from ..detect.refusals import Asked, Inputs
from ..dialects import DIALECTS
from ..foreign.peer import Peer
from ..rows.axes import LABELS
from ..rows.dialect import Dialect, labelled
from ..rows.kinds import Row
from .roles import proposals
from .trace import Seen
from .trace_reader import Reader

LARGE = 2**40  # no value has so many numbers: none is recorded
ROWS, LENGTH = 4, 3
SHORT = 8  # tokens of a context that stands in for one that the user must say


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was detected, and the fields that were put in for those that the file asks for.

    `missing` is raised once the class agrees: it asks for a field that no run of a class shows.
    """

    detected: Detected
    stand_ins: dict[str, Any]
    missing: Asked | None = None


def readings(
    inputs: Inputs, peer: Peer, named: str | None, hints: Mapping[str, int]
) -> Iterator[Reading]:
    """The ways to read the file, those by names first."""
    for dialect in _known(named):
        yield from _detections(dialect, inputs, hints, {})
        if (swapped := _gate_and_up_swapped(dialect)) is not None:
            yield from _detections(swapped, inputs, hints, {})
    if named in (None, "auto"):
        for dialect, counts in _proposed(inputs, peer):
            for sizes in counts:
                if all(hints.get(name, size) == size for name, size in sizes.items()):
                    yield from _detections(dialect, inputs, hints, sizes)


def _known(named: str | None) -> list[Dialect]:
    """The dialects that may have written the file, the one first that detection would choose."""
    if named == "auto":
        return []
    if named:
        return [DIALECTS[named]] if named in DIALECTS else []
    return sorted(
        DIALECTS.values(), key=lambda dialect: (dialect.family, bool(dialect.twin), dialect.name)
    )


def _detections(
    dialect: Dialect,
    inputs: Inputs,
    hints: Mapping[str, int],
    stand_ins: dict[str, Any],
    missing: Asked | None = None,
) -> Iterator[Reading]:
    """What is detected with `dialect`, for each value of what it asks for."""
    given = {**inputs.given, **stand_ins}
    try:
        detected = detect_as(dialect, dataclasses.replace(inputs, given=given))
        yield Reading(detected, stand_ins, missing)
        return
    except Asked as problem:
        asked = problem
    except UserError:
        return
    if asked.field in given:
        return
    if asked.field == "context_length" and asked.field not in hints:
        missing = asked
    for value in _values(asked, hints):
        yield from _detections(dialect, inputs, hints, {**stand_ins, asked.field: value}, missing)


def _values(asked: Asked, hints: Mapping[str, int]) -> Sequence[Any]:
    """The values to put in for what is `asked`: that of the class, or all that may be right."""
    if asked.field in hints:
        return [hints[asked.field]]
    stand_ins: dict[str, Sequence[Any]] = {"positions": ["none"], "context_length": [SHORT]}
    return stand_ins.get(asked.field, asked.candidates)


def _gate_and_up_swapped(dialect: Dialect) -> Dialect | None:
    """The dialect in which the two first matrices of a gated MLP change places."""
    rows = (row for row in dialect.rows if isinstance(row, Row))
    if not any("glu" in row.flax.labels for row in rows):
        return None
    if "glu" not in dialect.words:
        return dataclasses.replace(dialect, words={**dialect.words, "glu": ("up gate",)})
    other = dict(zip(LABELS["glu"], reversed(LABELS["glu"]), strict=True))
    spellings = tuple(
        " ".join(f"{other[label]}={word}" for label, word in labelled("glu", words).items())
        for words in dialect.words["glu"]
    )
    return dataclasses.replace(dialect, words={**dialect.words, "glu": spellings})


def _proposed(inputs: Inputs, peer: Peer) -> Iterator[tuple[Dialect, list[dict[str, int]]]]:
    """The dialects whose roles a run of the class shows, and head counts that fit them."""
    names = {new: old for old, new in peer.names.items()}
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 5
    ids[1] = ids[0]
    seen = Seen.of(peer.module, ids, names, LARGE)
    yield from proposals(Reader(seen, inputs.shapes, inputs.read))
