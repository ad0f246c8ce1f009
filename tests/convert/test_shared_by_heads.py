"""Attention whose heads share one small matrix each for queries, keys and values.

Each head applies it to its own part of the input. A much copied tutorial has such a class; here it
is a decoder and an encoder-decoder, with the parts taken before or after the heads are moved.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convert
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

SOURCE = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, bias=False, heads_first=False):
        super().__init__()
        self.heads, self.part, self.heads_first = heads, width // heads, heads_first
        for word in ("values", "keys", "queries"):
            setattr(self, word, nn.Linear(self.part, self.part, bias=bias))
        self.fc_out = nn.Linear(width, width)

    def split(self, x, matrix):
        x = x.reshape(*x.shape[:2], self.heads, self.part)
        if self.heads_first:
            return matrix(x.transpose(1, 2))
        return matrix(x).transpose(1, 2)

    def forward(self, values, keys, queries, mask):
        q, k = self.split(queries, self.queries), self.split(keys, self.keys)
        scores = q @ k.mT / (self.heads * self.part) ** 0.5
        weights = scores.masked_fill(mask == 0, -1e20).softmax(-1)
        mixed = weights @ self.split(values, self.values)
        return self.fc_out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads, **options):
        super().__init__()
        self.attention = Attention(width, heads, **options)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, width))

    def forward(self, value, key, query, mask):
        x = self.norm1(self.attention(value, key, query, mask) + query)
        return self.norm2(self.feed_forward(x) + x)


class DecoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.transformer_block = Block(width, heads)

    def forward(self, x, memory, source_mask, mask):
        query = self.norm(self.attention(x, x, x, mask) + x)
        return self.transformer_block(memory, memory, query, source_mask)


class Embedded(nn.Module):
    def __init__(self, vocab_size, width, max_length):
        super().__init__()
        self.word_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length, width)

    def embedded(self, ids):
        return self.word_embedding(ids) + self.position_embedding(torch.arange(ids.shape[1]))


class Model(Embedded):
    def __init__(self, vocab_size=31, width=24, num_layers=2, heads=4, max_length=11, **options):
        super().__init__(vocab_size, width, max_length)
        self.layers = nn.ModuleList(Block(width, heads, **options) for _ in range(num_layers))
        self.fc_out = nn.Linear(width, vocab_size)

    def forward(self, ids):
        x, mask = self.embedded(ids), torch.ones(ids.shape[1], ids.shape[1]).tril()
        for layer in self.layers:
            x = layer(x, x, x, mask)
        return self.fc_out(x)


class Encoder(Embedded):
    def __init__(self, vocab_size, width, heads, max_length):
        super().__init__(vocab_size, width, max_length)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(2))

    def forward(self, ids, mask):
        x = self.embedded(ids)
        for layer in self.layers:
            x = layer(x, x, x, mask)
        return x


class Decoder(Embedded):
    def __init__(self, vocab_size, width, heads, max_length):
        super().__init__(vocab_size, width, max_length)
        self.layers = nn.ModuleList(DecoderBlock(width, heads) for _ in range(2))
        self.fc_out = nn.Linear(width, vocab_size)

    def forward(self, ids, memory, source_mask, mask):
        x = self.embedded(ids)
        for layer in self.layers:
            x = layer(x, memory, source_mask, mask)
        return self.fc_out(x)


class Transformer(nn.Module):
    def __init__(self, src_vocab_size=29, trg_vocab_size=31, src_pad_idx=0, width=24, heads=4):
        super().__init__()
        self.encoder = Encoder(src_vocab_size, width, heads, 13)
        self.decoder = Decoder(trg_vocab_size, width, heads, 11)
        self.src_pad_idx = src_pad_idx

    def forward(self, src, trg):
        source_mask = (src != self.src_pad_idx)[:, None, None]
        mask = torch.ones(trg.shape[1], trg.shape[1]).tril()
        return self.decoder(trg, self.encoder(src, source_mask), source_mask, mask)
"""
space: dict[str, Any] = {}
exec(SOURCE, space)
RNG = np.random.default_rng(0)
IDS, OTHER = (
    torch.from_numpy(RNG.integers(1, 29, (2, 9))),
    torch.from_numpy(RNG.integers(1, 29, (2, 7))),
)
FORMS = {"plain": {}, "bias": {"bias": True}, "heads first": {"heads_first": True}}


def random(name: str, **options: Any) -> Any:
    """The class `name` in float64, with random values in every tensor."""
    torch.manual_seed(0)
    module = space[name](**options).double().eval()
    with torch.no_grad():
        for value in module.parameters():
            value += 0.1 * torch.randn_like(value)
    return module


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_a_decoder_is_the_same_with_and_without_its_class(options: dict[str, bool]) -> None:
    module = random("Model", **options)
    state = module.state_dict()
    for given in ({}, {"torch": module}):
        loaded = convert.to_flax(state, dtype="float64", **given)
        assert loaded.dialect.name == "shared"
        assert loaded.report.read["num_heads"] == 4
        np.testing.assert_allclose(
            loaded.model(IDS.numpy()), module(IDS).detach(), rtol=0, atol=1e-12
        )
        back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
        assert [*back] == [*state]
        assert all(torch.equal(back[name], value) for name, value in state.items())


def test_an_encoder_decoder_is_proven_from_its_file(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    module = random("Transformer")
    (tmp_path / "model.py").write_text(SOURCE)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    weights, out = str(tmp_path / "weights.pt"), str(tmp_path / "out")
    made = command(
        "jaxgpt-convert", "to-flax", weights, out, "--torch", f"{tmp_path}/model.py:Transformer"
    )
    assert made.code == 0
    assert "UNPROVEN: equal if the class was built with src_pad_idx = 0, " in made.out
    found = convert.to_flax(weights, dtype="float64")
    assert found.dialect.name == "pair-shared"
    assert found.config.encoder.num_heads == found.config.decoder.num_heads == 4
    theirs = module(OTHER, IDS).detach()
    np.testing.assert_allclose(found.model(OTHER.numpy(), IDS.numpy()), theirs, rtol=0, atol=1e-12)
    assert command("jaxgpt-convert", "to-torch", out, tmp_path / "back.pt").code == 0
    back = torch.load(tmp_path / "back.pt")
    assert all(torch.equal(back[name], value) for name, value in module.state_dict().items())


def test_heads_that_came_apart_cannot_be_written_back() -> None:
    loaded = convert.to_flax(random("Model").state_dict())
    kernel = flatten(loaded.params)["blocks/attn/qkv/kernel"]
    kernel[0, 0, 0, 0, 0] += 1  # of the first head alone
    with pytest.raises(UserError, match=r"different values along the heads.*--dialect"):
        convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    kernel[0, 0, 0, 0, 0] -= 1
    kernel[0, 0, 1, 0, 0] = 1  # what the second head reads of the first one's part
    with pytest.raises(
        UserError, match=r"each head of the torch class reads its own 6 elements of 24"
    ):
        convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    full = convert.to_torch(loaded.params, loaded.config, "separate")
    again = convert.to_flax(full, num_heads=4, norm="post", attention_scale="model_dim")
    np.testing.assert_array_equal(flatten(again.params)["blocks/attn/qkv/kernel"], kernel)


def test_a_class_that_trains_one_matrix_for_all_heads_is_not_trained_beside_the_model(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    module = random("Model").float()
    (tmp_path / "model.py").write_text(SOURCE)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    weights, out = str(tmp_path / "weights.pt"), str(tmp_path / "out")
    call = ("--torch", f"{tmp_path}/model.py:Model")
    assert command("jaxgpt-convert", "to-flax", weights, out, *call).code == 0
    trained = command("jaxgpt-convert", "verify", weights, out, *call, "--train-steps", "1")
    assert trained.code == 2
    assert "leave out --train-steps" in trained.err


def test_the_optimiser_of_shared_matrices_is_left_out_and_named() -> None:
    module = random("Model").float()
    optimizer = torch.optim.AdamW(module.parameters())
    module(IDS).square().mean().backward()
    optimizer.step()
    stored = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    left = convert.to_flax(stored).extras.left
    assert "{qkv}.weight" in left["optimizer"]
    assert "as one" in left["optimizer"]


def test_one_head_is_no_shared_matrix() -> None:
    """With one head its matrix is as wide as the model, as in classes with full matrices."""
    state = random("Model", heads=1).state_dict()
    with pytest.raises(UserError, match="num_heads"):
        convert.to_flax(state)
    loaded = convert.to_flax(state, num_heads=2)
    assert loaded.dialect.name == "separate"


def test_a_model_whose_width_its_heads_do_not_divide_has_no_place() -> None:
    loaded = convert.to_flax(random("Model").state_dict())
    config = dataclasses.replace(loaded.config, num_heads=5, num_kv_heads=5)
    with pytest.raises(UserError):
        convert.to_torch(loaded.params, config, "shared")
