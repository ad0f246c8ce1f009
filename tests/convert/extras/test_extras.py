"""Extras that are stored with the weights are converted both ways, and survive training."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import to_torch
from convert.dialects import DIALECTS
from convert.extras.param_groups import Group, leaves, renewed
from convert.rows.resolve import express
from jaxgpt.config import ModelConfig, OptimConfig
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.training.run import train
from tests.convert.extras.test_adamw import SETTINGS, made_up, require_equal
from tests.helpers import TEXT, random_params, settings

torch = pytest.importorskip("torch", reason="torch is not installed")

NANOGPT = DIALECTS["nanogpt"]
# Of the size of the text's alphabet, and with what nanoGPT's one word for biases can say.
CONFIG = ModelConfig(
    vocab_size=13,
    context_length=16,
    model_dim=12,
    num_blocks=2,
    num_heads=2,
    activation="gelu",
    tied=True,
    qkv_bias=True,
    head_bias=False,
    dropout=0.1,
)
ARGS = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 12,
    "block_size": 16,
    "bias": True,
    "vocab_size": 13,
    "dropout": 0.1,
}


def adamw(state: dict[str, Any], seed: int = 0) -> Any:
    """torch's AdamW for the tensors of `state` in nanoGPT's two groups, after three steps on random gradients."""
    torch.manual_seed(seed)
    parameters = [
        torch.nn.Parameter(value.clone())
        for name, value in state.items()
        if name != "lm_head.weight"
    ]
    matrices = [value for value in parameters if value.dim() >= 2]
    others = [value for value in parameters if value.dim() < 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    made = torch.optim.AdamW(groups, **SETTINGS)
    for _ in range(3):
        for value in parameters:
            value.grad = 0.1 * torch.randn_like(value)
        made.step()
    return made


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ckpt.pt like those that nanoGPT's train.py writes."""
    state = to_torch(random_params(CONFIG, np.dtype("float32")), CONFIG, "nanogpt")
    held = {
        "model": state,
        "optimizer": adamw(state).state_dict(),
        "model_args": ARGS,
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.25),
        "config": {
            "learning_rate": 3e-3,
            "betas": (0.9, 0.95),
            "compile": False,
            "out_dir": "out",
            "nothing": None,
        },
        "losses": [4.5, float("inf")],
        3: {4: "numbers are keys too"},
    }
    path = tmp_path_factory.mktemp("nanogpt") / "ckpt.pt"
    torch.save(held, path)
    return path


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_all_of_a_checkpoint_comes_back(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    there = command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "model")
    assert "AdamW after 3 updates" in there.out
    back = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt")
    assert back.code == 0
    assert "With the extras model_args, iter_num, " in back.out
    ours, theirs = load(tmp_path / "back.pt"), load(ckpt)
    assert ours.keys() == theirs.keys()
    require_equal(
        {**ours, "model": dict(ours["model"])}, {**theirs, "model": dict(theirs["model"])}
    )


def test_weights_only_leaves_extras_out(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "model", "--weights-only")
    assert not (tmp_path / "model" / "state").exists()
    command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "whole")
    command(
        "jaxgpt-convert", "to-torch", tmp_path / "whole", tmp_path / "bare.pt", "--weights-only"
    )
    assert load(tmp_path / "bare.pt").keys() == {"model"}
    command("jaxgpt-convert", "to-torch", tmp_path / "whole", tmp_path / "bare.safetensors")


def test_extras_among_the_weights_go_back_among_them(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Some extras have numbers as keys."""
    mixed = {**load(ckpt)["model"], "note": "v2", 3: [4.5]}
    torch.save(mixed, tmp_path / "mixed.pt")
    words = "--set", "num_heads=2"
    command("jaxgpt-convert", "to-flax", tmp_path / "mixed.pt", tmp_path / "model", *words)
    back = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt")
    assert back.code == 0
    require_equal(dict(load(tmp_path / "back.pt")), mixed)


def test_what_is_no_plain_value_is_named(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    torch.save({**load(ckpt), "rng": torch.arange(5)}, tmp_path / "more.pt")
    outcome = command("jaxgpt-convert", "to-flax", tmp_path / "more.pt", tmp_path / "model")
    assert outcome.code == 0
    assert "warning: rng is left out: it holds more than numbers and words." in outcome.err


@pytest.fixture(scope="module")
def carried(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run of the checkpoint, resumed here from step 3 to 6; and the text."""
    import convert

    folder = tmp_path_factory.mktemp("carried")
    (folder / "wood.txt").write_text(
        re.sub(r"[^a-kH ]", "", TEXT) + "begj"
    )  # 13 characters, as the model has
    loaded = convert.to_flax(ckpt)
    loaded.save(folder / "model")
    optim = {
        **loaded.extras.settings,
        "schedule": "constant",
        "warmup_steps": 0,
        "final_learning_rate": 0.0,
    }
    sections = settings(folder / "wood.txt", folder / "run", optim=optim)
    sections["run"] |= {"init": str(folder / "model"), "go_on": True}
    sections["model"] = {}
    said: list[str] = []
    train(sections, "here", said.append)
    assert any(f"resuming from {folder / 'model'}" in line for line in said)
    return folder / "run", folder / "wood.txt"


def test_a_run_goes_on_at_the_step_where_it_was(carried: tuple[Path, Path]) -> None:
    run, _ = carried
    assert [line["step"] for line in run_directory.read_metrics(run)] == [4, 6]
    last = model_directory.ModelDirectory(run / "checkpoints" / "step-00000006")
    moments = last.moments()
    assert moments
    assert (moments.step, moments.updates) == (6, 6)


def test_it_goes_back_under_the_names_it_came_with(
    carried: tuple[Path, Path], ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run, _ = carried
    last = run / "checkpoints" / "step-00000006"
    assert command("jaxgpt-convert", "to-torch", last, tmp_path / "ckpt.pt").code == 0
    ours, theirs = load(tmp_path / "ckpt.pt"), load(ckpt)
    assert ours.keys() == theirs.keys() - {"losses"}
    assert ours["model"].keys() == theirs["model"].keys()
    assert (ours["iter_num"], ours["model_args"], ours["config"]) == (6, ARGS, theirs["config"])
    assert ours["best_val_loss"] == model_directory.ModelDirectory(last).about["val_loss"]
    fresh = adamw(ours["model"], seed=1)
    fresh.load_state_dict(ours["optimizer"])
    assert all(state["step"] == 6 for state in fresh.state.values())
    assert [group["weight_decay"] for group in fresh.param_groups] == [0.1, 0.0]


def test_nanogpt_can_resume_what_was_trained_here(
    carried: tuple[Path, Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    """What its train.py takes from a checkpoint: model_args, model, optimizer, iter_num, best_val_loss."""
    run, _ = carried
    assert (
        command(
            "jaxgpt-convert", "to-torch", run, tmp_path / "ckpt.pt", "--dialect", "nanogpt"
        ).code
        == 0
    )
    held = load(tmp_path / "ckpt.pt")
    assert held["model_args"] == ARGS
    step = run_directory.step_of(model_directory.ModelDirectory(run).path)
    assert (held["iter_num"], held["best_val_loss"] > 0) == (step, True)
    fresh = adamw(held["model"], seed=1)
    fresh.load_state_dict(held["optimizer"])
    names = [name for name in held["model"] if name != "lm_head.weight"]
    order = [n for n in names if held["model"][n].dim() >= 2] + [
        n for n in names if held["model"][n].dim() < 2
    ]
    moments = model_directory.ModelDirectory(run).moments()
    assert moments
    expected = to_torch(moments.mu, CONFIG, "nanogpt")
    for name, value in zip(
        order, (p for group in fresh.param_groups for p in group["params"]), strict=True
    ):
        assert torch.equal(fresh.state[value]["exp_avg"], expected[name]), name


def test_nanogpt_can_resume_from_weights_alone(tmp_path: Path, command: Callable[..., Any]) -> None:
    model = tmp_path / "model"
    model_directory.save(model, CONFIG, random_params(CONFIG, np.dtype("float32")))
    assert (
        command("jaxgpt-convert", "to-torch", model, tmp_path / "c.pt", "--dialect", "nanogpt").code
        == 0
    )
    held = load(tmp_path / "c.pt")
    assert held["optimizer"]["state"] == {}
    assert held["iter_num"] == 0
    adamw(held["model"]).load_state_dict(held["optimizer"])


def test_its_own_class_gets_the_step_and_the_settings_too(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "model")
    out = tmp_path / "again.pt"
    assert (
        command("jaxgpt-convert", "to-torch", tmp_path / "model", out, "--dialect", "nanogpt").code
        == 0
    )
    ours, theirs = load(out), load(ckpt)
    assert (ours["iter_num"], ours["config"]) == (3, theirs["config"])
    require_equal(ours["optimizer"]["state"], theirs["optimizer"]["state"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"qkv_bias": False},
            "bias, for fields that differ in this model: norm_bias is True, qkv_bias is False",
        ),
        ({"mlp_dim": 47}, "cannot have mlp_dim = 47: with the other sizes it is 48"),
    ],
)
def test_what_the_class_has_no_word_for(
    change: dict[str, Any], said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    config = ModelConfig(**{**vars(CONFIG), **change})
    model_directory.save(tmp_path / "model", config, random_params(config, np.dtype("float32")))
    assert said in refused(
        "jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "c.pt", "--dialect", "nanogpt"
    )
    assert not (tmp_path / "c.pt").exists()


def test_the_optimizer_of_another_class_is_written_when_asked_for(
    carried: tuple[Path, Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    run, _ = carried
    out = tmp_path / "whole.pth"
    assert (
        command("jaxgpt-convert", "to-torch", run, out, "--dialect", "mingpt", "--optimizer").code
        == 0
    )
    held = load(out)
    assert held.keys() == {"model_state_dict", "optimizer_state_dict"}


def test_an_optimizer_is_not_promised_where_none_can_be(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "whole")
    command("jaxgpt-convert", "to-flax", ckpt, tmp_path / "bare", "--weights-only")
    for source, out, more, said in (
        (
            "whole",
            "w.safetensors",
            ["--dialect", "mingpt"],
            "which only .pt and .pth files can hold",
        ),
        ("whole", "w.pt", ["--weights-only"], "--weights-only leaves it out"),
        ("bare", "w.pt", ["--dialect", "mingpt"], "bare has none"),
    ):
        words = "to-torch", tmp_path / source, tmp_path / out, "--optimizer", *more
        assert said in refused("jaxgpt-convert", *words)
        assert not (tmp_path / out).exists()


def test_an_optimizer_of_another_model_is_refused(
    ckpt: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    held = load(ckpt)
    torch.save({**held, "optimizer": made_up(NANOGPT, "matrices")}, tmp_path / "mixed.pt")
    said = refused("jaxgpt-convert", "to-flax", tmp_path / "mixed.pt", tmp_path / "model")
    assert re.search(
        r"optimizer, does not fit: its groups have \[\d+, \d+\] parameters.*--weights-only", said
    )
    assert not (tmp_path / "model").exists()


def test_an_optimizer_other_than_adamw_is_left_out(
    ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    held = load(ckpt)
    held["optimizer"]["param_groups"][0]["amsgrad"] = True
    torch.save(held, tmp_path / "odd.pt")
    outcome = command("jaxgpt-convert", "to-flax", tmp_path / "odd.pt", tmp_path / "model")
    assert outcome.code == 0
    assert "warning: optimizer is left out: it is set to amsgrad." in outcome.err
    assert not (tmp_path / "model" / "state").exists()


@pytest.mark.parametrize(
    ("rate", "said"), [(0.0, "learning_rate must be positive"), (torch.tensor(0.5), "")]
)
def test_a_rate_at_its_end_or_in_a_tensor(
    rate: Any,
    said: str,
    ckpt: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    refused: Callable[..., str],
) -> None:
    held = load(ckpt)
    for group in held["optimizer"]["param_groups"]:
        group["lr"] = rate
    del held["config"]["learning_rate"]  # which would say what the schedule started from
    torch.save(held, tmp_path / "end.pt")
    there = command("jaxgpt-convert", "to-flax", tmp_path / "end.pt", tmp_path / "model")
    assert (there.code, said in there.err) == (0, True)
    assert ("optim.learning_rate 0.5," in there.out) == (not said)
    assert command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt").code == 0
    require_equal(load(tmp_path / "back.pt")["optimizer"], held["optimizer"])
    if said:
        words = refused(
            "jaxgpt-convert",
            "to-torch",
            tmp_path / "model",
            tmp_path / "c.pt",
            "--dialect",
            "nanogpt",
        )
        assert said in words
        assert "--weights-only" in words


@pytest.mark.parametrize("step", [10**12, -5])
def test_a_counter_that_counts_no_steps(
    step: int, ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    torch.save({**load(ckpt), "iter_num": step, "note": "\ud800"}, tmp_path / "odd.pt")
    outcome = command("jaxgpt-convert", "to-flax", tmp_path / "odd.pt", tmp_path / "model")
    assert (outcome.code, "warning: note is left out" in outcome.err) == (0, True)
    moments = model_directory.ModelDirectory(tmp_path / "model").moments()
    assert moments
    assert moments.step == 3


def test_going_on_needs_an_optimizer(
    ckpt: Path, carried: tuple[Path, Path], tmp_path: Path
) -> None:
    import convert

    convert.to_flax(ckpt, weights_only=True).save(tmp_path / "bare")
    convert.to_flax(ckpt).save(tmp_path / "whole")
    for init, steps, said in (
        ("bare", 6, "has no optimiser to resume"),
        ("whole", 3, "has had 3 steps"),
    ):
        sections = settings(carried[1], tmp_path / "run", train={"steps": steps})
        sections["run"] |= {"init": str(tmp_path / init), "go_on": True}
        sections["model"] = {}
        with pytest.raises(UserError, match=said):
            train(sections, "here", print)


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {}), ({"decoupled_weight_decay": False}, {"decoupled_weight_decay": True})],
)
def test_an_adam_that_decays_after_training_here_says_how(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """It decayed as AdamW does; before, without decay, it was either."""
    known = leaves(express(NANOGPT, CONFIG, set(flatten(abstract_params(CONFIG)))), CONFIG)
    settings = {**SETTINGS, "weight_decay": 0.0, **before}
    optim = OptimConfig(decay="all")
    (group,) = renewed([Group(tuple(known), settings)], known, optim, 1e-3)
    assert group.settings.keys() == settings.keys()
    assert group.settings["weight_decay"] == optim.weight_decay > 0
    assert {**group.settings, **after} == group.settings


def test_masks_and_tied_heads_are_no_parameters() -> None:
    known = leaves(express(NANOGPT, CONFIG, set(flatten(abstract_params(CONFIG)))), CONFIG)
    assert "lm_head.weight" not in known
    assert "transformer.wte.weight" in known
    assert not any("mask" in name for name in known)


OLDER = {
    "new": (),
    "old": ("decoupled_weight_decay",),
    "older": ("decoupled_weight_decay", "fused", "maximize"),
}


@pytest.mark.parametrize("age", OLDER)
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_groups_come_back_with_the_keys_they_had(
    kind: str, age: str, ckpt: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A key added to a group would change what torch computes, since the older torch acted as if it were absent."""
    held = load(ckpt)
    for group in held["optimizer"]["param_groups"]:
        if kind == "Adam":
            group |= {"weight_decay": 0.0, "decoupled_weight_decay": False}
        for key in OLDER[age]:
            del group[key]
    torch.save(held, tmp_path / "ckpt.pt")
    assert command("jaxgpt-convert", "to-flax", tmp_path / "ckpt.pt", tmp_path / "model").code == 0
    assert command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt").code == 0
    back = load(tmp_path / "back.pt")
    require_equal(back["optimizer"], held["optimizer"])
    one, other = (_step(kind, found["optimizer"], found["model"]) for found in (back, held))
    require_equal(one, other)


def _step(kind: str, optimizer: dict[str, Any], state: dict[str, Any]) -> list[Any]:
    """The parameters after one more step with this optimiser, on gradients that are the parameters."""
    parameters = [
        torch.nn.Parameter(v.clone()) for name, v in state.items() if name != "lm_head.weight"
    ]
    parameters.sort(key=lambda value: value.dim() < 2)
    counts = [len(group["params"]) for group in optimizer["param_groups"]]
    groups = [{"params": parameters[: counts[0]]}, {"params": parameters[counts[0] :]}]
    made = getattr(torch.optim, kind)(groups)
    made.load_state_dict(optimizer)
    for value in parameters:
        value.grad = value.detach().clone()
    made.step()
    return [value.detach() for value in parameters]
