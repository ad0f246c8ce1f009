"""Hugging Face's GPT-NeoX, the class of Pythia: one matrix with q, k and v of each head in turn."""

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import ignored, linear, norm, row, tied
from . import llama

BLOCK = "(gpt_neox.|)layers.{layer}"
ROTARY = {"positions": "rotary", "rotary_fraction": 0.25}
CLASS = {**USUAL, **ROTARY, "activation": "gelu", "residual": "parallel"}
BUFFERS = [
    ignored(f"{BLOCK}.attention.{name}") for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
]

DIALECTS = (
    Dialect(
        name="gpt-neox",
        about="Hugging Face's GPTNeoXForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(gpt_neox.|)embed_in.weight : v d"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm"),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm"),
            *BUFFERS,
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.attention.query_key_value : (head qkv k) d",
                "?",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.attention.dense : d (head k)", "?"
            ),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.dense_h_to_4h : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.dense_4h_to_h : d f"),
            *norm("final_norm", "(gpt_neox.|)final_layer_norm"),
            tied("(embed_out|lm_head).weight : v d"),
        ),
        unsaid=CLASS,
        says={
            **llama.kind("gpt_neox", CLASS),
            "use_parallel_residual": {
                True: {"residual": "parallel"},
                False: {"residual": "sequential"},
            },
        },
        layout="half",
        hub=Hub(
            "GPTNeoXForCausalLM",
            f"{llama.SIZES} intermediate_size hidden_act layer_norm_eps use_parallel_residual",
            {"hidden_dropout": "attention_dropout"},
            idioms=(
                Rope(fraction=0.25, theta_word="rotary_emb_base", fraction_word="rotary_pct"),
                Biases("attention_bias", "qkv_bias attention_out_bias", usual=True),
            ),
            even=True,
        ),
    ),
)
