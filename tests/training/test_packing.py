"""Runs on packed documents: their losses, resuming, evaluation, and runs without packing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ComputeConfig, Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jaxgpt.data.packing import cut, documents
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokens import open_dataset
from jaxgpt.data.windows import Windows, make_windows
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.errors import UserError
from jaxgpt.model import exactly, params_of
from jaxgpt.pytree import flatten
from jaxgpt.storage import run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.training import step as step_module
from jaxgpt.training.batches import batches
from jaxgpt.training.compute import Compute
from jaxgpt.training.evaluate import evaluate
from jaxgpt.training.losses import token_losses
from jaxgpt.training.run import train
from jaxgpt.training.step import make_eval_step, make_step
from tests.helpers import CONFIGS, random_model, settings

LENGTH, EOT = 17, 7


def packed(vocab_size: int, seed: int = 0) -> Windows:
    """Windows of random ids with document boundaries about every six ids."""
    ids = np.random.default_rng(seed).integers(0, vocab_size, 400)
    ids[np.random.default_rng(seed + 1).random(400) < 0.15] = EOT
    return make_windows(ids, cut(documents(ids, EOT), LENGTH), LENGTH, "restart")


def each_alone(model: Any, params: Any, windows: Windows, numbers: np.ndarray) -> jax.Array:
    """The mean loss of the documents in these windows, each in a batch of its own."""
    total, count = jnp.zeros((), model.dtype), 0
    for number in numbers.tolist():
        for start, stop in windows._spans(*windows.firsts[number : number + 2]):
            text = jnp.asarray(windows.ids[None, start:stop])
            total += token_losses(model.config, params, text).sum()
            count += stop - start - 1
    return total / count


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gpt", "llama", "gemma", "bloom, one norm"])
def test_losses_and_gradients_are_those_of_the_documents_alone(name: str, dtype: str) -> None:
    model = random_model(dtype, **CONFIGS[name])
    windows = packed(model.config.vocab_size)
    counts = np.diff(windows.firsts)
    numbers = counts.argsort()[-2:]
    assert counts[numbers].min() > 2
    batch, compute = windows.rows(numbers), Compute(ComputeConfig())

    def together(params: Any) -> jax.Array:
        losses_bt = token_losses(model.config, params, batch, None, compute)
        return jnp.mean(losses_bt, where=batch.target_mask_bt)

    with exactly(model.dtype):
        params = params_of(model)
        found = jax.jit(jax.value_and_grad(together))(params)
    with exactly(np.dtype("float64")):  # so that only one side is rounded
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, "float64")), params)
        expected = jax.value_and_grad(lambda p: each_alone(model, p, windows, numbers))(wide)
    share = {"float32": 1e-6, "float64": 1e-12}[dtype]
    for mine, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        largest = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=share * largest)


def test_a_step_takes_the_mean_over_all_documents() -> None:
    """Also with accumulated parts, which have different numbers of targets."""
    model = ModelConfig(23, LENGTH, 14, 2, 2, dropout=0.0)
    config = Config(
        DataConfig("x", pack="restart"),
        RunConfig("x"),
        model=model,
        train=TrainConfig(batch_size=4, accumulate=2),
    )
    windows, state = packed(23), step_module.init_state(config)
    whole = windows.batch(seed=0, step=0, batch_size=4)
    parts = jax.tree.map(lambda x: x.reshape(2, 2, LENGTH), whole)
    _, metrics = jax.jit(make_step(config))(state, parts)
    summed = make_eval_step(model, Compute(ComputeConfig()))(state.params, whole)
    assert float(metrics.loss) == pytest.approx(float(summed) / whole.target_mask_bt.sum(), 1e-6)


@pytest.fixture(scope="module")
def fables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fables")
    rng = np.random.default_rng(0)
    lines = [{"text": "a fox, a crow "[: rng.integers(1, 14)] * 2} for _ in range(300)]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"tokenizer": "bpe", "vocab_size": 260}
    return prepare([str(folder / "in.jsonl")], folder / "data", **options).path


def run(data: Path, folder: Path, pack: str = "restart", **train_fields: Any) -> Path:
    return train(
        settings(data, folder, data={"pack": pack}, train=train_fields), "here", lambda _: None
    ).directory


def weights(folder: Path) -> dict[str, Any]:
    return flatten(ModelDirectory(run_directory.checkpoints(folder)[-1]).params())


@pytest.mark.parametrize("pack", ["restart", "continue"])
def test_a_run_resumes_with_the_same_bits(pack: str, fables: Path, tmp_path: Path) -> None:
    for name, stops in (("stopped", [4, 6]), ("straight", [6])):
        for steps in stops:
            made = settings(
                fables,
                tmp_path / name,
                data={"pack": pack},
                optim={"schedule": "constant"},
                train={"steps": steps},
            )
            train(made, "here", lambda _: None)
    found, expected = weights(tmp_path / "stopped"), weights(tmp_path / "straight")
    assert all(found[path].tobytes() == leaf.tobytes() for path, leaf in expected.items())


def test_eval_uses_the_masks_of_the_run(fables: Path, tmp_path: Path) -> None:
    whole = run(fables, tmp_path / "run", steps=4, eval_batches=0)
    loss = evaluate(whole, None, 3).loss
    val_loss = run_directory.read_metrics(whole)[-1]["val_loss"]
    assert loss == pytest.approx(val_loss, rel=1e-5)
    apart = json.loads((whole / "config.json").read_text())
    assert apart["data"]["pack"] == "restart"
    for checkpoint in run_directory.checkpoints(whole):
        file = checkpoint / "config.json"
        file.write_text(file.read_text().replace('"pack": "restart"', '"pack": "off"'))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        del manifest["files"]["config.json"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert abs(evaluate(whole, None, 3).loss - loss) > 1e-4


def test_one_compilation_serves_the_whole_run(
    fables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []
    original = step_module.make_step

    def counting(*arguments: Any) -> Any:
        function = original(*arguments)
        return lambda *inputs: (traced.append(1), function(*inputs))[1]

    monkeypatch.setattr(step_module, "make_step", counting)
    run(fables, tmp_path / "run", accumulate=2)
    assert len(traced) == 1


def test_without_packing_a_step_gets_only_ids(fables: Path) -> None:
    sizes = ModelConfig(260, 16, 12, 2, 2)
    config = Config(DataConfig("x"), RunConfig("x"), model=sizes, train=TrainConfig(batch_size=2))
    mesh = make_mesh(config.mesh, 2, 12)
    assert batches(open_dataset(fables), config, mesh)(0).shape == (1, 2, 17)


def test_pairs_are_not_packed() -> None:
    pair = ModelConfig(20, 16, 12, 2, 2)
    with pytest.raises(UserError, match="data.pack is restart, but that is for texts"):
        Config(
            DataConfig("x", pack="restart"),
            RunConfig("x"),
            model=dataclasses.replace(pair, cross_attention=True),
            encoder=pair,
        )
