"""Fine-tuning without a config file takes missing settings from the model's file or run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.tokenizer_files import load as load_tokenizer
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.training.run import train
from tests.helpers import TEXT, random_params, settings, write_toml

torch = pytest.importorskip("torch", reason="torch is not installed")

LETTERS = "".join(sorted(set(TEXT)))  # as many as the model has ids
SIZES = {
    "vocab_size": len(LETTERS),
    "context_length": 16,
    "model_dim": 12,
    "num_blocks": 2,
    "num_heads": 2,
}
ARGS = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 12,
    "block_size": 16,
    "bias": False,
    "vocab_size": len(LETTERS),
}
WORDS = {
    "learning_rate": 3e-3, "max_iters": 8, "warmup_iters": 2, "lr_decay_iters": 8, "min_lr": 3e-4, "beta2": 0.95,
    "grad_clip": 0.5, "batch_size": 2, "gradient_accumulation_steps": 2, "dropout": 0.1, "weight_decay": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text wood.txt, and the model directories nanogpt, bare and known, which has a tokenizer."""
    import convert
    from tests.convert.extras.test_extras import adamw

    folder = tmp_path_factory.mktemp("made")
    (folder / "wood.txt").write_text(TEXT)
    biases = dict.fromkeys(("attention_out_bias", "mlp_bias", "head_bias", "norm_bias"), False)
    config = ModelConfig(**SIZES, **biases, activation="gelu", tied=True)
    state = convert.to_torch(random_params(config, "float32"), config, "nanogpt")
    ckpt = {
        "model": state,
        "optimizer": adamw(state).state_dict(),
        "model_args": ARGS,
        "iter_num": 3,
    }
    for name, held in {
        "nanogpt": {**ckpt, "config": WORDS},
        "bare": state,
        "known": {"model": state, "model_args": ARGS, "itos": list(reversed(LETTERS))},
    }.items():
        torch.save(held, folder / f"{name}.pt")
        convert.to_flax(folder / f"{name}.pt", num_heads=2).save(folder / name)
    return folder


@pytest.fixture
def tune(made: Path, tmp_path: Path, command: Callable[..., Any]) -> Callable[..., Any]:
    """A function (model, *more words) -> outcome of the short command, which writes to tmp_path / "out"."""

    def call(model: str, *words: object) -> Any:
        text = () if "--data.path" in words else ("--data.path", made / "wood.txt")
        small = ("--train.eval_batches", "1", "--train.sample_tokens", "0")
        return command(
            "jaxgpt",
            "train",
            "--init",
            made / model,
            "--run.dir",
            tmp_path / "out",
            *small,
            *text,
            *words,
        )

    return call


def config_of(run: Path) -> Any:
    return json.loads((run / "config.json").read_text())


def test_a_converted_model_is_tuned_with_the_settings_of_its_file(
    tune: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = tune("nanogpt", "--optim.beta2", "0.9", "--train.steps=6")
    assert outcome.code == 0, outcome
    used = config_of(tmp_path / "out")
    optim = {
        "learning_rate": 3e-3,
        "final_learning_rate": 3e-4,
        "warmup_steps": 2,
        "clip_norm": 0.5,
        "beta2": 0.9,
    }
    assert {**used["optim"], **optim, "weight_decay": 0.2, "decay": "matrices"} == used["optim"]
    assert {**used["train"], "steps": 6, "batch_size": 4, "accumulate": 2} == used["train"]
    assert used["model"]["dropout"] == 0.1
    (listed,) = (
        line for line in outcome.out.splitlines() if line.startswith("From the file nanogpt.pt: ")
    )
    assert "optim.learning_rate 0.003, " in listed
    assert "train.batch_size 4" in listed
    assert "beta2" not in listed  # nor steps: the command line has its own
    assert "train.steps" not in listed


def test_the_same_command_resumes_and_steps_alone_may_change(
    tune: Callable[..., Any], tmp_path: Path
) -> None:
    tune("nanogpt", "--optim.beta2", "0.9")
    before = config_of(tmp_path / "out")
    outcome = tune("nanogpt", "--train.steps", "10")
    assert outcome.code == 0, outcome
    assert [line for line in outcome.out.splitlines() if line.startswith("Changed")] == [
        "Changed since the run stopped: train.steps was 8 and is 10"
    ]
    assert config_of(tmp_path / "out") == {**before, "train": {**before["train"], "steps": 10}}


def test_given_settings_override_inherited_ones(tune: Callable[..., Any], tmp_path: Path) -> None:
    """A warm-up longer than the steps, a final rate above the first, parts that do not divide a batch."""
    words = "--train.steps", "2", "--optim.learning_rate", "1e-4", "--train.batch_size", "3"
    assert tune("nanogpt", *words).code == 0
    used = config_of(tmp_path / "out")
    assert (used["optim"]["warmup_steps"], used["train"]["accumulate"]) == (0, 1)
    assert used["optim"]["final_learning_rate"] == 1e-4


def test_without_a_recipe_common_settings_are_used(
    tune: Callable[..., Any], made: Path, tmp_path: Path
) -> None:
    outcome = tune("bare", "--train.steps", "5")
    assert "Usual for fine-tuning: optim.learning_rate 0.0001, train.eval_every 100." in outcome.out
    used = config_of(tmp_path / "out")
    assert (
        used["optim"]["learning_rate"],
        used["optim"]["warmup_steps"],
        used["train"]["accumulate"],
    ) == (1e-4, 1, 1)


def test_a_batch_with_a_long_context_is_computed_in_parts() -> None:
    from jaxgpt.training.inherit import _usual

    sections = _usual(ModelConfig(context_length=1024), {"optim": {"learning_rate": 1.0}})
    assert sections == {"optim": {}, "train": {"steps": 500, "eval_every": 100, "accumulate": 8}}


def test_a_run_is_tuned_as_it_was_trained(
    made: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    first = train(
        settings(made / "wood.txt", tmp_path / "first"), "here", lambda line: None
    ).directory
    words = "--data.path", made / "wood.txt", "--run.dir", tmp_path / "second"
    outcome = command("jaxgpt", "train", "--init", first, *words)
    assert outcome.code == 0, outcome
    assert re.search(
        r"From .*first/checkpoints/step-0000000\d: optim.warmup_steps 2, train.steps 6, ",
        outcome.out,
    )
    before, after = config_of(first), config_of(tmp_path / "second")
    assert (before["optim"], before["train"]) == (after["optim"], after["train"])


def test_a_text_is_read_with_the_models_own_tokenizer(
    tune: Callable[..., Any], made: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """With a config file too; and resuming keeps it."""
    assert tune("known", "--train.steps", "2").code == 0
    own = load_tokenizer(tmp_path / "out" / "data")
    assert own.decode(range(own.vocab_size)) == LETTERS[::-1]
    assert tune("known", "--train.steps", "3").code == 0
    sections = settings(made / "wood.txt", tmp_path / "other")
    config = write_toml(tmp_path / "c.toml", {**sections, "model": {"dropout": 0.0}})
    for steps in ("3", "4"):
        outcome = command(
            "jaxgpt", "train", config, "--init", made / "known", "--train.steps", steps
        )
        assert (outcome.code, "data.tokenizer was" in outcome.out) == (0, False)


@pytest.mark.parametrize(
    ("model", "text", "words", "said"),
    [
        (
            "known",
            "wood zoo",
            [],
            r"odd.txt: at character 5 the char tokenizer of \d+ ids loses 'z'",
        ),
        (
            "bare",
            "wood",
            [],
            r"--init .*bare: the model has no tokenizer, .* has 3 different characters",
        ),
        (
            "bare",
            TEXT + "z",
            [],
            r"--init .*bare: the model has no tokenizer, .*--data.tokenizer FILE",
        ),
        (
            "bare",
            "wood",
            ["--data.tokenizer", "byte"],
            r"--init .*bare: model.vocab_size is \d+, but the data in",
        ),
        (
            "bare",
            "wood",
            ["--data.path", "no.txt"],
            r"^jaxgpt: There is no file, .* pattern no.txt",
        ),
        ("nowhere", "wood", [], r"--init .*nowhere: .*nowhere is not a directory"),
        (
            "bare.pt",
            "wood",
            [],
            r"--init .*bare.pt: this is a file; jaxgpt-convert to-flax FILE DIR makes",
        ),
        ("bare", TEXT, ["--train.batch_size", "0"], "batch_size must be positive, but is 0"),
        ("nanogpt", TEXT, ["--train.accumulate", "0"], "accumulate must be positive, but is 0"),
        ("bare", TEXT, ["--run.go_on", "true"], "^jaxgpt: --run.go_on: .*bare has no optimiser"),
        (
            "nanogpt",
            TEXT,
            ["--run.go_on", "true", "--train.steps", "3"],
            "Set --train.steps to more than 3",
        ),
        (
            "bare",
            "wood",
            ["--model.model_dim", "14"],
            "--init .*bare: The config describes another model",
        ),
    ],
)
def test_errors_name_the_options_as_they_were_typed(
    model: str,
    text: str,
    words: list[str],
    said: str,
    made: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    (tmp_path / "odd.txt").write_text(text * 60)
    given = [
        "--init",
        made / model,
        "--data.path",
        tmp_path / "odd.txt",
        "--run.dir",
        tmp_path / "run",
        *words,
    ]
    assert re.search(said, refused("jaxgpt", "train", *given))


def test_a_run_without_a_model_or_data_is_refused(
    made: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for words in ([], ["--data.path", "x", "--run.dir", tmp_path / "run"]):
        said = refused("jaxgpt", "train", *words)
        assert "jaxgpt train --init DIR --data.path TEXT --run.dir OUT" in said
    assert "--data.path takes" in refused(
        "jaxgpt", "train", "--init", made / "bare", "--run.dir", tmp_path / "run"
    )


def test_the_converter_names_the_command(
    made: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    for name, own in (("nanogpt", True), ("bare", False)):
        out = command(
            "jaxgpt-convert",
            "to-flax",
            made / f"{name}.pt",
            tmp_path / name,
            "--set",
            "num_heads=2",
        ).out
        assert (
            f"Fine-tune it: jaxgpt train --init {tmp_path / name} --data.path TEXT --run.dir OUT\n"
            in out
        )
        assert ("with the file's own settings: optim.learning_rate 0.003" in out) == own


@pytest.fixture
def stopped(tune: Callable[..., Any], tmp_path: Path) -> Path:
    assert tune("bare", "--train.steps", "2").code == 0
    return tmp_path / "out"


def test_an_init_that_does_not_exist_is_refused_when_a_run_resumes(
    stopped: Path, made: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    words = "--data.path", made / "wood.txt", "--run.dir", stopped, "--train.steps", "4"
    said = refused("jaxgpt", "train", "--init", tmp_path / "nowhere", *words)
    assert "nowhere is not a directory. The run would resume from its own checkpoint" in said


def test_a_run_says_that_init_is_not_read_again(
    stopped: Path, made: Path, tune: Callable[..., Any]
) -> None:
    for model in ("bare", "known"):
        out = tune(model, "--train.steps", "4").out
        assert f"Resuming from {run_directory.checkpoints(stopped)[0].parent}/step-" in out
        assert f"; --init {made / model} is not read again." in out


def test_go_on_lists_the_settings_of_the_optimizer(
    made: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """With a config file, whose own settings differ from those of the checkpoint."""
    sections = settings(
        made / "wood.txt",
        tmp_path / "run",
        optim={"beta1": 0.8, "eps": 1e-6, "learning_rate": 3e-3},
    )
    config = write_toml(tmp_path / "c.toml", {**sections, "model": {}})
    words = ["--init", made / "nanogpt", "--run.go_on", "true", "--optim.weight_decay", "0.2"]
    outcome = command("jaxgpt", "train", config, *words)
    assert outcome.code == 0, outcome
    changed = [
        line
        for line in outcome.out.splitlines()
        if line.startswith("Changed since the run stopped: optim.")
    ]
    assert [line.partition("optim.")[2] for line in changed] == [
        "final_learning_rate was 0.0003 and is 0.0001",
        "beta1 was 0.9 and is 0.8",
        "beta2 was 0.95 and is 0.99",
        "eps was 1e-08 and is 1e-06",
        "clip_norm was 0.5 and is 1.0",
    ]


def test_a_run_from_before_warm_up_followed_the_steps_keeps_its_own(
    made: Path, tmp_path: Path
) -> None:
    sections = settings(made / "wood.txt", tmp_path / "run")
    run = train(sections, "here", lambda line: None).directory
    del sections["optim"]["warmup_steps"]
    said: list[str] = []
    train({**sections, "train": {**sections["train"], "steps": 8}}, "here", said.append)
    assert [line for line in said if line.startswith("Changed")] == [
        "Changed since the run stopped: train.steps was 6 and is 8"
    ]
    assert (
        model_directory.ModelDirectory(run_directory.checkpoints(run)[-1]).about["optim"][
            "warmup_steps"
        ]
        == 2
    )


def test_a_run_resumes_without_the_model_and_without_a_config(
    made: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    shutil.copytree(made / "known", tmp_path / "model")
    words = (
        "--init",
        tmp_path / "model",
        "--data.path",
        made / "wood.txt",
        "--run.dir",
        tmp_path / "run",
    )
    assert command("jaxgpt", "train", *words, "--train.steps", "2").code == 0
    shutil.rmtree(tmp_path / "model")
    outcome = command("jaxgpt", "train", *words, "--train.steps", "4")
    assert (outcome.code, "step-00000002; compiling" in outcome.out) == (0, True)
    assert np.isfinite(run_directory.read_metrics(tmp_path / "run")[-1]["loss"])
