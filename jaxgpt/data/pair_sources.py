"""Sources of pairs: TSV files, records with two fields, standard input, and the built-in dates."""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from jaxgpt.data import dates
from jaxgpt.data.corpus_formats import SIDES, TAB_SEPARATED, Reading, tab_separated
from jaxgpt.data.pieces import Pair, pairs_from_file, pairs_from_records
from jaxgpt.data.sources import files_of, hugging_face, known_bytes, label
from jaxgpt.errors import require


def fields_of(sources: Sequence[str], field: str = "text") -> tuple[str, ...] | None:
    """The fields of the source and the target, or None where `sources` are text.

    Sources are pairs if `field` names two fields, as in "en,de", or if one of them is a .tsv file
    or the built-in dates.
    """
    if "," in field:
        names = tuple(name.strip() for name in field.split(","))
        require(
            len(names) == len(SIDES) and all(names),
            f"--field {field} must be the names of the source and of the target, with a comma "
            "between them, for pairs, or one name for text.",
        )
        return names
    named = [source for source in sources if dates.recognise(source) or _is_tsv(source)]
    if not named:
        return None
    require(
        field == "text",
        f"{named[0]} has pairs, but --field {field} names one field. Leave --field out, or name "
        f"two: --field {','.join(SIDES)}.",
    )
    return SIDES


def pairs(
    sources: Sequence[str],
    fields: tuple[str, ...] = SIDES,
    errors: str = "strict",
    stdin: BinaryIO | None = None,
) -> Iterator[Pair]:
    """All pairs of `sources`, in their order; `errors` and `stdin` are as for `documents`."""
    reading = Reading(fields, errors)
    for source in sources:
        empty = True
        for pair in _read(source, reading, stdin):
            empty = False
            yield pair
        require(not empty, f"{label(source)} is empty: there are no pairs in it.")


def known_pair_bytes(sources: Sequence[str]) -> int | None:
    """The size of all pairs, or None where it is not known before reading."""
    return None if any(map(dates.recognise, sources)) else known_bytes(sources)


def _read(source: str, reading: Reading, stdin: BinaryIO | None) -> Iterator[Pair]:
    if source == "-":
        lines = tab_separated(stdin or sys.stdin.buffer, Path(label(source)), reading)
        return pairs_from_records(lines, reading)
    if drawn := dates.recognise(source):
        return pairs_from_records(dates.records(*drawn), reading)
    if source.startswith("hf:"):
        return pairs_from_records(hugging_face(source), reading)
    return chain.from_iterable(pairs_from_file(path, reading) for path in files_of(source))


def _is_tsv(source: str) -> bool:
    return source.endswith(TAB_SEPARATED) and not source.startswith("hf:")
