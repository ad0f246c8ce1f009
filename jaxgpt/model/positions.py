"""Encodings of positions: tables of sinusoids, rotated queries and keys.

Shapes: B batch, T time, H head width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgpt.model.position_spec import Rotary
from jaxgpt.model.precision import sum_dtype


def sinusoids(length: int, width: int, layout: str = "interleaved") -> np.ndarray:
    """Sines and cosines; pair i has the period 2 pi * 10000^(2i / width).

    Pair i is in the features 2i and 2i + 1, or with the layout "half" in i and i + width / 2.
    """
    exponents = -np.arange(0, width, 2) / width
    angles = np.arange(length)[:, None] * np.exp(exponents * np.log(10000.0))
    pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1 if layout == "interleaved" else 1)
    return pairs.reshape(length, -1)[:, :width]


def restarting(segments_bt: jax.Array) -> jax.Array:
    """Positions (B, T) that count from 0 in each segment, a run of equal numbers."""
    where_t = jnp.arange(segments_bt.shape[1])
    new = jnp.diff(segments_bt, axis=1, prepend=segments_bt[:, :1]) != 0
    return where_t - jax.lax.cummax(jnp.where(new, where_t, 0), axis=1)


def rotate(rotary: Rotary, x: jax.Array, layer: ArrayLike, positions: jax.Array) -> jax.Array:
    """Heads `x` (B, T, ..., H) rotated to `positions`, which are (T,) or (B, T)."""
    half = rotary.width // 2
    dtype = sum_dtype(x)
    angles = positions[..., None] * _of_layer(rotary.frequencies, layer, dtype)
    size = _of_layer(rotary.amplitudes, layer, dtype)
    shape = (*angles.shape[:-1], *[1] * (x.ndim - 3), 1, half)
    cos, sin = ((size * wave(angles)).reshape(shape).astype(x.dtype) for wave in (jnp.cos, jnp.sin))
    turning, rest = jnp.split(x, [rotary.width], axis=-1)
    pairs = turning.reshape(*x.shape[:-1], 2, half)
    # (a, b) becomes (a cos - b sin, b cos + a sin). Reversing the pairs takes half as long as
    # concatenating the parts.
    turned = pairs * cos + pairs[..., ::-1, :] * jnp.concatenate([-sin, sin], axis=-2)
    turned = turned.reshape(turning.shape)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def _of_layer(values: tuple, layer: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """The entry of `values` for `layer`; a constant if all layers have the same."""
    table = jnp.asarray(np.asarray(values), dtype)
    return table[0] if len(set(values)) == 1 else table[layer]
