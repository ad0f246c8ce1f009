import pytest

from convert.detect import detect
from convert.dialects import DIALECTS
from jaxgpt.config import ModelConfig, UserError

from .test_bridge import CONFIG, shapes

GPT_SHAPES = shapes(DIALECTS["gpt"])


def test_what_the_tensors_show_is_read_and_the_rest_assumed() -> None:
    report = detect(GPT_SHAPES, "weights.pt", None, {}).report
    assert report.config == CONFIG
    assert not report.given
    assert set(report.assumed) == {
        "norm", "final_norm", "activation", "attention_scale", "attention_scale_by_layer", "norm_eps", "dropout",
    }  # fmt: skip
    assert {**report.read, **report.assumed}.keys() == vars(CONFIG).keys()


def test_what_is_given_is_no_longer_assumed() -> None:
    report = detect(GPT_SHAPES, "weights.pt", "gpt", {"activation": "gelu", "num_heads": 5}).report
    assert report.given == {"activation": "gelu"}
    assert "activation" not in report.assumed
    assert report.config == ModelConfig(**{**vars(CONFIG), "activation": "gelu"})


@pytest.mark.parametrize(
    ("dialect", "given", "message"),
    [
        (None, {"num_heads": 7}, "weights.pt: num_heads = 7 was given, but the tensors show 5"),
        (None, {"tied": True, "model_dim": 36}, "model_dim = 36 was given, but the tensors show 35; tied = True"),
        (None, {"num_head": 7}, "Did you mean num_heads"),
        (None, {"norm": "mid"}, "norm takes 'pre' or 'post'"),
        ("llama", {}, "There is no dialect llama. There are: gpt"),
    ],
)
def test_contradictions_and_typos_are_errors(dialect: str | None, given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detect(GPT_SHAPES, "weights.pt", dialect, given)


def test_a_stranger_is_shown_the_nearest_dialect_and_all_that_is_wrong() -> None:
    with pytest.raises(
        UserError, match="fit no known dialect. The nearest is gpt .* 1 things are wrong: zebra is unknown"
    ):
        detect({**GPT_SHAPES, "zebra": (1,)}, "weights.pt", None, {})
    with pytest.raises(UserError, match="fit no known dialect"):
        detect({"lstm.weight_ih_l0": (4, 4)}, "weights.pt", None, {})
