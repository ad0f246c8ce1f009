"""A GPT decoder in Flax. Names are loaded when first used, so that importing this package costs nothing."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "GPT": "model",
    "generate": "generate",
    "ModelConfig": "config",
    "UserError": "config",
    "load": "checkpoint",
    "load_tokenizer": "checkpoint",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return home if name == _HOMES[name] else getattr(home, name)  # jaxgpt.generate is a module that can be called
