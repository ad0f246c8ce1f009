"""Weights in memory are converted like those of a file; and how a loaded model describes itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from tests.helpers import PRIMES, tensors_of

torch = pytest.importorskip("torch", reason="torch is not installed")

TOKENS = np.arange(34).reshape(2, 17)


@pytest.fixture
def module(make_reference: Callable[..., Any]) -> Any:
    return make_reference(PRIMES)


def dtype_of(module: Any, dtype: Any) -> dict[str, Any]:
    return {name: tensor.to(dtype) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("form", ["state_dict", "module", "compiled", "checkpoint", "bfloat16"])
def test_weights_in_memory_are_those_of_a_file(form: str, module: Any, tmp_path: Path) -> None:
    state = dtype_of(module, torch.bfloat16) if form == "bfloat16" else module.state_dict()
    weights = {
        "module": module,
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "checkpoint": {"model": state, "iter_num": 7},
    }.get(form, state)
    torch.save(state, tmp_path / "weights.pt")
    file, memory = convert.to_flax(tmp_path / "weights.pt"), convert.to_flax(weights)
    assert memory.config == file.config
    assert memory.report == file.report == convert.inspect(weights).detected.report
    ours, theirs = flatten(memory.params), flatten(file.params)
    assert ours.keys() == theirs.keys()
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)
    assert memory.report.caveats


def test_memory_is_not_shared_with_torch(module: Any) -> None:
    loaded, inspected = convert.to_flax(module), convert.inspect(module)
    before = np.asarray(loaded.model(TOKENS))
    read = {name: tensor.read() for name, tensor in inspected.source.tensors.items()}
    kept = {name: array.copy() for name, array in read.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3)
    assert np.array_equal(before, np.asarray(loaded.model(TOKENS)))
    assert all(np.array_equal(read[name], kept[name]) for name in kept)
    assert all(not (array == 3).all() for array in flatten(loaded.params).values())


def test_weights_in_memory_are_saved_and_go_back(
    module: Any, tmp_path: Path, command: Callable[..., Any]
) -> None:
    convert.to_flax(module).save(tmp_path / "model")
    outcome = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt")
    assert outcome.code == 0, outcome
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == module.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in module.state_dict().items())
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    assert about["source"]["file"] == "the state_dict"
    assert about["fields"].keys() == {"read", "given", "assumed"}


def test_a_config_in_this_folder_is_none_of_its_business(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text('{"n_layer": 99}')
    assert convert.to_flax(module).config.num_blocks == PRIMES["num_blocks"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (3, "path of a checkpoint, a state_dict, or a torch module that has one, but got a int"),
        ({}, "the state_dict holds no tensors by name"),
        ({"a": 1}, r"the state_dict holds no tensors by name.*'a' \(int\)"),
        ({"zebra": torch.zeros(2)}, "the state_dict: its 1 tensors fit no known dialect"),
        (
            {"zebra": torch.zeros(2, device="meta")},
            "the state_dict cannot be read: zebra is a meta tensor",
        ),
    ],
)
def test_what_is_no_model_in_memory(weights: Any, message: str) -> None:
    for bring in (convert.to_flax, convert.inspect):
        with pytest.raises(UserError, match=message):
            bring(weights)


def test_under_jit_a_model_says_what_to_call(module: Any) -> None:
    model = convert.to_flax(module).model
    with pytest.raises(UserError, match=r"Call model\.logits\(tokens\) there"):
        jax.jit(model)(jnp.asarray(TOKENS))
    assert np.allclose(jax.jit(model.logits)(jnp.asarray(TOKENS)), model(TOKENS), atol=1e-4)


def test_a_loaded_model_is_two_lines(module: Any) -> None:
    for one in (convert.to_flax(module), convert.inspect(module)):
        text = repr(one)
        assert len(text.splitlines()) <= 2
        assert len(text) < 400
        assert "the state_dict: dialect gpt, " in text
        assert f"{sum(p.numel() for p in module.parameters()):,} parameters" in text
        assert "num_heads=5" in text
        assert "assumed: norm, final_norm" in text


def test_masks_and_tied_heads_are_no_further_parameters(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    """As `model.parameters()` counts them."""
    tensors = tensors_of("mingpt")
    masks = sum(array.size for name, array in tensors.items() if name.endswith(".attn.bias"))
    assert masks == 3 * 17 * 17
    torch.save(
        {name: torch.from_numpy(array.copy()) for name, array in tensors.items()},
        tmp_path / "mingpt.pt",
    )
    found = json.loads(
        command(
            "jaxgpt-convert", "inspect", tmp_path / "mingpt.pt", "--set=num_heads=5", "--json"
        ).out
    )
    assert found["parameters"] == sum(array.size for array in tensors.values()) - masks
    assert found["buffers"] == masks
    assert found["caveats"][0].startswith(
        "these fields leave no trace in the file and are assumed: norm, "
    )

    tied = {
        name: torch.from_numpy(array.copy())
        for name, array in tensors_of("nanogpt", tied=True).items()
    }
    inspected = convert.inspect(tied, num_heads=5)
    head = tied["lm_head.weight"].numel()
    assert inspected.parameters == sum(tensor.numel() for tensor in tied.values()) - head
    assert inspected.buffers == 0
