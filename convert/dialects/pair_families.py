"""Families of encoder-decoders, and of decoders that attend to a memory, by how they store q, k, v.

The blocks of a decoder have three norms, which are numbered, or one is named for cross-attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..names import pair_parts as pairs
from ..names import parts
from ..names.attention_parts import (
    QKV_OF_PAIRS,
    Way,
    by_head,
    fused,
    in_two,
    of_torch,
    separate,
    shared,
)
from ..names.modern_parts import tables, with_gated, with_variants
from ..names.norm_parts import with_norms
from ..names.pair_parts import CROSS, CROSS_PATH, NAMED, NUMBERED, SELF, SELF_PATH, TWO
from ..rows.dialect import Dialect
from ..rows.fields import ROOT_OF_WIDTH, USUAL
from ..rows.kinds import Kind
from ..rows.pair import Pair

BEWARE = (
    "a class may hide padding of the target from itself, use another mask than a causal one, or "
    "end with a softmax: none of these leaves a trace"
)
USUAL_OF_PAIRS = {
    **USUAL, "dropout": 0.1, "embedding_scale": ROOT_OF_WIDTH, "positions": "sinusoidal",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """The ways in which a family stores queries, keys and values; the first of each is written."""

    own: Sequence[Way]  # of self-attention
    across: Sequence[Way]  # of cross-attention


SEPARATE = Style((separate,), (separate, in_two, fused))
FUSED = Style((fused, in_two), (in_two, fused, separate))
OF_TORCH = Style((of_torch,), (of_torch,))
BY_HEAD = Style((by_head,), (by_head,))
SHARED = Style((shared,), (shared,))
PLAIN = OF_TORCH, SHARED  # without norms of queries and keys


def _orders(style: Style) -> dict[str, str]:
    """The usual order in fused matrices; that of torch's own modules is known."""
    return {"qkv_order": "by_part"} if style in (SEPARATE, FUSED) else {}


def decoder(plain: Dialect, blocks: str, style: Style) -> Dialect:
    """The family `plain`, which has the rows outside of `blocks`, with those of decoder blocks."""
    inside, across = (
        f"{blocks}.{parts.choice(f'{words} {more}'.strip(), first)}."
        for words, more, first in ((SELF, parts.ATTENTION, "self_attn"), (CROSS, "", "cross_attn"))
    )
    own: tuple[Kind, ...] = (
        *pairs.attention(SELF_PATH, inside, style.own),
        *pairs.attention(CROSS_PATH, across, style.across),
        *parts.mlp(blocks, "ffn", "up", "down"),
        *pairs.masks(inside),
        *tables(blocks, "self_attn"),
    )
    one, two = (
        _with_modern_parts(
            replace(plain, rows=(*plain.rows, *own, *pairs.norms(blocks, *norms))),
            {} if style in PLAIN else {SELF_PATH: inside, CROSS_PATH: across},
            blocks,
        )
        for norms in (NUMBERED, NAMED)
    )
    return with_variants(one, [two])


def _with_modern_parts(plain: Dialect, attention: Mapping[str, str], blocks: str) -> Dialect:
    """The family `plain` with variants for gated MLPs, and for norms of queries and keys.

    Norms may be in the modules `attention`, by their Flax paths.
    """
    if not attention:
        return with_gated(plain, blocks, "ffn")
    return with_norms(plain, attention, blocks, "ffn")


def encoder(plain: Dialect, blocks: str, style: Style) -> Dialect:
    """The family `plain`, which has the rows outside of `blocks`, with those of encoder blocks."""
    inside = f"{blocks}.{parts.choice(f'{SELF} {parts.ATTENTION}', 'self_attn')}."
    own: tuple[Kind, ...] = (
        *pairs.attention(SELF_PATH, inside, style.own),
        *parts.mlp(blocks, "ffn", "up", "down"),
        *pairs.norms(blocks, *TWO),
        *tables(blocks, "self_attn"),
    )
    return _with_modern_parts(
        replace(plain, rows=(*plain.rows, *own)),
        {} if style in PLAIN else {SELF_PATH: inside},
        blocks,
    )


def family(name: str, about: str, style: Style, first: str = "", **usual: str) -> Pair:
    """The family of encoder-decoders with q, k and v stored in `style`; `usual` as in `unsaid`.

    `first` is the module around both sides that is written.
    """
    outer = pairs.around(first)
    outside = {
        "encoder": pairs.side_norm("encoder", outer),
        "decoder": (*pairs.side_norm("decoder", outer), *pairs.side_head()),
    }
    one, two = (
        make(
            Dialect(
                name,
                about,
                rows=(*pairs.side_embeddings(side), *outside[side]),
                words={"qkv": QKV_OF_PAIRS},
                unsaid={**USUAL_OF_PAIRS, **_orders(style), **usual},
                beware=BEWARE,
                family=True,
                grouped=style in (SEPARATE, FUSED),
            ),
            pairs.blocks_of(side, f"{side}.layers.", outer),
            style,
        )
        for make, side in ((encoder, "encoder"), (decoder, "decoder"))
    )
    return Pair(name, about, one, two, family=True)


def alone(name: str, about: str, style: Style, first: str, **usual: str) -> Dialect:
    """The family of decoders with cross-attention and no encoder, in blocks called `first`."""
    plain = Dialect(
        name,
        about,
        rows=(
            *parts.embeddings("token_embedding", "position_embedding"),
            *pairs.norm("final_norm", parts.choice(parts.FINAL, f"{first}.norm"), "?"),
            *parts.head("lm_head"),
        ),
        words={"qkv": QKV_OF_PAIRS},
        unsaid={**USUAL, "dropout": 0.1, **_orders(style), **usual},
        beware=BEWARE,
        family=True,
        grouped=style in (SEPARATE, FUSED),
    )
    return decoder(plain, parts.block(first), style)


TORCH = {"norm": "post", "activation": "relu"}  # the defaults of torch's layers
PAIRS = (
    family(
        "torch-transformer",
        "nn.Transformer in a wrapper of one's own",
        OF_TORCH,
        "transformer.",
        **TORCH,
    ),
    family("pair-separate", "encoder-decoders with a matrix each for q, k and v", SEPARATE),
    family("pair-fused", "encoder-decoders with one matrix for q, k and v", FUSED),
    family("pair-heads", "encoder-decoders with one module for each head", BY_HEAD),
    family(
        "pair-shared",
        "encoder-decoders whose heads share one small matrix each for q, k and v",
        SHARED,
        norm="post",
        activation="relu",
        attention_scale="model_dim",
    ),
)
DIALECTS = (
    alone(
        "torch-decoder", "nn.TransformerDecoder, which attends to a memory", OF_TORCH,
        "decoder.layers", **TORCH,
    ),
    alone(
        "cross-separate", "decoders that attend to a memory, with a matrix each for q, k and v",
        SEPARATE, "blocks", activation="gelu",
    ),
    alone(
        "cross-fused", "decoders that attend to a memory, with one matrix for q, k and v",
        FUSED, "blocks", activation="gelu",
    ),
    alone(
        "cross-heads", "decoders that attend to a memory, with one module for each head",
        BY_HEAD, "blocks", activation="gelu",
    ),
)  # fmt: skip
