"""Finds the state dict in the root of a torch file, and the prefixes of its names.

A wrapper appears as the key of the state dict in the file (one of STATE_DICT_KEYS, or any other if
it is the only one), as a known prefix of all names (WRAPPERS), or as the name of an outer module.

Opens no file.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, in_a_row

from .torch_tensors import is_tensor
from .untrusted import RESAVE

STATE_DICT_KEYS = ("model", "model_state_dict", "model_state", "state_dict")
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile, DistributedDataParallel
LIGHTNING_WRAPPERS = (*WRAPPERS, "model.", "net.")
OUTER_MODULES = 2


def choose(root: Any, path: Path | str) -> tuple[str, dict[str, Any], dict[Any, Any]]:
    """The key of the state dict in `root`, "" for the root itself; the state dict; the rest."""
    if not isinstance(root, dict):
        raise UserError(
            f"{path}: expected a dict of tensors by name, but its root is a "
            f"{type(root).__name__}. {RESAVE}"
        )
    if is_state_dict(root):
        return "", root, {}
    candidates = [
        key for key, value in root.items() if isinstance(key, str) and is_state_dict(value)
    ]
    usual = [key for key in STATE_DICT_KEYS if key in candidates]
    loose = _tensors_of(root)
    if not usual and sum("." in name for name in loose) >= 2:  # settings among the weights
        return "", loose, {key: value for key, value in root.items() if key not in loose}
    keys = usual[:1] or candidates
    if len(keys) > 1:
        raise UserError(
            f"{path} holds {len(keys)} state dicts, {in_a_row(keys, ', ')}, and none of them is "
            f"called {' or '.join(STATE_DICT_KEYS)}. Save the one you mean in a file of its own."
        )
    if not keys:
        contents = [f"{key!r} ({type(value).__name__})" for key, value in root.items()]
        raise UserError(
            f"{path} holds no tensors by name, at its root or one level below; it holds "
            f"{in_a_row(contents, ', ') or 'nothing'}. {RESAVE}"
        )
    return keys[0], root[keys[0]], {key: value for key, value in root.items() if key != keys[0]}


def is_state_dict(value: Any) -> bool:
    """Whether `value` is a dict of tensors by name, unlike the state of an optimiser."""
    return isinstance(value, dict) and bool(value) and len(_tensors_of(value)) == len(value)


def _tensors_of(root: dict[Any, Any]) -> dict[str, Any]:
    return {name: v for name, v in root.items() if isinstance(name, str) and is_tensor(v)}


def wrapping(names: list[str], wrappers: tuple[str, ...]) -> str:
    """The prefix in `wrappers` that all names have; a prefix of only some belongs to the model."""
    prefix = ""
    while True:
        longer = [
            prefix + wrapper
            for wrapper in wrappers
            if all(_continues(name, prefix + wrapper) for name in names)
        ]
        if not longer:
            return prefix
        prefix = longer[0]


def outer_modules(names: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes of up to OUTER_MODULES modules that contain all of `names`, outermost
    first.

    The model may be an attribute of another module, or of a module in that one.
    """
    names = list(names)
    for _ in range(OUTER_MODULES):
        outer, *others = {name.rpartition(".")[0].partition(".")[0] for name in names}
        if others or not outer or outer.isdigit():
            return
        names = [name.removeprefix(f"{outer}.") for name in names]
        yield f"{outer}."


def _continues(name: str, start: str) -> bool:
    return name.startswith(start) and name != start
