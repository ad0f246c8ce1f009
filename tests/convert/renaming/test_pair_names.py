"""Encoder-decoders with any modules and names: shapes, words and order identify the parts, or leave them open."""

import functools
import re
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.renaming.attention_roles import SHAPES  # noqa: E402
from convert.renaming.pair_guesses import guesses  # noqa: E402
from convert.renaming.pair_names import ways_of_pair  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.seq2seq_config import Seq2SeqConfig  # noqa: E402
from tests.classes import pairs  # noqa: E402
from tests.convert.renaming.test_unusual_names import equal  # noqa: E402

State = dict[str, Any]
GIVEN = {"num_heads": 4}
WIDTH = 24


@functools.cache
def pair(fused: str = "") -> Any:
    """An encoder-decoder with positions learned, two blocks on each side and final norms."""
    side: State = {
        "model_dim": WIDTH, "num_blocks": 2, "num_heads": 4, "mlp_dim": 40, "positions": "learned",
        "context_length": 11, "dropout": 0.0,
    }  # fmt: skip
    config = Seq2SeqConfig(
        ModelConfig(**side, vocab_size=23), ModelConfig(**side, vocab_size=29, cross_attention=True)
    )
    return pairs.randomised(pairs.Plain(config, {}, fused), 1)


def renamed(state: State, *changes: tuple[str, str]) -> State:
    for old, new in changes:
        state = {re.sub(old, new, name): value for name, value in state.items()}
    return state


def in_heads(state: State) -> State:
    """The tensors with queries, keys and values in a module for each head."""
    new: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*_attn\.)([qkv])_proj\.(weight|bias)", name)
        if not match:
            new[name] = value
        for head, part in enumerate(value.chunk(4) if match else ()):
            new[f"{match[1]}heads.{head}.{match[2]}.{match[3]}"] = part
    return new


# A block's parts by number, with a residual module around each; MLPs in another.
NUMBERS = (
    (r"self_attn", "0.fn"), (r"cross_attn", "1.fn"), (r"(encoder.*)ffn", r"\1 1.fn.net"),
    (r"(decoder.*)ffn", r"\1 2.fn.net"), (r"norm(\d)", lambda m: f"{int(m[1]) - 1}.norm"), (" ", ""),
)  # fmt: skip
FORMS: dict[str, Any] = {
    "residual modules by letter": lambda s: renamed(
        s, ("self_attn", "res_a.fn"), ("cross_attn", "res_b.fn"),
        (r"(encoder.*)ffn", r"\1res_b.fn"), (r"(decoder.*)ffn", r"\1res_c.fn"),
        ("norm1", "res_a.ln"), ("norm2", "res_b.ln"), ("norm3", "res_c.ln"),
    ),
    "sublayers by number": lambda s: renamed(s, *NUMBERS),
    "heads as modules": in_heads,
    "words of nothing": lambda s: renamed(
        s, ("encoder.layers", "left"), ("decoder.layers", "right"), ("self_attn", "m1"),
        ("cross_attn", "m2"), ("ffn", "net"), (r"norm(\d)", r"n\1"),
        (r"encoder\.embedding", "ea"), (r"decoder\.embedding", "eb"), (r"encoder\.pos_embedding", "pa"),
        (r"decoder\.pos_embedding", "pb"), (r"encoder\.norm", "fa"), (r"decoder\.norm", "fb"),
        ("generator", "say"),
    ),
    "norms by the words of what they are of": lambda s: renamed(
        s, (r"(encoder.*)norm1", r"\1norm_after_attention"), (r"(encoder.*)norm2", r"\1norm_after_ff"),
        ("norm1", "norm_after_self_attn"), ("norm2", "norm_after_cross"), ("norm3", "norm_after_ff"),
        (r"(encoder.*)self_attn\.", r"\1attention."),
    ),
    "other words of queries, keys and values": lambda s: renamed(
        s, (r"([qkv])_proj", r"proj_\1s"), ("out_proj", "unify")
    ),
    "an encoder's block in the decoder's": lambda s: renamed(
        s, (r"(encoder.*)self_attn\.", r"\1mha."), (r"(encoder.*)norm(\d)", r"\1ln_\2"),
        (r"(decoder.*)self_attn", r"\1own"), ("cross_attn", "inner.mha"), (r"(decoder.*)ffn", r"\1inner.ffn"),
        (r"(decoder.*)norm1", r"\1ln"), (r"(decoder.*)norm2", r"\1inner.ln_1"), (r"(decoder.*)norm3", r"\1inner.ln_2"),
    ),
}  # fmt: skip


def mlp_backwards(state: State) -> State:
    """The tensors with the last matrix of each MLP first, in words of nothing."""
    places = {name: i for i, name in enumerate(state)}
    first = {name.partition("ffn")[0]: places[name] for name in reversed(state) if "ffn" in name}
    order = sorted(
        state,
        key=lambda n: (first[n.partition("ffn")[0]] if "ffn" in n else places[n], "linear1" in n),
    )
    return renamed({n: state[n] for n in order}, ("linear1", "widen"), ("linear2", "narrow"))


def convolved(state: State) -> State:
    return {
        name: value[..., None] if re.search(r"linear\d\.weight", name) else value
        for name, value in state.items()
    }


def bare(state: State) -> State:
    """The tensors as parameters (in, out) in the blocks, whose lists are attributes."""
    turned = {n: v.mT.contiguous() if v.ndim > 1 and "layers" in n else v for n, v in state.items()}
    return renamed(
        turned, (r"encoder\.layers\.", "enc_"), (r"decoder\.layers\.", "dec_"),
        (r"self_attn\.(q|k|v)_proj\.(w|b)\w+", r"\2\1"), (r"self_attn\.out_proj\.(w|b)\w+", r"\1o"),
        (r"cross_attn\.(q|k|v)_proj\.(w|b)\w+", r"\2\1_cross"), (r"cross_attn\.out_proj\.(w|b)\w+", r"\1o_cross"),
        (r"ffn\.linear(\d)\.(w|b)\w+", r"\2\1"), (r"norm(\d)\.weight", r"g\1"), (r"norm(\d)\.bias", r"beta\1"),
    )  # fmt: skip


FORMS |= {
    "MLPs backwards": mlp_backwards, "convolutions of width 1": convolved, "bare parameters": bare,
    "tables of positions as parameters": lambda s: {
        re.sub(r"(\w+)coder\.pos_embedding\.weight", r"where_\1", n): v[None] if "pos_" in n else v
        for n, v in s.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_same_tensors_in_other_modules_are_the_same_model(form: str) -> None:
    plain = pair().state_dict()
    other = FORMS[form](plain)
    loaded = convert.to_flax(other, **({} if "heads" in form else GIVEN))
    assert equal(loaded, convert.to_flax(plain, **GIVEN))
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert list(back) == list(other)
    assert all(torch.equal(back[name], value) for name, value in other.items())


OPEN: dict[str, Any] = {
    "attentions": ((r"decoder(.*)self_attn", r"decoder\1recall"), ("cross_attn", "glance")),
    "queries, keys and values": (
        ("q_proj", "frage"), ("k_proj", "stelle"), ("v_proj", "wert"), ("out_proj", "ende")
    ),
    "two tables of ids": (
        (r"encoder\.embedding", "x_emb"), (r"decoder\.embedding", "y_emb"),
        (r"encoder\.pos_embedding", "x_pos"), (r"decoder\.pos_embedding", "y_pos"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OPEN)
def test_what_nothing_tells_is_not_guessed(what: str) -> None:
    state = dict(pair().state_dict())
    if what == "two tables of ids":  # of one vocabulary, in a file that is sorted
        state["encoder.embedding.weight"] = torch.ones(29, WIDTH)
    other = renamed(state, *OPEN[what])
    with pytest.raises(UserError, match=r"nothing shows whether .* --torch module:Class"):
        convert.to_flax(dict(sorted(other.items())), **GIVEN)


@pytest.mark.parametrize("what", ["attentions", "queries, keys and values"])
def test_the_likeliest_guess_is_the_order_of_the_class(what: str) -> None:
    plain = pair().state_dict()
    other = renamed(plain, *OPEN[what])
    first = next(iter(guesses({name: tuple(v.shape) for name, v in other.items()})))
    own = dict(zip(other, plain, strict=True))
    for name, new in first.names.items():
        if "_proj" in own[name]:
            assert new == own[name], name


def test_an_attention_named_for_the_target_is_never_cross_attention() -> None:
    names = renamed(pair().state_dict(), ("cross_attn", "masked_attn"), ("self_attn", "own_attn"))
    table = {
        re.sub(r"layers\.\d", "layers.{layer}", name): tuple(value.shape)
        for name, value in names.items()
    }
    assert not list(ways_of_pair(table, WIDTH, SHAPES, ordered=True))
