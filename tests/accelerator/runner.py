"""The sections, one after the other, each in a process of its own.

Only one process at a time can have a TPU, and what one section does to memory, or how it dies, does
not reach the others. A section is started as python -m tests.accelerator.runner and a JSON object.
"""

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.accelerator import SECTIONS, WRONG, Row
from tests.accelerator.page import Result, write

ROOT = Path(__file__).parents[2]
PACKAGE = "tests.accelerator"  # of the sections
PATIENCE = 20  # times the time of a section, at toy size: the machine may be busy with other things
ENDING = 0.85  # the share of its time after which a section should start nothing more
SIZES = {
    "full": "At full size.",
    "toy": "At toy size, as a test of the script: the figures say nothing about the device.",
}


def run_all(out: Path, text: str, size: str = "") -> int:
    """Run all sections and write the page to `out`; the exit code.

    `size` is full or toy, or empty for the one that suits the device.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if Path(text).exists():
        text = str(Path(text).resolve())
    results: list[Result] = []
    spare, platform = 0.0, "cpu"
    for name, share in SECTIONS.items():
        print(f"{name} ...", flush=True)
        settings = {"platform": platform, "out": str(out), "text": text, "size": size or "toy"}
        seconds = (share + spare) * (1 if size == "full" else PATIENCE)
        result = run(name, settings, seconds)
        results.append(result)
        spare += share - result.seconds
        print(f"  {result.error or 'done'} ({result.seconds:.0f} s)", flush=True)
        if name == "device":
            platform = platform_of(result)
            size = size or ("toy" if platform == "cpu" else "full")
    print(write(out, results, SIZES[size or "toy"]))
    return int(any(result.error for result in results))


def platform_of(device: Result) -> str:
    """The platform that the section on the device names, or cpu if it failed."""
    return next((row["value"] for row in device.rows if row["what"] == "platform"), "cpu")


def run(name: str, settings: dict[str, Any], seconds: float) -> Result:
    """Run the section `name` in a process, which is killed after `seconds`."""
    start, out = time.monotonic(), Path(settings["out"])
    log = out / f"{name}.log"
    rows_of(out, name).unlink(missing_ok=True)
    asked = json.dumps({"section": f"{PACKAGE}.{name}", "seconds": ENDING * seconds, **settings})
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.accelerator.runner", asked],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            error = f"It was not done after {seconds:.0f} s."
        else:
            error = last_line(log) if process.returncode else ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the runs that it has started
            process.wait()
    return result_of(name, out, error, time.monotonic() - start)


def result_of(name: str, out: Path, error: str, seconds: float) -> Result:
    """What came of the section `name`; it has failed with an `error`, or if any row is wrong."""
    rows = read(out, name)
    wrong = sum(row.get("verdict") == WRONG for row in rows)
    if wrong and not error:
        error = f"{wrong} of {len(rows)} rows are wrong."
    return Result(name, about(f"{PACKAGE}.{name}"), rows, error, seconds)


def about(section: str) -> str:
    """The docstring of a section, which is not imported for that."""
    spec = importlib.util.find_spec(section)
    assert spec
    assert spec.origin
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""


def last_line(log: Path) -> str:
    """The last line of `log`: of a traceback, that is the error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "It ended without a word."


def rows_of(out: Path, name: str) -> Path:
    """The file of the rows of the section `name`."""
    return out / f"{name}.jsonl"


def read(out: Path, name: str) -> list[Row]:
    """The rows that the section `name` has written, if any."""
    file = rows_of(out, name)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measure(section: str, size: str, out: str, **settings: Any) -> None:
    """Write the rows of the module `section` to its file as they come."""
    from tests.accelerator.settings import FULL, TOY, Settings

    sizes = {"full": FULL, "toy": TOY}[size]
    rows = importlib.import_module(section).measure(
        Settings(out=Path(out), sizes=sizes, **settings)
    )
    with rows_of(Path(out), section.rpartition(".")[2]).open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    measure(**json.loads(sys.argv[1]))
