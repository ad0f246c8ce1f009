"""Hugging Face's OPT, whose position table has two rows before that of position 0."""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear, norm, row, shifted, tied

BLOCK = "(model.|)decoder.layers.{layer}"
CLASS = {**USUAL, "dropout": 0.1}

DIALECTS = (
    Dialect(
        name="opt",
        about="Hugging Face's OPTForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(model.|)decoder.embed_tokens.weight : v d"),
            shifted(
                "pos_embedding/embedding : p d",
                "(model.|)decoder.embed_positions.weight : p d",
                by=2,
            ),
            *norm("final_norm", "(model.|)decoder.final_layer_norm", absent="?"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.self_attn.{{qkv}} : (head k) d",
                "?",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.self_attn.out_proj : d (head k)", "?"
            ),
            *norm("blocks/norm1", f"{BLOCK}.self_attn_layer_norm"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.fc1 : f d", "?"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.fc2 : d f", "?"),
            *norm("blocks/norm2", f"{BLOCK}.final_layer_norm"),
            tied("lm_head.weight : v d"),
        ),
        words={"qkv": ("k_proj v_proj q_proj",)},
        unsaid=CLASS,
        says={"model_type": {"opt": CLASS}},
        hub=Hub(
            "OPTForCausalLM",
            "vocab_size max_position_embeddings hidden_size num_hidden_layers num_attention_heads "
            "ffn_dim activation_function do_layer_norm_before dropout tie_word_embeddings",
            {"word_embed_proj_dim": "hidden_size", "attention_dropout": "dropout"},
        ),
    ),
)
