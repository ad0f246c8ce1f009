"""A picture of a terminal in which a command runs; Ctrl-C stops one that takes longer than some seconds.

For the picture in the README:

    python -m tests.bench.screen docs/pictures/training.svg 900 jaxgpt train configs/quickstart.toml
"""

import argparse
import contextlib
import io
import os
import pty
import re
import select
import signal
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROWS, COLUMNS = 30, 124


def output(command: list[str], seconds: float) -> str:
    """The text that `command` writes to a terminal in its first `seconds`."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        os.execvp(command[0], command)
    end, written = time.monotonic() + seconds, b""
    with open(terminal, "rb", buffering=0) as screen, contextlib.suppress(OSError):
        # Linux raises OSError where the other end is closed: the command has ended.
        while (left := end - time.monotonic()) > 0:
            if select.select([screen], [], [], left)[0]:
                written += screen.read(1 << 16)
        os.kill(child, signal.SIGINT)
        while screen.read(1 << 16):
            pass
    os.waitpid(child, 0)
    return written.decode()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT.svg")
    parser.add_argument("seconds", type=float, metavar="SECONDS")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    arguments = parser.parse_args()
    command = arguments.command
    if not command:
        parser.error("there is no COMMAND to run")
    text = output(command, arguments.seconds).replace("\r\n", "\n")
    text = re.sub(
        r"[^\n]*\n(?:\x1b\[\?25[hl]|\r)*\x1b\[1A\x1b\[2K", "", text
    )  # cleared from the line below
    lines = text.split("\n")
    visible = [re.split(r"\r?\x1b\[2K|\r", line)[-1] for line in lines]
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        color_system="truecolor",
        force_terminal=True,
    )
    console.print(Text(f"$ {' '.join(command)}"))
    for line in visible:
        console.print(Text.from_ansi(line), soft_wrap=True)
    picture = console.export_svg(title="jaxgpt train")
    Path(arguments.out).write_text(re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL))


if __name__ == "__main__":
    main()
