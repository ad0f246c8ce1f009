"""Adapters change nothing at first, are all that a run trains and stores, and are merged on loading."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.devices.mesh import AXES
from jaxgpt.devices.sharding import shardings
from jaxgpt.devices.sharding_table import SHARDING_TABLE
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params, assemble, lora
from jaxgpt.planning.plan import plan
from jaxgpt.pytree import flatten, unflatten
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.settings import build_run
from jaxgpt.storage import arrays, run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.training.run import train
from jaxgpt.training.step import init_state, make_step
from tests.helpers import CONFIGS, PRIMES, TEXT, random_params, settings

LORA = {"lora_rank": 3, "lora_alpha": 6.0}  # scale 2
LLAMA = ModelConfig(**{**PRIMES, "dropout": 0.0, **CONFIGS["llama"]})


def config_of(model: ModelConfig, **optim: Any) -> Config:
    return Config(
        DataConfig("x"),
        RunConfig("x", init="y"),
        model=model,
        optim=OptimConfig(warmup_steps=0, **optim),
        train=TrainConfig(steps=10, batch_size=4, **LORA),
    )


def random_adapters(params: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = flatten(lora.adapters(params, 3))
    return {name: rng.normal(size=leaf.shape).astype("float32") for name, leaf in shapes.items()}


def test_a_merged_kernel_computes_what_the_unmerged_one_does() -> None:
    """For each kernel, the product with the sum is the sum of the products with base, A and B."""
    params = random_params(LLAMA, np.dtype("float32"))
    base, low = flatten(params), random_adapters(params)
    merged = flatten(lora.merge(params, unflatten(low), 2.0))
    products = {  # inputs x of a kernel, of A, and what comes out of B
        "blocks/attn/qkv/kernel": ("xd,ldmgh->lxmgh", "xd,ldgr->lxgr", "lxgr,lmghr->lxmgh"),
        "blocks/attn/out/kernel": ("xmh,lmhd->lxd", "xmh,lmhr->lxr", "lxr,ldr->lxd"),
        "blocks/mlp/gate_up/kernel": ("xd,ldgf->lxgf", "xd,ldgr->lxgr", "lxgr,lgfr->lxgf"),
        "blocks/mlp/down/kernel": ("xf,lfd->lxd", "xf,lfr->lxr", "lxr,ldr->lxd"),
    }
    assert {name for name in base if not np.array_equal(base[name], merged[name])} == {*products}
    for name, (whole, by_a, by_b) in products.items():
        axes = dict(zip(whole.split(",")[1].split("-")[0], base[name].shape, strict=True))
        shape = [axes.get(letter, 7) for letter in whole.split(",")[0]]
        x = np.random.default_rng(3).normal(size=shape)
        a, b = (low[f"{name}/{part}"].astype("float64") for part in "ab")
        unmerged = np.einsum(whole, x, base[name]) + 2 * np.einsum(by_b, np.einsum(by_a, x, a), b)
        together = np.einsum(whole, x, np.asarray(merged[name], "float64"))
        assert np.abs(unmerged - together).max() < 1e-6 * np.abs(unmerged).max(), name


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_before_the_first_step_adapters_change_no_bit(fields: dict[str, Any]) -> None:
    model = ModelConfig(**{**PRIMES, "dropout": 0.0, **fields})
    params, config = random_params(model, np.dtype("float32")), config_of(model)
    state = init_state(config, params)
    merged = lora.merge(state.base, state.params, config.train.lora_scale)
    ids = np.arange(34).reshape(2, 17)
    before, after = (
        assemble(model, jax.tree.map(jnp.asarray, one))(ids) for one in (params, merged)
    )
    assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert all(path in SHARDING_TABLE for path in flatten(state.params))
    a = [leaf for path, leaf in flatten(state.params).items() if path.endswith("/a")]
    assert all(np.abs(leaf).min() > 0 for leaf in a)


def test_an_encoder_decoder_has_adapters_on_both_sides() -> None:
    """Cross-attention has adapters too, and each has a place on a mesh."""
    decoder = ModelConfig(**PRIMES, cross_attention=True)
    pair = abstract_params(Seq2SeqConfig(ModelConfig(**PRIMES), decoder))
    adapters = lora.adapters(pair, 3)
    names = {name.rpartition("/")[0] for name in flatten(adapters)}
    assert names == {
        name for name in flatten(pair) if name.endswith("kernel") and "blocks/" in name
    }
    assert "decoder/blocks/cross_attn/qkv/kernel" in names
    mesh = jax.sharding.AbstractMesh((1, 1, 1, 1), AXES)
    assert len(jax.tree.leaves(shardings(adapters, mesh))) == 2 * len(names)


def test_a_step_moves_only_the_adapters_by_the_gradient_that_reaches_them() -> None:
    """The optimiser has two moments of each adapter, and none of the base."""
    config = config_of(LLAMA, clip_norm=0.0, weight_decay=0.0)
    state = init_state(config, random_params(LLAMA, np.dtype("float32")))
    low = {name: jnp.asarray(leaf) for name, leaf in random_adapters(state.base).items()}
    state = state._replace(params=unflatten(low))
    size = sum(leaf.size for leaf in low.values())
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * size
    ids = np.random.default_rng(0).integers(0, 103, (1, 4, 18))
    after, metrics = jax.jit(make_step(config))(state, ids)
    jax.tree.map(np.testing.assert_array_equal, after.base, state.base)
    moved = flatten(after.params)
    assert all(np.abs(moved[name] - leaf).max() > 0 for name, leaf in low.items())
    # The whole gradient, by the step of a run without adapters, and the chain rule for one kernel.
    merged = lora.merge(state.base, state.params, 2.0)
    whole = dataclasses.replace(config, train=TrainConfig(steps=10, batch_size=4))
    fresh = init_state(whole, merged)
    stepped, plain = jax.jit(make_step(whole))(fresh, ids)
    assert float(metrics.loss) == pytest.approx(float(plain.loss), rel=1e-6)
    name = "blocks/mlp/down/kernel"

    def mean_of_gradients(optimizer: Any, path: str) -> np.ndarray:
        (mu,) = (
            leaf
            for at, leaf in jax.tree_util.tree_leaves_with_path(optimizer)
            if ".mu" in jax.tree_util.keystr(at)
            and "/".join(str(key.key) for key in at if hasattr(key, "key")) == path
        )
        return np.asarray(mu)

    by_kernel = mean_of_gradients(stepped.optimizer, name)
    by_a = 2 * np.einsum("lfd,ldr->lfr", by_kernel, low[f"{name}/b"])
    np.testing.assert_allclose(
        mean_of_gradients(after.optimizer, f"{name}/a"), by_a, atol=2e-6 * np.abs(by_a).max()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wood.txt, the run `first`, and `tuned`, a run of adapters, 6 steps each."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "wood.txt").write_text(TEXT)
    train(settings(folder / "wood.txt", folder / "first"), "here", lambda line: None)
    train(of_adapters(folder, folder / "tuned"), "here", lambda line: None)
    return folder


def of_adapters(folder: Path, run: Path, **sections: Any) -> dict[str, Any]:
    """The settings of a run in `run` of adapters to the run `first` of `folder`."""
    base = {"data": {"path": str(folder / "first" / "data")}, "optim": {"learning_rate": 0.02}}
    base |= {"train": {**LORA, **sections.pop("train", {})}, "run": {"init": str(folder / "first")}}
    return settings(folder / "wood.txt", run, **{**base, **sections})


def test_checkpoints_hold_only_adapters_and_the_run_holds_its_base_once(folder: Path) -> None:
    base, first = ModelDirectory(folder / "tuned" / "base"), ModelDirectory(folder / "first")
    jax.tree.map(np.testing.assert_array_equal, base.params(), first.params())
    checkpoint = run_directory.checkpoint_of(folder / "tuned", 6)
    for part in ("weights", "state"):
        stored = [
            "/".join(str(getattr(key, "key", "")) for key in path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                arrays.stored_shapes(checkpoint / part)
            )
            if leaf.shape
        ]
        assert stored
        assert all(name.endswith(("/a", "/b")) for name in stored)


def test_it_resumes_bit_for_bit_without_the_model_it_started_from(
    folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(folder / "tuned", tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    data = shutil.copytree(folder / "first" / "data", tmp_path / "data")
    sections = of_adapters(folder, run, data={"path": str(data)})
    sections["run"]["init"] = str(folder)  # a directory, but no model
    train(sections, "here", lambda line: None)
    ours, theirs = (run_directory.checkpoint_of(one, 6) for one in (run, folder / "tuned"))
    for part in ("weights", "state"):
        trees = (
            arrays.read(one / part, arrays.stored_shapes(one / part)) for one in (ours, theirs)
        )
        jax.tree.map(np.testing.assert_array_equal, *trees)
    losses = (
        [line["loss"] for line in run_directory.read_metrics(one)]
        for one in (run, folder / "tuned")
    )
    assert next(losses) == next(losses)


def test_all_commands_see_the_merged_model_even_if_the_run_was_moved(
    folder: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = shutil.copytree(folder / "tuned", tmp_path / "moved")
    opened = ModelDirectory(run_directory.checkpoint_of(run, 6))
    merged = flatten(opened.params())
    before = flatten(ModelDirectory(run / "base").params())
    different = {name for name in before if not np.array_equal(before[name], merged[name])}
    assert different == {name for name in before if name.endswith("kernel") and "blocks/" in name}
    assert all(np.array_equal(opened.read(name), leaf) for name, leaf in merged.items())
    model = jaxgpt.load(opened.path)
    assert model.config == opened.config
    loss = run_directory.val_loss(run_directory.best(run))
    shown = command("jaxgpt", "eval", run, "--data", folder / "first" / "data")
    assert shown.code == 0, shown
    assert float(shown.out.split("loss ")[1].split(",")[0]) == pytest.approx(loss, abs=0.3)
    assert command("jaxgpt", "sample", run, "--prompt", "How", "--tokens", "5").code == 0
    assert command("jaxgpt", "look", run, "--text", "wood").code == 0
    assert command("jaxgpt", "export", run, "--out", tmp_path / "programs.zip").code == 0


def test_the_checkpoint_for_torch_is_merged(
    folder: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    torch = pytest.importorskip("torch")
    import convert

    run, out = folder / "tuned", tmp_path / "a.pt"
    assert command("jaxgpt-convert", "to-torch", run, out, "--weights-only").code == 0
    opened = ModelDirectory(run)
    back = convert.to_flax(out, num_heads=2, dropout=0.1)
    jax.tree.map(np.testing.assert_array_equal, back.params, opened.params())
    assert torch.load(out)
    words = "--dialect", "nanogpt", "--optimizer"
    said = refused("jaxgpt-convert", "to-torch", run, tmp_path / "b.pt", *words)
    assert "was trained with adapters: its optimiser has moments of these" in said


def test_a_run_evaluates_the_model_that_it_stores(
    folder: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    whole = of_adapters(folder, tmp_path / "run", train={"eval_batches": 0})
    run = train(
        {**whole, "optim": {"ema": 0.5, "learning_rate": 0.02}}, "here", lambda line: None
    ).directory
    best = run_directory.best(run)
    assert best
    shown = command("jaxgpt", "eval", run, "--batch-size", "4", "--data", folder / "first" / "data")
    loss = float(shown.out.split("loss ")[1].split(",")[0])
    assert loss == pytest.approx(run_directory.val_loss(best), abs=6e-5)


def test_adapters_without_their_base_are_refused(folder: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run_directory.checkpoint_of(folder / "tuned", 6), tmp_path / "alone")
    with pytest.raises(UserError, match="holds adapters of the model .*base, which is missing"):
        ModelDirectory(alone)
    run = shutil.copytree(folder / "tuned", tmp_path / "run")
    shutil.rmtree(run / "base")
    shutil.copytree(run_directory.checkpoint_of(folder / "first", 4), run / "base")
    (run / "base" / "config.json").write_text("{}")
    assert run_directory.summary(run).state == "damaged: base"
    with pytest.raises(UserError, match="or not the one that they were trained with"):
        ModelDirectory(run)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"lora_rank": 4}, "train.lora_rank is 4, but .* was saved with 3"),
     ({"lora_alpha": 5.0}, "train.lora_alpha is 5.0, but .* was saved with 6.0")],
)  # fmt: skip
def test_other_adapters_cannot_resume_it(changed: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        train(of_adapters(folder, folder / "tuned", train=changed), "here", lambda line: None)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"run": {}}, "name it with --init DIR"),
        (
            {"optim": {"name": "muon"}, "run": {"init": "x"}},
            "leaves no matrices to optim.name muon",
        ),
        ({"run": {"init": "x", "go_on": True}}, "leave run.go_on out"),
        ({"train": {"lora_rank": 0}}, "lora_alpha is 6.0, but there are no adapters"),
        ({"train": {"lora_rank": -1}}, "lora_rank must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    sections: dict[str, Any], said: str, tmp_path: Path
) -> None:
    train = {**LORA, **sections.get("train", {})}
    with pytest.raises(UserError, match=said):
        build_run(
            settings(tmp_path / "x", tmp_path / "run", **{**sections, "train": train}), "here"
        )


def test_a_plan_counts_the_base_once_and_moments_only_for_adapters() -> None:
    sizes = {**PRIMES, "model_dim": 40, "vocab_size": 64}
    base = {"model": sizes, "data": {"path": "x"}, "run": {"dir": "r", "init": "x"}}
    base["mesh"] = {"data": 1, "fsdp": -1}
    whole = plan({**base, "train": {"steps": 10}}, "here")[0]
    tuned = plan({**base, "train": {"steps": 10, **LORA}}, "here")[0]
    assert tuned.size == whole.size
    model = ModelConfig(**sizes)
    adapters = lora.adapters(random_params(model, np.dtype("float32")), 3)
    assert tuned.adapters == sum(leaf.size for leaf in jax.tree.leaves(adapters))
    devices = len(tuned.mesh.devices.flat)
    extra = 4 * tuned.adapters
    assert 0 < tuned.memory.parameters - whole.memory.parameters <= extra
    assert tuned.memory.optimizer <= 2 * extra + 100
    assert tuned.memory.optimizer >= 2 * extra / devices


def test_a_run_of_adapters_reports_its_sizes(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(of_adapters(folder, tmp_path / "run", train={"steps": 3}), "here", said.append)
    size = sum(leaf.size for leaf in jax.tree.leaves(ModelDirectory(folder / "first").params()))
    assert any(f"{size:,} parameters and " in line and "alone are trained" in line for line in said)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["lora_rank"] == 3
