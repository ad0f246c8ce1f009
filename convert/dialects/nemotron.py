"""Hugging Face's Nemotron: LayerNorm with 1 + weight, a squared ReLU, half of each head rotated."""

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear
from . import llama

CLASS = {
    **USUAL,
    "positions": "rotary",
    "activation": "relu2",
    "norm_unit_offset": True,
    "rotary_fraction": 0.5,
}

DIALECTS = (
    Dialect(
        name="nemotron",
        about="Hugging Face's NemotronForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?", "?"),
            *linear("blocks/mlp/up : layer d f", f"{llama.BLOCK}.mlp.up_proj : f d", "?"),
            *linear("blocks/mlp/down : layer f d", f"{llama.BLOCK}.mlp.down_proj : d f", "?"),
            *llama.norms(""),
            llama.HEAD,
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says=llama.kind("nemotron", CLASS),
        grouped=True,
        layout="half",
        hub=Hub(
            "NemotronForCausalLM",
            llama.WORDS.replace("rms_norm_eps", "norm_eps"),
            idioms=(
                Rope(fraction=0.5),
                llama.ATTENTION_BIAS,
                Biases("mlp_bias", "mlp_bias"),
            ),
        ),
    ),
)
