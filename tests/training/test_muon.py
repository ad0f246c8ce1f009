"""Muon: its steps equal those of a plain implementation in torch; its runs resume or are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from jaxgpt.devices.sharding_table import SHARDING_TABLE
from jaxgpt.errors import UserError
from jaxgpt.model import exactly
from jaxgpt.model.matrices import matrix_of
from jaxgpt.planning.plan import plan
from jaxgpt.pytree import flatten, unflatten
from jaxgpt.storage import arrays
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.training.muon import optimizer_names
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.run import train
from tests.helpers import CONFIGS, PRIMES, TEXT, random_params, settings

MUON = {"name": "muon", "muon_learning_rate": 0.03, "muon_momentum": 0.9}


def config_of(model: ModelConfig, **optim: Any) -> Config:
    fields = {**MUON, "warmup_steps": 0, "schedule": "linear", **optim}
    return Config(DataConfig("x"), RunConfig("x"), model=model, optim=OptimConfig(**fields))


def matrices(name: str, kernel: Any, groups: int = 0) -> list[Any]:
    """The matrices (outputs, inputs) of a stacked `kernel`, as a class without fused layers has them."""
    parts = []
    for layer in range(len(kernel)):
        one = kernel[layer]
        if name.endswith("qkv/kernel"):  # (D, M, G + 2, H)
            parts += [one[:, :, i].reshape(len(one), -1).T for i in range(groups + 2)]
        elif name.endswith("attn/out/kernel"):
            parts.append(one.reshape(-1, one.shape[-1]).T)
        elif name.endswith("gate_up/kernel"):
            parts += [one[:, i].T for i in (0, 1)]
        else:
            parts.append(one.T)
    return parts


def plain_muon(weights: list[Any], gradients: list[list[Any]], rates: list[float]) -> None:
    """Keller Jordan's Muon on `weights`, with decay 0.1 and the momentum of MUON, as optax corrects it for its bias."""
    torch = pytest.importorskip("torch")
    beta, averages = MUON["muon_momentum"], [torch.zeros_like(w) for w in weights]
    for t, (step, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        for w, g, m in zip(weights, step, averages, strict=True):
            m.mul_(beta).add_(g, alpha=1 - beta)
            x = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / (x.norm() + 1e-8)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = (x.T if tall else x) * max(1, w.shape[0] / w.shape[1]) ** 0.5
            w.mul_(1 - rate * 0.1).add_(x, alpha=-rate)


@pytest.mark.parametrize("fields", ["gpt", "llama"])
def test_three_steps_equal_those_of_a_plain_muon_in_torch(fields: str) -> None:
    """Matrices by Muon, the rest by torch's AdamW; in float64, with decay and Nesterov's momentum."""
    torch = pytest.importorskip("torch")
    model = ModelConfig(**{**PRIMES, "dropout": 0.0, **CONFIGS[fields]})
    groups = model.num_heads // model.num_kv_heads
    config = config_of(model, learning_rate=0.01, final_learning_rate=0.0, clip_norm=0.0, eps=1e-3)
    rates = [0.01 * (1 - step / config.train.steps) for step in range(3)]
    flat = flatten(random_params(model, np.dtype("float64")))
    rng = np.random.default_rng(1)
    steps = [{name: rng.normal(size=x.shape) for name, x in flat.items()} for _ in rates]
    ours = make_optimizer(config)
    with exactly(jnp.dtype("float64")):
        params = jax.tree.map(jnp.asarray, unflatten(flat))
        state = ours.init(params)
        for gradients in steps:
            updates, state = jax.jit(ours.update)(unflatten(gradients), state, params)
            params = optax.apply_updates(params, updates)
    moved = flatten(jax.tree.map(np.asarray, params))

    def tensors(name: str, array: np.ndarray) -> list[Any]:
        return [torch.tensor(part.copy()) for part in matrices(name, array, groups)]

    for name, before in flat.items():
        if "blocks/" in name and name.endswith("kernel"):
            weights = tensors(name, before)
            gradients = [tensors(name, step[name]) for step in steps]
            plain_muon(weights, gradients, [3 * rate for rate in rates])
            found = tensors(name, moved[name])
        else:
            weights = [torch.tensor(before.copy(), requires_grad=True)]
            decay = 0.1 if name.endswith(("kernel", "embedding")) else 0.0
            adamw = torch.optim.AdamW(weights, betas=(0.9, 0.99), eps=1e-3, weight_decay=decay)
            for step, rate in zip(steps, rates, strict=True):
                weights[0].grad = torch.tensor(step[name])
                adamw.param_groups[0]["lr"] = rate
                adamw.step()
            found = [torch.tensor(moved[name])]
        for mine, theirs in zip(found, weights, strict=True):
            largest = theirs.abs().max().item()
            assert (mine - theirs).abs().max().item() < 1e-9 * largest, name


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_matrices_are_the_kernels_of_the_blocks(fields: dict[str, Any]) -> None:
    """Not embeddings, heads, norms, biases or positions."""
    model = ModelConfig(**PRIMES | fields)
    names = flatten(optimizer_names(random_params(model, np.dtype("float32"))))
    chosen = {name for name, optimizer in names.items() if optimizer == "muon"}
    qkv, out = "blocks/attn/qkv/kernel", "blocks/attn/out/kernel"
    up = "blocks/mlp/gate_up/kernel" if model.mlp_gated else "blocks/mlp/up/kernel"
    expected = {qkv, out, up, "blocks/mlp/down/kernel"}
    assert chosen == (expected if model.attention_out else expected - {out})


def test_the_axes_that_count_matrices_are_never_sharded() -> None:
    """So a new kernel in the table cannot be missing among the matrices."""
    for name, axes in SHARDING_TABLE.items():
        if matrix := matrix_of(name):
            sharded = {i for i, names in enumerate(axes) if names}
            assert sharded == {*matrix.inputs, *matrix.outputs}, name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Muon of 6 steps, with checkpoints at 4 and 6; the text is next to it."""
    folder = tmp_path_factory.mktemp("muon")
    (folder / "wood.txt").write_text(TEXT)
    sections = settings(folder / "wood.txt", folder / "run", optim=MUON)
    return train(sections, "here", lambda line: None).directory


def resumed(run: Path, to: Path, **sections: Any) -> Path:
    """A copy of `run` at `to` that has resumed from its checkpoint at step 4, with `sections` changed."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "checkpoints" / "step-00000006")
    return train(
        settings(run.parent / "wood.txt", to, **sections), "here", lambda line: None
    ).directory


def test_it_resumes_bit_for_bit(run: Path, tmp_path: Path) -> None:
    resumed(run, tmp_path / "run", optim=MUON)
    whole, again = (
        ModelDirectory(one / "checkpoints" / "step-00000006") for one in (run, tmp_path / "run")
    )
    jax.tree.map(np.testing.assert_array_equal, whole.params(), again.params())
    states = (
        arrays.read(one.path / "state", arrays.stored_shapes(one.path / "state"))
        for one in (whole, again)
    )
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_run_of_muon_cannot_resume_with_another_optimizer(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"optim.name is adamw, but .*step-00000004 was saved with muon, and"
    ):
        resumed(run, tmp_path / "run")


@pytest.mark.parametrize("words", [["--optimizer"], []], ids=str)
def test_its_state_is_not_written_for_torch(
    words: list[str], run: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Not even for a class whose files have an optimiser; only the weights are."""
    pytest.importorskip("torch")
    out = tmp_path / "a.pt"
    said = refused("jaxgpt-convert", "to-torch", run, out, "--dialect", "nanogpt", *words)
    assert "was trained with Muon, which has no mean of squared gradients" in said
    assert "--weights-only" in said


def test_its_weights_can_be_fine_tuned_but_its_state_not_resumed_by_adamw(
    run: Path, tmp_path: Path
) -> None:
    sections: dict[str, Any] = settings(run.parent / "wood.txt", tmp_path / "tuned")
    sections["data"] = {"path": str(run / "data")}
    sections["run"] |= {"init": str(run), "go_on": True}
    sections["train"]["steps"] = 8
    with pytest.raises(UserError, match="was trained with Muon"):
        train(sections, "here", lambda line: None)
    with pytest.raises(UserError, match="run.go_on resumes the state of AdamW"):
        train({**sections, "optim": MUON}, "here", lambda line: None)
    del sections["run"]["go_on"]
    sections |= {"optim": {"name": "adamw"}, "train": {"steps": 2, "eval_every": 2}}
    said: list[str] = []
    train({**sections, "model": {}}, None, said.append)  # settings of Muon's run give way
    assert any("muon" not in line for line in said)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["optim"]["muon_learning_rate"] == 0.02
    sections["run"] = {"dir": str(tmp_path / "adapted"), "init": str(run)}
    del sections["optim"]  # which AdamW of adapters has no use for either
    sections["train"] = {"steps": 2, "eval_every": 2, "lora_rank": 2}
    train({**sections, "model": {}}, None, said.append)
    config = json.loads((tmp_path / "adapted" / "config.json").read_text())
    assert (config["optim"]["name"], config["optim"]["muon_momentum"]) == ("adamw", 0.95)


def test_a_plan_counts_one_moment_of_a_matrix_and_two_of_the_rest() -> None:
    sections = {"model": PRIMES, "data": {"path": "x"}, "run": {"dir": "r"}, "optim": MUON}
    found = plan({**sections, "mesh": {"data": 1}}, "here")[0]
    sizes = flatten(random_params(ModelConfig(**PRIMES), np.dtype("float32")))
    moments = sum(leaf.size * (1 if matrix_of(name) else 2) for name, leaf in sizes.items())
    assert 4 * moments <= found.memory.optimizer <= 4 * moments + 100


@pytest.mark.parametrize("field", ["muon_learning_rate", "muon_momentum"])
def test_settings_without_effect_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=rf"{field} is 0.5, but name is adamw, which has no use"):
        OptimConfig(**{field: 0.5})
