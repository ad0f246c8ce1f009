"""Sebastian Raschka's Gemma 3."""

from dataclasses import replace

from ..rows.fields import MODERN
from ..rows.kinds import norm
from .raschka_llama import LLAMA, SCALE, qk_norms, rows

GEMMA = "blocks.{layer}"

DIALECTS = (
    replace(
        LLAMA,
        name="raschka-gemma3",
        about="Raschka's Gemma3Model",
        rows=rows(
            GEMMA,
            (
                *qk_norms(GEMMA),
                *norm("blocks/norm1", f"{GEMMA}.input_layernorm", "no", SCALE),
                *norm("blocks/out_norm1", f"{GEMMA}.post_attention_layernorm", "no", SCALE),
                *norm("blocks/norm2", f"{GEMMA}.pre_feedforward_layernorm", "no", SCALE),
                *norm("blocks/out_norm2", f"{GEMMA}.post_feedforward_layernorm", "no", SCALE),
                *norm("final_norm", "final_norm", "no", SCALE),
            ),
        ),
        unsaid={
            **MODERN,
            "norm_eps": 1e-6,
            "activation": "gelu_tanh",
            "norm_unit_offset": True,
        },
        beware="its embeddings are multiplied by the root of model_dim, five of six blocks see a "
        "window of 512 and have a rotary_theta of 10000, and the sixth sees all and has 1000000",
    ),
)
