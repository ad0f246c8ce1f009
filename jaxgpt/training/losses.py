"""The losses that training and evaluation average.

Shapes: B rows, T tokens, S time of a source, D model width, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import ComputeConfig, ModelConfig
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.data.windows import TextBatch
from jaxgpt.model import GPT, Seq2Seq, assemble
from jaxgpt.model.attention import Memory, attending_to_all, within
from jaxgpt.model.precision import sum_dtype
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.training.compute import Compute


def token_losses(
    config: ModelConfig,
    params: Tree,
    batch: jax.Array | TextBatch,
    dropout_key: jax.Array | None = None,
    compute: Compute | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """The loss (B, T) of every target of `batch` given its prefix.

    For ids (B, T + 1), all ids except the first are targets.
    """
    compute = compute or Compute(ComputeConfig())
    if not isinstance(batch, TextBatch):
        batch = TextBatch(batch[:, :-1], batch[:, 1:], None)
    targets_bt = jnp.asarray(batch.targets_bt)
    model = assemble(config, compute.gather.all_but_blocks(params) if compute.gather else params)
    x_btd = hidden(model, batch, dropout_key, compute)

    def losses(x: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(model.read_out(x), targets, smoothing)

    chunks = compute.settings.loss_chunks
    if chunks == 1:
        return losses(x_btd, targets_bt)
    parts = [jnp.stack(jnp.split(x, chunks, axis=1)) for x in (x_btd, targets_bt)]
    losses_cbt = jax.lax.map(lambda part: jax.checkpoint(losses)(*part), tuple(parts))
    return jnp.concatenate(list(losses_cbt), axis=1)


def hidden(
    model: GPT, batch: TextBatch, dropout_key: jax.Array | None, compute: Compute
) -> jax.Array:
    """The stream (B, T, D) after the last block."""
    places, attend = batch.positions_bt, within(compute.attend, batch.segments_bt)
    positions = jnp.arange(batch.tokens_bt.shape[1]) if places is None else places
    return compute.run(
        model,
        model.embed(jnp.asarray(batch.tokens_bt), places),
        lambda block, layer, x: block(x, layer, positions, attend, dropout_key)[0],
    )


def pair_logits(
    config: Seq2SeqConfig,
    params: Tree,
    batch: PairBatch,
    dropout_key: jax.Array | None = None,
    compute: Compute | None = None,
) -> jax.Array:
    """The logits (B, T, V) of every target token, given its source and its prefix."""
    compute = compute or Compute(ComputeConfig())
    if gather := compute.gather:
        params = {side: gather.all_but_blocks(part) for side, part in params.items()}
    model: Seq2Seq = assemble(config, params)
    for_encoder, for_decoder = (
        (None, None) if dropout_key is None else jax.random.split(dropout_key)
    )
    memory_bsd = encoder_output(model, batch, for_encoder, compute)
    mask_bs = jnp.asarray(batch.source_mask_bs)
    positions, places = jnp.arange(batch.tokens_bt.shape[1]), jnp.arange(mask_bs.shape[1])

    def apply(block: Any, layer: jax.Array, x: jax.Array) -> jax.Array:
        # Computed in each block from its gathered weights, so that remat may recompute them.
        keys, values = block.cross_attn.keys_values(memory_bsd, layer, places)
        memory = Memory(keys, values, mask_bs)
        return block(x, layer, positions, compute.attend, for_decoder, memory)[0]

    x_btd = compute.run(model.decoder, model.decoder.embed(jnp.asarray(batch.tokens_bt)), apply)
    return model.decoder.read_out(x_btd)


def encoder_output(
    model: Seq2Seq, batch: PairBatch, dropout_key: jax.Array | None, compute: Compute
) -> jax.Array:
    """The memory (B, S, D): the encoder's output for the sources."""
    attend = attending_to_all(jnp.asarray(batch.source_mask_bs))
    positions = jnp.arange(batch.source_bs.shape[1])
    x_bsd = compute.run(
        model.encoder,
        model.embed_source(jnp.asarray(batch.source_bs)),
        lambda block, layer, x: block(x, layer, positions, attend, dropout_key)[0],
    )
    return model.encoder.normalise(x_bsd)


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """The loss of each of `targets`, whose share `smoothing` of probability is spread over all
    tokens."""
    return _cross_entropy(smoothing, logits, targets)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(smoothing: float, logits: jax.Array, targets: jax.Array) -> jax.Array:
    return _forward(smoothing, logits, targets)[0]


def _forward(
    smoothing: float, logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = logits.astype(sum_dtype(logits))
    log_sums = jax.nn.logsumexp(wide, axis=-1)
    # `logits` is indexed instead of `wide`, because XLA stores the array that is indexed.
    likely = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0].astype(wide.dtype)
    if smoothing:
        likely = (1 - smoothing) * likely + smoothing * wide.mean(axis=-1)
    return log_sums - likely, (logits, targets, log_sums)


def _backward(
    smoothing: float, residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, None]:
    """The gradient by the logits, in one pass over them.

    Autodiff would store the exponentials in float32, and update them at the targets by a scatter.
    """
    logits, targets, log_sums = residuals
    wide = logits.astype(log_sums.dtype)
    at_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    wanted = (1 - smoothing) * at_target + smoothing / logits.shape[-1]
    by_logits = (jnp.exp(wide - log_sums[..., None]) - wanted) * gradient[..., None]
    return by_logits.astype(logits.dtype), None


_cross_entropy.defvjp(_forward, _backward)
