"""Plain values of a torch file (settings, counters, losses) as JSON, and back unchanged."""

import json
from collections.abc import Iterator
from typing import Any

MOST = 2**24  # bytes of JSON for one value; anything larger is not a setting
MOST_VALUES = 2**20  # in one value, each counted as often as it is contained


def encode(value: Any) -> Any:
    """JSON from which `decode` makes exactly `value`; raises TypeError if there is none."""
    return _encode(value, iter(range(MOST_VALUES)))


def _encode(value: Any, budget: Iterator[int]) -> Any:
    """`encode`; lists that contain each other many times use up `budget`, and no memory."""
    if next(budget, None) is None:
        raise TypeError(f"more than {MOST_VALUES} values are not a setting")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_encode(item, budget) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, budget) for item in value]}
    if isinstance(value, dict):
        pairs = [[_encode(key, budget), _encode(item, budget)] for key, item in value.items()]
        return {"dict": pairs}
    if getattr(value, "shape", None) == ():  # a loss or a counter without .item()
        return {"tensor": [str(value.dtype).removeprefix("torch."), value.item()]}
    raise TypeError(f"a {type(value).__name__} is not a plain value")


def decode(written: Any) -> Any:
    """The value that `encode` made `written` of."""
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
    kept: list[Any] = []
    left: list[str] = []
    for name, value in extras.items():
        try:
            pair = encode([name, value])
            size = len(json.dumps(pair, ensure_ascii=False).encode())
        # Complex numbers; half a surrogate, which has no bytes; what contains itself.
        except (TypeError, ValueError, RecursionError):
            left.append(str(name))
            continue
        if size < MOST:
            kept.append(pair)
        else:
            left.append(str(name))
    return kept, left
