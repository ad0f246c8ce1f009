"""A run from text to model directory, its files, its faults, and its agreement with torch."""

import importlib.util
import json
import math
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgpt
from convert.dialects import DIALECTS
from jaxgpt.commands.run_ending import ending
from jaxgpt.data.batches import batch, eval_windows
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokens import open_dataset
from jaxgpt.errors import UserError
from jaxgpt.model import params_of
from jaxgpt.pytree import flatten
from jaxgpt.storage import run_directory
from jaxgpt.training.run import train
from tests.helpers import ROOT, TEXT, settings, write_toml


def test_a_run_writes_the_promised_files(text: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train(settings(text, tmp_path / "run"), "here", said.append).directory
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [("val_loss" in line) for line in lines] == [False, True, True]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [path.name for path in run_directory.checkpoints(run)] == [
        "step-00000004",
        "step-00000006",
    ]
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["vocab_size"] == len(set(TEXT))
    assert config["optim"]["learning_rate"] == 1e-3
    assert any("loss" in line and "tokens/s" in line and "left" in line for line in said)
    model = jaxgpt.load(run)
    best = json.loads((run_directory.best(run) / "config.json").read_text())
    assert best["val_loss"] == min(line["val_loss"] for line in lines if "val_loss" in line)
    assert model.config.vocab_size == len(set(TEXT))


def test_eval_is_the_mean_over_the_whole_split(
    text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = train(settings(text, tmp_path / "run"), "here", lambda line: None).directory
    outcome = command("jaxgpt", "eval", run)
    assert outcome.code == 0, outcome
    data, model = open_dataset(run / "data"), jaxgpt.load(run)
    total, count = 0.0, 0
    for ids, mask in eval_windows(data.val, batch_size=3, context_length=16):
        logits = np.asarray(model(ids[:, :-1]), np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= (np.take_along_axis(logp, ids[:, 1:, None], -1)[..., 0] * mask).sum()
        count += mask.sum()
    assert count == len(data.val) - 1
    loss = total / count
    bits = loss / math.log(2) * count / data.val_bytes
    assert (
        f"loss {loss:.4f}, perplexity {math.exp(loss):.3f}, bits per byte {bits:.4f}" in outcome.out
    )
    assert (
        f"over the whole validation split, {len(data.val)} tokens of {run / 'data'}" in outcome.out
    )


@pytest.mark.parametrize(
    ("batches", "named"), [(1, "1 batch"), (3, "3 batches"), (5, "whole split"), (0, "whole split")]
)
def test_a_run_says_how_much_of_the_split_it_evaluates(
    batches: int, named: str, text: Path, tmp_path: Path
) -> None:
    """The split has 288 tokens; in batches of 4 x 16, five batches are all of it."""
    said: list[str] = []
    finished = train(
        settings(text, tmp_path / "run", train={"eval_batches": batches, "steps": 4}),
        "here",
        said.append,
    )
    assert [line for line in said if line.startswith("step 4/4") and f" ({named})  lr" in line]
    assert f"({named})." in ending(finished).splitlines()[0]


def test_eval_uses_the_intended_data_or_none(
    text: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    run = train(settings(text, tmp_path / "run"), "here", lambda line: None).directory
    assert "is not a prepared directory" in refused("jaxgpt", "eval", run, "--data", text)
    other = tmp_path / "other.txt"
    other.write_text(TEXT.swapcase())
    prepare([str(other)], tmp_path / "other")
    assert "the same ids would mean other text" in refused(
        "jaxgpt", "eval", run, "--data", tmp_path / "other"
    )
    assert "--batch-size must be positive" in refused("jaxgpt", "eval", run, "--batch-size", "0")
    (run / "data").rename(tmp_path / "moved")
    assert "cannot be found as a prepared directory" in refused("jaxgpt", "eval", run)
    said = refused("jaxgpt", "eval", run, "--data", tmp_path / "dat")
    assert f"--data: there is no prepared directory {tmp_path / 'dat'}." in said
    best = next((run / "checkpoints").iterdir())
    model = shutil.copytree(
        best, tmp_path / "models" / "one" / "model"
    )  # beside data that have nothing to do with it
    (tmp_path / "moved").rename(tmp_path / "models" / "data")
    assert "cannot be found as a prepared directory" in refused("jaxgpt", "eval", model)


def test_a_run_can_start_from_another_model(text: Path, tmp_path: Path) -> None:
    first = train(settings(text, tmp_path / "first"), "here", lambda line: None).directory
    data = {"path": str(first / "data")}
    again = settings(
        text,
        tmp_path / "second",
        data=data,
        run={"init": str(first)},
        optim={"learning_rate": 1e-9, "final_learning_rate": 0.0},
    )
    second = train({**again, "model": {"dropout": 0.0}}, "here", lambda line: None).directory
    before, after = jaxgpt.load(first), jaxgpt.load(second)
    assert after.config.model_dim == 12
    ids = np.arange(8)[None]
    np.testing.assert_allclose(before(ids), after(ids), atol=1e-5)
    with pytest.raises(UserError, match=r"model_dim is 12 in .*first and 14 in the config"):
        train(
            {
                **again,
                "run": {"dir": str(tmp_path / "third"), "init": str(first)},
                "model": {"model_dim": 14, "head_dim": 7},
            },
            "here",
        )
    assert not (tmp_path / "third").exists()
    other = prepare([str(text)], tmp_path / "bytes", tokenizer="byte")
    with pytest.raises(UserError, match="the same ids would mean other text"):
        train(
            {
                **again,
                "data": {"path": str(other.path)},
                "run": {**again["run"], "dir": str(tmp_path / "x")},
            },
            "here",
        )


@pytest.mark.parametrize("steps", [50])
def test_it_follows_torch_from_a_converted_checkpoint(steps: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert import to_flax
    from convert.reference import GPT

    data = prepare(["python-docs"], tmp_path / "data")
    sizes = {
        "vocab_size": data.vocab_size,
        "context_length": 16,
        "model_dim": 30,
        "num_blocks": 2,
        "num_heads": 5,
    }
    torch.manual_seed(0)
    module = GPT(**sizes).eval()  # dropout off
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    to_flax(tmp_path / "weights.pt").save(tmp_path / "model")
    run = train(
        {
            "data": {"path": str(tmp_path / "data")},
            "run": {"dir": str(tmp_path / "run"), "init": str(tmp_path / "model")},
            "model": {"dropout": 0.0},
            "optim": {
                "schedule": "constant",
                "warmup_steps": 0,
                "decay": "all",
                "weight_decay": 0.01,
                "beta2": 0.999,
                "clip_norm": 0.0,
            },
            "train": {
                "steps": steps,
                "batch_size": 8,
                "log_every": 1,
                "eval_every": steps,
                "seed": 3,
                "sample_tokens": 0,
            },
        },
        "here",
        lambda line: None,
    ).directory
    ours = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    theirs = []
    for step in range(steps):
        ids = batch(data.train, seed=3, step=step, batch_size=8, context_length=16)
        ids = torch.from_numpy(ids.astype(np.int64))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
        )
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    assert theirs[-1] < theirs[0] - 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


PAIRS = ("dates", "translation")  # of test_pairs
TUTORIALS = {
    "lyrics_char": "gpt",
    "add_norm": "heads",
    "simple_gpt": "heads",
    "sinusoidal": "fused",
}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "configs").glob("*.toml")) if path.stem not in PAIRS],
    ids=lambda path: path.stem,
)
def test_every_shipped_config_trains_at_tiny_size_and_the_command_to_export_it_works(
    path: Path,
    text: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert path.read_text().startswith("# ")
    shipped = tomllib.loads(path.read_text())
    tiny = {
        "data.path": text, "run.dir": tmp_path / "run", "model.vocab_size": 0, "model.context_length": 16,
        "model.model_dim": 8 * shipped["model"]["num_heads"], "model.num_blocks": 2, "optim.warmup_steps": 1,
        "train.steps": 2, "train.batch_size": 4, "train.accumulate": min(2, shipped["train"].get("accumulate", 1)),
        "train.eval_batches": 1, "train.sample_tokens": 0,
    }  # fmt: skip
    outcome = command(
        "jaxgpt",
        "train",
        path,
        *(word for name, value in tiny.items() for word in (f"--{name}", value)),
    )
    assert outcome.code == 0, outcome
    assert "step 2/2" in outcome.out
    (export,) = re.findall(r"^  export +(.*)$", outcome.out, re.MULTILINE)
    written = [str(tmp_path / "run.pt")]
    if importlib.util.find_spec("torch") is None:
        written = [str(tmp_path / "run.safetensors"), "--weights-only"]
    assert export.split() == ["jaxgpt-convert", "to-torch", str(tmp_path / "run"), *written]
    assert command(*export.split())[::2] == (0, "")  # and nothing to warn of
    assert Path(written[0]).exists()
    if dialect := TUTORIALS.get(path.stem):
        require_there_and_back(dialect, tmp_path, command)


def require_there_and_back(dialect: str, tmp_path: Path, command: Callable[..., Any]) -> None:
    """A model of this preset generates text, is converted to torch, and back with the same bits."""
    assert (
        len(command("jaxgpt", "sample", tmp_path / "run", "--prompt", "", "--tokens", "9").out) > 8
    )
    file, config = tmp_path / "w.safetensors", jaxgpt.load(tmp_path / "run").config
    assert (
        command("jaxgpt-convert", "to-torch", tmp_path / "run", file, "--dialect", dialect).code
        == 0
    )
    said = {
        name: getattr(config, name)
        for name in (*DIALECTS[dialect].unsaid, "num_heads")
        if name != "positions"
    }
    known = {"final_norm": config.final_norm is not False, "num_heads": dialect == "fused"}
    given = [f"--set={name}={value}" for name, value in said.items() if known.get(name, True)]
    assert command("jaxgpt-convert", "to-flax", file, tmp_path / "back", *given).code == 0
    assert jaxgpt.load(tmp_path / "back").config == config
    before, after = (flatten(params_of(jaxgpt.load(tmp_path / name))) for name in ("run", "back"))
    assert all(np.array_equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.num_head", "4"],
            "--model.num_head: there is no setting num_head. Did you mean num_heads?",
        ),
        (["--modle.num_heads", "4"], "there is no setting modle. Did you mean model?"),
        (["--model.num_heads", "four"], "num_heads takes a whole number, but got 'four'"),
        (
            ["--model.num_heads", "5"],
            "model_dim 12 does not divide into num_heads 5; head counts that fit are 1, 2, 3, 4, 6, 12",
        ),
        (["--model.vocab_size", "500"], "model.vocab_size is 500, but the data in"),
        (["--train.accumulate", "3"], "batch_size 4 does not divide into accumulate 3 parts"),
        (["--train.steps", "1"], "warmup_steps 2 must be fewer than steps 1"),
        (["--train.seed", "4294967296"], "seed must lie in [0, 2**32), but is 4294967296"),
        (["--mesh.data", "3"], "mesh.data"),
        (["--model.context_length", "4000"], "context_length 4000 needs at least"),
        (["--data.path", "nowhere.txt"], "nowhere.txt"),
        (["--init", "nowhere"], "nowhere is not a directory"),
    ],
)
def test_wrong_settings_are_refused(
    words: list[str], message: str, text: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    config = write_toml(tmp_path / "config.toml", settings(text, tmp_path / "run"))
    assert message in refused("jaxgpt", "train", config, *words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.toml: there is no such file"),
        ("[model\n", "is not TOML"),
        ("[run]\ndir = 'x'\n", "[data]: path is missing"),
        ("[data]\npath = 'x'\n", "[run]: dir is missing"),
        ("[model]\nnum_head = 4\n", "config.toml [model]: there is no setting num_head"),
        ("model = 4\n", "model is a section, written [model], but got 4"),
    ],
)
def test_wrong_config_files_are_refused(
    content: str | None, message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    assert message in refused("jaxgpt", "train", tmp_path / "config.toml")


def test_a_failed_attempt_does_not_block_the_next(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"model.vocab_size is 500"):
        train(settings(text, run, model={"vocab_size": 500}), "here")
    other = tmp_path / "other.txt"
    other.write_text(TEXT.upper())
    train(settings(other, run, data={"tokenizer": "byte"}), "here", lambda line: None)
    assert jaxgpt.load(run).config.vocab_size == 256
    for wrong in ({"mesh": {"data": 512}}, {"model": {"context_length": 4000}}):
        with pytest.raises(UserError):
            train(settings(text, tmp_path / "second", **wrong), "here")
        assert not (tmp_path / "second" / "config.json").exists()
    train(settings(text, tmp_path / "second"), "here", lambda line: None)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "data.json"])
def test_a_flipped_bit_in_the_data_is_found(name: str, text: Path, tmp_path: Path) -> None:
    prepare([str(text)], tmp_path / "data")
    damaged = bytearray((tmp_path / "data" / name).read_bytes())
    damaged[-2] ^= 1
    (tmp_path / "data" / name).write_bytes(damaged)
    with pytest.raises(UserError, match=name):
        train(settings(tmp_path / "data", tmp_path / "run"), "here", lambda line: None)
    assert not (tmp_path / "run").exists()
