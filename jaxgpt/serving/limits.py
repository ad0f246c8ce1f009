"""Limits on what clients may request, and on how long they may take."""

from dataclasses import dataclass

from jaxgpt.errors import require_positive

MAX_BODY = 2**20  # bytes
MAX_STOPS, MAX_STOP = 4, 200  # texts, and characters of each
BODY_SECONDS = 10.0  # until the whole body of a request is there
HEADER_SECONDS = 10.0  # until all headers of a request are there
SEND_SECONDS = 30.0  # until a client takes the next part of its answer
GRACE_SECONDS = 30  # for the answers in progress, after a signal
RETRY_SECONDS = 2  # after which a client that was refused should try again
SPARE_CONNECTIONS = 100  # besides those of requests that run or wait


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
