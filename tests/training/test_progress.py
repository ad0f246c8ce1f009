import errno
import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxgpt.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jaxgpt.devices import chips
from jaxgpt.model import flops
from jaxgpt.training import progress

CONFIG = Config(
    DataConfig("x"),
    RunConfig("y"),
    model=ModelConfig(104),
    train=TrainConfig(steps=2000, batch_size=32),
)
TOKENS = 32 * 128
FIGURES = {"loss": 2.5, "learning_rate": 1e-3, "gradient_norm": 0.5}


def shown(
    kind: str, monkeypatch: pytest.MonkeyPatch, passing: progress.Passing | None = None
) -> list[str]:
    """The lines for 20 steps in 4 seconds, the last of them evaluated, on two devices of `kind`."""
    said: list[str] = []
    now = iter([100.0, 102.0, 102.0, 104.0, 104.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    devices = [SimpleNamespace(device_kind=kind)] * 2
    line = progress.Progress(
        CONFIG, devices, said.append, passing, "50 batches", tokens_per_step=TOKENS
    )
    line.doing(0, "compiling")
    for step in range(1, 21):
        if logged := step % 10 == 0:
            line.tokens_per_second(step)
        if step == 20:
            line.doing(step, "evaluating")
        line.step(step, logged, **FIGURES, **({"val_loss": 2.25} if step == 20 else {}))
    return said


def test_without_a_terminal_each_logged_step_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown("cpu", monkeypatch) == [
        "step   10/2000  loss 2.5000  lr 1.00e-03  norm 0.50  20,480 tokens/s  6:38 left",
        "step   20/2000  loss 2.5000  val 2.2500 (50 batches)  lr 1.00e-03  norm 0.50  20,480 tokens/s  6:36 left",
    ]


def test_utilization_is_shown_if_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    share = 20_480 * flops.per_token(CONFIG.model) / (2 * 312e12)
    monkeypatch.setitem(chips.CHIPS, "A100", chips.CHIPS["A100"]._replace(peak=312e12 * share * 4))
    assert "MFU 25%" in shown("NVIDIA A100-SXM4-80GB", monkeypatch)[-1]


def test_on_a_terminal_the_line_is_redrawn_and_evaluations_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: list[tuple[int, int, str]] = []
    said = shown("cpu", monkeypatch, lambda *line: passed.append(line))
    assert [line.split()[1] for line in said] == ["20/2000"]
    assert passed[0] == (0, 2000, "compiling")
    assert [line[:2] for line in passed[1:]] == [(n, 2000) for n in [*range(1, 20), 20, 20]]
    assert passed[-2][2].startswith("evaluating  loss 2.5000")
    assert "left" in passed[-1][2]
    assert "val 2.2500" in passed[-1][2]


def test_progress_writes_plain_lines_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watching() as (say, passing):
        assert passing is None
        say("[red]as it is[/red]")
    assert capsys.readouterr().out == "[red]as it is[/red]\n"


def test_progress_redraws_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with progress.watching() as (say, passing):
        assert passing is not None
        say("compiling")
        for step in range(1, 4):
            passing(step, 2000, f"loss {5 - step}.0000")
    written = terminal.getvalue()
    assert written.startswith("compiling")
    assert "3/2000" in written
    assert "loss 2.0000" in written
    assert "\x1b[2K" in written


def test_durations_are_shown_as_a_clock() -> None:
    assert [progress.clock(s) for s in (0.4, 65, 3600 * 26 + 61)] == ["0:00", "1:05", "26:01:01"]


def test_a_closed_pipe_does_not_end_the_run() -> None:
    code = (
        "from jaxgpt.training.progress import watching\n"
        "with watching() as (say, _):\n"
        "    for i in range(20000): say(f'line {i}')\n"
        "import sys; sys.stderr.write('went on')"
    )
    shell = ["sh", "-c", '"$@" | head -1', "sh", sys.executable, "-c", code]
    outcome = subprocess.run(shell, capture_output=True, text=True, timeout=600)
    assert (outcome.stdout, outcome.stderr) == ("line 0\n", "went on")


def test_a_closed_terminal_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    read, write = os.pipe()
    with open(write, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        progress.ignore_closed_output(say)("a line")
        print("another", flush=True)
    with open(read) as arrived:
        assert arrived.read() == ""


LONG = (
    "loss 12.0000  val 12.1000  lr 1.00e-03  norm 10.50  MFU 25%  1,220,480 tokens/s  1:11:05 left"
)


@pytest.mark.parametrize("columns", [60, 76, 80, 100, 120, 200])
def test_lines_fit_the_terminal_and_keep_the_most_important_figures(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress.watching() as (say, passing):
        assert passing is not None
        say("step  2000/20000  " + LONG.replace("12.1000", "12.1000 (50 batches)"))
        for what in ("", "evaluating  "):
            passing(3, 20000, what + LONG)
    pieces = re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", terminal.getvalue())
    lines = "".join(pieces).split("step")[1:]
    evaluated, *passed = [f"step{line}".rstrip() for line in lines]
    assert len(evaluated) <= columns
    assert "val 12.1000 (50 batches)" in evaluated
    assert passed
    for line in passed:
        assert len(line) <= columns
        assert "loss 12.0000" in line
        assert ("left" in line) or "evaluating" in line
        assert "\N{HORIZONTAL ELLIPSIS}" not in line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "step 20/30  loss 2.0000  val 2.1000 (50 batches)  20,480 tokens/s  1:05 left"),
        (60, "step 20/30  loss 2.0000  val 2.1000 (50 batches)  1:05 left"),
        (50, "step 20/30  loss 2.0000  val 2.1000 (50 batches)"),
        (40, "step 20/30  loss 2.0000  val 2.1000"),
        (30, "step 20/30  loss 2.0000"),
    ],
)
def test_the_least_important_figures_are_left_out_first(width: int, line: str) -> None:
    whole = "step 20/30  loss 2.0000  val 2.1000 (50 batches)  lr 1e-03  norm 0.5  MFU 25%  20,480 tokens/s  1:05 left"
    assert progress.shorten(whole, 200) == whole
    assert progress.shorten(whole, width) == line
