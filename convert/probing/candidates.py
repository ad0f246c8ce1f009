"""The values to try for a field that no file shows, in order."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.fields import frozen

from ..rows.arranged import ORDERS, PLACES
from .parts import LOGITS, QUERIES

# For each field, the likelier values first; fields in which models differ more often come first.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "norm": ("pre", "post", "residual"),
    "final_norm": (True, "unused"),
    "residual": ("sequential", "parallel"),
    "positions": ("rotary", "sinusoidal", "alibi", "none"),
    "rotary_layout": ("half", "interleaved"),
    "sinusoidal_layout": ("interleaved", "half"),
    **ORDERS,
    "qkv_order": (*PLACES, "kqv_by_part"),
    "attention_scale": ("head_dim", "model_dim", "none"),
    "norm_kind": ("layer", "rms"),
    "norm_unit_offset": (False, True),
    "embedding_scale": (1.0,),  # the square root of the width is added
    "logit_scale": (1.0, 0.0625, 0.125, 0.25),  # the scales of Granite and Cohere
    "attention_scale_by_layer": (False, True),
    "activation": ("relu", "gelu", "gelu_tanh"),
    "rotary_fraction": (1.0, 0.5, 0.25),
    "rotary_theta": (10000.0, 500000.0, 1000000.0, 100000.0),
    "attention_softcap": (None, 50.0, 30.0, 20.0),
    "logit_softcap": (None, 30.0, 15.0, 50.0),
    "norm_eps": (1e-5, 1e-6, 1e-8, 1e-12),
}  # num_heads is added, with the counts that the shapes allow
MODERN_ACTIVATIONS = ("silu", "relu2")
# Fields whose wrong values ruin the loss are tried first. Then the fields of each group are varied
# together, because an attention scale, for example, can compensate for a wrong number of heads.
FIRST = ("norm", "final_norm", "num_heads")
GROUPS = (
    ("norm", "final_norm", "residual"),
    ("positions", "rotary_layout", "sinusoidal_layout"),
    ("num_heads", "qkv_order", "attention_scale"),
    ("gate_order", "activation"),
    ("norm_kind", "norm_unit_offset"),
    ("embedding_scale",),
    ("logit_scale",),
    ("attention_scale_by_layer",),
    ("rotary_fraction",),
    ("rotary_theta",),
    ("attention_softcap",),
    ("logit_softcap",),
    ("norm_eps",),
)
# Values so similar that any of them serves to find the other fields; only the first is tried until
# then.
ALIKE = {
    "activation": ("gelu", "gelu_tanh"),
    **{
        name: OPTIONS[name]
        for name in (
            "rotary_fraction", "rotary_theta", "attention_softcap", "logit_softcap", "norm_eps",
        )
    },
}  # fmt: skip
# For each of these fields, the part of a model whose size may compensate for a wrong value.
COMPENSATED = {"logit_scale": LOGITS, "logit_softcap": LOGITS, "attention_softcap": QUERIES}


def options_of(
    assumed: Mapping[str, Any], config: ModelConfig, asked: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[Any, ...]]:
    """The values to try of each open field, the likeliest first.

    `assumed` has the usual values of the class, `asked` the candidates for fields without one.
    """
    options = {**OPTIONS, "embedding_scale": (1.0, config.model_dim**0.5)}
    if config.norm_kind == "rms" or config.mlp_gated or not config.position_rows:
        options["activation"] = (*OPTIONS["activation"], *MODERN_ACTIVATIONS)
    values = {
        name: (frozen(assumed[name]), *(value for value in values if value != assumed[name]))
        for name, values in options.items()
        if name in assumed
    }
    # Loading takes longest, so the fields that require it vary most slowly.
    return {**{name: tuple(candidates) for name, candidates in asked.items()}, **values}


def by_likelihood(heads: Sequence[int]) -> list[int]:
    """The head counts `heads`, the likeliest first.

    Those with heads of even width come first, as rotary positions need; among them, those with
    about as many heads as each is wide.
    """
    width = max(heads)
    return sorted(heads, key=lambda n: (width // n % 2, abs(n * n - width)))
