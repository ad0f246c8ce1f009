"""Where nobody names a class to write a model for, one is found that can hold it."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.choose import can_hold, choose
from convert.dialects import DIALECTS
from jaxgpt.commands.run_ending import ending
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from jaxgpt.training.run import train
from tests.helpers import random_params, settings

pytest.importorskip("torch", reason="torch is not installed")

SIZES = {"vocab_size": 13, "context_length": 16, "model_dim": 12, "num_blocks": 2, "num_heads": 2}
BIASES = ("qkv_bias", "attention_out_bias", "mlp_bias", "head_bias", "norm_bias")


@pytest.mark.parametrize(
    ("positions", "stored"), [("learned", False), ("sinusoidal", False), ("sinusoidal", True)]
)
def test_every_model_without_an_offset_has_a_class(positions: Any, stored: bool) -> None:
    """With all of the biases, without each of them, and without any; families hold the most."""
    dialects = sorted(DIALECTS.values(), key=lambda dialect: not dialect.family)
    biases = [dict.fromkeys(BIASES, True), dict.fromkeys(BIASES, False)]
    biases += [{**biases[0], name: False} for name in BIASES]
    for bias, final_norm, tied in itertools.product(biases, (True, False), (True, False)):
        shown = {"positions": positions, "positions_stored": stored, **bias}
        usual = ModelConfig(**SIZES, **shown, final_norm=final_norm, tied=tied)
        paths = set(flatten(abstract_params(usual)))  # which norm and head_dim leave as they are
        for norm, head_dim in itertools.product(("pre", "post", "residual"), (6, 5)):
            config = replace(usual, norm=norm, head_dim=head_dim)
            assert any(can_hold(dialect, config, paths) for dialect in dialects), config
    assert can_hold(choose(config, paths), config, paths)


def test_a_class_that_computes_the_same_comes_first() -> None:
    for fields, dialect in (
        ({}, "gpt"),
        ({"activation": "gelu", "tied": True, **dict.fromkeys(BIASES, False)}, "nanogpt"),
        (
            {"activation": "gelu", "tied": True, "head_bias": False, "attention_out_bias": False},
            "fused",
        ),
    ):
        config = ModelConfig(**SIZES, **fields)
        chosen = choose(config, flatten(abstract_params(config)))
        assert chosen.name == dialect
        assert not chosen.unlike(config)


def test_what_no_class_can_hold_is_refused() -> None:
    config = ModelConfig(**SIZES, positions_offset=2)
    with pytest.raises(UserError, match="None of the supported classes can hold this model"):
        choose(config, flatten(abstract_params(config)))


def export_line(said: str) -> list[str]:
    (command,) = re.findall(r"^  export +(.*)$", said, re.MULTILINE)
    return command.split()


def test_the_command_fits_the_optimizer(
    text: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """nanoGPT's files hold the optimiser as well, which not every run has as torch would have it."""
    monkeypatch.chdir(tmp_path)
    like_nanogpt = {"activation": "gelu", "tied": True, **dict.fromkeys(BIASES, False)}
    run = settings(text, tmp_path / "run", model=like_nanogpt)
    averaged = settings(text, tmp_path / "ema", model=like_nanogpt, optim={"ema": 0.5})
    finished = train(run, "here", lambda line: None)
    for done, flags in (
        (finished, []),
        (train(averaged, "here", lambda line: None), ["--weights-only"]),
    ):
        words = export_line(ending(done))
        assert words[4:] == flags
        outcome = command(*words)
        assert (outcome.code, "of dialect nanogpt" in outcome.out) == (0, True)
    job = finished.job
    decayed = replace(job.config, optim=replace(job.config.optim, decay="kernels"))
    words = export_line(ending(replace(finished, job=replace(job, config=decayed))))
    assert words[4:] == ["--weights-only"]


def test_a_model_that_came_from_a_file_goes_back_as_that_file(
    text: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its optimiser had one group, of which this run decays a part."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert import to_torch

    monkeypatch.chdir(tmp_path)
    model = ModelConfig(**{**SIZES, "vocab_size": 16}, qkv_bias=True)
    state = to_torch(random_params(model, "float32"), model, DIALECTS["separate"].name)
    parameters = [torch.nn.Parameter(value) for value in state.values()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for value in parameters:
        value.grad = torch.ones_like(value)
    optimizer.step()
    torch.save({"net": state, "optimizer": optimizer.state_dict()}, tmp_path / "w.pt")
    assert command("jaxgpt-convert", "to-flax", "w.pt", "m", "--set", "num_heads=2").code == 0
    short = ["--train.steps", "2", "--train.batch_size", "4", "--train.sample_tokens", "0"]
    for name, more in (("same", []), ("other", ["--optim.decay", "matrices"])):
        trained = command(
            "jaxgpt", "train", "--init", "m", "--data.path", text, "--run.dir", name, *short, *more
        )
        words = export_line(trained.out)
        assert words == [
            "jaxgpt-convert",
            "to-torch",
            name,
            f"{name}.pt",
            *(["--weights-only"] if more else []),
        ]
        assert command(*words).code == 0
        assert torch.load(f"{name}.pt")["net"].keys() == state.keys()
