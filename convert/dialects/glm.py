"""Hugging Face's GLM and GLM-4: half of each head rotated, in pairs of neighbours."""

from dataclasses import replace

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import linear, norm
from . import llama

BLOCK = llama.BLOCK
CLASS = {
    **llama.CLASS,
    "norm_eps": 1.5625e-07,
    "rotary_layout": "interleaved",
    "rotary_fraction": 0.5,
}
GLM4 = {**CLASS, "extra_norms": ["sandwich"]}
FUSED = (
    *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.gate_up_proj : (glu f) d", "no"),
    *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.down_proj : d f", "no"),
)
GLM = Dialect(
    name="glm",
    about="Hugging Face's GlmForCausalLM",
    rows=(llama.EMBEDDING, *llama.attention("?"), *FUSED, *llama.norms(), llama.HEAD),
    words=llama.NAMES,
    unsaid=CLASS,
    says=llama.kind("glm", CLASS),
    grouped=True,
    layout="interleaved",
    hub=Hub(
        "GlmForCausalLM",
        llama.WORDS,
        idioms=(Rope(fraction=0.5), Biases("attention_bias", "qkv_bias", usual=True)),
    ),
)

DIALECTS = (
    GLM,
    replace(
        GLM,
        name="glm4",
        about="Hugging Face's Glm4ForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?"),
            *FUSED,
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm", "no"),
            *norm("blocks/out_norm1", f"{BLOCK}.post_self_attn_layernorm", "no"),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm", "no"),
            *norm("blocks/out_norm2", f"{BLOCK}.post_mlp_layernorm", "no"),
            *norm("final_norm", "(model.|)norm", "no"),
            llama.HEAD,
        ),
        unsaid=GLM4,
        says=llama.kind("glm4", GLM4),
        hub=replace(GLM.hub, architecture="Glm4ForCausalLM") if GLM.hub else None,
    ),
)
