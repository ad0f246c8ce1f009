"""Names that classes give to the parts of encoder-decoders, and of decoders with
cross-attention."""

from collections.abc import Sequence

from ..rows.kinds import (
    EMBEDDING,
    POSITIONS,
    Kind,
    Row,
    copy_of_embedding,
    linear,
    mask,
    optional,
    row,
    tied,
)
from . import parts
from .attention_parts import Way
from .parts import choice

SELF = (
    "self_attn self_attention self_attention_block slf_attn self_mha self_att self_attn_block "
    "masked_self_attn masked_self_attention masked_mha masked_attention attention1 attn1 mha1 sa "
    "self_multihead_attn self_multi_head_attention masked_attn masked_multi_head_attention "
    "multi_head_self_attention self_attn.attn selfattn causal_attn causal_self_attention"
)
CROSS = (
    "cross_attn cross_attention cross_attention_block multihead_attn encoder_attn "
    "encoder_attention enc_attn enc_attention enc_dec_attn enc_dec_attention encdec_attn "
    "encoder_decoder_attn encoder_decoder_attention src_attn source_attention cross_mha "
    "cross_att crossattention cross_attn_block attention2 attn2 mha2 ca cross inter_attn "
    "memory_attn cross_multihead_attn cross_multi_head_attention multi_head_cross_attention "
    "crossattn context_attn cross_attn.attn transformer_block.attention"
)
CROSS_NORM = (
    "norm_cross cross_norm ln_cross cross_ln cross_attn_norm norm_cross_attn ln_cross_attn "
    "cross_attn_layer_norm encoder_attn_layer_norm enc_attn_layer_norm cross_attention_norm "
    "norm_ca ca_norm ln_ca enc_attn.layer_norm cross_attn_ln cross_attn_layernorm "
    "layer_norm_cross layernorm_cross cross_layer_norm enc_dec_norm encoder_attn_norm enc_norm "
    "norm_src_attn src_attn_norm ln_src_attn norm_enc_attn norm_encoder_attn norm_enc_dec"
)
MLP_NORM = "pos_ffn.layer_norm"
SELF_NORM = (
    "slf_attn.layer_norm self_attn.layer_norm norm_self ln_self self_norm self_attn_norm "
    "norm_self_attn ln_self_attn norm"
)
OUT = "w_concat fc_concat W_concat concat linears.3"
SIDES = {"encoder": "encoder enc src source input", "decoder": "decoder dec tgt trg target output"}
LISTS = "layers blocks layer block layer_stack transformer_blocks trf_blocks stack h"
SHARED = (
    "shared embedding embeddings token_embedding tok_emb tok_embedding token_emb embed "
    "shared_embedding shared_embed embed_tokens word_embedding token_embedding.embedding "
    "tok_emb.embedding embedding.embedding embed.embedding"
)
OWN = (  # words of an embedding after what says its side
    "embed.embedding emb.embedding embed.0.lut embed.lut lut embed.0 embedding.0 word_emb "
    "src_word_emb trg_word_emb tgt_word_emb src_emb tgt_emb trg_emb src_embedding tgt_embedding "
    "trg_embedding emb.tok_emb vocab_embedding word_embed embed.linear"
)
OWN_TABLE = (
    "pos.pe embed.1.pe 1.pe embedding.1.pe position_enc.pos_table emb.pos_emb.encoding "
    "pos_emb.pe position.pe pos_encoder.pe embed.positional_encodings pe.pe"
)
THREE = (  # the last norm of blocks with three
    " ".join(
        word.replace("2", "3").replace("two", "three").replace("second", "third")
        for word in parts.NORM2.split()
        if any(mark in word for mark in ("2", "two", "second"))
    )
    + " layer_norm.2 norms.2 ln.2 residual_connections.2.norm residuals.2.norm sublayer.2.norm "
    "transformer_block.norm2"
)
SELF_PATH, CROSS_PATH = "blocks/attn", "blocks/cross_attn"


def attention(flax: str, inside: str, ways: Sequence[Way]) -> tuple[Kind, ...]:
    """The rows of the attention module `inside`, with the parameters at `flax`.

    Queries, keys and values are stored in one of `ways`; the first is written.
    """
    outs = choice(f"{parts.OUT} {OUT}", "out_proj")
    out = (
        *linear(f"{flax}/out : layer head k d", f"{inside}{outs} : d (head k)"),
        row(f"{flax}/out/kernel : layer head k d", f"{inside}{outs}.weight : head d k"),
    )
    return (*(each for way in ways for each in way(flax, inside)), *optional(out))


def norms(blocks: str, *named: tuple[str, str, str]) -> tuple[Row, ...]:
    """The rows of norms in a block: of each the Flax path, its words and the one that is written.

    A norm may have one number for all of its width.
    """
    return tuple(
        each
        for flax, words, first in named
        for each in norm(flax, f"{blocks}.{choice(words, first)}")
    )


def norm(flax: str, torch: str, absent: str = "", words: str = parts.NORM_WORDS) -> tuple[Row, ...]:
    """The rows of a norm, which has a vector or a number for its scale and for its bias."""
    layer = "layer " if flax.startswith("blocks/") else ""
    scale, shift = words.split()
    return tuple(
        row(f"{flax}/{leaf} : {layer}d", f"{torch}.{word}{may} : {dims}")
        for leaf, word, may in (("scale", scale, absent), ("bias", shift, "?"))
        for dims in ("d", "()")
    )


NORM1, NORM2 = f"{parts.NORM1} {SELF_NORM}", f"{parts.NORM2} {MLP_NORM}"
SECOND = f"{NORM2} transformer_block.norm1"  # of three
TWO = (("blocks/norm1", NORM1, "norm1"), ("blocks/norm2", NORM2, "norm2"))
# Those of a decoder: numbered, or with the word of cross-attention.
NUMBERED = (TWO[0], ("blocks/cross_norm", SECOND, "norm2"), ("blocks/norm2", THREE, "norm3"))
NAMED = (TWO[0], ("blocks/cross_norm", CROSS_NORM, "norm_cross"), TWO[1])


def around(first: str) -> str:
    """The module around both sides; `first` is the one that is written."""
    return f"({'|'.join(dict.fromkeys([first, '', 'transformer.', 'model.', 'core.']))})"


def blocks_of(side: str, first: str, outer: str) -> str:
    """The prefix of the names in a block of `side`; `first` is the list that is written.

    `outer` is the choice of the module around both sides.
    """
    stem = SIDES[side].split()[1]
    modules = f"{side} transformer_{side} {side}.{side} {side}_stack"
    lists = [
        *(f"{module}.{word}." for module in modules.split() for word in LISTS.split()),
        *(f"{side}.{side}_{word}." for word in LISTS.split()),
        *(f"{start}_{word}." for start in (side, stem) for word in LISTS.split()),
        *(f"{side}. {side}s. {side}.blks.block".split()),
    ]
    return f"{outer}{choice(' '.join(lists), first)}{{layer}}"


def side_embeddings(side: str) -> tuple[Kind, ...]:
    """The rows of the embedding and the optional positions of `side`, which both may share."""
    first, *others = (f"{start}{mark}" for start in SIDES[side].split() for mark in "._")
    # Choices in another order are independent of one another.
    token = f"(|model.|transformer.)({'|'.join([first, *others])})"
    position = f"({'|'.join([first, *others[::-1]])})"
    own, tables = f"{OWN} {parts.TOKEN}", choice(f"{OWN_TABLE} {parts.TABLE}", "pos_emb.pe")
    learned = choice(parts.POSITION, "pos_embedding")
    return (
        row(EMBEDDING.text, f"{token}{choice(own, 'embedding')}.weight : v d"),
        row(EMBEDDING.text, f"{choice(SHARED, 'shared')}.weight : v d"),
        copy_of_embedding(f"{choice(SHARED, 'shared')}.weight : v d"),
        *(row(f"{POSITIONS} : t d", f"{start}{learned}.weight? : t d") for start in (position, "")),
        *(
            row(f"{POSITIONS} : t d", f"{start}{tables}? : {dims}")
            for start in (position, "")
            for dims in ("t d", "() t d", "t () d")
        ),
        *norm("embedding_norm", f"{position}{choice(parts.EMBEDDING_NORM, 'embedding_norm')}", "?"),
    )


def side_norm(side: str, outer: str) -> tuple[Row, ...]:
    """The rows of the optional final norm of `side`."""
    stem = SIDES[side].split()[1]
    starts = (f"{side}.", f"{side}_", f"{stem}_")
    words = " ".join(f"{start}{word}" for start in starts for word in parts.FINAL.split())
    return norm("final_norm", f"{outer}{choice(words, f'{side}.norm')}", "?")


def side_head() -> tuple[Kind, ...]:
    """The rows of the head of an encoder-decoder."""
    words = f"{HEADS} {parts.HEAD}"
    name = f"(|decoder.|model.){choice(words, 'generator')}"
    return (
        tied(f"{name}.weight : v d"),
        row("head/bias : v", f"{name}.bias? : v"),
        row("head/bias : v", f"{choice(parts.HEAD_BIAS, 'lm_head_bias')}? : v"),
    )


HEADS = (
    "generator generator.proj generator.linear generator.fc projection_layer "
    "projection_layer.proj trg_word_prj tgt_word_prj projection.proj final_linear_layer dense "
    "generator.projection"
)


def masks(inside: str) -> tuple[Kind, ...]:
    """The rows of causal masks in the self-attention `inside` and outside of all blocks."""
    word = choice(parts.MASKS, "mask")
    return tuple(
        mask(f"{place} : {dims}", written=False)
        for place in (f"{inside}{word}", f"(tgt_mask|{parts.MASKS.replace(' ', '|')})")
        for dims in parts.SQUARES
    )
