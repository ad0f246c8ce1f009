"""Runs a whole encoder-decoder whose class leaves a part of the work to its caller.

Some classes have methods `encode` and `decode` but no forward, and in others forward ends before
the head.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from jaxgpt.errors import UserError

# (function, its arguments by role) -> its result.
Call = Callable[[Callable[..., Any], dict[str, torch.Tensor]], Any]


def run(module: torch.nn.Module, call: Call, tokens: torch.Tensor, other: torch.Tensor) -> Any:
    """What `module` returns for `tokens` and the source or memory `other`, with its head applied.

    `call` passes a function its arguments, by the roles tokens, source and memory.
    """
    memory = other.is_floating_point()
    with _children_that_run(module) as ran:
        encode, decode = getattr(module, "encode", None), getattr(module, "decode", None)
        if type(module).forward is torch.nn.Module.forward:
            if not (callable(encode) and callable(decode)):
                raise UserError(
                    f"{type(module).__name__} has neither a forward nor methods encode and decode, "
                    "so its caller does that work. Derive a class with a forward that takes the "
                    "source and the target and returns logits, as in training, and name that one."
                )
            made = call(encode, {"source": other})
            returned = call(decode, {"tokens": tokens, "memory": _first(made)})
        else:
            role = "memory" if memory else "source"
            returned = call(module.forward, {"tokens": tokens, role: other})
    return _through_head(module, ran, returned)


def _first(returned: Any) -> Any:
    return returned[0] if isinstance(returned, (tuple, list)) else returned


@contextlib.contextmanager
def _children_that_run(module: torch.nn.Module) -> Iterator[set[str]]:
    """Collect the names of the children of `module` that run within the block."""
    ran: set[str] = set()
    hooks = [
        child.register_forward_pre_hook(lambda _, __, name=name: ran.add(name))
        for name, child in module.named_children()
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _through_head(module: torch.nn.Module, ran: set[str], returned: Any) -> Any:
    """`returned`, passed through the only child that has not run, if that accepts it."""
    x = _first(returned)
    idle = [
        child
        for name, child in module.named_children()
        if name not in ran and any(True for _ in child.parameters())
    ]
    if len(idle) != 1 or not isinstance(x, torch.Tensor) or x.ndim != 3:
        return returned
    try:
        return idle[0](x)
    except (RuntimeError, TypeError, NotImplementedError):  # the child is not a head
        return returned
