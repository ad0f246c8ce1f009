"""The first state of a run: random, from another model, or from the run's own checkpoint."""

import jax
import jax.numpy as jnp

from jaxgpt.config import Config
from jaxgpt.devices.sharding import replicated, shardings
from jaxgpt.errors import require
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.storage.weights import Adapted
from jaxgpt.training.job import Job
from jaxgpt.training.optimizer import with_moments
from jaxgpt.training.step import State, besides_weights, init_state


def first_state(job: Job, mesh: jax.sharding.Mesh) -> State:
    """The state before the next step of `job`; each device computes or reads its own part."""
    config, source = job.config, job.source
    state_shardings = shardings(jax.eval_shape(lambda: init_state(config)), mesh)
    if source is None:
        return jax.jit(lambda: init_state(config), out_shardings=state_shardings)()
    state = _read(job, source, state_shardings)
    require(
        bool(jax.jit(all_finite, out_shardings=replicated(mesh))(state)),
        f"{source.path} has weights, or moments of its optimiser, that are NaN or infinite, and "
        "training cannot repair these. Take an earlier checkpoint.",
    )
    return state


def all_finite(state: State) -> jax.Array:
    """Whether all numbers of `state` are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def _read(job: Job, source: ModelDirectory, state_shardings: State) -> State:
    """The state of `job`, read from `source`: another model, or the run's own checkpoint."""
    config = job.config
    like = jax.eval_shape(lambda: init_state(config))
    if not job.resumed:
        weights = source.sharded_params(state_shardings.base or state_shardings.params)
        state = jax.jit(lambda params: init_state(config, params), out_shardings=state_shardings)(
            weights
        )
        if config.run.go_on:
            return jax.device_put(_with_optimizer_of(source, state, config), state_shardings)
        return state
    base = None
    if isinstance(source.weights, Adapted) and state_shardings.base is not None:
        base = source.weights.base.sharded(state_shardings.base)
    weights = source.stored.sharded(state_shardings.params)
    averaged = bool(source.about.get("optim", {}).get("ema"))
    require(
        averaged == bool(config.optim.ema),
        f"optim.ema is {config.optim.ema}, but {source.path} was saved "
        f"{'with' if averaged else 'without'} an average of the weights. Set it as it was, or "
        f"begin another run with --init {source.path}.",
    )
    rest = source.state(besides_weights(like), besides_weights(state_shardings))
    ema = weights if averaged else None
    return State(**{"params": weights, "ema": ema, "base": base, **rest})


def _with_optimizer_of(source: ModelDirectory, state: State, config: Config) -> State:
    """`state` with the step and the optimiser moments that are stored in `source`."""
    moments = source.moments()
    require(
        moments is not None,
        f"--run.go_on: {source.path} has no optimiser to resume: leave it out to begin at step 0.",
    )
    assert moments is not None
    require(
        not source.about.get("optim", {}).get("ema"),
        f"--run.go_on: {source.path} holds an average of the weights, and not those that its "
        "optimiser changed. Resume its own run, or leave --run.go_on out.",
    )
    require(
        moments.step < config.train.steps,
        f"--run.go_on: {source.path} has had {moments.step} steps, and train.steps, which counts "
        f"all of them, is {config.train.steps}. Set --train.steps to more than {moments.step}.",
    )
    optimizer = with_moments(state.optimizer, moments)
    return state._replace(step=jnp.int32(moments.step), optimizer=optimizer)
