"""The server under load, with slow and disconnecting clients, and its start and end."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import GPT, params_of
from jaxgpt.model_config import ModelConfig
from jaxgpt.storage import model_directory
from tests.serving.conftest import HEADERS, LETTERS, Running, ask

GROWTH = 100 * 2**20  # bytes; the bodies that are too large have twice as many
LONG = 3000  # tokens


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts may be long."""
    folder = tmp_path_factory.mktemp("patient") / "model"
    config = ModelConfig(9, 4096, 12, 1, 2, positions="rotary")
    params = params_of(GPT(config, seed=3))
    model_directory.save(folder, config, params, tokenizer=CharTokenizer(LETTERS))
    return folder


@contextlib.contextmanager
def process(model: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """The command in a process of its own, and its port once it listens."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    command = [sys.executable, "-m", "jaxgpt", "serve", str(model), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            assert running.stdout
            line = running.stdout.readline().decode()
            assert line.startswith(f"{model} is at http://127.0.0.1:"), line
            yield int(line.split("/ and ")[0].rpartition(":")[2]), running
        finally:
            running.kill()


def mixed(number: int) -> Any:
    """A request, of which some are wrong, too large, or streamed."""
    kinds: list[Any] = [
        {"prompt": "a" * (number % 60 + 1), "max_tokens": number % 50 + 1, "seed": number},
        {"prompt": ["ab", "c"], "n": 2, "max_tokens": 5, "temperature": 0},
        {"prompt": "abc", "max_tokens": 30, "stream": True, "top_p": 0.8},
        {"prompt": "abc", "stop": ["a", "b"], "max_tokens": 60},
        b"{" * (number + 1),
        {"prompt": "abc", "max_tokens": -1},
        {"prompt": "no such letters"},
        b'{"prompt": "' + b"a" * 10**7 + b'"}',
    ]
    return kinds[number % len(kinds)]


def resident(pid: int) -> int:
    """The bytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_two_hundred_requests_are_answered_without_growing_memory(model: Path) -> None:
    with process(model) as (port, running), ThreadPoolExecutor(16) as pool:
        requests = [mixed(number) for number in range(200)]
        for rows in (1, 2, 4, 8, 16):  # compile for every size, which takes memory that stays
            for length in (1, 2, 3, 5, 9, 17, 33, 60):
                ask(port, {"prompt": "a" * length, "n": rows, "max_tokens": 2, "top_p": 0.8})
        before = resident(running.pid)
        replies = list(pool.map(lambda request: ask(port, request), requests))
        assert resident(running.pid) - before < GROWTH
        statuses = [200, 200, 200, 200, 400, 400, 400, 413]
        assert [reply.status for reply in replies] == [statuses[i % 8] for i in range(200)]
        assert len([reply.events for reply in replies[2::8]]) == 25  # each is complete
        assert ask(port, None, path="/health", method="GET").json["waiting"] == 0
        running.send_signal(signal.SIGTERM)
        assert running.wait(300) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_running_texts_finish(number: int, code: int, patient: Path) -> None:
    request = {"prompt": "a", "max_tokens": LONG, "seed": 1, "stream": True}
    with process(patient, "--max-tokens", str(LONG)) as (port, running):
        connection = HTTPConnection("127.0.0.1", port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", body_of(request), HEADERS)
            response = connection.getresponse()
            received = response.readline().decode()
            running.send_signal(number)
            received += response.read().decode()
        assert received.endswith("data: [DONE]\n\n")
        assert received.count('"finish_reason": "length"') == 1
        assert running.wait(300) == code
        assert running.stdout
        said = running.stdout.read().decode()
        assert (
            said == "Stopping once the texts in progress are finished.\nThe server has stopped.\n"
        )
        with pytest.raises(ConnectionRefusedError):
            ask(port, request)


def body_of(request: Any) -> bytes:
    return json.dumps(request).encode()


def test_after_a_signal_running_requests_finish_and_waiting_ones_are_refused(
    start: Callable[..., Any], model: Path
) -> None:
    with start(model, rows=1) as running, ThreadPoolExecutor(2) as pool:
        with running.busy():
            waiting = pool.submit(ask, running.port, {"prompt": "b"})
            running.wait_for_queue(1)
            running.stop()
            refused = waiting.result()
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert refused.json["error"]["code"] == "stopping"


def test_a_full_queue_refuses_requests_and_a_client_that_leaves_frees_a_slot(
    start: Callable[..., Any], model: Path
) -> None:
    request = {"prompt": "b", "max_tokens": 5}
    with start(model, rows=1, queue=2) as running, ThreadPoolExecutor(3) as pool:
        with running.busy():
            first = pool.submit(ask, running.port, request)
            running.wait_for_queue(1)
            for stream in (False, True):
                leaving = HTTPConnection("127.0.0.1", running.port, timeout=300)
                body = body_of({**request, "stream": stream})
                leaving.request("POST", "/v1/completions", body, HEADERS)
                running.wait_for_queue(2)
                reply = ask(running.port, request)
                assert (reply.status, reply.headers["retry-after"]) == (429, "2")
                assert reply.json["error"]["type"] == "rate_limit_error"
                leaving.close()
                running.wait_for_queue(1)
            second = pool.submit(ask, running.port, request)
            running.wait_for_queue(2)
        assert (first.result().status, second.result().status) == (200, 200)


def test_a_batch_ends_when_nobody_reads_it(start: Callable[..., Any], patient: Path) -> None:
    """The client of a long text leaves after its first part."""
    with start(patient, max_tokens=4000) as running:
        connection = HTTPConnection("127.0.0.1", running.port, timeout=300)
        body = body_of({"prompt": "a", "max_tokens": 4000, "stream": True})
        connection.request("POST", "/v1/completions", body, HEADERS)
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        (job,) = running.service.engine.running
        response.close()
        connection.close()
        assert ask(running.port, {"prompt": "b", "max_tokens": 2}).status == 200
        assert job.cancelled
        assert job.choices[0].tokens < 4000


def test_a_failure_is_answered_and_the_server_keeps_running(
    start: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxgpt.serving import engine

    def fail(*_: Any) -> None:
        raise MemoryError("too large")

    with start(model) as running:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "stream_batch", fail)
            whole = ask(running.port, {"prompt": "a"})
            streamed = ask(running.port, {"prompt": "a", "stream": True})
        assert whole.status == 500
        assert whole.json["error"]["code"] == "internal_error"
        assert streamed.text.startswith('data: {"error"')
        assert "too large" not in whole.text + streamed.text
        assert ask(running.port, {"prompt": "a"}).status == 200


def received(port: int, content: bytes) -> bytes:
    """What the server sends until it closes a connection on which `content` was sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_clients_are_dropped(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxgpt.serving import app, guard

    monkeypatch.setattr(guard, "HEADER_SECONDS", 0.05)
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    for part in (b"", b"GET /hea", POST):
        assert received(served.port, part) == b""
    reply = received(served.port, POST + b'Content-Length: 99\r\n\r\n{"prompt"')
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert received(served.port, b"\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert received(served.port, POST + b"X: " + b"a" * 10**5).startswith(b"HTTP/1.1 4")


def test_a_failed_start_is_one_paragraph(
    model: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("jaxgpt", "serve", model, "--port", port)
        assert f"Port {port} of 127.0.0.1: another program uses it." in said
    assert "between 0 and 65535" in refused("jaxgpt", "serve", model, "--port", "70000")
    assert "is not an address" in refused(
        "jaxgpt", "serve", model, "--host", "no.such.host.invalid"
    )
    assert "rows must be positive" in refused("jaxgpt", "serve", model, "--rows", "0")
    assert "is not a directory" in refused("jaxgpt", "serve", tmp_path / "nix", "--port", "0")
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert "jaxgpt serve needs starlette" in refused("jaxgpt", "serve", model)


def test_an_encoder_decoder_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from jaxgpt.model import Seq2Seq
    from jaxgpt.seq2seq_config import Seq2SeqConfig

    sizes = (9, 14, 12, 1, 2)
    pair = Seq2SeqConfig(ModelConfig(*sizes), ModelConfig(*sizes, cross_attention=True))
    model_directory.save(tmp_path / "pair", pair, params_of(Seq2Seq(pair.encoder, pair.decoder)))
    said = refused("jaxgpt", "serve", tmp_path / "pair", "--port", "0")
    assert "is an encoder-decoder, but the server continues prompts" in said


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("example.org", False)],
)  # fmt: skip
def test_addresses_that_other_computers_cannot_reach(host: str, local: bool) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from jaxgpt.serving.server import Address

    assert Address(host, 80).local == local
    assert bool(Address(host, 80).names) == local
