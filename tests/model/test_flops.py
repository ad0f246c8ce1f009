from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import ComputeConfig, Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.model import abstract_params, flops
from jaxgpt.pytree import flatten
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import init_state, make_step
from tests.helpers import CONFIGS, PRIMES


def test_gpt2s_count_is_the_commonly_quoted_one() -> None:
    """6 for each weight that multiplies (124 million less positions, norms and biases), 12 for each attention score."""
    config = ModelConfig(50257, 1024, 768, 12, 12, tied=True)
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert flops.per_token(config) == 6 * weights + 12 * 12 * 768 * 1024
    assert flops.per_token(config) == pytest.approx(8.6e8, rel=0.01)


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_matrices_are_counted_but_not_tables_and_norms(fields: dict[str, Any]) -> None:
    config = ModelConfig(**{**PRIMES, **fields})
    weights = flatten(abstract_params(config))
    multiplied = [leaf for path, leaf in weights.items() if path.endswith("kernel")]
    multiplied += [weights["token_embedding/embedding"]] if config.tied else []
    seen = sum(window or config.context_length for window in config.by_layer("window"))
    scores = config.num_heads * config.head_dim * seen
    assert flops.per_token(config) == 6 * sum(leaf.size for leaf in multiplied) + 12 * scores


def counted(
    attention: str, fields: dict[str, Any] | None = None, **compute: Any
) -> tuple[int, Config]:
    """The traced operations of a step of two parts with two rows each, and its config."""
    model = ModelConfig(**{**PRIMES, **(fields or {}), "context_length": 128})
    about = TrainConfig(batch_size=4, accumulate=2, steps=200)
    how = ComputeConfig(attention=attention, **compute)
    config = Config(DataConfig("-"), RunConfig("-"), model=model, train=about, compute=how)
    state, ids = (
        jax.eval_shape(lambda: init_state(config)),
        jax.ShapeDtypeStruct((2, 2, 129), np.int32),
    )
    mesh = make_mesh(config.mesh, 2, 35, jax.devices()[:1])
    step = make_step(config, Compute.of(config, mesh))
    return flops.of_program(jax.make_jaxpr(step)(state, ids).jaxpr), config


def test_a_traced_step_has_the_count_of_the_formula() -> None:
    found, config = counted("xla")
    assert found == 4 * 128 * flops.per_token(config.model)


@pytest.mark.parametrize("name", ["llama", "neox", "olmo", "bloom, one norm"])
def test_groups_gates_and_parallel_parts_count_in_a_traced_step(name: str) -> None:
    found, config = counted("xla", CONFIGS[name])
    assert found == 4 * 128 * flops.per_token(config.model)


def test_keys_before_a_window_are_not_counted() -> None:
    """With a window of 32, the second of two blocks of 64 queries needs 95 of 128 keys."""
    (whole, config), (found, _) = counted("chunked"), counted("chunked", {"window": 32})
    assert whole - found == 4 * 12 * config.model.num_blocks * 35 * 64 * (128 - 95)
    assert counted("chunked", {"window": [32, None, 32]})[0] == whole  # the longest branch


def test_blocks_above_the_diagonal_are_not_counted() -> None:
    """Two blocks of queries, one of which sees half the keys."""
    (whole, config), (found, _) = counted("xla"), counted("chunked")
    scores = 12 * config.model.num_blocks * 35 * 128
    assert whole - found == 4 * 128 * scores / 4


def test_recomputation_is_counted_again() -> None:
    """The forward pass of the blocks or of the head; with dots kept, only attention."""
    (once, config), c = counted("xla"), PRIMES
    tokens, head = 4 * 128, 2 * 35 * c["vocab_size"]
    blocks = flops.per_token(config.model) / 3 - head
    scores = 4 * c["num_blocks"] * 35 * 128
    # Of a block, its last product need not be made again: nothing is computed from it.
    last = 2 * c["num_blocks"] * 35 * 4 * 35
    assert counted("xla", remat="full")[0] - once == tokens * (blocks - last)
    assert tokens * scores / 2 <= counted("xla", remat="dots")[0] - once <= tokens * scores
    assert counted("xla", loss_chunks=4)[0] - once == tokens * head
