"""The optimiser and its learning-rate schedule in optax; parameters that decay are chosen by
name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.config import Config, ModelConfig
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.storage.model_directory import Moments
from jaxgpt.training.muon import with_muon

DECAYED = {  # optim.decay -> the last parts of the paths of parameters that decay
    "matrices": ("kernel", "embedding"),
    "kernels": ("kernel",),
    "all": ("kernel", "embedding", "scale", "bias"),
}


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimiser that `config.optim` describes, after gradient clipping."""
    o, schedule = config.optim, make_schedule(config)
    rule = optax.adamw(
        schedule,
        b1=o.beta1,
        b2=o.beta2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        mask=functools.partial(decay_mask, config),
    )
    if o.name == "muon":
        rule = with_muon(rule, o, schedule)
    # The structure of the state does not depend on clipping or decay, so a run can resume with
    # others.
    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity(), rule
    )


def make_schedule(config: Config) -> optax.Schedule:
    """The learning rate of step 0, 1, ...; never zero, so that no step is wasted."""
    o, steps = config.optim, config.train.steps
    warm = max(o.warmup_steps, 1)
    down = {
        "cosine": optax.cosine_decay_schedule(
            o.learning_rate, steps - o.warmup_steps, o.final_learning_rate / o.learning_rate
        ),
        "linear": optax.linear_schedule(
            o.learning_rate, o.final_learning_rate, steps - o.warmup_steps
        ),
        "constant": optax.constant_schedule(o.learning_rate),
        "inverse_sqrt": lambda count: (
            o.learning_rate * jnp.sqrt(warm / (warm + jnp.maximum(count, 0)))
        ),
    }[o.schedule]
    up = optax.linear_schedule(
        o.learning_rate / (o.warmup_steps + 1), o.learning_rate, o.warmup_steps
    )
    return optax.join_schedules([up, down], [o.warmup_steps])


def decay_mask(config: Config, params: Tree) -> Tree:
    """Mask of the parameters that decay; by name, because a stacked bias has two axes like a
    matrix."""
    frozen, leaves = without_gradient(config.architecture), DECAYED[config.optim.decay]

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        parts = [part.key for part in path]  # the path of an adapter ends in kernel/a
        return not "/".join(parts).startswith(tuple(frozen)) and any(x in leaves for x in parts)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def without_gradient(model: ModelConfig | Seq2SeqConfig) -> set[str]:
    """The prefixes of the names of parameters that get no gradient.

    They must not decay, as torch's AdamW skips them.
    """
    if isinstance(model, Seq2SeqConfig):
        sides = {"encoder": model.encoder, "decoder": model.decoder}
        return {f"{side}/{name}" for side, one in sides.items() for name in without_gradient(one)}
    frozen = {"final_norm/": model.final_norm == "unused", "pos_embedding/": model.positions_stored}
    return {name for name, is_frozen in frozen.items() if is_frozen}


def with_moments(state: optax.OptState, moments: Moments) -> optax.OptState:
    """The fresh optimiser `state` with the `moments` and their counters filled in."""

    def like(old: Tree, new: Tree) -> Tree:
        return jax.tree.map(lambda a, b: np.asarray(b, a.dtype), old, new)

    def fill(part: optax.OptState) -> optax.OptState:
        match part:
            case optax.ScaleByAdamState(_, mu, nu):
                return optax.ScaleByAdamState(
                    np.int32(moments.updates), like(mu, moments.mu), like(nu, moments.nu)
                )
            case optax.ScaleByScheduleState():
                return optax.ScaleByScheduleState(np.int32(moments.step))
        return part

    return jax.tree.map(fill, state, is_leaf=lambda part: hasattr(part, "_fields"))
