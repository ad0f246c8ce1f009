"""Plain values of a torch file (settings, counters, losses) as JSON, and back unchanged."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 2**24  # the most characters of JSON for one value; anything larger is not a setting
MOST_VALUES = 2**20  # the most items in one value, each counted as often as it occurs
MOST_VALUES_OF_FILE = 4 * MOST_VALUES
MOST_LEVELS = 64  # the deepest nesting of brackets


def encode(value: Any) -> Any:
    """JSON from which `decode` makes exactly `value`; raises TypeError if there is none."""
    return _encode(value, iter(range(MOST_VALUES)))


def _encode(value: Any, budget: Iterator[int], level: int = 0) -> Any:
    """`encode` with a `budget`, so that lists that contain each other many times take little
    memory."""
    if next(budget, None) is None or level > MOST_LEVELS:
        raise TypeError("it is too large, or nested too deep, to be a setting")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_encode(item, budget, level + 1) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, budget, level + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [
            [_encode(key, budget, level + 1), _encode(item, budget, level + 1)]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if getattr(value, "shape", None) == ():  # a loss or a counter on which .item() was not called
        return {"tensor": [str(value.dtype).removeprefix("torch."), value.item()]}
    raise TypeError(f"a {type(value).__name__} is not a plain value")


def decode(written: Any) -> Any:
    """The value that `encode` turned into `written`."""
    if isinstance(written, list):
        return [decode(item) for item in written]
    if not isinstance(written, dict):
        return written
    ((kind, content),) = written.items()
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    import torch

    dtype, number = content
    return torch.tensor(number, dtype=getattr(torch, dtype))


def split(extras: dict[Any, Any]) -> tuple[list[Any], list[str]]:
    """The plain values in `extras` as encoded pairs of name and value; the names of all others."""
    plain: list[Any] = []
    left: list[str] = []
    budget = iter(range(MOST_VALUES_OF_FILE))
    for name, value in extras.items():
        try:
            pair = _encode([name, value], itertools.islice(budget, MOST_VALUES))
            size = len(json.dumps(pair, ensure_ascii=False).encode())
        except (TypeError, ValueError):  # complex numbers; lone surrogates, which have no bytes
            left.append(str(name))
            continue
        if size < MOST_BYTES:
            plain.append(pair)
        else:
            left.append(str(name))
    return plain, left
