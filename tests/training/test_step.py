import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import (
    ComputeConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from jaxgpt.data.windows import TextBatch
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.training.compute import Compute
from jaxgpt.training.losses import token_losses
from jaxgpt.training.step import State, init_state, make_eval_step, make_step

MODEL = ModelConfig(
    vocab_size=23, context_length=11, model_dim=14, num_blocks=2, num_heads=2, dropout=0.0
)
BASE = Config(
    DataConfig("x"),
    RunConfig("x"),
    model=MODEL,
    optim=OptimConfig(warmup_steps=0),
    train=TrainConfig(steps=10, batch_size=8, accumulate=1),
)


def config(**changes: Any) -> Config:
    """BASE with fields of its sections changed, given as section__field."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        sections.setdefault(section, {})[field] = value
    return dataclasses.replace(
        BASE,
        **{
            name: dataclasses.replace(getattr(BASE, name), **fields)
            for name, fields in sections.items()
        },
    )


def ids(seed: int = 0, parts: int = 1) -> jax.Array:
    return jnp.asarray(
        np.random.default_rng(seed).integers(0, 23, (8, 12)).reshape(parts, 8 // parts, 12)
    )


@functools.cache
def compiled(made: Config) -> Any:
    return jax.jit(make_step(made))


@functools.cache
def start(made: Config) -> State:
    return init_state(made)


def run(made: Config, steps: int = 3, parts: int = 1) -> tuple[State, list[float]]:
    step, state, losses = compiled(made), start(made), []
    for i in range(steps):
        state, metrics = step(state, ids(i, parts))
        losses.append(float(metrics.loss))
    return state, losses


def distance(a: Any, b: Any) -> float:
    return max(
        float(jnp.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_accumulating_four_parts_equals_the_whole_batch() -> None:
    whole, losses = run(BASE)
    parts, part_losses = run(config(train__accumulate=4), parts=4)
    assert part_losses == pytest.approx(losses, abs=1e-6)
    # Compared where Adam has not yet divided rounding noise by its own size: on the first moments.
    mu = [
        [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(s.optimizer)
            if ".mu" in jax.tree_util.keystr(path)
        ]
        for s in (whole, parts)
    ]
    assert distance(*mu) < 1e-6


def test_it_memorises_one_batch() -> None:
    made = config(optim__learning_rate=1e-2, optim__schedule="constant")
    step, state = compiled(made), start(made)
    first = last = 0.0
    for i in range(150):
        state, metrics = step(state, ids())
        first, last = (float(metrics.loss) if i == 0 else first), float(metrics.loss)
    assert first == pytest.approx(np.log(23), abs=0.3)
    assert last < 0.2


def test_dropout_differs_between_steps_and_parts() -> None:
    made = config(model__dropout=0.5, optim__learning_rate=1e-12, optim__final_learning_rate=0.0)
    step, state = compiled(made), start(made)
    losses = []
    for _ in range(3):
        state, metrics = step(state, ids())
        losses.append(float(metrics.loss))
    assert len(set(losses)) == 3
    same_parts = jnp.concatenate([ids()[:, :4]] * 2).reshape(2, 4, 12)
    alone = float(step(start(made), same_parts[:1])[1].loss)
    assert float(step(start(made), same_parts)[1].loss) != pytest.approx(alone, abs=1e-4)


def test_bits_depend_on_the_seed_alone() -> None:
    made = config(model__dropout=0.2)
    assert distance(run(made)[0], run(made)[0]) == 0
    assert distance(run(made)[0], run(config(model__dropout=0.2, train__seed=1))[0]) > 0


def test_bfloat16_computes_in_half_precision_and_keeps_float32_masters() -> None:
    state, losses = run(config(compute__dtype="bfloat16"))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert losses == pytest.approx(run(BASE)[1], abs=0.02)
    assert losses != run(BASE)[1]
    text = str(jax.make_jaxpr(make_step(config(compute__dtype="bfloat16")))(state, ids()))
    assert "bf16[8,11,14]" in text


def test_a_cpu_computes_in_float32_and_says_so() -> None:
    made = config(compute__dtype="bfloat16")
    mesh = make_mesh(MeshConfig(data=1), 8, made.model.model_dim, jax.devices()[:1])
    assert "bf16" not in str(
        jax.make_jaxpr(make_step(made, Compute.of(made, mesh)))(start(made), ids())
    )
    choices = dict(Compute.of(made, mesh).choices)
    assert choices["dtype"] == "float32, as bfloat16 takes longer on a CPU"
    assert "dtype" not in dict(Compute.of(BASE, mesh).choices)


def test_ema_follows_the_weights() -> None:
    made = config(optim__ema=0.75)
    step, state = compiled(made), start(made)
    expected = state.params
    for i in range(3):
        state, _ = step(state, ids(i))
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, expected, state.params)
    assert distance(state.ema, expected) < 1e-6
    assert distance(state.ema, state.params) > 1e-4


def test_weights_stored_in_half_precision_are_trained_in_float32() -> None:
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), start(BASE).params)
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(init_state(BASE, halves).params)
    )


def test_unrolling_the_scan_changes_nothing() -> None:
    assert run(config(compute__scan_unroll=2))[1] == pytest.approx(run(BASE)[1], abs=1e-6)


def test_evaluation_sums_only_unmasked_losses() -> None:
    params, batch = start(BASE).params, ids()[0]
    losses = token_losses(MODEL, params, batch, None)
    mask = np.random.default_rng(0).random((8, 11)) < 0.5
    text = TextBatch(batch[:, :-1], batch[:, 1:], mask)
    found = make_eval_step(MODEL, Compute(ComputeConfig()))(params, text)
    assert float(found) == pytest.approx(float(losses[mask].sum()), rel=1e-6)


def test_every_parameter_gets_a_gradient() -> None:
    state, _ = run(BASE, steps=1)
    before = flatten(start(BASE).params)
    assert all(
        np.abs(leaf - before[path]).max() > 0 for path, leaf in flatten(state.params).items()
    )


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_parameters_without_a_gradient_keep_their_bits_and_the_rest_move(decay: str) -> None:
    fields = {
        "positions": "sinusoidal",
        "positions_stored": True,
        "positions_offset": 2,
        "final_norm": "unused",
    }
    # At this rate of the average, a weighted sum of a weight and itself is not always itself.
    made = config(
        **{f"model__{name}": value for name, value in fields.items()},
        optim__decay=decay, optim__weight_decay=0.5, optim__clip_norm=0.1, optim__ema=0.507,
    )  # fmt: skip
    before, (state, _) = flatten(start(made).params), run(made)
    for after in (state.params, state.ema):
        still = {
            path
            for path, leaf in flatten(after).items()
            if leaf.tobytes() == before[path].tobytes()
        }
        assert still == {"pos_embedding/embedding", "final_norm/scale", "final_norm/bias"}


@pytest.mark.parametrize(
    "memory",
    [{"compute__remat": "dots"}, {"compute__remat": "full"}, {"compute__loss_chunks": 11}],
    ids=str,
)
def test_settings_that_save_memory_change_no_number(memory: dict[str, Any]) -> None:
    dropping = {"model__dropout": 0.2}
    (plain, losses), (sparing, other) = run(config(**dropping)), run(config(**dropping, **memory))
    assert other == pytest.approx(losses, abs=1e-6)
    assert distance(plain.params, sparing.params) < 1e-6


def temporaries(**changes: Any) -> int:
    made = config(model__num_blocks=1, model__vocab_size=4096, **changes)
    shape = jax.ShapeDtypeStruct((1, 8, made.model.context_length + 1), jnp.int32)
    like = jax.eval_shape(lambda: init_state(made))
    return (
        jax.jit(make_step(made)).lower(like, shape).compile().memory_analysis().temp_size_in_bytes
    )


def test_logits_of_all_tokens_never_exist_at_once() -> None:
    logits = {length: 8 * length * 4096 * 4 for length in (64, 128)}
    whole = {length: temporaries(model__context_length=length) for length in logits}
    assert all(whole[length] > logits[length] for length in logits)
    chunked = {n: temporaries(model__context_length=n, compute__loss_chunks=n // 8) for n in logits}
    assert all(chunked[length] < logits[length] / 2 for length in logits)
    assert (
        chunked[128] - chunked[64] < (logits[128] - logits[64]) / 4
    )  # the rest of the step grows too


def test_chunks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        UserError, match="loss_chunks 4 does not divide model.context_length 11; these do: 1, 11"
    ):
        config(compute__loss_chunks=4)
