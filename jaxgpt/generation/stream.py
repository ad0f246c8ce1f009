"""Streams of generated ids: the prompts are read, then come cached steps, then moves of the window.

Each phase computes pieces of 1, 2, 4, ... up to PIECE_TOKENS, so that the first ones come soon;
moves of the window begin with a token for each peer.

Shapes: B rows, V vocabulary.
"""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import ArrayLike

from jaxgpt.devices.peers import Peers, make_groups, share
from jaxgpt.errors import UserError
from jaxgpt.generation import programs
from jaxgpt.generation.batch import Batch, Request, make_batch
from jaxgpt.generation.encoded import Encoded, prepare_memory
from jaxgpt.generation.options import Keywords, SampleOptions
from jaxgpt.generation.programs import NOTHING, PIECE_TOKENS, Buffers, Conditions
from jaxgpt.generation.prompt import as_rows
from jaxgpt.generation.reading import Reader
from jaxgpt.generation.sampling import NOT_FINITE
from jaxgpt.generation.weights import Weights
from jaxgpt.model import GPT, exactly


class Piece(NamedTuple):
    """New tokens of each row, and their log-probabilities under the model itself."""

    ids: np.ndarray  # (B, n); NOTHING after a row's end
    logprobs: np.ndarray


class Computed(NamedTuple):
    """A piece on its device, perhaps still being computed."""

    buffers: Buffers
    tokens: int  # the number of valid columns


def generate(
    model: GPT,
    prompt: ArrayLike,
    max_new_tokens: int = SampleOptions.max_new_tokens,
    temperature: float = SampleOptions.temperature,
    *,
    memory: ArrayLike | None = None,
    memory_mask: ArrayLike | None = None,
    **options: Unpack[Keywords],
) -> Iterator[np.ndarray]:
    """The ids of `stream` alone: pieces (n,) for one prompt, (B, n) for several.

    The arguments after `prompt` are the fields of SampleOptions. A model with cross-attention also
    takes `memory` (B, S, D). `memory_mask` (B, S) is true where that is not padding; by default
    nothing is padding.
    """
    chosen = SampleOptions(max_new_tokens, temperature, **options)
    rows, several = as_rows(prompt, model.config.vocab_size)
    pieces = stream(model, rows, chosen, memory, memory_mask)
    if several or chosen.samples > 1:
        return (piece.ids for piece in pieces)
    return (piece.ids[0] for piece in pieces)


def _with_fields(own: inspect.Signature) -> inspect.Signature:
    """The signature `own` with the other fields of SampleOptions in place of **options."""
    *named, _ = own.parameters.values()
    fields = inspect.signature(SampleOptions).parameters
    others = (fields[name] for name in fields if name not in own.parameters)
    keywords = [field.replace(kind=field.KEYWORD_ONLY) for field in others]
    return own.replace(parameters=[*named, *keywords])


generate.__signature__ = _with_fields(inspect.signature(generate))  # type: ignore[attr-defined]


def stream(
    model: GPT,
    prompt: Any,
    options: SampleOptions,
    memory: ArrayLike | None = None,
    memory_mask: ArrayLike | None = None,
) -> Iterator[Piece]:
    """Pieces of new ids, with their log-probabilities, as they are computed.

    `prompt` is a list of ids, or a list of such lists; an empty one stands for id 0. Every prompt
    has a row of `memory`, as in `generate`, and gets `options.samples` adjacent rows. A row that
    has ended is padded with NOTHING, -1, while others continue.
    """
    rows = as_rows(prompt, model.config.vocab_size)[0]
    batch = make_batch([Request(rows, options)], model.config)
    read = prepare_memory(model, len(rows), memory, memory_mask)
    if read is not None:
        read = read.repeated(options.samples)
    with exactly(model.dtype):
        weights = Weights.prepare(model, model.dtype)
    return stream_batch(weights, batch, read)


def stream_batch(weights: Weights, batch: Batch, read: Encoded | None = None) -> Iterator[Piece]:
    """Pieces of new ids of all rows of `batch`, as `stream` gives them."""
    return _phases(Generation(weights, batch, read), batch)


def _phases(generation: "Generation", batch: Batch) -> Iterator[Piece]:
    """Take cached steps while they fit in the context, then move windows."""
    tokens = cached = int(batch.limits_b.max())
    if batch.shared.on_full == "slide":
        # A row that is full at the start needs a new window even for its first token, so it has no
        # use for a cache.
        visible = int(batch.visible_b.min())
        cached = min(visible, tokens) if visible > 1 else 0
    # Rows that stop at the end of their context are still computed; their tokens are not used.
    host = Host(batch.limits_b, batch.shared.stop_ids)
    for phase in (generation.cached_steps(cached), generation.window_moves(tokens - cached)):
        for piece in host.overlapped(phase):
            yield piece
            if host.ended_b.all():
                return


def _piece_sizes(tokens: int, first: int = 1) -> Iterator[int]:
    """Sizes of pieces whose sum is `tokens`, from `first` up to PIECE_TOKENS."""
    size = min(first, PIECE_TOKENS)
    while tokens > 0:
        yield min(size, tokens)
        tokens -= size
        size = min(2 * size, PIECE_TOKENS)


class Generation:
    """The state of a generation on its devices; each phase yields pieces as it starts them."""

    def __init__(self, weights: Weights, batch: Batch, memory: Encoded | None):
        self.weights, sampling = weights, batch.sampling
        self.dtype, self.conditions = weights.modules()[0].dtype, Conditions(sampling)
        with exactly(self.dtype):
            self.mesh, self.peer_mesh = make_groups(weights, *batch.prompts.tokens_bs.shape)
            if self.mesh:
                self.weights = share(self.weights, self.mesh)
            if memory is not None:
                cross = programs.remember(self.weights, memory, self.mesh)
                self.conditions = Conditions(sampling, cross)
            self.prompts = batch.prompts
            rows = programs.start_rows(
                self.prompts.tokens_bs, self.prompts.lengths_b, batch.seeds_b, batch.numbers_b
            )
            self.rows = _shard(rows, programs.ROWS_SPECS, self.mesh)

    def cached_steps(self, tokens: int) -> Iterator[Computed]:
        """Read the prompts and generate `tokens` tokens; some row then fills the context."""
        if not tokens:
            return
        with exactly(self.dtype):
            slots = self.prompts.slots(tokens)
            reader = Reader(self.weights, self.conditions.cross, slots, self.mesh)
            kv_cache = reader.read(self.prompts)
        for n in _piece_sizes(tokens):
            with exactly(self.dtype):
                self.rows, buffers, kv_cache = programs.cached_steps(
                    self.weights, self.rows, kv_cache, self.conditions, np.int32(n), self.mesh
                )
            yield Computed(buffers, n)

    def window_moves(self, tokens: int) -> Iterator[Computed]:
        """Generate `tokens` tokens, each of which moves the window of the full rows."""
        if tokens and self.peer_mesh != self.mesh:
            self._bring_in_peers()
        for n in _piece_sizes(tokens, Peers.of(self.peer_mesh).count):
            with exactly(self.dtype):
                self.rows, buffers = programs.window_moves(
                    self.weights, self.rows, self.conditions, np.int32(n), self.peer_mesh
                )
            yield Computed(buffers, n)

    def _bring_in_peers(self) -> None:
        """Give the weights and rows to all devices of `peer_mesh`."""
        mesh = self.peer_mesh
        assert mesh is not None
        with exactly(self.dtype):
            self.weights = share(self.weights, mesh)
            self.rows = _shard(self.rows, programs.ROWS_SPECS, mesh)
            self.conditions = _shard(self.conditions, programs.CONDITIONS_SPECS, mesh)


def _shard(parts: Any, specs: Any, mesh: Mesh | None) -> Any:
    """The arrays of `parts`, sharded over `mesh` by their `specs`."""
    if mesh is None:
        return parts
    return jax.device_put(parts, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))


class Host:
    """The host's side: it reads pieces, and ends rows at a stop id or at their limit."""

    def __init__(self, limits_b: np.ndarray, stop_ids: Iterable[int]):
        self.limits_b, self.stop_ids = limits_b, list(stop_ids)
        self.ended_b, self.tokens = np.zeros(len(limits_b), bool), 0

    def overlapped(self, phase: Iterator[Computed]) -> Iterator[Piece]:
        """The pieces of `phase`, each read while the device computes the next one.

        The last one is read before the next phase starts, which may have to be compiled first.
        """
        earlier = next(phase, None)
        for computed in phase:
            assert earlier is not None
            yield self.read(earlier)
            earlier = computed
        if earlier is not None:
            yield self.read(earlier)

    def read(self, computed: Computed) -> Piece:
        """The piece on the host, padded after each row's end."""
        ids_bn, logprobs_bn = (
            np.array(buffer)[:, : computed.tokens]
            for buffer in (computed.buffers.ids, computed.buffers.logprobs)
        )
        number_n = self.tokens + 1 + np.arange(computed.tokens)  # of each new token, from 1
        stop_bn = np.isin(ids_bn, self.stop_ids)
        over_bn = self.ended_b[:, None] | (stop_bn.cumsum(axis=1) > stop_bn)
        over_bn |= number_n > self.limits_b[:, None]
        broken_n = ((ids_bn == NOT_FINITE) & ~over_bn).any(axis=0)
        if broken_n.any():
            raise UserError(
                f"At new token {number_n[broken_n][0]} the model's logits are not finite numbers: "
                "its weights are damaged."
            )
        ids_bn[over_bn], logprobs_bn[over_bn] = NOTHING, 0
        self.tokens += computed.tokens
        self.ended_b |= stop_bn.any(axis=1) | (self.tokens >= self.limits_b)
        return Piece(ids_bn, logprobs_bn)
