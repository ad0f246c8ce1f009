"""Names from other people's classes are recognised, and written back unchanged."""

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.pytree import flatten  # noqa: E402
from jaxgpt.seq2seq_config import Seq2SeqConfig  # noqa: E402
from tests.convert.test_layouts import FIELDS, params_of, require_there_and_back  # noqa: E402

Renames = tuple[tuple[str, str], ...]
# Family, and each part of its names with what another class calls it.
DECODERS: dict[str, tuple[str, Renames]] = {
    "pairs of modules in a list": (
        "fused",
        (
            (r"blocks\.(\d+)\.attn\.qkv", r"layers.\1.0.to_qkv"), (r"blocks\.(\d+)\.attn\.proj", r"layers.\1.0.to_out"),
            (r"blocks\.(\d+)\.ln1", r"layers.\1.0.norm"), (r"blocks\.(\d+)\.ln2", r"layers.\1.1.0"),
            (r"blocks\.(\d+)\.ff\.net\.0", r"layers.\1.1.1"), (r"blocks\.(\d+)\.ff\.net\.2", r"layers.\1.1.4"),
            ("ln_f", "norm"), ("^head", "to_logits"),
        ),
    ),
    "norms around modules in a list": (
        "fused",
        (
            (r"blocks\.(\d+)\.attn\.qkv", r"transformer.layers.\1.0.fn.to_qkv"),
            (r"blocks\.(\d+)\.attn\.proj", r"transformer.layers.\1.0.fn.to_out.0"),
            (r"blocks\.(\d+)\.ln1", r"transformer.layers.\1.0.norm"),
            (r"blocks\.(\d+)\.ln2", r"transformer.layers.\1.1.norm"),
            (r"blocks\.(\d+)\.ff\.net\.0", r"transformer.layers.\1.1.fn.net.0"),
            (r"blocks\.(\d+)\.ff\.net\.2", r"transformer.layers.\1.1.fn.net.3"),
            ("ln_f", "to_logits.0"), ("^head", "to_logits.1"),
        ),
    ),
    "a module for both embeddings": (
        "separate",
        (
            ("^token_embedding", "embeddings.tok_embed"), ("^position_embedding", "embeddings.pos_embed"),
            ("blocks", "dec_layers"), (r"\.attn\.", ".masked_attn."),
        ),
    ),
    "linear_net": (
        "fused",
        (
            ("blocks", "layers"), (r"\.attn\.qkv", ".self_attn.qkv_proj"), (r"\.attn\.proj", ".self_attn.o_proj"),
            (r"ff\.net\.0", "linear_net.0"), (r"ff\.net\.2", "linear_net.3"), ("ln1", "norm1"), ("ln2", "norm2"),
        ),
    ),
}  # fmt: skip
PAIRS: dict[str, Renames] = {
    "a block in a block": (
        (r"encoder(.*)\.self_attn\.", r"encoder\1.attention."), (r"decoder(.*)\.self_attn\.", r"decoder\1.attention."),
        (r"\.cross_attn\.", ".transformer_block.attention."), (r"\.query\.", ".queries."), (r"\.key\.", ".keys."),
        (r"\.value\.", ".values."), (r"\.out_proj\.", ".fc_out."), (r"encoder(.*)ffn\.up", r"encoder\1feed_forward.0"),
        (r"encoder(.*)ffn\.down", r"encoder\1feed_forward.2"),
        (r"decoder(.*)ffn\.up", r"decoder\1transformer_block.feed_forward.0"),
        (r"decoder(.*)ffn\.down", r"decoder\1transformer_block.feed_forward.2"),
        (r"decoder(.*)\.norm1", r"decoder\1.norm"), (r"decoder(.*)\.norm2", r"decoder\1.transformer_block.norm1"),
        (r"\.norm3", ".transformer_block.norm2"), (r"coder\.embedding", "coder.word_embedding"),
        (r"\.pos_embedding", ".position_embedding"), ("^generator", "decoder.fc_out"),
    ),
    "a module around each matrix": (
        (r"\.(query|key|value)\.", r".\1.linear."), (r"\.out_proj\.", ".output."), (r"\.cross_attn\.", ".src_attn."),
        (r"ffn\.up", "feed_forward.layer1"), (r"ffn\.down", "feed_forward.layer2"), (r"\.norm1", ".norm_self_attn"),
        (r"encoder(.*)\.norm2", r"encoder\1.norm_ff"), (r"\.norm2", ".norm_src_attn"), (r"\.norm3", ".norm_ff"),
        (r"encoder\.embedding", "src_embed.linear"), (r"decoder\.embedding", "tgt_embed.linear"),
        (r"encoder\.pos_embedding\.weight", "src_embed.positional_encodings"),
        (r"decoder\.pos_embedding\.weight", "tgt_embed.positional_encodings"), ("^generator", "generator.projection"),
    ),
    "lists beside one another": (
        (r"^(en|de)coder\.layers", r"\1c_layers"), (r"^(en|de)coder\.norm", r"\1c_norm"), (r"\.query\.", ".w_q."),
        (r"\.key\.", ".w_k."), (r"\.value\.", ".w_v."), (r"\.out_proj\.", ".w_o."),
        (r"encoder\.(pos_)?embedding", r"src_\1emb"), (r"decoder\.(pos_)?embedding", r"tgt_\1emb"),
        ("^generator", "fc_out"),
    ),
}  # fmt: skip


def renamed(tensors: dict[str, Any], renames: Renames) -> dict[str, Any]:
    result = {}
    for name, value in tensors.items():
        new = name
        for old, word in renames:
            new = re.sub(old, word, new)
        result[new] = value
    assert len(result) == len(tensors)
    return result


@pytest.mark.parametrize("name", DECODERS)
def test_names_of_decoders(name: str) -> None:
    family, renames = DECODERS[name]
    config = ModelConfig(**FIELDS)
    params = params_of(config)
    state = renamed(convert.to_torch(params, config, family), renames)
    assert require_there_and_back(state, params, num_heads=4).dialect.name == family


@pytest.mark.parametrize("name", PAIRS)
def test_names_of_encoder_decoders(name: str) -> None:
    side = {**FIELDS, "final_norm": name != "a block in a block"}
    config = Seq2SeqConfig(ModelConfig(**side), ModelConfig(**side, cross_attention=True))
    params = params_of(config)
    state = renamed(convert.to_torch(params, config, "pair-separate"), PAIRS[name])
    state = {
        key: value[:, None] if key.endswith("positional_encodings") else value
        for key, value in state.items()
    }
    loaded = require_there_and_back(state, params, num_heads=4)
    assert loaded.dialect.name == "pair-separate"


NORMS: dict[str, dict[str, Any]] = {
    "after the parts as well": {"extra_norms": ["sandwich"]},
    "after the parts": {"norm": "output"},
    "after the embeddings": {"extra_norms": ["embedding"]},
}


@pytest.mark.parametrize("qk_norm", ["none", "full_width"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_norms_of_modern_decoders(name: str, gated: bool, qk_norm: str) -> None:
    fields = {
        **NORMS[name],
        "norm_kind": "rms",
        "norm_bias": False,
        "mlp_gated": gated,
        "qk_norm": qk_norm,
    }
    config = ModelConfig(**FIELDS, **fields)  # fmt: skip
    params = params_of(config)
    state = convert.to_torch(params, config, "separate")
    if name == "after the parts":  # the words of norms that only such classes have
        state = renamed(state, ((r"\.ln1\.", ".post_attn_norm."), (r"\.ln2\.", ".post_ffn_norm.")))
    loaded = require_there_and_back(state, params, num_heads=4)
    assert loaded.dialect.name == "separate"
    expected = ["embedding"] if name == "after the embeddings" else fields.get("extra_norms", [])
    assert loaded.config.extra_norms == expected
    assert loaded.config.norm == fields.get("norm", "pre")
    assert flatten(loaded.params).keys() == flatten(params).keys()
