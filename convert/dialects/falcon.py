"""Hugging Face's Falcon, in its three layouts of one matrix for queries, keys and values.

All of them are the queries of a key head, its key and its value, for one key head after another:
there is one for all heads, one for each, or in the new architecture one for each group.
"""

from dataclasses import replace

from ..names.class_idioms import FalconArchitecture
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
        idioms=(
            FalconArchitecture(),
            Rope(),
            Biases("bias", "qkv_bias attention_out_bias mlp_bias"),
        ),
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
