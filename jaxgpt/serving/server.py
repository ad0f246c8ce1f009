"""Runs the server: socket, model, signals."""

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import uvicorn

from jaxgpt.devices.cpu import make_devices
from jaxgpt.errors import UserError, require
from jaxgpt.generation.pair import require_decoder
from jaxgpt.generation.text import TextCodec
from jaxgpt.generation.weights import Weights
from jaxgpt.model import exactly
from jaxgpt.model.quantized import WeightsChoice, with_weights
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.serving.app import Service
from jaxgpt.serving.engine import Engine
from jaxgpt.serving.guard import Protocol
from jaxgpt.serving.limits import GRACE_SECONDS, SPARE_CONNECTIONS, Limits
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system.signals import Signals, Stopped, signals

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Address(NamedTuple):
    """Where the server listens."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only programs on this computer can reach it."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def names(self) -> frozenset[str]:
        """The hosts that requests may name; empty allows all."""
        return LOOPBACK | {self.host} if self.local else frozenset()


class Reading(NamedTuple):
    """How the model is loaded, and reads text."""

    tokenizer: Path | None
    errors: Literal["strict", "skip"]
    context: int
    weights: WeightsChoice = "stored"


def serve(directory: Path, address: Address, reading: Reading, limits: Limits) -> None:
    """Serve the model in `directory` until a signal arrives; SIGINT then raises Stopped."""
    with listening(address) as listener:
        service = open_service(directory, reading, limits)
        port = listener.getsockname()[1]
        host = f"[{address.host}]" if ":" in address.host else address.host
        if not address.local:
            print(
                f"WARNING: everybody who reaches {host}:{port} can use the model: there is no "
                "password and no encryption.",
                flush=True,
            )
        where = f"http://{host}:{port}"
        print(f"{directory} is at {where}/ and {where}/v1 (Ctrl-C stops)", flush=True)
        with signals() as state:
            state.held = True
            run(service, address, listener, state)
    print("The server has stopped.", flush=True)
    if state.caught in (signal.SIGINT, signal.SIGHUP):
        raise Stopped(state.caught)


def open_service(directory: Path, reading: Reading, limits: Limits) -> Service:
    """The model in `directory`, loaded and running."""
    make_devices()
    opened = ModelDirectory(directory)
    require(
        not isinstance(opened.config, Seq2SeqConfig),
        f"{opened.path} is an encoder-decoder, but the server continues prompts, which needs a "
        "decoder. Generate text with jaxgpt sample --source TEXT.",
    )
    require_decoder(opened)
    codec = TextCodec.of(opened, reading.tokenizer)
    model = with_weights(opened.model(), reading.weights)
    with exactly(model.dtype):
        weights = Weights.prepare(model, model.dtype)
    # A sliding window would be read again for each token, and the other requests would wait.
    shared = {
        **codec.limits(opened.config.vocab_size),
        "on_full": "stop",
        "context": reading.context,
    }
    engine = Engine(weights, shared, limits)
    service = Service(directory.resolve().name, codec, reading.errors, engine)
    engine.start()
    return service


def run(service: Service, address: Address, listener: socket.socket, state: Signals) -> None:
    limits = service.engine.limits
    config = uvicorn.Config(
        service.app(address.names),
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.queue + limits.rows + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        asyncio.run(_Server(config, state, service.engine).serve([listener]))
    finally:
        service.engine.close()
        service.engine.join(GRACE_SECONDS)


class _Server(uvicorn.Server):
    """A server that stops when `state` has caught a signal."""

    def __init__(self, config: uvicorn.Config, state: Signals, engine: Engine):
        super().__init__(config)
        self.state, self.engine = state, engine

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: `jaxgpt.system.signals` handles the signals."""
        yield

    async def on_tick(self, counter: int) -> bool:
        if self.state.caught is not None:
            print("Stopping once the texts in progress are finished.", flush=True)
            self.engine.close()
            return True
        return await super().on_tick(counter)


@contextlib.contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at `address`."""
    host, port = address
    require(0 <= port < 2**16, f"--port must lie between 0 and 65535, but is {port}.")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener: Any = socket.socket(family, kind, protocol)
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(listener, place, address)
            yield listener
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host} is not an address of this computer: {error}.") from None


def _bind(listener: socket.socket, place: Any, address: Address) -> None:
    why = {
        errno.EADDRINUSE: "another program uses it. Choose another with --port; 0 takes a free one",
        errno.EACCES: "only the administrator may use it. Choose another with --port",
        errno.EADDRNOTAVAIL: "this computer does not have this address. Choose another with --host",
    }
    try:
        listener.bind(place)
        listener.listen()
    except OSError as error:
        reason = why.get(error.errno or 0, str(error))
        raise UserError(f"Port {address.port} of {address.host}: {reason}.") from None
