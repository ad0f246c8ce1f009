"""Classes whose names, order or shapes mislead are refused, or the warnings say how they were read."""

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.renaming.attention_words import holds_parts  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.seq2seq_config import Seq2SeqConfig  # noqa: E402
from tests.classes import pairs  # noqa: E402
from tests.convert.renaming.test_unusual_names import GIVEN, State, renamed, turned  # noqa: E402
from tests.convert.test_few_tensors import decoder  # noqa: E402

OPEN = r"fit no known dialect|nothing shows whether"


def in_order(state: State, *words: str) -> State:
    """The tensors whose names have `words` first, in this order."""
    return {n: state[n] for word in (*words, "") for n in state if word in n}


def is_sorted(state: State) -> State:
    return {name: state[name] for name in sorted(state)}


DECODERS: dict[str, tuple[tuple[str, str], ...]] = {
    "numbers against the order of the class": (("norm1", "gain_2"), ("norm2", "gain_1")),
    "a norm after attention that is the MLP's": (("norm1", "calm"), ("norm2", "after_attn")),
    "words that begin with q, k and v": (
        ("q_proj", "vantage"), ("k_proj", "quantity"), ("v_proj", "kind"), ("o_proj", "unify")
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DECODERS)
def test_names_of_a_decoder_that_may_mislead_are_refused(what: str) -> None:
    state = renamed(decoder().state_dict(), *DECODERS[what])
    with pytest.raises(UserError, match=OPEN):
        convert.to_flax(state, **GIVEN)


def test_letters_of_norms_in_a_sorted_file_are_refused() -> None:
    state = renamed(decoder().state_dict(), ("norm1", "calm_b"), ("norm2", "calm_a"))
    with pytest.raises(UserError, match=OPEN):
        convert.to_flax(is_sorted(state), **GIVEN)


@pytest.mark.parametrize("word", ["kind", "quantity", "vent", "unify"])
def test_a_word_that_begins_with_a_letter_is_no_part_of_attention(word: str) -> None:
    assert not holds_parts(word)
    assert all(map(holds_parts, ["q", "my_qx", "vals", "key_map", "w_query"]))


def pair(**fields: Any) -> State:
    side: State = {
        "model_dim": 24, "num_blocks": 2, "num_heads": 4, "mlp_dim": 40, "positions": "learned",
        "context_length": 11, "dropout": 0.0, "vocab_size": 29, **fields,
    }  # fmt: skip
    config = Seq2SeqConfig(ModelConfig(**side), ModelConfig(**side, cross_attention=True))
    return dict(pairs.randomised(pairs.Plain(config, {}, ""), 1).state_dict())


ENDS = (
    (r"encoder\.embedding", "one_emb"), (r"decoder\.embedding", "two_emb"),
    (r"encoder\.pos_embedding", "one_pos"), (r"decoder\.pos_embedding", "two_pos"),
    (r"encoder\.norm", "one_norm"), (r"decoder\.norm", "two_norm"),
)  # fmt: skip
PAIRS: dict[str, Any] = {
    "sides of one vocabulary": lambda: renamed(pair(), *ENDS),
    "final norms between the lists": lambda: in_order(
        renamed(pair(), (r"encoder\.norm", "still"), (r"decoder\.norm", "calm")),
        "encoder", "calm", "decoder", "still",
    ),
    "norms beside other modules than their own": lambda: in_order(
        renamed(pair(), ("norm1", "calm"), ("norm2", "still"), ("norm3", "quiet")),
        *(f"{side}.layers.{i}.{word}" for side in ("encoder", "decoder") for i in (0, 1)
          for word in ("still", "self", "calm", "cross", "quiet", "ffn")),
    ),
    "norms after what precedes": lambda: renamed(
        pair(), (r"(decoder.*)norm1", r"\1norm_in"), (r"(decoder.*)norm2", r"\1norm_after_self"),
        (r"(decoder.*)norm3", r"\1norm_after_cross"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PAIRS)
def test_what_only_the_order_of_an_encoder_decoder_tells_is_refused(what: str) -> None:
    with pytest.raises(UserError, match=OPEN):
        convert.to_flax(PAIRS[what](), **GIVEN)


def test_the_ends_of_an_mlp_of_parameters_are_not_told_by_their_order() -> None:
    names = (r"linear1\.weight", "wide"), (r"linear2\.weight", "narrow")
    state = turned(renamed(pair(mlp_bias=False), *names), "wide|narrow")
    with pytest.raises(
        UserError, match=r"nothing in it shows whether its matrices are \(in, out\)"
    ):
        convert.to_flax(state, **GIVEN)


TAKEN = "by their words or shapes, they are taken as follows: {}"
SAID: dict[str, tuple[Any, str]] = {
    "numbers of norms": (
        lambda: is_sorted(renamed(decoder().state_dict(), ("norm1", "n_2"), ("norm2", "n_1"))),
        TAKEN.format("n_1 for norm1, n_2 for norm2"),
    ),
    "tables": (
        lambda: renamed(decoder(tied=True).state_dict(), ("tok_emb", "position_of"), ("pos_emb", "wte2")),
        TAKEN.format("position_of for position_embedding, wte2 for token_embedding"),
    ),
    "numbers of attention": (
        lambda: is_sorted(renamed(pair(), ("cross_attn", "m1"), (r"(decoder.*)self_attn", r"\1m2"))),
        TAKEN.format("m1 for self_attn, m2 for cross_attn"),
    ),
    "the side of a norm": (
        lambda: renamed(pair(), (r"encoder\.norm", "out_norm"), (r"decoder\.norm", "in_norm")),
        TAKEN.format("in_norm for encoder.norm, out_norm for decoder.norm"),
    ),
    "ends of an MLP": (
        lambda: renamed(decoder().state_dict(), ("up_proj", "wide"), ("down_proj", "narrow")),
        TAKEN.format("mlp.wide for mlp.up, mlp.narrow for mlp.down"),
    ),
    "square matrices": (
        lambda: turned(decoder().state_dict(), r"blocks.*(up|down)_proj"),
        r"square matrices, such as attn.q_proj.weight, .* are taken to be (in, out)",
    ),
    "as many heads as elements": (
        lambda: {
            n: v.unflatten(0, (4, 4)).permute(2, 1, 0).contiguous() if re.search("[qkv]_proj", n) else v
            for n, v in decoder(model_dim=16, qkv_bias=False).state_dict().items()
        },
        "two equal dimensions for its heads, the first is assumed to be their number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_what_names_or_shapes_may_say_wrongly_is_said(what: str) -> None:
    state, sentence = SAID[what]
    caveats = convert.to_flax(state(), **GIVEN).report.caveats
    parts = [re.escape(part) for part in sentence.split(".*")]
    assert any(re.search(".*".join(parts), caveat) for caveat in caveats), caveats


def test_usual_names_need_no_such_sentence() -> None:
    for state in (decoder().state_dict(), pair()):
        caveats = convert.to_flax(state, **GIVEN).report.caveats
        assert not any("they are taken as follows" in each or "square" in each for each in caveats)
