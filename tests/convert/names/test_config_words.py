import pytest

from convert.dialects import DIALECTS
from convert.names.config_words import characters
from convert.names.stated import stated_fields
from convert.rows.dialect import Dialect
from jaxgpt.errors import UserError

NOBODY = Dialect("", "", ())


def values(dialect: Dialect = NOBODY, **configs: dict) -> dict:
    return {field: value for field, (value, _) in stated_fields(configs, dialect, "f.pt").items()}


def test_the_words_of_many_trainers_are_one() -> None:
    assert values(file={"n_layer": 3, "num_heads": 5, "emb_dim": 35, "block_size": 9, "drop_rate": 0.1}) == {
        "num_blocks": 3, "num_heads": 5, "model_dim": 35, "context_length": 9, "dropout": 0.1,
    }  # fmt: skip


def test_sections_are_looked_into_and_what_is_no_plain_value_is_passed_over() -> None:
    config = {
        "n_layer": None,
        "n_head": "4",
        "n_embd": True,
        "vocab_size": -1,
        "model": {"n_head": 3},
        "x": {"n_layer": 9},
    }
    assert values(file=config) == {"num_heads": 3}


def test_model_args_stand_over_the_trainers_defaults() -> None:
    assert values(file={"config": {"n_layer": 12}, "model_args": {"n_layer": 3}}) == {
        "num_blocks": 3
    }
    with pytest.raises(UserError, match=r"n_layer = 12, but file, config: n_layer = 3"):
        values(file={"n_layer": 12, "config": {"n_layer": 3}})


def test_a_class_fills_in_what_its_config_leaves_out() -> None:
    gpt2 = DIALECTS["gpt2"]
    plain = values(gpt2, config={"model_type": "gpt2", "n_head": 12})
    assert (plain["activation"], plain["attention_scale"], plain["norm"]) == (
        "gelu_tanh",
        "head_dim",
        "pre",
    )
    other = values(
        gpt2,
        config={"model_type": "gpt2", "activation_function": "relu", "scale_attn_weights": False},
    )
    assert (other["activation"], other["attention_scale"]) == ("relu", "none")


def test_a_word_may_mean_something_else_in_one_class() -> None:
    assert values(DIALECTS["gpt1"], config={"afn": "gelu"})["activation"] == "gelu_tanh"
    assert values(config={"afn": "gelu"})["activation"] == "gelu"
    assert (
        values(DIALECTS["mingpt"], config={"model": {"model_type": "gpt-nano", "n_head": None}})[
            "num_heads"
        ]
        == 3
    )


@pytest.mark.parametrize(
    ("extras", "found"),
    [
        ({"itos": {0: "a", 1: "b"}}, "ab"),
        ({"stoi": {"b": 0, "a": 1}}, "ba"),
        ({"vocab": ["x", "y"]}, "xy"),
        ({"vocab": ["word", "y"]}, ""),
        ({"itos": {0: "a", 2: "b"}}, ""),
        ({"chars": ["a", "a"]}, ""),
        ({"itos": "ab", "stoi": {"a": "0"}}, ""),
        ({}, ""),
    ],
)
def test_characters_beside_the_weights_are_found(extras: dict, found: str) -> None:
    assert characters(extras) == list(found)


def test_a_word_that_one_class_translates_keeps_its_other_values() -> None:
    relu = values(
        DIALECTS["gpt1"], config={"model_type": "openai-gpt", "architectures": ["x"], "afn": "relu"}
    )
    assert relu["activation"] == "relu"


def test_another_class_of_hugging_face_is_not_taken_for_this_one() -> None:
    config = {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "n_head": 4}
    with pytest.raises(
        UserError,
        match=r"model_type = 'gpt_bigcode', which is another class than nanogpt.*--ignore-c",
    ):
        stated_fields({"config.json": config}, DIALECTS["nanogpt"], "f.pt")


def test_what_is_given_settles_what_two_places_say() -> None:
    both = {"hidden_size": 128, "embed_dim": 32, "dropout": 0.1, "resid_pdrop": 0.2}
    with pytest.raises(UserError, match="Choose with --set model_dim=VALUE"):
        values(file=both)
    assert stated_fields({"file": both}, NOBODY, "f.pt", {"model_dim"})["dropout"][0] == 0.1


def test_a_config_that_holds_itself_has_an_end() -> None:
    config: dict = {"n_head": 4}
    config |= {"config": config, "model": config}
    assert values(file=config) == {"num_heads": 4}
    assert values(file={"activation": "GELU"}) == {"activation": "gelu"}


def test_a_statement_names_its_place_and_a_default_of_the_class_is_marked() -> None:
    config = {"model_type": "gpt2", "n_head": 4}
    stated = stated_fields({"config.json": config}, DIALECTS["gpt2"], "f.pt")
    assert stated["num_heads"] == (4, "config.json: n_head = 4")
    assert not stated["num_heads"].by_default
    assert stated["activation"].value == "gelu_tanh"
    assert stated["activation"].by_default
    with pytest.raises(UserError, match="n_layer = 'x' is impossible for num_blocks"):
        stated_fields({"config.json": {**config, "n_layer": "x"}}, DIALECTS["gpt2"], "f.pt")
