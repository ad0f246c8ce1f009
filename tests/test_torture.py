"""A slice of `python -m tests.torture`, by the number of cases, with the day of the year as its seed."""

import datetime
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest

from jaxgpt.errors import UserError
from tests.torture.kinds import KINDS, Kind
from tests.torture.mutations import change
from tests.torture.runner import Line, Torture
from tests.torture.valid_files import toml_config
from tests.torture.worker import EQUAL, FAILED

pytest.importorskip("torch", reason="torch is not installed")

CASES = 20  # of each kind, besides the valid file
SEED = datetime.date.today().timetuple().tm_yday


def test_damaged_files_are_refused_or_read_correctly(tmp_path: Path) -> None:
    lines = [Line(kind.name) for kind in KINDS]
    with Torture(tmp_path, SEED) as torture:
        for kind, line in zip(KINDS, lines, strict=True):
            for number in range(CASES + 1):
                torture.run(kind, line, number)
    print(f"Seed {SEED}")
    assert [line.failures for line in lines if line.failures] == []
    assert all(line.counts[EQUAL] for line in lines)
    assert sum(line.cases for line in lines) == len(KINDS) * (CASES + 1)


def test_a_seed_repeats_its_damage() -> None:
    valid = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bK\x02u."
    one, again = ([change(Random(f"3 {i}"), valid, valid) for i in range(50)] for _ in range(2))
    assert one == again
    assert len(set(one)) > 30


def write_elsewhere(path: Path) -> None:
    (path.parent.parent / "leak").write_text("x")


def call_somebody(path: Path) -> None:
    socket.create_connection(("localhost", 9), timeout=1)


def crash(path: Path) -> None:
    os._exit(7)


def fill_memory(path: Path) -> None:
    np.ones(2**28)


def break_down(path: Path) -> None:
    raise KeyError("lost")


def print_controls(path: Path) -> None:
    raise UserError("one\x1b[31m")


def refuse(path: Path) -> None:
    raise UserError("Something is wrong.")


@dataclass(frozen=True)
class Reader:
    """Reads the name of a file, but does something else with those that are damaged."""

    act: Callable[[Path], None] = lambda path: None

    def __call__(self, path: Path) -> str:
        if path.parent.name == "case":
            self.act(path)
        return path.parent.name


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (write_elsewhere, "forbidden: open"),
        (call_somebody, "forbidden: socket"),
        (crash, "crashed with code 7"),
        (fill_memory, "memory"),
        (break_down, "KeyError: 'lost'"),
        (print_controls, "not one printable line"),
        (refuse, "does not name run.toml"),
        (len, "TypeError"),
        (str, "was read, but as something else"),
    ],
)
def test_forbidden_acts_of_a_reader_are_detected(
    act: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    kind = Kind("a reader", toml_config, "run.toml", Reader(act), None, named=True)
    line = Line(kind.name)
    with Torture(tmp_path, 1, keep=tmp_path / "keep") as torture:
        assert problem in torture.run(kind, line, 1)
        assert line.counts[FAILED] == 1
        assert '--only "a reader" --seed 1 --case 1: run.toml: ' in line.failures[0]
    assert not (tmp_path / "leak").exists()
    assert [path.name for path in (tmp_path / "keep").iterdir()] == ["a reader-1-1"]
