"""litgpt's GPT, whose folders have a model_config.yaml."""

from dataclasses import replace

from ..names.litgpt_rows import rows
from ..rows.dialect import Container, Dialect
from ..rows.fields import MODERN, USUAL

PYTHIA = {
    **USUAL,
    "positions": "rotary",
    "rotary_fraction": 0.25,
    "activation": "gelu",
    "residual": "parallel",
}
PLAIN = Dialect(
    name="litgpt",
    about="litgpt's GPT",
    rows=rows("fc", "qkv"),
    words={"glu": ("gate=fc_1 up=fc_2",)},
    unsaid=PYTHIA,
    says={
        "norm_class_name": {"RMSNorm": {"norm_kind": "rms"}, "LayerNorm": {"norm_kind": "layer"}},
        "mlp_class_name": {
            "GptNeoxMLP": {"activation": "gelu"},
            "LLaMAMLP": {"activation": "silu"},
            "GemmaMLP": {"activation": "gelu_tanh"},
        },
        "parallel_residual": {
            True: {"residual": "parallel"},
            False: {"residual": "sequential"},
        },
        "rope_interleave": {
            True: {"rotary_layout": "interleaved"},
            False: {"rotary_layout": "half"},
        },
    },
    grouped=True,
    container=Container("model"),
)
LLAMA = replace(PLAIN, rows=rows("gated", "qkv"), unsaid=MODERN)
DIALECTS = (
    replace(
        PLAIN,
        variants=(
            LLAMA,
            replace(PLAIN, rows=rows("fc", "attn")),
            replace(LLAMA, rows=rows("gated", "attn")),
        ),
    ),
)
