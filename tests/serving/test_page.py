"""The page in a real browser: it sends a prompt, and shows the text while it is written."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.browser import Page, browser, chromium
from tests.serving.conftest import ask


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with browser(program) as one:
        yield one


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What the engine waits for after the second piece of each batch."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from jaxgpt.serving import engine

    stream_batch, event = engine.stream_batch, threading.Event()

    def held_back(*arguments: Any) -> Iterator[Any]:
        for number, piece in enumerate(stream_batch(*arguments)):
            if number == 2:
                event.wait()
            yield piece

    monkeypatch.setattr(engine, "stream_batch", held_back)
    return event


@contextlib.contextmanager
def set_at_end(event: threading.Event) -> Iterator[None]:
    """Set `event` also where the block fails, or the server would wait for it."""
    try:
        yield
    finally:
        event.set()


def test_text_appears_while_it_is_generated(
    page: Page, gate: threading.Event, start: Callable[..., Any], model: Path
) -> None:
    with start(model) as running, set_at_end(gate):
        page.open(f"http://127.0.0.1:{running.port}/")
        page.wait_for("document.title === 'letters - jaxgpt'")
        assert page.evaluate("part('length').max") == "1024"
        page.evaluate("part('prompt').value = 'abc'; part('temperature').value = 0")
        page.evaluate("part('length').value = 40; part('write').click()")
        page.wait_for("part('text').textContent.length > 3")
        assert page.evaluate("part('state').textContent") == "Writing ..."
        assert page.evaluate("part('text').getAttribute('aria-busy')") == "true"
        assert page.evaluate("part('text').textContent.length") <= 3 + 3
        gate.set()
        page.wait_for("part('state').textContent.startsWith('Done: 40 tokens')")
        shown = page.evaluate("part('text').textContent")
        request = {"prompt": "abc", "max_tokens": 40, "temperature": 0}
        assert shown == "abc" + ask(running.port, request).json["choices"][0]["text"]


def test_the_button_stops_the_text_and_frees_its_slot(
    page: Page, gate: threading.Event, start: Callable[..., Any], model: Path
) -> None:
    with start(model) as running, set_at_end(gate):
        page.open(f"http://127.0.0.1:{running.port}/")
        page.wait_for("document.title === 'letters - jaxgpt'")
        page.evaluate("part('prompt').value = 'abc'; part('write').click()")
        page.wait_for("part('text').textContent.length > 3")
        (job,) = running.service.engine.running
        page.evaluate("part('stop').click()")
        page.wait_for("part('state').textContent === 'Stopped.'")
        running.wait_until(lambda: job.cancelled)
        gate.set()
        assert not page.evaluate("part('write').disabled")


def test_what_the_server_refuses_is_shown_and_text_is_never_markup(
    page: Page, start: Callable[..., Any], model: Path
) -> None:
    with start(model) as running:
        page.open(f"http://127.0.0.1:{running.port}/")
        page.wait_for("document.title === 'letters - jaxgpt'")
        page.evaluate("part('prompt').value = '<img src=x onerror=alert(1)>'")
        page.evaluate("part('write').click()")
        page.wait_for(
            "part('state').textContent.startsWith('Not done: The text has characters that the')"
        )
        assert page.evaluate("part('text').textContent") == "<img src=x onerror=alert(1)>"
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        # Each field has a label, and the state is read aloud.
        assert page.evaluate(
            "[...document.querySelectorAll('input, textarea')].every((one) => one.labels.length)"
        )
        assert page.evaluate("part('state').getAttribute('role')") == "status"
