"""An encoder-decoder in torch with any setting of many fields, of any layout, called in any usual way.

Random settings, layouts and names turn it into classes that nobody has seen.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from tests.classes.general import Mlp, Norm

# The words of a class for its parts; those of random classes come from lists of such words.
NAMES = {
    "blocks": "layers", "self": "self_attn", "cross": "cross_attn", "query": "q_proj", "key": "k_proj",
    "value": "v_proj", "fused": "qkv_proj", "key_value": "kv_proj", "out": "out_proj", "q_norm": "q_norm",
    "k_norm": "k_norm", "mlp": "ffn", "gate": "gate", "up": "linear1", "down": "linear2",
    "norm1": "norm1", "norm2": "norm2", "norm3": "norm3", "final": "norm",
    "embedding": "embedding", "positions": "pos_embedding", "head": "generator",
}  # fmt: skip


# How q, k and v are stored in self-attention and in cross-attention: one matrix, two, or three.
LAYOUTS = {
    "": (3, 3),
    "two": (1, 2),
    "one": (1, 1),
    "kv": (2, 2),
    "cross kv": (3, 2),
    "self one": (1, 3),
}


class Attention(nn.Module):
    """Attention to `memory`, with a matrix for each of q, k and v, or with fewer."""

    def __init__(self, c, names, fused, across):
        super().__init__()
        self.c, self.names, self.matrices = c, names, LAYOUTS[fused][across]
        width, bias = c.model_dim, c.qkv_bias
        if c.qk_norm == "full_width":
            for name in ("q_norm", "k_norm"):
                setattr(self, names[name], Norm(c, width))
        if self.matrices == 3:
            for name in ("query", "key", "value"):
                setattr(self, names[name], nn.Linear(width, width, bias))
        elif self.matrices == 2:
            setattr(self, names["query"], nn.Linear(width, width, bias))
            setattr(self, names["key_value"], nn.Linear(width, 2 * width, bias))
        else:
            setattr(self, names["fused"], nn.Linear(width, 3 * width, bias))
        setattr(self, names["out"], nn.Linear(width, width, c.attention_out_bias))

    def parts(self, x, memory):
        q, k, v = self.products(x, memory)
        if self.c.qk_norm == "full_width":
            q, k = getattr(self, self.names["q_norm"])(q), getattr(self, self.names["k_norm"])(k)
        return q, k, v

    def products(self, x, memory):
        names = self.names
        if self.matrices == 3:
            q = getattr(self, names["query"])(x)
            return q, getattr(self, names["key"])(memory), getattr(self, names["value"])(memory)
        if self.matrices == 2:
            keys_values = getattr(self, names["key_value"])(memory).chunk(2, -1)
            return getattr(self, names["query"])(x), *keys_values
        one, width = getattr(self, names["fused"]), x.shape[-1]
        bias = [None] * 3 if one.bias is None else one.bias.split(width)
        sources = (x, memory, memory)
        return [
            functional.linear(source, weight, b)
            for source, weight, b in zip(sources, one.weight.split(width), bias, strict=True)
        ]

    def forward(self, x, memory, mask):
        heads = [
            each.unflatten(-1, (self.c.num_heads, -1)).transpose(1, 2)
            for each in self.parts(x, memory)
        ]
        widths = {"head_dim": self.c.head_dim, "model_dim": self.c.model_dim, "none": 1}
        scores = heads[0] @ heads[1].mT * widths[self.c.attention_scale] ** -0.5
        scores = scores.masked_fill(mask == 0, -1e9)
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        return getattr(self, self.names["out"])(mixed)


class Block(nn.Module):
    def __init__(self, c, names, fused):
        super().__init__()
        self.c, self.names = c, names
        setattr(self, names["self"], Attention(c, names, fused, False))
        if c.cross_attention:
            setattr(self, names["cross"], Attention(c, names, fused, True))
        setattr(self, names["mlp"], Mlp(c, names, "gate_up" in names))
        for name in ("norm1", "norm2", "norm3")[: 3 if c.cross_attention else 2]:
            setattr(self, names[name], Norm(c, c.model_dim))

    def part(self, name, x, branch):
        norm = getattr(self, self.names[name])
        return norm(x + branch(x)) if self.c.norm == "post" else x + branch(norm(x))

    def forward(self, x, mask, memory=None, memory_mask=None):
        own = getattr(self, self.names["self"])
        x = self.part("norm1", x, lambda y: own(y, y, mask))
        if memory is None:
            return self.part("norm2", x, getattr(self, self.names["mlp"]))
        cross = getattr(self, self.names["cross"])
        x = self.part("norm2", x, lambda y: cross(y, memory, memory_mask))
        return self.part("norm3", x, getattr(self, self.names["mlp"]))


def sinusoids(time, width):
    angles = torch.arange(time)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Side(nn.Module):
    """An encoder or a decoder, without its head."""

    def __init__(self, c, names, fused, embedding=None):
        super().__init__()
        self.c, self.names = c, names
        embedding = embedding or nn.Embedding(c.vocab_size, c.model_dim)
        setattr(self, names["embedding"], embedding)
        if c.positions == "learned":
            setattr(self, names["positions"], nn.Embedding(c.context_length, c.model_dim))
        blocks = nn.ModuleList(Block(c, names, fused) for _ in range(c.num_blocks))
        setattr(self, names["blocks"], blocks)
        if c.final_norm:
            setattr(self, names["final"], Norm(c, c.model_dim))

    def forward(self, ids, *masks_and_memory):
        c, names = self.c, self.names
        x = getattr(self, names["embedding"])(ids) * c.embedding_scale
        if c.positions == "learned":
            x = x + getattr(self, names["positions"])(torch.arange(ids.shape[1]))
        elif c.positions == "sinusoidal":
            x = x + sinusoids(ids.shape[1], c.model_dim)
        for block in getattr(self, names["blocks"]):
            x = block(x, *masks_and_memory)
        return getattr(self, names["final"])(x) if c.final_norm else x


class Base(nn.Module):
    """The parts of an encoder-decoder of `config`, a Seq2SeqConfig; its forward is that of a subclass."""

    def __init__(self, config, names=NAMES, fused="", padding=None):
        super().__init__()
        encoder, decoder = config.encoder, config.decoder
        self.padding, names = padding, {**NAMES, **names}
        self.decoder = Side(decoder, names, fused)
        table = getattr(self.decoder, names["embedding"])
        self.encoder = Side(encoder, names, fused, table if encoder.shares_embedding else None)
        head = nn.Linear(decoder.model_dim, decoder.vocab_size, decoder.head_bias)
        if decoder.tied:
            head.weight = table.weight
        self.max_position_embeddings = decoder.context_length  # as no tensor may show it
        self.head_name = names["head"]
        setattr(self, self.head_name, head)

    def masks(self, src, tgt):
        """(of the source, of the target): of the future, and of padding if the class hides that."""
        future = torch.ones(tgt.shape[1], tgt.shape[1]).tril()[None, None]
        if self.padding is None:
            return torch.ones(len(src), 1, 1, src.shape[1]), future
        of_source, of_target = ((ids != self.padding)[:, None, None] for ids in (src, tgt))
        return of_source, future * of_target

    def written(self, src, tgt, src_mask, tgt_mask):
        memory = self.encoder(src, src_mask)
        return self.decoder(tgt, tgt_mask, memory, src_mask)

    def logits(self, src, tgt, src_mask, tgt_mask):
        return getattr(self, self.head_name)(self.written(src, tgt, src_mask, tgt_mask))


class Plain(Base):
    """It makes its own masks."""

    def forward(self, src, tgt):
        return self.logits(src, tgt, *self.masks(src, tgt))


class BlindRows(Base):
    """A class whose padding tokens attend to everything, instead of being hidden."""

    def forward(self, src, tgt):
        future = torch.ones(tgt.shape[1], tgt.shape[1]).tril()
        real = (tgt != self.padding)[:, None, :, None]
        return self.logits(src, tgt, self.masks(src, tgt)[0], future * real)


class Marked(Base):
    """It is told which tokens of the source are real."""

    def forward(self, source_ids, source_mask, decoder_input_ids):
        if source_mask.dtype != torch.bool or source_mask.shape != source_ids.shape:
            raise ValueError("a mask (B, S) is needed")
        future = self.masks(source_ids, decoder_input_ids)[1]
        return self.logits(source_ids, decoder_input_ids, source_mask[:, None, None], future)


class PaddedRows(Base):
    """It is told which tokens are padding, with an axis for queries, and returns one row a token."""

    def forward(self, src, tgt, src_pad_mask, tgt_pad_mask):
        future = self.masks(src, tgt)[1]
        seen, of_target = (
            ~mask.expand(-1, mask.shape[2], -1) for mask in (src_pad_mask, tgt_pad_mask)
        )
        return self.logits(src, tgt, seen[:, None, :1], of_target[:, None] & future.bool()).flatten(
            0, 1
        )


class ScaledEmbedding(nn.Embedding):
    """Its scale is a tensor that is no buffer, rounded to float32."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = torch.tensor([sizes[1]], dtype=torch.float32).sqrt()

    def forward(self, ids):
        return super().forward(ids) * self.scale


class Narrow(Plain):
    """Its embeddings have scales that are tensors."""

    def __init__(self, config):
        super().__init__(config)
        for side in (self.encoder, self.decoder):
            c = side.c
            setattr(side, side.names["embedding"], ScaledEmbedding(c.vocab_size, c.model_dim))


class Masked(Base):
    """It is given its masks."""

    def forward(self, src, tgt, src_mask, tgt_mask):
        return self.logits(src, tgt, src_mask, tgt_mask)


class Hidden(Base):
    """It leaves the head to its caller."""

    def forward(self, src, tgt, src_mask, tgt_mask):
        return self.written(src, tgt, src_mask, tgt_mask)


class Steps(Base):
    """It has no forward."""

    def encode(self, src, src_mask):
        return self.encoder(src, src_mask)

    def decode(self, memory, src_mask, tgt, tgt_mask):
        return self.decoder(tgt, tgt_mask, memory, src_mask)

    def project(self, x):
        return getattr(self, self.head_name)(x)


class LogProbabilities(Masked):
    """It ends with a log_softmax."""

    def forward(self, src, tgt, src_mask, tgt_mask):
        return super().forward(src, tgt, src_mask, tgt_mask).log_softmax(-1)


class Probabilities(Plain):
    """It ends with a softmax."""

    def forward(self, src, tgt):
        return super().forward(src, tgt).softmax(-1)


class Scaled(Plain):
    """A class whose memory is multiplied by a number, which no field describes."""

    def written(self, src, tgt, src_mask, tgt_mask):
        memory = 1.5 * self.encoder(src, src_mask)
        return self.decoder(tgt, tgt_mask, memory, src_mask)


class HalfPadded(Plain):
    """A class that hides padding from its encoder but not from cross-attention, which no field describes."""

    def written(self, src, tgt, src_mask, tgt_mask):
        memory = self.encoder(src, src_mask)
        return self.decoder(tgt, tgt_mask, memory, torch.ones_like(src_mask))


CALLED = (Plain, Masked, Hidden, Steps, LogProbabilities, Probabilities)


def randomised(module, seed=0):
    """`module` with random values of the size of trained ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 2:
                value.copy_(noise * 1.5 / math.sqrt(value.shape[1]))
            else:
                value.copy_(noise * 0.2 + name.endswith("weight"))
    return module.eval()
