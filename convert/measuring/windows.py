"""Measures how far back each layer looks, on texts longer than two tokens."""

import torch

from .attention import Rotation, placed
from .block import heads_of
from .norm import SAME
from .subject import BlockForm, Parted, Subject

LONGEST = 1024  # tokens; a wider window shows in the proof, as a difference
ROWS = 3


def windows(s: Subject, form: BlockForm, rotations: list[Rotation]) -> list[int | None]:
    """The window of each layer; None where each position attends to all before it."""
    length = min(s.config.context_length, LONGEST)
    if not s.config.attention_out or length < 3:
        return [None] * s.config.num_blocks
    seen = s.runs.seen(length, ROWS)
    c, found = s.config, []
    for layer, rotation in enumerate(rotations):
        mixed = s.observed(seen, "blocks/attn/out/kernel", layer, c.num_heads * c.head_dim)
        problem = Parted(
            s.block(layer), "the input of its attention cannot be seen in longer texts"
        )
        if mixed is None:
            raise problem
        for y in s.attention_inputs(layer, seen):
            try:
                found.append(_window(s, form, rotation, (y, mixed), layer))
                break
            except Parted as parted:
                problem = parted
        else:
            raise problem
    return found


def _window(
    s: Subject,
    form: BlockForm,
    rotation: Rotation,
    seen: tuple[torch.Tensor, torch.Tensor],
    layer: int,
) -> int | None:
    """The width of the window: the number of the first position that cannot see position 0."""
    y, mixed = seen
    heads = heads_of(s, form, y, layer)
    time = torch.arange(y.shape[1])
    q, k = placed(heads, rotation)
    scores = rotation.scale * torch.einsum("btmgh,bumh->bmgtu", q, k)
    if rotation.softcap is not None:
        scores = rotation.softcap * torch.tanh(scores / rotation.softcap)
    distance = time[:, None] - time
    scores = scores - rotation.slopes[..., None, None] * distance
    size = float(mixed.abs().max())

    def gaps(window: int) -> torch.Tensor:
        """The largest difference at each position, if it sees the last `window` ones."""
        hidden = (distance < 0) | (distance >= window)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        ours = torch.einsum("bmgtu,bumh->btmgh", weights, heads.v).flatten(2)
        return (ours - mixed).abs().amax((0, 2)) / size

    wrong = (gaps(len(time)) > SAME).nonzero()
    if not len(wrong):
        return None
    window = int(wrong[0])
    if window < 1 or bool((gaps(window) > SAME).any()):
        raise Parted(s.block(layer), f"its attention differs from position {window} on")
    return window
