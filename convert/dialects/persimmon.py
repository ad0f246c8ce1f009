"""Hugging Face's Persimmon: q, k and v of each head in turn, with norms; a squared ReLU."""

from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear, norm, row
from . import llama

BLOCK = llama.BLOCK
ROTARY = {"positions": "rotary", "rotary_fraction": 0.5, "qk_norm": "before_rotary"}
CLASS = {**USUAL, **ROTARY, "activation": "relu2"}

DIALECTS = (
    Dialect(
        name="persimmon",
        about="Hugging Face's PersimmonForCausalLM",
        rows=(
            llama.EMBEDDING,
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.self_attn.query_key_value : (head qkv k) d",
            ),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.self_attn.dense : d (head k)"),
            *(
                row(
                    f"blocks/attn/{each}_norm/{flax} : layer k",
                    f"{BLOCK}.self_attn.{each}_layernorm.{torch}? : k",
                )
                for each in "qk"
                for flax, torch in (("scale", "weight"), ("bias", "bias"))
            ),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.dense_h_to_4h : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.dense_4h_to_h : d f"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm"),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm"),
            *norm("final_norm", "(model.|)final_layernorm"),
            llama.HEAD,
        ),
        unsaid=CLASS,
        says={
            **llama.kind("persimmon", CLASS),
            "qk_layernorm": {
                True: {"qk_norm": "before_rotary"},
                False: {"qk_norm": "none"},
            },
        },
        layout="half",
        hub=Hub(
            "PersimmonForCausalLM",
            f"{llama.SIZES} intermediate_size hidden_act layer_norm_eps qk_layernorm",
            {"hidden_dropout": "attention_dropout"},
            idioms=(Rope(fraction=0.5),),
        ),
    ),
)
