"""A run from text to model directory, its files, its faults, and its agreement with torch."""

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgpt
from jaxgpt import checkpoint
from jaxgpt import evaluate as evaluate_room
from jaxgpt import train as train_room
from jaxgpt.config import UserError
from jaxgpt.data import eval_windows, open_dataset
from jaxgpt.prepare import prepare
from jaxgpt.train import train

ROOT = Path(__file__).parents[1]
TINY = {
    "model": {"context_length": 16, "model_dim": 12, "num_blocks": 2, "num_heads": 2, "dropout": 0.1},
    "optim": {"warmup_steps": 2},
    "train": {"steps": 6, "batch_size": 4, "log_every": 2, "eval_every": 4, "eval_batches": 3},
}
TEXT = "How much wood would a woodchuck chuck, if a woodchuck could chuck wood? " * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "wood.txt"
    path.write_text(TEXT)
    return path


def settings(text: Path, directory: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    made = {"data": {"path": str(text)}, "run": {"dir": str(directory)}, **TINY}
    return {name: {**made.get(name, {}), **sections.get(name, {})} for name in {**made, **sections}}


def test_a_run_leaves_what_it_promises(text: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train(settings(text, tmp_path / "run"), "here", said.append)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [("val_loss" in line) for line in lines] == [False, True, True]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert len(checkpoint.best_and_last(run)) in (1, 2)
    assert checkpoint.best_and_last(run)[-1].name == "step-00000006"
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["vocab_size"] == len(set(TEXT))
    assert config["optim"]["learning_rate"] == 1e-3
    assert any("loss" in line and "tokens/s" in line and "left" in line for line in said)
    model = jaxgpt.load(run)
    best = json.loads((checkpoint.best_and_last(run)[0] / "config.json").read_text())
    assert best["val_loss"] == min(line["val_loss"] for line in lines if "val_loss" in line)
    assert model.config.vocab_size == len(set(TEXT))


def test_a_checkpoint_holds_the_whole_state(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    original = train_room.Loop.save
    monkeypatch.setattr(train_room.Loop, "save", lambda self, *a: (kept.append(a[0]), original(self, *a)))
    for ema in (0.0, 0.5):
        run = train(settings(text, tmp_path / f"run{ema}", optim={"ema": ema}), "here", lambda line: None)
        opened = checkpoint.ModelDirectory(checkpoint.best_and_last(run)[-1])
        state = kept[-1]
        beside = train_room.besides_weights(state)
        assert set(beside) == {"step", "optimizer", *(["params"] if ema else [])}
        pairs = [(beside, opened.state(beside)), (train_room.evaluated(state), opened.params())]
        for saved, found in pairs:
            for a, b in zip(*map(train_room.jax.tree.leaves, (saved, found)), strict=True):
                np.testing.assert_array_equal(a, b)


def test_one_compilation_serves_the_whole_run(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []

    def counting(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            function = make(*arguments)
            return lambda *inputs: (traced.append(name), function(*inputs))[1]

        return made

    for room, name in ((train_room, "make_step"), (evaluate_room, "make_eval_step")):
        monkeypatch.setattr(room, name, counting(name, getattr(room, name)))
    train(settings(text, tmp_path / "run", train={"accumulate": 2}), "here", lambda line: None)
    assert sorted(traced) == ["make_eval_step", "make_step"]


def test_eval_is_the_mean_over_the_whole_split(text: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    run = train(settings(text, tmp_path / "run"), "here", lambda line: None)
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
    assert f"loss {loss:.4f}, perplexity {math.exp(loss):.3f}, bits per byte {bits:.4f}" in outcome.out


def test_eval_takes_the_data_that_are_meant_or_none(text: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = train(settings(text, tmp_path / "run"), "here", lambda line: None)
    assert "is no prepared directory" in refused("jaxgpt", "eval", run, "--data", text)
    other = tmp_path / "other.txt"
    other.write_text(TEXT.swapcase())
    prepare([str(other)], tmp_path / "other")
    assert "the same ids would mean other text" in refused("jaxgpt", "eval", run, "--data", tmp_path / "other")
    assert "--batch-size must be positive" in refused("jaxgpt", "eval", run, "--batch-size", "0")
    (run / "data").rename(tmp_path / "moved")
    assert "is not at hand" in refused("jaxgpt", "eval", run)


def test_a_run_may_start_from_another_model(text: Path, tmp_path: Path) -> None:
    first = train(settings(text, tmp_path / "first"), "here", lambda line: None)
    data = {"path": str(first / "data")}
    again = settings(
        text,
        tmp_path / "second",
        data=data,
        run={"init": str(first)},
        optim={"learning_rate": 1e-9, "final_learning_rate": 0.0},
    )
    second = train({**again, "model": {"dropout": 0.0}}, "here", lambda line: None)
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
        train({**again, "data": {"path": str(other.path)}, "run": {**again["run"], "dir": str(tmp_path / "x")}}, "here")


@pytest.mark.parametrize("steps", [50])
def test_it_follows_torch_from_a_converted_checkpoint(steps: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert import to_flax
    from convert.reference import GPT

    data = prepare(["python-docs"], tmp_path / "data")
    sizes = {"vocab_size": data.vocab_size, "context_length": 16, "model_dim": 30, "num_blocks": 2, "num_heads": 5}
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
            "train": {"steps": steps, "batch_size": 8, "log_every": 1, "eval_every": steps, "seed": 3},
        },
        "here",
        lambda line: None,
    )
    ours = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    theirs = []
    for step in range(steps):
        ids = train_room.batch(data.train, seed=3, step=step, batch_size=8, context_length=16)
        ids = torch.from_numpy(ids.astype(np.int64))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    assert theirs[-1] < theirs[0] - 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_config_trains_at_tiny_size(
    path: Path, text: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    assert path.read_text().startswith("# ")
    shipped = tomllib.loads(path.read_text())
    tiny = {
        "data.path": text, "run.dir": tmp_path / "run", "model.vocab_size": 0, "model.context_length": 16,
        "model.model_dim": 8 * shipped["model"]["num_heads"], "model.num_blocks": 2, "optim.warmup_steps": 1,
        "train.steps": 2, "train.batch_size": 4, "train.accumulate": min(2, shipped["train"].get("accumulate", 1)),
        "train.eval_batches": 1, "train.scan_unroll": 1,
    }  # fmt: skip
    outcome = command("jaxgpt", "train", path, *(word for name, value in tiny.items() for word in (f"--{name}", value)))
    assert outcome.code == 0, outcome
    assert "step 2/2" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.num_head", "4"], "--model.num_head: there is no setting num_head. Did you mean num_heads?"),
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
    config = tmp_path / "config.toml"
    sections = settings(text, tmp_path / "run")
    config.write_text(
        "\n".join(
            f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in fields.items())
            for name, fields in sections.items()
        )
    )
    assert message in refused("jaxgpt", "train", config, *words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
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


def test_a_run_is_not_written_over_another(text: Path, tmp_path: Path) -> None:
    train(settings(text, tmp_path / "run"), "here", lambda line: None)
    with pytest.raises(UserError, match="run holds a run already: remove it, or choose another run.dir"):
        train(settings(text, tmp_path / "run"), "here", lambda line: None)


def test_an_attempt_that_failed_is_not_in_the_way_of_the_next(text: Path, tmp_path: Path) -> None:
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


def test_a_loss_that_is_no_number_stops_the_run(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is .* Try a lower optim.learning_rate"):
        train(
            settings(text, tmp_path / "run", optim={"learning_rate": 1e30, "clip_norm": 0.0}), "here", lambda line: None
        )
