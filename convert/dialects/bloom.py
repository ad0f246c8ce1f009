"""Hugging Face's BLOOM: ALiBi, a norm after the embedding, q, k and v of each head in turn."""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear, norm, row, tied
from . import llama

BLOCK = "(transformer.|)h.{layer}"
CLASS = {
    **USUAL,
    "positions": "alibi",
    "activation": "gelu_tanh",
    "extra_norms": ["embedding"],
}

DIALECTS = (
    Dialect(
        name="bloom",
        about="Hugging Face's BloomForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(transformer.|)word_embeddings.weight : v d"),
            *norm("embedding_norm", "(transformer.|)word_embeddings_layernorm"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.self_attention.query_key_value : (head qkv k) d",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.self_attention.dense : d (head k)"
            ),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.dense_h_to_4h : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.dense_4h_to_h : d f"),
            *norm("final_norm", "(transformer.|)ln_f"),
            tied("lm_head.weight : v d"),
        ),
        unsaid=CLASS,
        says={
            **llama.kind("bloom", CLASS, ties=True),
            "apply_residual_connection_post_layernorm": {
                False: {"norm": "pre"},
                True: {"norm": "residual"},
            },
        },
        hub=Hub(
            "BloomForCausalLM",
            "vocab_size hidden_size n_layer n_head layer_norm_epsilon hidden_dropout "
            "apply_residual_connection_post_layernorm tie_word_embeddings",
            {"attention_dropout": "hidden_dropout"},
        ),
    ),
)
