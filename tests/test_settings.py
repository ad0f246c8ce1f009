"""Settings as users type them: in either spelling, with derived defaults and explanations."""

import dataclasses
import json
import pydoc
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro

import jaxgpt
from jaxgpt.__main__ import COMMANDS
from jaxgpt.commands.options import Settings, metavar
from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.fields import explanations
from jaxgpt.settings import parse, read_settings, sections_of_a_run, typed
from tests.helpers import settings, write_toml


@pytest.mark.parametrize(
    "words",
    [
        ["--train.batch-size", "2", "--model.num-heads", "3"],
        ["--train.batch_size", "2", "--model.num_heads", "3"],
        ["--train.batch-size=2", "--model.num-heads=3"],
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


def given(*words: str) -> dict[str, dict[str, Any]]:
    """The settings that `jaxgpt train` reads from these words."""

    def command(*, settings: Settings) -> dict[str, dict[str, Any]]:
        return read_settings(None, settings)

    return tyro.cli(command, args=words)


def test_only_typed_settings_count_as_given_and_values_keep_their_dashes() -> None:
    words = ("--run.dir", "my-run", "--data.path=a-b=c", "--mesh.data", "-1", "--run.wandb", "")
    assert given(*words) == {
        "run": {"dir": "my-run", "wandb": ""},
        "data": {"path": "a-b=c"},
        "mesh": {"data": -1},
    }
    assert given() == {}


def test_the_last_of_two_values_counts() -> None:
    assert given("--train.steps", "2", "--train.steps=3") == {"train": {"steps": 3}}


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = write_toml(tmp_path / "c.toml", {"train": {"steps": 5, "seed": 1}})
    assert read_settings(file, given("--train.steps", "3", "--model.tied", "True")) == {
        "train": {"steps": 3, "seed": 1},
        "model": {"tied": True},
    }


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[train]\nsteps = {'9' * 5000}\n")
    with pytest.raises(UserError, match=r"c\.toml is not TOML: .*digits"):
        read_settings(tmp_path / "c.toml", {})
    assert parse(TrainConfig, "steps", "9" * 5000) == "9" * 5000  # no number: refused as a text


def test_the_fields_of_a_converted_model_accept_dashes_too(
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
def test_the_warm_up_depends_on_the_steps(steps: int, warmup: int) -> None:
    assert optim(steps).warmup_steps == warmup
    assert optim(steps, warmup_steps=0).warmup_steps == 0


def test_the_final_learning_rate_follows_a_low_peak() -> None:
    assert optim().final_learning_rate == optim(learning_rate=2e-4).final_learning_rate == 1e-4
    assert optim(learning_rate=3e-5).final_learning_rate == pytest.approx(3e-6)


def test_steps_may_be_the_only_given_setting(
    text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """config.json then has the derived warm-up."""
    sections = settings(text, tmp_path / "run")
    del sections["optim"]
    config = write_toml(tmp_path / "c.toml", sections)
    assert command("jaxgpt", "train", config, "--train.steps", "5").code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["warmup_steps"] == 1


def help_of(name: str, command: Callable[..., Any]) -> list[str]:
    """The lines of a command's help page on a terminal of 80 columns."""
    page = command("jaxgpt", name, "--help")
    assert page.code == 0
    return page.out.splitlines()


@pytest.mark.parametrize("name", ["train", "plan"])
def test_help_has_every_setting_with_its_values_its_default_and_its_sentence(
    name: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = re.sub(r"[\s│]+", " ", " ".join(help_of(name, command)))
    page = re.sub(r"{[^}]*}", lambda choices: choices[0].replace(" ", ""), page)
    before = 0
    for section, cls in sections_of_a_run().items():
        assert page.index(f" {section} options ") > before
        before = page.index(f" {section} options ")
        for field in dataclasses.fields(cls):
            spelled = f"--{section}.{field.name}".replace("_", "-")
            words = [metavar(typing.get_type_hints(cls)[field.name]), explanations(cls)[field.name]]
            if section == "encoder":
                words.append("(default: the decoder's)")
            elif field.default != "":
                words.append(f"(default: {typed(field.default)})")
            assert " ".join([spelled, *words]) in page
            assert words[1][0].isupper()
            assert words[1].endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_eighty_columns(
    name: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(name, command))) <= 80


def test_values_are_shown_as_they_are_typed() -> None:
    assert metavar(bool) == "{true,false}"
    assert metavar(bool | Literal["unused"]) == "{true,false,unused}"
    assert metavar(Literal["none"] | float) == "{none}|FLOAT"


def test_help_explains_every_field_of_the_model() -> None:
    text = pydoc.plain(pydoc.render_doc(jaxgpt.ModelConfig))
    for field in dataclasses.fields(ModelConfig):
        assert f"{field.name}: {explanations(ModelConfig)[field.name]}" in text
