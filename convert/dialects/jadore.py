"""The encoder-decoder of jadore801120/attention-is-all-you-need-pytorch.

It norms its embeddings, and has no norm after its blocks.
"""

from ..names.pair_classes import Names, Side, pair
from ..rows.dialect import Dialect
from ..rows.fields import USUAL

CLASS = Dialect(
    "jadore",
    "the Transformer of jadore801120/attention-is-all-you-need-pytorch",
    rows=(),
    unsaid={**USUAL, "norm": "post", "norm_eps": 1e-6, "dropout": 0.1},
    beware="where its head is tied, the class multiplies either its logits by model_dim ** -0.5 "
    "or its embeddings by the root of model_dim",
)
NAMES = Names("w_qs w_ks w_vs", "{qkv}", "fc", "pos_ffn.w_1", "pos_ffn.w_2")
ENCODER = Side(
    "encoder.layer_stack.{layer}",
    {"blocks/attn": "slf_attn"},
    {"blocks/norm1": "slf_attn.layer_norm", "blocks/norm2": "pos_ffn.layer_norm"},
    embedding="encoder.src_word_emb",
    embedding_norm="encoder.layer_norm",
    positions="encoder.position_enc.pos_table",
    order="slf_attn pos_ffn",
)
DECODER = Side(
    "decoder.layer_stack.{layer}",
    {"blocks/attn": "slf_attn", "blocks/cross_attn": "enc_attn"},
    {
        "blocks/norm1": "slf_attn.layer_norm",
        "blocks/cross_norm": "enc_attn.layer_norm",
        "blocks/norm2": "pos_ffn.layer_norm",
    },
    embedding="decoder.trg_word_emb",
    embedding_norm="decoder.layer_norm",
    positions="decoder.position_enc.pos_table",
    order="slf_attn enc_attn pos_ffn",
    head="trg_word_prj",
    head_bias=False,
)

PAIRS = (pair(CLASS, NAMES, ENCODER, DECODER),)
