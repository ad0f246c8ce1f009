"""The losses of a model on windows of text, and with one of its parts made larger or smaller."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.model import exactly
from jaxgpt.model.positions import sinusoids
from jaxgpt.model.spec import make_spec
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.training.step import token_losses

# Training has found the best scale of each of these parts: if the model is read correctly, the loss
# rises when one is halved or doubled.
PARTS = {
    "its token embeddings": "token_embedding/",
    "its positions": "pos_embedding/",
    "its queries": "blocks/attn/qkv/",
    "what attention adds": "blocks/attn/out/",
    "what the MLPs add": "blocks/mlp/down/",
}
LEFT_OUT = "its positions left out"
NUMBERS = 2**26  # elements of the largest array


def losses(config: ModelConfig, params: Tree, windows: np.ndarray) -> np.ndarray:
    """Losses (B,) of the windows.

    The scale of attention is applied to the queries, so that one program serves all scales.
    """
    plain = dataclasses.replace(config, attention_scale="head_dim", attention_scale_by_layer=False)
    layers = np.arange(config.num_blocks)
    factors = _scales(config, layers) / _scales(plain, layers)
    with exactly(np.dtype(np.float32)):
        return np.asarray(
            _window_losses(plain, params, factors.astype(np.float32), windows), np.float64
        )


def altered_losses(config: ModelConfig, params: Tree, windows: np.ndarray) -> dict[str, np.ndarray]:
    """Losses with one part of the model rescaled or left out, by the name of the change."""
    config, params = with_separate_parts(config, params, windows.shape[1] - 1)
    flat = flatten(params)
    return {
        name: losses(config, unflatten(_rescaled(flat, path, factor, config)), windows)
        for name, path, factor in _changes()
        if any(leaf.startswith(path) for leaf in flat)
    }


def _changes() -> Iterator[tuple[str, str, float]]:
    """Yield the name of each change, the path of its part, and the factor."""
    for part, path in PARTS.items():
        yield f"{part} halved", path, 0.5
        yield f"{part} doubled", path, 2.0
    yield LEFT_OUT, PARTS["its positions"], 0.0


def _rescaled(
    flat: dict[str, Any], part: str, factor: float, config: ModelConfig
) -> dict[str, Any]:
    """`flat` with `part` times `factor`; of the fused queries, keys and values the queries only."""
    group = make_spec(config).block.attention.group
    factors_l = jnp.full(config.num_blocks, factor, np.float32)

    def scaled(leaf: Any) -> Any:
        if part == PARTS["its queries"]:
            return _times_queries(jnp.asarray(leaf), factors_l, group)
        return leaf * factor

    return {path: scaled(leaf) if path.startswith(part) else leaf for path, leaf in flat.items()}


def with_separate_parts(config: ModelConfig, params: Tree, length: int) -> tuple[ModelConfig, Tree]:
    """The same function with a tied head and unstored sinusoids as arrays of their own."""
    if config.tied:
        config = dataclasses.replace(config, tied=False)
        kernel = params["token_embedding"]["embedding"].T
        params = {**params, "head": {**params.get("head", {}), "kernel": kernel}}
    if not config.position_rows:
        table = sinusoids(length, config.model_dim).astype(np.float32)
        config = dataclasses.replace(config, positions="learned", context_length=length)
        params = {**params, "pos_embedding": {"embedding": table}}
    return config, params


def _scales(config: ModelConfig, layers: np.ndarray) -> np.ndarray:
    """The factor (L,) by which each layer multiplies its scores."""
    attention = make_spec(config).block.attention
    return np.broadcast_to(attention.scale_of(layers), layers.shape)


def _times_queries(qkv: jax.Array, factors_l: jax.Array, group: int) -> jax.Array:
    """The kernel or bias `qkv` (L, ..., G + 2, H) with its queries multiplied by `factors_l`."""
    factors = factors_l.reshape(-1, *[1] * (qkv.ndim - 1))
    is_query = (jnp.arange(qkv.shape[-2]) < group)[:, None]
    return jnp.where(is_query, qkv * factors, qkv)


@functools.partial(jax.jit, static_argnums=0)
def _window_losses(
    config: ModelConfig, params: Tree, factors_l: jax.Array, ids_bt: jax.Array
) -> jax.Array:
    blocks = params["blocks"]
    group = make_spec(config).block.attention.group
    qkv = {
        name: _times_queries(array, factors_l, group)
        for name, array in blocks["attn"]["qkv"].items()
    }
    params = {**params, "blocks": {**blocks, "attn": {**blocks["attn"], "qkv": qkv}}}
    length = ids_bt.shape[1] - 1
    most = NUMBERS // (length * max(config.vocab_size, config.num_heads * length, config.mlp_dim))
    rows = 1 << (max(1, min(len(ids_bt), most)).bit_length() - 1)
    return jax.lax.map(
        lambda ids: token_losses(config, params, ids[None], None).mean(), ids_bt, batch_size=rows
    )
