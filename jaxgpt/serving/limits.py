"""Limits on what clients may request, and on how long they may take."""

from dataclasses import dataclass

from jaxgpt.errors import require_positive

MAX_BODY = 2**20  # bytes
MAX_STOPS, MAX_STOP = 4, 200  # number of texts, and characters in each
BODY_SECONDS = 10.0  # for the whole body of a request to arrive
HEADER_SECONDS = 10.0  # for all headers of a request to arrive
SEND_SECONDS = 30.0  # for a client to accept the next part of its answer
GRACE_SECONDS = 30  # for the answers in progress, after a signal
RETRY_SECONDS = 2  # before a refused client should try again
SPARE_CONNECTIONS = 100  # beyond those of running and waiting requests


@dataclass(frozen=True)
class Limits:
    """Limits that the command line sets.

    Attributes:
        max_tokens: The most new tokens of a text.
        rows: Texts that are generated together, and the most in one request.
        queue: The most requests that wait.
    """

    max_tokens: int = 1024
    rows: int = 16
    queue: int = 64

    def __post_init__(self) -> None:
        require_positive(self, "max_tokens", "rows", "queue")
