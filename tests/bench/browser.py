"""A picture of the page of `jaxgpt serve`, taken by a Chromium without a window.

For the picture in docs/serving.md, with `jaxgpt serve runs/quickstart` running:

    python -m tests.bench.browser docs/pictures/serve.png http://127.0.0.1:8000/ "The first"
"""

import argparse
import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 300.0  # seconds until what should happen on a page counts as not happening
WIDTH, HEIGHT = 760, 620


def chromium() -> str | None:
    """The Chromium of this computer, if there is one."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """A page in Chromium, driven by its DevTools protocol: JSON, each message ended by a NUL."""

    def __init__(self, into: int, out: int):
        self.into, self.out, self.pending = into, out, b""
        self.numbers, self.session = itertools.count(1), {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command; events are skipped."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **self.session}
        os.write(self.into, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            chunk = os.read(self.out, 1 << 16)
            assert chunk, "Chromium has ended"
            self.pending += chunk
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return when a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Go to `url`, and wait for its page."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def picture(self) -> bytes:
        """The visible part of the page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def browser(program: str) -> Iterator[Page]:
    """A page in a new Chromium, which reads commands from descriptor 3 and answers on 4."""
    (commands, into), (out, answers) = os.pipe(), os.pipe()
    # Numbers that cannot be 3 or 4 themselves.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (commands, answers)]
    os.close(commands)
    os.close(answers)
    script = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["bash", "-c", script, "bash", program, *OPTIONS, f"--user-data-dir={profile}"]
        with subprocess.Popen(
            command, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            for fd in high:
                os.close(fd)
            try:
                yield Page(into, out)
            finally:
                running.kill()
                os.close(into)
                os.close(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT.png", type=Path)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("prompt", metavar="PROMPT")
    arguments = parser.parse_args()
    program = chromium()
    if program is None:
        parser.error(f"there is none of {', '.join(PROGRAMS)}")
    with browser(program) as page:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.open(arguments.url)
        page.evaluate(f"part('prompt').value = {json.dumps(arguments.prompt)}")
        for _ in range(2):  # the first time, programs are compiled
            page.evaluate("part('write').click()")
            page.wait_for("part('state').textContent.includes('tokens')")
        arguments.out.write_bytes(page.picture())


if __name__ == "__main__":
    main()
