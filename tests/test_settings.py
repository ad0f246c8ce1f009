"""Settings as people type them: in either spelling, with defaults that follow from others, and explained."""

import dataclasses
import json
import pydoc
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jaxgpt
from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.fields import explanations
from jaxgpt.settings import describe, read_settings
from tests.helpers import settings, write_toml


@pytest.mark.parametrize(
    "words",
    [
        ["--train.batch-size", "2", "--model.num-heads", "3"],
        ["--train.batch_size", "2", "--model.num_heads", "3"],
        ["--train.batch-size=2", "--model.num-heads=3"],
        ["--set", "train.batch-size=2", "--set", "model.num_heads=3"],
    ],
)
def test_dashes_and_underscores_are_the_same(
    words: list[str], text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    config = write_toml(tmp_path / "c.toml", settings(text, tmp_path / "run", train={"steps": 3}))
    assert command("jaxgpt", "train", config, *words).code == 0
    made = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (made["train"]["batch_size"], made["model"]["num_heads"]) == (2, 3)
    planned = command("jaxgpt", "plan", config, *words, "--model.vocab-size", "20")
    assert "2 x 16 tokens" in planned.out


def test_a_value_keeps_its_dashes() -> None:
    given = read_settings(None, ["run.dir=my-run", "data.path=a-b=c", "mesh.coordinator=a-b:1"])
    assert given == {
        "run": {"dir": "my-run"},
        "data": {"path": "a-b=c"},
        "mesh": {"coordinator": "a-b:1"},
    }


def test_the_fields_of_a_converted_model_take_dashes_too(
    primes_file: Path, command: Callable[..., Any]
) -> None:
    report = command(
        "jaxgpt-convert", "inspect", primes_file, "--json", "--set", "norm-eps=1e-6"
    ).out
    assert json.loads(report)["given"] == {"norm_eps": 1e-6}


def optim(steps: int = 2000, **fields: Any) -> OptimConfig:
    return Config(
        DataConfig("-"), RunConfig("-"), optim=OptimConfig(**fields), train=TrainConfig(steps=steps)
    ).optim


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (30, 6), (499, 99), (500, 100), (750, 100), (600_000, 100)]
)
def test_warm_up_follows_the_steps(steps: int, warmup: int) -> None:
    assert optim(steps).warmup_steps == warmup
    assert optim(steps, warmup_steps=0).warmup_steps == 0


def test_the_last_learning_rate_follows_a_low_one() -> None:
    assert optim().final_learning_rate == optim(learning_rate=2e-4).final_learning_rate == 1e-4
    assert optim(learning_rate=3e-5).final_learning_rate == pytest.approx(3e-6)


def test_steps_alone_may_be_given(text: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """And config.json has the warm-up that follows."""
    sections = settings(text, tmp_path / "run")
    del sections["optim"]
    config = write_toml(tmp_path / "c.toml", sections)
    assert command("jaxgpt", "train", config, "--train.steps", "5").code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["warmup_steps"] == 1


def test_every_setting_is_explained_with_its_default_and_its_values(
    command: Callable[..., Any],
) -> None:
    lines = command("jaxgpt", "settings").out.splitlines()
    for section, cls in typing.get_type_hints(Config).items():
        for field in dataclasses.fields(cls):
            at = next(
                i for i, line in enumerate(lines) if line.startswith(f"--{section}.{field.name} ")
            )
            assert repr(field.default) in lines[at]
            assert describe(typing.get_type_hints(cls)[field.name]) in lines[at]
            sentence = lines[at + 1].strip()
            assert sentence == explanations(cls)[field.name]
            assert sentence[0].isupper() or sentence.startswith("HOST:PORT")
            assert sentence.endswith(".")


def test_help_explains_every_field_of_the_model() -> None:
    text = pydoc.plain(pydoc.render_doc(jaxgpt.ModelConfig))
    for field in dataclasses.fields(ModelConfig):
        assert f"{field.name}: {explanations(ModelConfig)[field.name]}" in text
