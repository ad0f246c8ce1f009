"""Families of encoder-decoders, and of decoders that attend to a memory, by how they store q, k, v.

The blocks of a decoder have three norms: numbered, or one with the word of cross-attention.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..names import pair_parts as pairs
from ..names import parts
from ..names.modern_parts import rotary, with_gated
from ..names.pair_parts import CROSS, CROSS_PATH, NAMED, NUMBERED, SELF, SELF_PATH, TWO, Style
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


def with_readings(first: Dialect, others: Sequence[Dialect]) -> Dialect:
    """The dialect `first` with `others`, and all of their readings, as its further readings."""
    readings = [each for other in others for each in (other, *other.readings)]
    plain = tuple(replace(each, readings=()) for each in readings)
    return replace(first, readings=(*first.readings, *plain))


def decoder(plain: Dialect, blocks: str, style: Style) -> Dialect:
    """The family `plain`, which has the rows outside of `blocks`, with those of decoder blocks."""
    if style is pairs.fused:
        styles = (pairs.fused, pairs.all_fused)
        first, second = (_decoder(plain, blocks, each) for each in styles)
        return with_readings(first, [second])
    return _decoder(plain, blocks, style)


def _decoder(plain: Dialect, blocks: str, style: Style) -> Dialect:
    inside, across = (
        f"{blocks}.{parts.choice(f'{words} {more}'.strip(), first)}"
        for words, more, first in ((SELF, parts.ATTENTION, "self_attn"), (CROSS, "", "cross_attn"))
    )
    own: tuple[Kind, ...] = (
        *pairs.attention(SELF_PATH, inside, style),
        *pairs.attention(CROSS_PATH, across, style),
        *parts.mlp(blocks, "ffn", "up", "down"),
        *pairs.masks(inside),
        *rotary(blocks, "self_attn"),
    )
    one, two = (
        with_gated(
            replace(plain, rows=(*plain.rows, *own, *pairs.norms(blocks, *norms))), blocks, "ffn"
        )
        for norms in (NUMBERED, NAMED)
    )
    return with_readings(one, [two])


def encoder(plain: Dialect, blocks: str, style: Style) -> Dialect:
    """The family `plain`, which has the rows outside of `blocks`, with those of encoder blocks."""
    inside = f"{blocks}.{parts.choice(f'{SELF} {parts.ATTENTION}', 'self_attn')}"
    own: tuple[Kind, ...] = (
        *pairs.attention(SELF_PATH, inside, style),
        *parts.mlp(blocks, "ffn", "up", "down"),
        *pairs.norms(blocks, *TWO),
        *rotary(blocks, "self_attn"),
    )
    return with_gated(replace(plain, rows=(*plain.rows, *own)), blocks, "ffn")


def family(name: str, about: str, style: Style, first: str = "", **usual: str) -> Pair:
    """The family of encoder-decoders with q, k and v stored in `style`; `usual` as in `unsaid`.

    `first` is the module around both sides that is written.
    """
    outer = pairs.around(first)
    words = {"qkv": pairs.QKV} if style is pairs.separate else {}
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
                words=words,
                unsaid={**USUAL_OF_PAIRS, **usual},
                beware=BEWARE,
                family=True,
                grouped=style is not pairs.of_torch,
            ),
            pairs.blocks_of(side, f"{side}.layers.", outer),
            style,
        )
        for make, side in ((encoder, "encoder"), (decoder, "decoder"))
    )
    return Pair(name, about, one, two, family=True)


def alone(name: str, about: str, style: Style, first: str, **usual: str) -> Dialect:
    """The family of decoders with cross-attention and no encoder, in blocks called `first`."""
    words = {"qkv": pairs.QKV} if style is pairs.separate else {}
    plain = Dialect(
        name,
        about,
        rows=(
            *parts.embeddings("token_embedding", "position_embedding"),
            *pairs.norm("final_norm", parts.choice(parts.FINAL, f"{first}.norm"), "?"),
            *parts.head("lm_head"),
        ),
        words=words,
        unsaid={**USUAL, "dropout": 0.1, **usual},
        beware=BEWARE,
        family=True,
        grouped=style is not pairs.of_torch,
    )
    return decoder(plain, parts.block(first), style)


TORCH = {"norm": "post", "activation": "relu"}  # the defaults of torch's layers
PAIRS = (
    family(
        "torch-transformer",
        "nn.Transformer in a wrapper of one's own",
        pairs.of_torch,
        "transformer.",
        **TORCH,
    ),
    family("pair-separate", "encoder-decoders with a matrix each for q, k and v", pairs.separate),
    family("pair-fused", "encoder-decoders with one matrix for q, k and v", pairs.fused),
)
DIALECTS = (
    alone(
        "torch-decoder", "nn.TransformerDecoder, which attends to a memory", pairs.of_torch,
        "decoder.layers", **TORCH,
    ),
    alone(
        "cross-separate", "decoders that attend to a memory, with a matrix each for q, k and v",
        pairs.separate, "blocks", activation="gelu",
    ),
    alone(
        "cross-fused", "decoders that attend to a memory, with one matrix for q, k and v",
        pairs.fused, "blocks", activation="gelu",
    ),
)  # fmt: skip
