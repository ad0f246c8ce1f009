"""The built-in corpus of pairs: dates as people write them, and the same dates in ISO 8601.

A small encoder-decoder learns it in minutes, and its mistakes are obvious to anyone.
"""

import re
from datetime import date, timedelta

import numpy as np

from jaxgpt.data.batches import shuffled
from jaxgpt.data.corpus_formats import SIDES, Records
from jaxgpt.errors import require

NAME = "dates"
FIRST, LAST = date(1000, 1, 1), date(2999, 12, 31)
# fmt: off
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth", "twenty-first", "twenty-second", "twenty-third",
    "twenty-fourth", "twenty-fifth", "twenty-sixth", "twenty-seventh", "twenty-eighth",
    "twenty-ninth", "thirtieth", "thirty-first",
]
ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"]
# fmt: on
WAYS = (  # none is ambiguous between two dates
    "the {ordinal} of {month} {year}",
    "{month} {nth}, {year}",
    "{day}.{number}.{year}",
    "{weekday} {day} {month} {year}",
    "{year}, {day} {month}",
    "{day} {month} {year}",
    "{weekday}, {month} {day}, {year}",
    "the {nth} of {month}, {year}",
    "{day}-{abbreviated}-{year}",
    "{day} {roman} {year}",
    "{month} the {ordinal}, {year}",
    "in {year}, on {month} {day}",
)


def recognise(source: str) -> tuple[int, int] | None:
    """The count and the seed of `dates`, `dates:COUNT` or `dates:COUNT:SEED`; else None."""
    match = re.fullmatch(rf"{NAME}(?::(\d+))?(?::(\d+))?", source)
    return (int(match[1] or 20_000), int(match[2] or 0)) if match else None


def records(count: int, seed: int) -> Records:
    """`count` pairs of different dates, each written in one of WAYS; a function of `seed`."""
    days = (LAST - FIRST).days + 1
    require(0 < count <= days, f"{NAME} has from 1 to {days:,} pairs, but {count:,} are asked for.")
    ways = np.random.SeedSequence([seed, count]).generate_state(count) % len(WAYS)
    for number, (day, way) in enumerate(zip(shuffled(days, seed)[:count], ways, strict=True), 1):
        when = FIRST + timedelta(days=int(day))
        sides = WAYS[way].format_map(_words(when)), when.isoformat()
        yield f"{NAME} pair {number}", dict(zip(SIDES, sides, strict=True))


def _words(when: date) -> dict[str, object]:
    """The words that WAYS are made of, for the date `when`. Names are English in every locale."""
    endings = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
    month = MONTHS[when.month - 1]
    return {
        "year": when.year,
        "month": month,
        "abbreviated": month[:3],
        "number": when.month,
        "roman": ROMAN[when.month - 1],
        "day": when.day,
        "nth": f"{when.day}{endings.get(when.day, 'th')}",
        "ordinal": ORDINALS[when.day - 1],
        "weekday": WEEKDAYS[when.weekday()],
    }
