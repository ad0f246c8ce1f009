"""A small model, and a server of it in a thread of the test's own process."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import GPT, params_of
from jaxgpt.model_config import ModelConfig
from jaxgpt.storage import model_directory

LETTERS = "\nabcdefgh"
CONTEXT = 64
PATIENCE = 300.0  # seconds after which an expected event counts as missing
HEADERS = {"Content-Type": "application/json"}


class Reply(NamedTuple):
    """A server's answer."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """The JSON of each server-sent event; the last event must be [DONE]."""
        *parts, end = self.text.removesuffix("\n\n").split("\n\n")
        assert end == "data: [DONE]"
        return [json.loads(part.removeprefix("data: ")) for part in parts]


def ask(
    port: int, body: Any, *, path: str = "/v1/completions", headers: Any = HEADERS, method="POST"
) -> Reply:
    """The answer to `body`, which is sent as JSON unless it is bytes."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    with contextlib.closing(connection):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content if method == "POST" else None, headers)
        response = connection.getresponse()
        return Reply(response.status, dict(response.headers), response.read().decode())


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer of nine characters; three ids of the model have none."""
    folder = tmp_path_factory.mktemp("served") / "letters"
    config = ModelConfig(12, CONTEXT, 12, 1, 2)
    params = params_of(GPT(config, seed=3))
    params["head"]["kernel"] = params["head"]["kernel"] * 30  # else all is equally likely
    model_directory.save(folder, config, params, tokenizer=CharTokenizer(LETTERS))
    return folder


class Running(NamedTuple):
    """A server in a thread."""

    port: int
    service: Any
    state: Any
    thread: threading.Thread

    def stop(self) -> None:
        """Stop the server as SIGTERM does."""
        self.state.caught = signal.SIGTERM

    @contextlib.contextmanager
    def busy(self) -> Iterator[list[int]]:
        """Occupy the engine with one request; yield the sizes of the batches that it takes."""
        engine, began, gate = self.service.engine, threading.Event(), threading.Event()
        generate, sizes = type(engine)._generate, []

        def when_allowed(jobs: Any) -> None:
            sizes.append(len(jobs))
            began.set()
            gate.wait()
            generate(engine, jobs)

        engine._generate = when_allowed
        first = threading.Thread(target=ask, args=(self.port, {"prompt": "a"}))
        first.start()
        began.wait()
        try:
            yield sizes
        finally:
            gate.set()
            first.join()

    def wait_for_queue(self, length: int) -> None:
        """Return once `length` requests are waiting."""
        self.wait_until(lambda: len(self.service.engine.waiting) == length)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds; fail after PATIENCE seconds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    """A context manager (model, limits) -> a Running server."""
    pytest.importorskip("starlette", reason="starlette is not installed")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from jaxgpt.serving import server
    from jaxgpt.serving.limits import Limits
    from jaxgpt.system.signals import Signals

    @contextlib.contextmanager
    def run(model: Path, **limits: int) -> Iterator[Running]:
        address, state = server.Address("127.0.0.1", 0), Signals()
        reading = server.Reading(None, "strict", 0)
        service = server.open_service(model, reading, Limits(**limits))
        with server.listening(address) as listener:
            thread = threading.Thread(target=server.run, args=(service, address, listener, state))
            running = Running(listener.getsockname()[1], service, state, thread)
            thread.start()
            try:
                yield running
            finally:
                running.stop()
                thread.join()

    return run


@pytest.fixture(scope="session")
def served(start: Callable[..., Any], model: Path) -> Iterator[Running]:
    """A server of the model, for tests that do not change it."""
    with start(model) as running:
        yield running
