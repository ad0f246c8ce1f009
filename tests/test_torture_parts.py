"""A slice of the disks, numbers and supply of `python -m tests.torture`; its seed is the day of the year."""

import datetime

import pytest

from tests.torture import disks, numbers, supply
from tests.torture.parts import Orders

pytest.importorskip("torch", reason="torch is not installed")

SEED = datetime.date.today().timetuple().tm_yday


@pytest.mark.parametrize("part", [disks, numbers, supply], ids=["disks", "numbers", "supply"])
def test_each_case_ends_with_its_work_done_or_one_paragraph(part: object) -> None:
    lines = part.run(Orders(SEED, cases=0))  # type: ignore[attr-defined]
    print(f"Seed {SEED}")
    assert [line.failures for line in lines if line.failures] == []
    assert [line.cases for line in lines] == [1] * len(part.LINES)  # type: ignore[attr-defined]
