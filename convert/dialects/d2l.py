"""The encoder-decoder of Dive into Deep Learning, whose table of positions is in no file."""

from ..names.pair_classes import Names, Side, pair
from ..rows.dialect import Dialect
from ..rows.fields import ROOT_OF_WIDTH, USUAL

CLASS = Dialect(
    "d2l",
    "the Transformer of the book Dive into Deep Learning",
    rows=(),
    unsaid={
        **USUAL,
        "norm": "post",
        "positions": "sinusoidal",
        "context_length": 1000,
        "embedding_scale": ROOT_OF_WIDTH,
        "dropout": 0.1,
    },
    beware="the class masks the future in training mode alone, and in evaluation is meant to be "
    "fed one token at a time",
)
NAMES = Names("W_q W_k W_v", "{qkv}", "W_o", "ffn.dense1", "ffn.dense2")
ENCODER = Side(
    "encoder.blks.block{layer}",
    {"blocks/attn": "attention"},
    {"blocks/norm1": "addnorm1.ln", "blocks/norm2": "addnorm2.ln"},
    embedding="encoder.embedding",
    order="attention addnorm1 ffn addnorm2",
)
DECODER = Side(
    "decoder.blks.block{layer}",
    {"blocks/attn": "attention1", "blocks/cross_attn": "attention2"},
    {
        "blocks/norm1": "addnorm1.ln",
        "blocks/cross_norm": "addnorm2.ln",
        "blocks/norm2": "addnorm3.ln",
    },
    embedding="decoder.embedding",
    order="attention1 addnorm1 attention2 addnorm2 ffn addnorm3",
    head="decoder.dense",
)

PAIRS = (pair(CLASS, NAMES, ENCODER, DECODER),)
