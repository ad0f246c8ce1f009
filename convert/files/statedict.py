"""Which of the things in a torch file is the state dict, and what wrappers put before its names. Opens no file."""

from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, in_a_row

from . import torchfile
from .untrusted import RESAVE

STATE_DICT_KEYS = ("model", "model_state_dict", "model_state", "state_dict")
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile, DistributedDataParallel
LIGHTNING_WRAPPERS = (*WRAPPERS, "model.", "net.")


def choose(root: Any, path: Path | str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The state dict among what people save beside it: its key, itself, and the rest."""
    if not isinstance(root, dict):
        raise UserError(
            f"{path}: expected a dict of tensors by name, but its root is a {type(root).__name__}. {RESAVE}"
        )
    if is_state_dict(root):
        return "", root, {}
    candidates = [
        key for key, value in root.items() if isinstance(key, str) and is_state_dict(value)
    ]
    keys = [key for key in STATE_DICT_KEYS if key in candidates][:1]
    loose = {
        name: value
        for name, value in root.items()
        if isinstance(name, str) and torchfile.is_tensor(value)
    }
    if not keys and sum("." in name for name in loose) >= 2:  # settings strewn among the weights
        return "", loose, {key: value for key, value in root.items() if key not in loose}
    keys = keys or candidates
    if len(keys) > 1:
        raise UserError(
            f"{path} holds {len(keys)} state dicts, {in_a_row(keys, ', ')}, and none of them is called "
            f"{' or '.join(STATE_DICT_KEYS)}. Save the one you mean in a file of its own."
        )
    if not keys:
        held = in_a_row([f"{key!r} ({type(value).__name__})" for key, value in root.items()], ", ")
        raise UserError(
            f"{path} holds no tensors by name, at its root or one level below; it holds {held or 'nothing'}. {RESAVE}"
        )
    return keys[0], root[keys[0]], {key: value for key, value in root.items() if key != keys[0]}


def is_state_dict(value: Any) -> bool:
    """Not an optimizer's, whose entries are a dict of moments by number and a list of groups."""
    named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return named and bool(value) and all(map(torchfile.is_tensor, value.values()))


def wrapping(names: list[str], wrappers: tuple[str, ...]) -> str:
    """What wrappers put before every name. Where only some names have it, it is part of the model."""
    prefix = ""
    while True:
        longer = (prefix + wrapper for wrapper in wrappers)
        common = [
            start
            for start in longer
            if all(name.startswith(start) and name != start for name in names)
        ]
        if not common:
            return prefix
        prefix = common[0]
