"""Ranks the functions that a checkpoint may compute by their loss on text.

Fields that leave no trace in a file, such as the place of the norms or the number of heads, show
in the loss on text of the kind that the model was trained on. Independent of commands and dialects.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, require
from jaxgpt.model import exactly, flops
from jaxgpt.model.positions import sinusoids
from jaxgpt.model.spec import make_spec
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.storage import model_directory
from jaxgpt.training.step import token_losses

from .. import api
from ..detect.refusals import Asked
from ..files import checkpoints
from ..tokens.encode_text import require_known, spell
from .ranking import Ranking, Row, Search

# For each field, the likelier values first; fields in which models differ more often come first.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "norm": ("pre", "post", "residual"),
    "final_norm": (True, "unused"),
    "attention_scale": ("head_dim", "model_dim", "none"),
    "activation": ("relu", "gelu", "gelu_tanh"),
    "attention_scale_by_layer": (False, True),
    "norm_eps": (1e-5, 1e-6, 1e-12),
}  # and num_heads: the divisors of the width
# Fields that ruin the loss when wrong are tried first. Then the fields of each group are varied
# together, as a scale of attention can compensate for a wrong number of heads.
FIRST = ("norm", "final_norm", "num_heads")
GROUPS = (
    ("norm", "final_norm"),
    ("num_heads", "attention_scale"),
    ("activation",),
    ("attention_scale_by_layer",),
    ("norm_eps",),
)
ALIKE = ({"gelu", "gelu_tanh"}, {*OPTIONS["norm_eps"]})  # values whose losses differ by some 1e-5
# Placeholders for fields without a usual value. A short context is safe, a long one is not:
# positions past the true context were never trained.
STANDING = {"num_heads": 1, "context_length": 32}
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
# Shortest and longest window, fewest windows, most tokens.
SHORTEST, LONGEST, FEWEST, MOST = 64, 256, 8, 2**14
OPERATIONS = 3e11  # per combination: some seconds on two cores
NUMBERS = 2**26  # elements of the largest array


def probe(
    weights: checkpoints.Weights,
    *,
    text: str | None = None,
    ids: ArrayLike | None = None,
    tokenizer: str | Path | None = None,
    dialect: str | None = None,
    ignore_config: bool = False,
    tell: Callable[[str], Any] = lambda so_far: None,
    **fields: Any,
) -> Ranking:
    """Rank the values of the fields that `weights` leave open by their loss on a text.

    The text is given as `text`, the string itself, or as `ids`. Fields set in `fields` or recorded
    in the file or its config are not varied.
    """
    require(
        (text is None) != (ids is None),
        "probe takes a text (--text) or ids (--ids), one of the two.",
    )
    reading: dict[str, Any] = {"dialect": dialect, "ignore_config": ignore_config}
    inspected, placeholders = _inspected(checkpoints.opened(weights), reading, fields)
    source, report, config = (
        inspected.source,
        inspected.detected.report,
        inspected.detected.report.config,
    )
    options = _options(report.assumed, config.head_dim if "num_heads" in placeholders else 0)
    assumed = {name: report.assumed[name] for name in options if name in report.assumed}
    unranked = [name for name in placeholders if name not in options]
    # Without a table of positions in the file, rotary ones would look the same.
    unnamed = "positions" in report.assumed
    if not options and not unnamed:
        return Ranking([], {}, {}, unranked, 0, math.inf, "")
    spelled, whose = (
        (np.asarray(ids), "") if text is None else spell(text, source, config.vocab_size, tokenizer)
    )
    require_known(spelled, config.vocab_size, source.path)
    windows = _windows(spelled, config, source.path)

    @functools.lru_cache(maxsize=2)
    def load(num_heads: int | None) -> tuple[ModelConfig, Tree]:
        stated = {**placeholders, **fields, **({"num_heads": num_heads} if num_heads else {})}
        loaded = api.to_flax(source, dtype="float32", **reading, **stated)
        return loaded.config, model_directory.to_device(loaded.params)

    def measure(combination: dict[str, Any]) -> np.ndarray:
        config, params = load(combination.get("num_heads"))
        return _losses(dataclasses.replace(config, **combination), params, windows)

    rows = Search(options, FIRST, GROUPS, measure, ALIKE, tell).run()
    best = rows[0].fields
    config, params = load(best.get("num_heads"))
    losses = _altered(dataclasses.replace(config, **best), params, windows)
    ranking = Ranking(
        rows, options, assumed, unranked, windows[:, 1:].size, _entropy(spelled), whose
    )
    return dataclasses.replace(
        ranking,
        bigram=_bigram(spelled),
        altered={name: Row(best, each) for name, each in losses.items()},
        confirmable={"positions": (config.positions, LEFT_OUT)} if unnamed else {},
    )


def _inspected(
    source: checkpoints.Checkpoint, how: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[api.Inspected, dict[str, Any]]:
    """Inspect `source`; also return the placeholders for fields that it asks for."""
    placeholders: dict[str, Any] = {}
    while True:
        try:
            return api.inspect(source, **how, **fields, **placeholders), placeholders
        except Asked as asked:
            if asked.field in {**fields, **placeholders}:
                raise
            placeholders[asked.field] = STANDING[asked.field]


def _options(assumed: Mapping[str, Any], width: int) -> dict[str, tuple[Any, ...]]:
    """The values of each open field, the likeliest first.

    `width` is the total width of all heads if their number is open, and 0 otherwise.
    """
    options = {
        name: (assumed[name], *(value for value in values if value != assumed[name]))
        for name, values in OPTIONS.items()
        if name in assumed
    }
    heads = [n for n in range(1, width + 1) if width % n == 0]
    heads.sort(key=lambda n: abs(n * n - width))
    return {"num_heads": tuple(heads), **options} if heads else options


def _windows(ids: np.ndarray, config: ModelConfig, path: object) -> np.ndarray:
    """Windows (B, T + 1) of ids, spread evenly over the text.

    In a short text the windows are short: more of them give a better estimate of the noise.
    """
    least = max(config.context_length, FEWEST) + 1
    if ids.ndim != 1 or len(ids) < least:
        raise UserError(
            f"{path} has a context of {config.context_length} tokens, so there should be {least} "
            f"of them in a row or more, but there are {ids.size}."
        )
    affordable = min(MOST, int(OPERATIONS / (flops.per_token(config) / 3)))
    length = min(
        config.context_length,
        LONGEST,
        max(SHORTEST, affordable // FEWEST),
        (len(ids) - 1) // FEWEST,
    )
    count = max(FEWEST, min(affordable, len(ids) - 1) // length)
    power = 1 << (count.bit_length() - 1)  # a power of two divides into equal batches
    starts = np.linspace(0, len(ids) - 1 - length, power).astype(int)
    return np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int32)


def _entropy(ids: np.ndarray) -> float:
    """The loss of predicting each id by its frequency, in nats."""
    shares = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def _bigram(ids: np.ndarray) -> float:
    """The loss of predicting each id from the previous one, by the counts in the rest of the text.

    Where these are few, the frequencies of single ids stand in (Witten-Bell interpolation).
    """
    before, after = ids[:-1], ids[1:]
    size = int(ids.max()) + 1
    pairs, which, counts = np.unique(
        before.astype(np.int64) * size + after, return_inverse=True, return_counts=True
    )
    followers = np.bincount(pairs // size, minlength=size)[before]
    seen_before = np.bincount(before, minlength=size)[before] - 1
    # Leaves this id out of the counts, and adds one to that of every id.
    alone = np.bincount(after, minlength=size)[after] / (len(after) - 1 + size)
    trusted = seen_before / (seen_before + followers)
    pair = (counts[which] - 1) / np.maximum(seen_before, 1)
    return float(-np.log(trusted * pair + (1 - trusted) * alone).mean())


def _altered(config: ModelConfig, params: Tree, windows: np.ndarray) -> dict[str, np.ndarray]:
    """Losses with one part of the model rescaled or left out, by the name of the change."""
    config, params = _separate(config, params, windows.shape[1] - 1)
    flat = flatten(params)
    losses = {}
    for part, path in PARTS.items():
        factors = {"halved": 0.5, "doubled": 2.0} | (
            {"left out": 0.0} if path == PARTS["its positions"] else {}
        )
        for change, factor in (
            factors.items() if any(name.startswith(path) for name in flat) else ()
        ):
            scaled = {
                name: _scaled(name, leaf, factor, config) if name.startswith(path) else leaf
                for name, leaf in flat.items()
            }
            losses[f"{part} {change}"] = _losses(config, unflatten(scaled), windows)
    return losses


def _scaled(name: str, leaf: Any, factor: float, config: ModelConfig) -> Any:
    """`leaf` times `factor`; in the fused array of queries, keys and values, only the queries."""
    if not name.startswith(PARTS["its queries"]):
        return leaf * factor
    group = make_spec(config).block.attention.group
    return _times_queries(jnp.asarray(leaf), jnp.full(config.num_blocks, factor, np.float32), group)


def _separate(config: ModelConfig, params: Tree, length: int) -> tuple[ModelConfig, Tree]:
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


def _losses(config: ModelConfig, params: Tree, windows: np.ndarray) -> np.ndarray:
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
