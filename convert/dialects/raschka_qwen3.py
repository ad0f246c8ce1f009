"""Sebastian Raschka's Qwen3 and Gemma 3, whose norms have a `scale`."""

from dataclasses import replace

from ..rows.fields import MODERN
from ..rows.kinds import Row, norm, row
from .raschka_llama import BLOCK, LLAMA, plain_norms, rows

GEMMA, SCALE = "blocks.{layer}", "scale shift"


def qk_norms(block: str) -> tuple[Row, ...]:
    """The rows of the norms of each head's queries and keys."""
    return (
        row("blocks/attn/q_norm/scale : layer k", f"{block}.att.q_norm.scale? : k"),
        row("blocks/attn/k_norm/scale : layer k", f"{block}.att.k_norm.scale? : k"),
    )


DIALECTS = (
    replace(
        LLAMA,
        name="raschka-qwen3",
        about="Raschka's Qwen3Model",
        rows=rows(BLOCK, (*qk_norms(BLOCK), *plain_norms(BLOCK, SCALE))),
        unsaid={**MODERN, "rotary_theta": 1000000.0, "norm_eps": 1e-6},
        beware="",
    ),
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
