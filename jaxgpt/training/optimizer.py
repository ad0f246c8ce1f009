"""AdamW with its schedule, as optax. Knows the names of parameters, and no model."""

import functools

import jax
import numpy as np
import optax

from jaxgpt.config import Config, ModelConfig
from jaxgpt.pytree import Tree
from jaxgpt.storage.model_directory import Moments

DECAYED = {  # by the last part of their paths
    "matrices": ("kernel", "embedding"),
    "kernels": ("kernel",),
    "all": ("kernel", "embedding", "scale", "bias"),
}


def make_optimizer(config: Config) -> optax.GradientTransformation:
    o = config.optim
    adamw = optax.adamw(
        make_schedule(config),
        b1=o.beta1,
        b2=o.beta2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        mask=functools.partial(decayed, config),
    )
    # The state has one structure, clipped or not, all decayed or not: a run can go on with the other.
    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity(), adamw
    )


def make_schedule(config: Config) -> optax.Schedule:
    """Learning rate of step 0, 1, ...: never zero, so that no step is wasted."""
    o, steps = config.optim, config.train.steps
    down = {
        "cosine": optax.cosine_decay_schedule(
            o.learning_rate, steps - o.warmup_steps, o.final_learning_rate / o.learning_rate
        ),
        "linear": optax.linear_schedule(
            o.learning_rate, o.final_learning_rate, steps - o.warmup_steps
        ),
        "constant": optax.constant_schedule(o.learning_rate),
    }[o.schedule]
    up = optax.linear_schedule(
        o.learning_rate / (o.warmup_steps + 1), o.learning_rate, o.warmup_steps
    )
    return optax.join_schedules([up, down], [o.warmup_steps])


def decayed(config: Config, params: Tree) -> Tree:
    """By name: layers are stacked, so that a bias has two axes as well."""
    left_alone, leaves = without_gradient(config.model), DECAYED[config.optim.decay]

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return path[0].key not in left_alone and path[-1].key in leaves

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def without_gradient(model: ModelConfig) -> set[str]:
    """Decay alone would change them; torch's AdamW passes over them."""
    held = {"final_norm": model.final_norm == "unused", "pos_embedding": model.positions_stored}
    return {name for name, still in held.items() if still}


def going_on(state: optax.OptState, moments: Moments) -> optax.OptState:
    """A fresh state of `make_optimizer`, as if it had made these updates."""

    def like(old: Tree, new: Tree) -> Tree:
        return jax.tree.map(lambda a, b: np.asarray(b, a.dtype), old, new)

    def with_moments(part: optax.OptState) -> optax.OptState:
        match part:
            case optax.ScaleByAdamState(_, mu, nu):
                return optax.ScaleByAdamState(
                    np.int32(moments.updates), like(mu, moments.mu), like(nu, moments.nu)
                )
            case optax.ScaleByScheduleState():
                return optax.ScaleByScheduleState(np.int32(moments.step))
        return part

    return jax.tree.map(with_moments, state, is_leaf=lambda part: hasattr(part, "_fields"))


def moments_of(state: optax.OptState, step: int) -> Moments:
    found = optax.tree.get(state, "ScaleByAdamState")
    return Moments(step, int(found.count), found.mu, found.nu)
