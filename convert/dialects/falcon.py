"""Hugging Face's Falcon, in its three layouts of one matrix for queries, keys and values.

All of them are the queries of a key head, its key and its value, for one key head after another:
there is one for all heads, one for each, or in the new architecture one for each group.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxgpt.config import ModelConfig

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import Kind, linear, norm, row, tied
from . import llama

BLOCK = "(transformer.|)h.{layer}"
CLASS = {
    **USUAL,
    "positions": "rotary",
    "activation": "gelu",
    "residual": "parallel_one_norm",
}
ALIBI = "rounds its ALiBi biases to bfloat16 and divides them with the scores"


@dataclass(frozen=True)
class Architecture:
    """The key heads, and the order of attention and MLP with their norms."""

    words: tuple[str, ...] = (
        "new_decoder_architecture", "multi_query", "num_kv_heads", "parallel_attn",
        "num_ln_in_parallel_attn",
    )  # fmt: skip

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        heads = fields.get("num_heads")
        stated = {"num_kv_heads": config.get("num_kv_heads") or heads}
        if config.get("new_decoder_architecture"):
            two = config.get("num_ln_in_parallel_attn") in (None, 2)
            return {**stated, "residual": "parallel" if two else "parallel_one_norm"}
        if config.get("multi_query", True):
            stated = {"num_kv_heads": 1}
        parallel = config.get("parallel_attn", True)
        return {**stated, "residual": "parallel_one_norm" if parallel else "sequential"}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        grouped = config.num_kv_heads not in (1, config.num_heads)
        parallel = config.residual != "sequential"
        new = config.residual == "parallel" or (parallel and grouped)
        return {
            "new_decoder_architecture": new,
            "multi_query": config.num_kv_heads == 1,
            "num_kv_heads": config.num_kv_heads if new else config.num_heads,
            "parallel_attn": parallel,
            "num_ln_in_parallel_attn": (2 if config.residual == "parallel" else 1) if new else None,
        }


def rows(norm1: str, norm2: str, absent: str) -> tuple[Kind, ...]:
    return (
        row("token_embedding/embedding : v d", "(transformer.|)word_embeddings.weight : v d"),
        *linear(
            "blocks/attn/qkv : layer d head qkv k",
            f"{BLOCK}.self_attention.query_key_value : (head qkv k) d",
            "?",
        ),
        *linear(
            "blocks/attn/out : layer head k d", f"{BLOCK}.self_attention.dense : d (head k)", "?"
        ),
        *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.dense_h_to_4h : f d", "?"),
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.dense_4h_to_h : d f", "?"),
        *norm("blocks/norm1", f"{BLOCK}.{norm1}"),
        *norm("blocks/norm2", f"{BLOCK}.{norm2}", absent=absent),
        *norm("final_norm", "(transformer.|)ln_f"),
        tied("lm_head.weight : v d"),
    )


FALCON = Dialect(
    name="falcon",
    about="Hugging Face's FalconForCausalLM",
    rows=rows("input_layernorm", "post_attention_layernorm", absent="?"),
    unsaid={**CLASS, "residual": "sequential"},  # with a second norm; without one it is shown
    says=llama.kind("falcon", CLASS, ties=True),
    grouped=True,
    layout="half",
    hub=Hub(
        "FalconForCausalLM",
        f"{llama.SIZES} ffn_hidden_size activation layer_norm_epsilon",
        {"hidden_dropout": "attention_dropout"},
        idioms=(Architecture(), Rope(), Biases("bias", "qkv_bias attention_out_bias mlp_bias")),
        refused={"alibi": ALIBI},
    ),
)
DIALECTS = (
    FALCON,
    replace(
        FALCON,
        name="falcon-40b",
        about="Hugging Face's FalconForCausalLM with a norm each for attention and MLP",
        rows=rows("ln_attn", "ln_mlp", absent=""),
        unsaid={**CLASS, "residual": "parallel"},
    ),
)
