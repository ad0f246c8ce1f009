"""Helpers for several tests: sizes, tiny runs, random models and parameters, and comparisons."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.dialects import DIALECTS
from convert.rows.dialect import Dialect
from convert.rows.fields import USUAL, shown_by, usual_of
from convert.rows.kinds import HEAD, POSITIONS, Alias, Kind, Row
from convert.rows.pair import AnyDialect, sides
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.data.tokens import Dataset, open_tokens
from jaxgpt.model import GPT, Seq2Seq, abstract_params, assemble, exactly, params_of
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.seq2seq_config import Seq2SeqConfig

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "tests" / "programs"  # each runs in a process of its own
# Sizes are pairwise different so that no two axes can be mistaken for each other; D = H * hs cannot be prime.
PRIMES = {"vocab_size": 103, "context_length": 17, "model_dim": 35, "num_blocks": 3, "num_heads": 5}
PRIME_CONFIG = ModelConfig(**PRIMES)
LYRIC_SIZES = {
    "vocab_size": 104,
    "context_length": 128,
    "model_dim": 252,
    "num_blocks": 6,
    "num_heads": 6,
}
TEXT = "How much wood would a woodchuck chuck, if a woodchuck could chuck wood? " * 40
# A run of a few steps on a few words.
TINY: dict[str, dict[str, Any]] = {
    "model": {
        "context_length": 16,
        "model_dim": 12,
        "num_blocks": 2,
        "num_heads": 2,
        "dropout": 0.1,
    },
    "optim": {"warmup_steps": 2},
    "train": {
        "steps": 6,
        "batch_size": 4,
        "log_every": 2,
        "eval_every": 4,
        "eval_batches": 3,
        "sample_tokens": 0,
    },
}
# The environment of a process with eight devices.
EIGHT = {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    "NPROC": "16",
}
# The usual values of fields that no tensor shows, for a model with learned positions and LayerNorms
# with biases. Fields in which classes often differ are left out.
INVISIBLE = {
    field: USUAL[field]
    for field in (
        "norm_std", "norm_unit_offset", "residual", "window", "embedding_scale",
        "attention_softcap", "logit_scale", "logit_softcap",
    )
}  # fmt: skip
# Model settings that together cover every choice of norm, positions, scale and ties.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "post, no output projection": {
        "norm": "post", "final_norm": False, "attention_out": False, "attention_scale": "model_dim", "norm_eps": 0.1,
    },
    "sinusoids, scale by layer": {
        "positions": "sinusoidal", "attention_scale_by_layer": True, "qkv_bias": True, "norm_bias": False,
        "activation": "gelu", "head_dim": 6, "mlp_dim": 37,
    },
    "tied with a bias, offset": {
        "tied": True, "activation": "gelu_tanh", "attention_scale": "none", "final_norm": "unused",
        "attention_out_bias": False, "positions_offset": 2,
    },
    "residual, stored sinusoids": {
        "norm": "residual", "positions": "sinusoidal", "positions_stored": True, "positions_offset": 3,
        "mlp_bias": False, "tied": True, "head_bias": False,
    },
    "llama": {
        "positions": "rotary", "norm_kind": "rms", "norm_bias": False, "mlp_gated": True,
        "activation": "silu", "attention_out_bias": False, "mlp_bias": False, "head_bias": False,
        "num_heads": 6, "num_kv_heads": 2, "head_dim": 8, "rotary_layout": "interleaved",
        "rotary_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gemma": {
        "positions": "rotary", "norm_kind": "rms", "norm_bias": False, "mlp_gated": True,
        "activation": "gelu_tanh", "num_heads": 4, "num_kv_heads": 1, "head_dim": 8,
        "norm_unit_offset": True, "embedding_scale": 2.0, "extra_norms": ["sandwich"],
        "attention_softcap": 5.0, "logit_softcap": 3.0, "attention_scale": 0.3,
        "rotary_theta": [100.0, None, 100.0], "window": [4, None, 4], "qk_norm": "before_rotary",
        "norm_eps": "dtype",
    },
    "neox": {
        "positions": "rotary", "rotary_fraction": 0.5, "residual": "parallel", "head_dim": 8,
        "activation": "gelu", "qkv_bias": True, "logit_scale": 0.5,
    },
    "olmo": {
        "positions": "rotary", "norm": "output", "norm_kind": "rms", "qk_norm": "full_width",
        "head_dim": 4, "num_kv_heads": 1,
    },
    "bloom, one norm": {
        "positions": "alibi", "residual": "parallel_one_norm", "extra_norms": ["embedding"],
        "norm_std": "unbiased_plus_eps", "num_heads": 6, "num_kv_heads": 3, "head_dim": 5,
    },
    "norms without weights": {
        "positions": "none", "norm_weight": False, "norm_bias": False, "activation": "relu2",
        "qk_norm": "after_rotary",
    },
    "sines first": {"positions": "sinusoidal", "sinusoidal_layout": "half"},
}  # fmt: skip

Needs = Callable[[str], None]


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def settings(text: Path, run_dir: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tiny run on `text`, with the fields in `sections` replaced."""
    base = {"data": {"path": str(text)}, "run": {"dir": str(run_dir)}, **TINY}
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}


def write_toml(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a config file; the JSON form of every setting is its TOML form."""
    text = ""
    for name, fields in sections.items():
        text += f"[{name}]\n" + "".join(
            f"{field} = {json.dumps(value)}\n" for field, value in fields.items()
        )
    path.write_text(text)
    return path


def config_of(dialect: Dialect, tied: bool = False) -> ModelConfig:
    """A config that the class of `dialect` can have, with a tensor for every row of the dialect."""
    views = {row.flax.name: row.flax for row in dialect.rows if isinstance(row, Row)}
    if dialect.family:  # it has rows for both kinds of MLP, and for norms that few classes have
        for path in ("blocks/mlp/gate_up/kernel", "embedding_norm/scale"):
            views.pop(path, None)
    ties = any(isinstance(row, Alias) for row in dialect.rows)
    views[HEAD.name] = HEAD
    modern = POSITIONS not in views
    usual = usual_of(dialect.unsaid, list(views.values()), {})
    fields = {"positions": "rotary" if modern else "learned", **usual}
    fields |= {**shown_by(list(views.values())), **dialect.certain}
    fields |= {"positions_stored": False, "tied": tied and ties}
    # With this width, a quarter of each head can rotate in pairs; a class that divides its heads
    # into four groups has four heads.
    cut = any("/" in axis for view in views.values() for dim in view.dims for axis in dim)
    sizes = {**PRIMES, "head_dim": 8, "num_heads": 4 if cut else 5} if modern else PRIMES
    return ModelConfig(**{**fields, **sizes})


def random_params(
    config: ModelConfig | Seq2SeqConfig, dtype: np.dtype, dialect: AnyDialect | None = None
) -> Tree:
    """Parameters of `config` with every element drawn from a normal distribution.

    Where the heads of `dialect` share one matrix, they do so here.
    """
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    params = {path: rng.normal(size=leaf.shape).astype(dtype) for path, leaf in flat.items()}
    for side in sides(dialect, config) if dialect else ():
        rows = filter(shares_by_heads, side.dialect.rows)
        for path in {side.prefix + row.flax.name for row in rows}:
            params[path] = shared_by_heads(params[path])
            if (bias := path.replace("kernel", "bias")) in params:
                params[bias][:] = params[bias][:, :1]
    return unflatten(params)


def shares_by_heads(row: Kind) -> bool:
    """Whether `row` is of a matrix that all heads share, for a part of the input each."""
    return isinstance(row, Row) and row.flax.diagonal


def shared_by_heads(kernel: np.ndarray) -> np.ndarray:
    """The kernel (layer, d, heads, 3, k) in which all heads have the first one's matrix.

    Each applies it to its own part of the input.
    """
    heads = kernel.shape[2]
    part = kernel.shape[1] // heads
    shared = np.zeros_like(kernel)
    for head in range(heads):
        shared[:, head * part : (head + 1) * part, head] = kernel[:, :part, 0]
    return shared


def tensors_of(name: str, tied: bool = False) -> dict[str, np.ndarray]:
    """Random tensors with the names and shapes of a file of the dialect `name`."""
    config = config_of(DIALECTS[name], tied)
    return to_torch(
        DIALECTS[name], config, random_params(config, np.dtype("float32"), DIALECTS[name])
    )


def random_model(dtype: str = "float64", **fields: object) -> GPT:
    """A model with the sizes PRIMES and random values at trained scale in every tensor."""
    return _random(ModelConfig(**{**PRIMES, "dropout": 0.0, **fields}), dtype)  # type: ignore[arg-type]


def random_pair(dtype: str = "float64", **fields: object) -> Seq2Seq:
    """An encoder-decoder with every tensor random at trained scale; `fields` are the decoder's."""
    sizes = {**PRIMES, "vocab_size": 61, "context_length": 13, "num_blocks": 2}
    encoder = ModelConfig(**sizes, dropout=0.0)  # type: ignore[arg-type]
    decoder = ModelConfig(**{**PRIMES, "dropout": 0.0, "cross_attention": True, **fields})  # type: ignore[arg-type]
    return _random(Seq2SeqConfig(encoder, decoder), dtype)


def _random(config: ModelConfig | Seq2SeqConfig, dtype: str) -> Any:
    random = np.random.default_rng(0)

    def leaf(shape: tuple[int, ...]) -> jax.Array:
        scale = shape[-2] ** -0.5 if len(shape) > 2 else 0.3
        return jnp.asarray(random.standard_normal(shape) * scale + (len(shape) == 2), dtype)

    with exactly(jnp.dtype(dtype)):
        model = assemble(
            config, jax.tree.map(lambda like: leaf(like.shape), abstract_params(config))
        )
    assert {leaf.dtype.name for leaf in flatten(params_of(model)).values()} == {dtype}
    return model


def require_close(ours: np.ndarray, theirs: np.ndarray, relative: float) -> None:
    """Require that no element differs by more than `relative` times the largest value of
    `theirs`."""
    difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    assert difference < relative * largest, f"{difference} of {largest}"


def train_bytes(dataset: Dataset) -> int:
    """The number of bytes of text behind the ids for training."""
    _, header = open_tokens(dataset.path / "train.bin")
    text_bytes: int = header["text_bytes"]
    return text_bytes
