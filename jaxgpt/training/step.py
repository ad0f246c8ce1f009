"""The training step and the evaluation step, as pure functions of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.config import Config, ModelConfig
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.data.windows import TextBatch
from jaxgpt.devices.sharding import over_rows, replicated, shardings
from jaxgpt.model import build, cast, lora, params_of
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.training.compute import Compute
from jaxgpt.training.losses import cross_entropy, pair_logits, token_losses
from jaxgpt.training.optimizer import make_optimizer, make_schedule

MASKED = (PairBatch, TextBatch)  # batches with a mask of the targets that count


class State(NamedTuple):
    """The complete state of a run between two steps."""

    step: jax.Array
    params: Tree
    optimizer: optax.OptState
    ema: Tree | None  # the moving average of the weights, if optim.ema is set
    base: Tree | None = None  # the frozen base, if `params` are adapters


def weights_to_evaluate(state: State) -> Tree:
    """The weights to evaluate and to store: the moving average, if there is one."""
    return state.params if state.ema is None else state.ema


def besides_weights(state: State) -> dict[str, Any]:
    """The parts of `state` that a checkpoint stores in addition to `weights_to_evaluate(state)`."""
    return {
        name: value
        for name, value in state._asdict().items()
        if name != "base" and value is not None and value is not weights_to_evaluate(state)
    }


class Metrics(NamedTuple):
    """Scalars of one training step; the gradient norm is that before clipping."""

    loss: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array


def init_state(config: Config, params: Tree | None = None) -> State:
    """The state before the first step, with `params` in float32, or random weights without
    `params`.

    With train.lora_rank, `params` are the base, and the adapters are trained.
    """
    params = (
        params_of(build(config.architecture, config.train.seed))
        if params is None
        else cast(params, "float32")
    )
    base = None
    if rank := config.train.lora_rank:
        base, params = params, lora.init(params, rank, config.train.seed)
    ema = jax.tree.map(jnp.copy, params) if config.optim.ema else None
    return State(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params), ema, base)


def jitted_step(config: Config, mesh: Mesh, compute: Compute) -> tuple[Any, State]:
    """`make_step` compiled for `mesh`, with the state donated; also the sharding of the state."""
    state_shardings = shardings(jax.eval_shape(lambda: init_state(config)), mesh)
    step = jax.jit(
        make_step(config, compute),
        donate_argnums=0,
        in_shardings=(state_shardings, over_rows(mesh, axis=1)),  # of every array of a batch
        out_shardings=(state_shardings, replicated(mesh)),
    )
    return step, state_shardings


def make_step(
    config: Config, compute: Compute | None = None
) -> Callable[[State, Any], tuple[State, Metrics]]:
    """A function (state, batch) -> (state, metrics).

    A batch is ids (A, B, T + 1), or a TextBatch or PairBatch. The first axis of its arrays is that
    of A parts, whose gradients are computed one after the other and accumulated.
    """
    optimizer, schedule, rate = make_optimizer(config), make_schedule(config), config.optim.ema
    compute, smoothing = compute or Compute(config.compute), config.optim.label_smoothing

    def loss(params: Tree, base: Tree | None, part: Any, key: jax.Array) -> jax.Array:
        if base is not None:
            params = lora.merge(base, params, config.train.lora_scale)
        params = cast(params, compute.settings.dtype)
        model = config.architecture
        if isinstance(model, Seq2SeqConfig):
            logits_btv = pair_logits(model, params, part, key, compute)
            losses_bt = cross_entropy(logits_btv, jnp.asarray(part.targets_bt), smoothing)
        else:
            losses_bt = token_losses(model, params, part, key, compute, smoothing)
        if not isinstance(part, MASKED):
            return losses_bt.mean()
        return jnp.sum(losses_bt, where=jnp.asarray(part.target_mask_bt))

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)

        def add_part(
            sums: tuple[jax.Array, Tree], part: tuple[Any, jax.Array]
        ) -> tuple[tuple, None]:
            rows, i = part
            part_key = jax.random.fold_in(key, i)
            new = jax.value_and_grad(loss)(state.params, state.base, rows, part_key)
            return jax.tree.map(jnp.add, sums, new), None

        parts = len(jax.tree.leaves(batch)[0])
        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
        sums, _ = jax.lax.scan(add_part, zeros, (batch, jnp.arange(parts)))
        # For a part of ids the loss is the mean, for a part with a mask the sum over its targets.
        count: int | jax.Array = parts
        if isinstance(batch, MASKED):
            # As a float, so that devices add it up together with the gradients, and not before.
            count = jnp.asarray(batch.target_mask_bt).sum(dtype=sums[0].dtype)
        mean_loss, gradients = jax.tree.map(lambda x: x / count, sums)
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # Rounding would make a weighted sum drift away from weights that do not change.
        ema = state.ema and jax.tree.map(
            lambda old, new: old + (1 - rate) * (new - old), state.ema, params
        )
        metrics = Metrics(mean_loss, optax.tree.norm(gradients), jnp.asarray(schedule(state.step)))
        finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
        new = State(state.step + 1, params, moments, ema, state.base)
        return keep_unless(finite, state, new), metrics

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


def make_eval_step(config: ModelConfig, compute: Compute) -> Callable[[Tree, TextBatch], jax.Array]:
    """A function (params, batch) -> the sum of the losses of the targets that count."""

    def eval_step(params: Tree, batch: TextBatch) -> jax.Array:
        params = cast(params, compute.settings.dtype)
        losses_bt = token_losses(config, params, batch, None, compute)
        return jnp.sum(losses_bt, where=jnp.asarray(batch.target_mask_bt))

    return eval_step


def make_pair_eval_step(
    config: Seq2SeqConfig, compute: Compute
) -> Callable[[Tree, PairBatch], tuple[jax.Array, jax.Array]]:
    """A function (params, batch) -> the sum of its losses, and how many targets are exactly right.

    A target is exactly right if each of its tokens is the most likely one after those before it,
    so that greedy decoding produces it.
    """

    def eval_step(params: Tree, batch: PairBatch) -> tuple[jax.Array, jax.Array]:
        params = cast(params, compute.settings.dtype)
        logits_btv = pair_logits(config, params, batch, None, compute)
        mask_bt, targets_bt = jnp.asarray(batch.target_mask_bt), jnp.asarray(batch.targets_bt)
        right_b = ((logits_btv.argmax(axis=-1) == targets_bt) | ~mask_bt).all(axis=1)
        return (
            jnp.sum(cross_entropy(logits_btv, targets_bt), where=mask_bt),
            (right_b & mask_bt.any(axis=1)).sum(),
        )

    return eval_step
