"""Text after text, as ids: what is asked for, and pieces of it as they come. Knows no tokenizer, no file.

Shapes: B rows, S context length, V vocabulary.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from jaxgpt.config import UserError, require, whole
from jaxgpt.devices.sharding import replicated, shared, side_by_side
from jaxgpt.generation import programs
from jaxgpt.generation.programs import NOTHING, PIECE, Buffers
from jaxgpt.generation.sampling import NOT_FINITE, Sampling, make_sampling
from jaxgpt.model import GPT, check_tokens, exactly
from jaxgpt.model.block import Block
from jaxgpt.model.forms import sum_dtype


class Piece(NamedTuple):
    """New tokens of each row, and their log-probabilities under the model itself."""

    ids: np.ndarray  # (B, n); NOTHING after a row's end
    logprobs: np.ndarray


_unstack = jax.jit(GPT.unstacked)


def generate(model: GPT, prompt: Any, *more: Any, **options: Any) -> Iterator[np.ndarray]:
    """As `stream`, but ids alone: pieces of shape (n,) after one prompt, (B, n) after several."""
    rows, several = as_rows(prompt, model.config.vocab_size)
    alone = not several and options.get("samples", 1) == 1
    return (piece.ids[0] if alone else piece.ids for piece in stream(model, rows, *more, **options))


def stream(
    model: GPT,
    prompt: Any,
    max_new_tokens: int = 500,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    *,
    samples: int = 1,
    stop_ids: Iterable[int] = (),
    on_full: Literal["slide", "stop"] = "slide",
    allowed: ArrayLike | None = None,
) -> Iterator[Piece]:
    """Pieces of new ids as they come, and their log-probabilities. `prompt` is a list of ids, or of such lists; each
    gets so many `samples`, one row after the other. Temperature 0: the likeliest token; top_k 0 cuts nothing off;
    `allowed` (V,) says which ids may be chosen. A row ends after one of `stop_ids`, and, where `on_full` is stop, with
    the last token that the model can see the whole text for; NOTHING, -1, fills it up while others go on. An empty
    prompt is id 0."""
    c = model.config
    max_new_tokens, samples = whole("max_new_tokens", max_new_tokens), whole("samples", samples)
    seed = whole("seed", seed)
    require(
        max_new_tokens > 0, f"The number of new tokens must be positive, but is {max_new_tokens}."
    )
    require(samples > 0, f"samples must be positive, but is {samples}.")
    require(0 <= seed < 2**32, f"seed must lie in [0, 2**32), but is {seed}.")
    require(on_full in ("slide", "stop"), f"on_full is slide or stop, but got {on_full!r}.")
    sampling = make_sampling(c.vocab_size, temperature, top_k, top_p, min_p, allowed)
    rows = [row for row in as_rows(prompt, c.vocab_size)[0] for _ in range(samples)]
    return _stream(
        model,
        rows,
        max_new_tokens,
        sampling,
        seed,
        frozenset(map(int, stop_ids)),
        on_full == "stop",
    )


def as_rows(prompt: Any, vocab_size: int) -> tuple[list[list[int]], bool]:
    """And whether there are several; one row alone need not be in a list."""
    takes = "A prompt is a list of ids, or a list of such lists, but"
    try:
        parts = list(prompt)
        several = any(np.ndim(part) > 0 for part in parts)
        rows = [
            np.asarray(row) if len(row) else np.zeros(1, np.int64)
            for row in (parts if several else [parts])
        ]
    except (TypeError, ValueError):
        raise UserError(f"{takes} is {str(prompt)[:60]}.") from None
    for row in rows:
        require(row.ndim == 1, f"{takes} has a row of shape {row.shape}.")
        wrong = not np.issubdtype(row.dtype, np.integer) or ((row < 0) | (row >= vocab_size)).any()
        require(
            not wrong,
            f"A prompt must be ids from 0 to {vocab_size - 1}, but is {row.tolist()[:20]}.",
        )
    return [row.tolist() for row in rows], several


def _stream(
    model: GPT,
    rows: list[list[int]],
    tokens: int,
    sampling: Sampling,
    seed: int,
    stop_ids: frozenset,
    stop_on_full: bool,
) -> Iterator[Piece]:
    context = model.config.context_length
    lengths = [min(len(row), context) for row in rows]
    room = [context + 1 - length if stop_on_full else tokens for length in lengths]
    tokens = min(tokens, max(room))

    def run(program: Callable[..., Any], *arguments: Any) -> Any:
        with exactly(dtype):
            return program(*arguments)

    dtype = model.dtype
    model = run(
        jax.tree.map, lambda leaf: leaf if leaf.dtype == dtype else leaf.astype(dtype), model
    )
    blocks = run(_unstack, model)
    mesh, ahead = _meshes(blocks, len(rows), context)
    if mesh:
        model, blocks = run(shared, (model, blocks), mesh)
    start = *_padded(rows, context), np.uint32(seed)
    written, buffers, kept = run(programs.first, model, blocks, *start, sampling, mesh)
    ended, size, done = np.zeros(len(rows), bool), 2, 1
    n, given, last = 1, 0, None
    while True:
        piece = functools.partial(_piece, buffers, n, given, room, ended, stop_ids)
        visible = context + 1 - max(lengths) - done  # further tokens that see the whole text
        program = programs.cached if visible > 0 else programs.windowed
        if (
            program is not last
        ):  # it may have to be compiled, and what there is need not wait for that
            yield piece()
        n = 0 if ended.all() else min(size, tokens - done, *([visible] if visible > 0 else []))
        if n and visible > 0:
            written, buffers, kept = run(
                programs.cached, model, blocks, written, kept, sampling, np.int32(n), mesh
            )
        elif n:
            if ahead and ahead != mesh and program is not last:
                model, blocks = run(shared, (model, blocks), ahead)
                where = programs.WRITTEN._make(
                    NamedSharding(ahead, spec) for spec in programs.WRITTEN
                )
                written, sampling = run(
                    jax.device_put, (written, sampling), (where, replicated(ahead))
                )
            written, buffers = run(
                programs.windowed, model, blocks, written, sampling, np.int32(n), ahead
            )
        if program is last:  # the device has the next piece to do while this one is looked at
            yield piece()
        if not n or ended.all():
            return
        given, done, size, last = done, done + n, min(2 * size, PIECE), program


def _meshes(blocks: tuple[Block, ...], rows: int, context: int) -> tuple[Mesh | None, Mesh | None]:
    """Of a CPU's devices, that read the same memory: those that divide the rows, and with those that can work ahead in
    each of these groups. Elsewhere each would need weights of its own."""
    devices = jax.tree.leaves(blocks)[0].devices()
    if len(devices) > 1 or {device.platform for device in devices} != {"cpu"}:
        return None, None
    there = jax.local_devices(backend="cpu")
    groups = next(n for n in range(min(rows, len(there)), 0, -1) if rows % n == 0)
    peers = min(len(there) // groups, context)

    def mesh(count: int) -> Mesh | None:
        return side_by_side(there[:count], groups) if count > 1 else None

    return mesh(groups), mesh(groups * peers)


def _piece(
    buffers: Buffers,
    n: int,
    given: int,
    room: Sequence[int],
    ended: np.ndarray,
    stop_ids: frozenset,
) -> Piece:
    """To the host; `ended` is brought up to date."""
    ids, logprobs = (np.array(buffer)[:, :n] for buffer in buffers)
    for i, row in enumerate(ids):
        last = next((j + 1 for j, token in enumerate(row) if token in stop_ids), n)
        last = 0 if ended[i] else min(last, room[i] - given)
        if NOT_FINITE in row[:last]:
            at = given + int((row == NOT_FINITE).argmax()) + 1
            raise UserError(
                f"At new token {at} the model's logits are not finite numbers: its weights are damaged."
            )
        ended[i] |= last < n or row[n - 1] in stop_ids or given + n >= room[i]
        row[last:], logprobs[i, last:] = NOTHING, 0
    return Piece(ids, logprobs)


def _padded(rows: Sequence[Sequence[int]], context: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens (B, S), lengths (B,), and the width that is computed of them: the same for many lengths."""
    cropped = [row[-context:] for row in rows]
    tokens, lengths = (
        np.zeros((len(rows), context), np.int32),
        np.array([*map(len, cropped)], np.int32),
    )
    for i, row in enumerate(cropped):
        tokens[i, : len(row)] = row
    return tokens, lengths, min(context, 1 << int(lengths.max() - 1).bit_length())


def score(model: GPT, ids: ArrayLike) -> np.ndarray:
    """The log-probability of each id after those before it: of all but the first, (B, T - 1) for (B, T)."""
    check_tokens(ids, model.config)
    logits_btv = model(ids)
    with exactly(model.dtype):
        logp_btv = jax.nn.log_softmax(logits_btv[:, :-1].astype(sum_dtype(logits_btv)))
        return np.asarray(
            jnp.take_along_axis(logp_btv, jnp.asarray(ids)[:, 1:, None], axis=-1)[..., 0]
        )


generate.__signature__ = inspect.signature(stream)  # type: ignore[attr-defined]  # for help()
