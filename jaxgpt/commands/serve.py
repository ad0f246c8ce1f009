"""jaxgpt serve: a model behind OpenAI's API, and a page to try it."""

from jaxgpt.commands.options import Directory, Tokenizer, Unknown, Weights


def serve(
    directory: Directory,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_tokens: int = 1024,
    rows: int = 16,
    queue: int = 64,
    context: int = 0,
    tokenizer: Tokenizer = None,
    errors: Unknown = "strict",
    weights: Weights = "stored",
) -> None:
    """Serve a model over HTTP: OpenAI's API for completions, and a page to try it.

    Args:
        host: The address to listen at; with 0.0.0.0 other computers reach the server too, without
            a password.
        port: The port to listen at; 0 takes a free one.
        max_tokens: The most new tokens that a request may ask for.
        rows: Number of texts that are generated together, and the most in one request.
        queue: Number of requests that may wait; more are refused.
        context: Number of tokens that the model sees at once; 0 is as many as it was trained with.
            Models with rotary, ALiBi or no positions can see more.
    """
    from jaxgpt.optional import need

    for library in ("starlette", "uvicorn"):
        need(library, "jaxgpt serve")
    from jaxgpt.serving.limits import Limits
    from jaxgpt.serving.server import Address, Reading
    from jaxgpt.serving.server import serve as run

    limits = Limits(max_tokens, rows, queue)
    run(directory, Address(host, port), Reading(tokenizer, errors, context, weights), limits)
