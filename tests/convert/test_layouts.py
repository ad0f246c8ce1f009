"""The ways in which queries, keys and values are stored: one model in each, and back bit for bit."""

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.model import abstract_params  # noqa: E402
from jaxgpt.pytree import Tree, flatten, unflatten  # noqa: E402
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig  # noqa: E402

WORDS = ("query", "key", "value")
# Way -> the module in which each of q, k and v is stored.
WAYS = {
    "separate": dict(zip(WORDS, WORDS, strict=True)),
    "one": dict.fromkeys(WORDS, "qkv"),
    "two": {"query": "q_proj", "key": "kv", "value": "kv"},
}
FIELDS: dict[str, Any] = {
    "vocab_size": 19, "context_length": 11, "model_dim": 24, "num_blocks": 2, "num_heads": 4, "mlp_dim": 20,
    "dropout": 0.0, "qkv_bias": True,
}  # fmt: skip


def params_of(config: AnyConfig) -> Tree:
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    return unflatten(
        {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in flat.items()}
    )


def stored(tensors: dict[str, Any], way: str, module: str = "") -> dict[str, Any]:
    """`tensors` with the queries, keys and values in modules called `module` stored in `way`."""
    regrouped: dict[str, list[Any]] = {}
    for name, value in tensors.items():
        part = re.fullmatch(rf"(.*\.?{module}.*)\.(query|key|value)\.(weight|bias)", name)
        if part:
            name = f"{part[1]}.{WAYS[way][part[2]]}.{part[3]}"
        regrouped.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in regrouped.items()}


def require_there_and_back(state: dict[str, Any], params: Tree, **given: Any) -> convert.Loaded:
    loaded = convert.to_flax(state, **given)
    ours = flatten(loaded.params)
    for path, value in flatten(params).items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    return loaded


@pytest.mark.parametrize("qk_norm", ["none", "before_rotary", "full_width"])
@pytest.mark.parametrize("way", WAYS)
def test_decoders_store_grouped_queries_in_each_way(way: str, qk_norm: str) -> None:
    config = ModelConfig(**FIELDS, num_kv_heads=2, qk_norm=qk_norm)
    params = params_of(config)
    state = stored(convert.to_torch(params, config, "separate"), way)
    loaded = require_there_and_back(state, params, num_heads=4)
    assert loaded.dialect.name == ("separate" if way == "separate" else "fused")
    assert loaded.config.num_kv_heads == 2
    assert loaded.config.qk_norm == qk_norm


@pytest.mark.parametrize("way", WAYS)
def test_modules_for_each_head_store_theirs_in_each_way(way: str) -> None:
    config = ModelConfig(**FIELDS)
    params = params_of(config)
    state = stored(convert.to_torch(params, config, "heads"), way)
    assert require_there_and_back(state, params).dialect.name == "heads"


@pytest.mark.parametrize("qk_norm", ["none", "full_width"])
@pytest.mark.parametrize("across", WAYS)
@pytest.mark.parametrize("own", WAYS)
def test_encoder_decoders_store_those_of_self_and_cross_attention_in_each_way(
    own: str, across: str, qk_norm: str
) -> None:
    side = {**FIELDS, "qk_norm": qk_norm}
    config = Seq2SeqConfig(ModelConfig(**side), ModelConfig(**side, cross_attention=True))
    params = params_of(config)
    tensors = convert.to_torch(params, config, "pair-separate")
    state = stored(stored(tensors, own, "self_attn"), across, "cross_attn")
    loaded = require_there_and_back(state, params, num_heads=4)
    assert loaded.dialect.name == ("pair-separate" if own == "separate" else "pair-fused")
    assert (loaded.config.encoder.qk_norm, loaded.config.decoder.qk_norm) == (qk_norm, qk_norm)


def test_the_order_of_a_file_does_not_reorder_what_one_matrix_holds() -> None:
    """Keys are listed first where they have a matrix of their own; that says nothing of others."""
    config = Seq2SeqConfig(ModelConfig(**FIELDS), ModelConfig(**FIELDS, cross_attention=True))
    params = params_of(config)
    tensors = convert.to_torch(params, config, "pair-separate")
    state = stored(stored(tensors, "one", "self_attn"), "separate", "cross_attn")
    keys_first = sorted(state, key=lambda name: ".cross_attn.key." not in name)
    require_there_and_back({name: state[name] for name in keys_first}, params, num_heads=4)


def test_part_of_a_pair_of_matrices_is_refused() -> None:
    config = ModelConfig(**FIELDS)
    state = stored(convert.to_torch(params_of(config), config, "separate"), "two")
    lacking = {name: value for name, value in state.items() if ".kv." not in name}
    with pytest.raises(UserError, match="is missing"):
        convert.to_flax(lacking, num_heads=4)
