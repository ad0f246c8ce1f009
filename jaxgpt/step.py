"""One training step and one evaluation step, as pure functions of arrays. Knows no loop, no file, no clock."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.attention import FORMS, KERNELS, Attend, chunked, pick
from jaxgpt.config import Config, ModelConfig, TrainConfig
from jaxgpt.model import GPT, assemble, params_of
from jaxgpt.optim import make_optimizer, make_schedule
from jaxgpt.sharding import Layout, on_each, over_rows, replicated, shardings
from jaxgpt.tree import Tree


class State(NamedTuple):
    """All that a run is, between two steps."""

    step: jax.Array
    params: Tree
    optimizer: optax.OptState
    ema: Tree | None  # the average of the weights, where one is kept


def evaluated(state: State) -> Tree:
    """The weights that count: their average, where one is kept."""
    return state.params if state.ema is None else state.ema


def besides_weights(state: State) -> dict[str, Any]:
    """What a checkpoint needs beside `evaluated(state)`."""
    return {
        name: value for name, value in state._asdict().items() if value is not None and value is not evaluated(state)
    }


class Metrics(NamedTuple):
    loss: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array


def init_state(config: Config, params: Tree | None = None) -> State:
    """From random weights, or from those given; in float32, whatever they were stored in."""
    params = params_of(GPT(config.model, config.train.seed)) if params is None else cast(params, "float32")
    ema = jax.tree.map(jnp.copy, params) if config.optim.ema else None
    return State(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params), ema)


def jitted_step(config: Config, mesh: Mesh) -> tuple[Any, State]:
    """`make_step` for a mesh, the state donated; and how that state lies."""
    where = shardings(jax.eval_shape(lambda: init_state(config)), mesh)
    step = jax.jit(
        make_step(config, mesh),
        donate_argnums=0,
        in_shardings=(where, over_rows(mesh, axis=1)),
        out_shardings=(where, replicated(mesh)),
    )
    return step, where


def make_step(config: Config, mesh: Mesh | None = None) -> Callable[[State, jax.Array], tuple[State, Metrics]]:
    """A function (state, ids (A, B, T + 1)) -> (state, metrics); A parts are computed one after the other."""
    optimizer, schedule, rate = make_optimizer(config), make_schedule(config), config.optim.ema

    def loss(params: Tree, ids_bt: jax.Array, key: jax.Array) -> jax.Array:
        computed = cast(params, config.train.compute_dtype)
        return token_losses(config.model, computed, ids_bt, key, config.train, mesh).mean()

    def step(state: State, ids_abt: jax.Array) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)

        def add_part(sums: tuple[jax.Array, Tree], part: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
            ids_bt, i = part
            new = jax.value_and_grad(loss)(state.params, ids_bt, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, sums, new), None

        parts = ids_abt.shape[0]
        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
        sums, _ = jax.lax.scan(add_part, zeros, (ids_abt, jnp.arange(parts)))
        mean_loss, gradients = jax.tree.map(lambda x: x / parts, sums)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # As a weighted sum it would drift, by rounding, from weights that stay as they are.
        ema = state.ema and jax.tree.map(lambda old, new: old + (1 - rate) * (new - old), state.ema, params)
        metrics = Metrics(mean_loss, optax.tree.norm(gradients), jnp.asarray(schedule(state.step)))
        finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
        return keep_unless(finite, state, State(state.step + 1, params, moments, ema)), metrics

    return step


def keep_unless(finite: jax.Array, old: State, new: State) -> State:
    """A loss that is no number must not reach the weights; counters go on, so that the schedule does too."""
    return jax.tree.map(lambda a, b: jnp.where(finite, b, a) if jnp.issubdtype(a.dtype, jnp.floating) else b, old, new)


def make_eval_step(
    config: ModelConfig, train: TrainConfig, mesh: Mesh | None = None
) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """A function (params, ids (B, T + 1), mask (B, T)) -> the sum of the losses where the mask is set."""

    def eval_step(params: Tree, ids_bt: jax.Array, mask_bt: jax.Array) -> jax.Array:
        computed = cast(params, train.compute_dtype)
        return jnp.sum(token_losses(config, computed, ids_bt, None, train, mesh), where=mask_bt)

    return eval_step


def token_losses(
    config: ModelConfig,
    params: Tree,
    ids_bt: jax.Array,
    key: jax.Array | None = None,
    train: TrainConfig | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """(B, T); with several chunks, logits of so many parts of the context never exist at once."""
    train = train or TrainConfig()
    layout, attend = (Layout.of(mesh), attention(config, train, mesh)[0]) if mesh else (None, chunked)
    model = assemble(config, layout.gathered(params) if layout else params)
    before = {"before": layout.before_block} if layout else {}
    x_btd = model.hidden(ids_bt[:, :-1], key, train.scan_unroll, train.remat, attend, **before)

    def losses(x: jax.Array, targets: jax.Array) -> jax.Array:
        logits = model.read_out(x).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    if train.loss_chunks == 1:
        return losses(x_btd, ids_bt[:, 1:])
    parts = (jnp.stack(jnp.split(whole, train.loss_chunks, axis=1)) for whole in (x_btd, ids_bt[:, 1:]))
    losses_cbt = jax.lax.map(lambda part: jax.checkpoint(losses)(*part), tuple(parts))
    return jnp.concatenate(list(losses_cbt), axis=1)


def attention(config: ModelConfig, train: TrainConfig, mesh: Mesh) -> tuple[Attend, str]:
    """The form that suits the devices of a mesh, and a line that says so."""
    form, why = pick(config, mesh.devices.flat[0], train.compute_dtype)
    return on_each(FORMS[form], mesh) if form in KERNELS else FORMS[form], f"attention: {form}, {why}"


def cast(params: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype), params)
