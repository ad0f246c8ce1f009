"""Hugging Face's Arcee and Jais 2: Llamas whose MLP is a squared ReLU without a gate."""

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import Kind, linear
from . import llama

ARCEE = {**llama.CLASS, "activation": "relu2", "norm_eps": 1e-5}
JAIS2 = {**ARCEE, "norm_kind": "layer"}


def rows(norm_bias: str) -> tuple[Kind, ...]:
    """The rows of both classes; the norms of Jais 2 have biases."""
    return (
        llama.EMBEDDING,
        *llama.attention("?", "?"),
        *linear("blocks/mlp/up : layer d f", f"{llama.BLOCK}.mlp.up_proj : f d", "?"),
        *linear("blocks/mlp/down : layer f d", f"{llama.BLOCK}.mlp.down_proj : d f", "?"),
        *llama.norms(norm_bias),
        llama.HEAD,
    )


DIALECTS = (
    Dialect(
        name="arcee",
        about="Hugging Face's ArceeForCausalLM",
        rows=rows("no"),
        words=llama.NAMES,
        unsaid=ARCEE,
        says=llama.kind("arcee", ARCEE),
        grouped=True,
        layout="half",
        hub=Hub(
            "ArceeForCausalLM",
            llama.WORDS,
            idioms=(Rope(), llama.ATTENTION_BIAS, Biases("mlp_bias", "mlp_bias")),
        ),
    ),
    Dialect(
        name="jais2",
        about="Hugging Face's Jais2ForCausalLM",
        rows=rows(""),
        words=llama.NAMES,
        unsaid=JAIS2,
        says=llama.kind("jais2", JAIS2),
        twin="nemotron",
        grouped=True,
        layout="half",
        hub=Hub(
            "Jais2ForCausalLM",
            llama.WORDS.replace("rms_norm_eps", "layer_norm_eps"),
            idioms=(
                Rope(),
                Biases("attention_bias", "qkv_bias attention_out_bias", usual=True),
                Biases("mlp_bias", "mlp_bias", usual=True),
            ),
        ),
    ),
)
