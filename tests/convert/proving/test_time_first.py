"""Classes that take ids (time, batch), as torch's own layers do unless they are told otherwise."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from convert import assert_same, to_flax  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.classes import pairs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
WIDTH, HEADS, MLP, VOCAB, TIME = 16, 2, 20, 23, 9


def causal(length: int) -> torch.Tensor:
    return nn.Transformer.generate_square_subsequent_mask(length)


class Base(nn.Module):
    """Embeddings for texts whose time is `axis`, and a head."""

    def __init__(self, axis: int = 0):
        super().__init__()
        self.axis = axis
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.position = nn.Embedding(TIME, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def embedded(self, ids):
        places = self.position.weight[: ids.shape[self.axis]]
        return self.embedding(ids) + (places[:, None] if self.axis == 0 else places)


class Decoder(Base):
    def __init__(self, axis: int = 0):
        super().__init__(axis)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, MLP, batch_first=axis == 1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, src):
        mask = causal(src.shape[self.axis])
        return self.head(self.encoder(self.embedded(src), mask, is_causal=True))


class DecoderWithBatchFirst(Decoder):
    """Takes (T, B) and returns (B, T, V)."""

    def forward(self, src):
        return super().forward(src).transpose(0, 1)


class Pair(Base):
    def __init__(self, axis: int = 0):
        super().__init__(axis)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, MLP, batch_first=axis == 1)

    def forward(self, src, tgt, tgt_mask):
        x, y = self.embedded(src), self.embedded(tgt)
        return self.head(self.transformer(x, y, tgt_mask=tgt_mask))


class PairThatTurns(Base):
    """Takes (T, B), and turns the embeddings for a batch-first nn.Transformer."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, MLP, batch_first=True)

    def forward(self, src, tgt, tgt_mask, src_padding_mask):
        x, y = (self.embedded(ids).transpose(0, 1) for ids in (src, tgt))
        return self.head(
            self.transformer(x, y, tgt_mask=tgt_mask, src_key_padding_mask=src_padding_mask)
        )


class Steps(Base):
    """An encoder-decoder whose caller passes the memory on."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, MLP)

    def encode(self, src):
        return self.transformer.encoder(self.embedded(src))

    def decode(self, tgt, memory):
        mask = causal(len(tgt))
        return self.head(self.transformer.decoder(self.embedded(tgt), memory, mask))


class WithMemory(Base):
    def __init__(self):
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, MLP), 2)

    def forward(self, tgt, memory):
        return self.head(self.decoder(self.embedded(tgt), memory, causal(len(tgt))))


CLASSES = (Decoder, DecoderWithBatchFirst, Pair, PairThatTurns, Steps, WithMemory)


@pytest.mark.parametrize("cls", CLASSES)
def test_time_may_come_first(cls: Any) -> None:
    module = pairs.randomised(cls())
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.proven_by
    assert not loaded.report.assumed.keys() - {"dropout", "encoder.dropout"}


def test_a_module_that_takes_time_first_is_compared_on_a_single_text() -> None:
    module = pairs.randomised(Decoder())
    model = to_flax(module.state_dict(), torch=module).model
    assert_same(module, model, [[3, 1, 4, 1, 5]])


@pytest.mark.parametrize("cls", [Decoder, Pair])
def test_positions_by_row_of_the_batch_are_refused(cls: Any) -> None:
    """The table is cut with the wrong axis, so that a text depends on its place in the batch."""

    class ByRow(cls):
        def embedded(self, ids):
            return self.embedding(ids) + self.position.weight[: ids.shape[self.axis - 1], None]

    module = pairs.randomised(ByRow(axis=1))
    with pytest.raises(UserError, match="same text other logits in another row"):
        to_flax(module.state_dict(), torch=module)
