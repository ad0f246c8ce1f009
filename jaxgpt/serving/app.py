"""The addresses that the server answers: completions, models, health and a page to try them."""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxgpt.errors import UserError
from jaxgpt.generation.batch import Request
from jaxgpt.generation.text import TextCodec
from jaxgpt.serving.answer import Answer
from jaxgpt.serving.choice import Choice
from jaxgpt.serving.completion_request import CompletionRequest, parse
from jaxgpt.serving.engine import Engine, Event, Job
from jaxgpt.serving.guard import Guard
from jaxgpt.serving.limits import BODY_SECONDS, MAX_BODY
from jaxgpt.serving.refusal import Refusal, require_request

PAGE = Path(__file__).with_name("page.html")
# The page is a single file that loads nothing, and other pages cannot show it in a frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Service:
    """One model with its name, its tokenizer and its engine."""

    def __init__(
        self, name: str, codec: TextCodec, errors: Literal["strict", "skip"], engine: Engine
    ):
        self.name, self.codec, self.errors, self.engine = name, codec, errors, engine
        self.context = engine.options().context_of(engine.config)
        self.created, self.page = int(time.time()), PAGE.read_bytes()

    def app(self, hosts: frozenset[str]) -> Guard:
        """The ASGI application; `hosts` are the names that it answers to, or all if empty."""
        routes = [
            Route("/", self.show_page),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {Refusal: _refused, HTTPException: _no_such_address}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)

    async def show_page(self, _: HttpRequest) -> Response:
        return Response(self.page, media_type="text/html", headers=PAGE_HEADERS)

    async def health(self, _: HttpRequest) -> Response:
        stopping, waiting = self.engine.closed, len(self.engine.waiting)
        state = {"status": "stopping" if stopping else "ok", "waiting": waiting}
        return JSONResponse(state, 503 if stopping else 200)

    async def models(self, _: HttpRequest) -> Response:
        model = {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "jaxgpt",
            "context_length": self.context,
            "max_tokens": self.engine.limits.max_tokens,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def completions(self, http: HttpRequest) -> Response:
        body = await _body(http)
        request = await asyncio.to_thread(parse, body, self.engine.limits)
        prompts = await asyncio.to_thread(self._ids, request)
        job, answer = self._job(request, prompts)
        self.engine.submit(job)
        if request.stream:
            return Events(answer, self.engine)
        try:
            content = await _unless_gone(http, answer)
        finally:
            self.engine.cancel(job)
        _log(answer)
        return JSONResponse(content)

    def _ids(self, request: CompletionRequest) -> list[list[int]]:
        """The ids of each prompt, checked."""
        require_request(
            self.codec.tokenizer is not None or not request.stop,
            "stop takes text, and this model has no tokenizer.",
        )
        vocab_size = self.engine.config.vocab_size
        rows = []
        for prompt in request.prompt:
            try:
                ids = self.codec.encode(prompt, self.errors) if isinstance(prompt, str) else prompt
            except UserError as error:
                raise Refusal(400, str(error), "not_in_vocabulary") from None
            require_request(
                len(ids) <= self.context,
                f"The prompt has {len(ids)} tokens, and the model sees at most {self.context}: "
                f"send only the last {self.context}.",
                "context_length_exceeded",
            )
            wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
            require_request(
                wrong is None,
                f"There is no id {str(wrong)[:40]}: a prompt must be ids from 0 to "
                f"{vocab_size - 1}.",
            )
            rows.append(ids or [self.codec.start])
        return rows

    def _job(self, request: CompletionRequest, prompts: list[list[int]]) -> tuple[Job, Answer]:
        if request.model not in (None, self.name):
            raise Refusal(
                404,
                f"There is no model {request.model[:100]!r} here: this server has {self.name!r}.",
                "model_not_found",
            )
        options = self.engine.options(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
            samples=request.n,
        )
        limits = [min(request.max_tokens, self.context + 1 - len(prompt)) for prompt in prompts]
        choices = [
            Choice(index, self.codec, request.stop, limits[index // request.n])
            for index in range(len(prompts) * request.n)
        ]
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def deliver(event: Event) -> None:
            with contextlib.suppress(
                RuntimeError
            ):  # the event loop is closed: no client waits any more
                loop.call_soon_threadsafe(queue.put_nowait, event)

        job = Job(Request(prompts, options), choices, deliver)
        return job, Answer(self.name, request, job, _each(queue))


class Events(StreamingResponse):
    """A streamed answer; its job is cancelled if the client disconnects."""

    def __init__(self, answer: Answer, engine: Engine):
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        super().__init__(answer.stream(), media_type="text/event-stream", headers=headers)
        self.answer, self.engine = answer, engine

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.engine.cancel(self.answer.job)
            _log(self.answer)


async def _each(queue: asyncio.Queue[Event]) -> AsyncIterator[Event]:
    while True:
        yield await queue.get()


async def _body(http: HttpRequest) -> bytes:
    """The body of a request, which must be JSON of limited size and arrive in time.

    A page of another site cannot send JSON here without a preflight request, which is not granted.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "The request needs the header Content-Type: application/json.")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in http.stream():
                size += len(chunk)
                if size <= MAX_BODY:  # the excess is read too, or the client would get no answer
                    body += chunk
    except TimeoutError:
        raise Refusal(
            408, f"The body of the request was not complete after {BODY_SECONDS:g} s.", "timeout"
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "The client disconnected before its request was complete.") from None
    if size > MAX_BODY:
        raise Refusal(413, f"The body of a request may have at most {MAX_BODY} bytes.", "too_large")
    return bytes(body)


async def _unless_gone(http: HttpRequest, answer: Answer) -> dict[str, Any]:
    """The whole `answer`; a Refusal if the client disconnects first."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    whole, left = asyncio.ensure_future(answer.whole()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise Refusal(499, "The client disconnected before its answer was complete.")
        return whole.result()
    finally:
        whole.cancel()
        left.cancel()


def _log(answer: Answer) -> None:
    usage, texts = answer.usage, len(answer.job.choices)
    counts = f"{usage['prompt_tokens']} tokens read, {usage['completion_tokens']} written"
    with contextlib.suppress(OSError):
        print(f"completion: {counts}, texts: {texts}", file=sys.stderr, flush=True)


def _refused(_: HttpRequest, refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def _no_such_address(http: HttpRequest, error: HTTPException) -> Response:
    said = f"{error.detail}: this server has GET /, /health and /v1/models, POST /v1/completions."
    return JSONResponse(Refusal(error.status_code, said).body, error.status_code, error.headers)
