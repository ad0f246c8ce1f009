"""Answers that refuse a request, in the form of OpenAI's API."""

from typing import Any

from jaxgpt.serving.limits import RETRY_SECONDS


class Refusal(Exception):
    """A refusal with its HTTP status, its text, and a code for programs."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers."""
        return {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}


def require_request(condition: bool, message: str, code: str | None = None) -> None:
    """Refuse a request as wrong, with the text `message`, unless `condition` holds."""
    if not condition:
        raise Refusal(400, message, code)
