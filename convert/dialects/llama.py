"""Hugging Face's Llama, and the classes with its tensor names: Mistral, Qwen2, Qwen3, SmolLM3."""

from dataclasses import replace
from typing import Any

from ..names.idioms import Biases, Window
from ..names.rope_idioms import NoRope, Rope
from ..rows.dialect import Dialect
from ..rows.fields import MODERN
from ..rows.hub import Hub
from ..rows.kinds import Kind, ignored, linear, norm, row, tied

BLOCK = "(model.|)layers.{layer}"
NAMES = {"qkv": ("q_proj k_proj v_proj",), "glu": ("gate_proj up_proj",)}
SIZES = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings "
    "attention_dropout tie_word_embeddings"
)
WORDS = f"{SIZES} num_key_value_heads head_dim intermediate_size hidden_act rms_norm_eps"
CLASS = {**MODERN, "norm_eps": 1e-6}
EMBEDDING = row("token_embedding/embedding : v d", "(model.|)embed_tokens.weight : v d")
HEAD = tied("lm_head.weight : v d")
ATTENTION_BIAS = Biases("attention_bias", "qkv_bias attention_out_bias")


def attention(bias: str = "no", out_bias: str = "no", out: str = "o_proj") -> tuple[Kind, ...]:
    """The rows of attention with a matrix each for queries, keys and values."""
    return (
        *linear(
            "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.self_attn.{{qkv}} : (head k) d", bias
        ),
        *linear(
            "blocks/attn/out : layer head k d",
            f"{BLOCK}.self_attn.{out} : d (head k)",
            out_bias,
        ),
    )


def head_norms(absent: str = "", words: str = "q_norm k_norm") -> tuple[Kind, ...]:
    """The rows of the norms of each head of queries and of keys."""
    return tuple(
        row(f"blocks/attn/{flax}/scale : layer k", f"{BLOCK}.self_attn.{torch}.weight{absent} : k")
        for flax, torch in zip(("q_norm", "k_norm"), words.split(), strict=True)
    )


def gated(bias: str = "no") -> tuple[Kind, ...]:
    """The rows of a gated MLP of three matrices."""
    return (
        *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.{{glu}} : f d", bias),
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.down_proj : d f", bias),
    )


def norms(bias: str = "no") -> tuple[Kind, ...]:
    """The rows of the two norms of a block and the final one."""
    return (
        *norm("blocks/norm1", f"{BLOCK}.input_layernorm", bias),
        *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm", bias),
        *norm("final_norm", "(model.|)norm", bias),
    )


def kind(name: str, usual: dict[str, Any], ties: bool = False) -> dict[str, Any]:
    """The fields that the model_type `name` implies: the `usual` ones, and a head that `ties`."""
    return {"model_type": {name: {**usual, "tied": ties}}}


LLAMA = Dialect(
    name="llama",
    about="Hugging Face's LlamaForCausalLM",
    rows=(
        EMBEDDING,
        *attention("?", "?"),
        *head_norms("?"),
        ignored(f"{BLOCK}.self_attn.rotary_emb.inv_freq"),
        *gated("?"),
        *norms(),
        HEAD,
    ),
    words=NAMES,
    unsaid=CLASS,
    says=kind("llama", CLASS),
    grouped=True,
    layout="half",
    hub=Hub(
        "LlamaForCausalLM",
        WORDS,
        idioms=(Rope(), ATTENTION_BIAS, Biases("mlp_bias", "mlp_bias")),
        even=True,
    ),
)
PLAIN = (EMBEDDING, *attention(), *gated(), *norms(), HEAD)
QWEN3 = {**CLASS, "qk_norm": "before_rotary"}
WINDOW = Window(4096, "after", switch=True)
SMOLLM3 = {**CLASS, "rotary_theta": 2e6}

DIALECTS = (
    LLAMA,
    replace(
        LLAMA,
        name="mistral",
        about="Hugging Face's MistralForCausalLM",
        rows=PLAIN,
        says=kind("mistral", CLASS),
        hub=Hub("MistralForCausalLM", WORDS, idioms=(Rope(), Window(4096))),
        twin="llama",
    ),
    replace(
        LLAMA,
        name="qwen2",
        about="Hugging Face's Qwen2ForCausalLM",
        rows=(EMBEDDING, *attention(""), *gated(), *norms(), HEAD),
        says=kind("qwen2", CLASS),
        hub=Hub("Qwen2ForCausalLM", WORDS, idioms=(Rope(), WINDOW)),
        twin="llama",
        told_by=frozenset({"only qkv biased"}),
    ),
    replace(
        LLAMA,
        name="qwen3",
        about="Hugging Face's Qwen3ForCausalLM",
        rows=(EMBEDDING, *attention("?", "?"), *head_norms(), *gated(), *norms(), HEAD),
        unsaid=QWEN3,
        says=kind("qwen3", QWEN3),
        hub=Hub("Qwen3ForCausalLM", WORDS, idioms=(Rope(), WINDOW, ATTENTION_BIAS)),
        twin="llama",
    ),
    replace(
        LLAMA,
        name="smollm3",
        about="Hugging Face's SmolLM3ForCausalLM",
        rows=(EMBEDDING, *attention("?", "?"), *gated("?"), *norms(), HEAD),
        unsaid=SMOLLM3,
        says=kind("smollm3", SMOLLM3, ties=True),
        hub=Hub(
            "SmolLM3ForCausalLM",
            WORDS,
            idioms=(
                Rope(2e6),
                NoRope(4),
                Window(None, "unrotated", switch=True),
                ATTENTION_BIAS,
                Biases("mlp_bias", "mlp_bias"),
            ),
        ),
        twin="llama",
    ),
)
