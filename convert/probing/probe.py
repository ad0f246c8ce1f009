"""Ranks the functions that a checkpoint may hold by their loss on text. Knows no command and no dialect.

What leaves no trace in a file, where the norms are or how many heads share a matrix, does in the loss on text of the
kind that the model was trained on.
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
from ..detect.detect import Asked
from ..files import checkpoints
from ..tokens.encode_text import require_known, spell
from .ranking import Ranking, Row, Search

# The likelier value first, and the fields in which models differ more often.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "norm": ("pre", "post", "residual"),
    "final_norm": (True, "unused"),
    "attention_scale": ("head_dim", "model_dim", "none"),
    "activation": ("relu", "gelu", "gelu_tanh"),
    "attention_scale_by_layer": (False, True),
    "norm_eps": (1e-5, 1e-6, 1e-12),
}  # and num_heads: what divides the width
# What wrecks a model when it is wrong; and what is varied together after that, for the scale of attention can make up
# for a wrong number of heads.
FIRST = ("norm", "final_norm", "num_heads")
GROUPS = (
    ("norm", "final_norm"),
    ("num_heads", "attention_scale"),
    ("activation",),
    ("attention_scale_by_layer",),
    ("norm_eps",),
)
ALIKE = ({"gelu", "gelu_tanh"}, {*OPTIONS["norm_eps"]})  # their losses differ by some 1e-5
# For what has no usual value, until somebody knows it. Past its context a model knows nothing: a short one is safe.
STANDING = {"num_heads": 1, "context_length": 32}
# Training has found the best size of each of these: halved or doubled, a model that is read as what it is loses more.
PARTS = {
    "its token embeddings": "token_embedding/",
    "its positions": "pos_embedding/",
    "its queries": "blocks/attn/qkv/",
    "what attention adds": "blocks/attn/out/",
    "what the MLPs add": "blocks/mlp/down/",
}
LEFT_OUT = "its positions left out"
SHORTEST, LONGEST, FEWEST, MOST = 64, 256, 8, 2**14  # positions in a window; windows; tokens
OPERATIONS = 3e11  # for a combination: some seconds on two cores
NUMBERS = 2**26  # in the largest array at a time


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
    """`text` is the text itself; `fields`, and whatever the file or its config says, are not varied."""
    require(
        (text is None) != (ids is None),
        "probe takes a text (--text) or ids (--ids), one of the two.",
    )
    how: dict[str, Any] = {"dialect": dialect, "ignore_config": ignore_config}
    found, standing = _inspected(checkpoints.opened(weights), how, fields)
    source, report, config = found.source, found.detected.report, found.detected.report.config
    options = _options(report.assumed, config.head_dim if "num_heads" in standing else 0)
    assumed = {name: report.assumed[name] for name in options if name in report.assumed}
    asked = [name for name in standing if name not in options]
    unnamed = "positions" in report.assumed  # no table of them: rotary ones would look the same
    if not options and not unnamed:
        return Ranking([], {}, {}, asked, 0, math.inf, "")
    spelled, whose = (
        (np.asarray(ids), "") if text is None else spell(text, source, config.vocab_size, tokenizer)
    )
    require_known(spelled, config.vocab_size, source.path)
    windows = _windows(spelled, config, source.path)

    @functools.lru_cache(maxsize=2)
    def load(num_heads: int | None) -> tuple[ModelConfig, Tree]:
        stated = {**standing, **fields, **({"num_heads": num_heads} if num_heads else {})}
        loaded = api.to_flax(source, dtype="float32", **how, **stated)
        return loaded.config, model_directory.to_device(loaded.params)

    def measure(combination: dict[str, Any]) -> np.ndarray:
        config, params = load(combination.get("num_heads"))
        return _losses(dataclasses.replace(config, **combination), params, windows)

    rows = Search(options, FIRST, GROUPS, measure, ALIKE, tell).run()
    best = rows[0].fields
    config, params = load(best.get("num_heads"))
    losses = _altered(dataclasses.replace(config, **best), params, windows)
    ranking = Ranking(rows, options, assumed, asked, windows[:, 1:].size, _entropy(spelled), whose)
    return dataclasses.replace(
        ranking,
        bigram=_bigram(spelled),
        altered={name: Row(best, each) for name, each in losses.items()},
        confirmable={"positions": (config.positions, LEFT_OUT)} if unnamed else {},
    )


def _inspected(
    source: checkpoints.Checkpoint, how: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[api.Inspected, dict[str, Any]]:
    """With something in the place of each field that nobody said and that has no usual value."""
    standing: dict[str, Any] = {}
    while True:
        try:
            return api.inspect(source, **how, **fields, **standing), standing
        except Asked as asked:
            if asked.field in {**fields, **standing}:
                raise
            standing[asked.field] = STANDING[asked.field]


def _options(assumed: Mapping[str, Any], width: int) -> dict[str, tuple[Any, ...]]:
    """Of each open field, the likeliest value first; `width` is that of all heads together, where they are unknown."""
    options = {
        name: (assumed[name], *(value for value in values if value != assumed[name]))
        for name, values in OPTIONS.items()
        if name in assumed
    }
    heads = [n for n in range(1, width + 1) if width % n == 0]
    heads.sort(key=lambda n: abs(n * n - width))
    return {"num_heads": tuple(heads), **options} if heads else options


def _windows(ids: np.ndarray, config: ModelConfig, path: object) -> np.ndarray:
    """(B, T + 1) ids from all over the text. Where it is short they are: many windows tell more of chance."""
    least = max(config.context_length, FEWEST) + 1
    if ids.ndim != 1 or len(ids) < least:
        raise UserError(
            f"{path} has a context of {config.context_length} tokens, so there should be {least} of them in a row or "
            f"more, but there are {ids.size}."
        )
    affordable = min(MOST, int(OPERATIONS / (flops.per_token(config) / 3)))
    length = min(
        config.context_length,
        LONGEST,
        max(SHORTEST, affordable // FEWEST),
        (len(ids) - 1) // FEWEST,
    )
    count = max(FEWEST, min(affordable, len(ids) - 1) // length)
    power = 1 << (count.bit_length() - 1)  # so that parts of equal size can be had
    starts = np.linspace(0, len(ids) - 1 - length, power).astype(int)
    return np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int32)


def _entropy(ids: np.ndarray) -> float:
    shares = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def _bigram(ids: np.ndarray) -> float:
    """The loss of predicting each id from the one before it, by the counts in all the rest of the text; where these
    are few, the frequencies of single ids stand in (Witten and Bell's interpolation)."""
    before, after = ids[:-1], ids[1:]
    size = int(ids.max()) + 1
    pairs, which, counts = np.unique(
        before.astype(np.int64) * size + after, return_inverse=True, return_counts=True
    )
    followers = np.bincount(pairs // size, minlength=size)[before]
    seen_before = np.bincount(before, minlength=size)[before] - 1
    alone = np.bincount(after, minlength=size)[after] / (
        len(after) - 1 + size
    )  # one less, and one for each id
    trusted = seen_before / (seen_before + followers)
    pair = (counts[which] - 1) / np.maximum(seen_before, 1)
    return float(-np.log(trusted * pair + (1 - trusted) * alone).mean())


def _altered(config: ModelConfig, params: Tree, windows: np.ndarray) -> dict[str, np.ndarray]:
    """The losses with one part of the model at another size, by what was done to it."""
    config, params = _separate(config, params, windows.shape[1] - 1)
    flat = flatten(params)
    found = {}
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
            found[f"{part} {change}"] = _losses(config, unflatten(scaled), windows)
    return found


def _scaled(name: str, leaf: Any, factor: float, config: ModelConfig) -> Any:
    """`leaf` times `factor`; of queries, keys and values, which lie in one array, the queries alone."""
    if not name.startswith(PARTS["its queries"]):
        return leaf * factor
    group = make_spec(config).block.attention.group
    return _times_queries(jnp.asarray(leaf), jnp.full(config.num_blocks, factor, np.float32), group)


def _separate(config: ModelConfig, params: Tree, length: int) -> tuple[ModelConfig, Tree]:
    """The same function with each part an array of its own: a head that is tied, sinusoids that are not stored."""
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
    """One program serves all scales of attention: what scores are multiplied by, queries can be as well."""
    plain = dataclasses.replace(config, attention_scale="head_dim", attention_scale_by_layer=False)
    layers = np.arange(config.num_blocks)
    factors = _scales(config, layers) / _scales(plain, layers)
    with exactly(np.dtype(np.float32)):
        return np.asarray(
            _window_losses(plain, params, factors.astype(np.float32), windows), np.float64
        )


def _scales(config: ModelConfig, layers: np.ndarray) -> np.ndarray:
    """What each layer multiplies its scores by."""
    attention = make_spec(config).block.attention
    return np.broadcast_to(attention.scale_of(layers), layers.shape)


def _times_queries(qkv: jax.Array, factors_l: jax.Array, group: int) -> jax.Array:
    """The kernel or bias `qkv` (L, ..., G + 2, H) with its queries multiplied, by layer."""
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
