import dataclasses
import inspect

import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.fields import explanations
from jaxgpt.settings import build, parse


def test_derived_sizes_follow_the_others() -> None:
    config = ModelConfig(104, 128, 252, 6, 6)
    assert (config.head_dim, config.mlp_dim) == (42, 1008)
    assert ModelConfig(104, 128, 250, 6, 6, head_dim=41).head_dim == 41


def test_a_config_round_trips_through_json() -> None:
    config = ModelConfig(vocab_size=11, norm="post", final_norm="unused", attention_out=False)
    assert build(ModelConfig, dataclasses.asdict(config), "here") == config


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, 11),
        ({"positions_offset": 2}, 13),
        ({"positions": "sinusoidal"}, 0),
        ({"positions": "sinusoidal", "positions_stored": True}, 11),
        ({"positions": "sinusoidal", "positions_stored": True, "positions_offset": 2}, 13),
    ],
)
def test_the_position_table_has_the_right_number_of_rows(
    fields: dict[str, object], rows: int
) -> None:
    assert build(ModelConfig, {"context_length": 11, **fields}, "here").position_rows == rows


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_head": 6}, "model.toml: there is no setting num_head. Did you mean num_heads?"),
        ({"zebra": 6}, "there is no setting zebra. There are: vocab_size"),
        ({"\x1b[31m": 6}, r"there is no setting \\x1b\[31m. There are: vocab_size"),
        ({"num_heads": "six"}, "num_heads takes a whole number, but got 'six'"),
        ({"num_heads": 6.0}, "num_heads takes a whole number, but got 6.0"),
        ({"num_heads": True}, "num_heads takes a whole number, but got True"),
        ({"tied": 1}, "tied takes true or false, but got 1"),
        ({"norm": "mid"}, "norm takes 'pre' or 'post' or 'residual' or 'output', but got 'mid'"),
        ({"final_norm": "maybe"}, "final_norm takes true or false or 'unused', but got 'maybe'"),
        (
            {"model_dim": 250},
            r"model_dim 250 does not divide into num_heads 6; .* 1, 2, 5, 10, 25, 50, 125, 250",
        ),
        ({"model_dim": 7 * 2**60 + 7}, r"does not divide into num_heads 6; .* 1, 7, 17, "),
        ({"num_blocks": 0}, "num_blocks must be positive, but is 0"),
        ({"num_blocks": 2**31}, "num_blocks must be at most 10,000, but is 2147483648"),
        ({"num_blocks": 2**63}, "num_blocks must be at most 10,000, but is 9223372036854775808"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), but is 1.0"),
        ({"attention_out": False, "head_dim": 5}, r"6 \* 5 = 30 must be model_dim 252"),
        ({"positions_stored": True}, "positions_stored is for sinusoidal positions"),
        ({"positions_offset": -1}, "positions_offset must not be negative, but is -1"),
        (
            {"positions": "sinusoidal", "positions_offset": 2},
            "positions_offset is 2, but there is no table",
        ),
    ],
)
def test_errors_name_the_wrong_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ModelConfig, values, "model.toml")


def test_the_constructor_suggests_a_field() -> None:
    with pytest.raises(UserError, match="^ModelConfig has no field n_head. Did you mean num_heads"):
        ModelConfig(n_head=3)  # type: ignore[call-arg]
    assert list(inspect.signature(ModelConfig).parameters) == list(explanations(ModelConfig))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_heads", "6", 6),
        ("norm_eps", "1e-6", 1e-6),
        ("norm_eps", "1", 1),
        ("tied", "True", True),
        ("tied", "false", False),
        ("final_norm", "true", True),
        ("final_norm", "unused", "unused"),
        ("norm", "post", "post"),
        ("num_heads", "six", "six"),  # left for the check to refuse
    ],
)
def test_typed_values_are_read_as_the_field_takes_them(name: str, text: str, value: object) -> None:
    assert parse(ModelConfig, name, text) == value
    assert type(parse(ModelConfig, name, text)) is type(value)
