"""The bridge between PyTorch checkpoints and jaxgpt. Names are loaded when first used."""

import importlib
from typing import Any

_HOMES = {
    "Loaded": "carry",
    "assert_same": "parity",
    "inspect": "carry",
    "probe": "probing",
    "to_flax": "carry",
    "to_torch": "carry",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
