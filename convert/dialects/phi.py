"""Hugging Face's Phi: attention and MLP beside each other after one norm, a head with a bias."""

from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear, norm, row
from . import llama

BLOCK = llama.BLOCK
CLASS = {
    **USUAL,
    "positions": "rotary",
    "activation": "gelu_tanh",
    "residual": "parallel_one_norm",
    "rotary_fraction": 0.5,
}

DIALECTS = (
    Dialect(
        name="phi",
        about="Hugging Face's PhiForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("", "", "dense"),
            *(
                row(
                    f"blocks/attn/{norm}/{flax} : layer k",
                    f"{BLOCK}.self_attn.{torch}.{part}? : k",
                )
                for norm, torch in (("q_norm", "q_layernorm"), ("k_norm", "k_layernorm"))
                for flax, part in (("scale", "weight"), ("bias", "bias"))
            ),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.fc1 : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.fc2 : d f"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm"),
            *norm("final_norm", "(model.|)final_layernorm"),
            llama.HEAD,
            row("head/bias : v", "lm_head.bias : v"),
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says={
            **llama.kind("phi", CLASS),
            "qk_layernorm": {
                False: {"qk_norm": "none"},
                True: {"qk_norm": "before_rotary"},
            },
        },
        grouped=True,
        layout="half",
        hub=Hub(
            "PhiForCausalLM",
            f"{llama.SIZES} num_key_value_heads intermediate_size hidden_act layer_norm_eps "
            "qk_layernorm",
            {"resid_pdrop": "attention_dropout", "embd_pdrop": "attention_dropout"},
            idioms=(Rope(fraction=0.5),),
        ),
    ),
)
