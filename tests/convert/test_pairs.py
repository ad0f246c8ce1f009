"""Encoder-decoders are converted both ways: torch's own nn.Transformer, and other people's classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convert
from convert.__main__ import main
from convert.dialects import PAIRS
from convert.rows.pair import Pair
from convert.rows.whole import to_flax, to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params, assemble
from jaxgpt.model.positions import sinusoids
from jaxgpt.pytree import flatten, unflatten
from jaxgpt.seq2seq_config import Seq2SeqConfig
from tests.helpers import random_params

torch = pytest.importorskip("torch", reason="torch is not installed")

CLASS = '''
import math, torch
from torch import nn

class Translator(nn.Module):
    """An nn.Transformer in a wrapper, as tutorials write it."""

    def __init__(self, src_vocab_size=23, tgt_vocab_size=29, d_model=12, nhead=2):
        super().__init__()
        self.transformer = nn.Transformer(d_model, nhead, 3, 2, 20, 0.1, "gelu", batch_first=True)
        self.src_embedding = nn.Embedding(src_vocab_size, d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab_size, d_model)
        self.src_position = nn.Embedding(11, d_model)
        self.tgt_position = nn.Embedding(13, d_model)
        self.generator = nn.Linear(d_model, tgt_vocab_size)

    def forward(self, src, tgt, tgt_mask):
        s = self.src_embedding(src) + self.src_position.weight[: src.shape[1]]
        t = self.tgt_embedding(tgt) + self.tgt_position.weight[: tgt.shape[1]]
        return self.generator(self.transformer(s, t, tgt_mask=tgt_mask, tgt_is_causal=True))
'''
FIELDS = {"num_heads": 2, "norm": "post", "activation": "gelu"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "translator.py").write_text(CLASS)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(CLASS, namespace)
    torch.manual_seed(0)
    made = namespace["Translator"]().eval()
    for parameter in made.parameters():
        parameter.data.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    return made


def exit_code(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["jaxgpt-convert", *words])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_a_class_proves_its_file_through_three_steps_of_adamw(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(module.state_dict(), "w.pt")
    set_ = [word for field, value in FIELDS.items() for word in ("--set", f"{field}={value}")]
    assert exit_code("to-flax", "w.pt", "model", *set_) == 0
    named = ("--torch", "translator.py:Translator")
    capsys.readouterr()
    assert exit_code("verify", "w.pt", "model", *named, "--train-steps", "3", "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert page["verdict"] == "proven"
    stages = [stage["name"] for stage in page["stages"]]
    assert stages == [
        *(f"encoder block {i}" for i in range(3)), "embedding", "block 0", "block 1", "logits",
    ]  # fmt: skip
    trained = [row["name"] for row in page["training"]]
    assert any("transformer.encoder.layers.2.linear1.weight after 3 steps" in n for n in trained)


def test_a_wrong_field_of_the_encoder_is_told_in_its_first_block(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(module.state_dict(), "w.pt")
    set_ = [word for field, value in FIELDS.items() for word in ("--set", f"{field}={value}")]
    wrong = ("--set", "encoder.activation=relu")
    assert exit_code("to-flax", "w.pt", "model", *set_, *wrong) == 0
    named = ("--torch", "translator.py:Translator")
    capsys.readouterr()
    assert exit_code("verify", "w.pt", "model", *named, "--json") == 3
    page = json.loads(capsys.readouterr().out)
    assert page["first_difference"] == "encoder block 0"
    assert page["agreeing"]["fields"] == {"encoder.activation": "gelu"}
    assert "--set encoder.activation=gelu" in page["agreeing"]["command"]


def test_the_optimiser_goes_there_and_back(module: Any) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7, 8]]), mask).sum().backward()
        optimizer.step()
    saved = {
        "epoch": 2, "model_state_dict": module.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }  # fmt: skip
    torch.save(saved, "w.pt")
    loaded = convert.to_flax("w.pt", **FIELDS)
    assert loaded.extras.optimizer is not None
    loaded.save("model")
    assert exit_code("to-torch", "model", "back.pt") == 0
    back = torch.load("back.pt", weights_only=True)
    state, expected = (each["optimizer_state_dict"]["state"] for each in (back, saved))
    assert state.keys() == expected.keys()
    for number, entry in expected.items():
        for key, value in entry.items():
            assert torch.equal(state[number][key], value)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
def test_wrappers_and_bfloat16_are_read(module: Any, prefix: str) -> None:
    state = {f"{prefix}{name}": value.bfloat16() for name, value in module.state_dict().items()}
    loaded = convert.to_flax(state, **FIELDS)
    assert loaded.dialect.name == "torch-transformer"
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [f"{loaded.source.prefix}{name}" for name in back] == [*state]
    assert all(
        torch.equal(one, two) for one, two in zip(back.values(), state.values(), strict=True)
    )


def test_the_encoder_is_like_its_decoder_unless_something_else_is_said(module: Any) -> None:
    report = convert.to_flax(module, **FIELDS).report
    assert report.assumed["encoder.num_heads"] == 2
    assert report.assumed["encoder.head_dim"] == 6
    assert report.assumed["encoder.activation"] == "gelu"
    other = convert.to_flax(module, **FIELDS, encoder={"num_heads": 3, "activation": "relu"})
    assert other.report.given["encoder.num_heads"] == 3
    assert other.config.encoder.head_dim == 4
    assert other.config.encoder.activation == "relu"
    assert not {"encoder.tied", "encoder.head_bias"} & {*report.read, *report.assumed}


def test_a_shared_embedding_is_found_by_its_bits(module: Any) -> None:
    state = dict(module.state_dict())
    state["tgt_embedding.weight"] = state["src_embedding.weight"].clone()
    state |= {"generator.weight": state["src_embedding.weight"].clone()}
    state |= {"generator.bias": state["generator.bias"][:23]}
    loaded = convert.to_flax(state, **FIELDS)
    assert loaded.config.encoder.shares_embedding
    assert loaded.config.decoder.tied
    assert "token_embedding" not in loaded.params["encoder"]
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*state]
    assert all(torch.equal(back[name], value) for name, value in state.items())
    again = convert.to_torch(loaded.params, loaded.config, "torch-transformer")
    assert convert.to_flax(again, **FIELDS).config == loaded.config


def test_a_dialect_for_the_other_kind_of_file_is_refused(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(module.state_dict(), "w.pt")
    assert exit_code("to-flax", "w.pt", "model", "--dialect", "torch-decoder") == 2
    assert "torch-decoder" in capsys.readouterr().err
    torch.save(convert.to_torch(*tiny_decoder(), "gpt"), "gpt.pt")
    assert exit_code("to-flax", "gpt.pt", "model", "--dialect", "hkproj") == 2
    assert "do not fit hkproj" in capsys.readouterr().err
    assert exit_code("to-flax", "gpt.pt", "model", "--set", "encoder.norm=post") == 2
    assert "a decoder alone" in capsys.readouterr().err
    convert.to_flax("w.pt", **FIELDS).save("pair")
    assert exit_code("to-torch", "pair", "out.pt", "--dialect", "gpt") == 2
    assert "is an encoder-decoder" in capsys.readouterr().err


def test_a_text_cannot_settle_a_pair(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(module.state_dict(), "w.pt")
    Path("text.txt").write_text("a text")
    set_ = [
        word
        for name, value in FIELDS.items()
        if name != "encoder"
        for word in ("--set", f"{name}={value}")
    ]
    assert exit_code("probe", "w.pt", "--text", "text.txt", *set_) == 2
    assert "attends to an encoder" in capsys.readouterr().err


def tiny_decoder() -> tuple[Any, ModelConfig]:
    config = ModelConfig(vocab_size=5, context_length=4, model_dim=6, num_blocks=1, num_heads=2)
    flat = flatten(abstract_params(config))
    return unflatten({n: np.ones(leaf.shape, np.float32) for n, leaf in flat.items()}), config


def config_of(pair: Pair) -> Seq2SeqConfig:
    """A small model that files of `pair` can hold."""
    sizes = {"model_dim": 12, "num_blocks": 2, "dropout": 0.0}

    def side(dialect: Any, **own: Any) -> ModelConfig:
        names = {row.flax.name for row in dialect.rows if hasattr(row, "flax")}
        usual = {
            name: value
            for name, value in dialect.unsaid.items()
            if name in ("norm", "norm_std", "norm_eps", "sinusoidal_layout", "activation")
        }
        stored = "pos_embedding/embedding" in names and "positions" not in dialect.unsaid
        embedding = {"embedding_norm/scale"} & names
        return ModelConfig(
            **{**sizes, **usual, **own},
            final_norm="final_norm/scale" in names,
            extra_norms=["embedding"] if embedding else [],
            positions="learned" if stored or dialect.positions_offset else "sinusoidal",
            positions_offset=dialect.positions_offset,
            qkv_bias=True,
            head_bias="head/bias" in names,
        )

    encoder = side(pair.encoder, vocab_size=17, context_length=9, num_heads=2, mlp_dim=14)
    decoder = side(
        pair.decoder, vocab_size=19, context_length=11, num_heads=3, mlp_dim=16,
        cross_attention=True,
    )  # fmt: skip
    return Seq2SeqConfig(encoder, decoder)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=lambda pair: pair.name)
def test_rows_are_there_and_back_bit_for_bit(pair: Pair) -> None:
    config = config_of(pair)
    params = random_params(config, np.dtype("float32"), pair)
    tensors = to_torch(pair, config, params)
    given = {"num_heads": 3, "encoder": {"num_heads": 2}}
    fields = {"context_length": 11} if "positions" in pair.decoder.unsaid else {}
    detected = convert.inspect(
        {name: torch.from_numpy(value) for name, value in tensors.items()},
        dialect=pair.name, **given, **fields,
    ).detected  # fmt: skip
    assert detected.dialect.name == pair.name
    back = flatten(to_flax(detected.dialect, config, tensors.__getitem__))
    assert back.keys() == flatten(params).keys()
    for path, value in flatten(params).items():
        assert back[path].tobytes() == value.tobytes(), path


# The first tensors of each module of a block, and of each module of the class, in the class's order.
ORDERS = {
    "hkproj": [
        "encoder.layers.0.self_attention_block.w_q.weight", "encoder.layers.0.feed_forward_block.linear_1.weight",
        "encoder.layers.0.residual_connections.0.norm.alpha", "encoder.norm.alpha",
        "decoder.layers.0.self_attention_block.w_q.weight", "decoder.layers.0.cross_attention_block.w_q.weight",
        "decoder.norm.alpha", "src_embed.embedding.weight", "tgt_embed.embedding.weight",
        "projection_layer.proj.weight",
    ],
    "annotated": [
        "encoder.layers.1.sublayer.1.norm.a_2", "encoder.norm.a_2", "decoder.layers.0.self_attn.linears.0.weight",
        "decoder.norm.b_2", "src_embed.0.lut.weight", "tgt_embed.0.lut.weight", "generator.proj.weight",
    ],
    "d2l": [
        "encoder.embedding.weight", "encoder.blks.block0.attention.W_q.weight",
        "encoder.blks.block0.addnorm1.ln.weight", "encoder.blks.block0.ffn.dense1.weight",
        "encoder.blks.block0.addnorm2.ln.weight", "encoder.blks.block1.attention.W_q.weight",
        "decoder.embedding.weight", "decoder.blks.block0.attention1.W_q.weight",
        "decoder.blks.block0.addnorm1.ln.weight", "decoder.blks.block0.attention2.W_q.weight",
        "decoder.blks.block0.addnorm2.ln.weight", "decoder.blks.block0.ffn.dense1.weight",
        "decoder.blks.block0.addnorm3.ln.weight", "decoder.dense.weight",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_tensors_are_written_in_the_order_of_the_class(name: str) -> None:
    """A torch optimiser numbers its state so."""
    config = config_of(PAIRS[name])
    flat = flatten(abstract_params(config))
    params = unflatten({path: np.ones(leaf.shape, np.float32) for path, leaf in flat.items()})
    written = [*to_torch(PAIRS[name], config, params)]
    assert [key for key in written if key in ORDERS[name]] == ORDERS[name]


def test_what_has_one_number_for_a_norm_cannot_take_a_vector() -> None:
    state = {name: torch.from_numpy(value) for name, value in scalar_norms().items()}
    loaded = convert.to_flax(state, num_heads=3)
    assert loaded.dialect.name == "hkproj"
    assert loaded.params["encoder"]["blocks"]["norm1"]["scale"].shape == (2, 12)
    scale = loaded.params["encoder"]["blocks"]["norm1"]["scale"]
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    scale[0, 0] += 1
    with pytest.raises(UserError, match="different values along the width.*with --dialect"):
        convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    newer = convert.to_torch(loaded.params, loaded.config, "hkproj")
    assert newer["encoder.layers.0.residual_connections.0.norm.alpha"].shape == (12,)
    again = convert.to_flax(newer, num_heads=3)
    np.testing.assert_array_equal(again.params["encoder"]["blocks"]["norm1"]["scale"], scale)


def test_norms_of_queries_and_keys_and_rotary_tables_are_read() -> None:
    config = config_of(PAIRS["pair-separate"])
    sides = (
        dataclasses.replace(side, qk_norm="before_rotary", positions="rotary")
        for side in (config.encoder, config.decoder)
    )
    config = Seq2SeqConfig(*sides)
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    params = {n: rng.standard_normal(leaf.shape).astype(np.float32) for n, leaf in flat.items()}
    tensors = to_torch(PAIRS["pair-separate"], config, unflatten(params))
    assert "decoder.layers.0.cross_attn.q_norm.weight" in tensors
    for side, heads in (("encoder", 2), ("decoder", 3)):
        width = 12 // heads
        angles = 10000.0 ** (-np.arange(0, width, 2) / width)
        for layer in range(2):
            tensors[f"{side}.layers.{layer}.self_attn.rope.inv_freq"] = angles.astype(np.float32)
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    loaded = convert.to_flax(state, context_length=11)
    assert loaded.report.read["positions"] == loaded.report.read["encoder.positions"] == "rotary"
    assert loaded.report.read["encoder.num_heads"] == 2  # as wide as a norm
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert all(torch.equal(state[name], value) for name, value in back.items())


def scalar_norms() -> dict[str, np.ndarray]:
    """Tensors of the oldest hkproj, with one number in place of each vector of a norm."""
    config = config_of(PAIRS["hkproj"])
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    params = {n: rng.standard_normal(leaf.shape).astype(np.float32) for n, leaf in flat.items()}
    tensors = to_torch(PAIRS["hkproj"], config, unflatten(params))
    return {name: value[:1] if ".norm." in name else value for name, value in tensors.items()}


def test_a_norm_after_the_embeddings_is_not_taken_for_one_after_the_blocks() -> None:
    """The norm that jadore's encoder and decoder have outside of blocks comes before these."""
    config = config_of(PAIRS["jadore"])
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    params = {n: 0.3 * rng.standard_normal(leaf.shape) for n, leaf in flat.items()}
    w = {
        n: torch.from_numpy(v)
        for n, v in to_torch(PAIRS["jadore"], config, unflatten(params)).items()
    }
    source, tokens = rng.integers(0, 17, (2, 7)), rng.integers(0, 19, (2, 5))
    ours = assemble(config, unflatten(params))(source, tokens)
    np.testing.assert_allclose(ours, jadore(config, w, source, tokens), rtol=0, atol=1e-10)
    state = {name: value.float() for name, value in w.items()}
    loaded = convert.to_flax(state, num_heads=3, encoder={"num_heads": 2}, context_length=11)
    assert loaded.dialect.name == "jadore"
    assert loaded.config.decoder.extra_norms == ["embedding"]


def jadore(config: Seq2SeqConfig, w: dict[str, Any], source: Any, tokens: Any) -> Any:
    """The logits of that class in plain torch."""
    F = torch.nn.functional

    def norm(name: str, x: Any) -> Any:
        eps = config.decoder.norm_eps
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def attention(name: str, heads: int, x: Any, memory: Any, causal: bool) -> Any:
        parts = (
            linear(f"{name}.w_{part}s", y)
            for part, y in zip("qkv", (x, memory, memory), strict=True)
        )
        split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]
        mixed = F.scaled_dot_product_attention(*split, is_causal=causal).transpose(1, 2).flatten(2)
        return norm(f"{name}.layer_norm", linear(f"{name}.fc", mixed) + x)

    def side(name: str, side: ModelConfig, word: str, ids: Any, memory: Any = None) -> Any:
        table = w.get(
            f"{name}.position_enc.pos_table", torch.zeros(1, side.context_length, side.model_dim)
        )
        angles = torch.from_numpy(sinusoids(ids.shape[1], side.model_dim))
        x = w[f"{name}.{word}.weight"][ids] + (
            angles if side.positions == "sinusoidal" else table[0, : ids.shape[1]]
        )
        x = norm(f"{name}.layer_norm", x)
        for block in (f"{name}.layer_stack.{layer}" for layer in range(side.num_blocks)):
            x = attention(f"{block}.slf_attn", side.num_heads, x, x, memory is not None)
            if memory is not None:
                x = attention(f"{block}.enc_attn", side.num_heads, x, memory, False)
            y = linear(f"{block}.pos_ffn.w_2", torch.relu(linear(f"{block}.pos_ffn.w_1", x)))
            x = norm(f"{block}.pos_ffn.layer_norm", y + x)
        return x

    memory = side("encoder", config.encoder, "src_word_emb", source)
    return linear("trg_word_prj", side("decoder", config.decoder, "trg_word_emb", tokens, memory))


def test_the_names_of_norms_show_which_formula_is_likely() -> None:
    """Tutorials whose norms have `alpha` divide by the standard deviation; it stays an assumption."""
    config = config_of(PAIRS["pair-separate"])
    flat = flatten(abstract_params(config))
    params = {path: np.ones(leaf.shape, np.float32) for path, leaf in flat.items()}
    tensors = to_torch(PAIRS["pair-separate"], config, unflatten(params))
    positions = {"positions": "sinusoidal", "context_length": 11}
    given = {"num_heads": 3, **positions, "encoder": {"num_heads": 2, **positions}}
    for weight, std, eps in (("weight", "biased", 1e-5), ("alpha", "unbiased_plus_eps", 1e-6)):
        state = {
            name.replace("weight", weight) if "norm" in name else name: torch.from_numpy(value)
            for name, value in tensors.items()
        }
        assumed = convert.inspect(state, **given).detected.report.assumed
        assert assumed["norm_std"] == assumed["encoder.norm_std"] == std
        assert assumed["norm_eps"] == assumed["encoder.norm_eps"] == eps


def test_vectors_of_norms_may_have_axes_of_length_one() -> None:
    config = config_of(PAIRS["pair-separate"])
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    params = {n: rng.standard_normal(leaf.shape).astype(np.float32) for n, leaf in flat.items()}
    tensors = to_torch(PAIRS["pair-separate"], config, unflatten(params))
    state = {
        name.replace("weight", "gamma") if "norm" in name else name: torch.from_numpy(value)
        for name, value in tensors.items()
    }
    wide = {n: v[None, None] if n.endswith("gamma") else v for n, v in state.items()}
    positions = {"positions": "sinusoidal", "context_length": 11}
    given = {"num_heads": 3, **positions, "encoder": {"num_heads": 2, **positions}}
    one, two = (convert.to_flax(each, **given) for each in (state, wide))
    assert one.report.assumed["embedding_scale"] == 12**0.5
    rotary = {**positions, "positions": "rotary", "rotary_layout": "half"}
    turned = convert.inspect(state, **{**given, **rotary, "encoder": {"num_heads": 2, **rotary}})
    assert turned.detected.report.assumed["embedding_scale"] == 1.0
    assert one.config == two.config
    for path, value in flatten(one.params).items():
        np.testing.assert_array_equal(flatten(two.params)[path], value)
    back = convert.to_torch(two.params, two.config, two.dialect)
    assert all(torch.equal(back[name], value) for name, value in wide.items())
