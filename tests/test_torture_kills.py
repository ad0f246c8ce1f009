"""A slice of the kills of `python -m tests.torture`, with the day of the year as its seed."""

import datetime

import pytest

from tests.torture.cases import INTERRUPTED, Cases, new_line
from tests.torture.kills import OTHER_ACTS, run_case

SEED = datetime.date.today().timetuple().tm_yday
CASES = 2


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("kills"), SEED)


@pytest.mark.parametrize("name", ["train", "to-flax", "to-torch, a file", "prepare a text"])
def test_a_killed_command_ends_as_if_it_had_not_been(name: str, cases: Cases) -> None:
    one = new_line(name)
    for number in range(CASES + 1):
        run_case(cases, one, number)
    assert one.failures == []
    assert one.counts[INTERRUPTED]


@pytest.mark.parametrize("name", OTHER_ACTS)
def test_what_else_happens_to_a_command_changes_nothing(name: str, cases: Cases) -> None:
    one = new_line(name)
    run_case(cases, one, 1)
    assert one.failures == []
