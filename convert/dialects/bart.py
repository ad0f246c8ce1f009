"""Hugging Face's BART and mBART, and Marian, whose sinusoids of positions are in no file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxgpt.config import ModelConfig

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import Filled, Kind, copy_of_embedding, linear, norm, row, shifted, tied
from ..rows.pair import Pair

WORDS = (
    "vocab_size d_model layers attention_heads ffn_dim max_position_embeddings activation_function "
    "dropout tie_word_embeddings"
)
SHARED, OWN = "(model.|)shared.weight", "(model.|){side}.embed_tokens.weight"


@dataclass(frozen=True)
class ScaledEmbedding:
    """Whether embeddings are multiplied by the root of model_dim: `scale_embedding`."""

    words: tuple[str, ...] = ("scale_embedding",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        width = fields.get("model_dim")
        if not config.get("scale_embedding"):
            return {"embedding_scale": 1.0}
        return {"embedding_scale": width**0.5} if width else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"scale_embedding": config.embedding_scale != 1}


@dataclass(frozen=True)
class SharedTable:
    """Whether both sides have one embedding: `share_encoder_decoder_embeddings`."""

    words: tuple[str, ...] = ("share_encoder_decoder_embeddings",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"shares_embedding": bool(config.get(self.words[0], True))}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.words[0]: config.shares_embedding}


def attention(block: str, flax: str, module: str) -> tuple[Kind, ...]:
    """The rows of the attention `module` with its norm."""
    inside = f"{block}.{module}"
    names = {"blocks/attn": "blocks/norm1", "blocks/cross_attn": "blocks/cross_norm"}
    return (
        *linear(f"{flax}/qkv : layer d head qkv k", f"{inside}.{{qkv}}_proj : (head k) d"),
        *linear(f"{flax}/out : layer head k d", f"{inside}.out_proj : d (head k)"),
        *norm(names[flax], f"{inside}_layer_norm"),
    )


def blocks(side: str) -> tuple[Kind, ...]:
    """The rows of the blocks of `side`."""
    block = f"(model.|){side}.layers.{{layer}}"
    across: tuple[Kind, ...] = ()
    if side == "decoder":
        across = attention(block, "blocks/cross_attn", "encoder_attn")
    return (
        *attention(block, "blocks/attn", "self_attn"),
        *across,
        *linear("blocks/mlp/up : layer d f", f"{block}.fc1 : f d"),
        *linear("blocks/mlp/down : layer f d", f"{block}.fc2 : d f"),
        *norm("blocks/norm2", f"{block}.final_layer_norm"),
    )


def dialect(plain: Dialect, side: str, *extra: str) -> Dialect:
    """One `side` of the class of `plain`: with one embedding for both, or else one of its own.

    `extra` are the names of further norms, after the embedding and at the end.
    """
    norms = {"layernorm_embedding": "embedding_norm", "layer_norm": "final_norm"}
    table = f"(model.|){side}.embed_positions.weight"
    positions = (
        shifted("pos_embedding/embedding : p d", f"{table} : p d", by=2)
        if extra
        else row("pos_embedding/embedding : t d", f"{table}? : t d")
    )
    head = (
        tied("lm_head.weight : v d"),
        row("head/bias : v", "final_logits_bias : () v", Filled),
    )
    rest: tuple[Kind, ...] = (
        positions,
        *blocks(side),
        *(each for name in extra for each in norm(norms[name], f"(model.|){side}.{name}")),
        *(head if side == "decoder" else ()),
    )
    shared: tuple[Kind, ...] = (
        row("token_embedding/embedding : v d", f"{SHARED} : v d"),
        copy_of_embedding(f"{OWN.format(side=side)} : v d"),
    )
    own = (row("token_embedding/embedding : v d", f"{OWN.format(side=side)} : v d"),)
    one = replace(plain, rows=(*shared, *rest))
    return replace(one, variants=(replace(one, rows=(*own, *rest)),))


def _reading_as_encoder(dialect: Dialect) -> Dialect:
    """`dialect` with a config.json read as about an encoder, which has no head to tie."""
    hub = dialect.hub
    assert hub is not None
    words = hub.words.replace(" tie_word_embeddings", "")
    if dialect.name == "marian":
        return replace(dialect, hub=replace(hub, words=words, idioms=(*hub.idioms, SharedTable())))
    usual = {**dialect.unsaid, "shares_embedding": True}
    hub = replace(hub, words=words)
    return replace(dialect, says={"model_type": {dialect.name: usual}}, hub=hub)


def pair(name: str, architecture: str, usual: dict[str, Any], *extra: str) -> Pair:
    """The pair of the Hugging Face class `architecture`."""
    unsaid = {**USUAL, "dropout": 0.1, **usual}
    plain = Dialect(
        name,
        f"Hugging Face's {architecture}",
        rows=(),
        words={"qkv": ("key=k value=v query=q",)},
        unsaid=unsaid,
        says={"model_type": {name: unsaid}},
        hub=Hub(architecture, WORDS, idioms=(ScaledEmbedding(),)),
    )
    encoder, decoder = (dialect(plain, side, *extra) for side in ("encoder", "decoder"))
    return Pair(
        name,
        plain.about,
        _reading_as_encoder(encoder),
        decoder,
        modules=("model.shared",),
        by_side="layers attention_heads ffn_dim",
        of_decoder="vocab_size" if name == "marian" else "",
    )


PAIRS = (
    pair(
        "bart", "BartForConditionalGeneration",
        {
            "norm": "post", "final_norm": False, "activation": "gelu",
            "extra_norms": ["embedding"],
        },
        "layernorm_embedding",
    ),
    pair(
        "mbart", "MBartForConditionalGeneration",
        {"activation": "gelu", "extra_norms": ["embedding"]},
        "layernorm_embedding", "layer_norm",
    ),
    pair(
        "marian", "MarianMTModel",
        {
            "norm": "post", "final_norm": False, "activation": "silu", "positions": "sinusoidal",
            "sinusoidal_layout": "half",
        },
    ),
)  # fmt: skip
