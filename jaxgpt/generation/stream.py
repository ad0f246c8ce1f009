"""Streams of generated ids: the options of a request, and its pieces as they are computed.

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

from jaxgpt.devices.mesh import side_by_side
from jaxgpt.devices.sharding import replicated, shared
from jaxgpt.errors import UserError, require, whole
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
    """The ids of `stream` alone: pieces (n,) for one prompt, (B, n) for several."""
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
    """Pieces of new ids, with their log-probabilities, as they are computed.

    `prompt` is a list of ids, or a list of such lists; an empty one stands for id 0. Every prompt
    gets `samples` adjacent rows. `temperature` 0 chooses the likeliest token, `top_k` 0 cuts
    nothing off, and `allowed` (V,) masks the ids that may be chosen. A row ends after one of
    `stop_ids`; with `on_full` "stop" it also ends with the last token for which the model sees the
    whole text. A row that has ended is padded with NOTHING, -1, while others continue.
    """
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
    """Normalise `prompt` to a list of rows; also return whether it was a list of rows."""
    takes = "A prompt is a list of ids, or a list of such lists, but"
    require(
        not isinstance(prompt, str),
        f"{takes} is the text {str(prompt)[:60]!r}: jaxgpt.load_tokenizer(DIR).encode(text) gives its ids.",
    )
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
    """The pieces of `stream`, whose options are checked by now."""
    context = model.config.context_length
    lengths = [min(len(row), context) for row in rows]
    row_limits = [context + 1 - length if stop_on_full else tokens for length in lengths]
    tokens = min(tokens, max(row_limits))

    def run(program: Callable[..., Any], *arguments: Any) -> Any:
        with exactly(dtype):
            return program(*arguments)

    dtype = model.dtype
    model = run(
        jax.tree.map, lambda leaf: leaf if leaf.dtype == dtype else leaf.astype(dtype), model
    )
    blocks = run(_unstack, model)
    mesh, peer_mesh = _meshes(blocks, len(rows), context)
    if mesh:
        model, blocks = run(shared, (model, blocks), mesh)
    start = *_padded(rows, context), np.uint32(seed)
    written, buffers, kv_cache = run(programs.first, model, blocks, *start, sampling, mesh)
    ended, size, done = np.zeros(len(rows), bool), 2, 1
    n, yielded, last = 1, 0, None
    while True:
        piece = functools.partial(_piece, buffers, n, yielded, row_limits, ended, stop_ids)
        visible = context + 1 - max(lengths) - done  # tokens left that see the whole text
        program = programs.cached if visible > 0 else programs.windowed
        if program is not last:  # the next call may compile: do not hold this piece back for it
            yield piece()
        n = 0 if ended.all() else min(size, tokens - done, *([visible] if visible > 0 else []))
        if n and visible > 0:
            written, buffers, kv_cache = run(
                programs.cached, model, blocks, written, kv_cache, sampling, np.int32(n), mesh
            )
        elif n:
            if peer_mesh and peer_mesh != mesh and program is not last:
                model, blocks = run(shared, (model, blocks), peer_mesh)
                where = programs.WRITTEN._make(
                    NamedSharding(peer_mesh, spec) for spec in programs.WRITTEN
                )
                written, sampling = run(
                    jax.device_put, (written, sampling), (where, replicated(peer_mesh))
                )
            written, buffers = run(
                programs.windowed, model, blocks, written, sampling, np.int32(n), peer_mesh
            )
        if program is last:  # the device computes the next piece while this one is used
            yield piece()
        if not n or ended.all():
            return
        yielded, done, size, last = done, done + n, min(2 * size, PIECE), program


def _meshes(blocks: tuple[Block, ...], rows: int, context: int) -> tuple[Mesh | None, Mesh | None]:
    """Two meshes of the CPU's devices: one that shards the rows, one that adds peers to each group.

    Peers compute future windows. All of these devices read the same weights; other kinds of device
    would need a copy each, so there both are None.
    """
    devices = jax.tree.leaves(blocks)[0].devices()
    if len(devices) > 1 or {device.platform for device in devices} != {"cpu"}:
        return None, None
    available = jax.local_devices(backend="cpu")
    groups = next(n for n in range(min(rows, len(available)), 0, -1) if rows % n == 0)
    peers = min(len(available) // groups, context)

    def mesh(count: int) -> Mesh | None:
        return side_by_side(available[:count], groups) if count > 1 else None

    return mesh(groups), mesh(groups * peers)


def _piece(
    buffers: Buffers,
    n: int,
    yielded: int,
    row_limits: Sequence[int],
    ended: np.ndarray,
    stop_ids: frozenset,
) -> Piece:
    """The first `n` columns of `buffers` on the host, padded after each row's end.

    Earlier pieces had `yielded` tokens, and row i may have `row_limits[i]`. Rows that end here are
    marked in `ended`.
    """
    ids, logprobs = (np.array(buffer)[:, :n] for buffer in buffers)
    for i, row in enumerate(ids):
        last = next((j + 1 for j, token in enumerate(row) if token in stop_ids), n)
        last = 0 if ended[i] else min(last, row_limits[i] - yielded)
        if NOT_FINITE in row[:last]:
            at = yielded + int((row == NOT_FINITE).argmax()) + 1
            raise UserError(
                f"At new token {at} the model's logits are not finite numbers: "
                "its weights are damaged."
            )
        ended[i] |= last < n or row[n - 1] in stop_ids or yielded + n >= row_limits[i]
        row[last:], logprobs[i, last:] = NOTHING, 0
    return Piece(ids, logprobs)


def _padded(rows: Sequence[Sequence[int]], context: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens (B, S), lengths (B,), and the width to prefill, shared by many lengths."""
    cropped = [row[-context:] for row in rows]
    tokens, lengths = (
        np.zeros((len(rows), context), np.int32),
        np.array([*map(len, cropped)], np.int32),
    )
    for i, row in enumerate(cropped):
        tokens[i, : len(row)] = row
    return tokens, lengths, min(context, 1 << int(lengths.max() - 1).bit_length())


def score(model: GPT, ids: ArrayLike) -> np.ndarray:
    """Log-probabilities (B, T - 1) of the `ids` (B, T) given their prefixes, without the first."""
    check_tokens(ids, model.config)
    logits_btv = model(ids)
    with exactly(model.dtype):
        logp_btv = jax.nn.log_softmax(logits_btv[:, :-1].astype(sum_dtype(logits_btv)))
        return np.asarray(
            jnp.take_along_axis(logp_btv, jnp.asarray(ids)[:, 1:, None], axis=-1)[..., 0]
        )


generate.__signature__ = inspect.signature(stream)  # type: ignore[attr-defined]  # for help()
