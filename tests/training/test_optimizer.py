import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from jaxgpt.training.optimizer import decay_mask, make_optimizer, make_schedule


def config(steps: int = 1000, **optim: object) -> Config:
    return Config(
        DataConfig("x"), RunConfig("x"), optim=OptimConfig(**optim), train=TrainConfig(steps=steps)
    )


def test_cosine_is_nanogpts() -> None:
    made = make_schedule(
        config(2000, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=100)
    )
    for step in (0, 1, 50, 99, 100, 101, 1000, 1999):
        if step < 100:
            expected = 1e-3 * (step + 1) / 101
        else:
            expected = 1e-4 + 0.5 * (1 + np.cos(np.pi * (step - 100) / 1900)) * 9e-4
        assert float(made(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_other_schedules(schedule: str, middle: float, end: float) -> None:
    made = make_schedule(
        config(100, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=0, schedule=schedule)
    )
    assert [float(made(step)) for step in (0, 50, 100)] == pytest.approx([1.0, middle, end])


def test_matrices_are_recognised_by_name_not_by_axes() -> None:
    params = abstract_params(ModelConfig(vocab_size=11, qkv_bias=True))
    matrices = {path for path, yes in flatten(decay_mask(config(), params)).items() if yes}
    assert all(path.endswith(("kernel", "embedding")) for path in matrices)
    assert len(matrices) == 7  # queries, keys and values lie in one
    assert all(jax.tree.leaves(decay_mask(config(decay="all"), params)))


@pytest.mark.parametrize(("decay", "moved"), [("matrices", False), ("all", True)])
def test_weight_decay_reaches_the_configured_parameters(decay: str, moved: bool) -> None:
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(3)}
    optimizer = make_optimizer(
        config(learning_rate=0.5, warmup_steps=0, weight_decay=0.2, decay=decay)
    )
    zeros = {name: jnp.zeros(3) for name in params}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    assert float(after["kernel"][0]) == pytest.approx(0.9)
    assert float(after["bias"][0]) == pytest.approx(0.9 if moved else 1.0)


def test_clipping_bounds_the_gradient_and_zero_turns_it_off() -> None:
    params = {"kernel": jnp.zeros(4)}
    large = {"kernel": jnp.full(4, 1e6)}
    for clip, first_moment in ((1.0, 0.05), (0.0, 1e5)):
        optimizer = make_optimizer(config(clip_norm=clip))
        _, state = optimizer.update(large, optimizer.init(params), params)
        found = optax.tree.get_all_with_path(state, "mu")
        assert float(found[0][1]["kernel"][0]) == pytest.approx(first_moment)
