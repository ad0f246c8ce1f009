"""The training step and the evaluation step, as pure functions of arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.config import ComputeConfig, Config, ModelConfig
from jaxgpt.devices.sharding import Gather, on_each, over_rows, replicated, shardings
from jaxgpt.model import GPT, assemble, cast, params_of
from jaxgpt.model.attention import Attend, Memory, causal, keep_nothing
from jaxgpt.model.attention_kernels import FORMS, KERNELS, pick
from jaxgpt.model.block import Block
from jaxgpt.model.linear import PRODUCT
from jaxgpt.pytree import Tree
from jaxgpt.training.optimizer import make_optimizer, make_schedule

# The checkpoint policy for each compute.remat: which forward results the backward pass reuses.
SAVED = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT)}


class State(NamedTuple):
    """The complete state of a run between two steps."""

    step: jax.Array
    params: Tree
    optimizer: optax.OptState
    ema: Tree | None  # the moving average of the weights, where optim.ema asks for one


def evaluated(state: State) -> Tree:
    """The weights to evaluate and to export: their moving average, where there is one."""
    return state.params if state.ema is None else state.ema


def besides_weights(state: State) -> dict[str, Any]:
    """The parts of `state` that a checkpoint stores in addition to `evaluated(state)`."""
    return {
        name: value
        for name, value in state._asdict().items()
        if value is not None and value is not evaluated(state)
    }


class Metrics(NamedTuple):
    """Scalars of one training step; the gradient norm is that before clipping."""

    loss: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array


def init_state(config: Config, params: Tree | None = None) -> State:
    """The state before the first step, with `params` in float32, or else with random weights."""
    params = (
        params_of(GPT(config.model, config.train.seed))
        if params is None
        else cast(params, "float32")
    )
    ema = jax.tree.map(jnp.copy, params) if config.optim.ema else None
    return State(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params), ema)


def jitted_step(config: Config, mesh: Mesh) -> tuple[Any, State]:
    """`make_step` compiled for `mesh`, with the state donated; also the sharding of the state."""
    where = shardings(jax.eval_shape(lambda: init_state(config)), mesh)
    step = jax.jit(
        make_step(config, mesh),
        donate_argnums=0,
        in_shardings=(where, over_rows(mesh, axis=1)),
        out_shardings=(where, replicated(mesh)),
    )
    return step, where


def make_step(
    config: Config, mesh: Mesh | None = None
) -> Callable[[State, jax.Array], tuple[State, Metrics]]:
    """A function (state, ids (A, B, T + 1)) -> (state, metrics).

    It accumulates the gradients of A parts, computed one after the other.
    """
    optimizer, schedule, rate = make_optimizer(config), make_schedule(config), config.optim.ema

    compute = Compute.on(mesh, config.model, config.compute)

    def loss(params: Tree, ids_bt: jax.Array, key: jax.Array) -> jax.Array:
        params = cast(params, config.compute.dtype)
        return token_losses(config.model, params, ids_bt, key, compute).mean()

    def step(state: State, ids_abt: jax.Array) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)

        def add_part(
            sums: tuple[jax.Array, Tree], part: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple, None]:
            ids_bt, i = part
            new = jax.value_and_grad(loss)(state.params, ids_bt, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, sums, new), None

        parts = ids_abt.shape[0]
        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
        sums, _ = jax.lax.scan(add_part, zeros, (ids_abt, jnp.arange(parts)))
        mean_loss, gradients = jax.tree.map(lambda x: x / parts, sums)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # A weighted sum would drift, by rounding, away from weights that do not change.
        ema = state.ema and jax.tree.map(
            lambda old, new: old + (1 - rate) * (new - old), state.ema, params
        )
        metrics = Metrics(mean_loss, optax.tree.norm(gradients), jnp.asarray(schedule(state.step)))
        finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
        return keep_unless(finite, state, State(state.step + 1, params, moments, ema)), metrics

    return step


def keep_unless(finite: jax.Array, old: State, new: State) -> State:
    """`new` where the step was finite, else `old` with the counters of `new`.

    A non-finite loss must not reach the weights, while the schedule continues.
    """
    return jax.tree.map(
        lambda a, b: jnp.where(finite, b, a) if jnp.issubdtype(a.dtype, jnp.floating) else b,
        old,
        new,
    )


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a step is computed: the settings of `[compute]`, a form of attention, the sharding."""

    settings: ComputeConfig
    attend: Attend = causal
    gather: Gather | None = None  # where weights are sharded: each block's are gathered before use
    attention: str = ""  # the form and the reason for it, to print

    @staticmethod
    def on(mesh: Mesh | None, model: ModelConfig, settings: ComputeConfig) -> "Compute":
        """The best way to compute `model` on the devices of `mesh`."""
        if mesh is None:
            return Compute(settings)
        name, why = pick(model, settings, mesh.devices.flat[0])
        form = on_each(FORMS[name], mesh) if name in KERNELS else FORMS[name]
        line = f"attention: {name}, {why}"
        return Compute(settings, keep_nothing(form), Gather.on(mesh), line)


def make_eval_step(
    config: ModelConfig, compute: Compute
) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """A function (params, ids (B, T + 1), mask (B, T)) -> the sum of the losses under the mask."""

    def eval_step(params: Tree, ids_bt: jax.Array, mask_bt: jax.Array) -> jax.Array:
        params = cast(params, compute.settings.dtype)
        return jnp.sum(token_losses(config, params, ids_bt, None, compute), where=mask_bt)

    return eval_step


def token_losses(
    config: ModelConfig,
    params: Tree,
    ids_bt: jax.Array,
    dropout_key: jax.Array | None = None,
    compute: Compute | None = None,
) -> jax.Array:
    """The loss (B, T) of every token of `ids_bt` (B, T + 1) given its prefix, except the first."""
    compute = compute or Compute(ComputeConfig())
    model = assemble(config, compute.gather.all_but_blocks(params) if compute.gather else params)
    x_btd = hidden(model, ids_bt[:, :-1], dropout_key, compute)

    def losses(x: jax.Array, targets: jax.Array) -> jax.Array:
        logits = model.read_out(x).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    chunks = compute.settings.loss_chunks
    if chunks == 1:
        return losses(x_btd, ids_bt[:, 1:])
    parts = [jnp.stack(jnp.split(x, chunks, axis=1)) for x in (x_btd, ids_bt[:, 1:])]
    losses_cbt = jax.lax.map(lambda part: jax.checkpoint(losses)(*part), tuple(parts))
    return jnp.concatenate(list(losses_cbt), axis=1)


def hidden(
    model: GPT, tokens_bt: jax.Array, dropout_key: jax.Array | None, compute: Compute
) -> jax.Array:
    """The stream (B, T, D) after the last block."""
    positions = jnp.arange(tokens_bt.shape[1])

    def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
        if compute.gather:
            block, x = compute.gather.block(block), compute.gather.rows(x)
        return block(x, layer, positions, compute.attend, dropout_key)[0], None

    remat = compute.settings.remat
    if remat != "none":
        apply = jax.checkpoint(apply, prevent_cse=False, policy=SAVED[remat])
    return model.run(model.embed(tokens_bt), apply, unroll=compute.settings.scan_unroll)[0]
