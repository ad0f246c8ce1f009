"""The JSON of a request for completions, checked field by field."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import in_a_row, instead_of
from jaxgpt.serving.limits import MAX_STOP, MAX_STOPS, Limits
from jaxgpt.serving.refusal import Refusal, require_request

# Fields of OpenAI's API that are not supported, with the values that have no effect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
}
DEFAULT_TOKENS = 16  # as in OpenAI's API


@dataclass(frozen=True)
class CompletionRequest:
    """A request for completions as in OpenAI's API; its prompts are texts or ids."""

    prompt: list[str] | list[list[int]]
    model: str | None = None
    max_tokens: int = DEFAULT_TOKENS
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False


def parse(body: bytes, limits: Limits) -> CompletionRequest:
    """The request in `body`, refused with the name of the field that is wrong."""
    fields = _object(body)
    fields.pop("user", None)  # who sends the request makes no difference
    for name, neutral_values in NEUTRAL.items():
        value = fields.pop(name, None)
        # In Python true equals 1 and false 0, but in JSON neither is a number.
        neutral = any(value == one and type(value) in (type(one), float) for one in neutral_values)
        require_request(neutral, f"{name} is not supported: leave it out.", "unsupported_parameter")
    unknown = sorted(fields.keys() - READERS.keys() - {"stream_options"})
    if unknown:
        known = sorted([*READERS, "stream_options"])
        raise Refusal(
            400,
            f"Unrecognized request argument supplied: {in_a_row(unknown, ', ', 4)[:200]}. "
            f"{instead_of(unknown[0][:100], known)}",
            "unknown_parameter",
        )
    given = {name: value for name, value in fields.items() if value is not None}
    options = given.pop("stream_options", {})
    require_request("prompt" in given, "prompt is missing: give it as text, or as ids.")
    values: dict[str, Any] = {
        name: READERS[name](name, value, limits) for name, value in given.items()
    }
    request = CompletionRequest(**values, include_usage=_include_usage(options))
    require_request(
        len(request.prompt) * request.n <= limits.rows,
        f"{len(request.prompt)} prompts with n = {request.n} are "
        f"{len(request.prompt) * request.n} texts, and a request may have {limits.rows}.",
    )
    return request


def _object(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        fields = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body of the request is not JSON: {str(error)[:200]}.") from None
    require_request(isinstance(fields, dict), "The body of the request must be a JSON object.")
    return fields


def _include_usage(options: Any) -> bool:
    valid = isinstance(options, dict) and options.keys() <= {"include_usage"}
    include = options.get("include_usage", False) if valid else None
    require_request(isinstance(include, bool), "stream_options takes include_usage, true or false.")
    return bool(include)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    valid = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require_request(
        valid,
        f"{name} must be a whole number from {least} to {most}, but is {_shown(value)}.",
    )
    return int(value)


def _number(name: str, value: Any, valid: Callable[[float], bool], range_: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require_request(
        number and valid(value), f"{name} must be a number {range_}, but is {_shown(value)}."
    )
    return float(value)


def _flag(name: str, value: Any) -> bool:
    require_request(
        isinstance(value, bool), f"{name} must be true or false, but is {_shown(value)}."
    )
    return bool(value)


def _text(name: str, value: Any) -> str:
    require_request(isinstance(value, str), f"{name} must be text, but is {_shown(value)}.")
    return str(value)


def _shown(value: Any) -> str:
    """The beginning of `value` as in the request, where 3 and "3" differ."""
    return json.dumps(value)[:40]


def _logprobs(value: Any) -> bool:
    require_request(
        value == 0 and isinstance(value, int) and not isinstance(value, bool),
        "logprobs must be 0, which gives the log-probabilities of the tokens that were chosen; "
        "those of others are not supported.",
    )
    return True


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    valid = isinstance(texts, list) and len(texts) <= MAX_STOPS
    valid = valid and all(isinstance(text, str) and 0 < len(text) <= MAX_STOP for text in texts)
    require_request(
        valid, f"stop must be one to {MAX_STOPS} texts of 1 to {MAX_STOP} characters each."
    )
    return tuple(texts)


def _prompt(value: Any, limits: Limits) -> list[str] | list[list[int]]:
    """The prompts as a list of texts, or a list of lists of ids."""
    rows = value if isinstance(value, list) else [value]
    if rows and all(map(_is_id, rows)):
        rows = [rows]
    require_request(
        0 < len(rows) <= limits.rows,
        f"There are {len(rows)} prompts, and a request may have 1 to {limits.rows}.",
    )
    if all(isinstance(row, str) for row in rows):
        return rows
    require_request(
        all(isinstance(row, list) and row and all(map(_is_id, row)) for row in rows),
        "prompt must be a text, a list of texts, a list of ids, or a list of such lists.",
    )
    return rows


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# The function that reads each field of a request.
READERS: dict[str, Callable[[str, Any, Limits], Any]] = {
    "model": lambda name, value, limits: _text(name, value),
    "prompt": lambda name, value, limits: _prompt(value, limits),
    "max_tokens": lambda name, value, limits: _whole(name, value, 1, limits.max_tokens),
    "temperature": lambda name, value, limits: _number(
        name, value, lambda t: t == 0 or 1e-6 <= t <= 2, "from 0 to 2 (0, or at least 1e-6)"
    ),
    "top_p": lambda name, value, limits: _number(
        name, value, lambda p: 0 < p <= 1, "above 0 and up to 1"
    ),
    "n": lambda name, value, limits: _whole(name, value, 1, limits.rows),
    "stop": lambda name, value, limits: _stop(value),
    "seed": lambda name, value, limits: _whole(name, value, 0, 2**32 - 1),
    "stream": lambda name, value, limits: _flag(name, value),
    "logprobs": lambda name, value, limits: _logprobs(value),
}
