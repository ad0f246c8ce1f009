"""The losses of a model on windows of text, and with one of its parts made larger or smaller."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.config import ModelConfig
from jaxgpt.model import assemble, exactly
from jaxgpt.model.attention import Attend
from jaxgpt.model.attention_forms import plain
from jaxgpt.model.block import Block
from jaxgpt.model.positions import sinusoids
from jaxgpt.model.spec import Scores, make_spec
from jaxgpt.pytree import Tree, flatten, unflatten

from .parts import GREATLY, SLIGHTLY, Part, parts_of

NUMBERS = 2**26  # elements of the largest array


class Numbers(NamedTuple):
    """Numbers that are arguments of the compiled program, so that it serves all their values."""

    scales_l: np.ndarray  # the factor of the scores in each layer
    has_final_norm: np.ndarray  # whether the final norm is applied
    stretch: np.float32  # the factor of all distances in rotary positions or ALiBi
    attention_softcap: float | None
    logit_softcap: float | None


class Resizable(NamedTuple):
    """A model in a form whose parts can be resized one by one, without another compilation."""

    config: ModelConfig
    params: Tree
    numbers: Numbers

    def rescaled(self, part: Part, factor: float) -> "Resizable":
        """The model with `part` times `factor`."""
        if part.number:
            changed = getattr(self.numbers, part.number) * np.float32(factor)
            return self._replace(numbers=self.numbers._replace(**{part.number: changed}))
        scaled = {
            name: leaf * factor if name.startswith(part.leaves) else leaf
            for name, leaf in flatten(self.params).items()
        }
        return self._replace(params=unflatten(scaled))

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that this model has, by name."""
        names = flatten(self.params)
        return {
            name: part
            for name, part in parts_of(self.config).items()
            if part.number or any(leaf.startswith(part.leaves) for leaf in names)
        }


def losses(config: ModelConfig, params: Tree, windows: np.ndarray) -> np.ndarray:
    """Losses (B,) of the windows."""
    return losses_of(with_separate_parts(config, params, windows.shape[1] - 1), windows)


def losses_of(model: Resizable, windows: np.ndarray) -> np.ndarray:
    """Losses (B,) of the windows."""
    with exactly(np.dtype(np.float32)):
        return np.asarray(_window_losses(*model, windows), np.float64)


def altered_losses(
    config: ModelConfig,
    params: Tree,
    windows: np.ndarray,
    factors: Mapping[str, float] = SLIGHTLY | GREATLY,
    names: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Losses with one of the parts in `names`, or of all, times a factor, by that change's name."""
    model = with_separate_parts(config, params, windows.shape[1] - 1)
    return {
        f"{name} {change}": losses_of(model.rescaled(part, factor), windows)
        for name, part in model.parts.items()
        if names is None or name in names
        for change, factor in factors.items()
    }


def with_separate_parts(config: ModelConfig, params: Tree, length: int) -> Resizable:
    """The same function with scales folded into the parameters or passed as numbers.

    A tied head and unstored sinusoids become arrays of their own.
    """
    embedding = jnp.asarray(params["token_embedding"]["embedding"])
    head = {"kernel": embedding.T, **params.get("head", {})}
    parted = {
        **params,
        "token_embedding": {"embedding": embedding * config.embedding_scale},
        "head": {name: leaf * config.logit_scale for name, leaf in head.items()},
    }
    if config.norm_unit_offset:
        parted = _with_unit_offset(parted)
    if config.positions == "sinusoidal" and not config.position_rows:
        table = sinusoids(length, config.model_dim, config.sinusoidal_layout).astype(np.float32)
        parted["pos_embedding"] = {"embedding": table}
    return Resizable(_without_numbers(config, length), parted, _numbers(config))


def _without_numbers(config: ModelConfig, length: int) -> ModelConfig:
    """`config` without what `with_separate_parts` makes parameters and numbers of."""
    table: dict[str, Any] = {}
    if config.positions == "sinusoidal" and not config.position_rows:
        table = {"positions": "learned", "context_length": length}
    return dataclasses.replace(
        config,
        attention_scale="head_dim",
        attention_scale_by_layer=False,
        attention_softcap=None,
        logit_softcap=None,
        embedding_scale=1.0,
        logit_scale=1.0,
        norm_unit_offset=False,
        final_norm=bool(config.final_norm),
        tied=False,
        rotary_layout="half",  # concerns only the file, and has no effect here
        sinusoidal_layout="half",  # concerns only a table that is now stored
        **table,
    )


def _with_unit_offset(params: Tree) -> Tree:
    """The same function with norms that multiply by their scale, without adding 1 to it."""
    flat = flatten(params)
    return unflatten(
        {name: leaf + 1 if name.endswith("/scale") else leaf for name, leaf in flat.items()}
    )


def _numbers(config: ModelConfig) -> Numbers:
    attention, layers = make_spec(config).block.attention, np.arange(config.num_blocks)
    return Numbers(
        scales_l=np.broadcast_to(attention.scale_of(layers), layers.shape).astype(np.float32),
        has_final_norm=np.asarray(config.final_norm is True),
        stretch=np.float32(1),
        attention_softcap=config.attention_softcap,
        logit_softcap=config.logit_softcap,
    )


@functools.partial(jax.jit, static_argnums=0)
def _window_losses(
    config: ModelConfig, params: Tree, numbers: Numbers, ids_bt: jax.Array
) -> jax.Array:
    length = ids_bt.shape[1] - 1
    most = NUMBERS // (length * max(config.vocab_size, config.num_heads * length, config.mlp_dim))
    rows = 1 << (max(1, min(len(ids_bt), most)).bit_length() - 1)
    return jax.lax.map(
        lambda ids: _token_losses(config, params, numbers, ids[None]).mean(),
        ids_bt,
        batch_size=rows,
    )


def _token_losses(
    config: ModelConfig, params: Tree, numbers: Numbers, ids_bt: jax.Array
) -> jax.Array:
    model = assemble(config, params)
    positions = jnp.arange(ids_bt.shape[1] - 1) * numbers.stretch

    def apply(block: Block, layer: jax.Array, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        return block(x, layer, positions, _attend(numbers, layer))[0], None

    x_btd, _ = model.run(model.embed(ids_bt[:, :-1]), apply)
    x_btd = jnp.where(numbers.has_final_norm, model.normalise(x_btd), x_btd)
    logits = model.head(x_btd, model.token_embedding.embedding[...]).astype(jnp.float32)
    if numbers.logit_softcap is not None:
        logits = numbers.logit_softcap * jnp.tanh(logits / numbers.logit_softcap)
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids_bt[:, 1:])


def _attend(numbers: Numbers, layer: jax.Array) -> Attend:
    """The function that computes attention in `layer` with these `numbers`.

    The scale multiplies queries after their norm and rotation, because a norm of queries would undo
    a scale of the parameters.
    """

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, _: Any, scores: Scores) -> Any:
        slopes: Any = scores.slopes
        if slopes is not None:
            slopes = jnp.asarray(slopes) * numbers.stretch
        scores = dataclasses.replace(scores, softcap=numbers.attention_softcap, slopes=slopes)
        return plain(q, k, v, numbers.scales_l[layer], scores), None

    return attend
