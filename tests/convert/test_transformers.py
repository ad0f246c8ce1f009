"""Hugging Face's own classes run beside the model: its folders, and bare files of its classes."""

import importlib.util
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from convert import to_flax  # noqa: E402
from convert.foreign import peer  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.storage import model_directory  # noqa: E402
from tests.zoo import ALL, SOUND_OF_ALL, given, needs_zoo, path_of  # noqa: E402

SIZES = {"vocab_size": 103, "bos_token_id": 0, "eos_token_id": 0}
SMALL = {"n_positions": 17, "n_embd": 35, "n_layer": 3, "n_head": 5, **SIZES}
OPT = {
    "max_position_embeddings": 17,
    "hidden_size": 35,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    **SIZES,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", SMALL),
    "gpt2 otherwise": (
        "GPT2",
        {
            **SMALL,
            "activation_function": "relu",
            "n_inner": 41,
            "layer_norm_epsilon": 1e-3,
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt1": (
        "OpenAIGPT",
        {name: value for name, value in SMALL.items() if not name.endswith("token_id")},
    ),
    "opt": ("OPT", {**OPT, "ffn_dim": 41, "pad_token_id": 1}),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing here may ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def folder(kind: str, path: Path) -> Path:
    name, sizes = KINDS[kind]
    cls = getattr(transformers, f"{name}ForCausalLM" if name == "OPT" else f"{name}LMHeadModel")
    torch.manual_seed(0)
    module = cls(cls.config_class(**sizes))
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.3)
    module.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_proven_by_the_class_that_its_config_names(kind: str, tmp_path: Path) -> None:
    source = folder(kind, tmp_path / "hf")
    to_flax(source).save(tmp_path / "m")
    page = verify(source, tmp_path / "m", train_steps=2 * (kind == "opt"))
    assert page.verdict == "proven", page
    assert not {*page.proven, *page.given, *page.assumed}
    assert page.ran.startswith("transformers:")
    assert [stage.name for stage in page.stages] == [
        "embedding",
        "block 0",
        "block 1",
        "block 2",
        "logits",
    ]
    # The biases of its keys have no gradient but rounding.
    assert (page.training is not None and len(page.training.rows) > 100) == (kind == "opt")


def test_a_wrong_field_is_told_and_its_block_named(tmp_path: Path) -> None:
    source = folder("gpt2", tmp_path / "hf")
    loaded = to_flax(source)
    wrong = type(loaded.config)(**{**vars(loaded.config), "activation": "gelu"})
    model_directory.save(tmp_path / "m", wrong, loaded.params)
    assert verify(source, tmp_path / "m").first_difference == "block 0"


def test_a_bare_file_is_given_to_the_class_as_it_usually_is(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    bare = tmp_path / "bare.safetensors"
    shutil.copy(folder("gpt2", tmp_path / "hf") / "model.safetensors", bare)
    for model, field, code in (("m", "activation=gelu_tanh", 4), ("n", "activation=relu", 3)):
        made = command(
            "jaxgpt-convert",
            "to-flax",
            bare,
            tmp_path / model,
            "--set",
            "num_heads=5",
            "--set",
            field,
        )
        assert made.code == 0
        outcome = command("jaxgpt-convert", "verify", bare, tmp_path / model)
        assert outcome.code == code
        assert "Compared with transformers:GPT2LMHeadModel." in outcome.out
        assert ("UNPROVEN: equal under these assumptions: norm = pre" in outcome.out) == (code == 4)
        assert f"Given, as you said: num_heads = 5, {field.replace('=', ' = ')}" in outcome.out
        unlike = "only what files with such names usually are, and in it activation is"
        assert (unlike in outcome.out) == (code == 3)
    asked = ["--torch", "transformers:GPT2LMHeadModel"]
    named = command("jaxgpt-convert", "verify", bare, tmp_path / "m", *asked)
    assert named.code == 4, named
    assert named.out.startswith("UNPROVEN: equal if the class was built with ")
    line = named.out.splitlines()[-1]
    said = shlex.split(line.partition("confirm them: ")[2])
    assert "activation_function=gelu_new" in said
    named = command("jaxgpt-convert", "verify", bare, tmp_path / "m", *asked, *said)
    assert named.code == 0, named
    assert named.out.startswith("PROVEN, given ")
    assert "num_heads = 5" in named.out.splitlines()[0]


def test_code_that_a_folder_brings_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder("gpt2", tmp_path / "hf")
    config = json.loads((source / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "model.GPT", "AutoConfig": "model.Config"}
    (source / "config.json").write_text(json.dumps(config))
    for name in ("model", "accelerate", "modeling_gpt2"):
        (source / f"{name}.py").write_text("raise SystemExit('this code was run')")
    monkeypatch.chdir(source)
    to_flax(source).save(tmp_path / "m")
    looked: list[str] = []
    find = peer.find
    monkeypatch.setattr(peer, "find", lambda *names: looked.extend(sys.path) or find(*names))
    assert verify(source, tmp_path / "m").same
    assert looked
    assert not {str(source), "", "."} & {*looked}  # a library is not looked for where one stands


def test_without_transformers_the_numbers_alone_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    source = folder("gpt2", tmp_path / "hf")
    to_flax(source).save(tmp_path / "m")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "transformers" else find(name),
    )
    outcome = command("jaxgpt-convert", "verify", source, tmp_path / "m")
    assert outcome.code == 4
    assert outcome.out.startswith("UNPROVEN: the numbers are equal, but no class was run.\n")
    assert (
        "All numbers are the same. Installing transformers would run its class beside the model."
        in outcome.out
    )


def test_a_model_that_memory_cannot_hold_twice_in_float64_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder("gpt2", tmp_path / "hf")
    to_flax(source).save(tmp_path / "m")
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    page = verify(source, tmp_path / "m")
    assert page.same
    assert not page.ran
    assert (
        page.hint
        == "To run its class and the model in float64 takes some 0 GB of memory, of which there are 0."
    )


HUGGING = [
    name
    for name in SOUND_OF_ALL
    if name.startswith(("hf-", "syn-hf-")) and "bare" not in name and "bloom" not in name
]
LARGE = pytest.mark.slow  # those of others have a full vocabulary


@needs_zoo
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[LARGE] * name.startswith("hf-")) for name in HUGGING]
)
def test_folders_of_others_are_proven(name: str, tmp_path: Path) -> None:
    to_flax(path_of(name), **given(ALL[name])).save(tmp_path / "m")
    page = verify(path_of(name), tmp_path / "m")
    assert page.verdict == "proven", page
    assert page.ran.startswith("transformers:")
