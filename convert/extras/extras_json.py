"""What lies beside the weights in a torch file, as JSON and back: settings, counters, losses. Knows no model."""

import json
from typing import Any

MOST = 2**24  # characters of JSON; what needs more is no setting


def encode(value: Any) -> Any:
    """JSON from which `decode` makes the very value again; TypeError where there is none."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if getattr(value, "shape", None) == ():  # a loss or a counter that nobody called .item() on
        return {"tensor": [str(value.dtype).removeprefix("torch."), value.item()]}
    raise TypeError(f"a {type(value).__name__} is no plain value")


def decode(written: Any) -> Any:
    if isinstance(written, list):
        return [decode(item) for item in written]
    if not isinstance(written, dict):
        return written
    ((kind, held),) = written.items()
    if kind == "tuple":
        return tuple(decode(item) for item in held)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in held}
    import torch

    return torch.tensor(held[1], dtype=getattr(torch, held[0]))


def split(extras: dict[Any, Any]) -> tuple[list[Any], list[str]]:
    """Those extras that can be kept, as encoded pairs of name and value, and the names of the others."""
    kept: list[Any] = []
    left = []
    for name, value in extras.items():
        try:
            pair = encode([name, value])
            assert (
                len(json.dumps(pair, ensure_ascii=False).encode()) < MOST
            )  # half a surrogate has no bytes
            kept.append(pair)
        except (
            AssertionError,
            TypeError,
            ValueError,
            RecursionError,
        ):  # complex numbers; what holds itself
            left.append(str(name))
    return kept, left
