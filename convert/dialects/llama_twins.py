"""Hugging Face's classes with Llama's tensor names, and settings of their own.

Helium and ERNIE 4.5 rotate neighbours, Ministral has windows, Seed-OSS has biases of q, k and v. A
config.json tells them apart.
"""

from dataclasses import replace
from typing import Any

from ..names.idioms import Biases, Window
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from . import llama


def twin(
    model_type: str, biased: str, usual: dict[str, Any], hub: Hub, ties: bool = False
) -> Dialect:
    """The dialect of a class whose files look like Llama's, with the `usual` values of its own.

    `biased` names the layers that may have biases: qkv, out, mlp.
    """
    usual = {**llama.CLASS, "norm_eps": 1e-5, **usual}
    qkv, out, mlp = ("?" if layer in biased.split() else "no" for layer in ("qkv", "out", "mlp"))
    return replace(
        llama.LLAMA,
        name=model_type.replace("_", "-"),
        about=f"Hugging Face's {hub.architecture}",
        rows=(
            llama.EMBEDDING,
            *llama.attention(qkv, out),
            *llama.gated(mlp),
            *llama.norms(),
            llama.HEAD,
        ),
        unsaid=usual,
        says=llama.kind(model_type, usual, ties),
        layout=usual["rotary_layout"],
        hub=hub,
        twin="llama",
    )


INTERLEAVED = {"rotary_layout": "interleaved"}
QKV_BIAS, MLP_BIAS = Biases("attention_bias", "qkv_bias"), Biases("mlp_bias", "mlp_bias")

DIALECTS = (
    twin(
        "helium",
        "qkv mlp",
        {**INTERLEAVED, "norm_eps": 1e-8, "rotary_theta": 1e5},
        Hub("HeliumForCausalLM", llama.WORDS, idioms=(Rope(1e5), QKV_BIAS, MLP_BIAS), even=True),
    ),
    twin(
        "ernie4_5",
        "qkv out mlp",
        {**INTERLEAVED, "rotary_theta": 500000.0},
        Hub(
            "Ernie4_5ForCausalLM",
            llama.WORDS,
            idioms=(Rope(500000.0), Biases("use_bias", "qkv_bias attention_out_bias mlp_bias")),
        ),
        ties=True,
    ),
    twin(
        "ministral",
        "",
        {"norm_eps": 1e-6},
        Hub("MinistralForCausalLM", llama.WORDS, idioms=(Rope(), Window(4096, "listed"))),
    ),
    twin(
        "seed_oss",
        "qkv out mlp",
        {"norm_eps": 1e-6},
        Hub(
            "SeedOssForCausalLM",
            llama.WORDS,
            {"residual_dropout": "attention_dropout"},
            idioms=(
                Rope(),
                replace(QKV_BIAS, usual=True),
                Biases("attention_out_bias", "attention_out_bias"),
                MLP_BIAS,
            ),
        ),
    ),
)
