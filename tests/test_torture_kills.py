"""A slice of the kills and processes of `python -m tests.torture`, with the day of the year as its seed."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.torture import processes
from tests.torture.cases import INTERRUPTED, Cases, new_line
from tests.torture.commands import Command, text
from tests.torture.forked import Moment
from tests.torture.kills import BY_NAME, OTHER_ACTS, disturb, run_case

pytest.importorskip("torch", reason="torch is not installed")

SEED = datetime.date.today().timetuple().tm_yday


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("kills"), SEED)


@pytest.mark.parametrize("name", ["train", "to-torch, a file", "prepare a text"])
def test_a_killed_command_ends_like_an_undisturbed_one(name: str, cases: Cases) -> None:
    line = new_line(name)
    run_case(cases, line, 1)
    assert line.failures == []


@pytest.mark.parametrize("act", OTHER_ACTS.values(), ids=OTHER_ACTS)
def test_other_disturbances_of_a_command_change_nothing(
    act: Callable[..., Any], cases: Cases
) -> None:
    line = new_line(act.__name__)
    case = cases.case(BY_NAME["prepare a text"], cases.random(line, 1))
    cases.run(line, 1, case, lambda case, whole: disturb(case, whole, act))
    assert line.failures == []


def test_a_run_resumes_after_one_of_four_processes_is_killed(cases: Cases) -> None:
    line = new_line("one is killed")
    processes.run_case(cases, line, 1)
    assert line.failures == []


def careless() -> None:
    """Write a file in two parts, unless it exists."""
    if not Path("out").exists():
        with open("out", "w") as file:
            file.write("one")
            file.flush()
            Path("log").touch()
            file.write("two")
    Path("log").unlink(missing_ok=True)


def untidy() -> None:
    """Write a file under another name first, which stays if it is killed."""
    partial = Path(f"out-{len(list(Path.cwd().iterdir()))}")
    partial.write_text("one")
    partial.rename("out")


@pytest.mark.parametrize(
    ("main", "site", "problem"),
    [
        (careless, "open to write /log", "/out differs"),
        (untidy, "os.rename /out-#", "left behind"),
    ],
)
def test_forbidden_effects_of_a_kill_are_detected(
    main: Callable[[], None], site: str, problem: str, cases: Cases
) -> None:
    line, command = new_line("it"), Command(main.__name__, text, "", main)
    case = cases.case(command, cases.random(line, 1))
    cases.run(line, 1, case, lambda case, whole: case.kill(Moment(site, 1)))
    assert line.counts[INTERRUPTED] == 1
    assert problem in line.failures[0]
    assert f'--only "it" --seed {SEED} --case 1: ' in line.failures[0]
