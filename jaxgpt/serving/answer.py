"""The JSON of completions, in one piece or as server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from jaxgpt.serving.choice import Choice
from jaxgpt.serving.completion_request import CompletionRequest
from jaxgpt.serving.engine import Delta, Event, Job
from jaxgpt.serving.refusal import Refusal

LOGPROBS = ("tokens", "token_logprobs", "text_offset")


class Answer:
    """The answer to `request`, whose `job` delivers the `events`."""

    def __init__(
        self, name: str, request: CompletionRequest, job: Job, events: AsyncIterator[Event]
    ):
        self.request, self.job, self.events = request, job, events
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens; a prompt counts once, however many texts continue it."""
        prompt = sum(map(len, self.job.request.prompts))
        completion = sum(choice.tokens for choice in self.job.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    async def deltas(self) -> AsyncIterator[Delta]:
        """The parts of all texts as they are generated, until all texts have ended."""
        unfinished = len(self.job.choices)
        while unfinished:
            event = await anext(self.events)
            if isinstance(event, Refusal):
                raise event
            for delta in event:
                yield delta
                unfinished -= bool(delta.finish_reason)

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece, once it is complete."""
        parts: dict[Choice, list[Delta]] = {choice: [] for choice in self.job.choices}
        async for delta in self.deltas():
            parts[delta.choice].append(delta)
        choices = [self._choice(choice, deltas) for choice, deltas in parts.items()]
        return {**self.head, "choices": choices, "usage": self.usage}

    async def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            async for delta in self.deltas():
                yield _event({**self.head, "choices": [self._choice(delta.choice, [delta])]})
        except Refusal as refusal:
            yield _event(refusal.body)
            return
        if self.request.include_usage:
            yield _event({**self.head, "choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"

    def _choice(self, choice: Choice, deltas: list[Delta]) -> dict[str, Any]:
        logprobs = {key: [x for d in deltas for x in d.logprobs[key]] for key in LOGPROBS}
        return {
            "text": "".join(delta.text for delta in deltas),
            "index": choice.index,
            "logprobs": {**logprobs, "top_logprobs": None} if self.request.logprobs else None,
            "finish_reason": deltas[-1].finish_reason or None,
        }


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
