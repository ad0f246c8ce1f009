"""Encoder-decoders whose constructors have arguments of unusual names, or take their sides ready-made."""

import torch
from torch import nn


def stack(layer, wide, crew, many, inner):
    return nn.ModuleList(
        layer(wide, crew, inner, 0.0, batch_first=True, norm_first=True) for _ in range(many)
    )


class Table(nn.Module):
    def __init__(self, words, wide):
        super().__init__()
        self.tok_embedding = nn.Embedding(words, wide)
        self.pos_embedding = nn.Embedding(13, wide)

    def forward(self, ids):
        return self.tok_embedding(ids) + self.pos_embedding.weight[: ids.shape[1]]


class Encoder(Table):
    def __init__(self, words, wide, many, crew, inner):
        super().__init__(words, wide)
        self.layers = stack(nn.TransformerEncoderLayer, wide, crew, many, inner)

    def forward(self, ids):
        x = super().forward(ids)
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(Table):
    def __init__(self, words, wide, many, crew, inner):
        super().__init__(words, wide)
        self.layers = stack(nn.TransformerDecoderLayer, wide, crew, many, inner)
        self.fc_out = nn.Linear(wide, words)

    def forward(self, ids, memory):
        x = super().forward(ids)
        future = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for layer in self.layers:
            x = layer(x, memory, tgt_mask=future)
        return self.fc_out(x)


class Joined(nn.Module):
    """It takes its sides ready-made."""

    def __init__(self, encoder, decoder, pad_idx):
        super().__init__()
        self.encoder, self.decoder, self.pad_idx = encoder, decoder, pad_idx

    def forward(self, src, trg):
        return self.decoder(trg, self.encoder(src))


class Odd(Joined):
    """Its arguments have names that nobody knows."""

    def __init__(self, words_in, words_out, pad_idx, wide, crew, tall, growth=2.0):
        inner = int(growth * wide)
        sides = (
            Encoder(words_in, wide, tall, crew, inner),
            Decoder(words_out, wide, tall, crew, inner),
        )
        super().__init__(*sides, pad_idx)


class Layered(Joined):
    """It takes lists of blocks."""

    def __init__(self, encoder, decoder, readers: nn.ModuleList):
        super().__init__(encoder, decoder, 0)
        assert isinstance(readers, nn.ModuleList)


def made(words_in, words_out, wide, tall, crew):
    encoder, decoder = (
        Encoder(words_in, wide, tall, crew, 20),
        Decoder(words_out, wide, tall, crew, 20),
    )
    return Layered(encoder, decoder, nn.ModuleList())


class Waved(Joined):
    """Its positions are waves of other lengths than usual, which it makes and saves."""

    def __init__(self, words_in, words_out, wide, crew):
        sides = (Encoder(words_in, wide, 2, crew, 20), Decoder(words_out, wide, 2, crew, 20))
        super().__init__(*sides, 0)
        for side in sides:
            del side.pos_embedding
            side.pos_embedding = nn.Module()
            waves = torch.arange(13)[:, None] * 300.0 ** -torch.linspace(0, 1, wide)
            side.pos_embedding.register_buffer("weight", waves.sin() + waves.cos())
