"""The fields of ModelConfig that tensors show, and the usual values of those that none shows."""

from collections.abc import Collection, Mapping
from typing import Any

from jaxgpt.seq2seq_config import ENCODER

from .axes import View

# The axes that size a model -> their fields of ModelConfig; `head` counts the heads of queries.
FIELDS = {
    "v": "vocab_size",
    "t": "context_length",
    "d": "model_dim",
    "layer": "num_blocks",
    "head": "num_heads",
    "kv": "num_kv_heads",
    "k": "head_dim",
    "f": "mlp_dim",
}
# Usual values of fields that no tensor shows. Two fields have none and must be given: the number of
# heads where one matrix holds q, k and v, and the positions where a file has no table of them.
USUAL: dict[str, Any] = {
    "norm": "pre",
    "final_norm": True,
    "activation": "relu",
    "attention_scale": "head_dim",
    "attention_scale_by_layer": False,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "norm_kind": "layer",
    "norm_std": "biased",
    "norm_unit_offset": False,
    "extra_norms": [],
    "qk_norm": "none",
    "residual": "sequential",
    "rotary_theta": 10000.0,
    "rotary_fraction": 1.0,
    "rotary_layout": "half",
    "rotary_scaling": None,
    "sinusoidal_layout": "interleaved",
    "window": None,
    "embedding_scale": 1.0,
    "attention_softcap": None,
    "logit_scale": 1.0,
    "logit_softcap": None,
}
ROOT_OF_WIDTH = "model_dim"  # an embedding_scale that is the root of the model's width
# These mean nothing for an encoder.
OF_DECODERS = ("tied", "head_bias", "logit_scale", "logit_softcap", "cross_attention")
# Those in which few classes differ from the usual value.
SELDOM = (
    "attention_scale_by_layer", "norm_std", "norm_unit_offset", "residual", "rotary_fraction",
    "rotary_scaling", "sinusoidal_layout", "window", "embedding_scale", "attention_softcap",
    "logit_scale", "logit_softcap",
)  # fmt: skip
# Those of a decoder with rotary positions, RMSNorm and a gated MLP.
MODERN = {**USUAL, "positions": "rotary", "norm_kind": "rms", "activation": "silu"}
# Fields that the presence of a parameter shows, and the parameter.
PRESENCE = {
    "qkv_bias": "blocks/attn/qkv/bias",
    "attention_out": "blocks/attn/out/kernel",
    "attention_out_bias": "blocks/attn/out/bias",
    "mlp_bias": "blocks/mlp/down/bias",
    "mlp_gated": "blocks/mlp/gate_up/kernel",
    "norm_weight": "blocks/norm1/scale",
    "norm_bias": "blocks/norm1/bias",
    "head_bias": "head/bias",
    "cross_attention": "blocks/cross_attn/qkv/kernel",
}
# Fields that the absence of a parameter shows, their value then, and the parameter.
ABSENCE: dict[str, tuple[Any, str]] = {
    "tied": (True, "head/kernel"),
    "shares_embedding": (True, "token_embedding/embedding"),
    "positions_stored": (False, "pos_embedding/embedding"),
}
# Likewise, but of norms, whose absence shows nothing in a model whose norms have no weights.
ABSENT_NORMS: dict[str, tuple[Any, str]] = {
    "final_norm": (False, "final_norm/scale"),  # one that is stored may still be unused
    "residual": ("parallel_one_norm", "blocks/norm2/scale"),
    "qk_norm": ("none", "blocks/attn/q_norm/scale"),
}
EXTRA_NORMS = {"sandwich": "blocks/out_norm1/scale", "embedding": "embedding_norm/scale"}


def shown_by(views: Collection[View]) -> dict[str, Any]:
    """The fields that show in which parameters are present; `views` are their Flax views."""
    dims = {view.name: view.dims for view in views}
    shown: dict[str, Any] = {field: path in dims for field, path in PRESENCE.items()}
    shown |= {"tied": False, "shares_embedding": False}
    shown |= {field: value for field, (value, path) in ABSENCE.items() if path not in dims}
    if shown["norm_bias"]:
        shown["norm_kind"] = "layer"
    if not shown["norm_weight"]:
        return shown
    shown |= {field: value for field, (value, path) in ABSENT_NORMS.items() if path not in dims}
    shown["extra_norms"] = [name for name, path in EXTRA_NORMS.items() if path in dims]
    if norms_full_width(views):
        shown["qk_norm"] = "full_width"
    return shown


def norms_full_width(views: Collection[View]) -> bool:
    """Whether `views` have norms of queries and keys over all heads together."""
    path = ABSENT_NORMS["qk_norm"][1]
    return any(view.name == path and ("kv",) in view.dims for view in views)


def usual_of(
    unsaid: Mapping[str, Any], views: Collection[View], known: Mapping[str, Any]
) -> dict[str, Any]:
    """The usual values `unsaid` of a class, for a file with the parameters `views`.

    `known` are the fields that are known already. Embeddings are scaled to fit sinusoids; with a
    learned table of positions, or rotary ones, hardly any class does it.
    """
    names, usual = {view.name for view in views}, dict(unsaid)
    if usual.get("embedding_scale") == ROOT_OF_WIDTH:
        unscaled = known.get("positions") in ("learned", "rotary")
        usual["embedding_scale"] = 1.0 if unscaled else known.get("model_dim", 1) ** 0.5
    if ABSENT_NORMS["qk_norm"][1] in names and usual.get("qk_norm") == "none":
        usual["qk_norm"] = "before_rotary"
    # Of eight files in public repositories without a last norm, all have norms after the sums. That
    # takes two norms in a block, and no more.
    parallel, second = ABSENT_NORMS["residual"]
    two = {PRESENCE["norm_weight"], second}
    others = {ABSENT_NORMS["final_norm"][1], EXTRA_NORMS["sandwich"]}
    if two <= names and not others & names:
        usual["norm"] = "post"
    if two - names == {second}:
        usual["residual"] = parallel
    return usual


def is_relevant_in(field: str, fields: Mapping[str, Any]) -> bool:
    """Whether `field` means anything in a model of one or two sides, an encoder's as encoder.X."""
    prefix = ENCODER if field.startswith(ENCODER) else ""
    own = {
        name.removeprefix(prefix): value
        for name, value in fields.items()
        if name.startswith(ENCODER) == bool(prefix)
    }
    return is_relevant(field.removeprefix(prefix), own)


def is_relevant(field: str, fields: Mapping[str, Any]) -> bool:
    """Whether `field` means anything in a model with `fields`."""
    if field.startswith("rotary_"):
        return fields.get("positions") == "rotary"
    if field == "sinusoidal_layout":
        return fields.get("positions") == "sinusoidal" and not fields.get("positions_stored")
    if field == "norm_std":
        return fields.get("norm_kind") == "layer"
    if field == "norm_unit_offset":
        return fields.get("norm_weight", True)
    return True
