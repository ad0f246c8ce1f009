"""Protects the application from slow clients and from requests for other hosts."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxgpt.serving.limits import HEADER_SECONDS, SEND_SECONDS
from jaxgpt.serving.refusal import Refusal


class Guard:
    """`app`, restricted to requests for one of `hosts`, or unrestricted if that is empty.

    This prevents DNS rebinding: another site can point its own name at this computer, so that a
    browser takes the server for part of that site. Such requests have that site's name as their
    Host.
    """

    def __init__(self, app: Any, hosts: frozenset[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        if self.hosts and _host(scope) not in self.hosts:
            said = f"This server answers to {' and '.join(sorted(self.hosts))} only."
            refusal = Refusal(403, said, "wrong_host")
            await JSONResponse(refusal.body, refusal.status)(scope, receive, send_in_time)
            return
        try:
            await self.app(scope, receive, send_in_time)
        except TimeoutError:
            print(
                f"A client read nothing for {SEND_SECONDS:g} s, and was disconnected.", flush=True
            )


def _host(scope: Any) -> str:
    """The Host of a request without its port."""
    values = [value for name, value in scope["headers"] if name == b"host"]
    try:
        return urlsplit(f"//{values[0].decode('ascii')}").hostname or ""
    except (IndexError, ValueError):
        return ""


class Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose headers do not arrive within HEADER_SECONDS."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        """Start the clock while headers are missing, and stop it once they have arrived."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_watching(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
