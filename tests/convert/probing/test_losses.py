"""The resizable form computes the same function for every config, and each part changes the loss."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from convert.probing import losses as program
from convert.probing.losses import altered_losses, losses, with_separate_parts
from convert.probing.parts import GREATLY, QUERIES
from jaxgpt.model import params_of
from jaxgpt.training.losses import token_losses
from tests.helpers import CONFIGS, PRIMES, random_model

WINDOWS = np.random.default_rng(0).integers(0, PRIMES["vocab_size"], (8, 13)).astype(np.int32)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_by_parts_are_those_of_the_model(name: str) -> None:
    model = random_model("float32", **CONFIGS[name])
    params = params_of(model)
    direct = token_losses(model.config, params, jnp.asarray(WINDOWS), None).mean(axis=1)
    assert np.abs(losses(model.config, params, WINDOWS) - direct).max() < 1e-5 * direct.max()
    separate = with_separate_parts(model.config, params, 12)
    assert not separate.config.tied
    altered = altered_losses(model.config, params, WINDOWS, GREATLY)
    assert len(altered) == 2 * len(separate.parts)
    unchanged = [change for change, values in altered.items() if np.array_equal(values, direct)]
    assert not unchanged


def test_a_scale_of_queries_survives_their_norm() -> None:
    model = random_model("float32", **CONFIGS["olmo"])
    params, config = params_of(model), model.config
    wider = losses(dataclasses.replace(config, attention_scale=2 * 4**-0.5), params, WINDOWS)
    doubled = altered_losses(config, params, WINDOWS, {"doubled": 2.0}, [QUERIES])
    assert np.abs(doubled[f"{QUERIES} doubled"] - wider).max() < 1e-5
    assert np.abs(losses(config, params, WINDOWS) - wider).max() > 1e-3


def test_one_program_serves_all_scales_and_bounds() -> None:
    model = random_model("float32", attention_softcap=5.0, logit_softcap=3.0)
    params = params_of(model)
    first = losses(model.config, params, WINDOWS)
    programs = program._window_losses._cache_size()
    for change in (
        {"attention_scale": "none", "attention_scale_by_layer": True},
        {"embedding_scale": 3.0},
        {"logit_scale": 0.5},
        {"attention_softcap": 0.5, "logit_softcap": 1.5},
        {"norm_unit_offset": True},
        {"final_norm": "unused"},
        {"rotary_layout": "interleaved"},
    ):
        config = dataclasses.replace(model.config, **change)
        direct = token_losses(config, params, jnp.asarray(WINDOWS), None).mean(axis=1)
        ours = losses(config, params, WINDOWS)
        assert np.abs(ours - direct).max() < 1e-4
        assert "rotary_layout" in change or np.abs(ours - first).max() > 1e-3
    assert program._window_losses._cache_size() == programs
