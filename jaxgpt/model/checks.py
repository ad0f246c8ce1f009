"""Checks of the inputs of a model, on the host."""

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, require


def check_tokens(tokens: ArrayLike, config: ModelConfig) -> None:
    """Refuse ids outside the vocabulary and sequences outside the context.

    JAX never raises on such ids, but clamps, wraps or fills, so they are checked on the host first.
    """
    if isinstance(tokens, jax.core.Tracer):
        raise UserError(
            "model(tokens) checks the ids on the host, but under jax.jit, jax.grad or jax.vmap "
            "they have no values yet. Call model.logits(tokens) there: it computes the same, "
            "unchecked."
        )
    _check_ids(tokens, "Tokens", config)


def check_source(source: ArrayLike, config: ModelConfig) -> None:
    """Refuse source ids outside the encoder's vocabulary, and sources outside its context."""
    _check_ids(source, "Sources", config)


def _check_ids(values: ArrayLike, what: str, config: ModelConfig) -> None:
    try:
        ids = np.asarray(values)
    except (ValueError, TypeError, OverflowError):  # for example, rows of different lengths
        raise UserError(
            f"{what} must be whole numbers of shape (batch, time), but are {str(values)[:60]}."
        ) from None
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"{what} must be whole numbers of shape (batch, time), but are {ids.dtype} {ids.shape}."
        )
    length = ids.shape[1]
    if not 0 < length <= config.context_length:
        raise UserError(
            f"A sequence of {length} tokens does not fit the context length "
            f"{config.context_length}."
        )
    wrong = np.argwhere((ids < 0) | (ids >= config.vocab_size))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"Token id {ids[row, column]} at row {row}, position {column} lies outside the "
            f"vocabulary of {config.vocab_size} (ids 0 to {config.vocab_size - 1}); "
            f"{len(wrong)} such ids in all."
        )


def require_vocabulary(config: ModelConfig) -> None:
    """Require that `config` has a vocabulary."""
    require(
        config.vocab_size > 0,
        "vocab_size is 0: say how many token ids there are, as in ModelConfig(vocab_size=104).",
    )


def check_memory(
    tokens: ArrayLike, memory: ArrayLike | None, mask: ArrayLike | None, config: ModelConfig
) -> None:
    """Refuse a memory of the wrong shape, a missing one, and one for a model without
    cross-attention."""
    if not config.cross_attention:
        require(memory is None, "This model has no cross-attention, so it takes no memory.")
        return
    if memory is None:
        raise UserError(
            "This model attends to a memory: call model(tokens, memory=array) with an array "
            f"(batch, length, {config.model_dim}), such as an encoder's output."
        )
    shape, rows = np.shape(memory), len(np.asarray(tokens))
    require(
        len(shape) == 3 and shape[0] == rows and shape[1] > 0 and shape[2] == config.model_dim,
        f"The memory must have the shape ({rows}, length, {config.model_dim}), but has {shape}.",
    )
    if mask is not None:
        check_mask(mask, shape[:2], rows)


def check_segments(tokens: ArrayLike, segments: ArrayLike | None) -> None:
    """Refuse segments that are not a whole number for each token."""
    if segments is None:
        return
    numbers, shape = np.asarray(segments), np.shape(tokens)
    require(
        numbers.shape == shape and np.issubdtype(numbers.dtype, np.integer),
        f"The segments must be whole numbers of shape {shape}, one for each token, but are "
        f"{numbers.dtype} {numbers.shape}.",
    )


def check_mask(mask: ArrayLike, shape: tuple[int, ...], rows: int) -> None:
    """Refuse a mask for anything else than `rows` of `shape`, and rows that are all padding."""
    mask = np.asarray(mask)
    require(
        mask.dtype == bool and mask.shape == shape and len(mask) == rows,
        f"The mask must be boolean and of shape {shape} with {rows} rows, as many as the tokens "
        f"have, but is {mask.dtype} {mask.shape}.",
    )
    empty = np.flatnonzero(~mask.any(axis=1))
    require(
        not empty.size,
        f"Row {empty[0] if empty.size else 0} of the mask is all false: at least one position of "
        "each source must be real.",
    )
