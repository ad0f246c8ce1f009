"""The built-in pairs are correct, all different, and the same on every machine."""

import hashlib
import re
from datetime import date
from pathlib import Path

import pytest

from jaxgpt.data import dates
from jaxgpt.data.pair_sources import pairs
from jaxgpt.data.prepare_pairs import prepare_pairs
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError


def texts(source: str = "dates") -> list[tuple[str, str]]:
    return [(pair.source.text, pair.target.text) for pair in pairs([source])]


def parsed(source: str) -> date:
    """The date that `source` names, read word by word, independently of the ways of writing it."""
    year = next(int(word) for word in re.findall(r"\d{4}", source))
    rest = re.sub(r"\d{4}", " ", source)
    month = next((i for i, name in enumerate(dates.MONTHS, 1) if name[:3] in rest), None)
    roman = re.search(r"\b[IVX]+\b", rest)
    if month is None and roman:
        month = dates.ROMAN.index(roman[0]) + 1
    words = {word: i for i, word in enumerate(dates.ORDINALS, 1)}
    days = [words[word] for word in re.findall(r"[a-z-]+", rest) if word in words]
    numbers = [*map(int, re.findall(r"\d+", rest)), *days]
    if month is None:
        month = numbers.pop(1)
    (day,) = numbers
    when = date(year, month, day)
    for i, name in enumerate(dates.WEEKDAYS):
        assert (name in source) <= (when.weekday() == i), source
    return when


def test_every_target_is_the_date_of_its_source() -> None:
    every = texts()
    assert len(every) == 20_000
    for source, target in every:
        assert parsed(source).isoformat() == target, source
        assert re.fullmatch(r"[12]\d{3}-\d\d-\d\d", target)


@pytest.mark.parametrize(
    ("when", "written"),
    [
        (
            date(1998, 5, 3),
            {
                "the third of May 1998",
                "May 3rd, 1998",
                "3.5.1998",
                "Sunday 3 May 1998",
                "1998, 3 May",
                "Sunday, May 3, 1998",
                "3-May-1998",
                "3 V 1998",
            },
        ),
        (date(2021, 12, 31), {"December the thirty-first, 2021", "the 31st of December, 2021"}),
        (date(2000, 2, 12), {"February 12th, 2000", "Saturday 12 February 2000"}),
        (date(1815, 6, 22), {"the twenty-second of June 1815", "June 22nd, 1815"}),
    ],
)
def test_dates_are_written_in_each_way(when: date, written: set[str]) -> None:
    assert written <= {way.format_map(dates._words(when)) for way in dates.WAYS}


def test_every_way_occurs_about_equally_often() -> None:
    every = texts()
    assert len(dates.WAYS) >= 8
    for way in dates.WAYS:
        count = sum(
            way.format_map(dates._words(date.fromisoformat(target))) == source
            for source, target in every
        )
        assert 0.9 < count * len(dates.WAYS) / len(every) < 1.1, way


def test_no_date_occurs_twice_so_the_splits_share_none(tmp_path: Path) -> None:
    every = texts()
    assert len({target for _, target in every}) == len({source for source, _ in every}) == 20_000
    dataset = prepare_pairs(["dates:500"], tmp_path / "out", val=0.3)
    tokenizer = load(dataset.target_tokenizer)
    train, val = (
        {tokenizer.decode(split[i][1]) for i in range(len(split))}
        for split in (dataset.train, dataset.val)
    )
    assert (len(train), len(val)) == (350, 150)
    assert not train & val


def test_bytes_depend_on_the_seed_alone_on_every_machine() -> None:
    written = "".join(f"{source}\t{target}\n" for source, target in texts())
    digest = hashlib.sha256(written.encode()).hexdigest()
    assert digest == "1a1ab584cd84d5f72beafc3eab1e05eefb43d21bf1657e68bd746983bee576c6"
    assert texts("dates:20000:0") == texts()
    one, other = ({target for _, target in texts(f"dates:1000:{seed}")} for seed in (1, 2))
    assert len(one & other) < 50


def test_more_dates_than_there_are_days_are_refused() -> None:
    with pytest.raises(UserError, match="from 1 to 730,485 pairs, but 730,486 are asked for"):
        texts("dates:730486")
